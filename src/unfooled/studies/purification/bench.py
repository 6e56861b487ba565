"""Networks and purifiers of the study of purification, one data set and one seed at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from unfooled.attacks.gradients import identity
from unfooled.core.model.batching import batched
from unfooled.core.model.modes import evaluating
from unfooled.core.types import Model, Purify, TrainingLoss
from unfooled.data.known import FOLDER
from unfooled.features import Encoder
from unfooled.models.architectures import build
from unfooled.models.load import load_model
from unfooled.purification import (
    SemanticPurifier,
    bit_depth,
    fit_autoencoder,
    fit_purifier,
    guard,
    jpeg,
    learn_patches,
    low_band,
    median,
    resized,
    split,
    total_variation,
)
from unfooled.purification.clusters import Clusters, fit_clusters
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.common.bench import Bench, load_splits
from unfooled.studies.common.fitting import FRESH, Updates, new_network
from unfooled.studies.purification.scale import (
    AT,
    GLOBAL,
    LATENT,
    LONGER,
    NONE,
    OWN_SRD,
    RANDOM,
    REFITTED,
    RESIZED,
    SRD,
    STANDARD,
    SWEPT,
    THROUGH,
    TRADES,
    PurificationScale,
    PurifierTask,
)
from unfooled.training import LatentClusters, Madry, Ramp, Standard, Through

AT_ONCE = 1000
"""Images that are encoded at once."""
OTHER_SEED, OTHER_ARCH = "standard, other weights", "standard, other architecture"
TUNED_ON, MOST_LOST = 500, 0.01
"""Training images that classical purifiers are tuned on, and the clean accuracy that they may lose."""
SETTINGS: dict[str, Sequence[Purify]] = {
    "JPEG": [partial(jpeg, quality=q) for q in (10, 25, 50, 75, 90)],
    "total variation": [partial(total_variation, weight=w) for w in (0.3, 0.2, 0.1, 0.05)],
    "median": [partial(median, size=s) for s in (5, 3)],
    "bit depth": [partial(bit_depth, bits=b) for b in (1, 2, 3, 4)],
    "low band": [partial(low_band, smooth=mu) for mu in (5.0, 1.0, 0.3)],
    RESIZED: [partial(resized, smallest=s) for s in (0.8, 0.9, 0.95)],
}
"""Classical purifiers, the strongest setting first."""


def _assigned(purify: SemanticPurifier, x: Tensor, y: Tensor) -> Tensor:
    """Return the nearest cluster of each image's class, by the purifier's own encoder."""
    return purify.clusters.nearest(purify.encode(x), y)


class Refitting:
    """Clusters of a network's own clean latents, which are fitted anew after some updates while it is trained.

    Args:
        encode: Encoder of the network that is trained.
        x: Images that clusters are fitted to.
        y: Their labels.
        fit: `(latents, y, generator=...) -> clusters`.
        seed: Random seed of the clusters.
        every: Updates between two fits.
    """

    def __init__(
        self, encode: Encoder, x: Tensor, y: Tensor, fit: Callable[..., Clusters], seed: int, every: int
    ) -> None:
        self.encode, self.x, self.y, self.fit, self.seed, self.every = encode, x, y, fit, seed, every
        self.clusters: Clusters | None = None
        self.updates = 0

    def assign(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the nearest cluster of each clean image's class; called once an update."""
        with torch.no_grad(), evaluating(self.encode):
            if self.clusters is None or self.updates % self.every == 0:
                latents = batched(lambda part: self.encode(part).flatten(1), AT_ONCE)(self.x)
                self.clusters = self.fit(latents, self.y, generator=torch.Generator().manual_seed(self.seed))
            self.updates += 1
            return self.clusters.nearest(self.encode(x).flatten(1), y)

    def distance(self, z: Tensor, k: Tensor) -> Tensor:
        """Return the distance of latents to clusters."""
        assert self.clusters is not None
        return self.clusters.mahalanobis(z, k)


class PurificationBench(Bench):
    """Bench of networks that differ in training, and of purifiers that are fitted to the standard one.

    Args:
        task: Data set.
        size: Sizes of the study.
        seed: Random seed of weights, orders, clusters, dictionaries and attacks.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        device: Device of the networks.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, task: PurifierTask, size: PurificationScale, seed: int, *, folder: Place | None = None,
        device: str = "cpu", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        splits = load_splits(task.source, train_n=size.train_n, test_n=size.n, image=task.image)
        super().__init__(
            splits, seed=seed, folder=folder, place=f"{task.name}-{seed}", title=f"{task.name}, seed {seed}",
            device=device, progress=progress,
        )  # fmt: skip
        self.task, self.size = task, size
        self._purifiers: dict[str, Purify] = {}
        self._fits: dict[str, SemanticPurifier] = {}
        self._points: dict[tuple[str, float], Mapping[str, Tensor]] = {}

    @property
    def networks(self) -> list[str]:
        """Names of the networks; that of a checkpoint only where it is there."""
        there = self._checkpoint is not None
        return [name for name in self.size.networks if name != TRADES or there]

    @cached_property
    def _checkpoint(self) -> Path | None:
        """File of the published network."""
        folder = os.environ.get(FOLDER)
        if self.task.checkpoint is None or not folder:
            return None
        path = Path(folder) / "models" / self.task.checkpoint[0]
        return path if path.is_file() else None

    def _train(self, name: str) -> nn.Module:
        """Train a network, or read what was trained before."""
        if name == TRADES and self.task.checkpoint is not None:
            return load_model(self._checkpoint or "", self.task.checkpoint[1], self.device)
        shape, task = tuple(self.train[0].shape[1:]), self.task
        arch = task.other if name == OTHER_ARCH else task.arch
        options = {} if name == OTHER_ARCH else task.options
        seed = self.seed + (FRESH if name == OTHER_SEED else 0)
        net = new_network(lambda: build(arch, shape, len(self.classes), **options), seed).to(self.device)
        start = {AT: STANDARD, LATENT: STANDARD, THROUGH: AT, LONGER: AT, **dict.fromkeys(SWEPT, STANDARD)}.get(name)
        if start is not None:
            net.load_state_dict(self.network(start).state_dict())
        x, y = (part.to(self.device) for part in self.train)
        share = 0.25 if name == THROUGH else 1.0  # a step through the purifier costs four
        pieces = max(3, round(task.updates * share / 200))
        batches = Updates(x, y, task.batch, self.seed, steps=max(1, round(task.updates * share / pieces)))
        settings = {"arm": name, "seed": seed, "pieces": pieces, "steps": len(batches), "n": len(x)}
        about = {"arch": arch, "input_shape": list(shape), "num_classes": len(self.classes)}
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        loss = self._loss(name, pieces, partial(self._refitting, net, every=len(batches)))
        return self._fit(
            name, net, batches, loss, optimizer, epochs=pieces, about=about,
            settings=settings, clip=5.0,
        )  # fmt: skip

    def _refitting(self, net: nn.Module, *, every: int) -> Refitting:
        """Return clusters of a network's own latents."""
        task = self.task
        fit = partial(fit_clusters, max_clusters=task.clusters, min_size=task.min_size)
        return Refitting(Encoder(net, task.layer), *self._fitted_to(), fit, self.seed, every)

    def _loss(self, name: str, pieces: int, refitting: Callable[[], Refitting]) -> TrainingLoss:
        """Return the training loss of a network."""
        madry = Madry(self.task.threat, steps=self.task.inner)
        if name == THROUGH:
            return Through(madry, partial(guard, purify=self.purifier(SRD)))
        if name == LATENT or name in SWEPT:
            if name == REFITTED:
                own = refitting()
                assign, distance = own.assign, own.distance
            else:
                purify = self.semantic()
                assign, distance = partial(_assigned, purify), purify.clusters.mahalanobis
            weight = SWEPT.get(name, self.size.weight)
            loss = LatentClusters(
                self.task.threat, assign, self._latent, distance, weight=weight, steps=self.task.inner
            )
            return Ramp(loss, pieces / 3)
        if name == AT:
            return Ramp(madry, pieces / 3)
        return madry if name == LONGER else Standard()

    def _latent(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return the latents of a network that is being trained."""
        return Encoder(model, self.task.layer)(x)

    def once(self, at: tuple[str, float], attack: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return the points of the attacks that all purifiers in front of a network share; they are made once.

        Args:
            at: Name of the network, and radius.
            attack: Makes the points.
        """
        if at not in self._points:
            self._points[at] = attack()
        return self._points[at]

    def semantic(self) -> SemanticPurifier:
        """Return the semantic purifier of the standard network."""
        purify = self.purifier(SRD)
        assert isinstance(purify, SemanticPurifier)
        return purify

    def fitted(self, network: str) -> SemanticPurifier:
        """Fit a semantic purifier to a network, once."""
        if network not in self._fits:
            self._fits[network] = self._fit_to(network)
        return self._fits[network]

    def _fit_to(self, network: str) -> SemanticPurifier:
        task, net = self.task, self.network(network)
        layer = task.layer if network != OTHER_ARCH else "fc1"
        x, y = self._fitted_to()
        purify = fit_purifier(
            Encoder(net, layer), x, y, seed=self.seed, sparsity=task.sparsity, atoms=task.atoms, size=task.patch,
            max_clusters=task.clusters, min_size=task.min_size,
        )  # fmt: skip
        return replace(purify, stride=task.stride)

    def _fitted_to(self) -> tuple[Tensor, Tensor]:
        """Return the training images that purifiers are fitted to, with their labels."""
        x, y = (part[: self.size.fit_n].to(self.device) for part in self.train)
        return x, y

    def purifier(self, name: str, network: str = STANDARD) -> Purify:
        """Return a purifier; it is fitted or tuned the first time, one of its own to the network."""
        if name == OWN_SRD:
            return self.fitted(network)
        if name not in self._purifiers:
            self._purifiers[name] = self._purifier(name)
        return self._purifiers[name]

    def _purifier(self, name: str) -> Purify:
        if name == NONE:
            return identity
        if name == SRD:
            return self.fitted(STANDARD)
        if name in (GLOBAL, RANDOM):
            return self._without_choice(name)
        if name == "autoencoder":
            x = self._fitted_to()[0]
            return self._mildest([fit_autoencoder(x, seed=self.seed, noise=noise, width=16) for noise in (0.2, 0.1)])
        return self._mildest(SETTINGS[name])

    def _mildest(self, settings: Sequence[Purify]) -> Purify:
        """Return the first setting that loses at most `MOST_LOST` of the clean accuracy, else the last one."""
        x, y = (part[:TUNED_ON].to(self.device) for part in self.train)
        net = self.network(STANDARD)
        before = self._right(net, x, y)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for purify in settings:
                if self._right(net, purify(x), y) >= before - MOST_LOST:
                    return purify
        return settings[-1]

    @staticmethod
    def _right(model: Model, x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == y).double().mean())

    def _without_choice(self, name: str) -> SemanticPurifier:
        """Return the semantic purifier with one dictionary for all clusters, or with the dictionaries shuffled."""
        purify, task = self.semantic(), self.task
        generator = torch.Generator().manual_seed(self.seed)
        if name == RANDOM:
            order = torch.randperm(len(purify.clusters), generator=generator)
            others = torch.empty_like(order)
            others[order] = order.roll(1)  # no cluster gets its own
            return replace(purify, dictionaries=purify.dictionaries[others.to(purify.dictionaries.device)])
        x = self._fitted_to()[0]
        high = split(x, smooth=purify.smooth)[1]
        one = learn_patches(
            high, torch.zeros(len(x), dtype=torch.int64, device=x.device), atoms=task.atoms, size=task.patch,
            stride=max(1, task.patch // 2), sparsity=task.sparsity, clusters=1, generator=generator,
        )  # fmt: skip
        return replace(purify, dictionaries=one.expand(len(purify.clusters), -1, -1, -1, -1).contiguous())
