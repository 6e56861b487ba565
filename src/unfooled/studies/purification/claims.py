"""Claims of the study of purification, each static and adaptive side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unfooled.core.threat_text import eps_text
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim
from unfooled.studies.common.records import Claim, array
from unfooled.studies.purification.figures import Grid, by_name, column_of, interval, median_interval, minus
from unfooled.studies.purification.judging import STATIC, WORST
from unfooled.studies.purification.scale import AT, GLOBAL, LATENT, LONGER, NONE, RANDOM, SRD, STANDARD, SWEPT, THROUGH
from unfooled.studies.purification.units import AIMED, Moved, Results

SILVA = "Silva et al. 2021, arXiv:2104.02155"
OWN = "unfooled"
ALL_GONE = 0.9
"""Part of the perturbation that must be removed for it to count as gone."""
KINDS = {STATIC: "static", WORST: "adaptive"}


def claims(results: Results) -> list[Claim]:
    """Decide all claims on one data set; the first one is whether anything beats plain adversarial training."""
    grid = Grid(results.grid, results.task.eps)
    where, eps = results.task.name, float(results.task.threat.eps)
    return [
        *_best(grid, where, eps),
        *_accuracy(grid, where, eps),
        *_choice(grid, where, eps),
        *_constraint(results, grid, where, eps),
        *_agnostic(results, where),
        *_unseen(results, where),
        *_left(results, where),
        *_sound(grid, where),
    ]


def _best(grid: Grid, where: str, eps: float) -> list[Claim]:
    """Decide whether any arm beats plain adversarial training at equal compute under the worst attack."""
    equal = [cell for cell in grid.cells if cell != (AT, NONE) and cell[0] in (STANDARD, AT, LATENT, *SWEPT)]
    longer = [cell for cell in grid.cells if cell[0] == THROUGH]
    decided = []
    for plain, others, words in ((AT, equal, "PGD-AT"), (LONGER, longer, "PGD-AT that is trained for longer")):
        winner, gap = grid.best(eps, plain, others)
        if winner is not None:
            text = (
                f"{where}, eps {eps_text(eps)}: the best of {len(others)} other arms, {winner[0]} behind {winner[1]}, "
                f"beats plain {words} at equal compute under the worst attack; chosen on one half of the images, "
                "compared on the other; difference."
            )
            decided.append(claim(text, OWN, gap, MIN_DIFFERENCE))
    return decided


def _accuracy(grid: Grid, where: str, eps: float) -> list[Claim]:
    """Decide claim 1: the constrained network behind the purifier against plain adversarial training."""
    return [
        claim(
            f"{where}, eps {eps_text(eps)}, {word}: {LATENT} behind SRD is more accurate than {AT} alone; difference.",
            SILVA, grid.gap((LATENT, SRD), (AT, NONE), attack, eps), MIN_DIFFERENCE,
        )
        for attack, word in KINDS.items()
    ]  # fmt: skip


def _choice(grid: Grid, where: str, eps: float) -> list[Claim]:
    """Decide claim 2: dictionaries by cluster against one dictionary, and against a random choice."""
    return [
        claim(
            f"{where}, eps {eps_text(eps)}, {word}: dictionaries by cluster beat the {other} in front of {AT}; "
            "difference.",
            SILVA, grid.gap((AT, SRD), (AT, other), attack, eps), MIN_DIFFERENCE,
        )
        for other in (GLOBAL, RANDOM)
        for attack, word in KINDS.items()
    ]  # fmt: skip


def _constraint(results: Results, grid: Grid, where: str, eps: float) -> list[Claim]:
    """Decide claim 3: the latent constraint, by accuracy and by the choice of the cluster under attack."""
    made = [
        claim(
            f"{where}, eps {eps_text(eps)}, {word}: the latent constraint adds accuracy to the {name}; difference.",
            SILVA, grid.gap((LATENT, one), (AT, one), attack, eps), MIN_DIFFERENCE,
        )
        for one, name in ((NONE, "bare network"), (SRD, "network behind SRD"))
        for attack, word in KINDS.items()
        if one == SRD or attack == WORST
    ]  # fmt: skip
    a, b = (column_of(results.grid, name, SRD, "assigned", f"{eps:g}") for name in (LATENT, AT))
    text = (
        f"{where}, eps {eps_text(eps)}, end to end: SRD's cluster is of the right class more often (with SRD's own "
        "encoder) on points against the constrained network; difference."
    )
    return [*made, claim(text, SILVA, interval(minus(a, b)), MIN_DIFFERENCE)]


def _agnostic(results: Results, where: str) -> list[Claim]:
    """Decide claim 4: purifiers in front of networks that they were not fitted to."""
    others = [row for row in results.transfer if row.name != row.network]
    return [
        claim(
            f"{where}, eps {eps_text(results.task.eps[0])}, {word}: purifiers of other networks add accuracy to "
            f"undefended ones, mean over {len({(r.name, r.network) for r in others})} pairs; difference.",
            SILVA, interval(_averaged(others, field, "bare")), MIN_DIFFERENCE,
        )
        for field, word in (("static", "static"), ("behind", "adaptive"))
    ]  # fmt: skip


def _unseen(results: Results, where: str) -> list[Claim]:
    """Decide claim 5: attacks that nobody was trained on, and natural changes, which are the same for every model."""
    both = (("static", "static"), ("behind", "adaptive"))
    return [
        claim(
            f"{where}, {name}, {word}: {LATENT} behind SRD is more accurate than {AT}; difference.",
            SILVA, interval(_averaged(rows, field, "plain")), MIN_DIFFERENCE,
        )
        for name, rows in by_name(results.unseen).items()
        for field, word in (both if name in AIMED else (("static", "natural"),))
    ]  # fmt: skip


def _left(results: Results, where: str) -> list[Claim]:
    """Decide claim 6: what is left of the perturbation."""
    made = []
    for eps in (radius for radius in results.task.eps if radius < 1):
        left = column_of(results.grid, STANDARD, SRD, "left", f"{eps:g}")
        gone = median_interval({seed: 1 - one for seed, one in left.items()})
        text = (
            f"{where}, eps {eps_text(eps)}: SRD removes at least {ALL_GONE:.0%} of the perturbation; median part "
            "removed."
        )
        made.append(claim(text, SILVA, gone, ALL_GONE))
    return made


def _sound(grid: Grid, where: str) -> list[Claim]:
    """Decide whether nothing survives in the whole box, as it must be."""
    if 1.0 not in grid.radii:
        return []
    worst = [grid.column(*cell, WORST, 1.0) for cell in grid.cells]
    seeds = {seed for one in worst for seed in one}
    fooled = {seed: 1 - np.maximum.reduce([one[seed] for one in worst if seed in one]) for seed in sorted(seeds)}
    text = f"{where}, eps 1: no image survives the worst attack behind any purifier; share of images."
    figure = interval(fooled)
    value = figure.value if figure.n else float("nan")
    return [claim(text, OWN, figure._replace(low=value, high=value), 1.0)]


def _averaged(rows: Sequence[Moved], a: str, b: str) -> dict[int, np.ndarray]:
    """Return the mean over records of a - b, image by image, for each seed."""
    by_seed: dict[int, list[np.ndarray]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, []).append(array(getattr(row, a)) - array(getattr(row, b)))
    return {seed: np.mean(values, axis=0) for seed, values in by_seed.items()}
