"""Cases of the broken-defences study: models to judge, with the facts known about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unfooled.core.types import Model
from unfooled.studies.broken_defences import defences as d
from unfooled.studies.broken_defences import parts

Kind = Literal["broken", "refused", "honest"]


@dataclass(frozen=True)
class Case:
    """One model to be judged.

    Attributes:
        number: Number; 1 to 32 are defences, honest networks follow.
        name: Name in tables.
        hides: One sentence: what it hides, and how.
        make: Trained network -> model.
        kind: "broken" has no robustness; "refused" cannot be judged at all; "honest" hides nothing.
        quiet: True if the first attack may already fool it, so that no finding is needed.
        network: Recipe of the network that `make` takes.
        twin: Trained network -> model that an attack which knows the defence differentiates.
        random: True if outputs change from call to call.
        eps: Radius in Linf; None: the scale's.
    """

    number: int
    name: str
    hides: str
    make: Callable[[nn.Module], nn.Module]
    kind: Kind
    quiet: bool = False
    network: str = "standard"
    twin: Callable[[nn.Module], Model] = d.plain
    random: bool = False
    eps: float | None = None

    @property
    def key(self) -> str:
        """Number and name as a file's name."""
        return f"{self.number:02}-" + "".join(c if c.isalnum() else "-" for c in self.name).strip("-")


def _case(number: int, make: Callable[[nn.Module], nn.Module], kind: Kind = "broken", **options: Any) -> Case:
    return Case(number, make.__name__.replace("_", " "), make.__doc__ or "", make, kind, **options)


def _honest(number: int, network: str) -> Case:
    return Case(number, network, "Hides nothing.", d.plain, "honest", network=network)


def _jittered(base: nn.Module) -> Model:
    """Average the outputs of five noisy points: its gradient is valid for some distance."""
    return lambda x: torch.stack([base(x + 0.05 * torch.randn_like(x)) for _ in range(5)]).mean(0)


def _soft_thermometer(base: nn.Module) -> Model:
    """Encode pixels as ramps instead of steps."""
    assert isinstance(base, parts.Around)
    return parts.Around(base.base, before=partial(parts.thermometer, soft=True))


def _leaky_clamp(base: nn.Module) -> Model:
    """Clamp as the defence does, but with the gradient of a straight line."""
    assert isinstance(base, parts.Around)

    def before(x: Tensor) -> Tensor:
        hard, line = parts.ramp(x), 2 * x
        return hard.detach() + line - line.detach()

    return parts.Around(base.base, before=before)


CASES: tuple[Case, ...] = (
    _case(1, d.eight_levels),
    _case(2, d.thermometer_code, network="thermometer", twin=_soft_thermometer),
    _case(3, d.dct_rounding),
    _case(4, d.zero_backward),
    _case(5, d.detached),
    _case(6, d.numpy_hop),
    _case(7, d.flipped_backward),
    _case(8, d.noise_backward),
    _case(9, d.tiny_gradient),
    _case(10, d.softmax),
    _case(11, d.softmax_twice),
    _case(12, d.large_logits, quiet=True),
    _case(13, d.distilled, quiet=True, network="distilled"),
    _case(14, d.tanh_logits),
    _case(15, d.rounded_scores),
    _case(16, d.labels_only),
    _case(17, d.random_resize, random=True),
    _case(18, d.gaussian_noise, random=True),
    _case(19, d.test_time_dropout, random=True),
    _case(20, d.hashed_noise),
    _case(21, d.k_winners, network="k-winners", twin=_jittered),
    _case(22, d.step_activation, network="step"),
    _case(23, d.purifier),
    _case(24, d.argmax_vote),
    _case(25, d.flat_clamp, network="clamped", twin=_leaky_clamp),
    _case(26, d.duplicated),
    _case(27, d.fgsm_overfitted, quiet=True, network="fgsm"),
    _case(28, d.query_detector, "refused"),
    _case(29, d.training_mode, "refused", network="batch-norm"),
    _case(30, d.nan_off_grid, "refused"),
    _case(31, d.eps_in_levels, "refused", eps=8.0),
    _case(32, d.undeclared_reject, "refused"),
    _honest(33, "standard"),
    _honest(34, "pgd-at, half eps"),
    _honest(35, "pgd-at"),
    _honest(36, "trades, half eps"),
    _honest(37, "trades"),
    _honest(38, "ibp"),
    _honest(39, "linear"),
    _honest(40, "two classes"),
    _honest(41, "softplus"),
)
