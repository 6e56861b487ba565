"""Contract checks of training losses: `(model, x, y) -> scalar`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.types import TrainingLoss
from unfooled.testing.promises import Snapshot, close, differs_by, name_of, require, run_checks
from unfooled.testing.subjects import brightest_third, tiny_net
from unfooled.training.batches import Batches
from unfooled.training.loop import train
from unfooled.training.progress import replays_of, scaled_by, threat_of

PROMISES = ("scalar", "untouched", "falls", "zero")
"""Names of the promises, in the order in which they are checked."""
SHAPE = (1, 6, 6)


def fresh_net(seed: int = 0) -> nn.Sequential:
    """Return a small network with random weights for `brightest_third`."""
    return tiny_net(3, SHAPE, seed=seed)


def fit(model: nn.Module, loss: TrainingLoss, *, epochs: int = 4, lr: float = 5e-3, **options: Any) -> list[float]:
    """Train on the toy problem with Adam, in the model's dtype, and return the mean loss of every epoch."""
    x, y = brightest_third()
    x = x.to(next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    return [epoch.loss for epoch in train(model, Batches(x, y, 32), loss, optimizer, epochs=epochs, **options)]


def check_loss(
    loss: TrainingLoss,
    *,
    only: Iterable[str] | None = None,
    falls: float | None = 0.9,
    lr: float = 5e-3,
    at_zero: TrainingLoss | None = None,
    standard_at_zero: bool = True,
) -> None:
    """Check that a training loss meets the contract of its family, on a toy problem of three classes.

    Always checked: the loss is a finite scalar ("scalar"); x, y and the model's modes are left unchanged, and gradients
    reach the trainable parameters and nothing else ("untouched"); training makes the clean cross-entropy and the loss
    itself fall, and leaves the global random generator unchanged ("falls"); if the loss has a threat, training with
    eps = 0 gives the same weights as standard training ("zero").

    Args:
        loss: Training loss with its options bound. It is copied for each promise, so that no memory is shared.
        only: Names of the promises to check, those in quotes above. None: all.
        falls: Claim that the mean loss of the last epoch is below this share of the first epoch's. None: not claimed,
            as for a loss whose attack grows stronger.
        lr: Learning rate on the toy problem.
        at_zero: The same loss with eps = 0. None: made from `loss`, a dataclass, by its fields `threat` and `base`.
        standard_at_zero: Claim that the loss equals standard training for eps = 0.

    Raises:
        AssertionError: One sentence that names the broken promise and the setting.
        ValueError: `only` names no promise.

    Example:
        >>> from unfooled.training import Madry
        >>> check_loss(Madry(Linf(0.05), steps=1))
    """
    zero = at_zero
    if zero is None and standard_at_zero and threat_of(loss) is not None:
        zero = _without_threat(loss)
    run_checks(_Case(loss, falls, lr, zero if standard_at_zero else None).promises(), only, loss)


def _without_threat(loss: Any) -> TrainingLoss:
    """Return the loss with every radius set to 0; a wrapper such as `Ramp` is replaced by its inner loss."""
    inner = getattr(loss, "loss", None)
    bare: TrainingLoss = scaled_by(loss if inner is None else inner, 0.0)
    return bare


@dataclass(frozen=True)
class _Standard:
    """Standard training with `replays` steps on each batch, for comparison."""

    replays: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class _Case:
    """One training loss."""

    loss: TrainingLoss
    falls_to: float | None
    lr: float
    at_zero: TrainingLoss | None

    def promises(self) -> dict[str, Callable[[], None]]:
        """Return the checks by name."""
        return {name: getattr(self, name) for name in PROMISES}

    def require(self, holds: bool | Tensor, sentence: str, where: str = "3 classes, (1, 6, 6), float32") -> None:
        require(holds, f"{name_of(self.loss)} {sentence} ({where})")

    # Promises

    def scalar(self) -> None:
        x, y = brightest_third(12)
        value = copy.deepcopy(self.loss)(fresh_net().train(), x, y)
        self.require(isinstance(value, Tensor), f"returns a {type(value).__name__} instead of a tensor")
        self.require(value.shape == (), f"returns shape {tuple(value.shape)} instead of a scalar")
        self.require(value.isfinite(), f"is {float(value.detach())}")
        self.require(value.requires_grad, "returns a value without a graph: nothing can be trained on it")

    def untouched(self) -> None:
        model = nn.Sequential(fresh_net(), nn.Dropout(0.1)).train()
        next(model.children()).eval()
        fixed, *others = model.parameters()
        fixed.requires_grad_(False)
        x, y = brightest_third(12)
        modes = [module.training for module in model.modules()]
        random_state = torch.get_rng_state()
        before = Snapshot(None, x=x, y=y)
        weights = [p.detach().clone() for p in model.parameters()]
        value = copy.deepcopy(self.loss)(model, x, y)
        self.require(all(p.grad is None for p in model.parameters()), "leaves gradients in the model's parameters")
        value.backward()
        torch.set_rng_state(random_state)  # a loss may draw from the global generator, which the training loop seeds
        before.require_unchanged(self.loss, "a network with dropout, one parameter frozen")
        now = [module.training for module in model.modules()]
        self.require(now == modes, "leaves the model in another mode (train or eval)")
        self.require(
            [p.requires_grad for p in model.parameters()] == [False] + [True] * len(others),
            "changes requires_grad of the model's parameters",
        )
        same = all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        self.require(same, "changes the model's parameters: that is the optimiser's work")
        self.require(fixed.grad is None, "gives a frozen parameter a gradient")
        reached = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in others)
        self.require(reached, "gives no finite gradient to some of the trainable parameters")

    def falls(self) -> None:
        model, state, (x, y) = fresh_net(), torch.get_rng_state(), brightest_third()
        first = F.cross_entropy(model(x), y).item()
        values = fit(model, copy.deepcopy(self.loss), epochs=6, lr=self.lr)
        last = F.cross_entropy(model(x), y).item()
        self.require(
            last < 0.8 * first,
            f"does not train: clean cross-entropy from {first:.3g} to {last:.3g}",
            "6 epochs",
        )
        if self.falls_to is not None:
            self.require(
                values[-1] < self.falls_to * values[0],
                f"does not fall: from {values[0]:.3g} to {values[-1]:.3g}",
                "6 epochs",
            )
        self.require(torch.equal(torch.get_rng_state(), state), "changes torch's global random generator in training")
        holds = not model.training and all(p.requires_grad for p in model.parameters())
        self.require(holds, "leaves the model in another state after training than before it")

    def zero(self) -> None:
        if self.at_zero is None:
            return
        plain, other = fresh_net().double(), fresh_net().double()  # float32's rounding would grow from step to step
        loss = copy.deepcopy(self.at_zero)
        fit(plain, _Standard(replays_of(loss)), epochs=2)
        fit(other, loss, epochs=2)
        for a, b in zip(plain.parameters(), other.parameters(), strict=True):
            self.require(
                close(b, a, rtol=1e-5, atol=1e-5),
                f"with eps = 0 trains other weights than standard training, by {differs_by(a, b)}",
                "2 epochs",
            )
