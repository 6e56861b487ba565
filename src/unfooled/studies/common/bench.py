"""Bench of a study: samples of one data set, and networks that are trained on first use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.goals import read_logits
from unfooled.core.model.batching import batched
from unfooled.core.types import TrainingLoss
from unfooled.data.load import load_dataset
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place, open_store
from unfooled.runs.store import StoredFile
from unfooled.runs.units import file_name
from unfooled.studies.common.fitting import fit
from unfooled.training import BatchSource
from unfooled.training.loop import Checkpoint

Labelled = tuple[Tensor, Tensor]
"""Inputs, (N, *D), and labels, (N,)."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Samples of a data set.

    Attributes:
        train: Training samples.
        test: Test samples.
        classes: Names of the classes.
    """

    train: Labelled
    test: Labelled
    classes: list[str]


def load_splits(
    source: str,
    *,
    train_n: int | None = None,
    test_n: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    image: int | None = None,
) -> Splits:
    """Load training and test samples.

    Args:
        source: Data set, as `load_dataset` reads it.
        train_n: Training samples; None: all.
        test_n: Test samples; None: all.
        shuffle: Permute the training samples before the first `train_n` are taken.
        seed: Random seed of that permutation.
        image: Side that images are resized to. None: they are not.
    """
    train = load_dataset(source, "train", train_n, shuffle, seed, size=image)
    test = load_dataset(source, "test", test_n, size=image)
    classes = test.classes or [str(k) for k in range(int(test.y.max()) + 1)]
    return Splits((train.x, train.y), (test.x, test.y), classes)


class Bench(ABC):
    """Samples and networks of one data set and seed; abstract: each study defines the training of its networks.

    Args:
        splits: Samples.
        seed: Random seed of weights, orders and attacks.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        place: Folder of this bench inside `networks/` and `sets/`; may be empty.
        title: Text before everything that `progress` is called with; may be empty.
        device: Device of the networks; samples stay on the CPU and are moved in parts.
        progress: Called with `(text, done, in all)`; None: silent.

    Attributes:
        train: Training samples, (x, y).
        test: Test samples, (x, y).
        classes: Names of the classes.
        seconds: Seconds of training, by network, those of earlier starts included.
    """

    def __init__(
        self, splits: Splits, *, seed: int = 0, folder: Place | None = None, place: str = "", title: str = "",
        device: str = "cpu", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.train, self.test, self.classes = splits.train, splits.test, splits.classes
        self.seed, self.folder, self.place, self.device = seed, folder, place, device
        self.progress = None if progress is None else partial(_titled, progress, f"{title}, " if title else "")
        self.seconds: dict[str, float] = {}
        self._networks: dict[str, nn.Module] = {}

    def network(self, name: str) -> nn.Module:
        """Return a trained network in eval mode; it is trained, or read, the first time."""
        return self._once(name, lambda: self._train(name))

    @abstractmethod
    def _train(self, name: str) -> nn.Module:
        """Build and train a network, usually by `_fit`."""

    def _once(self, name: str, train: Callable[[], nn.Module]) -> nn.Module:
        if name not in self._networks:
            self._networks[name] = train()
        return self._networks[name]

    def _fit(
        self,
        name: str,
        net: nn.Module,
        batches: BatchSource,
        loss: TrainingLoss,
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        settings: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        schedule: bool = True,
        clip: float | None = None,
    ) -> nn.Module:
        """Train a network, or read or resume `networks/PLACE/NAME.pt`; arguments as for `fit` and `Checkpoint`."""
        file = self.file("networks", name, "pt")
        self.seconds[name] = fit(
            net, batches, loss, optimizer, epochs=epochs, schedule=schedule, clip=clip, label=f"training, {name}",
            checkpoint=None if file is None else Checkpoint(file, about or {}, settings), progress=self.progress,
        )  # fmt: skip
        return net

    def file(self, kind: str, name: str, ending: str) -> StoredFile | None:
        """Return the file of a network or a set in the study's folder; None where nothing is stored."""
        if self.folder is None:
            return None
        parts = [kind, *([file_name(self.place)] if self.place else []), f"{file_name(name)}.{ending}"]
        return StoredFile(open_store(self.folder), "/".join(parts))

    def labels(self, net: nn.Module, x: Tensor, *, batch: int = 500) -> Tensor:
        """Return the classes that a network gives to samples, (N,), on the CPU. Cost: 1 forward."""
        predict = batched(lambda part: read_logits(net, part.to(self.device)).argmax(1).cpu(), batch)
        with torch.no_grad():
            return predict(x)


def _titled(progress: Progress, before: str, text: str, done: int, of: int) -> None:
    progress(f"{before}{text}", done, of)
