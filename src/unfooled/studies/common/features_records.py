"""What the studies of features keep: tested networks, sets, attacked networks, pictures; and figures over seeds."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.drawing.figures import Picture
from unfooled.evaluation.explanations.faithfulness import gradient_alignment
from unfooled.runs.records import Record
from unfooled.statistics import intervals
from unfooled.statistics.intervals import Estimate
from unfooled.studies.common.figures import Figures, claim, figures_of, mean, over_seeds, text
from unfooled.studies.common.records import Claim, array, listed


class Measured(Record):
    """One trained network and what it says of the test images.

    Attributes:
        name: what tables call it; seed: of its weights and its order.
        loss, updates, samples: what it was trained with, and seconds how long.
        right: for each corruption, which of the n test images it classifies rightly, packed; in the study of four sets,
            which it gives their own class, and which the next one.
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
        """`right` as columns, (n, 5) or (n, 2), 0 or 1."""
        return np.stack([unpacked(bits, self.n) for bits in self.right], 1)


class Rebuilt(Record):
    """One set of images made from others.

    Attributes:
        residual: its quantiles, after rounding to bytes.
        reached, vanished: shares of images that ended early because they were good enough, or had no gradient. Of
            D_rand and D_det, whose images are moved and not rebuilt: the share that is taken for its target; None.
        gradients: a sample.
        to_source, to_start: median distance in L2.
        seconds: of the start that finished it.
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
        survived: for each of the first test images, how many of the radii it survived; -1 where it is wrong when clean.
    """

    name: str
    seed: int
    norm: str
    radii: list[float]
    survived: list[int]
    seconds: float


class Aligned(Record):
    """How much the gradients of one network look like the first test images.

    Attributes:
        values: `gradient_alignment` of each; None where it is undefined.
    """

    name: str
    seed: int
    values: list[float | None]
    seconds: float


class Reach(Record):
    """How far images must be moved for a network to take them for another class.

    Attributes:
        eps: the radius that was chosen.
        tried: radii in increasing order; share: of the targets that were reached in each.
    """

    eps: float
    tried: list[float]
    share: list[float]


class Drawn(Record):
    """Pictures that need the images."""

    pictures: list[Picture]


def packed(bits: Tensor) -> str:
    """(n,) bool as text."""
    return base64.b64encode(np.packbits(bits.cpu().numpy()).tobytes()).decode()


def unpacked(bits: str, n: int) -> np.ndarray:
    """The reverse, as numbers."""
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=n).astype(float)


def columns(right: Tensor) -> list[str]:
    """(n, columns) bool, packed column by column."""
    return [packed(column) for column in right.to(torch.bool).unbind(1)]


class Results:
    """Networks by name, over their seeds; with three or more, intervals reach over these as well."""

    def __init__(self, tests: Sequence[Measured]) -> None:
        self.rows: dict[str, list[Measured]] = {}
        for one in tests:
            self.rows.setdefault(one.name, []).append(one)
        self._correct = {name: np.mean([one.correct() for one in rows], 0) for name, rows in self.rows.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def correct(self, name: str) -> np.ndarray:
        """How often each image was right over the seeds, (n, 5) or (n, 2)."""
        return self._correct[name]

    def accuracy(self, name: str) -> list[Figures]:
        """Of each column; exact intervals for one network, bootstraps over images for several seeds."""
        if len(self.rows[name]) > 1:
            each = np.stack([one.correct().mean(0) for one in self.rows[name]])
            return [
                over_seeds(e.tolist(), mean(column)) for e, column in zip(each.T, self.correct(name).T, strict=True)
            ]
        shares = [intervals.share(torch.from_numpy(column)) for column in self.correct(name).T]
        return [(s.value or 0.0, s.low, s.high, s.n) for s in shares]

    def gap(self, first: str, second: str, which: Sequence[int]) -> Figures:
        """First minus second, the mean over columns, paired by image."""
        gap = self.correct(first)[:, which].mean(1) - self.correct(second)[:, which].mean(1)
        a, b = ({one.seed: one.correct()[:, which].mean() for one in self.rows[name]} for name in (first, second))
        return over_seeds([a[seed] - b[seed] for seed in a if seed in b], mean(gap.round(9)))


class Left:
    """What the cascade left of each network, by norm and name, over the seeds."""

    def __init__(self, attacks: Sequence[Attacked]) -> None:
        self.radii = {one.norm: one.radii for one in attacks}
        self.rows: dict[str, dict[str, list[np.ndarray]]] = {norm: {} for norm in self.radii}
        for one in attacks:
            self.rows[one.norm].setdefault(one.name, []).append(np.array(one.survived))

    def right(self, norm: str, name: str, k: int) -> np.ndarray:
        """How often each image was right at the k-th radius over the seeds; when clean for -1."""
        return np.mean([kept > k for kept in self.rows[norm][name]], 0)

    def accuracy(self, norm: str, name: str, k: int) -> Figures:
        """With an exact interval for one network, a bootstrap over images for several seeds."""
        values, rows = self.right(norm, name, k), self.rows[norm][name]
        if len(rows) > 1:
            return over_seeds([float((kept > k).mean()) for kept in rows], mean(values))
        return figures_of(intervals.share(torch.from_numpy(values)))

    def gap(self, norm: str, first: str, second: str, k: int) -> Figures:
        """First minus second at the k-th radius, paired by image."""
        a, b = (self.rows[norm][name] for name in (first, second))
        figures = mean((self.right(norm, first, k) - self.right(norm, second, k)).round(9))
        each = [float((p > k).mean() - (q > k).mean()) for p, q in zip(a, b, strict=False)]
        return over_seeds(each, figures)


ALIGNED = 1000
"""Test images on which alignment is measured."""


def aligned(net: nn.Module, x: Tensor, y: Tensor, *, name: str, seed: int) -> Aligned:
    """Alignment on the first `ALIGNED` samples. Cost: 1 forward, 1 backward of each."""
    started = time.perf_counter()
    values = gradient_alignment(net, x[:ALIGNED], y[:ALIGNED])
    return Aligned(name=name, seed=seed, values=listed(values), seconds=round(time.perf_counter() - started, 1))


class Alignments:
    """Alignment by network, over the seeds."""

    def __init__(self, rows: Sequence[Aligned]) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}
        for one in rows:
            self._rows.setdefault(one.name, []).append(array(one.values))
        self.mean = {name: np.mean(values, 0) for name, values in self._rows.items()}

    def gap(self, first: str, second: str) -> Figures:
        """First minus second, paired by image."""
        each = [float(np.nanmean(a - b)) for a, b in zip(self._rows[first], self._rows[second], strict=False)]
        return over_seeds(each, mean((self.mean[first] - self.mean[second]).round(9)))

    def _figures(self, name: str) -> Figures:
        return over_seeds([float(np.nanmean(values)) for values in self._rows[name]], mean(self.mean[name]))

    def claims(self, asked: Sequence[tuple[str, str, str]], where: str) -> list[Claim]:
        """`(first, second, source)`: that the first network's gradients look more like the images."""
        return [
            claim(
                f"{where}: gradients of {first} look more like the images than those of {second}; difference of the "
                "cosine.", source, self.gap(first, second), 1e-9,
            )
            for first, second, source in asked
            if first in self.mean and second in self.mean
        ]  # fmt: skip

    def table(self) -> list[dict[str, Any]]:
        """A row a network."""
        return [
            {"network, or set it was trained on": name, "networks": len(self._rows[name]),
             "cosine of image and gradient": text(self._figures(name)), "images": int(np.isfinite(values).sum())}
            for name, values in self.mean.items()
        ]  # fmt: skip
