"""Records of local surrogates: leading features, their standard errors, and the limits of the fit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from unfooled.explanations.lime.findings import LOW_R2, Flag, Kind, notes
from unfooled.explanations.lime.pages import unit_sentence
from unfooled.explanations.lime.result import Surrogates
from unfooled.runs.files import write_whole
from unfooled.runs.records import Record

LOW_FIT = "No linear surrogate fits well here: the held-out R2 is {:.2f}."


class Weight(Record):
    """Weight of a feature, with its standard error."""

    name: str
    weight: float
    se: float


class ClassWeights(Record):
    """Leading features of a class.

    Attributes:
        label: Number of the class or output.
        name: Its name.
        features: Leading features, largest |weight| first.
        intercept: Intercept of the surrogate.
        prediction: Answer of the model for the input.
        local_prediction: Answer of the surrogate for the input.
        r2, r2_held_out: R2 on the samples of the fit, and on held-out samples; None: not defined.
    """

    label: int
    name: str
    features: list[Weight]
    intercept: float
    prediction: float
    local_prediction: float
    r2: float | None
    r2_held_out: float | None


class Explained(Record):
    """Explanation of one input.

    Attributes:
        item: The input, such as "row 7".
        predicted: Name of the predicted class, or the answer of a regression.
        several: True if the model has several outputs; False: a regression.
        classes: Classes explained.
        features: Number of features.
        ess: Effective sample size.
        stability: Soft stability of the leading features, as (value, low, high); None: not computed.
        notes: Sentences on what limits the explanation.
        unit: Unit of the weights as a sentence. Empty: a weight is the effect of a feature that is shown.
    """

    item: str
    predicted: str
    several: bool
    classes: list[ClassWeights]
    features: int
    ess: float
    stability: tuple[float, float, float] | None
    notes: list[str]
    unit: str = ""


class Picked(Record):
    """Submodular pick of a few explanations among many.

    Attributes:
        index: Numbers of the inputs picked, in order.
        gain: Coverage that each input added.
        among: Number of inputs that it was picked from.
        importance: Importance of the leading features of all inputs.
        covered: Share of the cover of all inputs that the pick has. None: a record of an earlier version.
        by_chance: Share that as many inputs at random have, in expectation.
    """

    index: list[int]
    gain: list[float]
    among: int
    importance: dict[str, float]
    covered: float | None = None
    by_chance: float | None = None

    @property
    def sentence(self) -> str:
        """How much the pick covers, beside a random choice; empty if it is not known."""
        if self.covered is None or self.by_chance is None:
            return ""
        return f"They cover {self.covered:.0%} of what matters, {len(self.index)} at random {self.by_chance:.0%}."


class LimeRecord(Record):
    """Local surrogates of a model's decisions.

    Attributes:
        model: Name of the model.
        data: Name of the data.
        kind: Kind of the inputs: image, text or table.
        seed: Random seed.
        calls: Evaluations of the model for each input.
        explanations: Explanations; for a pick, those of the inputs picked.
        pick: The submodular pick. None: the inputs were given.
        warnings: Assumptions that were made when the files were read.
        seconds: Wall time of the explanation.
        files: Files that were written.
    """

    model: str
    data: str
    kind: str
    seed: int
    calls: list[int]
    explanations: list[Explained]
    pick: Picked | None = None
    warnings: list[str] = Field(default_factory=list)
    seconds: float
    files: list[str]


def explained(result: Surrogates, top: int, items: Sequence[str]) -> list[Explained]:
    """Return the record of each explanation."""
    return [_explained(one, top, item) for one, item in zip(result, items, strict=True)]


def _explained(one: Surrogates, top: int, item: str) -> Explained:
    count, sure, classes = len(one.names[0]), one.settled()[0], []
    for t, label in enumerate(one.y[0].tolist()):
        order = sure[t, :count].abs().argsort(descending=True, stable=True)[:top].tolist()
        features = [
            Weight(name=feature_name(one, j), weight=float(sure[t, j]), se=float(one.se[0, t, j])) for j in order
        ]
        classes.append(
            ClassWeights(
                label=label,
                name=one.class_name(label),
                features=features,
                intercept=float(one.intercept[0, t]),
                prediction=float(one.prediction[0, t]),
                local_prediction=float(one.local_prediction[0, t]),
                r2=_finite(one.r2[0, t]) if count else None,
                r2_held_out=_finite(one.r2_held_out[0, t]) if count else None,
            )
        )
    held_out = classes[0].r2_held_out
    low = [LOW_FIT.format(held_out)] if held_out is not None and held_out < LOW_R2 and count else []
    return Explained(
        item=item,
        predicted=predicted(one),
        several=one.outputs is not None and one.outputs.shape[1] > 1,
        classes=classes,
        features=count,
        ess=float(one.ess[0]),
        stability=None if one.stability is None or not count or Flag.ONE in one.flags[0] else one.stability[0],
        notes=[*notes(one.flags[0], float(one.ess[0]), count), *low],
        unit=unit_sentence(one) if count else "",
    )


def feature_name(one: Surrogates, j: int) -> str:
    """Return the name of a feature."""
    return f"segment {one.names[0][j]}" if one.kind == Kind.IMAGE else one.names[0][j]


def predicted(one: Surrogates) -> str:
    """Return the predicted class, or the answer where there is one output."""
    if one.outputs is None or one.outputs.shape[1] < 2:
        return f"{float(one.prediction[0, 0]):.4g}"
    return one.class_name(int(one.outputs[0].argmax()))


def _finite(value: Any) -> float | None:
    """Return a number; None for NaN."""
    return None if math.isnan(float(value)) else float(value)


def write(out: Path, result: Surrogates, html: str, record: LimeRecord) -> None:
    """Write lime.html and lime.json; `Surrogates.from_json` reads the JSON, which also contains the record."""
    whole = json.loads(result.to_json()) | {"record": json.loads(record.model_dump_json())}
    write_whole(out / "lime.json", json.dumps(whole).encode())
    write_whole(out / "lime.html", html.encode("utf-8", "replace"))
