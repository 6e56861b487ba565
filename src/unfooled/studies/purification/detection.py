"""Detection of attacks by the purifier: scores of clean and attacked images, also under an attack on both at once.

    distance          min over clusters of the predicted class of d_k(e(x))
    reconstruction    ||x - P(x)||_2
    label change      f(x) != f(P(x))

The joint attack maximises margin - kappa relu(score - tau), kappa in {.1, 1, 10}, score and tau on the scale of the
clean scores' standard deviation; tau is the 95 % quantile of clean training images.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from unfooled.attacks import pgd
from unfooled.core.losses import margin
from unfooled.core.threats import Linf
from unfooled.evaluation.audit.detection import KAPPAS, cluster_distance, joint
from unfooled.purification import guard
from unfooled.runs.records import Record
from unfooled.studies.common.records import listed
from unfooled.studies.purification.bench import PurificationBench

"""Weights of the detector's score in the joint attack."""
DISTANCE, RECONSTRUCTION, CHANGE = "distance", "reconstruction", "label change"
SCORES = (DISTANCE, RECONSTRUCTION, CHANGE)
QUANTILE, VALIDATION = 0.95, 500
"""Quantile of the clean scores that is the threshold, and the number of training images that it is taken over."""


class Detected(Record):
    """Scores of one network's inputs.

    Attributes:
        seed: Random seed.
        network: Name of the network behind the purifier.
        eps: Radius of the attacks.
        threshold: Threshold of the distance, above which an image is rejected.
        scores: "score, images" -> score of each image; images are clean, static, end to end or joint at a kappa.
        right: images -> 1 for each image that the guarded network classifies correctly, else 0.
        seconds: Seconds of the unit.
    """

    seed: int
    network: str
    eps: float
    threshold: float
    scores: dict[str, list[float | None]]
    right: dict[str, list[float | None]]
    seconds: float


def detection(bench: PurificationBench, name: str) -> Detected:
    """Score clean and attacked images of one network."""
    began = time.perf_counter()
    x, y = (part[: bench.size.few].to(bench.device) for part in bench.test)
    net, purify, threat = bench.network(name), bench.semantic(), Linf(bench.task.eps[0])
    model = guard(net, purify)
    with torch.no_grad():
        clean = cluster_distance(purify, model, bench.train[0][:VALIDATION].to(bench.device))
    finite = clean[torch.isfinite(clean)]
    tau, scale = float(finite.quantile(QUANTILE)), max(float(finite.std()), 1e-6)
    points = {
        "clean": x,
        "static": pgd(net, x, y, threat, loss=margin, steps=bench.size.steps),
        "end to end": pgd(model, x, y, threat, loss=margin, steps=bench.size.steps),
    }
    for kappa in KAPPAS:
        points[f"joint {kappa:g}"] = joint(
            model,
            purify,
            partial(cluster_distance, purify, model),
            x,
            y,
            threat,
            kappa=kappa,
            tau=tau,
            scale=scale,
            steps=bench.size.steps,
        )
    scores: dict[str, list[float | None]] = {}
    right: dict[str, list[float | None]] = {}
    with torch.no_grad():
        for kind, z in points.items():
            made, bare, behind = purify(z), net(z).argmax(1), model(z).argmax(1)
            scores[f"{DISTANCE}, {kind}"] = listed(cluster_distance(purify, model, z))
            scores[f"{RECONSTRUCTION}, {kind}"] = listed((z - made).flatten(1).norm(dim=1))
            scores[f"{CHANGE}, {kind}"] = listed((bare != behind).double())
            right[kind] = listed((behind == y).double())
    return Detected(
        seed=bench.seed, network=name, eps=bench.task.eps[0], threshold=tau, scores=scores, right=right,
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip
