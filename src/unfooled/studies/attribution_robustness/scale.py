"""Data sets, networks and sizes of the attribution-robustness study.

Published settings (Chen et al. 2019, their code): for MNIST and Fashion-MNIST two 5x5 convolutions of 32 and 64
channels and a hidden layer of 1024 units, trained with batches of 50 for 25,000 plain or 100,000 adversarial steps; for
GTSRB a residual network, 70,000 steps with batches of 64. An IG-NORM step on MNIST takes 450 double backward passes
per sample. The sizes for two cores are smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from unfooled.attacks.pgd import pgd
from unfooled.core.ascent import Constant
from unfooled.core.threats import Linf
from unfooled.explanations.gradients import saliency
from unfooled.studies.common.arms import Arm, Task
from unfooled.studies.common.scale import Scale
from unfooled.training import IgNorm, Igr, IgSumNorm, InputGradient, Madry, Standard

PLAIN = "natural"
"""The arm that all others are compared with."""


def two_convolutions(shape: Sequence[int], classes: int, *, width: int = 16, hidden: int = 256) -> nn.Sequential:
    """Build the networks of Madry et al. and Chen et al. for MNIST: two 5x5 convolutions and two linear layers.

    ReLU follows the pooling: the same function, on a quarter of the values. In channels-last memory a training step
    takes .7 to .9 of the time, even of images with one channel.

    Args:
        shape: Shape of a sample, (C, H, W).
        classes: Number of classes.
        width: Channels of the first convolution; the second has twice as many. Published: 32.
        hidden: Hidden units. Published: 1024.
    """
    c, h, w = shape
    return nn.Sequential(
        nn.Conv2d(c, width, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * (h // 4) * (w // 4), hidden), nn.ReLU(), nn.Linear(hidden, classes),
    )  # fmt: skip


@dataclass(frozen=True)
class MapTask:
    """A data set, with the settings for comparing maps of its size.

    Attributes:
        training: Data set, with the settings of training on it.
        ks: Sizes k of the top-k sets.
        ws: Radii w of the window of LENS; with larger ones unrelated maps score too high.
    """

    training: Task
    ks: tuple[int, ...]
    ws: tuple[int, ...]

    @property
    def source(self) -> str:
        """Name of the data set."""
        return self.training.source

    @property
    def eps(self) -> float:
        """Radius in Linf of training and of attacks."""
        return self.training.eps

    @property
    def threat(self) -> Linf:
        """Threat of training and of attacks."""
        return self.training.threat


@dataclass(frozen=True)
class AttributionScale(Scale):
    """Sizes of the study.

    Attributes:
        tasks: Data sets.
        arms: Networks.
        looks: (explanation, share of eps, images for seed 0, images for each other seed).
        train_n: Training samples; None: all.
        pool: Number of test images from which those that every network classifies correctly are taken.
        robust_n: Test images under the cascade.
        attack_steps: Steps of each restart of the attack on explanations.
    """

    tasks: tuple[MapTask, ...]
    arms: tuple[Arm, ...]
    looks: tuple[tuple[str, float, int, int], ...]
    train_n: int | None
    pool: int
    robust_n: int
    attack_steps: int = 50

    @property
    def n(self) -> int:
        """Largest number of images that an explanation is judged on."""
        return max(n for _, _, n, _ in self.looks)


def _arms(*, ig: float, path: int = 8, inner_path: int = 4) -> tuple[Arm, ...]:
    """Make the networks of every scale.

    Args:
        ig: Share of the task's steps that the IG-* arms take, starting from PGD's weights.
        path: Points of the path of integrated gradients.
        inner_path: Points of the path in the inner attack.
    """
    # beta: softplus in place of ReLU in IGR's explanations, since gradients of a ReLU network are piecewise constant.
    near = partial(pgd, steps=3, rule=Constant(0.5))
    return (
        Arm(PLAIN, lambda threat: Standard()),
        Arm("PGD", lambda threat: Madry(threat, steps=7), share=1.5, ramp=0.4),
        Arm("input gradient", lambda threat: InputGradient(weight=10.0)),
        Arm("IGR", lambda threat: Igr(threat, saliency, Standard(), inner=near, beta=10.0), ramp=0.3),
        Arm(
            "IG-NORM", lambda threat: IgNorm(threat, path=path, inner_path=inner_path), share=ig, lr=0.5, start="PGD",
            once=True,
        ),
        Arm(
            "IG-SUM-NORM", lambda threat: IgSumNorm(threat, path=path, inner_path=inner_path), share=ig, lr=0.5,
            start="PGD", once=True,
        ),
    )  # fmt: skip


def _task(source: str, eps: float, steps: int, ks: tuple[int, ...], ws: tuple[int, ...], *, batch: int = 128,
          lr: float = 2e-3, published: bool = False) -> MapTask:  # fmt: skip
    arch = partial(two_convolutions, width=32, hidden=1024) if published else two_convolutions
    return MapTask(Task(source, eps, steps, arch, batch=batch, lr=lr), ks, ws)


SCALES = {
    "small": AttributionScale(
        (_task("digits", 0.15, 300, (6,), (1,), batch=64, lr=5e-3),), _arms(ig=0.2),
        (("saliency", 0.5, 20, 0), ("saliency", 1.0, 40, 40), ("integrated gradients", 1.0, 20, 0)),
        None, 540, 200,
    ),
    "medium": AttributionScale(
        (
            _task("mnist", 0.3, 1500, (50, 100), (1,)),
            _task("fashion-mnist", 0.1, 1500, (50, 100), (1,)),
            _task("gtsrb", 8 / 255, 1500, (50, 100), (1, 2)),
        ),
        _arms(ig=200 / 1500),
        (
            ("saliency", 0.25, 16, 0), ("saliency", 0.5, 16, 0), ("saliency", 1.0, 128, 64),
            ("integrated gradients", 1.0, 24, 0),
        ),
        None, 1000, 300,
    ),
    "full": AttributionScale(
        (
            _task("mnist", 0.3, 100_000, (50, 100), (1,), batch=50, lr=1e-4, published=True),
            _task("fashion-mnist", 0.1, 100_000, (50, 100), (1,), batch=50, lr=1e-4, published=True),
            _task("gtsrb", 8 / 255, 70_000, (50, 100), (1, 2), batch=64, lr=1e-3, published=True),
        ),
        _arms(ig=1.0, path=50, inner_path=10),
        (
            ("saliency", 0.125, 200, 200), ("saliency", 0.25, 200, 200), ("saliency", 0.5, 200, 200),
            ("saliency", 1.0, 1000, 1000), ("integrated gradients", 1.0, 1000, 1000),
        ),
        None, 10_000, 1000,
    ),
}  # fmt: skip
