"""Expectation over transformation: the mean of several draws of a random model.

    mean_k f_k(x),   f_k the k-th draw of the model

References:
    Athalye, Engstrom, Ilyas, Kwok, Synthesizing robust adversarial examples, ICML 2018, arXiv:1707.07397 (EOT).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unfooled.attacks.gradients.custom import check_count
from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model


@dataclass(frozen=True)
class Averaged:
    """Mean logits of a random model over several draws, whose gradient is the expected gradient.

    Args:
        model: Any callable to logits that draws random numbers at every call.
        draws: Model evaluations averaged, at least 1; multiplies the cost of a forward and of a backward.

    References:
        arXiv:1707.07397, eq. 2. Differs from it: the expectation is over the model, not over changes of the scene.
    """

    model: Model
    draws: int = 20

    def __post_init__(self) -> None:
        check_count(self.draws)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the mean logits, (B, K)."""
        total = logits_from(self.model, x)
        for _ in range(self.draws - 1):
            total = total + logits_from(self.model, x)
        return total / self.draws
