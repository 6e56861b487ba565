"""Tables of the study of purification."""

from __future__ import annotations

import numpy as np

from unfooled.core.threat_text import eps_text
from unfooled.drawing.figures import Picture
from unfooled.statistics.intervals import Interval
from unfooled.statistics.roc import area, hits_at, roc
from unfooled.studies.common.feature_pictures import under_attack
from unfooled.studies.common.records import Table, array
from unfooled.studies.purification.detection import KAPPAS, SCORES, Detected
from unfooled.studies.purification.figures import (
    Grid,
    bounded,
    by_name,
    column_of,
    interval,
    median_interval,
    minus,
)
from unfooled.studies.purification.judging import ATTACKS, STATIC, WORST
from unfooled.studies.purification.pictures import curves
from unfooled.studies.purification.scale import NONE
from unfooled.studies.purification.units import AIMED, Moved, Results

ATTACKED = ("static", "end to end", *(f"joint {kappa:g}" for kappa in KAPPAS))
"""Names of the attacks that a detector is tested on."""


def tables(results: Results) -> dict[str, Table]:
    """Make all tables of one data set."""
    where, task = results.task.name, results.task
    grid = Grid(results.grid, task.eps)
    made = {f"{where}: networks": _networks(results)}
    for eps in (radius for radius in task.eps if radius < 1):
        made[f"{where}: accuracy at eps {eps_text(eps)}"] = _grid(results, grid, eps)
    made[f"{where}: random purifiers, {_submissions(results)}"] = _random(results, grid)
    made[f"{where}: purifiers in front of other networks, eps {eps_text(task.eps[0])}"] = _transfer(results)
    changed = by_name(results.unseen).items()
    made[f"{where}: unseen attacks"] = [_unseen(name, rows) for name, rows in changed if name in AIMED]
    made[f"{where}: natural changes"] = [_natural(name, rows) for name, rows in changed if name not in AIMED]
    made[f"{where}: detection, eps {eps_text(task.eps[0])}"] = [
        row for one in results.detected for row in _detected(one)
    ]
    made[f"{where}: clusters of each class"] = [
        {
            "network": one.network, "seed": one.seed, "class": row.label, "images": row.n, "clusters": row.clusters,
            "sizes": ", ".join(map(str, row.sizes)), "stability": row.stability, "silhouette": row.silhouette,
        }
        for one in results.clusters
        for row in one.rows
    ]  # fmt: skip
    return made


def pictures(results: Results) -> list[Picture]:
    """Draw the accuracy under the worst attack by radius and the ROC curves; add the pictures of the units."""
    grid = Grid(results.grid, results.task.eps)
    radii = [eps for eps in results.task.eps if eps < 1]
    lines = {}
    for network, purifier in grid.cells:
        left = [grid.share(network, purifier, WORST, eps).value for eps in radii]
        if purifier in (NONE, "SRD"):
            clean = grid.share(network, purifier, "clean", radii[0]).value
            lines[f"{network}, {purifier}"] = (radii, [clean, *left])
    made = [under_attack({"linf": lines}, f"{results.task.name}: under the worst attack")]
    for one in results.detected[:1]:
        unmoved = array(one.scores["distance, clean"])
        rates = {name: roc(unmoved, array(one.scores[f"distance, {name}"])) for name in ATTACKED}
        caption = (
            f"Distance to the nearest cluster of the predicted class as a detector, {one.network} behind SRD, eps "
            f"{eps_text(one.eps)}. Only the joint attacks know the detector."
        )
        made.append(
            curves(rates, title=f"{results.task.name}: detection", caption=caption, axis="false positives|detected")
        )
    return [*made, *(picture for one in results.pictures for picture in one.pictures)]


def _submissions(results: Results) -> str:
    return "mean and all of several submissions" if any(row.sure for row in results.grid) else "none"


def _networks(results: Results) -> Table:
    return [
        {"network": one.name, "seed": one.seed, "clean": one.clean, "seconds of training": one.seconds}
        for one in results.networks
    ]


def _text(figure: Interval) -> str:
    return figure.text(2)


def _grid(results: Results, grid: Grid, eps: float) -> Table:
    """Make one row for each network and purifier: accuracy under each attack, and what the purifier adds."""
    rows: Table = []
    for network, purifier in grid.cells:
        shares = {attack: _text(grid.share(network, purifier, attack, eps)) for attack in (*ATTACKS, WORST)}
        worst = grid.column(network, purifier, WORST, eps)
        adds = minus(*grid.pair((network, purifier), (network, NONE), WORST, eps)) if purifier != NONE else {}
        flattery = minus(grid.column(network, purifier, STATIC, eps), worst)
        setting = next((r.setting for r in results.grid if (r.network, r.purifier) == (network, purifier)), "")
        left = median_interval(column_of(results.grid, network, purifier, "left", f"{eps:g}"))
        assigned = bounded(interval(column_of(results.grid, network, purifier, "assigned", f"{eps:g}")))
        rows.append(
            {"network": network, "purifier": purifier, "setting": setting, **shares}
            | {"adds": _text(interval(adds)), "static minus worst": _text(interval(flattery))}
            | {"perturbation left": _text(left), "right cluster": _text(assigned)}
        )
    return rows


def _random(results: Results, grid: Grid) -> Table:
    """Make rows of random purifiers: the mean of the submissions, and images right in all of them."""
    rows: Table = []
    for one in dict.fromkeys((r.network, r.purifier) for r in results.grid if r.sure):
        for eps in (radius for radius in grid.radii if radius < 1):
            sure = column_of(results.grid, *one, "sure", f"{WORST}, {eps:g}")
            rows.append(
                {
                    "network": one[0], "purifier": one[1], "eps": eps_text(eps),
                    "worst attack, mean submission": _text(grid.share(*one, WORST, eps)),
                    "right in every submission": _text(bounded(interval(sure))),
                }
            )  # fmt: skip
    return rows


def _share(rows: list[Moved], field: str) -> str:
    return _text(bounded(interval({row.seed: array(getattr(row, field)) for row in rows})))


def _unseen(name: str, rows: list[Moved]) -> dict[str, object]:
    return {
        "change": name, "network": rows[0].network, "bare": _share(rows, "bare"), "static": _share(rows, "static"),
        "behind SRD, worst": _share(rows, "behind"), "PGD-AT": _share(rows, "plain"),
    }  # fmt: skip


def _natural(name: str, rows: list[Moved]) -> dict[str, object]:
    return {
        "change": name, "network": rows[0].network, "bare": _share(rows, "bare"), "behind SRD": _share(rows, "static"),
        "PGD-AT": _share(rows, "plain"),
    }  # fmt: skip


def _transfer(results: Results) -> Table:
    pairs: dict[tuple[str, str], list[Moved]] = {}
    for row in results.transfer:
        pairs.setdefault((row.name, row.network), []).append(row)
    return [
        {
            "purifier of": source, "in front of": target, "bare": _share(rows, "bare"),
            "static": _share(rows, "static"), "worst": _share(rows, "behind"),
        }
        for (source, target), rows in pairs.items()
    ]  # fmt: skip


def _detected(one: Detected) -> Table:
    """Make rows of a detector: areas, hits at 5 % false alarms, and accuracy with rejection."""
    rows: Table = []
    for score in SCORES:
        clean = array(one.scores[f"{score}, clean"])
        for name in ATTACKED:
            attacked = array(one.scores[f"{score}, {name}"])
            row: dict[str, object] = {
                "network": one.network, "seed": one.seed, "score": score, "attack": name,
                "AUROC": round(area(clean, attacked), 3), "detected at 5 %": round(hits_at(clean, attacked), 3),
            }  # fmt: skip
            fine = (array(one.right[name]) > 0) | (attacked > one.threshold)
            row["right or rejected"] = round(float(np.mean(fine)), 3) if score == SCORES[0] else None
            rows.append(row)
    return rows
