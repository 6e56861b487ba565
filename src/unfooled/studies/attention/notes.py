"""Notes of the attention study: which of the paper's claims hold here, and what the figures do not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unfooled.statistics.association import mean_of
from unfooled.studies.attention.measures import PAPER
from unfooled.studies.attention.recipes import ARP, BASE, PAIRED, SHUFFLED
from unfooled.studies.attention.records import Results
from unfooled.studies.attention.training_results import MIN_SEEDS, judged_cases
from unfooled.studies.common.records import Claim


def notes(claims: Sequence[Claim], results: Results, seeds: Sequence[int]) -> list[str]:
    """Return which of the paper's claims hold here, with their figures; then what the figures do not say."""
    lines = _verdicts([c for c in claims if c.source == PAPER])
    for data in dict.fromkeys(row.data for row in results.judged):
        figures = {
            arm: judged_cases(results, data, arm).interval(mean_of("worst"), ("worst",))
            for arm in (BASE, ARP, SHUFFLED, PAIRED)
        }
        each = ", ".join(f"{arm} {figure.text()}" for arm, figure in figures.items() if np.isfinite(figure.value))
        lines.append(
            f"{data}, worst-case accuracy: {each}. Stated in advance: ARP on PGD-AT within about one point of PGD-AT."
        )
    if results.judged and len(seeds) < MIN_SEEDS:
        lines.append(
            f"One network per arm and seed, and {len(seeds)} of the {MIN_SEEDS} seeds that a claim about training "
            "needs: these are called undecided. Intervals are over images and say nothing about other seeds."
        )
    return lines + list(NOTES if results.judged else NOTES[:4])


def _verdicts(claims: Sequence[Claim]) -> list[str]:
    """Make a line for each verdict, with the paper's claims that it is given to."""
    lines = []
    for verdict, says in (
        ("holds", "Of the paper's claims, here hold"),
        ("fails", "Of the paper's claims, here fail"),
        ("undecided", "Of the paper's claims, this study cannot decide"),
    ):
        decided = [c for c in claims if c.verdict == verdict]
        if decided:
            each = "; ".join(f"{c.claim.rstrip('.')} ({_figure(c)})" for c in decided)
            lines.append(f"{says} {len(decided)} of {len(claims)}: {each}.")
    return lines


def _figure(c: Claim) -> str:
    return "not measured" if c.value is None else f"{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]"


NOTES = (
    "Only samples that are classified rightly when clean are analysed; nothing is left out for its outcome or its "
    "maps. Undefined completeness (the label has no more evidence than in the image's mean colour) is counted, and "
    "left out of the figures that need it.",
    "Under the predicted class an attack that succeeds changes the class explained, so deviation is built in; the "
    "paper's claims are judged on the fixed class.",
    "Correlation is no cause: what margin and area leave is still confounded by whatever makes an image hard. The "
    "logistic regression of the claims also holds the class fixed, with penalised class effects; the tables' "
    "regressions do not. AUCs are of the samples that the scores were fitted to.",
    "Intervals are bootstraps over images, of all their seeds at once; frames of one track of a GTSRB test set are not "
    "marked as such, and narrow them. A claim about a network's attention is decided where its interval and Holm's p "
    "over all claims about it agree; with one seed it is about this network alone.",
    "Equal compute means equal forwards and backwards; backwards that end at the attended layer are left out, and "
    "seconds are listed beside them. Step-LL is a single step: its accuracy decides nothing.",
    "The worst case is point by point over the cascade, attention-guided attacks and ascent on the ARP objective on "
    "what the cascade left, and the points found on all other networks. Networks, steps and images are smaller than "
    "published: no row here reproduces a row of the paper.",
    "Areas under deletion and insertion compare networks only as differences to the same map rolled by half: less and "
    "more are better. A map that stays what it was when parameters are shuffled does not depend on what was learned.",
)
