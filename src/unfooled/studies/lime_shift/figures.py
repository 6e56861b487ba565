"""Figures of the study of LIME under attack: means over images with intervals, made from the stored columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import Cases, discrete_mean
from unfooled.statistics.intervals import NO_SAMPLES, Interval, over_seeds
from unfooled.studies.common.records import array
from unfooled.studies.lime_shift.units import Compared, Scaffolded

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Columns:
    """Columns of all units and seeds.

    Attributes:
        seeds: Columns by seed, with "id", the number of the image.
    """

    seeds: tuple[Rows, ...]

    @classmethod
    def of(cls, parts: Sequence[Compared]) -> Columns:
        """Join the parts of each seed."""
        seeds: dict[int, list[Compared]] = {}
        for part in parts:
            seeds.setdefault(part.seed, []).append(part)
        return cls(tuple(_joined(rows) for rows in seeds.values()))

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [name for name in (self.seeds[0] if self.seeds else {}) if name != "id"]

    def mean(self, name: str) -> Interval:
        """Return the mean of a column over images, with its interval."""
        return self.figure([name], lambda rows: rows[name])

    def gap(self, a: str, b: str) -> Interval:
        """Return the mean of a - b, paired by image."""
        return self.figure([a, b], lambda rows: rows[a] - rows[b])

    def figure(self, needed: Sequence[str], value: Callable[[Rows], np.ndarray]) -> Interval:
        """Return the mean over images of a value that is computed from columns.

        Args:
            needed: Columns that the value needs; without one of them there is no figure.
            value: Function from the columns of a seed to one value for each image.
        """
        if not self.seeds or any(name not in rows for rows in self.seeds for name in needed):
            return NO_SAMPLES
        seeds = tuple({"id": rows["id"], "value": value(rows)} for rows in self.seeds)
        values = np.concatenate([rows["value"] for rows in seeds])
        if len(np.unique(values[np.isfinite(values)])) == 1:  # a bootstrap of equal values has no spread
            return discrete_mean(values)
        return Cases(seeds).interval(mean_of("value"), ["value"])


@dataclass(frozen=True)
class TableColumns:
    """Columns of the scaffolding experiment, one for each sampler; every seed has a table of its own.

    Attributes:
        seeds: Columns by seed, one value in [-1, 1] for each explained row.
    """

    seeds: tuple[Rows, ...]

    def mean(self, name: str) -> Interval:
        """Return the mean of a column over rows, with its interval."""
        return _mean([rows[name] for rows in self.seeds])

    def share(self, name: str) -> Interval:
        """Return the mean of a column of values in [0, 1]."""
        value, low, high, n = self.mean(name)
        return Interval(value, max(low, 0.0), min(high, 1.0), n)

    def gap(self, a: str, b: str) -> Interval:
        """Return the mean of a - b, paired by row."""
        return _mean([rows[a] - rows[b] for rows in self.seeds])


def _mean(by_seed: Sequence[np.ndarray]) -> Interval:
    """Return the mean over the rows of all seeds."""
    if not by_seed:
        return NO_SAMPLES
    return over_seeds([float(values.mean()) for values in by_seed], discrete_mean(np.concatenate(by_seed)))


def table_columns(rows: Sequence[Scaffolded], value: Callable[[Scaffolded], Sequence[float]]) -> TableColumns:
    """Return one column for each sampler, over the explained rows."""
    seeds: dict[int, Rows] = {}
    for row in rows:
        seeds.setdefault(row.seed, {})[row.sampler] = np.asarray(value(row), dtype=float)
    return TableColumns(tuple(seeds.values()))


def _joined(parts: Sequence[Compared]) -> Rows:
    """Return the columns of one seed."""
    names = parts[0].columns
    rows = {name: np.concatenate([array(part.columns[name]) for part in parts]) for name in names}
    return {"id": np.concatenate([np.asarray(part.images) for part in parts]), **rows}
