"""Edits of affine heads: seconds of a thousand targeted edits and ten thousand distances; figures of CUB's attributes.

    speed   a random head of 200 classes and 312 attributes
    table   heads fitted on CUB's class table at 50 %: exact flips beside the published attackability at four cut-offs;
            by Adam, which leaves small singular values, and to the optimum, which has none
    images  attributes of CUB's images, simulated from the class percentages (independent: easier than real ones):
            accuracy, nearest flips, radii, binary attributes, single-attribute intervals

python benchmarks/counterfactuals.py --out benchmarks/results/counterfactuals.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.counterfactuals import (
    AffineHead,
    attribute_interval,
    bayes_head,
    fit_head,
    flip_attributes,
    flip_distance,
    pinv_attackability,
    radius,
    targeted_edit,
    within_covariance,
)
from unfooled.counterfactuals.pseudo_inverse import difference_rank
from unfooled.runs.records import Environment

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def seconds(call: Callable[[], object], rounds: int) -> dict[str, float]:
    """Processor seconds of a call: the least and the median over rounds."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return {"least": min(found), "median": float(np.median(found))}


def speed(rounds: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    w, b, e = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((200, 312), (200,), (10_000, 312)))
    head, target = AffineHead(w, b), torch.randint(200, (1000,), generator=g)
    return {
        "targeted_edits_1000": seconds(lambda: targeted_edit(head, e[:1000], target), rounds),
        "distances_10000": seconds(lambda: flip_distance(head, e), rounds),
    }


def table(shares: Tensor, steps: int) -> dict[str, Any]:
    """The class table at 50 % and a plain softmax fit with weight decay by Adam, defended against nothing."""
    e, y = (shares >= 0.5).double(), torch.arange(len(shares))
    used = e.any(0)
    weight = torch.zeros(len(e), int(used.sum()), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(e), dtype=torch.float64, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": 1e-4}, {"params": [bias]}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(e[:, used] @ weight.T + bias, y).backward()
        optimizer.step()
    whole = torch.zeros_like(e)
    whole[:, used] = weight.detach()
    head = AffineHead(whole, bias)
    optimum = fit_head(e, y, decay=1e-4)
    return {
        "steps": steps,
        "accuracy": float((head.logits(e).argmax(1) == y).double().mean()),
        "flip_median": float(flip_distance(head, e).amin(1).median()),
        "embedding_norm_median": float(e.norm(dim=1).median()),
        "rank": difference_rank(head),
        "full_rank": head.c - 1,
        "published": published(head, e),
        "optimum": {"rank": difference_rank(optimum), "published": published(optimum, e)},
    }


def published(head: AffineHead, e: Tensor) -> list[dict[str, float]]:
    """The published attackability at four cut-offs."""
    scores = []
    for cutoff in (1e-15, 1e-12, 1e-8, 1e-4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the rank, which is recorded
            found = pinv_attackability(head, e, cutoff=cutoff)
        scores.append({"cutoff": cutoff, "attackability": found.score, "norm": float(found.norm.median())})
    return scores


def images(shares: Tensor, labels: Tensor, train: Tensor, decay: float, seed: int) -> dict[str, Any]:
    """Attributes drawn independently with the percentages of each image's class."""
    draw = np.random.default_rng(seed)
    a = torch.from_numpy(draw.random((len(labels), shares.shape[1]))) < shares[labels]
    e, x, y, t = a[train].double(), a[~train].double(), labels[train], labels[~train]
    head, bayes = fit_head(e, y, len(shares), decay=decay), bayes_head(shares)
    right = head.logits(x).argmax(1) == t
    flips = flip_distance(head, x).amin(1)
    r = radius(head, x, within_covariance(e, y))
    whole = flip_attributes(head, x).cost
    g = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(x), generator=g)[:500]
    target = torch.randint(head.c, (len(some),), generator=g)
    target = torch.where(target == head.logits(x[some]).argmax(1), (target + 1) % head.c, target)
    low, high = attribute_interval(head, x[some], target)
    there = low <= high
    inside = there & (low <= 1 - x[some]) & (high >= -x[some])
    noisy = {}
    for share in (0.05, 0.1, 0.15):
        turned = torch.from_numpy(draw.random(x.shape)) < share
        noisy[str(share)] = float((head.logits((x - turned.double()).abs()).argmax(1) == t).double().mean())
    return {
        "n": len(x),
        "decay": decay,
        "accuracy": float(right.double().mean()),
        "accuracy_naive_bayes": float((bayes.logits(x).argmax(1) == t).double().mean()),
        "embedding_norm_median": float(x.norm(dim=1).median()),
        "shares": SHARES,
        **{
            f"{name}{among}": values[rows].quantile(torch.tensor(SHARES, dtype=torch.float64)).tolist()
            for name, values in (("flip", flips), ("radius", r), ("whole", whole))
            for among, rows in (("", right | True), ("_of_correct", right))
        },
        "intervals_not_empty": float(there.double().mean()),
        "intervals_inside_0_1": float(inside.double().mean()),
        "accuracy_with_flipped_attributes": noisy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("UNFOOLED_DATA", "../shared/data")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200, help="of Adam, on the class table")
    parser.add_argument("--decay", type=float, default=3e-4, help="weight decay of the head on simulated images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "command": "python benchmarks/counterfactuals.py",
        "environment": Environment.here("cpu").model_dump(),
        "load": list(os.getloadavg()),
        "seed": options.seed,
        "speed": speed(options.rounds),
    }
    path = options.data / "cub200/cub_meta.npz"
    if path.is_file():
        with np.load(path) as file:
            shares = torch.from_numpy(file["class_attr"]).double() / 100
            labels = torch.from_numpy(file["class_label"]).long()
            train = torch.from_numpy(file["is_train"])
        record["table"] = table(shares, options.steps)
        record["images"] = images(shares, labels, train, options.decay, options.seed)
    else:
        record["left_out"] = f"no {path.name}; --data"
    record["load_after"] = list(os.getloadavg())
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
