"""What the attention study keeps: trained networks, their attention sample by sample, and what attacks left of them."""

from __future__ import annotations

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate

Listed = list[float | None]
"""One value a sample; None where undefined."""


class Trained(Record):
    """One trained network.

    Attributes:
        clean: accuracy on all test samples. loss: what it was trained with.
        steps: of the optimiser. passes: forwards and backwards a sample and step; their product is equal for all arms.
        seconds: of training.
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
    """One network's attention, on the samples that it classifies rightly when clean.

    Attributes:
        n: samples looked at; wrong: those left out since their clean prediction is wrong, the only filter.
        indices, labels: of the samples that are left.
        eps: the radius of the deviation analysis, the median distance of the nearest adversarial example.
        columns: measure -> one value a sample; see `studies.attention_vulnerability`.
        course: measure -> means over the fooled at `steps` shares of the way from x to the attacked point.
        cells: of the map.
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
        eps: of all attacks.
        kept: attack -> which samples still have their label, "1" and "0"; wrong when clean is "0" everywhere.
        columns: measure -> one value a sample; None where the clean prediction is wrong.
    """

    data: str
    arm: str
    seed: int
    eps: float
    n: int
    kept: dict[str, str]
    columns: dict[str, Listed]
    seconds: float


class Crossed(Record):
    """One trained network under what was found on the other arms.

    Attributes:
        kept: as in `Judged`, after the points of all other networks of the data set and seed.
    """

    data: str
    arm: str
    seed: int
    kept: str


class Faithful(Record):
    """Whether one trained network's attention says what it uses and what it learned.

    Attributes:
        columns: measure -> one value a sample; None where the clean prediction is wrong. Areas under the curves of
            deletion and insertion, and "elsewhere", those of the same map rolled by half.
        layers: shuffled, the last one first. randomised: Spearman's rho of the maps after each; means, and n of them.
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
