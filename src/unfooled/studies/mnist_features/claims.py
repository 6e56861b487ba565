"""Claims of the MNIST features study: the published tables, the controls, and networks under attack."""

from __future__ import annotations

from itertools import pairwise

from unfooled.statistics.bootstrap import discrete_mean
from unfooled.statistics.intervals import Interval
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim, lowest
from unfooled.studies.common.feature_results import Accuracies, AttackedAccuracies
from unfooled.studies.common.records import Claim
from unfooled.studies.mnist_features.scale import AS_TABLED, FIVE, PUBLISHED

SOURCE, ILYAS = "xziyue/robust_mnist_feature_py 2019", "Ilyas et al. 2019, arXiv:1905.02175"
REAL = "Li et al. 2023, arXiv:2310.18936"
ARMS = ("faithful", AS_TABLED, "converged")
TABLE_1 = {"standard": (0.829, 0.549, 0.808, 0.727, 0.977), "group": (0.968, 0.967, 0.969, 0.950, 0.972)}
TABLE_2 = {"group set": (0.792, 0.822, 0.908, 0.876, 0.960), "non-robust set": (0.856, 0.434, 0.865, 0.657, 0.954)}
"""The published accuracies, in the order of `FIVE`. The networks that are called group here are called robust there."""
MAX_SHORTFALL = 0.03
"""Largest distance below the published figure that still counts as reproduced."""
CORRUPTED = (0, 1, 2, 3)
"""Columns of the four corruptions that change an image."""
PAIRS = (
    *((f"group, {arm}", f"standard, {arm}", "unfooled") for arm in ("faithful", "converged")),
    *((f"{name} set", "originals", "unfooled") for name in ("group", "non-robust")),
)
"""Networks whose gradients are compared, and the source of the claim."""
CONTROLS = (
    ("group set", "originals", "the group set makes a network more invariant than as many originals do", ILYAS),
    ("group set", "untrained set", "it does so more than a set rebuilt from an untrained network", "unfooled"),
    ("originals, corrupted", "group set", "corrupting the originals would have done better", "unfooled"),
    ("originals", "non-robust set", "the non-robust set makes a network less invariant than originals", ILYAS),
    ("group set, cleaned", "originals, cleaned", "so does the cleaned group set, beside cleaned originals", "unfooled"),
    ("group set, cleaned", "untrained set, cleaned", "and beside the cleaned set of an untrained one", "unfooled"),
)
"""`(first, second, claim, source)`; each claims that the first network is more accurate under the corruptions."""


def claims_of_training(accuracies: Accuracies, *, published: bool) -> list[Claim]:
    """Decide the claims of table 1: the ten figures, and their order.

    Args:
        accuracies: Accuracies of the encoders.
        published: True if the data are the source's, so that figures can be compared.
    """
    claims = []
    for arm in ARMS:
        names = {network: f"{network}, {arm}" for network in TABLE_1 if f"{network}, {arm}" in accuracies}
        shifted = []
        for network, name in names.items():
            for group, reported, figure in zip(FIVE, TABLE_1[network], accuracies.accuracy(name), strict=True):
                text = f"Table 1, {name}, {group}: accuracy within 3 points of the published {reported:.3f}, or better."
                if published and arm != "converged":
                    claims.append(claim(text, SOURCE, figure, reported - MAX_SHORTFALL))
                shifted.append(
                    Interval(figure.value - reported, figure.low - reported, figure.high - reported, figure.n)
                )
        if published and arm == "converged" and shifted:
            text = f"Table 1, {arm}: each of the ten figures is so; the least difference to the published one."
            claims.append(claim(text, SOURCE, lowest(shifted), -MAX_SHORTFALL))
        if len(names) == 2:
            claims += _order_of_table_1(accuracies, arm, names["group"], names["standard"])
    return claims


def _order_of_table_1(accuracies: Accuracies, arm: str, group: str, standard: str) -> list[Claim]:
    """Decide the order of the two networks under each corruption, and of the corruptions for the standard one."""
    gaps = [accuracies.gap(group, standard, [k]) for k in CORRUPTED]
    order = sorted(range(5), key=lambda k: -TABLE_1["standard"][k])
    right = accuracies.correct(standard)
    steps = [discrete_mean(right[:, a] - right[:, b]) for a, b in pairwise(order)]
    helps = f"Table 1, {arm}: training on the worst of five helps under each corruption; the least gain."
    ranks = f"Table 1, {arm}: the standard network's order is {', '.join(FIVE[k] for k in order)}; the least step."
    return [claim(helps, SOURCE, lowest(gaps), MIN_DIFFERENCE), claim(ranks, SOURCE, lowest(steps), MIN_DIFFERENCE)]


def claims_of_sets(accuracies: Accuracies) -> list[Claim]:
    """Decide the claims of table 2: the published pattern, at equal updates and by the published rule, and controls."""
    claims = []
    for rule, ending in (("equal updates", ""), ("published rule", PUBLISHED)):
        a, b = (f"{name}{ending}" for name in TABLE_2)
        if a not in accuracies or b not in accuracies:
            continue
        for k, group in enumerate(FIVE):
            reported = TABLE_2["group set"][k] - TABLE_2["non-robust set"][k]
            first, second = (a, b) if reported > 0 else (b, a)
            text = f"Table 2, {rule}, {group}: {first} before {second} (published {abs(reported):.3f}); difference."
            claims.append(claim(text, SOURCE, accuracies.gap(first, second, [k]), MIN_DIFFERENCE))
    for first, second, says, source in CONTROLS:
        if first in accuracies and second in accuracies:
            text = f"Table 2, controls: {says}; {first} minus {second}, mean of the four corruptions."
            claims.append(claim(text, source, accuracies.gap(first, second, CORRUPTED), MIN_DIFFERENCE))
    for name in ("group set", "non-robust set"):
        for one in accuracies.rows.get(f"{name}, class of the start", []):
            text = f"Table 2, controls: the class of the start can be read off the {name}; accuracy at least .2."
            if one.own is not None:
                claims.append(claim(text, "unfooled", one.own.interval(), 0.2))
    return claims


def claims_of_attacks(attacked: AttackedAccuracies) -> list[Claim]:
    """Decide claims that the source did not measure: are these networks robust?"""
    claims = []
    for norm, radii in attacked.radii.items():
        k, rows = len(radii) // 2, attacked.rows[norm]
        at = f"{norm} {radii[k]:g}"
        if "group, faithful" in rows:
            text = f"Under attack, {at}: the network trained on the worst of five keeps half of its images."
            claims.append(claim(text, SOURCE, attacked.accuracy(norm, "group, faithful", k), 0.5))
        for name, source in (("group set", ILYAS), ("non-robust set", "unfooled")):
            if name in rows and "originals" in rows:
                text = f"Under attack, {at}: the {name} makes a network more robust than originals do; difference."
                claims.append(claim(text, source, attacked.gap(norm, name, "originals", k), MIN_DIFFERENCE))
        if "group set" in rows:
            text = f"Under attack, {at}: the network trained on the group set is wrong on at least nine tenths."
            claims.append(claim(text, REAL, attacked.accuracy(norm, "group set", k).complement(), 0.9))
    return claims
