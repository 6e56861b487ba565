"""Every training loss through the one contract of its family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from tests.unit.test_attribution_training import losses as attributional
from tests.unit.test_fast_training import NAMES as FAST
from tests.unit.test_fast_training import losses as fast
from tests.unit.test_latent_clusters import make as make_latent
from torch import Tensor

from unfooled import training
from unfooled.attacks.gradients import identity
from unfooled.certification import interval_margins, relaxed_margins
from unfooled.core.threats import L2, Linf, Threat
from unfooled.core.types import TrainingLoss
from unfooled.purification import guard
from unfooled.testing import check_loss
from unfooled.training import CrownIbp, GroupWorst, Ibp, Madry, MtlIbp, Sabr, Standard, Through, Trades, arp

THREATS = (Linf(0.05), L2(0.3))


@dataclass(frozen=True)
class Row:
    """A loss and what it claims (keywords of `check_loss`).

    Attributes:
        make: Function of a threat that builds the loss.
        claims: Keywords.
        threats: Threats to build it with.
    """

    make: Callable[[Any], TrainingLoss]
    claims: Mapping[str, Any] = field(default_factory=dict)
    threats: tuple[Threat, ...] = THREATS


def nth_fast(i: int, threat: Any) -> TrainingLoss:
    loss: TrainingLoss = fast(threat)[i]
    return loss


def attributional_by(name: str, threat: Any) -> TrainingLoss:
    loss: TrainingLoss = attributional(threat)[name]
    return loss


def shifted_copies(x: Tensor) -> Tensor:
    return torch.stack([x.roll(i, -1) for i in range(3)], 1)


GENTLE = (Linf(0.05),)
HARDER = {"falls": None}
"""The clean loss alone falls: warm starts and ramps make the attack harder while the network learns."""
SECOND = {"lr": 1e-2, "standard_at_zero": False}
"""Losses with a term of their own, which stays where eps is 0."""
WITHOUT_THREAT = {"r2et", "r2et exp", "input-gradient", "input-gradient madry"}
ROWS = {
    "standard": Row(lambda threat: Standard(), {"falls": 0.8}, GENTLE),
    "smoothed": Row(lambda threat: Standard(0.1), {"falls": 0.8}, GENTLE),
    "madry": Row(partial(Madry, steps=3), {"falls": 0.8}),
    "madry and clean": Row(partial(Madry, steps=2, clean=0.5), {"falls": 0.8}),
    "trades": Row(partial(Trades, steps=3), {"falls": 0.8}),
    "through a purifier": Row(
        lambda threat: Through(Madry(threat, steps=3), partial(guard, purify=identity)), {"falls": 0.8}, GENTLE
    ),
    "ibp": Row(partial(Ibp, margins=interval_margins), HARDER, GENTLE),
    "crown-ibp": Row(partial(CrownIbp, margins=interval_margins, relaxed=relaxed_margins), HARDER, GENTLE),
    "sabr": Row(partial(Sabr, margins=interval_margins, steps=2), HARDER, GENTLE),
    "mtl-ibp": Row(partial(MtlIbp, margins=interval_margins, steps=2), HARDER, GENTLE),
    "latent-clusters": Row(
        partial(make_latent, weight=0.01), {"lr": 1e-2, "standard_at_zero": False, "falls": None}, GENTLE
    ),
    "arp": Row(partial(arp, steps=2), SECOND, GENTLE),
    "group-worst": Row(lambda threat: GroupWorst(shifted_copies), threats=GENTLE),
    **{name: Row(partial(nth_fast, i), HARDER) for i, name in enumerate(FAST)},
    **{
        name: Row(partial(attributional_by, name), {**SECOND, "standard_at_zero": True})
        for name in attributional(Linf(0.05))
        if name not in WITHOUT_THREAT
    },
    **{name: Row(partial(attributional_by, name), SECOND, GENTLE) for name in sorted(WITHOUT_THREAT)},
}


def with_new_ones(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Add the public losses that no row is about and that need a threat at most; of these, eps = 0 is not claimed."""
    known = {type(row.make(row.threats[0])) for row in rows.values()}
    new = {}
    for name in training.__all__:
        value: Any = getattr(training, name)
        if inspect.isclass(value) and value not in known and "__call__" in vars(value):
            first, *others = inspect.signature(value).parameters.values()
            taken = list(inspect.signature(value.__call__).parameters)
            optional = all(p.default is not p.empty for p in others)
            if taken == ["self", "model", "x", "y"] and optional and first.name == "threat":
                make: Callable[[Any], TrainingLoss] = getattr(training, name)
                new[name] = Row(make, {"falls": None, "standard_at_zero": False})
    return {**rows, **new}


CASES = [
    pytest.param(row, threat, id=f"{name}-{threat}")
    for name, row in with_new_ones(ROWS).items()
    for threat in row.threats
]


@pytest.mark.parametrize(("row", "threat"), CASES)
def test_contract(row: Row, threat: Threat) -> None:
    check_loss(row.make(threat), **row.claims)


def test_a_loss_without_a_row_is_checked_all_the_same() -> None:
    assert {"Madry", "Trades", "Fast", "Free"} <= set(with_new_ones({}))
