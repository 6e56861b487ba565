"""Tables of the MNIST features study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unfooled.statistics.intervals import NO_SAMPLES
from unfooled.studies.common.feature_records import Measured, Rebuilt
from unfooled.studies.common.feature_results import Accuracies, AttackedAccuracies
from unfooled.studies.common.records import Table
from unfooled.studies.mnist_features.claims import CORRUPTED, TABLE_1, TABLE_2
from unfooled.studies.mnist_features.scale import FIVE, MnistScale, Retraining
from unfooled.studies.mnist_features.units import Results

UPDATES = (25 * 1688, 8 * 1688)
"""Updates of the published networks of table 2."""
CONTROLS = ("originals", "untrained set")


def tables(
    results: Results, accuracies: Accuracies, attacked: AttackedAccuracies, size: MnistScale
) -> dict[str, Table]:
    """Make all tables that have rows, except that of the alignments."""
    made = {
        "Table 1: accuracy under five corruptions": _encoders(accuracies, size),
        "Table 2: networks trained on rebuilt images": _retrained(accuracies, size),
        "Table 2: differences, paired by image": _differences(accuracies),
        "Table 2: parts of the sets": _parts(accuracies, size),
    }
    made |= {f"Under attack, {norm} (cascade, {size.effort})": _under_attack(attacked, norm) for norm in attacked.radii}
    made |= {"Rebuilt sets": _sets(results.sets), "Networks": _networks(results.tests)}
    return {title: rows for title, rows in made.items() if rows}


def _accuracies(accuracies: Accuracies, name: str) -> dict[str, Any]:
    return {group: figure.text() for group, figure in zip(FIVE, accuracies.accuracy(name), strict=True)}


def _published(published: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    return {group: f"{value:.3f}" for group, value in zip(FIVE, published[name], strict=True)}


def _encoders(accuracies: Accuracies, size: MnistScale) -> Table:
    """Make the first table, which begins with the published figures where the data are the published ones."""
    rows: Table = []
    if size.source == "mnist":
        rows += [{"network": f"{name}, published", **_published(TABLE_1, name)} for name in TABLE_1]
    return rows + [{"network": r.name, **_accuracies(accuracies, r.name)} for r in size.recipes if r.name in accuracies]


def _retrained(accuracies: Accuracies, size: MnistScale) -> Table:
    """Make the second table, which begins with the published figures where the data are the published ones."""
    rows: Table = []
    if size.source == "mnist":
        rows += [
            {"trained on": f"{name}, published", "networks": 1, "updates": updates, "its own, held out": "",
             **_published(TABLE_2, name)}
            for name, updates in zip(TABLE_2, UPDATES, strict=True)
        ]  # fmt: skip
    for retraining in size.retrainings:
        tests = accuracies.rows.get(retraining.name, [])
        if tests and retraining.sources is None:
            about = {"networks": len(tests), "updates": tests[0].updates, "its own, held out": _own(tests)}
            rows.append({"trained on": retraining.name, **about, **_accuracies(accuracies, retraining.name)})
    return rows


def _own(tests: Sequence[Measured]) -> str:
    """Write the accuracy on held-out samples: with its interval for one network, the mean for several."""
    own = [NO_SAMPLES if test.own is None else test.own.interval() for test in tests]
    return own[0].text() if len(own) == 1 else f"{np.mean([one.value for one in own]):.3f}"


def _parts(accuracies: Accuracies, size: MnistScale) -> Table:
    """Make rows of networks trained on parts of the sets."""
    parts: list[Retraining] = [one for one in size.retrainings if one.sources is not None and one.name in accuracies]
    return [
        {"trained on": one.name, "images": accuracies.rows[one.name][0].samples, **_accuracies(accuracies, one.name)}
        for one in parts
    ]


def _differences(accuracies: Accuracies) -> Table:
    """Make rows of sets against controls."""
    pairs = [
        *((a, b) for a in TABLE_2 for b in (*CONTROLS, "originals, corrupted", "non-robust set") if a != b),
        *((f"{a}, cleaned", f"{b}, cleaned") for a in TABLE_2 for b in CONTROLS),
    ]
    return [
        {"difference": f"{a} minus {b}", **{g: accuracies.gap(a, b, [k]).text() for k, g in enumerate(FIVE)},
         "mean of four": accuracies.gap(a, b, CORRUPTED).text()}
        for a, b in pairs if a in accuracies and b in accuracies
    ]  # fmt: skip


def _under_attack(attacked: AttackedAccuracies, norm: str) -> Table:
    """Make rows of the accuracy that the cascade leaves at each radius."""
    return [
        {"network": name, "clean": attacked.accuracy(norm, name, -1).text(),
         **{f"{norm} {eps:g}": attacked.accuracy(norm, name, k).text() for k, eps in enumerate(attacked.radii[norm])}}
        for name in attacked.rows[norm]
    ]  # fmt: skip


def _sets(sets: Sequence[Rebuilt]) -> Table:
    """Make rows of the quality and cost of the rebuilt sets."""
    return [
        {"set": one.origin, "n": one.n, "residual, median": one.residual["0.5"], "95 %": one.residual["0.95"],
         "reached": one.reached, "no gradient": one.vanished, "gradients an image": one.gradients,
         "l2 to the source": one.to_source, "l2 to the start": one.to_start, "seconds": one.seconds}
        for one in sets
    ]  # fmt: skip


def _networks(tests: Sequence[Measured]) -> Table:
    """Make rows of the loss and cost of every network."""
    return [
        {"network": t.name, "seed": t.seed, "loss": t.loss, "images": t.samples, "updates": t.updates,
         "seconds of training": t.seconds} for t in tests
    ]  # fmt: skip
