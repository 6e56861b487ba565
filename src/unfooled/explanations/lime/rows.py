"""Answers at perturbed rows of a table, and the fit of each row, with a fixed number of them or until it is stable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import check_takes
from unfooled.explanations.lime.columns import Column, packed
from unfooled.explanations.lime.findings import Flag, few_effective
from unfooled.explanations.lime.kernels import uniform
from unfooled.explanations.lime.predicting import Link, outputs_of
from unfooled.explanations.lime.solving import Settings, Solved, check_top, flagged
from unfooled.explanations.lime.surrogate import UntilStable, fewest_samples, fit
from unfooled.explanations.lime.tables import Features, Perturbed, TableSampler, in_bins, lopsided

Asked = tuple[Perturbed, Tensor]
"""Perturbed rows, and the outputs for them, (S, K)."""


class Space(Protocol):
    """Columns and features of a table; see `TabularSpace`."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns."""
        ...

    @property
    def features(self) -> Features:
        """Return the columns of each feature."""
        ...

    def table(self, columns: list[npt.NDArray[Any]]) -> Any:
        """Return columns as a table of the kind that the model gets."""
        ...


@dataclass(frozen=True, eq=False)
class RowAnswers:
    """A function of tables, asked at rows that are perturbed.

    Attributes:
        predict: Function from a table to outputs, (n, K).
        space: Columns and features.
        settings: Sampler of rows, samples or the rule that decides them, kernel and penalty.
        link: Function of the outputs before the fit.
        batch: Rows a call.
        weighted: True if the user gave a kernel, which needs masks.
    """

    predict: Callable[[Any], Any]
    space: Space
    settings: Settings
    link: Link
    batch: int
    weighted: bool

    @property
    def rule(self) -> UntilStable | None:
        """Return the rule that decides the number of rows. None: it is fixed."""
        return self.settings.samples if isinstance(self.settings.samples, UntilStable) else None

    @property
    def first(self) -> Any:
        """Return the number of perturbed rows of the first fit."""
        if self.rule is None:
            return self.settings.samples
        return max(self.rule.first, fewest_samples(len(self.space.features), 2))

    def drawn(self, row: list[Any], samples: Any) -> Perturbed:
        """Draw perturbed rows; refuse an invalid number, and a kernel where there are no masks."""
        sampler: TableSampler = self.settings.sampler  # type: ignore[assignment]
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise BadInput(f"samples is {samples!r}; it is a whole number of at least 1, or give until_stable(...)")
        given = (self.space.columns, self.space.features, row, samples, self.settings.seed)
        check_takes(sampler, "sampler", "(columns, features, row, samples, seed)", "by_bins or hidden()", *given)
        drawn = sampler(*given)
        if not isinstance(drawn, Perturbed):
            raise BadInput(f"sampler returned a {type(drawn).__name__}; return perturbed rows, as by_bins does")
        if self.weighted and not drawn.binary:
            raise BadInput(
                "this sampler has no masks that a kernel could weigh; leave kernel out, its scale is the width"
            )
        return drawn

    def with_first(self, values: list[list[Any]]) -> tuple[Tensor, Asked]:
        """Return the outputs of the rows, and the first row's perturbed rows with their outputs, from one call."""
        check_top(self.rule, len(self.space.features))
        first = self.drawn(values[0], self.first)
        own = [packed([row[k] for row in values]) for k in range(len(self.space.columns))]
        outputs = self._outputs([np.concatenate([mine, more]) for mine, more in zip(own, first.columns, strict=True)])
        return outputs[: len(values)], (first, outputs[len(values) :])

    def shared(self, first: list[Any], row: list[Any], asked: Asked) -> Asked | None:
        """Return the first row's perturbed rows as those of another row; None where they depend on the row."""
        drawn, space = asked[0], self.space
        inside = {c for group in space.features for c in group}
        own = [c for c in range(len(row)) if c not in inside and repr(first[c]) != repr(row[c])]
        if drawn.donors is None or self.rule is not None or own:
            return None
        z = in_bins(space.columns, space.features, row, drawn.donors)
        return None if any(part.any() for part in lopsided(z)) else (replace(drawn, z=z), asked[1])

    def solve(
        self, i: int, values: list[list[Any]], labels: Tensor, base: Tensor, first: Asked
    ) -> tuple[Solved, Tensor]:
        """Return the fit of row i, and what the surrogate gives for the row itself, (T,).

        Args:
            i: Number of the row.
            values: Values of all rows.
            labels: Outputs to explain, (T,).
            base: These outputs for the row itself, (T,), after the link; subtracted before the fit.
            first: Perturbed rows of the first row, and their outputs.
        """
        row = values[i]
        known = first if i == 0 else self.shared(values[0], row, first)
        if known is None:
            drawn = self.drawn(row, self.first)
            asked = drawn, self._outputs(drawn.columns)
        else:
            asked = known
        rows = len(asked[1])
        while True:
            part, local, stable = self._fitted(i, asked, labels, base)
            size = len(asked[1])
            if self.rule is None:
                return part if i == 0 or known is None else replace(part, calls=0), local
            if stable or not asked[0].unit or 2 * size > self.rule.at_most:
                flag = Flag.STABLE if stable else Flag.NOT_REACHED
                return flagged(part, flag, calls=rows), local
            asked, more = self._continued(row, asked)
            rows += more

    def _continued(self, row: list[Any], asked: Asked) -> tuple[Asked, int]:
        """Return twice as many perturbed rows with their outputs, and how many of them the function was asked for."""
        drawn, known = self.drawn(row, 2 * len(asked[1])), len(asked[1])
        if not _continues(asked[0], drawn):
            known = 0
        new = self._outputs([column[known:] for column in drawn.columns])
        return (drawn, torch.cat([asked[1][:known], new])), len(new)

    def _fitted(self, i: int, asked: Asked, labels: Tensor, base: Tensor) -> tuple[Solved, Tensor, bool]:
        """Return the fit of row i, what the surrogate gives for the row itself, (T,), and whether it is stable."""
        drawn, settings = asked[0], self.settings
        z, unit, answers = drawn.z, drawn.unit, self.link(asked[1])[:, labels]
        pi = settings.kernel(z) if drawn.binary else uniform(z)
        pi = pi if drawn.weights is None else pi * drawn.weights
        prior = settings.mean(i, z.shape[1])
        fitted = fit(z, (answers - base)[None], pi, ridge=settings.penalty, prior=prior, groups=unit)
        fitted = fitted.shifted(base[None])
        flags = [Flag.SINGULAR] if bool(fitted.singular[0]) else []
        flags += [Flag.FEW] if unit and float(fitted.ess[0]) < few_effective(z.shape[1]) else []
        local = fitted.intercept[0] + (fitted.weights[0].sum(1) if drawn.binary else 0)
        stable = self.rule is not None and self.rule.reached(
            z, answers, pi, fitted, ridge=settings.penalty, groups=unit, prior=prior
        )
        return Solved(fitted, z, pi, answers, len(z), tuple(flags)), local, stable

    def _outputs(self, columns: list[npt.NDArray[Any]]) -> Tensor:
        """Return the outputs for columns, (n, K)."""
        return outputs_of(self.predict, self.space.table(columns), self.batch)


def _continues(before: Perturbed, after: Perturbed) -> bool:
    """Return whether a draw begins with another one."""
    known = len(before.z)
    return torch.equal(before.z, after.z[:known]) and all(
        all(a is b or a == b or (a != a and b != b) for a, b in zip(old.tolist(), new[:known].tolist(), strict=True))
        for old, new in zip(before.columns, after.columns, strict=True)
    )
