"""The network that is trained, and the recipe of its training."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import at_least, check_choice, size_of

PRECISIONS = (
    *("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16", "16-true", "bf16-true", "64-true", "64"),
    *("transformer-engine", "transformer-engine-float16"),
)


@dataclass(frozen=True)
class Network:
    """The network that is trained.

    Args:
        arch: Architecture, a key of `models.ARCHITECTURES`.
        model: Weights to start from, as `load_model` reads them; None: from scratch.
        mean: Mean that the inputs are normalised by; one number, one per channel, or "0.49,0.48,0.45".
        std: Standard deviation, likewise.
        trust_pickle: Allow unpickling of the weights, which can run code from the file.
    """

    arch: str = "small-cnn"
    model: str | Path | None = None
    mean: str | float | Sequence[float] | None = None
    std: str | float | Sequence[float] | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class Recipe:
    """Recipe of training: epochs, batch, learning rate and the like.

    Args:
        epochs: Passes over the data.
        batch: Samples per step.
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay (AdamW).
        augment: "shifts" (by up to an eighth of the side, and random mirroring) or "corruptions" (one of five per
            sample); None: none.
        watch: Held-out samples watched for catastrophic overfitting; 0: none.
        n: Number of training samples; None: all.
        size: (height, width) that images are resized to, or "32" or "32x48".
        devices: Number of devices, each with a process of its own.
        precision: Floating-point precision, as in Lightning Fabric.
        channels: Channels that images are converted to, 1 (grey) or 3 (colour); None: unchanged.
        average: Share of the moving average of the weights that a step keeps, such as 0.995; 0: no averaging.
        nodes: Number of machines, each with `devices` processes, which a launcher such as torchrun starts.
    """

    epochs: int = 20
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-4
    augment: str | None = None
    watch: int = 256
    n: int | None = None
    size: str | int | tuple[int, int] | None = None
    devices: int = 1
    precision: str = "32-true"
    channels: int | None = None
    average: float = 0.0
    nodes: int = 1

    @property
    def processes(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.nodes

    def check(self) -> None:
        """Refuse what cannot be used."""
        if self.epochs < 1 or self.batch < 2 or not 0 < self.lr < math.inf:
            raise BadOption(
                "{epochs} is {0}, {batch} {1}, {lr} {2}; they must be at least 1, at least 2, above 0",
                self.epochs, self.batch, self.lr,
            )  # fmt: skip
        if not 0 <= self.average < 1:
            raise BadOption("{average} is {0:g}; it must be at least 0 and below 1, such as 0.995", self.average)
        for option, least in {"watch": 0, "weight_decay": 0, "n": 1, "devices": 1, "nodes": 1}.items():
            at_least(option, getattr(self, option), least)
        self._check_processes()
        size_of(self.size)
        if self.channels not in (None, 1, 3):
            raise BadOption("{channels} is {0}; it must be 1 (grey) or 3 (colour)", self.channels)
        check_choice(PRECISIONS, str(self.precision), "precision")
        if self.augment is not None:
            check_choice(catalog.AUGMENTATIONS, self.augment, "augment")

    def _check_processes(self) -> None:
        """Refuse a number of processes other than a launcher started, and several machines without one."""
        launched = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS" if self.nodes > 1 else "WORLD_SIZE")
        if launched is not None and launched.isdigit() and int(launched) != self.processes:
            raise BadOption(
                "{devices:{0}} on {nodes:{1}} are {2} processes, and the launcher started {3}; give the numbers that "
                "it was given", self.devices, self.nodes, self.processes, launched,
            )  # fmt: skip
        if launched is None and self.nodes > 1:
            raise BadOption(
                "{nodes:{0}} needs a launcher that starts the processes on each machine: torchrun --nnodes {0} "
                "--nproc-per-node {1} -m unfooled train ...", self.nodes, self.devices,
            )  # fmt: skip


def is_first_process() -> bool:
    """Return whether this process is the first of those that a launcher started; True without a launcher."""
    ranks = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)
