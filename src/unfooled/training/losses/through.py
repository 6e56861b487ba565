"""Training through a purifier: any loss, on the network behind it.

    min_theta  l(f_theta o P, x, y)

The purifier P is not trained. The inner attack of an adversarial loss and the gradient of the weights both pass through
it, so that the network is hardened as it is used.

References:
    Silva, Das, Scarff, Najafirad, Adaptive clustering of robust semantic representations for adversarial image
    purification, 2021, arXiv:2104.02155 (the purifier; they train the network without it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from unfooled.core.types import TrainingLoss
from unfooled.training.progress import Notes


@dataclass(frozen=True)
class Through:
    """A loss of the network behind a purifier. Cost: that of the loss, and the purifier at each of its forwards.

    Args:
        base: The loss, such as `Madry`; its schedule, repeats and memory are used.
        behind: Function that puts the purifier in front of a network, such as
            `partial(purification.guard, purify=purify)`.
    """

    base: TrainingLoss
    behind: Callable[[nn.Module], nn.Module]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.base(self.behind(model), x, y)

    @property
    def notes(self) -> Notes | None:
        """Notes of the loss."""
        return getattr(self.base, "notes", None)
