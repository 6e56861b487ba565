"""Records of the attention study: trained networks, their attention by sample, and their results under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pydantic import AliasChoices, Field

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate

Listed = list[float | None]
"""One value per sample; None where undefined."""

CORRECT = AliasChoices("correct", "kept")
"""Names under which a record may store the samples that keep their label."""


class Trained(Record):
    """One trained network.

    Attributes:
        data: Data set and radius.
        arm: Way of training.
        seed: Random seed.
        clean: Accuracy on all test samples.
        loss: Training loss.
        steps: Optimiser steps.
        passes: Forwards and backwards per sample and step; the product with `steps` is about equal for all arms.
        seconds: Seconds of training.
    """

    data: str
    arm: str
    seed: int
    clean: Estimate
    loss: str
    steps: int
    passes: float
    seconds: float


class Analysed(Record):
    """One network's attention, on the samples that it classifies correctly when clean.

    Attributes:
        data: Data set and radius.
        arm: Network.
        seed: Random seed.
        n: Number of samples, those with a wrong clean prediction included.
        wrong: Number of samples left out because their clean prediction is wrong, the only filter.
        indices: Positions in the data set of the samples that are analysed.
        labels: Their labels.
        eps: Radius of the deviation analysis, the median distance of the nearest adversarial example.
        columns: Measure -> one value per sample; see `analysis`.
        course: Measure -> means over the fooled samples along the straight line from x to the attacked point.
        cells: Number of cells of the attention map.
        seconds: Seconds of the unit.
        picture: Gallery of a few images; None: no image can be shown.
    """

    data: str
    arm: str
    seed: int
    n: int
    wrong: int
    indices: list[int]
    labels: list[int]
    eps: float
    columns: dict[str, Listed]
    course: dict[str, list[float]]
    cells: int
    seconds: float
    picture: Picture | None = None


class Judged(Record):
    """One trained network under attack.

    Attributes:
        data: Data set and radius.
        arm: Way of training.
        seed: Random seed.
        eps: Radius of all attacks.
        n: Samples.
        correct: Attack -> a string with one digit per sample, "1" if it keeps its label, "0" if not or wrong when
            clean; stored as "kept".
        columns: Measure -> one value per sample; None where the clean prediction is wrong.
        seconds: Seconds of the unit.
    """

    data: str
    arm: str
    seed: int
    eps: float
    n: int
    correct: dict[str, str] = Field(validation_alias=CORRECT, serialization_alias="kept")
    columns: dict[str, Listed]
    seconds: float


class Crossed(Record):
    """One trained network under the adversarial points of the other arms.

    Attributes:
        data: Data set and radius.
        arm: Way of training.
        seed: Random seed.
        correct: Samples that keep their label at the points of all other networks, written and stored as in `Judged`.
    """

    data: str
    arm: str
    seed: int
    correct: str = Field(validation_alias=CORRECT, serialization_alias="kept")


class Faithful(Record):
    """Faithfulness of one trained network's attention: deletion and insertion curves, and shuffled parameters.

    Attributes:
        data: Data set and radius.
        arm: Way of training.
        seed: Random seed.
        n: Samples.
        columns: Measure of `FAITHFUL` -> one value per sample; None where the clean prediction is wrong.
        layers: Layers that are shuffled, the last one first.
        randomised: Mean Spearman correlation of the maps with the original ones, after each layer.
        compared: Number of maps in this mean.
        seconds: Seconds of the unit.
    """

    data: str
    arm: str
    seed: int
    n: int
    columns: dict[str, Listed]
    layers: list[str]
    randomised: list[float | None]
    compared: list[int]
    seconds: float


@dataclass(frozen=True)
class Results:
    """Records of all units.

    Attributes:
        trained: Trained networks.
        analysed: Attention of the networks that are analysed.
        judged: Networks under attack.
        crossed: Networks under the points found on the others.
        faithful: Faithfulness of the attention.
    """

    trained: Sequence[Trained] = ()
    analysed: Sequence[Analysed] = ()
    judged: Sequence[Judged] = ()
    crossed: Sequence[Crossed] = ()
    faithful: Sequence[Faithful] = ()


def joined(parts: Sequence[Results]) -> Results:
    """Join the results of several data sets and seeds."""
    return Results(*([row for part in parts for row in getattr(part, field.name)] for field in fields(Results)))
