"""Networks and rebuilt sets of the MNIST features study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.types import TrainingLoss
from unfooled.data.formats.feature_sets import FeatureSet
from unfooled.features import Encoder, groups, non_robust_set, open_mask, robust_set
from unfooled.features.making import Storage
from unfooled.models import MnistCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.runs.store import Store
from unfooled.studies.common.bench import Bench, Labelled, load_splits
from unfooled.studies.common.feature_units import stored_set
from unfooled.studies.common.fitting import FRESH, Updates, new_network
from unfooled.studies.mnist_features.scale import ORIGINALS, UNTRAINED, MnistScale, Recipe, Retraining
from unfooled.training import Batches, BatchSource

LEGACY = 0x1A2B3C4D
"""Seed of the random stream of the published corrupted test images; see `groups`."""
LAYER = "fc"
"""Layer whose features are inverted."""
PIECES = 10
"""Pieces that a retraining is cut into; each is stored."""
HELD_OUT = 0.1
"""Share of a rebuilt set, its last samples, that is not trained on."""


@dataclass(frozen=True)
class Ordered(BatchSource):
    """Batches in the same order every epoch, not augmented."""

    def __len__(self) -> int:
        return max(1, -(-len(self.x) // self.size))

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch."""
        yield from zip(self.x.split(self.size), self.y.split(self.size), strict=True)


class DecayedAdam(torch.optim.Adam):
    """Adam with the learning rate lr * decay^(t / 80) after t updates; a checkpoint stores t."""

    def __init__(self, params: Any, lr: float, decay: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group.update(first=lr, decay=decay, taken=0)

    def step(self, closure: Any = None) -> Any:
        """Take one update."""
        for group in self.param_groups:
            group["lr"] = group["first"] * group["decay"] ** (group["taken"] / 80)
            group["taken"] += 1
        return super().step(closure)


class MnistBench(Bench):
    """Bench whose networks are the encoders, by their recipes' names, and networks trained on sets rebuilt from them.

    Args:
        size: Sizes of the study.
        folder: Folder, URL or open store of the study, for networks and sets; None: nothing is stored.
        progress: Called with `(text, done, in all)`; None: silent.
        device: Device of the networks.
        seed: Random seed of the encoders' weights and orders; 0 in the study.

    Attributes:
        groups: Test images under the five corruptions, (N, 5, C, H, W).
    """

    def __init__(
        self, size: MnistScale, folder: Place | None = None, *, progress: Progress | None = None, device: str = "cpu",
        seed: int = 0,
    ) -> None:  # fmt: skip
        splits = load_splits(size.source, train_n=size.train_n)
        super().__init__(splits, seed=seed, folder=folder, device=device, progress=progress)
        self.size = size
        self.groups = groups(self.test[0], legacy=LEGACY)
        self._sets: dict[str, FeatureSet] = {}

    def recipe(self, name: str) -> Recipe:
        """Return the recipe of an encoder."""
        return next(recipe for recipe in self.size.recipes if recipe.name == name)

    def _train(self, name: str) -> nn.Module:
        if name == UNTRAINED:
            return self._new((0.0, 0.0), seed=self.seed, glorot=True).eval()
        recipe = self.recipe(name)
        net = self._new(recipe.drop, seed=self.seed, glorot=recipe.arm != "converged")
        kind = Ordered if recipe.ordered else Batches
        optimizer: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
        if recipe.decay is not None:
            optimizer = DecayedAdam(net.parameters(), recipe.lr, recipe.decay)
        batches = kind(*self._moved(*self.train), recipe.batch, self.seed)
        schedule, settings = recipe.decay is None, {**asdict(recipe), "drop": list(recipe.drop)}
        return self._stored(name, net, batches, recipe.loss, optimizer, recipe.epochs, schedule, settings)

    def retrained(self, retraining: Retraining, seed: int) -> nn.Module:
        """Return a network trained on a set, in eval mode."""
        name = f"{retraining.name}, seed {seed}"
        return self._once(name, lambda: self._retrain(name, retraining, seed))

    def _retrain(self, name: str, retraining: Retraining, seed: int) -> nn.Module:
        (x, y), _ = self.samples(retraining)
        net = self._new((0.4, 0.4), seed=seed + FRESH, glorot=retraining.epochs is not None)
        if retraining.epochs is None:
            batches: BatchSource = Updates(*self._moved(x, y), 64, seed, steps=self._piece(retraining))
            optimizer, epochs, schedule = torch.optim.Adam(net.parameters(), lr=1e-3), PIECES, True
        else:
            batches, epochs, schedule = Batches(*self._moved(x, y), 32, seed), retraining.epochs, False
            optimizer = torch.optim.Adam(net.parameters(), lr=min(1e-3, 3e-5 * self.size.published / len(x)))
        settings = {**asdict(retraining), "updates": len(batches) * epochs}
        return self._stored(name, net, batches, retraining.loss, optimizer, epochs, schedule, settings)

    def _piece(self, retraining: Retraining) -> int:
        return max(1, round(self.size.updates * retraining.share) // PIECES)

    def updates(self, retraining: Retraining, samples: int) -> int:
        """Return the number of updates of a network that is trained on this number of samples of a set."""
        return self._piece(retraining) * PIECES if retraining.epochs is None else -(-samples // 32) * retraining.epochs

    def rebuilt(self, origin: str) -> FeatureSet:
        """Return the first images of the training set, rebuilt from a network's features."""
        if origin not in self._sets:
            self._sets[origin] = self._rebuild(origin)
        return self._sets[origin]

    def _rebuild(self, origin: str) -> FeatureSet:
        net = self.network(origin if origin == UNTRAINED else f"{origin}, faithful")
        build: Callable[..., FeatureSet] = robust_set if origin == "group" else non_robust_set
        index = torch.arange(min(self.size.rebuilt, len(self.train[0])))

        def make(folder: Store | None) -> FeatureSet:
            return build(
                Encoder(net, LAYER), *self.train, index=index, classes=self.classes, kind=f"{origin} set",
                progress=self.progress, storage=Storage(folder),
            )  # fmt: skip

        return stored_set(self.file("sets", origin, "npz"), net, make)

    def sources(self) -> Tensor:
        """Return the originals of the rebuilt images, in their order."""
        return self.train[0][: self.size.rebuilt]

    def samples(self, retraining: Retraining) -> tuple[Labelled, Labelled]:
        """Return the samples that a network is retrained on, and those that were held out; both on the CPU."""
        if retraining.origin == ORIGINALS:
            x, y, start = self.sources(), self.train[1][: self.size.rebuilt], None
        else:
            made = self.rebuilt(retraining.origin)
            x, y, start = made.x, made.y, made.start
        last = len(x) - round(HELD_OUT * len(x))
        held_out = torch.arange(last, len(x))
        if retraining.labels == "start" and start is not None:
            y = self.train[1][start]
            # A start seen in training may have been memorised.
            held_out = held_out[~torch.isin(start[held_out], start[:last])]
        if retraining.labels == "shuffled":
            y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
        if retraining.cleaned:
            x = open_mask(x)
        return (x[:last][: retraining.sources], y[:last][: retraining.sources]), (x[held_out], y[held_out])

    def right(self, net: nn.Module) -> Tensor:
        """Return which test images a network classifies correctly under each corruption, (N, 5). Cost: 5 forwards."""
        labels = self.labels(net, self.groups.flatten(0, 1), batch=1000)
        return labels.view(self.groups.shape[:2]) == self.test[1][:, None]

    def _new(self, drop: tuple[float, float], *, seed: int, glorot: bool) -> nn.Module:
        shape = tuple(self.train[0].shape[1:])

        def build() -> nn.Module:
            net = MnistCnn(shape, len(self.classes), drop=drop)
            for layer in net.modules() if glorot else ():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):  # Glorot's initial values, as in the published code
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            return net

        # In this memory format forwards on a CPU are a third faster, with one channel, too.
        return new_network(build, seed).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _moved(self, x: Tensor, y: Tensor) -> Labelled:
        return x.to(self.device), y.to(self.device)

    def _stored(
        self, name: str, net: nn.Module, batches: BatchSource, loss: TrainingLoss, optimizer: torch.optim.Optimizer,
        epochs: int, schedule: bool, settings: Mapping[str, Any],
    ) -> nn.Module:  # fmt: skip
        """Train, or read or resume what was trained before."""
        about = {"arch": "mnist-cnn", "input_shape": list(batches.x.shape[1:]), "num_classes": len(self.classes)}
        return self._fit(
            name, net, batches, loss, optimizer, epochs=epochs, schedule=schedule, about=about,
            settings={**settings, "n": len(batches.x)},
        )  # fmt: skip
