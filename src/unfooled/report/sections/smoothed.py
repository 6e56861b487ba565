"""The smoothed classifier in words and rows: what it proves, and what it costs to have that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unfooled.core.threat_text import Norm, parse_threat
from unfooled.report.runs import Run
from unfooled.report.words import change_phrase, estimate_interval, finite, number, percent
from unfooled.statistics.intervals import Estimate


class SmoothedWords(NamedTuple):
    """Figures of a smoothed classifier: sentences, and certified accuracy by radius."""

    sentence: str
    meaning: str
    caption: str
    rows: list[tuple[float, Estimate]]


def smoothed_sections(runs: Sequence[Run]) -> list[tuple[Run, SmoothedWords]]:
    """Return the runs that smoothed the classifier, with their words."""
    return [(run, found) for run in runs if (found := smoothed_words(run)) is not None]


def smoothed_words(run: Run) -> SmoothedWords | None:
    """Return what the smoothed classifier proves; None where it was not asked for."""
    found = run.summary.smoothed
    if found is None or found.certified_accuracy.value is None:
        return None
    clean, proven, noun = found.clean_accuracy, found.certified_accuracy, run.noun
    share = f"{percent(proven.value, proven.n)} of the {noun}s ([{estimate_interval(proven)}], n = {proven.n:,})"
    first = "" if clean.value is None else f" It is right on {percent(clean.value, clean.n)} of them without a change."
    abstained = f" It abstains on {percent(found.abstained, proven.n)}." if found.abstained else ""
    sentence = (
        f"The smoothed classifier answers with the majority class of {noise_phrase(run)}. On {share} it is right, and "
        f"proven to stay so under {change_phrase(run.summary.threat, noun)}.{first}{abstained}"
    )
    meaning = (
        "This is another classifier than the audited one, whose figures stand above: to have what is proven here, "
        f"answer with the majority, at {number(found.passes.forward, 0)} passes a decision. Each proof fails with a "
        f"probability of at most {found.failure:g}; it needs no look inside the model."
    )
    caption = f"{found.draws:,} draws, all in favour, prove a radius of {number(found.ceiling)} at most."
    rows = [(p.eps, p.accuracy) for p in found.curve if finite(p.eps, p.accuracy.value)]
    return SmoothedWords(sentence, meaning, caption, rows)


def noise_phrase(run: Run) -> str:
    """Return what the draws are: "1,000 draws of Gaussian noise of standard deviation 0.25"."""
    found, norm = run.summary.smoothed, parse_threat(run.summary.threat).norm
    assert found is not None
    draws = f"{found.draws:,} draws"
    if norm == Norm.L2:
        return f"{draws} with Gaussian noise of standard deviation {found.size:g}"
    if norm == Norm.L1:
        return f"{draws} with Laplace noise of scale {found.size:g}"
    of = "pixel" if "pixel" in run.summary.threat or run.noun == "image" else "value"
    return f"{draws} in which {found.size:g} random {of}s stay and the others are 0"
