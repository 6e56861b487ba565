"""Scaffolding: a biased model that hides its bias from explanations that evaluate it on unrealistic rows.

    e(x) = biased(x) where a detector takes x for a real row, innocent(x) elsewhere

Both decide by one column: the biased model by the sensitive one, the innocent model by one without meaning. The
detector is a random forest that tells training rows from rows perturbed as LIME perturbs them. An explanation shows the
bias only if its perturbed rows look real, which the area under the detector's ROC curve measures.

References:
    Slack, Hilgard, Jia, Singh, Lakkaraju, Fooling LIME and SHAP, AIES 2020, arXiv:1911.02508. Differs: synthetic data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from unfooled.explanations import TabularSpace, lime_tabular
from unfooled.explanations.lime import by_bins, conditional, neighbours
from unfooled.statistics.association import roc_area
from unfooled.studies.lime_shift.scale import TableScale

Table = npt.NDArray[np.float64]
SENSITIVE, INNOCENT = 0, 1
NAMES = ("sensitive", "innocent", *(f"measure {k}" for k in range(1, 7)))
LIME, CONDITIONAL, NEIGHBOURS = "bins, as LIME", "conditional", "neighbours"
SAMPLERS: dict[str, Any] = {LIME: by_bins, CONDITIONAL: conditional(20), NEIGHBOURS: neighbours(5, 20)}
RIDGE = 1e-3
"""Ridge penalty of the surrogates."""


def synthetic_table(rows: int, seed: int) -> Table:
    """Return a table: six measures of two hidden quantities, a sensitive column tied to one, and an innocent one."""
    draw = np.random.default_rng(seed)
    hidden = draw.normal(size=(rows, 2))
    mixing = np.random.default_rng(0).normal(size=(2, 6))
    measures = hidden @ mixing + 0.1 * draw.normal(size=(rows, 6))
    sensitive = hidden[:, 0] + 0.5 * draw.normal(size=rows) > 0
    return np.column_stack([sensitive, draw.random(rows) > 0.5, measures])


def by_column(column: int) -> Callable[[Table], Table]:
    """Return a model that decides by one column of 0 and 1."""
    return lambda x: np.column_stack([1 - x[:, column], x[:, column]])


@dataclass(frozen=True, eq=False)
class Scaffold:
    """A model that is biased on rows that look real.

    Attributes:
        detector: Classifier of real (0) and perturbed (1) rows.
    """

    detector: Any

    def __call__(self, x: Table) -> Table:
        """Return the probabilities of both classes, (n, 2)."""
        real = self.suspicion(x) < 0.5
        return np.where(real[:, None], by_column(SENSITIVE)(x), by_column(INNOCENT)(x))

    def suspicion(self, x: Table) -> Table:
        """Return the detector's probability that rows are perturbed, (n,)."""
        probability: Table = self.detector.predict_proba(x)[:, 1]
        return probability


@dataclass(frozen=True, eq=False)
class TableBench:
    """A table, rows to explain, and the scaffold that was built on it.

    Attributes:
        space: Space of the explainer, fitted on rows that the detector has not seen.
        held_out: Rows that neither has seen.
        explained: Rows to explain, the first of these.
        scaffold: The scaffold.
        samples: Perturbed rows for each row.
        seed: Random seed.
    """

    space: TabularSpace
    held_out: Table
    explained: Table
    scaffold: Scaffold
    samples: int
    seed: int

    def perturbed(self, k: int, sampler: str) -> Table:
        """Return the rows that a sampler draws around the k-th explained row, without the row itself."""
        row = self.explained[k]
        own = self.space.read(row)[0]
        drawn = SAMPLERS[sampler](self.space.columns, self.space.features, own, self.samples, self.seed + k)
        table: Table = self.space.table(drawn.columns)
        return table[(table != row).any(1)]

    def auc(self, sampler: str) -> list[float]:
        """Return the AUC by which the detector tells the perturbed rows of each explained row from real ones."""
        real = self.scaffold.suspicion(self.held_out)
        scores = (self.scaffold.suspicion(self.perturbed(k, sampler)) for k in range(len(self.explained)))
        return [roc_area(score, real) for score in scores]

    def leading(self, model: Callable[[Table], Table], sampler: str) -> list[int]:
        """Return for each explained row the column of the largest |weight|."""
        explanations = lime_tabular(
            model, self.explained, 1, space=self.space, sampler=SAMPLERS[sampler], samples=self.samples, ridge=RIDGE
        )
        columns = [self.space.features[int(w.abs().argmax())][0] for w in explanations.weights[:, 0]]
        return [int(column) for column in columns]


def table_bench(size: TableScale, seed: int) -> TableBench:
    """Make the table and train the detector on training rows and rows perturbed around them by LIME's sampler."""
    train, explainer_rows, held_out = np.split(synthetic_table(3 * size.rows, seed), 3)
    learn = partial(TabularSpace.learn, categorical=[SENSITIVE, INNOCENT], names=NAMES)
    space, explainer_space = learn(train), learn(explainer_rows)
    around = min(50, size.rows)
    each = -(-size.rows // around)
    drawn = [
        space.table(by_bins(space.columns, space.features, list(row), each, seed + 1 + k).columns)
        for k, row in enumerate(train[:around])
    ]
    perturbed = np.concatenate(drawn)
    rows, label = np.concatenate([train, perturbed]), np.repeat([0, 1], [len(train), len(perturbed)])
    detector = RandomForestClassifier(size.trees, random_state=seed, n_jobs=1).fit(rows, label)
    return TableBench(explainer_space, held_out, held_out[: size.explained], Scaffold(detector), size.samples, seed)
