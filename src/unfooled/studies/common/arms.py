"""Networks that differ only in their training loss, for studies that compare ways of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unfooled.core.threats import Linf, Threat
from unfooled.core.types import TrainingLoss
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.runs.spelling import spelled
from unfooled.studies.common.bench import Bench, load_splits
from unfooled.studies.common.fitting import new_network
from unfooled.training import Batches, Ramp

PIECES = 10
"""Pieces that a network's training is cut into; each is stored, so that a kill loses at most one."""


@dataclass(frozen=True)
class Task:
    """A data set, with the settings of training on it.

    Attributes:
        source: Data set, as for `load_dataset`.
        eps: Radius in Linf of training and of attacks.
        steps: Optimiser steps of an arm whose share is 1.
        arch: `(input_shape, classes) -> module`.
        batch: Samples per step.
        lr: Peak learning rate of an arm whose factor is 1.
    """

    source: str
    eps: float
    steps: int
    arch: Callable[[Sequence[int], int], nn.Module]
    batch: int = 128
    lr: float = 2e-3

    @property
    def threat(self) -> Linf:
        """The threat of training and of attacks."""
        return Linf(self.eps)


@dataclass(frozen=True)
class Arm:
    """A way of training.

    Attributes:
        name: Name in tables.
        loss: `threat -> training loss`.
        share: Share of the task's steps.
        lr: Factor of the task's learning rate.
        start: Arm of the same seed from whose trained weights training starts; None: new weights.
        once: Train it only for seed 0.
        ramp: Share of the steps in which eps grows from 0.
    """

    name: str
    loss: Callable[[Threat], TrainingLoss]
    share: float = 1.0
    lr: float = 1.0
    start: str | None = None
    once: bool = False
    ramp: float = 0.0

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return every field as plain values, with the loss for a threat as text."""
        return {**vars(self), "loss": spelled(self.loss(threat))}


class ArmBench(Bench):
    """Bench whose networks are the arms of one task.

    Args:
        task: Data set.
        arms: All arms, those that others start from included.
        seed: Random seed of weights, orders and inner attacks.
        train_n: Training samples; None: all.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        place: Folder of this bench inside `networks/`.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, task: Task, arms: Sequence[Arm], seed: int, *, train_n: int | None = None, folder: Place | None = None,
        place: str = "", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        splits = load_splits(task.source, train_n=train_n, shuffle=train_n is not None)
        title = f"{task.source}, seed {seed}"
        super().__init__(splits, seed=seed, folder=folder, place=place, title=title, progress=progress)
        self.task, self.arms = task, {arm.name: arm for arm in arms}

    def steps(self, name: str) -> int:
        """Return the optimiser steps of an arm: its share of the task's steps, rounded up to whole pieces."""
        batches, epochs = self._length(self.arms[name])
        return len(batches) * epochs

    def _length(self, arm: Arm) -> tuple[Batches, int]:
        """Return the batches of one piece of training, and the number of pieces."""
        steps = max(PIECES, round(self.task.steps * arm.share))
        batches = Batches(*self.train, self.task.batch, self.seed, steps=steps // PIECES)
        return batches, -(-steps // len(batches))

    def _train(self, name: str) -> nn.Module:
        task, arm, (x, y) = self.task, self.arms[name], self.train
        shape, classes = tuple(x.shape[1:]), int(y.max()) + 1
        net = _channels_last(new_network(lambda: task.arch(shape, classes), self.seed))
        if arm.start is not None:
            net.load_state_dict(self.network(arm.start).state_dict())
        batches, pieces = self._length(arm)
        loss = arm.loss(task.threat)
        if arm.ramp:
            loss = Ramp(loss, arm.ramp * pieces)
        settings = {"arm": name, "loss": spelled(loss), "seed": self.seed, "steps": batches.steps, "pieces": pieces}
        optimizer = torch.optim.AdamW(net.parameters(), lr=task.lr * arm.lr, weight_decay=1e-4)
        self._fit(
            name, net, batches, loss, optimizer, epochs=pieces, clip=5.0, settings={**settings, "n": len(x)},
            about={"input_shape": list(shape), "num_classes": classes},
        )  # fmt: skip
        return _channels_last(net)  # again: training on colour images restores the usual order, that of files


def _channels_last(net: nn.Module) -> nn.Module:
    """Move a network to the order of memory in which convolutions are fastest."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
