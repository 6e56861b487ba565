"""Training on the worst of a few versions of each sample, or on versions drawn at random.

GroupWorst   min_theta  mean max_g CE(f(x_g), y)
Augmented    min_theta  mean loss(f, a(x), y),   a a random change, drawn in every step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import evaluating
from unfooled.core.types import Loss, TrainingLoss
from unfooled.runs.spelling import spelled
from unfooled.training.losses.standard import Standard
from unfooled.training.progress import Notes, memory_of


@dataclass(frozen=True, repr=False)
class GroupWorst:
    """Mean loss at each sample's worst version, of G. Cost: G + 1 forwards, 1 backward.

    Robust optimisation over a finite set: the network becomes invariant to these versions, not robust to attacks.

    Args:
        groups: Function from x (B, *D) to versions (B, G, *D), such as `unfooled.features.groups`.
        inner: Loss `(logits, y) -> (B,)` that selects the worst version and is then minimised.

    Raises:
        BadInput: groups returns another shape.

    References:
        xziyue/robust_mnist_feature_py, 2019 (five corruptions of MNIST).
        Sagawa et al., Distributionally robust neural networks for group shifts, ICLR 2020, arXiv:1911.08731 (the worst
        group on average; here each sample has its own worst).
        Differs: the model is in eval mode while the worst version is selected.
    """

    groups: Callable[[Tensor], Tensor]
    inner: Loss = cross_entropy

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        versions = self.groups(x)
        if versions.ndim != x.ndim + 1 or versions.shape[0] != len(x) or versions.shape[2:] != x.shape[1:]:
            raise BadInput(f"groups returned {tuple(versions.shape)} for {tuple(x.shape)}; it must return (B, G, *D)")
        with torch.no_grad(), evaluating(model):
            losses = torch.stack([self.inner(model(version), y) for version in versions.unbind(1)], 1)
        worst = versions[torch.arange(len(x), device=x.device), losses.argmax(1)]
        return self.inner(model(worst), y).mean()

    __repr__ = spelled


@dataclass(frozen=True, repr=False)
class Augmented:
    """A base loss on randomly changed samples. Cost: that of the base loss.

    Args:
        change: Function `(x, *, seed) -> x`, such as `unfooled.features.random_group` or one corruption. The seed
            is drawn from torch's global generator, which the training loop seeds in every step.
        base: Loss on the changed samples; may be a `Ramp`.

    Raises:
        BadInput: The loss stores perturbations of samples from step to step (warm starts, `Free`).
    """

    change: Callable[..., Tensor]
    base: TrainingLoss = Standard()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if memory_of(self.base) is not None:
            raise BadInput(f"{self.base} keeps perturbations of samples, which are drawn anew; leave one of them out")

    @property
    def notes(self) -> Notes | None:
        """The notes of the base loss."""
        return getattr(self.base, "notes", None)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.base(model, self.change(x, seed=int(torch.randint(1 << 62, ()))), y)

    __repr__ = spelled
