"""Options of local surrogates, and the reader of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput, nearest
from unfooled.data.classes import read_names
from unfooled.data.formats.table import INFINITE, Table, read_table
from unfooled.explanations import lime as native
from unfooled.workflows import catalog
from unfooled.workflows.choices import made
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import at_least

ATTENTION = "attention-mask"
PROBED = 4  # training rows with a gap for which the model is asked whether it takes them
Answers = Callable[[Any], bool]
"""Function that returns whether the model has an answer for some rows."""


def always(rows: Any) -> bool:
    """Return that there is an answer."""
    return True


@dataclass(frozen=True)
class LimeOptions:
    """Options of all local surrogates; None: the method's own default.

    Args:
        samples: Perturbed copies of each input.
        of: Classes explained: "prediction", "label" (images), "all", or names or numbers, separated by commas.
        top_labels: Number of most likely classes explained, in place of `of`.
        top: Features of each class that are shown.
        link: Scale on which probabilities are explained: "identity" or "log-odds" (texts and tables).
        sampler: Name in `catalog.MASK_SAMPLERS`, for rows in `catalog.TABLE_SAMPLERS`, or a sampler.
        stability: Draws of the soft stability, in addition to the samples; 0: it is left out.
        until: Rule that decides the number of samples, a name in `catalog.RULES` with options as in "stable:5", or a
            rule.
        ridge: Penalty on the squared weights per unit of sample weight; with `prior` its precision.
        prior: Expected weights: of texts and rows by the name of a feature or column, a JSON file of them, or an
            earlier lime.json; of images a name in `catalog.EXPLANATIONS`, an earlier lime.json, or an `Explain`.
        batch: Inputs computed at once.
    """

    samples: int | None = None
    of: str = "prediction"
    top_labels: int | None = None
    top: int = 12
    link: str = "identity"
    sampler: str | Callable[..., Any] | None = None
    stability: int = 150
    until: str | Callable[..., Any] | Any = None
    ridge: float | None = None
    prior: Any = None
    batch: int | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be used."""
        at_least("samples", self.samples, 1)
        at_least("top_labels", self.top_labels, 1)
        at_least("top", self.top, 1)
        at_least("stability", self.stability, 0)
        at_least("batch", self.batch, 1)
        at_least("ridge", self.ridge, 0)
        if self.until is not None and self.samples is not None:
            raise BadOption("{until} decides the number of samples; leave out {samples}")
        if self.prior is not None and not self.ridge and not isinstance(self.prior, native.Prior):
            raise BadOption("{prior} needs a precision, a ridge above 0; give {ridge:0.1}")
        self.rule()
        if self.top_labels is not None and self.of != "prediction":
            raise BadOption("{of} and {top_labels} both say which classes are explained; give one of them")

    @property
    def given(self) -> dict[str, Any]:
        """Options of the method that are not None."""
        options = {"samples": self.samples, "until": self.rule(), "ridge": self.ridge, "batch": self.batch}
        return {name: value for name, value in options.items() if value is not None}

    def rule(self) -> Any:
        """Return the rule that decides the number of samples. None: it is fixed."""
        return made(catalog.RULES, self.until, "until") if self.until is not None else None


@dataclass(frozen=True)
class TextOptions:
    """Options of texts.

    Args:
        split: Pieces of a text, a name in `catalog.SPLITS`, or a function.
        unit: Features: "types" hides equal pieces together, "positions" each one separately.
        hide: Replacement of a hidden piece: "delete", nothing, or a token such as "[MASK]"; "attention-mask" hides its
            tokens from a transformer, whose object has a `tokenizer`.
    """

    split: str | Callable[..., Any] = "words"
    unit: str | Callable[..., Any] = "types"
    hide: str | Callable[..., Any] = "delete"

    def made(self, tokenizer: Any = None) -> dict[str, Any]:
        """Return the options of `lime_text`, given the tokeniser of the model."""
        hide: Any = self.hide if self.hide != "delete" else native.delete
        if hide == ATTENTION and tokenizer is not None:
            hide = native.attention_mask(tokenizer)
        return {
            "split": made(catalog.SPLITS, self.split, "split"),
            "unit": made(catalog.UNITS, self.unit, "unit"),
            "hide": native.mask_token(hide) if isinstance(hide, str) else hide,
        }


@dataclass(frozen=True)
class TableOptions:
    """Options of tables.

    Args:
        label: Column of the labels, which the model does not get. None: there is none.
        csv: File of the rows that are explained. None: the training table.
        columns: Names of the columns, for files without a header.
        categorical: Columns of numbers that are categories, in addition to those of words.
        group: Groups of columns that act as one feature, such as those of a one-hot code.
        bins: Rule for the bins of numbers, a name in `catalog.BINS`.
        frame: True: give the model pandas frames; False: arrays. None: frames if it was fitted on frames.
    """

    label: str | None = None
    csv: str | Path | None = None
    columns: Sequence[str] | None = None
    categorical: Sequence[str] = ()
    group: Sequence[Sequence[str]] = ()
    bins: str = "quartiles"
    frame: bool | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """Training table and rows, as the model takes them.

    Attributes:
        space: Bins, categories and features of the training table.
        table: Rows of the file, without labels.
        labels: Label of each row. None: not known.
        frames: True: the model takes frames.
        warnings: Sentences for the record.
    """

    space: native.TabularSpace
    table: Table
    labels: tuple[str, ...] | None
    frames: bool
    warnings: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> Any:
        """Return some rows as the model takes them; refuse one with a cell that holds no number."""
        for row, column, text in self.table.spoilt:
            if row in rows:
                what = "infinite" if INFINITE.fullmatch(text) else "no number"
                raise BadInput(
                    f"row {row} of {self.table.source} has {text!r} in column {column!r}, which is {what}; the column "
                    "holds numbers in the training table"
                )
        return _as_taken(self.table.take(rows), self.frames)

    def values(self, rows: Sequence[int]) -> list[list[Any]]:
        """Return the values of some rows; an error names the row."""
        values = []
        for row in rows:
            try:
                values += self.space.read(self.take([row]))
            except BadInput as error:
                raise BadInput(f"row {row} of {self.table.source}: {error}") from error
        return values

    def usable(self) -> list[int]:
        """Return the rows that can be explained: with numbers in columns of numbers, and no gap that is new."""
        spoilt = {row for row, *_ in self.table.spoilt}
        needed = [k for k, column in enumerate(self.space.columns) if not column.missing]
        gaps = self.table.gaps()[:, needed].sum(1).tolist()
        return [row for row in range(len(self.table)) if row not in spoilt and not gaps[row]]

    def name(self, row: int) -> str:
        """Return the name of a row, with its label."""
        return f"row {row}" if self.labels is None else f"row {row} (label {self.labels[row].strip()})"


def read_rows(train: str | Path, options: TableOptions, *, frames: bool, answers: Answers = always) -> Rows:
    """Read the training table and the rows, and learn bins and categories.

    Args:
        train: File of the training table.
        options: Options of tables.
        frames: True: the model was fitted on frames.
        answers: Whether the model has an answer for some rows.

    Raises:
        BadInput: A file cannot be read, a column is not there, or the tables have other columns.
    """
    exact = [*options.categorical, *([] if options.label is None else [options.label])]
    read = partial(read_table, columns=options.columns, tolerant=True, exact=exact)
    whole = read(train)
    if options.label is not None:
        whole.column(options.label)
    table = whole.without(*([] if options.label is None else [options.label]))
    if not table.names:
        raise BadInput(f"{whole.source} has no column but the labels; there is nothing to explain")
    for name in (*options.categorical, *(name for group in options.group for name in group)):
        table.column(name)
    as_frames = frames if options.frame is None else options.frame
    used, notes = _used(table, as_frames, answers)
    learnt = native.TabularSpace.learn(
        _as_taken(table.take(used), as_frames),
        categorical=[*table.words, *options.categorical],
        groups=[tuple(group) for group in options.group] or None,
        bins=made(catalog.BINS, options.bins, "bins"),
        labels=_codes(whole.take(used), options.label),
        names=table.names,
    )
    rows, labels = whole if options.csv is None else read(options.csv, like=whole), None
    if options.label is not None and options.label in rows.names:
        labels = tuple(str(value) for value in rows.column(options.label))
    rows = _arranged(rows, table, options.label)
    notes += [f"Constant columns are not used as features: {', '.join(learnt.constant)}."] if learnt.constant else []
    return Rows(learnt, rows, labels, as_frames, tuple(notes))


def _used(table: Table, frames: bool, answers: Answers) -> tuple[list[int], list[str]]:
    """Return the training rows that can be used, and sentences on those that are left out.

    Rows with a cell that holds no number are left out, and those with a gap in a column where the model has no answer.
    """
    left, notes, count = {row for row, *_ in table.spoilt}, [], len(table)
    if left:
        row, column, text = table.spoilt[0]
        notes.append(
            f"{len(left)} of {count} training rows are left out: row {row} has {text!r} in column {column!r}, which "
            "holds numbers; give the column as categorical if such values are categories."
        )
    gaps = table.gaps()
    for k in np.flatnonzero(gaps.any(0)).tolist():
        rows = [row for row in np.flatnonzero(gaps[:, k]).tolist() if row not in left]
        rows.sort(key=lambda row: int(gaps[row].sum()))  # first those with no other gap
        if not rows or len(left) + len(rows) >= count or answers(_as_taken(table.take(rows[:PROBED]), frames)):
            continue
        left |= set(rows)
        notes.append(
            f"{len(rows)} of {count} training rows are left out: the model has no answer where column "
            f"{table.names[k]!r} is missing, as in row {min(rows)}."
        )
    return [row for row in range(count) if row not in left], notes


def _as_taken(table: Table, frames: bool) -> Any:
    """Return a table as the model takes it."""
    return table.frame() if frames else table.array()


def _codes(table: Table, label: str | None) -> Any:
    """Return the labels of the training rows as text. None: not known."""
    return None if label is None else [str(value) for value in table.column(label)]


def _arranged(rows: Table, train: Table, label: str | None) -> Table:
    """Return the rows with the columns of the training table, in its order."""
    own = rows.without(*([] if label is None else [label]))
    unseen = next((name for name in own.names if name not in train.names), None)
    if unseen is not None:
        raise BadInput(
            f"{rows.source} has a column {unseen!r} that was not in training{nearest(unseen, train.names)}; the "
            f"columns of {train.source} are {', '.join(train.names[:12])}"
        )
    return replace(own, names=train.names, columns=tuple(own.column(name) for name in train.names))


def read_classes(
    labels: str | Path | Sequence[str] | None, own: Sequence[str] | None, count: int
) -> tuple[str, ...] | None:
    """Return the names of the outputs: those given, else the model's own; None: numbers.

    Args:
        labels: File of names, one per line or JSON, or the names.
        own: Names that the model states.
        count: Number of outputs.

    Raises:
        BadOption: There are more or fewer names than outputs.
    """
    if labels is None:
        return tuple(own) if own is not None and len(own) == count else None
    names = [item[-1] for item in read_names(Path(labels))] if isinstance(labels, (str, Path)) else list(labels)
    if len(names) != count:
        raise BadOption("{labels} names {0} classes, and the model returns {1} outputs", len(names), count)
    return tuple(names)


def classes_of(options: LimeOptions, outputs: Tensor, names: Sequence[str] | None, y: Tensor | None = None) -> Tensor:
    """Return the classes to explain, (B, T).

    Args:
        options: Options, of which `of` and `top_labels` are used.
        outputs: Outputs of the inputs, (B, K).
        names: Names of the outputs. None: numbers.
        y: Labels of the inputs, (B,). None: not known.

    Raises:
        BadOption: A class does not exist, or there are no labels.
    """
    count = outputs.shape[1]
    if options.top_labels is not None:
        if options.top_labels > count:
            raise BadOption("{top_labels} is {0}, and the model returns {1} outputs", options.top_labels, count)
        return outputs.topk(options.top_labels, dim=1).indices
    if options.of == "prediction":
        return outputs.argmax(1, keepdim=True)
    if options.of == "label":
        if y is None:
            raise BadOption("{of:label} needs labels, which are known of images only; give the name of a class")
        return y[:, None]
    if options.of == "all":
        return torch.arange(count).expand(len(outputs), count)
    classes = list(dict.fromkeys(_class(word.strip(), count, names or ()) for word in options.of.split(",")))
    return torch.tensor(classes).expand(len(outputs), len(classes))


def _class(word: str, count: int, names: Sequence[str]) -> int:
    """Return the number of a class that is given by its name or number."""
    stripped = [name.strip() for name in names]
    if word in stripped:
        return stripped.index(word)
    if word.isdecimal() and int(word) < count:
        return int(word)
    known = ", ".join(stripped[:12]) if names else f"0 to {count - 1}"
    if count == 1:
        known += "; for the probability p of a class let the model return [1 - p, p] for each input"
    raise BadOption(
        "{of} has {0!r}, which is no class of the model{1}; there are {2}", word, nearest(word, stripped), known
    )  # fmt: skip
