"""A table row as a part of an input, whose features can be hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from unfooled.core import rng
from unfooled.explanations.lime.columns import Column
from unfooled.explanations.lime.tables import Features
from unfooled.explanations.lime.view import Cell


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

    @property
    def size(self) -> int:
        """Return the number of training rows."""
        ...

    def names(self, row: list[Any]) -> tuple[str, ...]:
        """Return the features of a row in words."""
        ...

    def cells(self, row: list[Any]) -> tuple[Cell, ...]:
        """Return each column of a row with its value, its bin, and the number of its feature."""
        ...


@dataclass(frozen=True, eq=False)
class RowPart:
    """A table row whose features are taken from training rows when hidden; made by `TabularSpace.row`."""

    space: Space
    row: list[Any]
    seed: int
    random = True

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features in words."""
        return self.space.names(self.row)

    @property
    def shown(self) -> tuple[Any, ...]:
        """Return what a page shows."""
        return "row", self.space.cells(self.row)

    def hide(self, z: npt.NDArray[np.bool_], place: int = 0) -> list[Any]:
        """Return the row; each hidden feature has the values of a training row that depends on the mask's number."""
        seed = rng.seeds(torch.tensor([[len(z)]]), self.seed, stage=rng.Stream.LIME_VALUES)
        u = rng.uniform(seed, (len(z),), draw=place, dtype=torch.float64)[0].tolist()
        value = list(self.row)
        for j, group in enumerate(self.space.features):
            for c in group if not z[j] else ():
                value[c] = self.space.columns[c].values[int(u[j] * self.space.size)]
        return value
