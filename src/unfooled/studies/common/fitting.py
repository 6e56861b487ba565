"""Training for studies: networks are built from a seed, and read if an earlier start has trained them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.core.types import TrainingLoss
from unfooled.runs.chunks import Progress
from unfooled.runs.claims import claimed_file
from unfooled.training import BatchSource, Checkpoint, Stepping, train

FRESH = 1000
"""Offset added to the seed of the weights of networks that are trained on rebuilt images."""


@dataclass(frozen=True)
class Updates(BatchSource):
    """Batches for equally long training on sets of any size: an "epoch" is `steps` full batches."""

    def __len__(self) -> int:
        return self.steps or 1

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an "epoch"."""
        size = min(self.size, len(self.x))
        per_order = len(self.x) // size
        orders: dict[int, Tensor] = {}
        for update in range(epoch * len(self), (epoch + 1) * len(self)):
            pass_, position = divmod(update, per_order)
            if pass_ not in orders:
                orders = {pass_: torch.randperm(len(self.x), generator=self._generator(pass_))}
            rows = orders[pass_][position * size : (position + 1) * size].to(self.x.device)
            # Seeded by the number of the update, so that epochs of another length see the same images.
            yield self._augment(self.x[rows], self._generator(-1 - update)), self.y[rows]

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) & 0x7FFFFFFFFFFFFFFF)


def new_network(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network with torch's global generator seeded, and restore the generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def fit(
    net: nn.Module,
    batches: BatchSource,
    loss: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    schedule: bool = True,
    clip: float | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    label: str = "training",
) -> float:
    """Train a network in place, or read or resume an earlier training, and leave it in eval mode.

    Args:
        net: Network.
        batches: Training samples; their seed is used for everything random.
        loss: Training loss.
        optimizer: Optimiser of the network's parameters.
        epochs: Epochs in all, those of earlier starts included.
        schedule: One cycle of the learning rate; False: a constant rate.
        clip: Largest norm of the gradient; None: not clipped.
        checkpoint: Checkpoint that training is saved to after every epoch; None: it is not stored.
        progress: Called with `(label, epochs done, epochs in all)`; None: silent.
        label: Text for `progress`.

    Returns:
        Seconds of training, those of earlier starts included.

    Raises:
        BadInput: the checkpoint is of another training.
    """
    seconds = []
    if progress is not None:
        progress(label, 0, epochs)
    # Another start in the same folder may want this network, too: one trains it, the others wait and read it.
    with nullcontext() if checkpoint is None else claimed_file(checkpoint.path):
        for epoch in train(
            net, batches, loss, optimizer, epochs=epochs, seed=batches.seed, stepping=Stepping(schedule, clip),
            checkpoint=checkpoint,
        ):  # fmt: skip
            seconds.append(epoch.seconds)
            if progress is not None:
                progress(label, epoch.index + 1, epochs)
    if checkpoint is not None:  # epochs of earlier starts are not yielded again
        seconds = [epoch["seconds"] for epoch in checkpoint.history()]
    net.eval()
    return sum(seconds)
