"""Tables and pictures of the data analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unfooled.drawing.figures import Picture
from unfooled.statistics.association import auc, logistic, mean_of
from unfooled.statistics.bootstrap import MIN_SAMPLES, Cases, Statistic
from unfooled.studies.attention.analysis_claims import cases_of, controls, places
from unfooled.studies.attention.measures import MOVES, PLACES
from unfooled.studies.attention.pictures import in_255, vulnerability
from unfooled.studies.attention.records import Analysed
from unfooled.studies.common.records import Table

TABLE_DRAWS = 500
"""Number of resamples for the intervals in tables; claims use 2,000."""
KINDS = (("fixed", "attack, fixed class"), ("predicted", "attack, predicted class"), ("noise", "noise"))
"""`(beginning of a column's name, title)` of each comparison with the clean map."""


def _text(cases: Cases, statistic: Statistic, needed: Sequence[str]) -> str:
    return cases.interval(statistic, needed, draws=TABLE_DRAWS).text()


def state_table(rows: Sequence[Analysed], radii: Sequence[float]) -> Table:
    """Make one row per network and seed: clean attention, and how near adversarial examples are."""
    return [_state(row, radii) for row in rows]


def _state(row: Analysed, radii: Sequence[float]) -> dict[str, Any]:
    cases = cases_of([row])
    line: dict[str, Any] = {
        "network": row.arm, "seed": row.seed, "looked at": row.n, "left out, wrong when clean": row.wrong,
        "median distance": in_255(row.eps), "cells": row.cells,
    }  # fmt: skip
    names = {**PLACES, "elsewhere": "completeness of a shifted region", "pointing": "pointing game",
             "area": "area of the object", "entropy": "entropy", "flat": "flat maps"}  # fmt: skip
    for name, title in names.items():
        if cases.seeds and name in cases.seeds[0]:
            line[title] = _text(cases, mean_of(name), (name,))
    for eps in radii:
        falls = sum(int((c["distance"] <= eps).sum()) for c in cases.seeds)
        line[f"falls at {in_255(eps)}"] = round(falls / max(cases.n, 1), 3)
    if cases.seeds and "area" in cases.seeds[0]:
        line["object unknown"] = sum(int(np.isnan(c["area"]).sum()) for c in cases.seeds)
    line["completeness undefined"] = sum(int(np.isnan(c["complete"]).sum()) for c in cases.seeds)
    return line


def movement_table(rows: Sequence[Analysed]) -> Table:
    """Make rows of mean movement, every measure: fooled and unfooled images, fixed and predicted class, noise."""
    lines = []
    for row in rows:
        cases = cases_of([row])
        for kind, title in KINDS:
            for group, images in ((1.0, "fooled"), (0.0, "unfooled")):
                group_cases = Cases(tuple({k: v[c["fooled"] == group] for k, v in c.items()} for c in cases.seeds))
                line = {"network": row.arm, "seed": row.seed, "under": title, "images": images, "n": group_cases.n}
                columns = {measure: f"{kind}: {name}" for name, measure in MOVES.items()}
                lines.append({**line, **{k: _text(group_cases, mean_of(name), (name,)) for k, name in columns.items()}})
    return lines


def regression_table(rows: Sequence[Analysed], radii: Sequence[float]) -> Table:
    """Make rows of coefficients and areas under the curve at each radius: does attention say more than the margin?"""
    lines, confounders = [], controls(rows)
    for row in rows:
        cases = cases_of([row])
        for eps in (row.eps, *radii):
            at_radius = Cases(tuple({**c, "falls": (c["distance"] <= eps).astype(float)} for c in cases.seeds))
            falls = sum(int(c["falls"].sum()) for c in at_radius.seeds)
            if min(falls, at_radius.n - falls) < MIN_SAMPLES:
                continue
            about = {"network": row.arm, "seed": row.seed, "eps": in_255(eps), "fell": falls, "of": at_radius.n}
            lines += [
                {**about, "measure": title, **_fits(at_radius, name, confounders)}
                for name, title in places(rows).items()
            ]
    return lines


def _fits(at_radius: Cases, name: str, confounders: tuple[str, ...]) -> dict[str, str]:
    needed = (name, "falls", *confounders)
    margin = logistic("lead", "falls", (name, *confounders[1:]))
    return {
        "coefficient alone": _text(at_radius, logistic(name, "falls"), needed),
        "beside the others": _text(at_radius, logistic(name, "falls", confounders), needed),
        "of the margin there": _text(at_radius, margin, needed),
        "AUC of the margin": _text(at_radius, auc(["lead"], "falls"), needed),
        "gain": _text(at_radius, auc(["lead", name], "falls", ["lead"]), needed),
    }


def analysis_pictures(rows: Sequence[Analysed]) -> list[Picture]:
    """Draw completeness against distance, movement and course, and return the galleries of the first seed."""
    with_rows = [r for r in rows if r.indices]
    if not with_rows:
        return []
    first = [r for r in with_rows if r.seed == with_rows[0].seed]
    return [vulnerability(first, places(first)), *(r.picture for r in first if r.picture is not None)]
