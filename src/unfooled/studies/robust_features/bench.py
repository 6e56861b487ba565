"""Networks and sets of the study of robust and non-robust features, one data set and one seed at a time.

All sets have the same number of images, originals included, and a fresh network is trained on each for the same number
of updates; one more network is hardened on these originals, for a comparison at equal size. Fresh networks start from
other weights than the encoders, since perturbations transfer between networks with the same initial weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.pgd import pgd
from unfooled.core.errors import BadInput
from unfooled.core.types import TrainingLoss
from unfooled.data.formats.feature_sets import FeatureSet
from unfooled.features import Encoder, d_rand, last_features, robust_set, smallest_threat
from unfooled.features.making import Search, Storage
from unfooled.models.architectures import build
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.runs.spelling import spelled
from unfooled.runs.store import Store
from unfooled.studies.common.bench import Bench, Labelled, load_splits
from unfooled.studies.common.feature_records import Reach
from unfooled.studies.common.feature_units import stored_set
from unfooled.studies.common.fitting import FRESH, Updates, new_network
from unfooled.studies.robust_features.scale import (
    D_DET,
    D_RAND,
    ENCODER_OF_SET,
    HARDENED,
    HARDENED_TOO,
    MIN_REACHED,
    NATURAL,
    SETS,
    SHUFFLED,
    TRAINED_ON,
    UNTRAINED,
    FeatureScale,
    FeatureTask,
)
from unfooled.training import Madry, Ramp, Standard

HELD_OUT = 0.1
"""Share of a set, its last images, that is not trained on."""


class FeatureBench(Bench):
    """Bench whose networks are the encoders, by their names, and fresh networks, by the names of their sets.

    Args:
        task: Data set.
        size: Sizes of the study.
        seed: Random seed of weights, orders, starts, targets and attacks.
        folder: Folder, URL or open store of the study, for networks and sets; None: nothing is stored.
        device: Device of the networks.
        progress: Called with `(text, done, in all)`; None: silent.

    Attributes:
        train: Samples that networks are trained on; the first `size.rebuilt` are the sources of every set.
        held_out: Samples on which the radius of the moves is chosen.
        eps: Radius in which D_rand and D_det are made; None: that of `reach`, which is computed anew.
    """

    def __init__(
        self, task: FeatureTask, size: FeatureScale, seed: int, *, folder: Place | None = None, device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        splits = load_splits(task.source, train_n=size.train_n, test_n=size.test_n)
        super().__init__(
            splits, seed=seed, folder=folder, place=f"{task.source}-{seed}", title=f"{task.source}, seed {seed}",
            device=device, progress=progress,
        )  # fmt: skip
        self.task, self.size = task, size
        x, y = splits.train
        n = len(x) - size.held_out
        if n < 2:
            raise BadInput(
                f"{task.source} has {len(x)} training images and {size.held_out} are held out; hold out fewer"
            )
        self.train, self.held_out = (x[:n], y[:n]), (x[n:], y[n:])
        self.eps: float | None = None
        self._sets: dict[str, FeatureSet] = {}

    def _train(self, name: str) -> nn.Module:
        task, fresh = self.task, name in TRAINED_ON
        options, seed = (task.fresh_options, self.seed + FRESH) if fresh else (task.options, self.seed)
        shape = tuple(self.train[0].shape[1:])
        net = new_network(lambda: build(task.arch, shape, len(self.classes), **options), seed)
        # Faster for colour. Set again after training, which undoes it: a network that was read must compute the same as
        # one that was just trained.
        order = torch.channels_last if shape[0] > 1 else torch.contiguous_format
        net = net.to(self.device, memory_format=order)  # type: ignore[call-overload]
        net = net.eval() if name == UNTRAINED else self._trained(name, net)
        return net.to(memory_format=order)  # type: ignore[call-overload]

    def _trained(self, name: str, net: nn.Module) -> nn.Module:
        """Train, or read or resume what was trained before."""
        task, updates = self.task, self.task.updates(name)
        pieces = max(1, round(updates / self.size.piece))
        x, y = self.samples(name)[0] if name in TRAINED_ON else self.train
        batches = Updates(
            x.to(self.device), y.to(self.device), task.batch, self.seed, flip=task.flip, crop=task.crop,
            steps=max(1, updates // pieces),
        )  # fmt: skip
        loss = self.loss(name)
        if name in (HARDENED, HARDENED_TOO):
            loss = Ramp(loss, task.ramp * pieces)
        about = {"arch": task.arch, "input_shape": list(x.shape[1:]), "num_classes": len(self.classes)}
        settings = {"loss": spelled(loss), "seed": self.seed, "pieces": pieces, "steps": len(batches), "n": len(x)}
        optimizer = task.optimizer(net.parameters())
        return self._fit(
            name, net, batches, loss, optimizer, epochs=pieces, about=about, settings=settings, clip=5.0
        )  # fmt: skip

    def loss(self, name: str) -> TrainingLoss:
        """Return the training loss of a network; that of a hardened one with the eps at the end of its ramp."""
        return Madry(self.task.threat, steps=self.task.steps) if name in (HARDENED, HARDENED_TOO) else Standard()

    def reach(self) -> Reach:
        """Find the first of the task's `moves` in which an attack on the natural network reaches nearly all targets.

        None large enough: the last. Images are held out of training; targets are those of D_det, since one in K of the
        targets of D_rand is the image's own class. Cost: `moving` passes per image for each threat that is tried.
        """
        moves = self.task.moves
        threat, share = smallest_threat(
            self.network(NATURAL), *self.held_out, moves, share=MIN_REACHED, kind="d-det", seed=self.seed,
            attack=self._moving,
        )  # fmt: skip
        return Reach(eps=float(threat.eps), tried=[float(t.eps) for t in moves[: len(share)]], share=share)

    @property
    def _moving(self) -> Callable[..., Tensor]:
        return partial(pgd, steps=self.size.moving, stop=False)

    def made(self, name: str) -> FeatureSet:
        """Return a set by its name, of `SETS`; it is made, or read, the first time."""
        if name not in self._sets:
            net = self.network(ENCODER_OF_SET.get(name, NATURAL))
            make = partial(self._make, name, net)
            self._sets[name] = stored_set(self.file("sets", name, "npz"), net, make)
        return self._sets[name]

    def _make(self, name: str, net: nn.Module, folder: Store | None) -> FeatureSet:
        options: dict[str, Any] = {
            "seed": self.seed, "index": torch.arange(len(self.sources()[0])), "classes": self.classes,
            "storage": Storage(folder, self.size.shard), "progress": self.progress,
        }  # fmt: skip
        if name in ENCODER_OF_SET:
            encoder = Encoder(net, last_features(net))
            return robust_set(encoder, *self.train, search=Search(steps=self.size.gradients), kind=name, **options)
        threat = self.task.moves[0].with_eps(self.reach().eps if self.eps is None else self.eps)
        kind = {D_RAND: "d-rand", D_DET: "d-det"}[name]
        return d_rand(net, *self.train, threat, attack=self._moving, kind=kind, **options)

    def sources(self) -> Labelled:
        """Return the originals of every set, in their order, and their labels."""
        return self.train[0][: self.size.rebuilt], self.train[1][: self.size.rebuilt]

    def samples(self, name: str) -> tuple[Labelled, Labelled]:
        """Return the samples that a fresh network is trained on, and the last ones, which are held out of them."""
        if name in SETS:
            made = self.made(name)
            x, y = made.x, made.y
        else:
            x, y = self.sources()
        if name == SHUFFLED:
            y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed))]
        last = len(x) - round(HELD_OUT * len(x))
        return (x[:last], y[:last]), (x[last:], y[last:])
