"""Pictures of what a purifier does to a few samples: before and after, bands, and the atoms that it rebuilt from."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.global_rng import same_draws
from unfooled.core.types import Purify
from unfooled.evaluation.audit.guard_fields import ClassClusters, PurifiedExample
from unfooled.evaluation.audit.values import Judged, PurifiedShown, Setting, ThroughPurifier
from unfooled.purification.bands import split
from unfooled.purification.semantic import SemanticPurifier

MOST = 4
"""Largest number of samples that are shown."""


def show_purified(s: Setting, through: ThroughPurifier | None, right: Tensor, points: Judged) -> PurifiedShown | None:
    """Purify a few samples and their attacked points, the fooled ones first; None without a purifier or images.

    Cost: two passes of the purifier over at most `MOST` samples, with clusters two more of its encoder.

    Args:
        s: The audit.
        through: Result of the attacks on the purifier.
        right: Samples that are right when clean, (n,) bool.
        points: Points of all attacks together, as judged.
    """
    if through is None or through.guarded is None or s.x.ndim not in (3, 4):
        return None
    fooled = right & points.success
    rows = (fooled.long() + right.long()).argsort(descending=True, stable=True)[: min(MOST, int(right.sum()))]
    if not len(rows):
        return None
    purify, x = through.guarded.purify, s.x[s.at(rows)]
    z = points.x_adv[rows].to(x)
    before, after = (_purified(purify, part) for part in (x, z))
    shown = {"x": x, "x_adv": z, "before": before, "after": after}
    near: list[list[int]] = []
    if isinstance(purify, SemanticPurifier):
        rebuilt, near = _parts(purify, x, z)
        shown |= rebuilt
    examples = [
        PurifiedExample(
            index=i,
            label=int(s.y[i]),
            prediction=int(points.prediction[i]),
            fooled=bool(fooled[i]),
            cluster=near[0][k] if near else None,
            attacked_cluster=near[1][k] if near else None,
            cluster_label=int(purify.label[near[1][k]]) if isinstance(purify, SemanticPurifier) else None,
        )
        for k, i in enumerate(rows.tolist())
    ]
    pictures = {name: (s.subject.shown(v) if v.shape == x.shape else v).cpu() for name, v in shown.items()}
    return PurifiedShown(examples, pictures)


def _purified(purify: Purify, x: Tensor) -> Tensor:
    with torch.no_grad(), same_draws(0):  # the same for the sample and its attacked point
        return purify(x.clone())


def _parts(purify: SemanticPurifier, x: Tensor, z: Tensor) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Return bands and atoms for the attacked points, and the nearest clusters of samples and of points."""
    with torch.no_grad():
        low, high = split(z, smooth=purify.smooth)
        k, weight = purify.weights(z)
        own = k[:, 0]
        parts = {"low": low, "high": high, "rebuilt": purify.rebuilt(high, k, weight)}
        atoms = purify.dictionaries[own.to(purify.dictionaries.device)]
        clean = purify.weights(x)[0][:, 0]
    return parts | {"atoms": atoms}, [clean.tolist(), own.tolist()]


def class_clusters(through: ThroughPurifier | None) -> list[ClassClusters]:
    """Return the number of clusters of each class; empty without clusters."""
    purify = None if through is None or through.guarded is None else through.guarded.purify
    if not isinstance(purify, SemanticPurifier):
        return []
    labels, counts = purify.label.cpu().unique(return_counts=True)
    return [ClassClusters(label=k, clusters=n) for k, n in zip(labels.tolist(), counts.tolist(), strict=True)]
