"""What the MNIST features study keeps: a tested network, a rebuilt set, an attacked network, and pictures."""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor

from unfooled.evaluation.records import Estimate, Record
from unfooled.studies.records import Picture


class Measured(Record):
    """One trained network under the five corruptions.

    Attributes:
        name: what tables call it; seed: of its weights and its order.
        loss, updates, samples: what it was trained with, and seconds how long.
        right: for each corruption, which of the n test images it classifies rightly, packed.
        own: accuracy on what was held out of its own set; None for networks trained on the whole data.
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
        """Which images are right under which corruption, (n, 5), 0 or 1."""
        return np.stack([unpacked(text, self.n) for text in self.right], 1)


class Rebuilt(Record):
    """One rebuilt set.

    Attributes:
        residual: its quantiles, after rounding to bytes.
        reached, vanished: shares of images that ended early because they were good enough, or had no gradient.
        gradients: a sample.
        to_source, to_start: median distance in L2.
        seconds: of the start that finished it.
    """

    origin: str
    n: int
    residual: dict[str, float]
    reached: float
    vanished: float
    gradients: float
    to_source: float
    to_start: float
    seconds: float


class Attacked(Record):
    """One network under the cascade, at rising radii of one norm.

    Attributes:
        survived: for each of the first test images, how many of the radii it survived; -1 where it is wrong when clean.
    """

    name: str
    seed: int
    norm: str
    radii: list[float]
    survived: list[int]
    seconds: float


class Drawn(Record):
    """Pictures that need the images."""

    pictures: list[Picture]


def packed(bits: Tensor) -> str:
    """(n,) bool as text."""
    return base64.b64encode(np.packbits(bits.cpu().numpy()).tobytes()).decode()


def unpacked(text: str, n: int) -> np.ndarray:
    """The reverse, as numbers."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(float)


def columns(right: Tensor) -> list[str]:
    """(n, 5) bool, packed column by column."""
    return [packed(column) for column in right.to(torch.bool).unbind(1)]
