"""Records of the study of attackability, one for each kind of unit."""

from __future__ import annotations

from unfooled.runs.records import Record
from unfooled.studies.common.records import Table

Columns = dict[str, list[float | None]]
"""Measure -> one value a scene; None: undefined."""


class Geometry(Record):
    """Geometry of one concept network's head, with its attributes and twins.

    Attributes:
        rho: Correlation of the planted background with the label.
        seed: Number of the network.
        accuracy: Share of the test scenes that are classified correctly.
        auc: Area under the ROC curve of each attribute on the test scenes.
        costs: Median number of switches of one attribute that alone flip the label, (attributes, classes); None: the
            class is never predicted.
        pairs: Median radius from each predicted class to each rival, (classes, classes).
        cheapest: Commonest cheapest edits: from, to, attribute, share of the scenes of that class, median switches.
        barred: Kinds of impossible edits: reason, share of all, number of edits, median of the logits that are missing.
        columns: "flip" (l_2 distance of the attribute logits to the next change of label), "radius", "below", "above"
            (label flipped at .999 and 1.001 of the distance), of each scene.
        twins: "FACTOR, head", "FACTOR, total", "FACTOR, twin" and "FACTOR, cosine" (of the moves of the attribute
            logits in the twin and by the total effect), of each scene with twins.
        seconds: Seconds of the unit, training included.
    """

    rho: float
    seed: int
    accuracy: float
    auc: list[float | None]
    costs: list[list[float | None]]
    pairs: list[list[float | None]]
    cheapest: Table
    barred: Table
    columns: Columns
    twins: Columns
    seconds: float


class Near(Record):
    """Nearest adversarial examples of one network's scenes, beside their radius.

    Attributes:
        rho: Correlation of the planted background with the label.
        seed: Number of the network.
        columns: "radius", "flip" (see `Geometry`), "margin" (lead of the predicted class in logits), "distance" (l_2 in
            pixels; None: none was found), "label" (the class; absent in records of earlier versions).
        seconds: Seconds of the unit.
    """

    rho: float
    seed: int
    columns: Columns
    seconds: float


class Example(Record):
    """One edit, for the pictures.

    Attributes:
        kind: "worst" or "random".
        x: Image, flattened, in 255ths.
        changed: Changed image, likewise.
        before: Attribute logits in switches.
        wanted: The same with the edit.
        achieved: The same of the changed image.
        saliency: |d e_f / d x| of the edited attribute f, summed over channels, flattened.
        title: Text above the column.
        twin: Image with the edited attribute's factor changed as the edit asks, in 255ths; empty: there is none.
        twin_title: Text above it.
    """

    kind: str
    x: list[int]
    changed: list[int]
    before: list[float]
    wanted: list[float]
    achieved: list[float]
    saliency: list[float]
    title: str
    twin: tuple[int, ...] = ()
    twin_title: str = ""


class Carried(Record):
    """Edits of one attribute carried into pixels, beside their controls.

    Attributes:
        seed: Random seed.
        columns: "HOW, MEASURE" of each scene, such as "targeted PGD, valid"; see `carried.MEASURES`.
        examples: Worst and random edits.
        shape: Shape of one image.
        seconds: Seconds of the unit.
    """

    seed: int
    columns: Columns
    examples: list[Example]
    shape: list[int]
    seconds: float


class Trained(Record):
    """One training of a concept network by a loss of `ARMS`, judged.

    Attributes:
        arm: Name of the training.
        seed: Random seed.
        updates: Updates of the budget.
        accuracy: Clean accuracy on all test scenes.
        auc: Median area under the ROC curve of the attributes.
        published: Median of the published attackability, which is not a robustness measure.
        radius: Median radius of all test scenes.
        columns: "clean", "robust" (0 or 1), "flip", "radius", "published", "distance", of each attacked scene.
        seconds: Seconds of the unit, training included.
    """

    arm: str
    seed: int
    updates: int
    accuracy: float
    auc: float
    published: float
    radius: float
    columns: Columns
    seconds: float


class Tables(Record):
    """Tables that a unit makes by itself, with the columns that its claims are decided by."""

    name: str
    tables: dict[str, Table]
    columns: Columns
    seconds: float
