"""What the attribution-robustness study keeps: a trained network, and its scores sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate
from unfooled.studies.attribution_robustness.networks import Task
from unfooled.studies.common.records import array


class Network(Record):
    """One trained network.

    Attributes:
        clean: accuracy on all test samples; robust: on the first so many of them, under the cascade.
        correct: which of the first test samples it classifies rightly, as "1" and "0".
        loss: what it was trained with; seconds: of training, see `Bench`.
    """

    data: str
    arm: str
    seed: int
    clean: Estimate
    robust: Estimate
    correct: str
    loss: str
    seconds: float


class Scores(Record):
    """One network's explanations at one radius, sample by sample; None where undefined.

    Attributes:
        indices: of the test samples.
        status: how -> attacked, failed, undefined or skipped, at the worst point of the LENS that leads.
        values: how -> score -> one value a sample.
        zero_share: of the clean map's top k, one value a sample.
        output_change: |f_y(x') - f_y(x)| at the attack's point.
        gap: median relative completeness gap of the clean maps, where the explanation is a path's.
        n_random: points that the best of N is chosen from.
        forwards, backwards, explanations: a sample, of the attack; attack_seconds: of all samples.
    """

    data: str
    arm: str
    seed: int
    look: str
    eps: float
    n_random: int
    indices: list[int]
    status: dict[str, list[str]]
    values: dict[str, dict[str, list[float | None]]]
    zero_share: list[float | None]
    output_change: list[float | None]
    gap: float | None = None
    forwards: float
    backwards: float
    explanations: float
    attack_seconds: float
    seconds: float
    picture: Picture | None = None


@dataclass(frozen=True)
class Pool:
    """All that was measured at one data set's whole radius for one explanation, by network and seed."""

    task: Task
    look: str
    rows: dict[tuple[str, int], Scores]

    def together(self, arm: str, how: str, score: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """One network's values over the seeds, one image after the other; NaN where undefined."""
        return np.concatenate([np.empty(0), *(array(r.values[how][score]) for r in self._of(arm, seeds))])

    def images(self, arm: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Which image each of `together`'s values is of."""
        return np.concatenate([np.empty(0, dtype=int), *(np.array(r.indices) for r in self._of(arm, seeds))])

    def _of(self, arm: str, seeds: Sequence[int] | None) -> list[Scores]:
        return [r for (name, seed), r in sorted(self.rows.items()) if name == arm and (not seeds or seed in seeds)]

    def seeds(self, arm: str) -> list[int]:
        """Seeds on which a network was trained."""
        return sorted(seed for name, seed in self.rows if name == arm)

    @property
    def arms(self) -> list[str]:
        """Every network, in the order in which they were trained."""
        return list(dict.fromkeys(name for name, _ in self.rows))
