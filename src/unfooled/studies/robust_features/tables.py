"""Tables of the study of robust features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unfooled.studies.common.feature_records import Measured, Reach, Rebuilt
from unfooled.studies.common.feature_results import Accuracies, Alignments, AttackedAccuracies
from unfooled.studies.common.records import Table
from unfooled.studies.robust_features.scale import (
    ENCODER_OF_SET,
    ENCODERS,
    HARDENED_TOO,
    NON_ROBUST,
    ORIGINALS,
    RANDOM,
    ROBUST,
    SETS,
    TRAINED_ON,
    FeatureScale,
)
from unfooled.studies.robust_features.units import Results

PAIRS = (
    (ROBUST, NON_ROBUST), *((a, b) for a in SETS for b in (ORIGINALS, RANDOM) if a != b), (HARDENED_TOO, ROBUST),
)  # fmt: skip
"""Pairs of training sets; the table of differences compares the networks trained on them."""


def tables(results: Results, size: FeatureScale) -> dict[str, Table]:
    """Make all tables of one data set."""
    tests, attacked, where = Accuracies(results.tests), AttackedAccuracies(results.attacks), results.task.source
    reach, made = results.reach, [(seed, row) for seed, rows in results.sets.items() for row in rows]
    return {
        f"{where}: clean accuracy, and what the cascade ({size.effort}) leaves": _accuracies(tests, attacked),
        f"{where}: differences, paired by image": _differences(tests, attacked),
        f"{where}: sets of rebuilt images": _rebuilt(
            [(seed, row) for seed, row in made if row.origin in ENCODER_OF_SET]
        ),
        f"{where}: sets of moved images": _moved(
            [(seed, row) for seed, row in made if row.origin not in ENCODER_OF_SET], reach
        ),
        f"{where}: radii of these, on images held out of training": _radii(reach),
        f"{where}: alignment of gradients with images": Alignments(results.alignments).table(),
        f"{where}: networks": _networks(results.tests),
    }


def _accuracies(tests: Accuracies, attacked: AttackedAccuracies) -> Table:
    """Make rows of clean accuracy, and of accuracy under attack at each radius."""
    ((norm, radii),) = attacked.radii.items()
    return [
        {
            "network, or set it was trained on": name, "clean": tests.accuracy(name)[0].text(),
            "says the next class": tests.accuracy(name)[1].text(),
            **{f"{norm} {eps:g}": attacked.accuracy(norm, name, k).text() if name in attacked.rows[norm] else ""
               for k, eps in enumerate(radii)},
        }
        for name in (*ENCODERS, *TRAINED_ON)
    ]  # fmt: skip


def _differences(tests: Accuracies, attacked: AttackedAccuracies) -> Table:
    """Make rows of accuracy differences between the pairs of networks in `PAIRS`."""
    ((norm, radii),) = attacked.radii.items()
    return [
        {
            "difference": f"{a} minus {b}", "clean": tests.gap(a, b, [0]).text(),
            **{f"{norm} {eps:g}": attacked.gap(norm, a, b, k).text() for k, eps in enumerate(radii)},
        }
        for a, b in PAIRS
    ]  # fmt: skip


def _rebuilt(rows: Sequence[tuple[int, Rebuilt]]) -> Table:
    """Make rows of the quality and cost of sets that are rebuilt from features."""
    return [
        {
            "set": row.origin, "seed": seed, "images": row.n, "residual, median": row.residual["0.5"],
            "95 %": row.residual["0.95"], "done early": row.reached, "no gradient": row.vanished,
            "gradients": row.gradients, "l2 to the source": row.to_source, "to the start": row.to_start,
            "seconds": row.seconds,
        }
        for seed, row in rows
    ]  # fmt: skip


def _moved(rows: Sequence[tuple[int, Rebuilt]], reach: Mapping[int, Reach]) -> Table:
    """Make rows of the quality and cost of D_rand and D_det."""
    return [
        {
            "set": row.origin, "seed": seed, "images": row.n, "radius": reach[seed].eps,
            "targets reached": row.reached, "margin over the target, median": row.residual["0.5"],
            "95 %": row.residual["0.95"], "l2 to the source": row.to_source, "seconds": row.seconds,
        }
        for seed, row in rows
    ]  # fmt: skip


def _radii(reach: Mapping[int, Reach]) -> Table:
    """Make rows of the radii that were tried for D_rand and D_det."""
    return [
        {"seed": seed, "radius": eps, "targets reached": share, "choice": "taken" if eps == one.eps else ""}
        for seed, one in reach.items()
        for eps, share in zip(one.tried, one.share, strict=True)
    ]


def _networks(tests: Sequence[Measured]) -> Table:
    """Make rows of the accuracies and cost of every network."""
    return [
        {"network": test.name, "seed": test.seed, "images": test.samples, "updates": test.updates,
         "clean accuracy": float(test.correct()[:, 0].mean()),
         "held out of its set": f"{test.own.value:.3f}" if test.own is not None and test.own.value is not None else "",
         "seconds of training": test.seconds, "loss": test.loss} for test in tests
    ]  # fmt: skip
