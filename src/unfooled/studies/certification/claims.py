"""Claims of the study of certification."""

from __future__ import annotations

import torch

from unfooled.core.threat_text import eps_text
from unfooled.statistics.intervals import share
from unfooled.studies.certification.figures import Ends
from unfooled.studies.certification.scale import CNN_A, IBP, MTL_IBP, PGD_AT, PROVABLE, SABR, STANDARD, TRADES
from unfooled.studies.certification.units import Results
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim
from unfooled.studies.common.records import Claim, Outcome

OWN = "unfooled"
GOWAL = "Gowal et al. 2018, arXiv:1810.12715"
MUELLER = "Mueller et al. 2023, arXiv:2210.04871"
DE_PALMA = "De Palma et al. 2024, arXiv:2305.13991"
WANG = "Wang et al. 2021, arXiv:2103.06624"
JOVANOVIC = "Jovanovic et al. 2022, arXiv:2102.06700"
NARROW = 0.04
"""Largest share of open images of a narrow interval."""
PUBLISHED = 0.71
"""Certified accuracy of CNN-A-Adv by beta-CROWN on a GPU."""


def claims(results: Results) -> list[Claim]:
    """Decide all claims on one data set."""
    made = []
    for eps in sorted({one.eps for one in results.judged}):
        ends, where = Ends.of(results.judged, eps), f"{results.task.source}, linf:{eps_text(eps)}"
        made += [_sound(ends, where), *_of_training(ends, where), *_of_tightness(ends, where)]
    return made


def _sound(ends: Ends, where: str) -> Claim:
    """Decide whether any proof is contradicted: a single one suffices."""
    fooled, proven = ends.conflicts()
    text = f"{where}: no proven image is fooled by the attack; share of them that is."
    s = share(torch.arange(proven) < fooled)
    if s.value is None:
        return Claim(claim=text, source=OWN, verdict="undecided", value=None, low=None, high=None, n=0)
    verdict: Outcome = "fails" if fooled else "holds"
    return Claim(claim=text, source=OWN, verdict=verdict, value=s.value, low=s.low, high=s.high, n=s.n)


def _of_training(ends: Ends, where: str) -> list[Claim]:
    """Decide what training for proofs gains and costs."""
    more = f"{where}: {{}} proves more images than {{}}; difference of certified accuracy."
    clean = f"{where}: {{}} has a higher clean accuracy than {{}}; difference."
    wanted = [
        (more, IBP, PGD_AT, "proven", GOWAL),
        (clean, PGD_AT, IBP, "right", GOWAL),
        (more, SABR, IBP, "proven", MUELLER),
        (clean, SABR, IBP, "right", MUELLER),
        (more, MTL_IBP, IBP, "proven", DE_PALMA),
        (clean, MTL_IBP, IBP, "right", DE_PALMA),
    ]
    there = ends.networks
    return [
        claim(text.format(a, b), source, ends.gap(a, b, field), MIN_DIFFERENCE)
        for text, a, b, field, source in wanted
        if a in there and b in there
    ]


def _of_tightness(ends: Ends, where: str) -> list[Claim]:
    """Decide how much lies between both ends, and what relaxation adds to intervals."""
    made = []
    for name in (n for n in (STANDARD, PGD_AT, TRADES) if n in ends.networks):
        text = f"{where}: intervals prove at most 5 % of the images of {name}; share that is not proven."
        made.append(claim(text, GOWAL, ends.mean(name, "by_intervals").complement(), 0.95))
    for name in (n for n in PROVABLE if n in ends.networks):
        text = f"{where}: at most {NARROW:.0%} of the images of {name} are open; share that is not."
        made.append(claim(text, OWN, ends.open(name).complement(), 1 - NARROW))
    if IBP in ends.networks:
        added = ends.figure([IBP], lambda rows: 1 - (rows[0]["proven"] - rows[0]["by_intervals"]))
        text = f"{where}: on IBP, relaxation proves at most {NARROW:.0%} more than intervals; 1 minus the difference."
        made.append(claim(text, JOVANOVIC, added, 1 - NARROW))
    if CNN_A in ends.networks:
        text = f"{where}: {CNN_A} needs branching: fewer images are proven here than by beta-CROWN; share not proven."
        made.append(claim(text, WANG, ends.mean(CNN_A, "proven").complement(), 1 - PUBLISHED))
    return made
