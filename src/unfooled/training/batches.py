"""Samples in batches: a new order every epoch, augmentation, and a share for each process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BatchSource(ABC):
    """Samples that `batches(epoch)` iterates over as pairs (x, y); abstract: the order is that of a subclass.

    Args:
        x: Inputs in the unit box, (N, *D).
        y: Labels, (N,).
        size: Samples per batch; a last batch of one sample per process is dropped (batch normalisation cannot use it).
        seed: Random seed of the order; the order of an epoch depends on nothing else.
        flip: True: mirror each image left to right with probability 1/2.
        crop: Largest shift of an image in pixels; edges are filled with zeros.
        rank: Number of this process among several; it takes every `world`-th sample of a batch, from number `rank` on.
        world: Number of processes.
        steps: Largest number of batches per epoch, so that sets of different size get equal training. None: all.
    """

    x: Tensor
    y: Tensor
    size: int = 128
    seed: int = 0
    flip: bool = False
    crop: int = 0
    rank: int = 0
    world: int = 1
    steps: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    @abstractmethod
    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch."""

    def _augment(self, x: Tensor, source: torch.Generator) -> Tensor:
        """Return the samples mirrored and shifted at random."""
        if self.flip:
            mirrored = torch.rand(len(x), generator=source).to(x.device) < 0.5
            x = torch.where(mirrored.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        if self.crop:
            h, w = x.shape[-2:]
            padded = nn.functional.pad(x, [self.crop] * 4)
            shift = torch.randint(2 * self.crop + 1, (2, len(x)), generator=source).to(x.device)
            i = (torch.arange(h, device=x.device) + shift[0, :, None])[:, None, :, None]
            j = (torch.arange(w, device=x.device) + shift[1, :, None])[:, None, None, :]
            batch = torch.arange(len(x), device=x.device)[:, None, None, None]
            channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
            x = padded[batch, channel, i, j]
        return x


@dataclass(frozen=True)
class Batches(BatchSource):
    """Samples in a new order every epoch; see `BatchSource` for its arguments."""

    def __len__(self) -> int:
        count = max(1, -(-len(self.x) // self.size))
        return count if self.steps is None else min(count, self.steps)

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch."""
        source = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) & 0x7FFFFFFFFFFFFFFF)
        order = torch.randperm(len(self.x), generator=source)
        for rows in order.split(self.size)[: self.steps]:
            # Augment before sharding, so that a sample looks the same whatever the number of processes.
            x = self._augment(self.x[rows.to(self.x.device)], source)
            x, y = x[self.rank :: self.world], self.y[rows.to(self.y.device)][self.rank :: self.world]
            # Decided by the smallest share, so that all processes take the same steps: they wait for one another.
            if len(rows) // self.world > 1 or len(self.x) == 1:
                yield x, y
