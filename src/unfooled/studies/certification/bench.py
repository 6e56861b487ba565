"""Networks and samples of the study of certification."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from unfooled.certification import interval_margins
from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.models.architectures import build
from unfooled.models.load import load_model
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.certification.scale import (
    CNN_A,
    IBP,
    MTL_IBP,
    PGD_AT,
    PROVABLE,
    SABR,
    TRADES,
    WITHOUT_RADIUS,
    CertificationScale,
    CertificationTask,
)
from unfooled.studies.common.bench import Bench, load_splits
from unfooled.studies.common.fitting import Updates, new_network
from unfooled.training import Ibp, Madry, MtlIbp, Ramp, Sabr, Standard, initialise_for_intervals

FOLDER = "UNFOOLED_DATA"
PIECES = 20
"""Parts of a training, after each of which it is stored; eps grows during the first half."""


class CertificationBench(Bench):
    """Bench with a network for each method and radius.

    Args:
        task: Data set.
        size: Sizes of the study.
        seed: Random seed of weights, orders and starts.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        device: Device of the networks.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, task: CertificationTask, size: CertificationScale, seed: int, *, folder: Place | None = None,
        device: str = "cpu", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        splits = load_splits(task.source, train_n=size.train_n, test_n=None if task.published else size.n)
        super().__init__(
            splits, seed=seed, folder=folder, place=f"{task.source}-{seed}", title=f"{task.source}, seed {seed}",
            device=device, progress=progress,
        )  # fmt: skip
        self.task, self.size = task, size

    def subjects(self) -> list[tuple[str, float]]:
        """Return networks and the radii at which they are judged; checkpoints only where they are there."""
        made = [(name, eps) for eps in self.task.eps for name in self.size.networks]
        if self.task.trades and _stored("models", self.task.trades[0]):
            made += [(TRADES, eps) for eps in self.task.eps]
        if self.task.published and all(_stored("hard", name) for name in self.task.published[:2]):
            made.append((CNN_A, self.task.published[2]))
        return made

    def subject(self, name: str, eps: float) -> nn.Module:
        """Return a network for a radius."""
        own = name in (*WITHOUT_RADIUS, CNN_A)
        return self.network(name if own else f"{name} at {eps:g}")

    def samples(self, name: str) -> tuple[Tensor, Tensor, list[int]]:
        """Return the images on which a network is judged, their labels and numbers."""
        rows = list(range(min(self.size.n, len(self.test[1]))))
        if name == CNN_A and self.task.published is not None:
            path = _stored("hard", self.task.published[1])
            rows = [int(word) for word in path.read_text().split()] if path else []
        x, y = self.test
        return x[rows].to(self.device), y[rows].to(self.device), rows

    def _train(self, name: str) -> nn.Module:
        """Train a network, or read a stored or published one."""
        if name == TRADES and self.task.trades is not None:
            return load_model(_stored("models", self.task.trades[0]) or "", self.task.trades[1], self.device)
        if name == CNN_A and self.task.published is not None:
            return _cnn_a(_stored("hard", self.task.published[0]), self.device)
        method, _, eps = name.partition(" at ")
        shape, task = tuple(self.train[0].shape[1:]), self.task
        net = new_network(lambda: build(task.arch, shape, len(self.classes), **task.options), self.seed)
        net = net.to(self.device)
        if method in PROVABLE:
            initialise_for_intervals(net, torch.Generator(self.device).manual_seed(self.seed))
        x, y = (part.to(self.device) for part in self.train)
        pieces = min(PIECES, task.updates)
        batches = Updates(x, y, task.batch, self.seed, steps=max(1, task.updates // pieces))
        settings = {"method": method, "eps": eps, "seed": self.seed, "pieces": pieces, "steps": len(batches)}
        return self._fit(
            name, net, batches, self._loss(method, float(eps or 0), pieces),
            torch.optim.Adam(net.parameters(), lr=task.lr), epochs=pieces, settings=settings | {"n": len(x)},
            about={"arch": task.arch, "input_shape": list(shape), "num_classes": len(self.classes)}, clip=5.0,
        )  # fmt: skip

    def _loss(self, method: str, eps: float, pieces: int) -> TrainingLoss:
        """Return the training loss of a method; eps grows from 0 in the first half."""
        if method not in (PGD_AT, *PROVABLE):
            return Standard()
        threat, steps = Linf(eps), self.task.steps
        loss = {
            PGD_AT: Madry(threat, steps=steps),
            IBP: Ibp(threat, interval_margins, clean=0.5),
            SABR: Sabr(threat, interval_margins, share=0.6, steps=steps),
            MTL_IBP: MtlIbp(threat, interval_margins, steps=steps),
        }[method]
        return Ramp(loss, pieces / 2, pieces / 20)


def _stored(folder: str, name: str) -> Path | None:
    """Return a file of the data folder; None where it is not there."""
    root = os.environ.get(FOLDER)
    path = Path(root) / folder / name if root else None
    return path if path is not None and path.is_file() else None


def _cnn_a(path: Path | None, device: str) -> nn.Module:
    """Return the adversarially trained network on which verifiers are compared."""
    assert path is not None
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.to(device).eval()
