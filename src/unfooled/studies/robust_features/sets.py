"""The networks and the sets of the study of robust and non-robust features, one data set and one seed at a time.

    hardened -> robust set           images rebuilt from what the hardened network sees
    natural -> non-robust set        the same of the natural network
    untrained -> untrained set       the same of one that was never trained: a control
    natural -> D_rand, D_det         images moved, inside a small threat, until the network takes them for another class

Every set has as many images as the originals beside it, and a fresh network takes as many updates on each; one more is
hardened on these originals, for a comparison at equal size. A fresh network starts at other weights than the encoders:
perturbations carry over between networks that start alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.pgd import pgd
from unfooled.core.errors import BadInput
from unfooled.core.threats import L2, Threat
from unfooled.core.types import TrainingLoss
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features, stored
from unfooled.data.load import load_dataset
from unfooled.features import Encoder, Search, Storage, d_rand, last_features, robust_set, smallest_threat
from unfooled.models.architectures import build
from unfooled.runs.chunks import Progress
from unfooled.runs.folder import discard
from unfooled.runs.units import filed
from unfooled.studies.common.features_records import Reach
from unfooled.studies.common.fitting import FRESH, Updates, fitted, new_network
from unfooled.training import Madry, Ramp, Standard

NATURAL, HARDENED, UNTRAINED = "natural", "hardened", "untrained"
ROBUST, NON_ROBUST, RANDOM = "robust set", "non-robust set", "untrained set"
D_RAND, D_DET = "D_rand", "D_det"
ORIGINALS, SHUFFLED, HARDENED_TOO = "originals", "originals, labels shuffled", "originals, hardened"
SEEN = {ROBUST: HARDENED, NON_ROBUST: NATURAL, RANDOM: UNTRAINED}
"""Whose features each set is rebuilt from."""
SETS = (*SEEN, D_RAND, D_DET)
TRAINED_ON = (ORIGINALS, *SETS, HARDENED_TOO, SHUFFLED)
OWN = 0.1
"""Share of a set, its last images, that is not trained on."""
REACHED = 0.95
"""Share of the targets that a threat must allow to be reached to make D_rand and D_det in."""
ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True)
class Task:
    """A data set, and how networks are trained on it.

    Attributes:
        source: of `load_dataset`.
        threat: what one network is hardened against, and all are attacked in.
        moves: threats in increasing order, of which D_rand and D_det take the first that is large enough.
        natural, hardened, fresh: updates of the natural network, the hardened one, and each on a set.
        batch: samples an update.
        arch: of every network, a name that `build` knows.
        options, fresh_options: of the encoders, and of the networks that are trained on the sets.
        optimizer: parameters -> optimizer; one cycle of its rate.
        flip, crop: augmentation of every training, see `Batches`.
        steps: of the attack that hardens.
        ramp: share of the updates in which its eps grows from 0.
    """

    source: str
    threat: Threat
    moves: tuple[Threat, ...]
    natural: int
    hardened: int
    fresh: int
    batch: int = 64
    arch: str = "strided-cnn"
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = ADAM
    flip: bool = False
    crop: int = 0
    steps: int = 7
    ramp: float = 0.3


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        tasks: data sets.
        rebuilt: images of each set.
        held: training images, the last ones, that nothing is trained on: the size of `moves` is chosen on them.
        robust_n: test images of the cascade.
        effort: of the cascade, a key of `EFFORTS`.
        gradients: of an inversion, at most.
        moving: steps of the attack of D_rand and D_det.
        piece: updates between two checkpoints.
        shard: images of a set between two.
        train_n, test_n: training and test images; all where None.
    """

    tasks: tuple[Task, ...]
    rebuilt: int
    held: int
    robust_n: int
    effort: str = "normal"
    gradients: int = 100
    moving: int = 100
    piece: int = 230
    shard: int = 500
    train_n: int | None = None
    test_n: int | None = None

    def told(self) -> dict[str, Any]:
        """All of it as plain values: a folder made with other sizes is refused."""
        plain = (int, float, str)
        tasks = [{k: v if isinstance(v, plain) else str(v) for k, v in vars(task).items()} for task in self.tasks]
        return {**vars(self), "tasks": tasks}


# 6 and 12 epochs of 59,000 images, and 32 of nine tenths of 10,000.
MNIST = Task("mnist", L2(1.5), tuple(L2(eps) for eps in (1.0, 1.5, 2.0, 3.0)), 2760, 5520, 2300, batch=128)
FASHION = replace(
    MNIST, source="fashion-mnist", threat=L2(0.75), moves=tuple(L2(eps) for eps in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0))
)
SCALES = {
    "small": Scale(
        (
            Task(
                # 32 features of 64 pixels: a hundred would hold the whole image.
                "digits", L2(0.75), tuple(L2(eps) for eps in (0.5, 0.75, 1.0, 1.5)), 400, 600, 400,
                arch="small-cnn", options={"width": 8}, fresh_options={"width": 8},
                optimizer=partial(torch.optim.Adam, lr=5e-3),
            ),
        ),
        rebuilt=1000, held=200, robust_n=200, effort="quick", piece=100,
    ),
    "medium": Scale((MNIST, FASHION), rebuilt=10_000, held=1000, robust_n=1000),
    "full": Scale(
        tuple(replace(task, natural=4600, hardened=9200, fresh=9200) for task in (MNIST, FASHION)),
        rebuilt=59_000, held=1000, robust_n=10_000,
    ),
}  # fmt: skip


class Bench:
    """One data set and one seed: samples, networks and sets, each made when it is first asked for.

    Args:
        task: the data set.
        size: how much.
        seed: of weights, orders, starts, targets and attacks.
        folder: where networks and sets are kept; nowhere where None.
        device: where networks are; samples stay on the CPU and are moved in parts.
        progress: told how far a network or a set is.

    Attributes:
        train: samples that networks are trained on; the first `size.rebuilt` are the sources of every set.
        held: samples that the size of the moves is chosen on.
        test: samples that everything is judged on.
        eps: radius that D_rand and D_det are made in; that of `reach`, found anew, where None.
        seconds: of training, by network, those of earlier starts included.
    """

    def __init__(
        self, task: Task, size: Scale, seed: int, *, folder: Path | None = None, device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.task, self.size, self.seed, self.device = task, size, seed, device
        self.folder, self.place, self._progress = folder, filed(f"{task.source}-{seed}"), progress
        found = load_dataset(task.source, "train", n=size.train_n)
        test = load_dataset(task.source, "test", n=size.test_n)
        n = len(found.x) - size.held
        if n < 2:
            raise BadInput(f"{task.source} has {len(found.x)} training images and {size.held} are held out; hold fewer")
        self.train, self.held, self.test = (found.x[:n], found.y[:n]), (found.x[n:], found.y[n:]), (test.x, test.y)
        self.classes = test.classes or [str(k) for k in range(int(test.y.max()) + 1)]
        self.eps: float | None = None
        self.seconds: dict[str, float] = {}
        self._nets: dict[str, nn.Module] = {}
        self._sets: dict[str, FeatureSet] = {}

    def _told(self, what: str, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress(f"{self.task.source}, seed {self.seed}, {what}", done, of)

    def network(self, name: str) -> nn.Module:
        """A network by its name, or by that of the set that it is trained on, in eval mode."""
        if name not in self._nets:
            task, fresh = self.task, name in TRAINED_ON
            options, seed = (task.fresh_options, self.seed + FRESH) if fresh else (task.options, self.seed)
            shape = tuple(self.train[0].shape[1:])
            net = new_network(lambda: build(task.arch, shape, len(self.classes), **options), seed)
            # Faster for colour. Again after training, which undoes it: a network that is read must compute what one
            # that was just trained does.
            order = torch.channels_last if shape[0] > 1 else torch.contiguous_format
            net = net.to(self.device, memory_format=order)  # type: ignore[call-overload]
            net = net.eval() if name == UNTRAINED else self._fit(name, net)
            self._nets[name] = net.to(memory_format=order)  # type: ignore[call-overload]
        return self._nets[name]

    def _fit(self, name: str, net: nn.Module) -> nn.Module:
        task, size = self.task, self.size
        updates = {NATURAL: task.natural, HARDENED: task.hardened}.get(name, task.fresh)
        pieces = max(1, round(updates / size.piece))
        x, y = self.samples(name)[0] if name in TRAINED_ON else self.train
        batches = Updates(
            x.to(self.device), y.to(self.device), task.batch, self.seed, flip=task.flip, crop=task.crop,
            steps=max(1, updates // pieces),
        )  # fmt: skip
        loss = self.loss(name)
        if name in (HARDENED, HARDENED_TOO):
            loss = Ramp(loss, task.ramp * pieces)
        file = None if self.folder is None else self.folder / "networks" / self.place / f"{filed(name)}.pt"
        about = {"arch": task.arch, "input_shape": list(x.shape[1:]), "num_classes": len(self.classes)}
        settings = {"loss": str(loss), "seed": self.seed, "pieces": pieces, "steps": len(batches), "n": len(x)}
        self.seconds[name] = fitted(
            net, batches, loss, task.optimizer(net.parameters()), epochs=pieces, seed=self.seed, file=file, about=about,
            settings=settings, clip=5.0, progress=self._told, what=f"training, {name}",
        )  # fmt: skip
        return net

    def loss(self, name: str) -> TrainingLoss:
        """What a network minimises; the eps of those that are hardened grows to what is said here."""
        return Madry(self.task.threat, steps=self.task.steps) if name in (HARDENED, HARDENED_TOO) else Standard()

    def reach(self) -> Reach:
        """The first of the task's `moves` in which the natural network is led to nearly all targets, or the last.

        Of held-out images, and to the targets of D_det: one in K of those of D_rand is the image's own class. Cost:
        `moving` passes an image for each that is tried.
        """
        moves = self.task.moves
        threat, share = smallest_threat(
            self.network(NATURAL), *self.held, moves, share=REACHED, kind="d-det", seed=self.seed,
            attack=self._moving,
        )  # fmt: skip
        return Reach(eps=float(threat.eps), tried=[float(t.eps) for t in moves[: len(share)]], share=share)

    @property
    def _moving(self) -> Callable[..., Tensor]:
        return partial(pgd, steps=self.size.moving, stop=False)

    def made(self, name: str) -> FeatureSet:
        """A set by its name, of `SETS`."""
        if name not in self._sets:
            self._sets[name] = self._make(name)
        return self._sets[name]

    def _make(self, name: str) -> FeatureSet:
        net = self.network(SEEN.get(name, NATURAL))
        file = None if self.folder is None else self.folder / "sets" / self.place / f"{filed(name)}.npz"
        if file is not None and stored(file):
            return load_features(file, encoder=net)
        parts = None if file is None else file.with_suffix(".parts")
        options: dict[str, Any] = {
            "seed": self.seed, "index": torch.arange(len(self.sources()[0])), "classes": self.classes, "kind": name,
            "storage": Storage(parts, self.size.shard), "progress": self._told,
        }  # fmt: skip
        if name in SEEN:
            search = Search(steps=self.size.gradients)
            made = robust_set(Encoder(net, last_features(net)), *self.train, search=search, **options)
        else:
            options["kind"] = {D_RAND: "d-rand", D_DET: "d-det"}[name]
            threat = self.task.moves[0].with_eps(self.reach().eps if self.eps is None else self.eps)
            made = d_rand(net, *self.train, threat, attack=self._moving, **options)
        if file is None or parts is None:
            return made
        kept = save_features(file, made)
        discard(parts)
        return kept

    def sources(self) -> tuple[Tensor, Tensor]:
        """The originals of every set, in their order, and their labels."""
        return self.train[0][: self.size.rebuilt], self.train[1][: self.size.rebuilt]

    def samples(self, name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What a fresh network is trained on, and the last part of it, which is held out of that."""
        if name in SETS:
            found = self.made(name)
            x, y = found.x, found.y
        else:
            x, y = self.sources()
        if name == SHUFFLED:
            y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed))]
        last = len(x) - round(OWN * len(x))
        return (x[:last], y[:last]), (x[last:], y[last:])

    @torch.no_grad()
    def labels(self, net: nn.Module, x: Tensor) -> Tensor:
        """What a network says, (N,), on the CPU. Cost: 1 forward."""
        return torch.cat([net(part.to(self.device)).argmax(1).cpu() for part in x.split(500)])
