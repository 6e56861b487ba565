"""Units on the attributes of CUB-200-2011: its class table, and birds that are simulated from it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.counterfactuals import (
    AffineHead,
    attribute_interval,
    bayes_head,
    fit_head,
    flip_attributes,
    flip_distance,
    radius,
    within_covariance,
)
from unfooled.data.formats.birds import ClassTable, load_class_table
from unfooled.data.made.simulated_birds import simulate_birds
from unfooled.statistics.intervals import Interval
from unfooled.studies.attackability.figures import Results, share
from unfooled.studies.attackability.published import cutoffs
from unfooled.studies.attackability.records import Tables
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim, Table, array, listed

STEPS, DECAY, SIMULATED_DECAY = 1200, 1e-4, 3e-4
"""Steps of Adam on the class table, with its weight decay; weight decay of the head on simulated birds."""
LOWEST, HIGHEST = "published attackability, cut-off 1e-15", "published attackability, cut-off 1e-8"
TARGETED = 500
"""Number of simulated birds whose single-attribute intervals are computed, each to one random class."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Quantities = dict[str, tuple[float, ...]]
SMALL_SHARE = 0.1
"""Share up to which 3 points would be no comparison."""
SHARES = ("accuracy", "single-attribute")
"""First words of the figures that are shares."""
ROUNDING = 1e-12
AT_LEAST = ("accuracy, softmax", "accuracy, naive Bayes")
"""Figures that are expected to be at least as large, decided on the value measured."""
EXPECTED: Quantities = {
    "accuracy, softmax": (0.83,),
    "accuracy, naive Bayes": (0.95,),
    "nearest flip, l2": (0.05, 0.24, 0.44, 0.68, 1.01),
    "radius": (0.16, 0.76, 1.40, 2.19, 3.26),
    "whole attributes": (1, 1, 2, 3, 5),
    "single-attribute targeted intervals, not empty": (0.022,),
    "accuracy, 5, 10, 15 % of the attributes turned over": (0.73, 0.59, 0.42),
}
"""Figures of a prototype on other draws; quantiles (5, 25, 50, 75, 95 %) are those of correctly classified birds."""
EXPECTED_TABLE: Quantities = {
    "accuracy": (1.0,),
    "nearest flip, l2, median": (1.48,),
    "rank of the differences": (169,),
    LOWEST: (2.7e-7,),
    HIGHEST: (0.72,),
}


def class_table(seed: int) -> Tables:
    """Fit a head to the class table at 50 % without any defence, and score it at several cut-offs.

    Adam leaves the smallest singular values on their way to 0, and with them the score at the smallest cut-offs; a fit
    to the optimum has none of them.
    """
    began = time.perf_counter()
    e = load_class_table().present().double()
    head = fit_by_adam(e, seed)
    scores = cutoffs(head, e)
    optimum = cutoffs(fit_head(e, torch.arange(len(e)), decay=DECAY), e)
    figures: Quantities = {
        "accuracy": (float((head.logits(e).argmax(1) == torch.arange(len(e))).double().mean()),),
        "nearest flip, l2, median": (float(flip_distance(head, e).amin(1).median()),),
        "rank of the differences": (float(scores[0]["rank"].split()[0]),),
        **{name: (_score(scores, cutoff),) for name, cutoff in ((LOWEST, "1e-15"), (HIGHEST, "1e-08"))},
    }
    rows = compared(figures, EXPECTED_TABLE)
    scored = torch.tensor([float(row["published attackability"]) for row in scores], dtype=torch.float64)
    return Tables(
        name="table", tables={
            f"CUB's class table at 50 %, {len(e)} rows": rows,
            "CUB's class table: published score, mean of the rows": [
                {"fit": words, **row}
                for words, some in ((f"Adam, {STEPS:,} steps", scores), ("L-BFGS, to the optimum", optimum))
                for row in some
            ],
        },
        columns={
            "log10 scores": listed(scored.log10()), "as expected": [float(row["as expected"] == "yes") for row in rows],
        },
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def _score(scores: Table, cutoff: str) -> float:
    """Return the published score at one cut-off."""
    return next(float(row["published attackability"]) for row in scores if row["cut-off"] == cutoff)


def fit_by_adam(e: Tensor, seed: int) -> AffineHead:
    """Fit a softmax head with weight decay by Adam, from zero; row k of e is the only sample of class k."""
    torch.manual_seed(seed)
    used = e.any(0)
    weight = torch.zeros(len(e), int(used.sum()), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(e), dtype=torch.float64, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": DECAY}, {"params": [bias]}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = e[:, used] @ weight.T + bias
        torch.nn.functional.cross_entropy(logits, torch.arange(len(e))).backward()
        optimizer.step()
    whole = torch.zeros_like(e)
    whole[:, used] = weight.detach()
    return AffineHead(whole, bias.detach())


def simulated(n: int | None, seed: int) -> Tables:
    """Draw attributes for CUB's images from the class percentages, fit heads, and measure flips.

    Args:
        n: Test birds; None: all.
        seed: Random seed of the attributes.
    """
    began = time.perf_counter()
    table: ClassTable = load_class_table()
    drawn = simulate_birds(table.percent, table.y, seed).double()
    e, y, x, t = drawn[table.train], table.y[table.train], drawn[~table.train], table.y[~table.train]
    if n is not None:
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
        x, t = x[rows], t[rows]
    head, bayes = fit_head(e, y, len(table.classes), decay=SIMULATED_DECAY), bayes_head(table.percent.double() / 100)
    right, bayes_right = head.logits(x).argmax(1) == t, bayes.logits(x).argmax(1) == t
    flips, r = flip_distance(head, x).amin(1)[right], radius(head, x, within_covariance(e, y))[right]
    flipped = flip_attributes(head, x[right]).cost
    figures: Quantities = {
        "accuracy, softmax": (float(right.double().mean()),),
        "accuracy, naive Bayes": (float(bayes_right.double().mean()),),
        "nearest flip, l2": tuple(np.quantile(flips.numpy(), QUANTILES).tolist()),
        "radius": tuple(np.quantile(r.numpy(), QUANTILES).tolist()),
        "whole attributes": tuple(np.quantile(flipped.numpy(), QUANTILES, method="higher").tolist()),
        "single-attribute targeted intervals, not empty": (single_attribute_share(head, x, seed),),
        "accuracy, 5, 10, 15 % of the attributes turned over": accuracy_with_flips(head, x, t, seed),
    }
    rows_of_table = compared(figures, EXPECTED)
    columns = {
        "softmax": right, "naive Bayes": bayes_right,
        "as expected": torch.tensor([row["as expected"] == "yes" for row in rows_of_table]),
    }  # fmt: skip
    return Tables(
        name="simulated", tables={f"Simulated birds, {len(x):,}": rows_of_table},
        columns={name: listed(values.double()) for name, values in columns.items()},
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def single_attribute_share(head: AffineHead, x: Tensor, seed: int) -> float:
    """Return the share of attributes that alone lead to a random other class."""
    source = torch.Generator().manual_seed(seed)
    some = x[torch.randperm(len(x), generator=source)[:TARGETED]]
    target = torch.randint(head.c, (len(some),), generator=source)
    target = torch.where(target == head.logits(some).argmax(1), (target + 1) % head.c, target)
    low, high = attribute_interval(head, some, target)
    return float((low <= high).double().mean())


def accuracy_with_flips(head: AffineHead, x: Tensor, y: Tensor, seed: int) -> tuple[float, ...]:
    """Return the accuracy with 5, 10 and 15 % of the attributes flipped at random."""
    source = torch.Generator().manual_seed(seed)
    noisy = [(x - (torch.rand(x.shape, generator=source) < share_).double()).abs() for share_ in (0.05, 0.1, 0.15)]
    return tuple(float((head.logits(one).argmax(1) == y).double().mean()) for one in noisy)


def compared(figures: Quantities, expected: Quantities) -> Table:
    """Make rows of figures beside those expected, see `close`; of those in `AT_LEAST`, more is as expected, too."""
    return [
        {
            "figure": name, "here": " / ".join(f"{v:.3g}" for v in figures[name]),
            "expected": ("at least " if name in AT_LEAST else "") + " / ".join(f"{v:g}" for v in wanted),
            "as expected": "yes" if _expected(name, figures[name], wanted) else "no",
        }
        for name, wanted in expected.items()
    ]  # fmt: skip


def _expected(name: str, here: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    """Return whether all numbers of a figure are as expected."""
    share_ = name.startswith(SHARES)
    return all(
        a >= b if name in AT_LEAST else close(a, b, points=share_) for a, b in zip(here, wanted, strict=True)
    )  # fmt: skip


def close(a: float, b: float, *, points: bool = True) -> bool:
    """Return whether a figure is within 5 % of another one, or within 3 points of a share above .1.

    Args:
        a: The figure.
        b: The other one.
        points: True: they are shares. Of one up to .1, 3 points would be no comparison.
    """
    return abs(a - b) <= max(0.03 if points and b > SMALL_SHARE else 0.0, 0.05 * abs(b)) + ROUNDING


def bird_claims(results: Results) -> list[Claim]:
    """Decide the claims on the class table and the simulated birds."""
    made: list[Claim] = []
    for one in results.others:
        columns = {name: array(values) for name, values in one.columns.items()}
        if one.name == "table":
            factor = float(10 ** np.ptp(columns["log10 scores"]))
            spread = Interval(factor, factor, factor, len(columns["log10 scores"]))
            text = "The cut-off alone moves the published score of a head that nothing defends at least tenfold; ratio."
            made.append(claim(text, "unfooled", spread, 10.0))
        if one.name == "simulated":
            for name, least in (("softmax", 0.83), ("naive Bayes", 0.95)):
                text = f"Simulated birds: the {name} head names the class; accuracy, at least {least:g}."
                made.append(claim(text, "unfooled", share(columns[name]), least))
    return made
