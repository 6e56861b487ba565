"""Names of a table's columns, and the view of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from scipy import sparse

from unfooled.compat.lime import explanation, page
from unfooled.compat.lime.checks import native
from unfooled.compat.lime.discretize import BaseDiscretizer
from unfooled.core.errors import BadInput


class TableDomainMapper(explanation.DomainMapper):
    """The columns of an explained row.

    Args:
        feature_names: Names of the columns; a category's name is added, as in "sex=male".
        feature_values: Values of the row as texts.
        scaled_row: Row as the linear model sees it.
        categorical_features: Columns of categories.
        discretized_feature_names: Names of the row's bins. None: there are no bins.
        feature_indexes: Columns that a sparse row has. None: the row is dense.
    """

    native_call = "with_row_stability(lime_tabular(predict, rows, space=space), predict, rows, space=space)"

    def __init__(
        self,
        feature_names: Sequence[Any],
        feature_values: Sequence[str],
        scaled_row: Any,
        categorical_features: Sequence[int],
        discretized_feature_names: Sequence[Any] | None = None,
        feature_indexes: Any = None,
    ) -> None:
        self.exp_feature_names = feature_names
        self.discretized_feature_names = discretized_feature_names
        self.feature_names = feature_names
        self.feature_values = feature_values
        self.feature_indexes = feature_indexes
        self.scaled_row = scaled_row
        self.all_categorical = not sparse.issparse(scaled_row) and len(categorical_features) == len(scaled_row)
        self.categorical_features = categorical_features

    def map_exp_ids(self, exp: explanation.Weights) -> list[tuple[Any, float]]:  # type: ignore[override]
        """Return (name of the column or its bin, weight).

        Args:
            exp: (column, weight).
        """
        names = self.discretized_feature_names
        if names is None:
            names = self.exp_feature_names
        return [(names[column], weight) for column, weight in exp]

    def visualize_instance_html(  # type: ignore[override]
        self,
        exp: explanation.Weights,
        label: int,
        div_name: str,
        exp_object_name: str,
        show_table: bool = True,
        show_all: bool = False,
    ) -> str:
        """Return HTML of the row as a table.

        Args:
            exp: (column, weight).
            label: Label that the weights explain.
            div_name: Ignored.
            exp_object_name: Ignored.
            show_table: Whether to show the row at all.
            show_all: Whether to show the columns that the explanation does not name, too.
        """
        if not show_table:
            return ""
        weights = dict(exp)
        if self.feature_indexes is None:
            values: dict[int, Any] = dict(enumerate(self.feature_values))
        else:
            values = dict(zip(map(int, self.feature_indexes), self.feature_values, strict=True))
        columns = list(values) if show_all else list(weights)
        rows = [(self.exp_feature_names[c], values.get(c, "0"), float(weights.get(c, 0.0))) for c in columns]
        return page.value_table(rows)


class Table(Protocol):
    """Attributes of an explainer that `describe` reads."""

    feature_names: list[Any]
    categorical_features: list[int]
    categorical_names: Any
    feature_values: dict[int, Any]
    discretizer: BaseDiscretizer | None

    def convert_and_round(self, values: Any) -> list[str]:
        """Return numbers as texts."""


def describe(table: Table, row: Any, scaled_row: Any) -> TableDomainMapper:
    """Return the names and values of a row.

    Args:
        table: explainer.
        row: instance.
        scaled_row: instance as the linear model sees it.
    """
    is_sparse = sparse.issparse(row)
    names = list(table.feature_names)
    values = table.convert_and_round(row.data if is_sparse else row)
    discretizer = table.discretizer
    for column in table.categorical_features:
        if discretizer is None or column not in discretizer.lambdas:
            known = column in table.feature_values and row[column] in table.feature_values[column]
            names[column] = f"{names[column]}={category(table.categorical_names, column, row[column], known=known)}"
            values[column] = "True"
    if discretizer is None:
        return TableDomainMapper(
            names, values, scaled_row, table.categorical_features, None, row.indices if is_sparse else None
        )
    bins = discretizer.discretize(row)
    with_bins = list(names)
    for column, bin_names in discretizer.names.items():
        with_bins[column] = bin_names[int(bins[column])]
    return TableDomainMapper(names, values, scaled_row, range(len(names)), with_bins)


def category(names: Any, column: int, value: Any, *, known: bool = False) -> Any:
    """Return the name of a category; its number if it has none, as a category that the training data lacked.

    Args:
        names: for a column the names of its categories.
        column: number of the column.
        value: category, an integer.
        known: whether the training data has it; then its whole part names it, as in the original.
    """
    number = int(value)
    if number != value and not known:
        raise BadInput(
            f"column {column} is listed in categorical_features, but the row has {value}: encode it as integers"
        )
    if column not in names:
        return number
    try:
        return native(names[column][number])
    except (IndexError, KeyError):
        return number
