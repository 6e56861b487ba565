"""Tables of the study of LIME under attack."""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.studies.common.records import Table
from unfooled.studies.lime_shift.bench import ALL, LAST
from unfooled.studies.lime_shift.figures import Columns, table_columns
from unfooled.studies.lime_shift.scaffold import SAMPLERS, SENSITIVE
from unfooled.studies.lime_shift.scale import ShiftScale
from unfooled.studies.lime_shift.units import ARMS, ATTACK, CLASSES, NOISE, Results, Scaffolded, hidden

ARM_NAMES = {ATTACK: "under attack", NOISE: "equal noise", "seed": "LIME's own, other masks"}


def tables(results: Results, size: ShiftScale) -> dict[str, Table]:
    """Make all tables of one data set."""
    where, shifts, own = results.task.source, Columns.of(results.shifts), Columns.of(results.own)
    return {
        f"{where}: the network": [
            {
                "seed": one.seed,
                "right": one.right,
                "images": one.n,
                "fooled": _fooled(results, one.seed),
            }
            for one in results.trained
        ],
        f"{where}: clean against moved, {results.task.threat}, {size.samples} masks": _shifts(shifts, size.top),
        f"{where}: held-out R2 of the fits": [
            {"images": name.partition(", ")[2], "held-out R2": shifts.mean(name).text()}
            for name in shifts.names
            if name.startswith("held-out")
        ],
        f"{where}: LIME's own instability, clean images": _own(own, size.top),
        f"{where}: networks with new weights": [
            {
                "new weights": depth,
                "rank correlation": own.mean(f"{depth}, rank").text(),
                "of |w|": own.mean(f"{depth}, rank of |w|").text(),
            }
            for depth in (LAST, ALL)
        ],
    }


def _fooled(results: Results, seed: int) -> int:
    """Return the number of images on which the attack succeeded."""
    return sum(int(value or 0) for part in results.shifts if part.seed == seed for value in part.columns["fooled"])


def _shifts(shifts: Columns, top: int) -> Table:
    """Make rows of the changes under attack, noise and other masks, for both explained classes."""
    return [
        {
            "explained class": name,
            "change": ARM_NAMES[arm],
            "rank correlation": shifts.mean(f"{arm}, {name}, rank").text(),
            f"top-{top} Jaccard": shifts.mean(f"{arm}, {name}, top").text(),
            "sure changes of sign": shifts.mean(f"{arm}, {name}, flips").text(),
        }
        for name in CLASSES
        for arm in ARMS
    ]


def _own(own: Columns, top: int) -> Table:
    """Make rows of LIME's own instability."""
    names = [name.removesuffix(", top") for name in own.names if name.endswith(", top")]
    return [
        {
            "other": name,
            "rank correlation": own.mean(f"{name}, rank").text(),
            f"top-{top} Jaccard": own.mean(f"{name}, top").text(),
        }
        for name in names
    ]


def scaffold_table(rows: Sequence[Scaffolded]) -> Table:
    """Make rows of the scaffolding experiment."""
    auc = table_columns(rows, lambda row: row.auc)
    biased = table_columns(rows, lambda row: [float(c == SENSITIVE) for c in row.biased])
    shown = table_columns(rows, lambda row: [float(c == SENSITIVE) for c in row.scaffold])
    innocent = table_columns(rows, hidden)
    return [
        {
            "sampler": name,
            "AUC, perturbed or real": auc.share(name).text(),
            "biased model: sensitive leads": biased.share(name).text(),
            "scaffold: sensitive leads": shown.share(name).text(),
            "scaffold: innocent leads": innocent.share(name).text(),
        }
        for name in SAMPLERS
    ]
