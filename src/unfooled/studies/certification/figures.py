"""Figures of the study of certification: shares of images with intervals, from the stored bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import Cases, discrete_mean
from unfooled.statistics.intervals import NO_SAMPLES, Interval, over_seeds
from unfooled.studies.certification.units import Judged

Rows = dict[str, np.ndarray]
Value = Callable[[Rows], np.ndarray]
FIELDS = ("right", "by_intervals", "proven", "resists")


@dataclass(frozen=True)
class Ends:
    """Both ends of every network at one radius.

    Attributes:
        seeds: Network -> columns of `FIELDS` and "id", the number of the image; for each seed.
    """

    seeds: tuple[dict[str, Rows], ...]

    @classmethod
    def of(cls, judged: Sequence[Judged], eps: float) -> Ends:
        """Return the columns of the records at one radius."""
        seeds: dict[int, dict[str, Rows]] = {}
        for one in judged:
            if one.eps == eps:
                columns = {name: np.array([float(bit) for bit in getattr(one, name)]) for name in FIELDS}
                seeds.setdefault(one.seed, {})[one.network] = {"id": np.array(one.images), **columns}
        return cls(tuple(seeds.values()))

    @property
    def networks(self) -> list[str]:
        """Names of the networks."""
        return list(self.seeds[0]) if self.seeds else []

    def mean(self, network: str, field: str) -> Interval:
        """Return the share of the images of a network, with its interval."""
        return _within_one(self.figure([network], lambda a: a[0][field]))

    def open(self, network: str) -> Interval:
        """Return the share of the images that are neither proven nor fooled."""
        return _within_one(self.figure([network], lambda a: a[0]["resists"] - a[0]["resists"] * a[0]["proven"]))

    def gap(self, a: str, b: str, field: str) -> Interval:
        """Return the share of a network less that of another one, paired by image."""
        return self.figure([a, b], lambda rows: rows[0][field] - rows[1][field])

    def figure(self, networks: Sequence[str], value: Callable[[list[Rows]], np.ndarray]) -> Interval:
        """Return the mean over images and seeds of a value of some networks; no samples where one is missing."""
        if not self.seeds or any(name not in seed for seed in self.seeds for name in networks):
            return NO_SAMPLES
        rows = [[seed[name] for name in networks] for seed in self.seeds]
        cases = tuple({"id": own[0]["id"], "value": value(own)} for own in rows)
        by_seed = [float(case["value"].mean()) for case in cases]
        values = np.concatenate([case["value"] for case in cases])
        if len(cases) == 1 or len(np.unique(values)) == 1:  # several seeds have the same images
            return over_seeds(by_seed, discrete_mean(values))
        return over_seeds(by_seed, Cases(cases).interval(mean_of("value"), ["value"]))

    def conflicts(self) -> tuple[int, int]:
        """Return how many proven images the attack has fooled, and how many are proven, over all networks."""
        rows = [columns for seed in self.seeds for columns in seed.values()]
        fooled = sum(float((one["proven"] * (1 - one["resists"])).sum()) for one in rows)
        return round(fooled), round(sum(float(one["proven"].sum()) for one in rows))


def _within_one(share: Interval) -> Interval:
    """Return the interval of a share, cut off at 0 and 1."""
    value, low, high, n = share
    return Interval(value, max(low, 0.0), min(high, 1.0), n)
