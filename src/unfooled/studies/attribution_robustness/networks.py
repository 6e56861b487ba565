"""The data sets and networks of the attribution-robustness study.

Published settings (Chen et al. 2019, their code): MNIST and Fashion-MNIST two 5x5 convolutions of 32 and 64 and a
hidden layer of 1024, 25,000 steps of 50 plainly and 100,000 adversarially; GTSRB a residual network, 70,000 steps of
64. An IG-NORM step of MNIST is 450 double backward passes a sample. What fits two cores is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unfooled.attacks.pgd import pgd
from unfooled.core.ascent import Constant
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import TrainingLoss
from unfooled.data.load import load_dataset
from unfooled.explanations.gradients import saliency
from unfooled.runs.units import filed
from unfooled.studies.common.fitting import fitted, new_network
from unfooled.training import Batches, IgNorm, Igr, IgSumNorm, InputGradient, Madry, Ramp, Standard


def two_convolutions(shape: Sequence[int], classes: int, *, width: int = 16, hidden: int = 256) -> nn.Sequential:
    """The networks of Madry et al. and Chen et al. for MNIST: 5x5 convolutions of `width` and twice that, two linear.

    The published width is 32, with 1024 hidden units. ReLU follows the pooling: the same function, on a quarter of the
    values. In channels-last memory a training step takes .7 to .9 of the time, even of images with one channel.
    """
    c, h, w = shape
    return nn.Sequential(
        nn.Conv2d(c, width, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * (h // 4) * (w // 4), hidden), nn.ReLU(), nn.Linear(hidden, classes),
    )  # fmt: skip


PIECES = 10
"""That a network's training is cut into; each is kept."""


@dataclass(frozen=True)
class Task:
    """A data set, and what is asked of maps of its size.

    Attributes:
        source: of `load_dataset`.
        eps: radius in Linf, of training and of attacks.
        ks, ws: sizes of the top set, and radii of locality; chance is too high beyond.
        steps, batch, lr: of plain training; the other arms say how much more they take.
        arch: `(input_shape, classes) -> module`.
    """

    source: str
    eps: float
    ks: tuple[int, ...]
    ws: tuple[int, ...]
    steps: int
    batch: int = 128
    lr: float = 2e-3
    arch: Callable[[Sequence[int], int], nn.Module] = two_convolutions

    @property
    def threat(self) -> Linf:
        """What an adversary may do."""
        return Linf(self.eps)


@dataclass(frozen=True)
class Arm:
    """A way of training.

    Attributes:
        name: what tables call it.
        loss: threat -> training loss.
        share: of the task's steps.
        lr: times the task's.
        start: the arm whose weights it goes on from, on the same seed; new weights where None.
        once: train it for the first seed alone.
        ramp: share of the steps in which eps grows from 0.
    """

    name: str
    loss: Callable[[Threat], TrainingLoss]
    share: float = 1.0
    lr: float = 1.0
    start: str | None = None
    once: bool = False
    ramp: float = 0.0


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        tasks: data sets.
        arms: networks.
        looks: (explanation, share of eps, images for seed 0, images for each other seed).
        train_n: training samples; all where None.
        pool: test images from which those that every network classifies rightly are taken.
        robust_n: images of the cascade.
        attack_steps: of each restart.
    """

    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    looks: tuple[tuple[str, float, int, int], ...]
    train_n: int | None
    pool: int
    robust_n: int
    attack_steps: int = 50

    @property
    def n(self) -> int:
        """Most images that an explanation is judged on."""
        return max(n for _, _, n, _ in self.looks)

    def told(self) -> dict[str, Any]:
        """All of it as plain values: a folder made with other sizes is refused."""
        tasks = [
            {"source": t.source, "eps": t.eps, "ks": t.ks, "ws": t.ws, "steps": t.steps, "batch": t.batch, "lr": t.lr}
            for t in self.tasks
        ]
        arms = [
            {"name": a.name, "share": a.share, "lr": a.lr, "start": a.start, "once": a.once, "ramp": a.ramp,
             "loss": str(a.loss(self.tasks[0].threat))} for a in self.arms
        ]  # fmt: skip
        sizes = {"train_n": self.train_n, "pool": self.pool, "robust_n": self.robust_n, "steps": self.attack_steps}
        return {"tasks": tasks, "arms": arms, "looks": [list(look) for look in self.looks], **sizes}


def _arms(*, ig: float, path: int = 8, inner_path: int = 4) -> tuple[Arm, ...]:
    """The networks of every scale; `ig` is the share of the steps that the IG-* arms go on for from PGD's weights."""
    # A ReLU network's saliency does not change as units switch; softplus gives it a gradient that training can follow.
    near = partial(pgd, steps=3, rule=Constant(0.5))
    return (
        Arm("natural", lambda threat: Standard()),
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


PUBLISHED = partial(two_convolutions, width=32, hidden=1024)
SCALES = {
    "small": Scale(
        (Task("digits", 0.15, (6,), (1,), 300, batch=64, lr=5e-3),), _arms(ig=0.2),
        (("saliency", 0.5, 20, 0), ("saliency", 1.0, 40, 40), ("integrated gradients", 1.0, 20, 0)),
        None, 540, 200,
    ),
    "medium": Scale(
        (
            Task("mnist", 0.3, (50, 100), (1,), 1500),
            Task("fashion-mnist", 0.1, (50, 100), (1,), 1500),
            Task("gtsrb", 8 / 255, (50, 100), (1, 2), 1500),
        ),
        _arms(ig=200 / 1500),
        (
            ("saliency", 0.25, 16, 0), ("saliency", 0.5, 16, 0), ("saliency", 1.0, 128, 64),
            ("integrated gradients", 1.0, 24, 0),
        ),
        None, 1000, 300,
    ),
    "full": Scale(
        (
            Task("mnist", 0.3, (50, 100), (1,), 100_000, batch=50, lr=1e-4, arch=PUBLISHED),
            Task("fashion-mnist", 0.1, (50, 100), (1,), 100_000, batch=50, lr=1e-4, arch=PUBLISHED),
            Task("gtsrb", 8 / 255, (50, 100), (1, 2), 70_000, batch=64, lr=1e-3, arch=PUBLISHED),
        ),
        _arms(ig=1.0, path=50, inner_path=10),
        (
            ("saliency", 0.125, 200, 200), ("saliency", 0.25, 200, 200), ("saliency", 0.5, 200, 200),
            ("saliency", 1.0, 1000, 1000), ("integrated gradients", 1.0, 1000, 1000),
        ),
        None, 10_000, 1000,
    ),
}  # fmt: skip


class Bench:
    """One data set and one seed: the samples, and the networks, which are trained when they are first asked for.

    Args:
        task: the data set.
        arms: all of them, those that others start from included.
        seed: of weights, order and inner attacks.
        train_n: training samples; all where None.
        folder: where networks are kept, epoch by epoch; nowhere where None.

    Attributes:
        seconds: of training, by arm, those of earlier starts included; an arm that goes on from another, its own alone.
    """

    def __init__(
        self, task: Task, arms: Sequence[Arm], seed: int, *, train_n: int | None = None, folder: Path | None = None
    ) -> None:
        self.task, self.arms, self.seed, self.folder = task, {arm.name: arm for arm in arms}, seed, folder
        found = load_dataset(task.source, "train", n=train_n, shuffle=train_n is not None)
        held = load_dataset(task.source, "test")
        self.train, self.test = (found.x, found.y), (held.x, held.y)
        self.classes = held.classes or [str(k) for k in range(int(held.y.max()) + 1)]
        self.nets: dict[str, nn.Module] = {}
        self.seconds: dict[str, float] = {}

    def network(self, name: str) -> nn.Module:
        """The trained network of an arm, in eval mode."""
        if name not in self.nets:
            self.nets[name] = self._fit(self.arms[name])
        return self.nets[name]

    def _fit(self, arm: Arm) -> nn.Module:
        """Train, or read or resume what was trained before; cut into pieces of which a kill loses at most one."""
        task, (x, y) = self.task, self.train
        net = _fast(new_network(lambda: task.arch(tuple(x.shape[1:]), int(y.max()) + 1), self.seed))
        if arm.start is not None:
            net.load_state_dict(self.network(arm.start).state_dict())
        steps = max(PIECES, round(task.steps * arm.share))
        batches = Batches(x, y, task.batch, self.seed, steps=steps // PIECES)
        epochs = -(-steps // len(batches))
        loss = arm.loss(task.threat)
        if arm.ramp:
            loss = Ramp(loss, arm.ramp * epochs)
        settings = {"arm": str(arm.name), "loss": str(loss), "seed": self.seed, "steps": steps, "n": len(x)}
        optimizer = torch.optim.AdamW(net.parameters(), lr=task.lr * arm.lr, weight_decay=1e-4)
        self.seconds[arm.name] = fitted(
            net, batches, loss, optimizer, epochs=epochs, seed=self.seed, clip=5.0, settings=settings,
            file=None if self.folder is None else self.folder / f"{filed(arm.name)}.pt",
            about={"input_shape": list(x.shape[1:]), "num_classes": int(y.max()) + 1},
        )  # fmt: skip
        return _fast(net)  # `train` leaves networks of colour images as it found files want them


def _fast(net: nn.Module) -> nn.Module:
    """In the memory format that convolutions are fastest in."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
