"""Claims of the study of LIME under attack."""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.studies.common.claims import MIN_DIFFERENCE, claim
from unfooled.studies.common.records import Claim
from unfooled.studies.lime_shift.bench import ALL, LAST
from unfooled.studies.lime_shift.figures import Columns, table_columns
from unfooled.studies.lime_shift.scaffold import CONDITIONAL, LIME, NEIGHBOURS, SENSITIVE
from unfooled.studies.lime_shift.units import ATTACK, BASELINES, CLASSES, NOISE, SEED, Results, Scaffolded, hidden

OWN = "unfooled"
SLACK, RIBEIRO = "Slack et al. 2020, arXiv:1911.02508", "Ribeiro et al. 2016, arXiv:1602.04938"
ADEBAYO = "Adebayo et al. 2018, arXiv:1810.03292"
STABLE = 0.8
"""Top-k Jaccard index with other masks from which LIME counts as stable."""
UNRELATED = 0.5
"""Rank correlation under which the explanation of a network with new weights counts as unrelated."""
SEPARABLE = 0.8
"""AUC from which perturbed rows count as distinguishable from real ones."""


def claims(results: Results, top: int) -> list[Claim]:
    """Decide all claims on one data set."""
    where = results.task.source
    return [*_of_attacks(Columns.of(results.shifts), where), *_of_lime(Columns.of(results.own), where, top)]


def _of_attacks(shifts: Columns, where: str) -> list[Claim]:
    """Decide whether the attack moves explanations beyond noise and beyond LIME's own instability."""
    made = []
    for name in CLASSES:
        subject = f"{where}, {name} class: the attack"
        for other, words in ((NOISE, "equal noise"), (SEED, "other masks")):
            text = f"{subject} moves the explanation more than {words}; difference of the rank correlations."
            gap = shifts.gap(f"{other}, {name}, rank", f"{ATTACK}, {name}, rank")
            made.append(claim(text, OWN, gap, MIN_DIFFERENCE))
        text = f"{subject} turns the sign of more segments, beyond 2 standard errors, than equal noise; difference."
        gap = shifts.gap(f"{ATTACK}, {name}, flips", f"{NOISE}, {name}, flips")
        made.append(claim(text, OWN, gap, MIN_DIFFERENCE))
    return made


def _of_lime(own: Columns, where: str, top: int) -> list[Claim]:
    """Decide whether LIME is stable by itself, and whether it depends on the network's weights."""
    text = f"{where}: the leading {top} segments are the same at other masks; Jaccard index, at least {STABLE:g}."
    made = [claim(text, RIBEIRO, own.mean("seed, top"), STABLE)]
    for name in BASELINES:
        text = f"{where}: {name} moves the explanation more than other masks do; difference of the rank correlations."
        made.append(claim(text, OWN, own.gap("seed, rank", f"{name}, rank"), MIN_DIFFERENCE))
    for depth in (LAST, ALL):
        text = f"{where}: new weights in {depth} leave a rank correlation of at most {UNRELATED:g}; 1 minus it."
        made.append(claim(text, ADEBAYO, own.mean(f"{depth}, rank").complement(), 1 - UNRELATED))
    return made


def scaffold_claims(rows: Sequence[Scaffolded]) -> list[Claim]:
    """Decide whether a scaffold hides the bias, and whether other samplers find it."""
    auc = table_columns(rows, lambda row: row.auc)
    lost, innocent = table_columns(rows, _lost), table_columns(rows, hidden)
    shown = table_columns(rows, lambda row: [float(c == SENSITIVE) for c in row.scaffold])
    detected = f"Table: rows perturbed as LIME perturbs them can be told from real ones; AUC, at least {SEPARABLE:g}."
    misled = "Table: LIME's leading column of the scaffold is the innocent one for at least half of the rows; share."
    hides = "Table: the scaffold hides the sensitive column, which leads in the bare model, from LIME; difference."
    made = [
        claim(detected, SLACK, auc.mean(LIME), SEPARABLE),
        claim(misled, SLACK, innocent.mean(LIME), 0.5),
        claim(hides, SLACK, lost.mean(LIME), MIN_DIFFERENCE),
    ]
    for name in (CONDITIONAL, NEIGHBOURS):
        harder = f"Table: rows of the sampler {name} are harder to tell from real ones; difference of the AUC."
        finds = f"Table: the sampler {name} finds the sensitive column more often than LIME's; difference."
        made += [
            claim(harder, OWN, auc.gap(LIME, name), MIN_DIFFERENCE),
            claim(finds, OWN, shown.gap(name, LIME), MIN_DIFFERENCE),
        ]
    return made


def _lost(row: Scaffolded) -> list[float]:
    """Return for each row whether the sensitive column leads in the bare model, less whether in the scaffold."""
    pairs = zip(row.biased, row.scaffold, strict=True)
    return [float(bare == SENSITIVE) - float(covered == SENSITIVE) for bare, covered in pairs]
