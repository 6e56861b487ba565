"""Results of local surrogates: weights with their errors, as lists, tables, maps, pictures, pages and JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime import render
from unfooled.explanations.lime.checking import at_least, between, numbers_of
from unfooled.explanations.lime.figure import figure
from unfooled.explanations.lime.findings import Flag, Kind, few_effective
from unfooled.explanations.lime.pages import chart_of, page_of, picture_of
from unfooled.explanations.lime.predicting import named_outputs
from unfooled.explanations.lime.rounding import settled
from unfooled.explanations.lime.segments import pixel_masks
from unfooled.explanations.lime.stored import checked_fields
from unfooled.explanations.lime.storing import VERSION, check_version, loaded, plain, restored
from unfooled.explanations.lime.view import Cell

NORMAL_95 = 1.959963984540054
PADDED = ("weights", "se", "sd")
"""Fields that are padded with zeros for samples with fewer features."""


@dataclass(frozen=True, eq=False)
class Surrogates:
    """Local linear surrogates of B samples and T outputs each.

    Attributes:
        kind: What was explained.
        weights: Weights, (B, T, M); padded with 0 for samples with fewer features.
        se: Standard errors over the draws of the masks, (B, T, M). They say nothing about lack of fit: see
            `r2_held_out`.
        intercept: Intercepts, (B, T).
        r2: R2 of the samples used, (B, T).
        r2_held_out: R2 of samples left out, (B, T); a low one says that no linear surrogate fits.
        ess: Effective sample size, (B,).
        prediction: Scores of the inputs, (B, T).
        local_prediction: What the surrogate gives for the inputs, (B, T).
        y: Classes or outputs explained, (B, T).
        names: Names of the features of each sample.
        content: What was explained: samples (B, *D), texts, rows as text, or the parts of an input.
        sampler: Sampler.
        kernel: Kernel.
        baseline: Values of hidden features.
        score: Function of the outputs that was explained.
        seed: Base seed.
        calls: Model evaluations a sample, (B,).
        seconds: Seconds of the call.
        flags: Findings of each sample.
        link: Function of the outputs before the fit.
        segments: Ids of images, (B, *S). None: no image.
        spans: Place of each feature in a text, (start, end, feature). None: no text.
        keys: Keys of the features of table rows, (column, bin). None: no table.
        cells: Columns of table rows, (column, value, bin, feature). None: no table.
        classes: Names of the outputs. None: numbers.
        outputs: All outputs of the inputs, (B, K); probabilities for images. None: not known.
        seen: Least and largest answer for each output of a regression, (T, 2). None: a classifier.
        stability: Soft stability of a sample's leading features, as (value, low, high); NaN where there is nothing to
            compare. None: not asked for.
        sd: Posterior standard deviations, (B, T, M). None: no prior.
        masks: Masks of each sample, (S, M). None: not kept.
        answers: Answers of each sample, (S, T). None: not kept.
        unit: Unit of the weights besides that of the answers, such as "per standard deviation". Empty: a weight is the
            effect of a feature that is shown.
    """

    kind: Kind
    weights: Tensor
    se: Tensor
    intercept: Tensor
    r2: Tensor
    r2_held_out: Tensor
    ess: Tensor
    prediction: Tensor
    local_prediction: Tensor
    y: Tensor
    names: tuple[tuple[str, ...], ...]
    content: Any
    sampler: str
    kernel: str
    baseline: str
    score: str
    seed: int
    calls: Tensor
    seconds: float
    flags: tuple[tuple[Flag, ...], ...]
    link: str = "identity"
    segments: Tensor | None = None
    spans: tuple[tuple[tuple[int, int, int], ...], ...] | None = None
    keys: tuple[tuple[tuple[Any, ...], ...], ...] | None = None
    cells: tuple[tuple[Cell, ...], ...] | None = None
    classes: tuple[str, ...] | None = None
    outputs: Tensor | None = None
    seen: Tensor | None = None
    stability: tuple[tuple[float, float, float], ...] | None = None
    sd: Tensor | None = None
    masks: tuple[Tensor, ...] | None = None
    answers: tuple[Tensor, ...] | None = None
    unit: str = ""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.weights)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor | np.generic) -> Surrogates:
        """Return the explanations of one sample, or of several: a slice, numbers, or a mask of samples, (B,) bool."""
        i = numbers_of(index, len(self))
        if isinstance(i, int):
            if not -len(self) <= i < len(self):
                raise IndexError(f"there are {len(self)} explanations; {i} is not one of them")
            i = slice(i % len(self), i % len(self) + 1)
        whole = ("seen", "classes")
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in whole}
        cut: dict[str, Any] = {k: _cut(v, i) for k, v in own.items() if isinstance(v, (Tensor, tuple))}
        most = max((len(names) for names in cut["names"]), default=0)
        cut |= {k: cut[k][..., :most] for k in PADDED if k in cut}
        return replace(self, **cut)

    def __iter__(self) -> Iterator[Surrogates]:
        """Iterate over the samples."""
        return (self[i] for i in range(len(self)))

    def class_name(self, label: int) -> str:
        """Return the name of a class or output."""
        return self.classes[label] if self.classes is not None and label < len(self.classes) else str(label)

    def settled(self) -> Tensor:
        """Return the weights, (B, T, M), with 0 in place of rounding errors."""
        return settled(self.weights, torch.maximum(self.prediction.abs(), self.intercept.abs()))

    def leading(self, i: int, top: int) -> Tensor:
        """Return the features that lead sample i's first class, (M,) bool: those for it; of one output by |weight|."""
        w = self.weights[i, 0, : len(self.names[i])]
        w = w.abs() if self.outputs is not None and self.outputs.shape[1] < 2 else w
        selected = torch.zeros(len(w), dtype=torch.bool)
        selected[w.argsort(descending=True, stable=True)[:top]] = True
        return selected

    def with_classes(self, classes: Sequence[Any]) -> Surrogates:
        """Return the explanations with names of the classes or outputs, one each."""
        return replace(self, classes=named_outputs(classes, self.prediction if self.outputs is None else self.outputs))

    def column(self, label: int | None = None) -> list[int]:
        """Return the column of a class in each sample; None: the first."""
        if label is None:
            return [0] * len(self)
        at = self.y == label
        if not bool(at.any(1).all()):
            raise BadInput(f"label {label} was not explained; there are {sorted(set(self.y.flatten().tolist()))}")
        return at.to(torch.int64).argmax(1).tolist()

    def available_labels(self) -> list[int]:
        """Return the classes that were explained for the single sample."""
        return [int(label) for label in self._single().y[0]]

    def as_list(self, label: int | None = None, top: int | None = None) -> list[tuple[str, float]]:
        """Return names and weights of the single sample, largest |weight| first.

        A weight is the effect of a feature that is shown; of numbers drawn around a row, whose names have no bin, it is
        the effect per standard deviation of the column. See `unit`.

        Args:
            label: Class. None: the first explained.
            top: Number of features. None: all.
        """
        own = self._single()
        return [(own.names[0][j], weight) for j, weight in own.ordered(own.column(label)[0], top)]

    def as_map(self) -> dict[int, list[tuple[int, float]]]:
        """Return features and weights of the single sample for each class, largest |weight| first."""
        own = self._single()
        return {int(label): own.ordered(t, None) for t, label in enumerate(own.y[0])}

    def to_dataframe(self, level: float = 0.95) -> Any:
        """Return a pandas frame: weight, se, low, high, and whether the sign is stable, a row a sample, class, feature.

        The sign is stable where the interval does not contain 0 and the weight is no rounding error.

        Args:
            level: Level of the intervals.
        """
        try:
            import pandas
        except (ImportError, RuntimeError, OSError) as error:
            raise BadInput("to_dataframe needs pandas: pip install pandas") from error
        from statistics import NormalDist

        if not 0 < between(level, 0, 1, "level", "a level") < 1:
            raise BadInput(f"level is {level!r}; it is a share above 0 and below 1, such as 0.95")
        factor, rows, sure = NormalDist().inv_cdf((1 + level) / 2), [], self.settled()
        for i, names in enumerate(self.names):
            for t, label in enumerate(self.y[i].tolist()):
                for j, name in enumerate(names):
                    weight, se = float(self.weights[i, t, j]), float(self.se[i, t, j])
                    low, high = weight - factor * se, weight + factor * se
                    stable = bool(sure[i, t, j]) and (low > 0 or high < 0)
                    rows.append((i, label, name, weight, se, low, high, stable))
        columns = ["sample", "label", "feature", "weight", "se", "low", "high", "sign_is_stable"]
        return pandas.DataFrame(rows, columns=columns)

    def heatmap(self, label: int | None = None) -> Tensor:
        """Return the weight of each input value's segment, (B, *D); images only."""
        ids, x = self._image()
        at = self.column(label)
        maps = [
            pixel_masks(self.weights[i, at[i]][None], ids[i], x).expand(1, *x.shape[1:])[0] for i in range(len(self))
        ]
        return torch.stack(maps)

    def mask(self, label: int | None = None, top: int = 5, sign: int = 0, least: float = 0.0) -> Tensor:
        """Return codes of the leading segments, (B, *S) int64: 1 speaks for the class, -1 against it, 0 neither.

        Args:
            label: Class. None: the first explained.
            top: Number of segments.
            sign: 1: only those for the class; -1: only those against it; 0: both.
            least: Smallest |weight|.
        """
        ids, _ = self._image()
        top = at_least(top, 1, "top", "a number of segments")
        if sign not in (-1, 0, 1):
            raise BadInput(f"sign is {sign}; write 1 for the segments that speak for the class, -1 against, 0 both")
        at, codes, sure = self.column(label), [], self.settled()
        for i in range(len(self)):
            w = sure[i, at[i]].clone()
            w[len(self.names[i]) :] = 0
            w[(w.abs() < least) | (w.sign() != sign if sign else torch.zeros_like(w) > 0)] = 0
            leading = w.abs().argsort(descending=True, stable=True)[:top]
            code = torch.zeros_like(w).scatter(0, leading, w.sign()[leading])
            codes.append(code.to(torch.int64)[ids[i]])
        return torch.stack(codes)

    def plot(self, label: int | None = None, top: int = 10) -> Any:
        """Return a matplotlib figure of the single sample: bars with error bars around 0, and an image's signed map."""
        own = self._single()
        top, t = at_least(top, 1, "top", "a number of features"), own.column(label)[0]
        is_image = own.segments is not None and isinstance(own.content, Tensor)
        return figure(chart_of(own, t, top), picture_of(own, label) if is_image else None)

    def to_html(self, top: int = 12, *, names: Sequence[str] = (), title: str = "", extra: str = "") -> str:
        """Return one page, light and dark, without scripts and requests.

        Args:
            top: Features of each class that are drawn.
            names: Names of the samples, such as "row 7". Empty: they are numbered.
            title: Heading of the page. Empty: what was explained.
            extra: Part of the page in front of the explanations, as HTML.
        """
        top = at_least(top, 1, "top", "a number of features")
        if names and len(names) != len(self):
            raise BadInput(f"there are {len(names)} names for {len(self)} samples; give one each, or none")
        return render.page(page_of(self, top, names), title, extra)

    def _repr_html_(self) -> str:
        """Return the first explanations as HTML, for notebooks."""
        return render.fragment(page_of(self[:4], 8))

    def to_json(self) -> str:
        """Return the result as JSON; `from_json` reads it."""
        return json.dumps({"version": VERSION, **{f.name: plain(getattr(self, f.name)) for f in fields(self)}})

    @classmethod
    def from_json(cls, text: str) -> Surrogates:
        """Read what `to_json` wrote.

        Raises:
            BadInput: The text is something else, or of another version; or a field is missing or damaged, which the
                sentence names.
        """
        record = loaded(text)
        return cls(**cls._checked({name: restored(value, name) for name, value in record.items() if name in _known()}))

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return stored fields, checked."""
        optional = [f.name for f in fields(cls) if f.default is not MISSING]
        return checked_fields(values, [name for name in _known() if name not in optional], optional)

    def _single(self) -> Surrogates:
        """Return self; refuse several samples."""
        if len(self) != 1:
            raise BadInput(f"there are {len(self)} explanations; select one: result[0]")
        return self

    def ordered(self, t: int, top: int | None) -> list[tuple[int, float]]:
        """Return the features of the first sample, largest |weight| first; ties to the lowest index."""
        top = top if top is None else at_least(top, 1, "top", "a number of features, or None for all,")
        w = self.settled()[0, t, : len(self.names[0])]
        return [(j, float(w[j])) for j in w.abs().argsort(descending=True, stable=True)[:top].tolist()]

    def _image(self) -> tuple[Tensor, Tensor]:
        """Return the segments and the samples; refuse other kinds."""
        if self.segments is None or not isinstance(self.content, Tensor):
            raise BadInput(f"this explains a {self.kind}; maps are for images")
        return self.segments, self.content

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields and the version, for pickle."""
        return {"version": VERSION, **self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled result; refuse a damaged one, and one of another version."""
        check_version(state)
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        values = {name: value for name, value in state.items() if name in _known()}
        self.__dict__.update(defaults | self._checked(values))


def _known() -> list[str]:
    """Return the names of the fields of a result."""
    return [f.name for f in fields(Surrogates)]


def _cut(values: Tensor | tuple[Any, ...], i: slice | Sequence[int]) -> Any:
    """Return some entries."""
    if isinstance(i, slice):
        return values[i]
    return values[list(i)] if isinstance(values, Tensor) else tuple(values[k] for k in i)


def warn_if_few(result: Surrogates) -> Surrogates:
    """Warn once where the effective samples are too few for the standard errors; return the result."""
    few = sum(Flag.FEW in flags for flags in result.flags)
    if few:
        i = next(k for k, flags in enumerate(result.flags) if Flag.FEW in flags)
        warnings.warn(
            f"{few} of {len(result.flags)} explanations rest on few effective samples ({float(result.ess[i]):.0f} for "
            f"{len(result.names[i])} features; {few_effective(len(result.names[i]))} are asked for): draw more samples",
            stacklevel=3,
        )
    return result
