"""Units of pixel distances and of semantic training; networks are judged by attacks, not by their own score."""

from __future__ import annotations

import math
import time
import warnings

import torch
from torch import Tensor, nn

from unfooled.attacks.ddn import ddn
from unfooled.attacks.ensembles.cascade import cascade
from unfooled.attacks.fmn import fmn
from unfooled.core.threats import L2
from unfooled.counterfactuals import flip_distance, pinv_attackability, radius
from unfooled.evaluation.verify import verify
from unfooled.studies.attackability.bench import JOINT, ConceptBench, subset
from unfooled.studies.attackability.records import Near, Trained
from unfooled.studies.common.records import listed


def nearest(net: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int) -> Tensor:
    """Return the l_2 distance to the nearest adversarial example of DDN and FMN, (B,); inf where there is none."""
    source = torch.Generator().manual_seed(seed)
    points = (
        ddn(net, x, y, steps=steps, generator=source),
        fmn(net, x, y, 2, steps=steps, generator=source),
    )  # fmt: skip
    distances = [verify(net, x, y, z, L2(math.inf)).distance for z in points]
    return torch.stack(distances).amin(0).double().cpu()


def near(bench: ConceptBench) -> Near:
    """Measure radii and pixel distances of scenes that the joint network classifies correctly."""
    embedded, size = bench.embedded(), bench.size
    began = time.perf_counter()
    first = bench.seed % size.networks == 0 and bench.rho == size.rhos[0]
    rows = bench.right[: size.near if first else size.near_few]
    x, y = (one.to(bench.device) for one in subset(bench.tests, rows))
    e = embedded.test[rows]
    ordered = embedded.head.logits(e).sort(1).values
    columns = {
        "radius": radius(embedded.head, e, embedded.covariance),
        "flip": flip_distance(embedded.head, e).amin(1),
        "margin": ordered[:, -1] - ordered[:, -2],
        "distance": nearest(bench.network(JOINT), x, y, size.near_steps, bench.seed),
        "label": y.double().cpu(),
    }
    return Near(
        rho=bench.rho, seed=bench.seed, columns={name: listed(v) for name, v in columns.items()},
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def trained(bench: ConceptBench, arm: str) -> Trained:
    """Train by one semantic training, or read it, and judge the network."""
    embedded, size = bench.embedded(arm), bench.size.semantic
    began = time.perf_counter()
    net, head, truth = bench.network(arm), embedded.head, bench.tests
    rows = torch.arange(min(size.n, len(truth)))
    x, y = (one.to(bench.device) for one in subset(truth, rows))
    clean = ~verify(net, x, y, x, size.threat).success
    z = cascade(net, x, y, size.threat, effort=size.effort, seed=bench.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the warning about the rank, which a section of its own covers
        published = pinv_attackability(head, embedded.test).attackability
    radii, flips = radius(head, embedded.test, embedded.covariance), flip_distance(head, embedded.test).amin(1)
    columns = {
        "clean": clean.double().cpu(),
        "robust": (~verify(net, x, y, z, size.threat).success).double().cpu(),
        "flip": flips[rows],
        "radius": radii[rows],
        "published": published[rows],
        "distance": nearest(net, x, y, bench.size.near_steps, bench.seed),
    }
    return Trained(
        arm=arm, seed=bench.seed, updates=bench.arm(arm)[1],
        accuracy=float((head.logits(embedded.test).argmax(1) == truth.y).double().mean()),
        auc=float(embedded.auc.nanmedian()), published=float(published.median()), radius=float(radii.median()),
        columns={name: listed(values) for name, values in columns.items()},
        seconds=round(time.perf_counter() - began + bench.seconds[arm], 1),
    )  # fmt: skip
