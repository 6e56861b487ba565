"""Records of the studies of features: tested networks, sets of images, attacked networks, pictures."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate


class Measured(Record):
    """One trained network, with the test images that it classifies correctly.

    Attributes:
        name: Name in tables.
        seed: Random seed of its weights and its order.
        loss: Training loss.
        updates: Updates that it was trained for.
        samples: Samples that it was trained on.
        right: One text per column, with one packed bit per test image. Study of five corruptions: whether the image
            is classified correctly under each. Study of four sets: whether it is given its own class, and the next.
        n: Test images.
        own: Accuracy on the held-out samples of its own set; None: it was trained on the whole data.
        seconds: Seconds of training.
    """

    name: str
    seed: int
    loss: str
    updates: int
    samples: int
    right: list[str]
    n: int
    own: Estimate | None = None
    seconds: float

    def correct(self) -> np.ndarray:
        """Return `right` as numbers, (n, 5) or (n, 2), 0 or 1."""
        return np.stack([unpacked(column, self.n) for column in self.right], 1)


class Rebuilt(Record):
    """One set of images that was made from others.

    Attributes:
        origin: The set, or the network that it was rebuilt from.
        n: Images.
        residual: Quantiles of the residual after rounding to bytes; for moved images, quantiles of the margin.
        reached: Share of images that ended early because they were good enough; for moved images, share that is taken
            for its target class.
        vanished: Share that had no gradient; None: moved images.
        gradients: Gradients per sample; None: moved images.
        to_source: Median distance in L2 to the source.
        to_start: Median distance in L2 to the start; None: moved images.
        seconds: Seconds of the start that finished it.
    """

    origin: str
    n: int
    residual: dict[str, float]
    reached: float
    vanished: float | None = None
    gradients: float | None = None
    to_source: float
    to_start: float | None = None
    seconds: float


class Attacked(Record):
    """One network under the cascade, at rising radii of one norm.

    Attributes:
        name: Name of the network.
        seed: Random seed of the attack.
        norm: "linf" or "l2".
        radii: Radii in increasing order.
        survived: Number of radii that each of the first test images survived; -1: wrong when clean.
        seconds: Seconds of the attack.
    """

    name: str
    seed: int
    norm: str
    radii: list[float]
    survived: list[int]
    seconds: float


class Aligned(Record):
    """Likeness of one network's gradients to the first test images.

    Attributes:
        name: Name of the network.
        seed: Random seed of the network.
        values: `gradient_alignment` of each image; None where it is undefined.
        seconds: Seconds of the computation.
    """

    name: str
    seed: int
    values: list[float | None]
    seconds: float


class Reach(Record):
    """Distance by which images must be moved for a network to take them for another class.

    Attributes:
        eps: The radius that was selected.
        tried: Radii in increasing order.
        share: Share of the targets that were reached, at each radius.
    """

    eps: float
    tried: list[float]
    share: list[float]


class Drawn(Record):
    """Pictures that need the images, so that they cannot be drawn from the other records."""

    pictures: list[Picture]


def packed(right: Tensor) -> str:
    """Pack (n,) bool into base64 text."""
    return base64.b64encode(np.packbits(right.cpu().numpy()).tobytes()).decode()


def unpacked(text: str, n: int) -> np.ndarray:
    """Read what `packed` wrote, (n,) 0 or 1."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(float)


def columns(right: Tensor) -> list[str]:
    """Pack (n, columns) bool column by column."""
    return [packed(column) for column in right.to(torch.bool).unbind(1)]
