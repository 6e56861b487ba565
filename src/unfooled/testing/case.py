"""One attack in one norm, as the checks of `unfooled.testing.attacks` run and judge it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.ascent.nearest import NORMS
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.verify import Verdict, verify
from unfooled.testing.promises import close, name_of, require
from unfooled.testing.subjects import points, seeded_generator, tiny_net

Attacked = tuple[nn.Sequential, Tensor, Tensor, Threat, Tensor]
"""Network, samples, labels, threat, and the points of an attack."""
SHAPE = (1, 6, 5)
N_SAMPLES = 7
EPS = {math.inf: 0.05, 2.0: 0.25, 1.0: 0.6, 0.0: 1.0}
"""Radii, by norm, within which some of the samples of `setting` can be fooled and some cannot."""


def setting(norm: float, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Tensor, Tensor, Threat]:
    """Return a network, samples, labels and a threat: some samples can be fooled, the last is misclassified."""
    net, x = tiny_net(3, SHAPE, dtype=dtype), points(N_SAMPLES, SHAPE, dtype=dtype, seed=6)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[-1] = (y[-1] + 1) % 3
    return net, x, y, NORMS[norm](EPS[norm])


def has_parameter(attack: Callable[..., Tensor], option: str) -> bool:
    """Tell whether the attack has a parameter of this name."""
    return option in inspect.signature(attack).parameters


@dataclass(frozen=True)
class Claims:
    """Claims of an attack; see `check_attack`."""

    minimal: bool
    targeted: bool
    hit_rate: float
    seeded: bool
    random_start: bool
    optimum: float | None
    fewest_classes: int
    passes: tuple[int, int] | None
    device: str


@dataclass(frozen=True)
class Case:
    """One attack in one norm."""

    attack: Callable[..., Tensor]
    norm: float
    claims: Claims

    def setting(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, Tensor, Tensor, Threat]:
        """Return the setting of this norm on the device."""
        net, x, y, threat = setting(self.norm, dtype)
        return net.to(self.claims.device), x.to(self.claims.device), y.to(self.claims.device), threat

    def attacked(self, dtype: torch.dtype) -> Attacked:
        """Return the setting and the attack's points in it."""
        net, x, y, threat = self.setting(dtype)
        return net, x, y, threat, self.run(net, x, y, threat)

    @cached_property
    def base(self) -> Attacked:
        """Setting and points in float64, which several checks compare with."""
        return self.attacked(torch.float64)

    def run(
        self, model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int | None = None, **options: Any
    ) -> Tensor:
        """Attack; a minimal-norm attack gets the norm instead of the threat."""
        if seed is not None and has_parameter(self.attack, "generator"):
            options["generator"] = seeded_generator(seed)
        return self.attack(model, x, y, self.norm if self.claims.minimal else threat, **options)

    def judge(
        self, model: Model, x: Tensor, y: Tensor, z: Tensor, threat: Threat, *, targeted: bool = False
    ) -> Verdict:
        """Return the verdict on points; for a minimal-norm attack the whole box is allowed."""
        allowed = threat.with_eps(math.inf) if self.claims.minimal else threat
        return verify(model, x, y, z, allowed, targeted=targeted)

    def outcome(self, model: Model, x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> Tensor:
        """Return the values that must not depend on the batch, (B,): success, or the distance in minimal norm."""
        verdict = self.judge(model, x, y, z, threat)
        return verdict.distance if self.claims.minimal else verdict.success

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Return whether outcomes agree: success exactly, distances within 1 %."""
        return close(a, b, rtol=1e-2, atol=1e-4) if self.claims.minimal else torch.equal(a, b)

    def require(self, holds: bool | Tensor, sentence: str, threat: Threat | None = None) -> None:
        """Raise an AssertionError that names the attack and the threat or norm, unless the condition holds."""
        where = f"in the norm {self.norm:g}" if threat is None else f"{threat}"
        require(holds, f"{name_of(self.attack)} {sentence} ({where})")
