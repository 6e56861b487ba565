"""Unit of the published metric: an identity, overstatement, scores lowered by gaming, and scores set by the cut-off."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from unfooled.counterfactuals import AffineHead, fit_head, flip_distance, pinv_attackability, pinv_edit
from unfooled.data.load import load_dataset
from unfooled.studies.attackability.records import Tables
from unfooled.studies.common.records import Table, listed

HEADS, CLASSES, ENTRIES, SAMPLES = 60, 10, 24, 8
"""Number of random heads, and their classes, entries and samples."""
CONTROL, GAMED = "fine-tuned, control", "fine-tuned on the published term"
SINGULAR = "no training: smallest singular value set to 1e-4"
CUTOFFS = (1e-15, 1e-12, 1e-8, 1e-4)


def exposed(seed: int) -> Tables:
    """Compute the identity, the overstatement and the gaming table; nothing here is a robustness measure."""
    began = time.perf_counter()
    columns: dict[str, Tensor] = identity(seed)
    table, scores = gaming(seed)
    rows = [
        {
            "figure": "without bias: largest difference of the edits to different classes, relative",
            "value": f"{float(columns['between classes'].max()):.1e}",
        },
        {
            "figure": "without bias: share of samples whose attackability is at least 1",
            "value": f"{float(columns['at least 1'].mean()):.3f}",
        },
        {
            "figure": "with bias: published over exact distance, median",
            "value": f"{float(columns['overstated'].median()):.1f}",
        },
        {
            "figure": "with bias: share of samples whose nearest class is another one",
            "value": f"{float(columns['another class'].mean()):.3f}",
        },
    ]
    return Tables(
        name="published", tables={"identity": rows, "gaming": table},
        columns={name: listed(values.double()) for name, values in (columns | scores).items()},
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def identity(seed: int) -> dict[str, Tensor]:
    """Compare edits of random heads: without bias between classes, with bias to the exact distance."""
    source = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Tensor]] = {k: [] for k in ("between classes", "at least 1", "overstated", "another class")}
    for _ in range(HEADS):
        w, b, e = (
            torch.randn(*shape, generator=source, dtype=torch.float64)
            for shape in ((CLASSES, ENTRIES), (CLASSES,), (SAMPLES, ENTRIES))
        )
        bare, head = AffineHead(w, 0 * b), AffineHead(w, b)
        edits = torch.stack([pinv_edit(bare, e, j) for j in range(CLASSES)])
        columns["between classes"].append((edits - edits[0]).norm(dim=2).amax(0) / edits[0].norm(dim=1))
        columns["at least 1"].append(pinv_attackability(bare, e).attackability >= 1)
        distance = flip_distance(head, e)
        sizes = torch.stack([pinv_edit(head, e, j).norm(dim=1) for j in range(CLASSES)], 1)
        sizes[distance.isinf()] = torch.inf
        columns["overstated"].append(sizes.amin(1) / distance.amin(1))
        columns["another class"].append(sizes.argmin(1) != distance.argmin(1))
    return {name: torch.cat(parts).double() for name, parts in columns.items()}


def gaming(seed: int) -> tuple[Table, dict[str, Tensor]]:
    """Lower the published score of a head on digits, with and without training, beside the exact distance."""
    train, test = load_dataset("digits", "train", n=600), load_dataset("digits", "test", n=200)
    e, z = (data.x.flatten(1).double() * 4 for data in (train, test))
    head = fit_head(e, train.y, decay=1e-3)
    heads = {
        "plain": head, CONTROL: tuned(head, e, train.y, 0.0, seed), GAMED: tuned(head, e, train.y, 0.1, seed),
        SINGULAR: singular(head),
    }  # fmt: skip
    table: Table = []
    columns: dict[str, Tensor] = {}
    for name, one in heads.items():
        score, exact = pinv_attackability(one, z), flip_distance(one, z).amin(1)
        table.append({
            "head": name, "accuracy": round(float((one.logits(z).argmax(1) == test.y).double().mean()), 3),
            "published norm": round(float(score.norm.median()), 2),
            "published attackability": round(float(score.attackability.median()), 4),
            "exact distance": round(float(exact.median()), 3),
        })  # fmt: skip
        columns |= {f"{name}, published": score.attackability, f"{name}, exact": exact}
    return table, columns


def tuned(head: AffineHead, e: Tensor, y: Tensor, weight: float, seed: int, steps: int = 150) -> AffineHead:
    """Fine-tune a head on cross-entropy - weight log ||G^+ h||^2, as published."""
    torch.manual_seed(seed)
    w, b = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    optimizer = torch.optim.Adam([w, b], lr=0.02)
    for _ in range(steps):
        logits = e @ w.T + b
        loss = torch.nn.functional.cross_entropy(logits, y)
        if weight:
            delta = (logits[:, 1:] - logits[:, :1]) @ torch.linalg.pinv(w[:1] - w[1:]).T
            loss = loss - weight * delta.square().sum(1).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return AffineHead(w.detach(), b.detach())


def singular(head: AffineHead) -> AffineHead:
    """Return the head with the smallest singular value of its differences set to 1e-4."""
    centre = head.weight.mean(0)
    u, s, v = torch.linalg.svd(head.weight - centre, full_matrices=False)
    s[head.c - 2] = 1e-4
    return AffineHead(u @ torch.diag(s) @ v + centre, head.bias)


def cutoffs(head: AffineHead, e: Tensor) -> Table:
    """Compute the published score, a mean over the samples, at several cut-offs of the pseudo-inverse."""
    rows: Table = []
    for cutoff in CUTOFFS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the warning about the rank, which the table gives
            score: Any = pinv_attackability(head, e, cutoff=cutoff)
        rows.append({
            "cut-off": f"{cutoff:g}", "rows": len(e), "published attackability": f"{score.score:.3g}",
            "published norm, median": f"{float(score.norm.median()):.3g}", "rank": f"{score.rank} of {score.full}",
            "exact distance, median": round(float(flip_distance(head, e).amin(1).median()), 3),
        })  # fmt: skip
    return rows
