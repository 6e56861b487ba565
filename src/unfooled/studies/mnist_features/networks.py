"""The networks and the rebuilt sets of the MNIST features study.

Published (xziyue/robust_mnist_feature_py, revision 61c578e): both networks on MNIST, dropout only while the standard
one is trained, for 15 epochs (6 in revision 0c573b1, in which the first table was written); 60,000 images rebuilt from
each; new networks on nine tenths of those, 25 epochs on the robust and 8 on the non-robust set, which were cleaned
before. What fits two cores rebuilds fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.types import TrainingLoss
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features, stored
from unfooled.data.load import load_dataset
from unfooled.features import Encoder, Storage, groups, non_robust_set, open_mask, random_group, robust_set
from unfooled.models import MnistCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.folder import discard
from unfooled.runs.units import filed
from unfooled.studies.common.fitting import FRESH, Updates, fitted, new_network
from unfooled.training import Augmented, Batches, GroupWorst, Standard

LEGACY = 0x1A2B3C4D
"""The published test groups' stream."""
LAYER = "fc"
AS_TABLED = "as tabled"
PIECES = 10
"""That a retraining is cut into; each is kept."""
HELD = 0.1
"""Of a rebuilt set's samples, the last ones: not trained on."""
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Ordered(Batches):
    """The same batches in the same order every epoch."""

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch."""
        yield from zip(self.x.split(self.size), self.y.split(self.size), strict=True)


class DecayedAdam(torch.optim.Adam):
    """Adam with the rate lr decay^(t / 80), t the updates taken; a checkpoint keeps t."""

    def __init__(self, params: Any, lr: float, decay: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group.update(first=lr, decay=decay, taken=0)

    def step(self, closure: Any = None) -> Any:
        """One update."""
        for group in self.param_groups:
            group["lr"] = group["first"] * group["decay"] ** (group["taken"] / 80)
            group["taken"] += 1
        return super().step(closure)


@dataclass(frozen=True)
class Recipe:
    """How a network of the first table is trained.

    Attributes:
        network: "standard", or "group", on each image's worst of the five corruptions.
        arm: "faithful", the published recipe whose networks are inverted; "as tabled", that of the revision in which
            the first table was written, where it differs; or "converged".
        batch, lr, epochs: of Adam.
        decay: of the rate over 80 updates, 1 for a constant one; one cycle where None.
        ordered: the same order in every epoch.
        drop: dropout.
    """

    network: str
    arm: str
    batch: int
    lr: float
    epochs: int
    decay: float | None = None
    ordered: bool = False
    drop: tuple[float, float] = (0.2, 0.3)

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.network}, {self.arm}"

    @property
    def loss(self) -> TrainingLoss:
        """What is minimised."""
        return GroupWorst(groups) if self.network == "group" else Standard()


@dataclass(frozen=True)
class Retraining:
    """A network trained on a set of images, or a control.

    Attributes:
        name: what tables call it.
        origin: the set: "originals", or the network that it was rebuilt from.
        labels: "own", "shuffled", or "start", the class of the image that the search began at.
        cleaned: bright strokes alone.
        corrupted: each image under one of the five corruptions, drawn anew in every step.
        sources: how many of the set's images; all where None.
        epochs: the published ones, by the published rule; the scale's updates where None.
        share: of these updates.
        once: for the first seed alone.
        attacked: whether the cascade attacks it.
    """

    name: str
    origin: str
    labels: str = "own"
    cleaned: bool = False
    corrupted: bool = False
    sources: int | None = None
    epochs: int | None = None
    share: float = 1.0
    once: bool = False
    attacked: bool = False


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        source: of `load_dataset`.
        recipes: networks of the first table.
        rebuilt: images of each set.
        updates: of a retraining with Adam 1e-3 in one cycle, 64 images each.
        curve: smaller numbers of sources.
        published: how many images the published retraining had; its rate is scaled so that rate x updates is the
            published product.
        robust_n: images of the cascade.
        linf, l2: radii of the cascade.
        effort: of the cascade, a key of `EFFORTS`.
        train_n: training images; all where None.
    """

    source: str
    recipes: tuple[Recipe, ...]
    rebuilt: int
    updates: int
    curve: tuple[int, ...]
    published: int
    robust_n: int
    linf: tuple[float, ...]
    l2: tuple[float, ...]
    effort: str = "normal"
    train_n: int | None = None

    @property
    def retrainings(self) -> tuple[Retraining, ...]:
        """Every network of the second table, its controls, and the learning curve."""
        main = (
            Retraining("group set", "group", attacked=True),
            Retraining("non-robust set", "standard", attacked=True),
            Retraining("originals", "originals", attacked=True),
            Retraining("originals, corrupted", "originals", corrupted=True, attacked=True),
            Retraining("untrained set", UNTRAINED, attacked=True),
            Retraining("group set, cleaned", "group", cleaned=True, attacked=True),
            Retraining("non-robust set, cleaned", "standard", cleaned=True, attacked=True),
            Retraining("originals, cleaned", "originals", cleaned=True, attacked=True),
            Retraining("untrained set, cleaned", UNTRAINED, cleaned=True, attacked=True),
        )
        published = (
            Retraining("group set, published rule", "group", cleaned=True, epochs=25, once=True, attacked=True),
            Retraining("non-robust set, published rule", "standard", cleaned=True, epochs=8, once=True, attacked=True),
        )
        controls = (
            Retraining("group set, shuffled labels", "group", "shuffled", share=0.5, once=True),
            Retraining("group set, class of the start", "group", "start", share=0.5, once=True),
            Retraining("non-robust set, class of the start", "standard", "start", share=0.5, once=True),
        )
        curve = tuple(
            Retraining(f"{name}, {n} sources", origin, sources=n, once=True)
            for n in self.curve
            for name, origin in (("group set", "group"), ("non-robust set", "standard"), ("originals", "originals"))
        )
        return main + published + controls + curve

    def told(self) -> dict[str, Any]:
        """All of it as plain values: a folder made with other sizes is refused."""
        return {**asdict(self), "retrainings": [asdict(one) for one in self.retrainings]}


SCALES = {
    "small": Scale(
        "digits",
        (
            Recipe("standard", "faithful", 32, 5e-4, 15, decay=1.0),
            Recipe("group", "faithful", 64, 5e-3, 12, decay=0.95, ordered=True, drop=(0.0, 0.0)),
            Recipe("standard", "converged", 64, 3e-3, 25),
            Recipe("group", "converged", 64, 3e-3, 25),
        ),
        rebuilt=1000, updates=400, curve=(300,), published=54_000, robust_n=100,
        linf=(0.05, 0.1, 0.2), l2=(0.25, 0.5, 1.0), effort="quick",
    ),
    "medium": Scale(
        "mnist",
        (
            Recipe("standard", "faithful", 32, 3e-5, 15, decay=1.0),
            Recipe("standard", AS_TABLED, 32, 3e-5, 6, decay=1.0),
            Recipe("group", "faithful", 256, 5e-3, 3, decay=0.95, ordered=True, drop=(0.0, 0.0)),
            Recipe("standard", "converged", 128, 1e-3, 6),
            Recipe("group", "converged", 128, 1e-3, 4),
        ),
        rebuilt=11_200, updates=2000, curve=(1000, 3000), published=54_000, robust_n=200,
        linf=(0.05, 0.1, 0.15, 0.2, 0.3), l2=(0.5, 1.0, 1.5, 2.0, 3.0),
    ),
    "full": Scale(
        "mnist",
        (
            Recipe("standard", "faithful", 32, 3e-5, 15, decay=1.0),
            Recipe("standard", AS_TABLED, 32, 3e-5, 6, decay=1.0),
            Recipe("group", "faithful", 256, 5e-3, 3, decay=0.95, ordered=True, drop=(0.0, 0.0)),
            Recipe("standard", "converged", 128, 1e-3, 10),
            Recipe("group", "converged", 128, 1e-3, 10),
        ),
        rebuilt=60_000, updates=21_000, curve=(1000, 3000, 10_000), published=54_000, robust_n=1000,
        linf=(0.05, 0.1, 0.15, 0.2, 0.3), l2=(0.5, 1.0, 1.5, 2.0, 3.0),
    ),
}  # fmt: skip


class Bench:
    """The samples, the networks and the rebuilt sets, each made when it is first asked for.

    Args:
        size: how much.
        folder: where networks and sets are kept; nowhere where None.
        progress: told how far a set is.
        device: where networks are; samples stay on the CPU and are moved in parts.
        seed: of the encoders' weights and orders; the study's is 0.

    Attributes:
        seconds: of training, by name, those of earlier starts included.
    """

    def __init__(
        self, size: Scale, folder: Path | None = None, progress: Progress | None = None, device: str = "cpu",
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.size, self.folder, self.progress, self.device, self.seed = size, folder, progress, device, seed
        found = load_dataset(size.source, "train", n=size.train_n)
        held = load_dataset(size.source, "test")
        self.train, self.test = (found.x, found.y), (held.x, held.y)
        self.classes = held.classes or [str(k) for k in range(int(held.y.max()) + 1)]
        self.groups = groups(held.x, legacy=LEGACY)
        self.seconds: dict[str, float] = {}
        self._nets: dict[str, nn.Module] = {}
        self._sets: dict[str, FeatureSet] = {}

    def encoder(self, name: str) -> nn.Module:
        """A network of the first table by its name, or the untrained one; in eval mode."""
        if name not in self._nets:
            recipe = next((r for r in self.size.recipes if r.name == name), None)
            if recipe is None:
                self._nets[name] = self._new((0.0, 0.0), seed=self.seed, glorot=True).eval()
            else:
                net = self._new(recipe.drop, seed=self.seed, glorot=recipe.arm != "converged")
                kind = Ordered if recipe.ordered else Batches
                optimizer: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
                if recipe.decay is not None:
                    optimizer = DecayedAdam(net.parameters(), recipe.lr, recipe.decay)
                self._nets[name] = self._fit(
                    name, net, kind(*self._there(*self.train), recipe.batch, self.seed), recipe.loss, optimizer,
                    recipe.epochs, self.seed, schedule=recipe.decay is None, settings=asdict(recipe),
                )  # fmt: skip
        return self._nets[name]

    def rebuilt(self, origin: str) -> FeatureSet:
        """The first images of the training set, rebuilt from what a network sees of them."""
        if origin not in self._sets:
            self._sets[origin] = self._rebuild(origin)
        return self._sets[origin]

    def _rebuild(self, origin: str) -> FeatureSet:
        net = self.encoder(origin if origin == UNTRAINED else f"{origin}, faithful")
        file = None if self.folder is None else self.folder / "sets" / f"{origin}.npz"
        if file is not None and stored(file):
            return load_features(file, encoder=net)
        make: Callable[..., FeatureSet] = robust_set if origin == "group" else non_robust_set
        made = make(
            Encoder(net, LAYER), *self.train, index=torch.arange(min(self.size.rebuilt, len(self.train[0]))),
            classes=self.classes, kind=f"{origin} set", progress=self.progress,
            storage=Storage(None if file is None else file.with_suffix(".parts")),
        )  # fmt: skip
        if file is None:
            return made
        made = save_features(file, made)
        discard(file.with_suffix(".parts"))
        return made

    def sources(self) -> Tensor:
        """The originals of the rebuilt images, in their order."""
        return self.train[0][: self.size.rebuilt]

    def samples(self, one: Retraining) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What a network is retrained on, and what was held out of it; samples stay on the CPU."""
        if one.origin == "originals":
            x, y, start = self.sources(), self.train[1][: self.size.rebuilt], None
        else:
            found = self.rebuilt(one.origin)
            x, y, start = found.x, found.y, found.start
        last = len(x) - round(HELD * len(x))
        held = torch.arange(last, len(x))
        if one.labels == "start" and start is not None:
            y = self.train[1][start]
            held = held[~torch.isin(start[held], start[:last])]  # a start seen in training may have been memorised
        if one.labels == "shuffled":
            y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
        if one.cleaned:
            x = open_mask(x)
        return (x[:last][: one.sources], y[:last][: one.sources]), (x[held], y[held])

    def retrained(self, one: Retraining, seed: int) -> nn.Module:
        """A network trained on a set, in eval mode."""
        name = f"{one.name}, seed {seed}"
        if name not in self._nets:
            (x, y), _ = self.samples(one)
            net = self._new((0.4, 0.4), seed=seed + FRESH, glorot=one.epochs is not None)
            loss: TrainingLoss = Augmented(random_group) if one.corrupted else Standard()
            if one.epochs is None:
                each = max(1, round(self.size.updates * one.share) // PIECES)
                batches: Batches = Updates(*self._there(x, y), 64, seed, steps=each)
                optimizer, epochs, schedule = torch.optim.Adam(net.parameters(), lr=1e-3), PIECES, True
            else:
                batches, epochs, schedule = Batches(*self._there(x, y), 32, seed), one.epochs, False
                optimizer = torch.optim.Adam(net.parameters(), lr=min(1e-3, 3e-5 * self.size.published / len(x)))
            self._nets[name] = self._fit(
                name, net, batches, loss, optimizer, epochs, seed, schedule=schedule,
                settings={**asdict(one), "updates": len(batches) * epochs},
            )  # fmt: skip
        return self._nets[name]

    def _new(self, drop: tuple[float, float], *, seed: int, glorot: bool) -> nn.Module:
        shape = tuple(self.train[0].shape[1:])

        def build() -> nn.Module:
            net = MnistCnn(shape, len(self.classes), drop=drop)
            for layer in net.modules() if glorot else ():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):  # what the published library starts from
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            return net

        # A third faster forwards on a CPU, for one channel too.
        return new_network(build, seed).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _there(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.to(self.device), y.to(self.device)

    def _fit(
        self, name: str, net: nn.Module, batches: Batches, loss: TrainingLoss, optimizer: torch.optim.Optimizer,
        epochs: int, seed: int, *, schedule: bool, settings: dict[str, Any],
    ) -> nn.Module:  # fmt: skip
        """Train, or read or resume what was trained before."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        about = {"arch": "mnist-cnn", "input_shape": list(batches.x.shape[1:]), "num_classes": len(self.classes)}
        self.seconds[name] = fitted(
            net, batches, loss, optimizer, epochs=epochs, seed=seed, schedule=schedule, about=about,
            file=None if self.folder is None else self.folder / "networks" / f"{filed(name)}.pt",
            settings={**plain, "n": len(batches.x)},
        )  # fmt: skip
        return net

    @torch.no_grad()
    def right(self, net: nn.Module) -> Tensor:
        """Which test images a network classifies rightly under each corruption, (N, 5) bool. Cost: 5 forwards."""
        said = [self.labels(net, x.flatten(0, 1)).view(len(x), -1) for x in self.groups.split(200)]
        return torch.cat(said) == self.test[1][:, None]

    @torch.no_grad()
    def labels(self, net: nn.Module, x: Tensor) -> Tensor:
        """What a network says, (N,), on the CPU. Cost: 1 forward."""
        return torch.cat([net(part.to(self.device)).argmax(1).cpu() for part in x.split(1000)])
