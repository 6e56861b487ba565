"""Unit on ten classes of CUB-200-2011: a frozen network, probes of attributes, and the image regions they depend on.

The attributes are functions of the class, since those of single images are not there: no claim of accuracy is made.
Energy is the squared gradient of an attribute's probe in a disc around the attribute's part, divided by the disc's
share of the image: 1 is the value of a gradient that is spread evenly. Controls: the discs of other parts, and
attributes of other parts in the same disc.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.model.batching import batched
from unfooled.counterfactuals import fit_probe
from unfooled.counterfactuals.probes import USABLE
from unfooled.data.formats.birds import load_class_table
from unfooled.data.formats.npz import archive
from unfooled.data.known import FOLDER
from unfooled.data.load import load_dataset
from unfooled.models import ConceptCnn
from unfooled.studies.attackability.bench import LEARNT, area
from unfooled.studies.attackability.records import Tables
from unfooled.studies.common.fitting import Updates, fit, new_network
from unfooled.studies.common.records import Table, listed
from unfooled.training import Standard

SIDE, WIDTH, FEATURES, UPDATES, BATCH = 64, 8, 64, 400, 32
LOCATED = 60
"""Number of test images whose gradients are measured."""
DISC = 0.1
"""Radius of a disc, in diagonals of the bird's box."""
PARTS = {
    "bill": ("beak",), "wing": ("left wing", "right wing"), "back": ("back",), "tail": ("tail",),
    "breast": ("breast",), "throat": ("throat",), "eye": ("left eye", "right eye"), "forehead": ("forehead",),
    "nape": ("nape",), "belly": ("belly",), "leg": ("left leg", "right leg"), "crown": ("crown",),
}  # fmt: skip
"""Word in the name of an attribute -> names of its parts."""


def ten_classes(device: str, seed: int) -> Tables:
    """Train a network on ten classes, probe its last layer, and measure which image regions the probes depend on."""
    began = time.perf_counter()
    train, test = (load_dataset("cub", split, size=SIDE) for split in ("train", "test"))
    table = load_class_table()
    present = table.present()[: int(train.y.max()) + 1]
    varying = (present.any(0) & ~present.all(0)).nonzero()[:, 0]
    names = [table.names[k] for k in varying.tolist()]
    classes = len(present)
    make = partial(ConceptCnn, (3, SIDE, SIDE), classes, attributes=FEATURES, width=WIDTH)
    net: Any = new_network(make, seed).to(device)
    batches = Updates(train.x.to(device), train.y.to(device), BATCH, seed, steps=UPDATES)
    fit(net, batches, Standard(), torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4), epochs=1, clip=5.0)
    with torch.no_grad():
        read = batched(lambda part: net.encode(part.to(device)).cpu().double(), 100)
        e, z = read(train.x), read(test.x)
        right = net.head(z.float().to(device)).argmax(1).cpu() == test.y
    a = present[:, varying].double()
    probe = fit_probe(e, a[train.y])
    areas = [area(score, truth) for score, truth in zip(probe.logits(z).T, a[test.y].T, strict=True)]
    located = localised(net, probe.weight, names, test.x, test.index, device)
    usable = np.array(areas) >= USABLE
    about: Table = [
        {"figure": "test images named correctly (no claim is made)", "value": f"{int(right.sum())} of {len(right)}"},
        {"figure": "attributes that vary", "value": f"{len(names)}"},
        {"figure": "AUC of the probes on test images, median", "value": f"{float(np.nanmedian(areas)):.3f}"},
        {"figure": f"greyed: AUC below {USABLE:g}", "value": f"{int((~usable).sum())}"},
        {"figure": f"not learnt: AUC below {LEARNT:g}", "value": f"{int((~(np.array(areas) >= LEARNT)).sum())}"},
    ]
    return Tables(
        name="ten", tables={"Ten classes of CUB, 543 images": about, "Ten classes: where the probes look": located},
        columns={"right": listed(right.double()), "auc": listed(torch.tensor(areas))},
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def localised(net: Any, weight: Tensor, names: list[str], x: Tensor, index: Tensor, device: str) -> Table:
    """Make rows of the energy of probes' gradients: at their own part, at other parts, and of other attributes' probes.

    Args:
        net: Network with `encode`.
        weight: Directions of the probes, (p, n).
        names: Names of the attributes.
        x: Test images.
        index: Indices of these images in the test split.
        device: Device of the network.
    """
    discs, visible, part_names = part_discs(index[:LOCATED])
    x = x[: len(discs)].to(device)
    words = {f: word for f, name in enumerate(names) for word in PARTS if f"_{word}_" in name.split("::")[0] + "_"}
    energy = {f: slope(net, x, weight[f]) for f in words}
    places = {word: [part_names.index(part) for part in parts] for word, parts in PARTS.items()}
    share_of = discs.flatten(2).mean(2)
    inside = {f: (discs * one[:, None]).flatten(2).sum(2) / share_of.clamp(min=1e-9) for f, one in energy.items()}
    rows: Table = []
    for word, own in places.items():
        mine = [f for f, at in words.items() if at == word]
        others = [f for f, at in words.items() if at != word]
        if not mine or not others:
            continue
        here, there = visible[:, own], visible.clone()
        there[:, own] = False
        rows.append({
            "part": word, "attributes": len(mine), "images": int(here.any(1).sum()),
            "at the part": _mean([inside[f][:, own][here] for f in mine]),
            "at other parts": _mean([inside[f][there] for f in mine]),
            "attributes of other parts": _mean([inside[f][:, own][here] for f in others]),
        })  # fmt: skip
    return rows


def slope(net: Any, x: Tensor, direction: Tensor) -> Tensor:
    """Return the energy of the gradient of a probe, (B, H, W), which sums to 1 over each image."""
    z = x.clone().requires_grad_()
    score = net.encode(z) @ direction.to(z)
    energy = torch.autograd.grad(score.sum(), z)[0].square().sum(1).cpu()
    return energy / energy.flatten(1).sum(1).clamp(min=1e-30)[:, None, None]


def part_discs(index: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Return the discs around parts of test images, (B, P, H, W), which parts are visible, (B, P), and their names."""
    place = Path(os.environ.get(FOLDER, "../shared/data")) / "cub200"
    with archive(place / "cub10_images128_jpeg.npz") as images, archive(place / "cub_meta.npz") as about:
        rows = np.flatnonzero(~np.asarray(images["is_train"], bool))[index.numpy()]
        sides, number = images["orig_wh"][rows].astype(float), images["image_id"][rows] - 1
        parts, boxes = about["part_xyv"][number].astype(float), about["bbox"][number].astype(float)
    names = [line.split(maxsplit=1)[1] for line in (place / "parts.txt").read_text().splitlines() if line.strip()]
    scale = SIDE / sides
    centre = parts[:, :, :2] * scale[:, None]
    reach = DISC * np.hypot(*(boxes[:, 2:] * scale).T)
    at = np.arange(SIDE) + 0.5
    apart = (at[None, None, None, :] - centre[:, :, 0, None, None]) ** 2
    apart = apart + (at[None, None, :, None] - centre[:, :, 1, None, None]) ** 2
    discs = apart <= reach[:, None, None, None] ** 2
    return torch.from_numpy(discs).float(), torch.from_numpy(parts[:, :, 2] > 0.5), names


def _mean(parts: list[Tensor]) -> str:
    """Format the mean of ratios over images and attributes."""
    values = torch.cat([part.flatten() for part in parts])
    return f"{float(values.mean()):.2f}" if len(values) else ""
