"""Randomized smoothing by its name: the text "smoothing:0.25", the threats that it fits, and the method of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.certification.ablation import ablate, ablated_ceiling, movable
from unfooled.certification.smoothing import SmoothedRadius, ceiling, check_draws, smooth
from unfooled.core.errors import BadInput
from unfooled.core.threats import L0, Threat
from unfooled.core.types import Model

NAME = "smoothing"


@dataclass(frozen=True)
class Smoothing:
    """Randomized smoothing with noise of a size.

    Attributes:
        size: Standard deviation of Gaussian noise in L2, scale of Laplace noise in L1, entries or pixels that stay in
            L0.
        first: Draws that select the class.
        draws: Draws that bound its probability; they limit the radius.
        failure: Probability that the radius of a sample is too large, at most.
    """

    size: float
    first: int = 100
    draws: int = 1000
    failure: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.size < math.inf:
            raise BadInput(f"the noise of smoothing has size {self.size:g}; give one above 0, such as smoothing:0.25")
        check_draws(self.first, self.draws, self.failure)

    @classmethod
    def of(cls, text: str, *, draws: int = 1000) -> Self | None:
        """Return the smoothing that a text such as "smoothing:0.25" names; None for another text.

        Raises:
            BadInput: The size is missing, or is no number above 0.
        """
        name, _, size = text.partition(":")
        if name != NAME:
            return None
        top, _, bottom = size.partition("/")
        try:
            noise = float(top) / float(bottom or 1)
        except (ValueError, ZeroDivisionError):
            raise BadInput("smoothing needs the size of the noise, above 0, such as smoothing:0.25") from None
        return cls(noise, draws=draws)

    def __str__(self) -> str:
        return f"{NAME}:{self.size:g}"

    def check(self, threat: Threat, shape: tuple[int, ...]) -> None:
        """Refuse a threat in which no radius can be proven.

        Args:
            threat: Constraint set.
            shape: Shape of a sample.

        Raises:
            BadInput: A norm that smoothing does not bound, as many entries that stay as there are, or radii that the
                draws cannot give.
        """
        self.check_norm(threat)
        if isinstance(threat, L0) and self.size >= (entries := _movable(threat, shape)):
            raise BadInput(f"{self} keeps all of the {entries} {_entries(threat)} that may change; give fewer")
        eps = float(torch.as_tensor(threat.eps, dtype=torch.float64).min())
        most = self.ceiling(threat, shape)
        if eps > most or not most:
            raise BadInput(
                f"{self} with {self.draws:,} draws proves no radius above {most:.3g}, and eps is {eps:g}; "
                f"{self._remedy(threat, shape, eps, most)}"
            )

    def check_norm(self, threat: Threat) -> None:
        """Refuse a norm that smoothing does not bound, and a part of an entry in L0."""
        if threat.norm not in (2, 1, 0):
            raise BadInput(
                f"smoothing bounds changes in L2, L1 or L0, and the threat is {threat}; in linf its radius would be "
                "that of L2 divided by the root of the number of entries"
            )
        if threat.norm == 0 and self.size != int(self.size):
            raise BadInput("smoothing needs a whole number of entries that stay in l0, such as smoothing:45")

    def check_model(self, model: Model, x: Tensor, threat: Threat) -> None:
        """Refuse a model that fails on samples with noise, which leave the unit box.

        Args:
            model: Any callable to logits.
            x: Inputs, of which the first one is tried.
            threat: L2, L1 or L0 threat.
        """
        try:
            replace(self, first=1, draws=1).radii(model, x[:1], threat.take(torch.zeros(1, dtype=torch.int64)))
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(
                f"the model fails on a sample with the noise of {self}, which leaves [0, 1] ({first}); let the model "
                "cut its inputs to [0, 1] itself, or leave smoothing out"
            ) from error

    def _remedy(self, threat: Threat, shape: tuple[int, ...], eps: float, most: float) -> str:
        """Say what would do."""
        if isinstance(threat, L0):
            low, high = 0, int(self.size) - 1  # the ceiling falls with the number of entries that stay
            while low < high:
                middle = (low + high + 1) // 2
                fits = self._ceiling_of(middle, threat, shape) >= max(eps, 1.0)
                low, high = (middle, high) if fits else (low, middle - 1)
            return f"give smoothing:{low} or less" if low else "give fewer changed entries, or more draws"
        if not most:
            return f"give at least {1 + math.floor(math.log(self.failure) / math.log(0.5)):,} draws"
        return f"give smoothing:{math.ceil(1000 * self.size * eps / most) / 1000:g} or more"

    def ceiling(self, threat: Threat, shape: tuple[int, ...]) -> float:
        """Return the largest radius that the draws can give."""
        if isinstance(threat, L0):
            return self._ceiling_of(int(self.size), threat, shape)
        return ceiling(self.size, self.draws, norm=threat.norm, failure=self.failure)

    def _ceiling_of(self, keep: int, threat: L0, shape: tuple[int, ...]) -> float:
        return ablated_ceiling(_movable(threat, shape), keep, self.draws, self.failure)

    def radii(
        self, model: Model, x: Tensor, threat: Threat, *, batch: int = 1000, seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> SmoothedRadius:  # fmt: skip
        """Classify under noise, and bound how far each sample can move, in the norm of a threat.

        Args:
            model: Any callable to logits, (B, *D) -> (B, K). Not modified.
            x: Inputs in the unit box, (B, *D).
            threat: L2, L1 or L0 threat; entries that it fixes get no noise.
            batch: Samples computed at once.
            seed: Random seed.
            progress: Called with the number of samples done.

        Returns:
            Predictions and radii. Cost: first + draws forwards a sample.
        """
        first, draws, failure, free = self.first, self.draws, self.failure, threat.free
        if isinstance(threat, L0):
            return ablate(
                model, x, keep=int(self.size), per=threat.per, first=first, draws=draws, failure=failure, free=free,
                batch=batch, seed=seed, progress=progress,
            )  # fmt: skip
        return smooth(
            model, x, sigma=self.size, norm=threat.norm, first=first, draws=draws, failure=failure, free=free,
            batch=batch, seed=seed, progress=progress,
        )  # fmt: skip

    def radius_tried(self, threat: Threat, radius: float) -> Tensor:
        """Return eps times a number, at which figures are stated, a number or (B,): whole numbers in L0."""
        tried = torch.as_tensor(threat.eps, dtype=torch.float64).cpu() * radius
        return tried.floor() if isinstance(threat, L0) else tried


def _movable(threat: L0, shape: tuple[int, ...]) -> int:
    """Return the number of entries, or pixels, that may change."""
    return int(movable(shape, threat.per, threat.free).sum())


def _entries(threat: L0) -> str:
    return "pixels" if threat.per == "pixel" else "entries"
