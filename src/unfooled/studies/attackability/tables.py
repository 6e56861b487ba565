"""Tables of the study of attackability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unfooled.counterfactuals.measures import attack_success
from unfooled.counterfactuals.score import ENOUGH, PREDICTIVE
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS, RULES
from unfooled.statistics.intervals import Interval
from unfooled.studies.attackability.bench import LEARNT, PLANTED, learnt_factors
from unfooled.studies.attackability.carried import CCE, EDIT, MEASURES, PGD, RANDOM, SIZES, STOPPED
from unfooled.studies.attackability.figures import (
    Results,
    arrays,
    auroc,
    by_seed,
    carried_column,
    factor_mean,
    factor_order,
    median,
    middle,
    over_networks,
    planted_effects,
    share,
    share_by_seed,
    spearman,
    spearman_within,
)
from unfooled.studies.attackability.records import Geometry, Trained
from unfooled.studies.attackability.scale import AttackabilityScale, Recipe
from unfooled.studies.common.records import Table, array

TAUS = (0.25, 0.5, 1.0, 2.0, 3.0)
"""Radii at which the share of attackable scenes is given."""
CLASSES = RULES["shape_colour"][1]


def tables(results: Results, size: AttackabilityScale) -> dict[str, Table]:
    """Make all tables of the shapes, and of the published metric."""
    first = results.geometries[0]
    made = {
        "Concept networks": _networks(results),
        "Attributes that are not learnt, which take part in no claim": _unlearnt(results),
        f"Flip costs, rho {first.rho:g}: switches of one attribute alone, median": _costs(first),
        f"Cheapest edits of one attribute, rho {first.rho:g}": first.cheapest,
        f"What cannot be edited, rho {first.rho:g}": first.barred,
        "Effects of the factors: through the head, in total, twins": _factors(results),
        "Alarm: the planted background": _alarm(results, size),
        "Radii in concept standard deviations": _radii(results),
        "Radii against pixel distances, Spearman": _agreement(results),
        f"Edits carried into pixels, {size.editing.threat}, {size.editing.steps} steps": _carried(results, size),
        f"Semantic training, {size.semantic.budget} passes each": _training(results, size),
    }
    for one in results.published[:1]:
        made |= {TITLES[name]: rows for name, rows in one.tables.items()}
    return {title: rows for title, rows in made.items() if rows}


TITLES = {
    "identity": "The published metric: random heads",
    "gaming": "The published metric gamed: a linear head on digits (not a robustness measure)",
}


def _networks(results: Results) -> Table:
    """Make a row of each network."""
    return [
        {
            "rho": one.rho, "network": one.seed, "accuracy": round(one.accuracy, 3),
            "AUC, median": round(middle(array(one.auc)), 3),
            "not learnt": int((~(array(one.auc) >= LEARNT)).sum()),
            "factors learnt": ", ".join(learnt_factors(array(one.auc).tolist())),
        }
        for one in results.geometries
    ]  # fmt: skip


def _unlearnt(results: Results) -> Table:
    """Make a row of each attribute that some network has not learnt."""
    areas = np.array([array(one.auc) for one in results.geometries])
    return [
        {
            "attribute": name, "networks": int((~(column >= LEARNT)).sum()), "of": len(column),
            "AUC, least": _round(float(np.min(column[np.isfinite(column)], initial=1.0))),
            "AUC, median": _round(middle(column)),
        }
        for name, column in zip(ATTRIBUTES, areas.T, strict=True)
        if not (column >= LEARNT).all()
    ]  # fmt: skip


def _costs(one: Geometry) -> Table:
    """Make a row of each learnt attribute: switches that flip the scenes of each class."""
    return [
        {"attribute": name, **dict(zip(CLASSES, (_round(v) for v in costs), strict=True))}
        for name, costs, area in zip(ATTRIBUTES, one.costs, one.auc, strict=True)
        if area is not None and area >= LEARNT
    ]


def _factors(results: Results) -> Table:
    """Make a row of each factor at each correlation."""
    rows: Table = []
    for rho in results.rhos:
        networks = results.at(rho)
        for name in FACTORS:
            learnt = sum(name in learnt_factors(array(one.auc).tolist()) for one in networks)
            words = {"head": "head only (A)", "total": "total (T)", "twin": "twins", "cosine": "cosine, total and twin"}
            rows.append({
                "rho": rho, "factor": name, "learnt by": f"{learnt} of {len(networks)}",
                **{word: factor_mean(networks, name, what).text(2) for what, word in words.items()},
            })  # fmt: skip
        for every, of in ((False, "learnt factors"), (True, "all factors, no claim")):
            order = {what: factor_order(networks, what, every=every) for what in ("head", "total")}
            rows.append({
                "rho": rho, "factor": f"Spearman with the twins, {of}", "learnt by": f"{order['total'].n} networks",
                "head only (A)": order["head"].text(2), "total (T)": order["total"].text(2), "twins": "",
                "cosine, total and twin": "",
            })  # fmt: skip
    return rows


def _alarm(results: Results, size: AttackabilityScale) -> Table:
    """Make rows of the AUROC of the planted background, by its total effect and through the head."""
    rows: Table = []
    for rho in results.rhos[1:]:
        rows += _alarm_rows(results.at(results.rhos[0]), results.at(rho), size.recipe)
    for rho in results.rhos[1:2] if results.alarm else ():
        rows += _alarm_rows(results.alarm_at(results.rhos[0]), results.alarm_at(rho), size.alarm.recipe)
    return rows


def _alarm_rows(free: Sequence[Geometry], planted: Sequence[Geometry], recipe: Recipe) -> Table:
    """Make the rows of networks of one training, with the background free and planted."""
    rows: Table = []
    for what, words in (("total", "total effect"), ("head", "through the head")):
        own, others = planted_effects(planted, what)
        before, _ = planted_effects(free, what)
        rows.append({
            "rho": planted[0].rho, "training": f"width {recipe.width}, {recipe.scenes:,} scenes", "networks": len(own),
            "accuracy, mean": _mean([one.accuracy for one in planted]), "by": words,
            f"{PLANTED}, mean": _mean(own), "irrelevant factors, mean": _mean(others),
            f"{PLANTED} at rho {free[0].rho:g}, mean": _mean(before),
            "AUROC against irrelevant": auroc(own, others).text(2), "AUROC against itself": auroc(own, before).text(2),
        })  # fmt: skip
    return rows


def _radii(results: Results) -> Table:
    """Make a row of each correlation: quartiles, share of scenes up to each radius; never a mean of 1 / r."""
    rows: Table = []
    for rho in results.rhos:
        r = np.concatenate([array(one.columns["radius"]) for one in results.at(rho)])
        centre, finite = median(r), r[np.isfinite(r)]  # the others are infinite: no attribute tells two classes apart
        rows.append({
            "rho": rho, "median": centre.text(2),
            "quartiles": "{:.2f}, {:.2f}".format(*np.quantile(finite, [0.25, 0.75])) if len(finite) else "",
            "attackability, 1 / (1 + median)": _round(1 / (1 + centre.value)),
            **{f"r <= {tau:g}": round(float((r <= tau).mean()), 3) for tau in TAUS},
        })  # fmt: skip
    return rows


def _agreement(results: Results) -> Table:
    """Make a row of each network: rank correlation of radius, distance and margin with the pixel distance."""
    rows: Table = []
    for one in results.near:
        columns = arrays(one.columns)
        correlations = {name: spearman([columns], name, "distance") for name in ("radius", "flip", "margin")}
        ratio, inside = columns["distance"] / columns["radius"], spearman_within([columns], "radius", "distance")
        rows.append({
            "networks": f"rho {one.rho:g}, {one.seed}", "n": len(columns["id"]),
            **{f"{name}": interval.text(2) for name, interval in correlations.items()},
            "radius, within classes": inside.text(2) if inside.n else "",
            "pixel distance / radius, median": _round(middle(ratio)),
            "verdict": _predictive(correlations["radius"]),
        })  # fmt: skip
    medians = over_networks(results)
    if len(medians["id"]) >= 4:
        correlations = {name: spearman([medians], name, "distance") for name in ("radius", "flip")}
        rows.append({
            "networks": "medians of all networks, trainings included", "n": len(medians["id"]),
            **{name: interval.text(2) for name, interval in correlations.items()}, "margin": "",
            "radius, within classes": "",
            "pixel distance / radius, median": _round(middle(medians["distance"] / medians["radius"])),
            "verdict": _predictive(correlations["radius"]),
        })  # fmt: skip
    return rows


def _predictive(correlation: Interval) -> str:
    """Return the verdict on a rank correlation; of fewer than `ENOUGH` values it states their number."""
    if not np.isfinite(correlation.value):
        return f"undefined (n = {correlation.n})"
    verdict = "predictive" if correlation.value >= PREDICTIVE else "not predictive here"
    return verdict if correlation.n >= ENOUGH else f"{verdict} (n = {correlation.n} only)"


def _carried(results: Results, size: AttackabilityScale) -> Table:
    """Make a row of each way to carry edits: shares, and medians over the scenes."""
    import torch

    ways = [EDIT, *(f"kappa {k:g}" for k in sorted(size.editing.kappa)), RANDOM, CCE, PGD, STOPPED]
    rows: Table = []
    for how in ways:
        columns = {name: carried_column(results, f"{how}, {name}") for name in (*MEASURES, *SIZES)}
        if not len(columns["valid"]):
            continue
        valid = torch.from_numpy(columns["valid"] > 0)
        rows.append({
            "how": how, "success": str(attack_success(valid, size.editing.threat, size.editing.steps)),
            **{name: share(columns[name]).text(2) for name in ("valid", "valid_8bit")},
            **{WORDS.get(name, name): _round(middle(columns[name])) for name in MEASURES[2:]},
            **{words: _round(middle(columns[name])) for name, words in SIZES.items()},
        })  # fmt: skip
    return rows


WORDS = {"noise": "noise ratio, pixels over logits"}
"""Measures -> their headings, where they have another one."""


def _training(results: Results, size: AttackabilityScale) -> Table:
    """Make a row of each semantic training, over all seeds."""
    rows: Table = []
    for arm in size.semantic.arms:
        own = [one for one in results.trained if one.arm == arm]
        if own:
            rows.append(_row_of(arm, own, size))
    return rows


def _row_of(arm: str, own: Sequence[Trained], size: AttackabilityScale) -> dict[str, object]:
    """Make the row of one semantic training."""
    parts = {name: [array(one.columns[name]) for one in own] for name in own[0].columns}
    return {
        "training": arm, "seeds": len(own), "updates": own[0].updates,
        "clean accuracy": round(float(np.mean([one.accuracy for one in own])), 3),
        "AUC, median": round(float(np.mean([one.auc for one in own])), 3),
        f"robust, {size.semantic.threat}": share_by_seed(parts["robust"]).text(2),
        **{words: by_seed(parts[name], median).text(2) for name, words in JUDGED.items()},
        "published (not a robustness measure)": _round(middle(np.concatenate(parts["published"]))),
    }  # fmt: skip


JUDGED = {"distance": "pixel distance", "radius": "radius", "flip": "exact distance"}


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 3) if len(values) else None


def _round(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)
