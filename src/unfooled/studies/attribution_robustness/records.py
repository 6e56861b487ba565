"""Records of the attribution-robustness study: trained networks, and their scores sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Record
from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import Columns, over_images
from unfooled.statistics.intervals import Estimate, Interval
from unfooled.studies.attribution_robustness.scale import MapTask
from unfooled.studies.common.records import array

HOW = ("attack", "best of N", "random")
"""Perturbations of an image."""
OTHER = "another image"
"""Baseline beside the perturbations: the clean map of the next image. Maps of one network resemble each other."""


class Network(Record):
    """One trained network.

    Attributes:
        data: Data set.
        arm: Way of training.
        seed: Random seed.
        clean: Accuracy on all test samples.
        robust: Accuracy on the first test samples under the cascade.
        correct: A digit for each of the first test samples: "1" if it is classified correctly, else "0".
        loss: Training loss.
        seconds: Seconds of training; see `Bench`.
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
        data: Data set.
        arm: Way of training.
        seed: Random seed.
        look: Explanation.
        eps: Radius.
        n_random: Number N of random points for the best of N.
        indices: Positions of the samples in the test set.
        status: Perturbation -> attacked, failed, undefined or skipped, by sample, at the worst point of `main_lens`.
        values: Perturbation -> score -> one value per sample.
        zero_share: Share of zeros in the clean map's top k, one value per sample.
        output_change: Change of the label's logit, |f_y(x') - f_y(x)|, at the attack's point, for each sample.
        gap: Median relative completeness gap of the clean maps; None: the explanation is no path integral.
        forwards: Forwards per sample of the attack.
        backwards: Backwards per sample of the attack.
        explanations: Explanations per sample of the attack.
        attack_seconds: Seconds of the attack on all samples.
        seconds: Seconds of the unit.
        picture: The worst cases; None: there are none.
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
    """Results of one data set and one explanation at the whole radius.

    An image that was explained on several seeds is one image: all its values are resampled together.

    Attributes:
        task: Data set.
        look: Name of the explanation.
        rows: (network, seed) -> scores.
    """

    task: MapTask
    look: str
    rows: dict[tuple[str, int], Scores]

    @property
    def where(self) -> str:
        """Data set and explanation, the beginning of a claim."""
        return f"{self.task.source}, {self.look}"

    @property
    def arms(self) -> list[str]:
        """Every network, in the order in which they were trained."""
        return list(dict.fromkeys(name for name, _ in self.rows))

    def seeds(self, arm: str) -> list[int]:
        """Return the seeds on which a network was trained."""
        return sorted(seed for name, seed in self.rows if name == arm)

    def columns(
        self, arm: str, measures: Mapping[str, tuple[str, str]], seeds: Sequence[int] | None = None
    ) -> Columns:  # fmt: skip
        """Return one network's values, one seed after the other, with the image as "id"; NaN where undefined.

        Args:
            arm: Network.
            measures: Name of a column -> (perturbation, score).
            seeds: Seeds that are used; None: all.
        """
        rows = [r for (name, seed), r in sorted(self.rows.items()) if name == arm and (not seeds or seed in seeds)]
        ids = np.concatenate([np.empty(0, dtype=int), *(np.array(r.indices) for r in rows)])
        values = {
            column: np.concatenate([np.empty(0), *(array(r.values[how][score]) for r in rows)])
            for column, (how, score) in measures.items()
        }
        return {"id": ids, **values}

    def mean(self, arm: str, how: str, score: str) -> Interval:
        """Return the mean of a score over all images and seeds."""
        return over_images(mean_of("score"), self.columns(arm, {"score": (how, score)}))
