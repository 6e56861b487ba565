"""A row of a family's list: a method, and what it is said to do. `unfooled.testing` checks the rest of it by itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from tests.conftest import linear, points
from torch import Tensor

from unfooled import attacks
from unfooled.core.ascent.nearest import NORMS
from unfooled.testing import check_attack
from unfooled.testing.attacks import PROMISES

ALL = (math.inf, 2.0, 1.0, 0.0)


@dataclass(frozen=True)
class Row:
    """An attack on the label.

    Attributes:
        function: The attack.
        norms: Norms that it is for.
        options: Its options.
        facts: Keywords of `check_attack`: what it claims.
        special: Options of their own for some promises, by the promise's name.
        keeps_start: Whether it never ends farther than the `start` that it is given.
    """

    function: Callable[..., Tensor]
    norms: tuple[float, ...] = ALL
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keeps_start: bool = False

    def __call__(self, *args: Any, **more: Any) -> Tensor:
        """Attack with the options of the row."""
        return self.function(*args, **{**self.options, **more})

    def bound(self, **more: Any) -> Callable[..., Tensor]:
        """Return the attack with its options, and more of them, bound."""
        return partial(self.function, **{**self.options, **more})

    def check(self, norm: float) -> None:
        """Run the whole contract in one norm."""
        plain = [name for name in PROMISES if name not in self.special]
        check_attack(self.bound(), norms=[norm], only=plain, **self.facts)
        for name, options in self.special.items():
            check_attack(self.bound(**options), norms=[norm], only=[name], **self.facts)


def pairs(rows: Mapping[str, Row]) -> list[Any]:
    """Return every row in every norm of its, as pytest's parameters."""
    return [pytest.param(row, norm, id=f"{name}-{norm:g}") for name, row in rows.items() for norm in row.norms]


def attacks_of(fourth: str) -> dict[str, Callable[..., Tensor]]:
    """Return the public attacks on the label whose fourth parameter is this, and that need no other."""
    found: dict[str, Callable[..., Tensor]] = {}
    for name in attacks.__all__:
        value = getattr(attacks, name)
        if inspect.isfunction(value):
            parameters = list(inspect.signature(value).parameters.values())
            optional = all(p.default is not p.empty for p in parameters[4:])
            if len(parameters) > 4 and parameters[3].name == fourth and optional:
                found[name] = value
    return found


def with_new_ones(rows: Mapping[str, Row], fourth: str) -> dict[str, Row]:
    """Add the public attacks that no row names: with their defaults, in the norms that they do not refuse."""
    known = [row.function for row in rows.values()]
    new = {name: Row(f, norms_of(f, fourth)) for name, f in attacks_of(fourth).items() if f not in known}
    return {**rows, **new}


def norms_of(attack: Callable[..., Tensor], fourth: str) -> tuple[float, ...]:
    """Return the norms that an attack does not refuse."""
    model, x = linear(2, (2, 2)), points(1, (2, 2))
    found = []
    for norm in ALL:
        try:
            attack(model, x, model(x).argmax(1), norm if fourth == "norm" else NORMS[norm](1.0))
            found.append(norm)
        except ValueError:
            pass
    return tuple(found)
