"""The smoothed classifier in words and rows: what it proves, and what it costs to have that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unfooled.core.threat_text import Norm, parse_threat
from unfooled.report.runs import Run
from unfooled.report.trust import Tone, tone
from unfooled.report.words import change_phrase, estimate_interval, finite, number, percent, plural
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
    s = run.summary
    found = s.smoothed
    if found is None or found.certified_accuracy.value is None or tone(s) == Tone.VOID:
        return None
    clean, proven, noun = found.clean_accuracy, found.certified_accuracy, run.noun
    share = f"{percent(proven.value, proven.n)} of the {noun}s ([{estimate_interval(proven)}], n = {proven.n:,})"
    right = "it agrees with the audited model" if s.labels_predicted else "it is right"
    first = "" if clean.value is None else f" It is right on {percent(clean.value, clean.n)} of them without a change."
    abstained = f" It abstains on {percent(found.abstained, proven.n)}." if found.abstained else ""
    sentence = (
        f"The smoothed classifier answers with the majority class {noise_phrase(run)}, which {found.first:,} draws "
        f"select and {found.draws:,} others confirm; else it abstains. On {share} {right}, and proven to stay so under "
        f"{change_phrase(s.threat, noun)}.{first}{abstained}"
    )
    meaning = (
        "This is another classifier than the audited one, whose figures stand above: to have what is proven here, "
        f"answer so, at {number(found.passes.forward, 0)} passes a decision. Each proof fails with a "
        f"probability of at most {found.failure:g}; it needs no look inside the model."
    )
    caption = f"{found.draws:,} draws, all in favour, prove a radius of {number(found.ceiling)} at most."
    rows = [(p.eps, p.accuracy) for p in found.curve if finite(p.eps, p.accuracy.value)]
    return SmoothedWords(sentence, meaning, caption, rows)


def noise_phrase(run: Run) -> str:
    """Return what the noise is: "under Gaussian noise of standard deviation 0.25"."""
    found, norm = run.summary.smoothed, parse_threat(run.summary.threat).norm
    assert found is not None
    if norm == Norm.L2:
        return f"under Gaussian noise of standard deviation {found.size:g}"
    if norm == Norm.L1:
        return f"under Laplace noise of scale {found.size:g}"
    of = plural(int(found.size), "random pixel" if norm == "l0-pixel" else "random value")
    return f"on {of}, where all others that may change are 0"
