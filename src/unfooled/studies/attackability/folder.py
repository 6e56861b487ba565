"""Unit on CUB-200-2011's own folder: concept networks with attributes of single images, plain and under attack."""

from __future__ import annotations

import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.model.batching import batched
from unfooled.core.threats import Linf
from unfooled.counterfactuals import AffineHead, flip_distance, pinv_attackability, radius, within_covariance
from unfooled.data.formats.birds import BirdAttributes, load_birds
from unfooled.data.known import FOLDER
from unfooled.models import ConceptCnn
from unfooled.studies.attackability.bench import LEARNT, area
from unfooled.studies.attackability.records import Tables
from unfooled.studies.attackability.scale import Recipe
from unfooled.studies.common.fitting import Updates, fit, new_network
from unfooled.studies.common.records import Table, listed
from unfooled.training import ConceptLoss, ConceptMadry

NAME = "CUB_200_2011"
THREAT = Linf(4 / 255)
STEPS = 7


def root() -> Path:
    """Return the folder of CUB-200-2011 below UNFOOLED_DATA."""
    return Path(os.environ.get(FOLDER, "../shared/data")) / NAME


def own_folder(recipe: Recipe, side: int, device: str, seed: int) -> Tables:
    """Train concept networks on the folder's images, plain and by PGD-AT on the joint loss, and measure their heads.

    Args:
        recipe: Training of both networks.
        side: Side that images are resized to.
        device: Device of the networks.
        seed: Random seed.
    """
    began = time.perf_counter()
    birds = load_birds(root(), denoised=True)
    x = birds.images(torch.arange(len(birds)), side)
    rows, columns = [], {}
    for name in ("joint", "PGD-AT, joint loss"):
        row, right = _judged(name, birds, x, recipe, device, seed)
        rows.append(row)
        columns[name] = listed(right.double())
    return Tables(
        name="folder", tables={f"CUB-200-2011, {len(birds):,} images, denoised attributes": rows}, columns=columns,
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def _judged(
    name: str, birds: BirdAttributes, x: Tensor, recipe: Recipe, device: str, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """Train a network, and return its row of the table and which test images it classifies correctly, (n,) bool."""
    classes, n = len(birds.classes), len(birds.names)
    shape = tuple(x.shape[1:])
    net: Any = new_network(
        partial(ConceptCnn, shape, classes, attributes=n, width=recipe.width, encoder="residual"), seed
    ).to(device)
    y, a = birds.y[birds.train].to(device), birds.attributes[birds.train].to(device)
    loss: Any = ConceptLoss(y, a) if name == "joint" else ConceptMadry(y, a, THREAT, steps=STEPS)
    batches = Updates(
        x[birds.train].to(device), torch.arange(len(y), device=device), recipe.batch, seed, steps=recipe.updates
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-4)
    fit(net, batches, loss, optimizer, epochs=1, clip=5.0)
    with torch.no_grad():
        e = batched(lambda part: net.encode(part.to(device)).cpu().double(), 100)(x)
    head = AffineHead(net.head.weight.detach().cpu(), net.head.bias.detach().cpu(), birds.classes, birds.names)
    test, truth = e[~birds.train], birds.y[~birds.train]
    right = head.logits(test).argmax(1) == truth
    areas = [area(score, one) for score, one in zip(test.T, birds.attributes[~birds.train].T, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the warning about the rank
        published = float(pinv_attackability(head, test).attackability.median())
    covariance = within_covariance(e[birds.train], birds.y[birds.train])
    row: Table = [{
        "training": name, "task error": round(1 - float(right.double().mean()), 3), "AUC, median": _median(areas),
        "not learnt": int((~(np.array(areas) >= LEARNT)).sum()),
        "exact distance": round(float(flip_distance(head, test).amin(1).median()), 3),
        "radius": round(float(radius(head, test, covariance).median()), 3),
        "published (not a robustness measure)": f"{published:.3g}",
    }]  # fmt: skip
    return row[0], right


def _median(values: list[float]) -> float | None:
    good = [v for v in values if np.isfinite(v)]
    return round(float(np.median(good)), 3) if good else None
