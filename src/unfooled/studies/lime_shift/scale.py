"""Data sets, networks and sizes of the study of LIME under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.core.threats import Linf, Threat
from unfooled.studies.common.scale import Scale

ADAM = partial(torch.optim.Adam, lr=2e-3)


@dataclass(frozen=True)
class ShiftTask:
    """A data set, with the settings of training and attacking on it.

    Attributes:
        source: Data set, as `load_dataset` reads it.
        threat: Threat of the attack on the label.
        updates: Updates of the network.
        batch: Samples per update.
        arch: Architecture of the network, a name that `build` knows.
        options: Options of the architecture.
        optimizer: Function `parameters -> optimizer`; the learning rate follows one cycle.
    """

    source: str
    threat: Threat
    updates: int
    batch: int = 64
    arch: str = "small-cnn"
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = ADAM


@dataclass(frozen=True)
class TableScale:
    """Sizes of the scaffolding experiment on a synthetic table.

    Attributes:
        rows: Training rows.
        explained: Number of rows that are explained.
        samples: Perturbed rows for each of them.
        trees: Trees of the detector.
    """

    rows: int = 400
    explained: int = 30
    samples: int = 500
    trees: int = 50


@dataclass(frozen=True)
class ShiftScale(Scale):
    """Sizes of the study.

    Attributes:
        tasks: Data sets.
        n: Test images, of which those that the network classifies correctly are explained.
        own_n: Images, the first of these, for LIME's own instability and parameter randomisation.
        samples: Masks for each explanation.
        sizes: Other numbers of masks.
        cells: Cells along each side of the grid.
        other_cells: Cells along each side of other grids.
        top: Number of leading segments that are compared.
        steps: Steps of the attack.
        table: Sizes of the scaffolding experiment.
        train_n: Training images; None: all.
    """

    tasks: tuple[ShiftTask, ...]
    n: int
    own_n: int
    samples: int = 512
    sizes: tuple[int, ...] = (256, 2048)
    cells: int = 7
    other_cells: tuple[int, ...] = (5, 10)
    top: int = 5
    steps: int = 40
    table: TableScale = TableScale()
    train_n: int | None = None


DIGITS = ShiftTask(
    "digits", Linf(0.15), 400, options={"width": 8}, optimizer=partial(torch.optim.Adam, lr=5e-3)
)  # fmt: skip
MNIST = ShiftTask("mnist", Linf(0.1), 2000, batch=128, arch="lenet5")
SCALES = {
    # 16 segments of 2 x 2 pixels, the finest of 8 x 8 images; the other grids have 9 and 4.
    "small": ShiftScale((DIGITS,), n=80, own_n=40, sizes=(128, 2048), cells=4, other_cells=(3, 2)),
    "medium": ShiftScale((MNIST,), n=200, own_n=60, table=TableScale(rows=1000, explained=100, trees=100)),
    "full": ShiftScale(
        (MNIST,), n=1000, own_n=300, samples=1000, sizes=(250, 4000),
        table=TableScale(rows=2000, explained=400, samples=2000, trees=200),
    ),
}  # fmt: skip
