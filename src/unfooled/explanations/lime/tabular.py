"""LIME for tables: a linear surrogate over indicators of which columns stay in the bin of their value.

Rows go to the model as they came: a frame with its dtypes and order, an array or a tensor, so that pipelines work.

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.columns import Column, array_of, columns_of, packed, series_of, typed
from unfooled.explanations.lime.discretize import Bins, quartiles
from unfooled.explanations.lime.findings import Kind
from unfooled.explanations.lime.kernels import Kernel, l2_kernel
from unfooled.explanations.lime.naming import setting_name
from unfooled.explanations.lime.part import RowPart
from unfooled.explanations.lime.predicting import Link, check_rows, identity, labels_of, named_outputs
from unfooled.explanations.lime.result import Surrogates, warn_if_few
from unfooled.explanations.lime.rows import RowAnswers
from unfooled.explanations.lime.solving import Settings, Solved, assembled, samples_of, shrinking, stopping
from unfooled.explanations.lime.surrogate import Prior, UntilStable
from unfooled.explanations.lime.tables import TableSampler, by_bins
from unfooled.explanations.lime.view import Cell

BATCH = 16384  # rows a call
PER_DEVIATION = "per standard deviation"
"""Unit of the weights of samplers without bins."""


@dataclass(frozen=True, eq=False)
class TabularSpace:
    """Columns of a training table, and the features that they form; made by `learn`.

    Attributes:
        columns: Columns, in order.
        features: Columns of each feature, by number.
        constant: Names of the columns with a single value, which are not features.
        size: Training rows.
        template: Empty table of the kind that the model gets.
    """

    columns: tuple[Column, ...]
    features: tuple[tuple[int, ...], ...]
    constant: tuple[str, ...]
    size: int
    template: Any

    @classmethod
    def learn(
        cls,
        frame: Any,
        *,
        categorical: Sequence[Any] | None = None,
        groups: Sequence[Sequence[Any]] | None = None,
        bins: Bins = quartiles,
        labels: Any = None,
        names: Sequence[str] | None = None,
    ) -> TabularSpace:
        """Learn bins, categories and frequencies from a training table.

        Args:
            frame: A pandas frame, an array or a tensor, (N, C).
            categorical: Names or numbers of categorical columns. None: those of a frame that are no numbers.
            groups: Columns that act as one feature, such as the columns of a one-hot code or a time step.
            bins: Function from values (and labels) to edges: `quartiles`, `deciles`, `entropy_bins`.
            labels: Labels of the rows, for `entropy_bins`.
            names: Names of an array's columns.
        """
        if not hasattr(frame, "__len__") or isinstance(frame, (str, bytes)):
            raise BadInput(
                f"the training table is a {type(frame).__name__}; give a frame, an array or a tensor, (N, C)"
            )
        frame = frame if hasattr(frame, "columns") or isinstance(frame, Tensor) else array_of(frame)
        if not len(frame):
            raise BadInput("the training table has no rows")
        columns = columns_of(frame, categorical, bins, labels, names)
        place = {column.name: k for k, column in enumerate(columns)} | {k: k for k in range(len(columns))}
        grouped: list[tuple[int, ...]] = []
        for group in groups or ():
            if isinstance(group, (str, int)) or not len(group):
                what = "one column" if isinstance(group, (str, int)) else "empty"
                raise BadInput(
                    f"group {group!r} is {what}; groups are lists of columns, such as [['a', 'b'], ['c', 'd']]"
                )
            unknown = [name for name in group if name not in place]
            if unknown:
                raise BadInput(f"group {tuple(group)} has no column {unknown[0]!r} of the training table")
            grouped.append(tuple(place[name] for name in group))
        inside = [k for group in grouped for k in group]
        if len(set(inside)) != len(inside):
            raise BadInput("a column is in two groups; each belongs to one at most")
        first = {group[0]: group for group in grouped}
        features = [first.get(k, (k,)) for k in range(len(columns)) if k in first or k not in inside]
        varying = tuple(group for group in features if not all(columns[k].constant for k in group))
        constant = tuple(columns[k].name for group in features if group not in varying for k in group)
        return cls(tuple(columns), varying, constant, len(frame), frame[:0])

    def read(self, rows: Any) -> list[list[Any]]:
        """Return rows as lists of values, checked: a table, one row of a frame, or one row of an array.

        Raises:
            BadInput: Another number of columns, a column that the training table has not, or a missing value where it
                has none.
        """
        if hasattr(self.template, "columns"):
            table = rows if hasattr(rows, "columns") else rows.to_frame().T if hasattr(rows, "to_frame") else None
            if table is None:
                raise BadInput("the training table is a frame; give rows of a frame, such as frame.iloc[:3]")
            names = [column.name for column in self.columns]
            unknown = [str(name) for name in table.columns if str(name) not in names]
            lacking = [name for name in names if name not in {str(label) for label in table.columns}]
            if unknown or lacking:
                what = f"a column {unknown[0]!r} that was not in training" if unknown else f"no column {lacking[0]!r}"
                raise BadInput(f"the rows have {what}; the columns are {', '.join(names[:8])}")
            values = [list(row) for row in table[list(self.template.columns)].itertuples(index=False, name=None)]
        else:
            array = array_of(rows)
            array = array[None] if array.ndim == 1 else array
            if array.ndim != 2 or array.shape[1] != len(self.columns):
                raise BadInput(f"the rows have shape {array.shape}; the training table has {len(self.columns)} columns")
            values = [list(row) for row in array]
        if not values:
            raise BadInput("there is no row to explain")
        return [[column.read(value) for column, value in zip(self.columns, row, strict=True)] for row in values]

    def table(self, columns: list[npt.NDArray[Any]]) -> Any:
        """Return columns as a table of the kind that the model gets."""
        if hasattr(self.template, "columns"):
            import pandas

            pairs = zip(self.template.columns, columns, strict=True)
            return pandas.DataFrame({name: series_of(v, self.template[name].dtype) for name, v in pairs})
        array = np.column_stack(columns)
        if isinstance(self.template, Tensor):
            numbers = torch.as_tensor(array.astype(np.float64))
            table = numbers.to(self.template.dtype)
            whole = self.template.is_floating_point() or bool((table == numbers).all())
            return table if whole else numbers.to(torch.get_default_dtype())
        return typed(array, np.asarray(self.template).dtype)

    def as_table(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Return rows, each a list of values as `lime_parts` hands them on, as a table of the kind that was learnt."""
        return self.table([packed([row[k] for row in rows]) for k in range(len(self.columns))])

    def row(self, row: Any, *, seed: int = 0) -> RowPart:
        """Return a row as a part of an input, for `lime_parts`.

        Args:
            row: The row, of the kind of the training table.
            seed: Random seed of the values of hidden features.

        Returns:
            A part with `names` and `hide(z) -> value`.

        Raises:
            BadInput: The row is none of the table's.
        """
        values = self.read(row)
        if len(values) != 1:
            raise BadInput(f"there are {len(values)} rows; a part is one row, such as table[:1]")
        return RowPart(self, values[0], seed)

    def names(self, row: list[Any], *, bins: bool = True) -> tuple[str, ...]:
        """Return the features of a row in words; without `bins` a column of numbers has its name alone."""
        words = Column.words if bins else Column.slope
        return tuple(" and ".join(words(self.columns[k], row[k]) for k in group) for group in self.features)

    def cells(self, row: list[Any], *, bins: bool = True) -> tuple[Cell, ...]:
        """Return each column of a row with its value, its bin in words, and the number of its feature; -1: none."""
        feature = {k: j for j, group in enumerate(self.features) for k in group}
        return tuple(
            (
                column.name,
                column.shown(value),
                column.bin_of(value) if bins or column.edges is None else "",
                feature.get(k, -1),
            )
            for k, (column, value) in enumerate(zip(self.columns, row, strict=True))
        )

    def keys(self, row: list[Any], *, bins: bool = True) -> tuple[tuple[Any, ...], ...]:
        """Return the key of each feature of a row, (column, bin), or (columns, bins); without `bins` (column,)."""
        keys: list[tuple[Any, ...]] = []
        for group in self.features:
            if not bins and self.columns[group[0]].edges is not None:
                names = tuple(self.columns[k].name for k in group)
                keys.append((names[0] if len(names) == 1 else names,))
                continue
            pairs = [(self.columns[k].name, int(self.columns[k].code(row[k]))) for k in group]
            keys.append(pairs[0] if len(pairs) == 1 else tuple(zip(*pairs, strict=True)))
        return tuple(keys)


def lime_tabular(
    predict: Callable[[Any], Any],
    rows: Any,
    y: Tensor | Sequence[Any] | int | None = None,
    *,
    space: TabularSpace,
    sampler: TableSampler = by_bins,
    samples: int = 2000,
    kernel: Kernel | None = None,
    ridge: float = 0.0,
    prior: Tensor | Prior | None = None,
    until: UntilStable | None = None,
    link: Link = identity,
    classes: Sequence[str] | None = None,
    keep_samples: bool = False,
    batch: int = BATCH,
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Explain what a function answers about rows of a table by linear surrogates over their columns.

    Args:
        predict: Function from a table to outputs, (n, K), such as `predict_proba`; one output is a regression.
        rows: Rows to explain, of the kind of the training table.
        y: Outputs to explain, (B,) or (B, T), or one for all. None: the largest.
        space: Bins, categories and features of the training table.
        sampler: `by_bins`, `hidden()`, `conditional(k)`, `neighbours(clusters, k)`, `around(scale)`,
            `stratified_normal(scale)`.
        samples: Perturbed rows for each row; not used with `until`.
        kernel: Weight of a mask. None: LIME's, `l2_kernel()`; uniform for samplers without masks.
        ridge: Penalty on the squared weights per unit of sample weight.
        prior: Expected weights, (M,) or (B, M), with `ridge` as precision, or a `Prior` with both. None: 0.
        until: `until_stable(...)`, a rule that decides the number of perturbed rows. None: `samples`.
        link: Function of the outputs before the fit: `identity` or `log_odds`.
        classes: Names of the outputs.
        keep_samples: True: the result holds the masks and answers.
        batch: Rows a call; halved where memory runs out.
        generator: Base seed; not advanced.

    Returns:
        `Surrogates`; a weight is the effect of a column that stays in its bin, or per standard deviation for samplers
        without bins. Cost: `samples` + 1 rows each; with `by_bins` and a fixed number the samples share their perturbed
        rows, and each further one costs 1.

    Raises:
        BadInput: An argument, a row or the function's answer is invalid.
    """
    began = time.perf_counter()
    _check(space, batch, link)
    values, drawn = space.read(rows), stopping(samples, until)
    weighing = l2_kernel() if kernel is None else kernel
    settings = Settings(sampler, drawn, weighing, shrinking(ridge, prior), rng.base_seed(generator))  # type: ignore[arg-type]
    asked = RowAnswers(predict, space, settings, link, batch, kernel is not None)
    outputs, first = asked.with_first(values)
    labels = labels_of(y, outputs)
    prediction = link(outputs).gather(1, labels)
    solved = [asked.solve(i, values, labels[i], prediction[i], first) for i in range(len(values))]
    parts, local = [part for part, _ in solved], torch.stack([local for _, local in solved])
    result = assembled(
        (parts, prediction, labels, settings),
        kind=Kind.TABLE,
        **_described(space, values, bins=first[0].binary),
        baseline=first[0].words,
        score="output",
        link=setting_name(link),
        classes=None if classes is None else named_outputs(classes, outputs),
        outputs=outputs,
        seen=_range(parts, prediction) if outputs.shape[1] == 1 else None,
        local=local,
        calls=torch.tensor([part.calls + 1 for part in parts]),
        seconds=time.perf_counter() - began,
        **samples_of(parts, keep_samples),
    )
    return warn_if_few(result)


def _check(space: Any, batch: Any, link: Any) -> None:
    """Refuse what is no space, no number of rows, and no link."""
    check_rows(batch, "rows", link)
    if not isinstance(space, TabularSpace):
        raise BadInput(f"space is a {type(space).__name__}; give TabularSpace.learn(training_table)")


def _range(parts: list[Solved], prediction: Tensor) -> Tensor:
    """Return the least and the largest answer of each output, (T, 2)."""
    answers = torch.cat([*(part.answers for part in parts), prediction])
    return torch.stack([answers.amin(0), answers.amax(0)], 1)


def _described(space: TabularSpace, values: list[list[Any]], *, bins: bool) -> dict[str, Any]:
    """Return the names, keys, cells and texts of rows, and the unit of their weights."""
    return {
        "names": tuple(space.names(row, bins=bins) for row in values),
        "keys": tuple(space.keys(row, bins=bins) for row in values),
        "cells": tuple(space.cells(row, bins=bins) for row in values),
        "unit": "" if bins else PER_DEVIATION,
        "content": tuple(tuple(f"{c.name} = {v}" for c, v in zip(space.columns, row, strict=True)) for row in values),
    }
