"""Locality scores beside the published algorithm, on the same maps in the same process, one thread.

    python benchmarks/lens_vs_reference.py [--rounds 5] [--batch 64] [--out benchmarks/results/lens-vs-reference.json]

Ours are whole batches. The published algorithm (ksandeshk/LENS, scripts/ and Flower/) is re-typed here in numpy, for
maps of any size: index lists from argsort, windows as offsets of flat indices collected in a Python list, greedy
diversity by one setdiff1d a pixel; its heuristic numbers of candidates are kept, except where maps run out of them.
It scores one pair after another, so it is timed on `--loop` of the pairs. Figures are milliseconds of processor time a
pair, medians over rounds in which the two take turns; ratios are medians of the ratios within a round.

Maps: `scattered` (uniform noise), `smooth` (noise averaged over 9 x 9 pixels), `sparse` (noise, nine in ten pixels
zero); the perturbed map is .7 of the clean one and .3 of another. `windows` is the dilation of one set alone. `plain`
is the three plain scores where each side chooses its sets once; `plain, three calls` calls our three functions, which
choose them anew each time. `all three, scipy` is our `lens_scores` beside the same in numpy and scipy, `argpartition`
and `maximum_filter`, which knows no ties; it is timed on as many pairs as ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor
from torch.nn import functional as F

import unfooled
from unfooled.distances import (
    dilate,
    diverse_intersection,
    lens_precision,
    lens_recall,
    lens_scores,
    top_k_intersection,
    top_k_mask,
)

Indices = NDArray[np.int64]
Map = NDArray[np.float32]
CANDIDATES = {1: 6000, 2: 15000, 3: 25000}


def offsets(i: int, width: int, w: int) -> list[int]:
    return [i + r * width + c for r in range(-w, w + 1) for c in range(-w, w + 1)]


def inside(places: list[int], n: int) -> Indices:
    found = np.array(places)
    found = found[found < n]
    return np.unique(found[found > 0])


def windows(pixels: Indices, shape: tuple[int, ...], w: int) -> Indices:
    """The list of all windows, grown by concatenation, as in the scripts."""
    places: list[int] = []
    for i in pixels:
        places = places + offsets(i, shape[1], w)
    return inside(places, shape[0] * shape[1])


def diverse(ordered: Indices, k: int, shape: tuple[int, ...], w: int) -> Indices:
    n = shape[0] * shape[1]
    kept = [ordered[0]]
    ordered = np.setdiff1d(ordered, inside(offsets(ordered[0], shape[1], w), n), assume_unique=True)
    for _ in range(k - 1):
        ordered = np.setdiff1d(ordered, inside(offsets(ordered[0], shape[1], w), n), assume_unique=True)
        ordered = ordered[ordered < n]
        ordered = ordered[ordered > 0]
        if not len(ordered):  # the scripts stop with an IndexError
            break
        kept.append(ordered[0])
    found = np.array(kept)
    return np.unique(found[found > 0])


def top(a: Map, k: int) -> Indices:
    return np.argsort(a.ravel())[-k:]


def share(s: Indices, t: Indices, k: int) -> float:
    return len(np.intersect1d(s, t)) / k


def top_k(a: Map, b: Map, k: int) -> float:
    return share(top(a, k), top(b, k), k)


def recall(a: Map, b: Map, k: int, w: int) -> float:
    return share(windows(top(a, k), a.shape, w), top(b, k), k)


def plain(a: Map, b: Map, k: int, w: int) -> dict[str, float]:
    s, t = top(a, k), top(b, k)
    wide, other = windows(s, a.shape, w), windows(t, a.shape, w)
    return {"top_k": share(s, t, k), "recall": share(wide, t, k), "precision": share(s, other, k)}


def diverse_sets(a: Map, b: Map, k: int, w: int, candidates: int) -> tuple[Indices, Indices]:
    s, t = (diverse(np.argsort(m.ravel())[-candidates:][::-1], k, a.shape, w) for m in (a, b))
    return s, t


def only_diverse(a: Map, b: Map, k: int, w: int, candidates: int) -> float:
    return share(*diverse_sets(a, b, k, w, candidates), k)


def scores(a: Map, b: Map, k: int, w: int, candidates: int) -> dict[str, float]:
    """All six figures that the scripts print, for one pair of maps."""
    s, t = diverse_sets(a, b, k, w, candidates)
    wide, other = windows(s, a.shape, w), windows(t, a.shape, w)
    found = {"diverse": share(s, t, k), "diverse_recall": share(wide, t, k), "diverse_precision": share(s, other, k)}
    return plain(a, b, k, w) | found


def maps(kind: str, n: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clean and perturbed maps, (n, side, side)."""
    a, b, gaps = (torch.rand(n, side, side, generator=generator) for _ in range(3))
    if kind == "smooth":
        a, b = (F.avg_pool2d(t[:, None], 9, 1, 4)[:, 0] for t in (a, b))
    b = 0.7 * a + 0.3 * b
    return (a * (gaps < 0.1), b * (gaps < 0.1)) if kind == "sparse" else (a, b)


def once(a: Tensor, b: Tensor, k: int, w: int) -> Tensor:
    s, t = top_k_mask(a, k), top_k_mask(b, k)
    hits = (s & t, dilate(s, w) & t, s & dilate(t, w))
    return torch.stack([h.flatten(1).sum(1, dtype=torch.int32) / k for h in hits])


def our_plain(a: Tensor, b: Tensor, k: int, w: int) -> Tensor:
    return torch.stack([top_k_intersection(a, b, k=k), lens_recall(a, b, k=k, w=w), lens_precision(a, b, k=k, w=w)])


def filtered(a: Map, b: Map, k: int, w: int) -> dict[str, float]:
    """The three plain scores as numpy and scipy compute them: argpartition, and a maximum filter for the windows."""
    s, t = np.zeros(a.shape, bool), np.zeros(b.shape, bool)
    for mask, m in ((s, a), (t, b)):
        mask.ravel()[np.argpartition(m.ravel(), -k)[-k:]] = True
    hits = {"top_k": s & t, "recall": maximum_filter(s, 2 * w + 1) & t, "precision": s & maximum_filter(t, 2 * w + 1)}
    return {name: np.count_nonzero(hit) / k for name, hit in hits.items()}


def cases(k: int, w: int, candidates: int, side: int) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Ours on a batch, the published algorithm on a pair."""
    return {
        "windows": (lambda a, b: dilate(a, w), lambda a, b: windows(a, (side, side), w)),
        "top_k": (partial(top_k_intersection, k=k), partial(top_k, k=k)),
        "recall": (partial(lens_recall, k=k, w=w), partial(recall, k=k, w=w)),
        "plain": (partial(once, k=k, w=w), partial(plain, k=k, w=w)),
        "all three, scipy": (partial(lens_scores, k=k, w=w), partial(filtered, k=k, w=w)),
        "plain, three calls": (partial(our_plain, k=k, w=w), partial(plain, k=k, w=w)),
        "diverse": (
            partial(diverse_intersection, k=k, w=w),
            partial(only_diverse, k=k, w=w, candidates=candidates),
        ),
    }


def measure(
    ours: Callable[..., Any], theirs: Callable[..., Any], batch: tuple[Tensor, Tensor], pairs: list[Any], rounds: int
) -> dict[str, Any]:
    """Milliseconds a pair and their ratio."""
    a, b = batch
    ours(a, b), theirs(*pairs[0])
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        ours(a, b)
        between = time.process_time()
        for pair in pairs:
            theirs(*pair)
        times.append((1e3 * (between - begin) / len(a), 1e3 * (time.process_time() - between) / len(pairs)))
    found = {
        "ours_ms": statistics.median(t[0] for t in times),
        "reference_ms": statistics.median(t[1] for t in times),
        "ratio": statistics.median(t[1] / t[0] for t in times),
    }
    return {name: round(value, 4) for name, value in found.items()} | {
        "rounds": [[round(v, 4) for v in t] for t in times]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--loop", type=int, default=2)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--only", nargs="*", help="names of the scores to time; all if not given")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lens-vs-reference.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in ("scattered", "smooth", "sparse"):
        a, b = maps(kind, args.batch, args.side, torch.Generator().manual_seed(0))
        for w in (1, 2, 3):
            candidates = CANDIDATES[w] if kind == "scattered" else args.side**2
            for score, (ours, theirs) in cases(args.k, w, candidates, args.side).items():
                if (score == "top_k" and w > 1) or (args.only and score not in args.only):
                    continue
                if score == "windows":
                    pair = top_k_mask(a, args.k), top_k_mask(b, args.k)
                    pairs = [(top(m, args.k), None) for m in a[: args.loop].numpy()]
                else:
                    pair = a, b
                    loop = args.batch if score == "all three, scipy" else args.loop
                    pairs = list(zip(a[:loop].numpy(), b[:loop].numpy(), strict=True))
                row = {"maps": kind, "w": w, "score": score} | measure(ours, theirs, pair, pairs, args.rounds)
                print(*list(row.values())[:-1], flush=True)
                rows.append(row)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "unfooled": unfooled.__version__,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "system": platform.platform(),
        },
        "seed": 0,
        "threads": 1,
        "n": args.batch,
        "n_reference": args.loop,
        "side": args.side,
        "k": args.k,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
