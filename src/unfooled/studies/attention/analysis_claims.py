"""Claims of the data analysis: questions about one network's attention, and how they are decided.

A claim is decided where its interval over all seeds and its p-value, adjusted by Holm's method for all claims about the
network, agree. The p-value is that of a permutation test; with several seeds, which see the same images, or where
nothing can be permuted, it is that of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.statistics.association import (
    group_difference,
    holm,
    logistic,
    mean_of,
    mean_where,
    p_difference,
    p_partial_spearman,
    partial_spearman,
)
from unfooled.statistics.bootstrap import Cases, Statistic
from unfooled.statistics.intervals import over_seeds
from unfooled.statistics.paired import mean_difference
from unfooled.studies.attention.measures import MOVES, PAPER, PLACES
from unfooled.studies.attention.records import Analysed
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim, Table, array

SIGNIFICANCE = 0.05
"""Significance level of all tests about one network together."""


@dataclass(frozen=True)
class Question:
    """A claim, the statistic that decides it and, where there is one, its permutation test.

    Attributes:
        text: The claim.
        source: Citation of the claim, or "unfooled".
        statistic: Statistic that decides it.
        needed: Columns that the statistic needs.
        test: `cases -> p` of a permutation test; None: the bootstrap's p.
        bound: Smallest value of the statistic for which the claim holds.
    """

    text: str
    source: str
    statistic: Statistic
    needed: tuple[str, ...]
    test: Callable[[Cases], float] | None = None
    bound: float = 0.0


def cases_of(rows: Sequence[Analysed]) -> Cases:
    """Return the records of one network as columns, seed by seed."""
    return Cases(
        tuple(
            {
                "id": np.array(r.indices, dtype=float),
                "class": np.array(r.labels, dtype=float),
                **{name: array(values) for name, values in r.columns.items()},
            }
            for r in rows
            if r.indices
        )
    )


def places(rows: Sequence[Analysed]) -> dict[str, str]:
    """Return name -> title of the measures of completeness that all these records have."""
    return {name: title for name, title in PLACES.items() if all(name in r.columns for r in rows if r.indices)}


def controls(rows: Sequence[Analysed]) -> tuple[str, ...]:
    """Return the confounders of vulnerability: the margin ("lead"), and the object's area where it is known."""
    return ("lead", "area") if all("area" in r.columns for r in rows if r.indices) else ("lead",)


def questions(rows: Sequence[Analysed]) -> list[Question]:
    """Return every claim of the data analysis about one network, in the order of the page."""
    where = f"{rows[0].data}, {rows[0].arm}"
    confounders = controls(rows)
    return [
        *_on_distance(where, places(rows), confounders),
        *_on_success(where, confounders),
        *_on_movement(where),
        *_on_change(where),
    ]


def _confounder_text(confounders: tuple[str, ...]) -> str:
    return "margin and area" if len(confounders) > 1 else "margin"


def _on_distance(where: str, measures: dict[str, str], confounders: tuple[str, ...]) -> list[Question]:
    """Ask whether the nearest adversarial example is farther where attention is more complete."""
    asked = []
    for name, title in measures.items():
        farther = (
            f"{where}: the larger {title}, the farther the nearest adversarial example; Spearman.",
            f"{where}: the larger {title}, the farther it is, {_confounder_text(confounders)} held fixed; partial "
            "Spearman.",
        )
        sources = (PAPER if name != "coverage" else "unfooled", "unfooled")
        for text, source, fixed in zip(farther, sources, ((), confounders), strict=True):
            asked.append(
                Question(
                    text, source, partial_spearman(name, "distance", fixed), (name, "distance", *fixed),
                    _partial_test(name, fixed),
                )
            )  # fmt: skip
    return asked


def _on_success(where: str, confounders: tuple[str, ...]) -> list[Question]:
    """Ask whether low completeness makes an attack likelier to succeed, by itself and beside the confounders."""
    asked = []
    for fixed, classes, what, source in (
        ((), None, "alone", PAPER),
        (confounders, "class", f"beside {_confounder_text(confounders)} and class", "unfooled"),
    ):
        text = (
            f"{where}: low completeness makes a fall at the median radius likelier, {what}; minus the coefficient "
            "of a standard deviation in a logistic regression."
        )
        coefficient = _minus(logistic("complete", "fooled", fixed, classes))
        asked.append(Question(text, source, coefficient, ("complete", "fooled", *fixed)))
    return asked


def _on_movement(where: str) -> list[Question]:
    """Ask whether an attack that succeeds moves attention more than one that fails."""
    asked = []
    for name, title in MOVES.items():
        what = "deviates attention more" if name in ("js", "centroid_shift", "parted") else "scatters attention more"
        text = (
            f"{where}: at one radius, an attack that succeeds {what} than one that fails ({title}, fixed class); "
            "difference of means."
        )
        asked.append(_difference(text, PAPER, f"fixed: {name}"))
    text = (
        f"{where}: an attack that succeeds deviates attention to the predicted class more, where that is built in "
        "(JS divergence); difference of means."
    )
    return [*asked, _difference(text, "unfooled", "predicted: js")]


def _on_change(where: str) -> list[Question]:
    """Ask whether attention scatters, moves more than under noise, and moves before the label is lost."""
    scatters = [
        Question(
            f"{where}: an attack that succeeds leaves attention more scattered than it was ({MOVES[name]}, fixed "
            "class); mean change.", PAPER, mean_where(f"fixed: {name}", "fooled"), (f"fixed: {name}", "fooled"),
        )
        for name in ("entropy", "spread")
    ]  # fmt: skip
    moves = [
        Question(
            f"{where}: an attack {does} more than noise of its size ({MOVES[name]}, fixed class); mean "
            "difference.", "unfooled", mean_difference(f"fixed: {name}", f"noise: {name}"),
            (f"fixed: {name}", f"noise: {name}"),
        )
        for name, does in (("js", "moves attention"), ("entropy", "scatters attention"))
    ]  # fmt: skip
    text = f"{where}: in at least half of the images that fall, the map has moved before the label is lost; share."
    return [*scatters, *moves, Question(text, "unfooled", mean_of("first"), ("first",), None, 0.5)]


def _difference(text: str, source: str, name: str) -> Question:
    """Make a question on the difference between fooled and unfooled images."""
    needed = (name, "fooled")
    return Question(text, source, group_difference(*needed), needed, lambda cases: p_difference(cases, *needed))


def _partial_test(name: str, fixed: tuple[str, ...]) -> Callable[[Cases], float]:
    return lambda cases: p_partial_spearman(cases, name, "distance", fixed)


def _minus(statistic: Statistic) -> Statistic:
    return lambda c, w: -statistic(c, w)


def analysis_claims(rows: Sequence[Analysed]) -> tuple[list[Claim], Table]:
    """Decide the claims about one network.

    Args:
        rows: Records of the network, one per seed.

    Returns:
        The claims, and the table of tests.
    """
    cases = cases_of(rows)
    if not cases.seeds:
        return [], []
    permuted = len(cases.seeds) == 1  # seeds see the same images: shuffled one by one they would count as independent
    asked, answers, tests = questions(rows), [], []
    for question in asked:
        figure, p = cases.tested(question.statistic, question.needed, question.bound)
        figure = over_seeds(cases.by_seed(question.statistic, question.needed), figure)
        answers.append(claim(question.text, question.source, figure, question.bound))
        tests.append(question.test(cases) if question.test and permuted else p)
    adjusted = holm(tests)
    answers = [
        c if h < SIGNIFICANCE else c.model_copy(update={"verdict": "undecided"})
        for c, h in zip(answers, adjusted, strict=True)
    ]
    table = [
        {
            "claim": c.claim, "figure": c.value, "lowest": c.low, "highest": c.high, "n": c.n,
            "p": None if np.isnan(p) else round(p, 4),
            "of": "permutations" if question.test and permuted else "the bootstrap",
            "p, Holm": None if np.isnan(h) else round(h, 4), "verdict": c.verdict,
        }
        for question, c, p, h in zip(asked, answers, tests, adjusted, strict=True)
    ]  # fmt: skip
    return answers, table
