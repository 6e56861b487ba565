"""Sizes of the broken-defences study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from unfooled.models import Lenet5, SmallCnn
from unfooled.studies.broken_defences.networks import Arch
from unfooled.studies.common.scale import Scale


@dataclass(frozen=True)
class DefenceScale(Scale):
    """Sizes of the study.

    Attributes:
        data: Data set, as `load_dataset` reads it.
        n: Number of test samples of a case.
        train_n: Training samples; None: all.
        arch: Builder of the networks, `(input_shape, classes) -> module`.
        eps: Radius in Linf for the defences.
        honest_eps: Radius in Linf for the honest networks, small enough for some robustness.
        epochs: Epochs of a standard network.
    """

    data: str
    n: int
    train_n: int | None
    arch: Arch
    eps: float
    honest_eps: float
    epochs: int


SCALES = {
    "small": DefenceScale("digits", 100, None, partial(SmallCnn, width=8), 0.3, 0.1, 10),
    "medium": DefenceScale("mnist", 200, 6000, Lenet5, 0.3, 0.1, 4),
    "full": DefenceScale("mnist", 1000, None, Lenet5, 0.3, 0.1, 4),
}
