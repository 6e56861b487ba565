"""Networks, rebuilt sets and sizes of the MNIST features study.

Published (xziyue/robust_mnist_feature_py, revision 61c578e): both networks are trained on MNIST, the standard one with
dropout and for 15 epochs (6 in revision 0c573b1, in which the first table was written); 60,000 images are rebuilt from
each; new networks are trained on nine tenths of these, for 25 epochs on the robust and 8 on the non-robust set, both
cleaned before. The sizes for two cores rebuild fewer images.
"""

from __future__ import annotations

from dataclasses import dataclass

from unfooled.core.types import TrainingLoss
from unfooled.features import groups, random_group
from unfooled.studies.common.scale import Scale
from unfooled.training import Augmented, GroupWorst, Standard

FIVE = ("vertical lines", "horizontal lines", "noise", "removal", "none")
"""The corruptions of every test, in the order of the tables."""
AS_TABLED = "as tabled"
UNTRAINED = "untrained"
ORIGINALS = "originals"
SETS = ("group", "standard", UNTRAINED)
"""Networks that images are rebuilt from."""
PUBLISHED = ", published rule"
"""Ending of networks that are trained by the published rule."""


@dataclass(frozen=True)
class Recipe:
    """Training of a network of the first table.

    Attributes:
        network: "standard"; or "group", trained on each image's worst of the five corruptions.
        arm: "faithful", the published recipe whose networks are inverted; "as tabled", that of the revision in which
            the first table was written, where it differs; or "converged".
        batch: Samples per update.
        lr: Learning rate of Adam.
        epochs: Epochs.
        decay: Factor of the learning rate over 80 updates; 1: a constant rate. None: one cycle of the rate.
        ordered: Use the same order in every epoch.
        drop: Dropout rates.
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
        """Name in tables."""
        return f"{self.network}, {self.arm}"

    @property
    def loss(self) -> TrainingLoss:
        """Training loss."""
        return GroupWorst(groups) if self.network == "group" else Standard()


@dataclass(frozen=True)
class Retraining:
    """A network that is trained on a set of images, or a control.

    Attributes:
        name: Name in tables.
        origin: The set: "originals", or the network that it was rebuilt from.
        labels: "own", "shuffled", or "start", the class of the image that the search began at.
        cleaned: Keep only bright strokes.
        corrupted: Put each image under one of the five corruptions, drawn anew in every step.
        sources: Number of images of the set, the first ones; None: all.
        epochs: Published epochs, by the published rule; None: the scale's updates.
        share: Share of the scale's updates.
        once: Train it only for seed 0.
        attacked: Attack it by the cascade.
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

    @property
    def loss(self) -> TrainingLoss:
        """Training loss."""
        return Augmented(random_group) if self.corrupted else Standard()


@dataclass(frozen=True)
class MnistScale(Scale):
    """Sizes of the study.

    Attributes:
        source: Data set, as `load_dataset` reads it.
        recipes: Networks of the first table.
        rebuilt: Images of each set.
        updates: Updates of a retraining, 64 images each, with Adam and one cycle of the rate 1e-3.
        curve: Numbers of images of the parts of the sets that networks are trained on.
        published: Number of images of the published retraining. In `PUBLISHED` networks the learning rate is scaled so
            that rate x updates is the published product.
        robust_n: Test images under the cascade.
        linf: Radii of the cascade in Linf.
        l2: Radii of the cascade in L2.
        effort: Effort of the cascade, a key of `EFFORTS`.
        train_n: Training images; None: all.
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
            Retraining("originals", ORIGINALS, attacked=True),
            Retraining("originals, corrupted", ORIGINALS, corrupted=True, attacked=True),
            Retraining("untrained set", UNTRAINED, attacked=True),
            Retraining("group set, cleaned", "group", cleaned=True, attacked=True),
            Retraining("non-robust set, cleaned", "standard", cleaned=True, attacked=True),
            Retraining("originals, cleaned", ORIGINALS, cleaned=True, attacked=True),
            Retraining("untrained set, cleaned", UNTRAINED, cleaned=True, attacked=True),
        )
        published = (
            Retraining(f"group set{PUBLISHED}", "group", cleaned=True, epochs=25, once=True, attacked=True),
            Retraining(f"non-robust set{PUBLISHED}", "standard", cleaned=True, epochs=8, once=True, attacked=True),
        )
        controls = (
            Retraining("group set, shuffled labels", "group", "shuffled", share=0.5, once=True),
            Retraining("group set, class of the start", "group", "start", share=0.5, once=True),
            Retraining("non-robust set, class of the start", "standard", "start", share=0.5, once=True),
        )
        curve = tuple(
            Retraining(f"{name}, {n} sources", origin, sources=n, once=True)
            for n in self.curve
            for name, origin in (("group set", "group"), ("non-robust set", "standard"), ("originals", ORIGINALS))
        )
        return main + published + controls + curve


RECIPES = (
    Recipe("standard", "faithful", 32, 3e-5, 15, decay=1.0),
    Recipe("standard", AS_TABLED, 32, 3e-5, 6, decay=1.0),
    Recipe("group", "faithful", 256, 5e-3, 3, decay=0.95, ordered=True, drop=(0.0, 0.0)),
)
"""Recipes of the source, at the size of MNIST."""

SCALES = {
    "small": MnistScale(
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
    "medium": MnistScale(
        "mnist",
        (
            *RECIPES,
            Recipe("standard", "converged", 128, 1e-3, 6),
            Recipe("group", "converged", 128, 1e-3, 4),
        ),
        rebuilt=11_200, updates=2000, curve=(1000, 3000), published=54_000, robust_n=200,
        linf=(0.05, 0.1, 0.15, 0.2, 0.3), l2=(0.5, 1.0, 1.5, 2.0, 3.0),
    ),
    "full": MnistScale(
        "mnist",
        (
            *RECIPES,
            Recipe("standard", "converged", 128, 1e-3, 10),
            Recipe("group", "converged", 128, 1e-3, 10),
        ),
        rebuilt=60_000, updates=21_000, curve=(1000, 3000, 10_000), published=54_000, robust_n=1000,
        linf=(0.05, 0.1, 0.15, 0.2, 0.3), l2=(0.5, 1.0, 1.5, 2.0, 3.0),
    ),
}  # fmt: skip
