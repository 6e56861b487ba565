"""Networks, attacked images and explanations of the study of LIME under attack."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.pgd import pgd
from unfooled.core.losses import margin
from unfooled.explanations.lime import Surrogates, grid, lime_image
from unfooled.models.architectures import build
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.common.bench import Bench, load_splits
from unfooled.studies.common.fitting import Updates, new_network
from unfooled.studies.lime_shift.scale import ShiftScale, ShiftTask
from unfooled.training import Standard

NETWORK = "standard"
LAST, ALL = "the last layer", "all layers"
"""Layers of a network that get new weights."""


class ShiftBench(Bench):
    """Bench with one network, plainly trained.

    Args:
        task: Data set.
        size: Sizes of the study.
        seed: Random seed of weights, orders, starts and masks.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        device: Device of the network.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, task: ShiftTask, size: ShiftScale, seed: int, *, folder: Place | None = None, device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        splits = load_splits(task.source, train_n=size.train_n, test_n=size.n)
        super().__init__(
            splits, seed=seed, folder=folder, place=f"{task.source}-{seed}", title=f"{task.source}, seed {seed}",
            device=device, progress=progress,
        )  # fmt: skip
        self.task, self.size = task, size

    def _new(self, seed: int) -> nn.Module:
        """Build the network with weights from a seed."""
        shape = tuple(self.train[0].shape[1:])
        make = partial(build, self.task.arch, shape, len(self.classes), **self.task.options)
        return new_network(make, seed).to(self.device).eval()

    def _train(self, name: str) -> nn.Module:
        """Train the network, or read the stored one."""
        x, y = self.train
        pieces = max(1, self.task.updates // 200)
        batches = Updates(
            x.to(self.device), y.to(self.device), self.task.batch, self.seed,
            steps=max(1, self.task.updates // pieces),
        )  # fmt: skip
        net = self._new(self.seed)
        about = {"arch": self.task.arch, "input_shape": list(x.shape[1:]), "num_classes": len(self.classes)}
        settings = {"seed": self.seed, "pieces": pieces, "steps": len(batches), "n": len(x)}
        return self._fit(
            name, net, batches, Standard(), self.task.optimizer(net.parameters()), epochs=pieces, about=about,
            settings=settings,
        )  # fmt: skip

    def correctly_classified(self) -> tuple[Tensor, Tensor, list[int]]:
        """Return the test images that the network classifies correctly, their labels and their indices."""
        x, y = self.test
        rows = (self.labels(self.network(NETWORK), x) == y).nonzero()[:, 0]
        return x[rows].to(self.device), y[rows].to(self.device), rows.tolist()

    def attacked(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the images after the attack on the label."""
        generator = torch.Generator().manual_seed(self.seed)
        net, threat = self.network(NETWORK), self.task.threat
        return pgd(net, x, y, threat, steps=self.size.steps, loss=margin, generator=generator)

    def noisy(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return the images with changes of the attack's magnitudes, at random positions and with random signs."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        change = (x_adv - x).flatten(1)
        order = torch.rand(change.shape, generator=generator).argsort(1).to(x.device)
        signs = torch.randint(0, 2, change.shape, generator=generator).to(x) * 2 - 1
        return (x + (change.gather(1, order).abs() * signs).reshape(x.shape)).clamp(0, 1)

    def explained(self, x: Tensor, y: Tensor, net: nn.Module | None = None, **options: Any) -> Surrogates:
        """Explain classes, (B,) or (B, T), of images; options as for `lime_image`."""
        seed = options.pop("seed", self.seed)
        options = {"segments": grid(self.size.cells), "samples": self.size.samples, **options}
        generator = torch.Generator().manual_seed(seed)
        return lime_image(net or self.network(NETWORK), x, y, generator=generator, keep_samples=True, **options)

    def randomised(self, depth: str) -> nn.Module:
        """Return the network with new weights in the last layer, or in all layers."""
        net, fresh = copy.deepcopy(self.network(NETWORK)), self._new(self.seed + 10_000)
        if depth == ALL:
            return fresh
        last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
        net.get_submodule(last).load_state_dict(fresh.get_submodule(last).state_dict())
        return net
