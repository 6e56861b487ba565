"""Data sets, networks, purifiers and sizes of the study of purification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, nearest
from unfooled.core.threats import Linf
from unfooled.studies.common.scale import Scale

STANDARD, AT, LATENT, THROUGH, LONGER = "standard", "PGD-AT", "PGD-AT + latent", "PGD-AT through SRD", "PGD-AT, longer"
TRADES = "TRADES checkpoint"
REFITTED = "PGD-AT + latent, clusters refitted"
SWEPT: Mapping[str, float] = {"PGD-AT + latent, weight 0.1": 0.1, "PGD-AT + latent, weight 1": 1.0, REFITTED: 0.3}
"""Weights of the latent constraint in further networks, beside that of `PurificationScale` and 0, PGD-AT."""
TRAINED = (STANDARD, AT, LATENT, THROUGH, LONGER)
NONE, GLOBAL, RANDOM, SRD = "none", "global dictionary", "random cluster", "SRD"
OWN_SRD = "SRD, of this network"
DICTIONARIES = (GLOBAL, RANDOM, SRD)
CLASSICAL = ("JPEG", "total variation", "median", "bit depth", "low band", "autoencoder")
RESIZED = "random resize"
LOSSY = "cifar10"
"""Data set whose images come from JPEG files, which have lost a part of the high band."""
PURIFIERS = (NONE, *CLASSICAL, RESIZED, *DICTIONARIES)


@dataclass(frozen=True)
class PurifierTask:
    """A data set, with the settings of training and purifying on it.

    Attributes:
        source: Data set, as `load_dataset` reads it.
        eps: Radii of the attacks, in Linf, in increasing order; the largest below 1 is that of training.
        updates: Updates of a network; hardened ones start from the standard one.
        batch: Samples per update.
        arch: Architecture, a name that `build` knows.
        options: Options of the architecture.
        other: Another architecture, for the transfer of purifiers.
        layer: Layer whose output is clustered.
        inner: Steps of the inner attack of training.
        atoms: Atoms of a dictionary.
        patch: Side of a patch.
        stride: Distance of patches in use.
        clusters: Largest number of clusters of a class.
        min_size: Least number of images of a cluster.
        sparsity: Weight of the codes' absolute values.
        checkpoint: Name of a checkpoint in the data folder's `models`, with its architecture; empty: none.
        image: Side that images are resized to. None: they are not.
    """

    source: str
    eps: tuple[float, ...]
    updates: int
    batch: int = 100
    arch: str = "strided-cnn"
    options: Mapping[str, Any] = field(default_factory=dict)
    other: str = "small-cnn"
    layer: str = "fc1"
    inner: int = 5
    atoms: int = 64
    patch: int = 8
    stride: int = 4
    clusters: int = 5
    min_size: int = 50
    sparsity: float = 0.3
    checkpoint: tuple[str, str] | None = None
    image: int | None = None

    @property
    def name(self) -> str:
        """Name in titles and files: the source, of a folder its last part."""
        return Path(self.source).resolve().name if Path(self.source).is_dir() else self.source

    @property
    def threat(self) -> Linf:
        """The threat of training: the largest radius below the whole box."""
        return Linf(max(eps for eps in self.eps if eps < 1))


@dataclass(frozen=True)
class PurificationScale(Scale):
    """Sizes of the study.

    Attributes:
        tasks: Data sets.
        n: Test images.
        few: Number of the first test images, for black-box attacks, transfer, unseen attacks and detection.
        steps: Steps of the attacks.
        queries: Queries of the black-box attack.
        draws: Draws of a random purifier that its gradient is averaged over.
        submissions: Times that each point is submitted to a random purifier when it is scored.
        train_n: Training images; None: all.
        fit_n: Training images, the first of these, that purifiers are fitted to; None: all of them.
        networks: Networks.
        purifiers: Purifiers in front of each network.
        black_box: Purifiers that are attacked by queries, too.
        weight: Weight of the latent constraint.
        swept: Networks with other constraints, which stand alone and behind SRD.
        refitted: Networks that also stand behind SRD fitted to themselves.
        on_request: Further data sets, which are looked at only where they are named.
        own: Settings for a folder of the user's own images. None: there is no such data set.
    """

    tasks: tuple[PurifierTask, ...]
    n: int
    few: int
    steps: int = 20
    queries: int = 1000
    draws: int = 20
    submissions: int = 10
    train_n: int | None = 6000
    fit_n: int | None = None
    networks: tuple[str, ...] = TRAINED
    purifiers: tuple[str, ...] = PURIFIERS
    black_box: tuple[str, ...] = (NONE, SRD)
    weight: float = 0.3
    swept: tuple[str, ...] = tuple(SWEPT)
    refitted: tuple[str, ...] = (AT, LATENT)
    on_request: tuple[PurifierTask, ...] = ()
    own: PurifierTask | None = None

    def asked(self, data: Sequence[str] | None) -> PurificationScale:
        """Return the scale with the data sets on request, and the folders, that are named.

        Raises:
            BadInput: There is no such data set and no such folder.
        """
        wanted = list(data or ())
        named = [task for task in self.on_request if task.source in wanted]
        known = list(dict.fromkeys(task.source for task in (*self.tasks, *self.on_request)))
        others = [one for one in wanted if one not in known]
        for one in others:
            if self.own is None or not Path(one).is_dir():
                folder = "" if self.own is None else ", or a folder of your images (there is none of this name)"
                text = f"this scale has no data set {one!r}; give {', '.join(known)}{folder}"
                raise BadInput(text + nearest(one, known))
        if self.own is not None:
            named += [replace(self.own, source=one) for one in others]
        return replace(self, tasks=(*self.tasks, *named), on_request=(), own=None)


DIGITS = PurifierTask(
    "digits", (0.1, 0.2, 1.0), 300, batch=64, options={"width": 16}, atoms=16, patch=4, stride=2, clusters=3,
    min_size=30, sparsity=0.1,
)  # fmt: skip
MNIST = PurifierTask("mnist", (0.1, 0.2, 0.3, 1.0), 300)
MORE_MNIST = PurifierTask(
    "mnist", (0.1, 0.2, 0.3, 1.0), 800, options={"width": 16},
    checkpoint=("mnist_trades_smallcnn.pt", "trades-small-cnn"),
)  # fmt: skip
FASHION = replace(MORE_MNIST, source="fashion-mnist", eps=(0.03, 0.06, 0.1, 1.0), checkpoint=None)
GTSRB = replace(MORE_MNIST, source="gtsrb", eps=(2 / 255, 4 / 255, 8 / 255, 1.0), min_size=20, checkpoint=None)
SMALL_CIFAR = replace(GTSRB, source=LOSSY, updates=2000, min_size=50)
SMALL_FOLDER = replace(GTSRB, source="", updates=300, options={}, image=32)
FOLDER_64 = replace(SMALL_CIFAR, source="", image=64)
CIFAR = PurifierTask(
    "cifar10", (2 / 255, 4 / 255, 8 / 255, 1.0), 30_000, batch=128, arch="resnet18", other="cifar-resnet",
    layer="fc:input", inner=10, stride=4,
)  # fmt: skip
SCALES = {
    "small": PurificationScale(
        (DIGITS, MNIST),
        n=60,
        few=30,
        steps=12,
        queries=200,
        draws=4,
        on_request=tuple(
            replace(MNIST, source=task.source, eps=task.eps, min_size=20) for task in (FASHION, GTSRB, SMALL_CIFAR)
        ),
        own=SMALL_FOLDER,
    ),
    "medium": PurificationScale(
        (MORE_MNIST, FASHION, GTSRB, SMALL_CIFAR),
        n=500,
        few=200,
        train_n=None,
        fit_n=6000,
        networks=(*TRAINED, TRADES),
        own=FOLDER_64,
    ),
    "full": PurificationScale(
        (CIFAR,), n=2000, few=500, steps=100, queries=5000, train_n=None, own=replace(CIFAR, source="", image=64)
    ),
}
SMOKE = PurificationScale(
    (
        PurifierTask(
            "digits", (0.2, 1.0), 30, batch=32, options={"width": 4}, inner=2, atoms=4, patch=4, stride=4, clusters=1,
            min_size=10, sparsity=0.1,
        ),
    ),
    n=12, few=6, steps=3, queries=5, draws=2, submissions=3, train_n=200, refitted=(LATENT,),
)  # fmt: skip
"""Sizes for a first look, seconds on one core; its figures mean nothing."""
