"""Networks of a study: new ones from a seed, and trained ones that are read where they were trained before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.types import TrainingLoss
from unfooled.runs.chunks import Progress
from unfooled.runs.claims import claimed_file
from unfooled.training import Batches, Checkpoint, train

FRESH = 1000
"""Added to the seed where the weights of a network that is trained on rebuilt images are drawn."""


@dataclass(frozen=True)
class Updates(Batches):
    """`steps` full batches an "epoch", through one order of all samples after the other: equal training for any set."""

    def __len__(self) -> int:
        return self.steps or 1

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of a piece."""
        size = min(self.size, len(self.x))
        each = len(self.x) // size
        orders: dict[int, Tensor] = {}
        for update in range(epoch * len(self), (epoch + 1) * len(self)):
            turn, place = divmod(update, each)
            if turn not in orders:
                orders = {turn: torch.randperm(len(self.x), generator=self._source(turn))}
            rows = orders[turn][place * size : (place + 1) * size].to(self.x.device)
            # From the update's own number, so that pieces of another length see the same images.
            yield self._augment(self.x[rows], self._source(-1 - update)), self.y[rows]

    def _source(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) & 0x7FFFFFFFFFFFFFFF)


def new_network(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `build` makes with torch's global generator seeded, which is restored afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def fitted(
    net: nn.Module,
    batches: Batches,
    loss: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    seed: int,
    file: Path | None = None,
    about: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    schedule: bool = True,
    clip: float | None = None,
    progress: Progress | None = None,
    what: str = "training",
) -> float:
    """Train a network in place, or read or resume what was trained before, and leave it in eval mode.

    Args:
        net: what is trained.
        batches: the samples; this and what is not named here as for `train`.
        loss: what is minimised.
        optimizer: over the network's parameters.
        epochs: how many in all.
        seed: of everything random but the order.
        file: where it is kept, epoch by epoch; nowhere where None.
        about: beside the weights, for `load_model`.
        settings: must agree for a file to be continued.
        schedule: one cycle, or a constant rate.
        clip: largest norm of the gradient.
        progress: told what is done, as `(what, epochs done, epochs in all)`.
        what: told to `progress`.

    Returns:
        Seconds of training, those of earlier starts included.

    Raises:
        BadInput: the file holds a network that was trained otherwise.
    """
    keep = None if file is None else Checkpoint(file, about or {}, settings or {})
    spent = []
    if progress is not None:
        progress(what, 0, epochs)
    # Another start in the same folder may want this network, too: one trains it, the others wait and read it.
    with nullcontext() if file is None else claimed_file(file):
        for epoch in train(
            net, batches, loss, optimizer, epochs=epochs, seed=seed, schedule=schedule, checkpoint=keep, clip=clip
        ):
            spent.append(epoch.seconds)
            if progress is not None:
                progress(what, epoch.index + 1, epochs)
    if keep is not None:  # with those of earlier starts, which are not yielded again
        spent = [epoch["seconds"] for epoch in torch.load(keep.path, map_location="cpu", weights_only=True)["history"]]
    net.eval()
    return sum(spent)
