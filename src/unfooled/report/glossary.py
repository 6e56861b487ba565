"""Words that the page of an audit uses, with their meaning; only those that the page shows."""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.evaluation.audit.records import Summary
from unfooled.report.words import EPSILON

Word = tuple[str, str]


def glossary(summaries: Sequence[Summary]) -> list[Word]:
    """Return the words of a page with their meaning, in the order in which they appear."""
    shown = [
        (True, ROBUST),
        (any(s.verdict for s in summaries), VERDICTS),
        (any(s.diagnostics for s in summaries), CHECKS),
        (any(s.psnr.value is not None for s in summaries), QUALITY),
        (True, PASSES),
        (any(s.reasons is not None and s.reasons.curve for s in summaries), REASONS),
        (any(s.attention is not None for s in summaries), ATTENTION),
    ]
    return [word for wanted, words in shown if wanted for word in words]


ROBUST: list[Word] = [
    (
        "Robust accuracy",
        "Share of the samples that are classified correctly and that no attack tried could fool. It is an upper bound: "
        "a stronger attack may lower it.",
    ),
    (
        f"Threat, {EPSILON}",
        "Bound on what the adversary may do: of the largest change of a value (linf), of the Euclidean length of the "
        f"change (l2), of the sum of all changes (l1), of the number of changed values (l0). {EPSILON} is its size, "
        "for values in [0, 1].",
    ),
]
VERDICTS: list[Word] = [
    ("SOUND", "No check objects to the measurement. It says nothing about how good the model is."),
    ("EXTENDED", "A check found that the attack was too short; it ran on until nothing more fell, and can be trusted."),
    ("OVERSTATED", "The attack was too weak, or the time was over: the true robust accuracy is probably lower."),
    ("NOT EVALUABLE", "The figure means nothing, for the cause that is named beside it."),
]
CHECKS: list[Word] = [
    ("D1, D2, ...", "Names of the checks, as in the documentation of the diagnostics and in the records."),
]
QUALITY: list[Word] = [
    ("PSNR", "Peak signal-to-noise ratio of the attacked sample in decibels: the higher, the less can be seen."),
    ("SSIM", "Structural similarity of the two images: 1 is the same image."),
]
PASSES: list[Word] = [
    ("Pass", "One evaluation of the network on one sample (forward), or one gradient of it (backward)."),
]
REASONS: list[Word] = [
    (
        "Reason, explanation",
        "A map of how much each pixel counts for the decision. Its reason is said to have moved where its most "
        "important pixels lie elsewhere, although the label stayed.",
    ),
    (
        "Top k kept, LENS",
        "Share of the k most important pixels that stay among the k most important, exactly (top k) or up to "
        "neighbouring pixels (LENS). Corrected: 1 is unmoved, 0 is what an unrelated map scores.",
    ),
    ("Kendall, Spearman", "Rank correlations of two maps over all pixels: 1 is the same order."),
    ("Best of N random points", "What blind search finds with as many passes as the attack: an attack must beat it."),
]
ATTENTION: list[Word] = [
    (
        "Completeness",
        "Evidence for the label in the attended quarter of the image, as a multiple of that in the whole image.",
    ),
]
