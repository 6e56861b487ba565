"""Networks, sets and sizes of the study of robust and non-robust features.

hardened -> robust set           images rebuilt from what the hardened network sees
natural -> non-robust set        the same with the natural network
untrained -> untrained set       the same with a network that was never trained: a control
natural -> D_rand, D_det         images moved, inside a small threat, until the network takes them for another class
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.core.threats import L2, Threat
from unfooled.studies.common.scale import Scale

NATURAL, HARDENED, UNTRAINED = "natural", "hardened", "untrained"
ENCODERS = (NATURAL, HARDENED)
ROBUST, NON_ROBUST, RANDOM = "robust set", "non-robust set", "untrained set"
D_RAND, D_DET = "D_rand", "D_det"
ORIGINALS, SHUFFLED, HARDENED_TOO = "originals", "originals, labels shuffled", "originals, hardened"
ENCODER_OF_SET = {ROBUST: HARDENED, NON_ROBUST: NATURAL, RANDOM: UNTRAINED}
"""Set -> network whose features it is rebuilt from."""
SETS = (*ENCODER_OF_SET, D_RAND, D_DET)
TRAINED_ON = (ORIGINALS, *SETS, HARDENED_TOO, SHUFFLED)
ATTACKED = (*ENCODERS, *(name for name in TRAINED_ON if name != SHUFFLED))
MIN_REACHED = 0.95
"""Share of the targets that must be reached in a threat so that D_rand and D_det are made in it."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the radius of hardening at which all networks are attacked."""
HALF, WHOLE = SHARES.index(0.5), SHARES.index(1.0)
ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True)
class FeatureTask:
    """A data set, with the settings of training on it.

    Attributes:
        source: Data set, as `load_dataset` reads it.
        threat: Threat that one network is hardened against, and that all are attacked in.
        moves: Threats in increasing order; D_rand and D_det take the first that is large enough.
        natural: Updates of the natural network.
        hardened: Updates of the hardened network.
        fresh: Updates of each network on a set.
        batch: Samples per update.
        arch: Architecture of every network, a name that `build` knows.
        options: Options of the encoders' architecture.
        fresh_options: Options of the architecture of networks that are trained on the sets.
        optimizer: `parameters -> optimizer`, with one cycle of its rate.
        flip: Mirror images at random in every training; see `Batches`.
        crop: Shift images at random by up to this many pixels.
        steps: Steps of the inner attack of hardening.
        ramp: Share of the updates of hardening in which eps grows from 0.
    """

    source: str
    threat: Threat
    moves: tuple[Threat, ...]
    natural: int
    hardened: int
    fresh: int
    batch: int = 64
    arch: str = "strided-cnn"
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = ADAM
    flip: bool = False
    crop: int = 0
    steps: int = 7
    ramp: float = 0.3

    def updates(self, name: str) -> int:
        """Return the updates of a network."""
        return {NATURAL: self.natural, HARDENED: self.hardened}.get(name, self.fresh)


@dataclass(frozen=True)
class FeatureScale(Scale):
    """Sizes of the study.

    Attributes:
        tasks: Data sets.
        rebuilt: Images of each set.
        held_out: Number of training images, the last ones, on which one of `moves` is chosen and nothing is trained.
        robust_n: Test images under the cascade.
        effort: Effort of the cascade, a key of `EFFORTS`.
        gradients: Largest number of gradients of an inversion.
        moving: Steps of the attack that makes D_rand and D_det.
        piece: Updates between two checkpoints of a network.
        shard: Images between two stored states of a set.
        train_n: Training images; None: all.
        test_n: Test images; None: all.
    """

    tasks: tuple[FeatureTask, ...]
    rebuilt: int
    held_out: int
    robust_n: int
    effort: str = "normal"
    gradients: int = 100
    moving: int = 100
    piece: int = 230
    shard: int = 500
    train_n: int | None = None
    test_n: int | None = None


# 6 and 12 epochs of 59,000 images, and 32 of nine tenths of 10,000.
MNIST = FeatureTask("mnist", L2(1.5), tuple(L2(eps) for eps in (1.0, 1.5, 2.0, 3.0)), 2760, 5520, 2300, batch=128)
FASHION = replace(
    MNIST, source="fashion-mnist", threat=L2(0.75), moves=tuple(L2(eps) for eps in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0))
)
SCALES = {
    "small": FeatureScale(
        (
            FeatureTask(
                # 32 features of 64 pixels: a hundred would hold the whole image.
                "digits", L2(0.75), tuple(L2(eps) for eps in (0.5, 0.75, 1.0, 1.5)), 400, 600, 400,
                arch="small-cnn", options={"width": 8}, fresh_options={"width": 8},
                optimizer=partial(torch.optim.Adam, lr=5e-3),
            ),
        ),
        rebuilt=1000, held_out=200, robust_n=200, effort="quick", piece=100,
    ),
    "medium": FeatureScale((MNIST, FASHION), rebuilt=10_000, held_out=1000, robust_n=1000),
    "full": FeatureScale(
        tuple(replace(task, natural=4600, hardened=9200, fresh=9200) for task in (MNIST, FASHION)),
        rebuilt=59_000, held_out=1000, robust_n=10_000,
    ),
}  # fmt: skip
