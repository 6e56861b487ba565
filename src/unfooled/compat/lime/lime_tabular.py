"""Explanations of classifiers and regressors of tables, by columns that are drawn anew."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.compat.lime import explanation, lime_base, neighbours
from unfooled.compat.lime.checks import (
    answers,
    check_request,
    labels_of,
    names_of_classes,
    native,
    numbers,
    random_state_of,
)
from unfooled.compat.lime.discretize import (
    BaseDiscretizer,
    DecileDiscretizer,
    EntropyDiscretizer,
    QuartileDiscretizer,
    StatsDiscretizer,
)
from unfooled.compat.lime.kernels import distances_to_first, kernel_of
from unfooled.compat.lime.scaling import Scaler
from unfooled.compat.lime.table_mapper import TableDomainMapper, describe
from unfooled.core.errors import BadInput

__all__ = ["LimeTabularExplainer", "RecurrentTabularExplainer", "TableDomainMapper"]

Array = npt.NDArray[Any]
DISCRETIZERS: dict[str, type[BaseDiscretizer]] = {
    "quartile": QuartileDiscretizer,
    "decile": DecileDiscretizer,
    "entropy": EntropyDiscretizer,
}
STATS = ("means", "mins", "maxs", "stds", "feature_values", "feature_frequencies")


class LimeTabularExplainer:
    """An explainer of models of tables.

    Columns with bins, and categories, are drawn by their frequency in the training data, and the linear model asks
    whether the bin is that of the instance. Without bins, continuous columns are drawn from a normal distribution with
    the mean and the standard deviation of the training data. Weights are exp(-d^2 / 2 w^2).

    Args:
        training_data: Table, (n, M), numbers; sparse tables have no bins.
        mode: "classification" or "regression".
        training_labels: Labels of the rows, which the entropy discretizer needs.
        feature_names: Names of the columns. None: their numbers.
        categorical_features: Columns of categories, encoded as integers.
        categorical_names: For such a column the name of each category.
        kernel_width: Width w of the kernel. None: 0.75 times the root of the number of columns.
        kernel: Function of distances and `kernel_width`, to weights. None: the exponential kernel.
        verbose: Whether to print the model's answer and the fitted one.
        class_names: Names of the classes. None: their numbers.
        feature_selection: How columns are selected; see `LimeBase.feature_selection`.
        discretize_continuous: Whether continuous columns get bins.
        discretizer: "quartile", "decile", "entropy", or a discretizer.
        sample_around_instance: Whether columns without bins are drawn around the instance, not around their mean.
        random_state: Seed, or random stream. None: numpy's global stream.
        training_data_stats: Statistics in place of the training data: "means", "mins", "maxs", "stds", "bins",
            "feature_values", "feature_frequencies", each from column to a list.
    """

    def __init__(
        self,
        training_data: Any,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Sequence[Any] | None = None,
        categorical_features: Sequence[int] | None = None,
        categorical_names: dict[int, Sequence[Any]] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[Any] | None = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: str | BaseDiscretizer = "quartile",
        sample_around_instance: bool = False,
        random_state: Any = None,
        training_data_stats: dict[str, Any] | None = None,
    ) -> None:
        self.random_state = random_state_of(random_state)
        self.mode, self.sample_around_instance = mode, sample_around_instance
        self.categorical_names = {} if categorical_names is None else categorical_names
        self.training_data_stats = training_data_stats
        if training_data_stats:
            self.validate_training_data_stats(training_data_stats)
        training_data = numbers(training_data, "training_data")
        columns = checked_width(training_data)
        self.categorical_features = columns_of(categorical_features)
        self.feature_names = names_of(feature_names, columns)
        self.discretizer: BaseDiscretizer | None = None
        categories = training_data
        if discretize_continuous and not sparse.issparse(training_data):
            self.discretizer = self.discretizer_of(discretizer, training_data, training_labels)
            self.categorical_features = list(range(columns))
            categories = self.discretizer.discretize(training_data) if training_data_stats is None else training_data
        width = float(np.sqrt(columns) * 0.75) if kernel_width is None else kernel_width
        self.feature_selection = feature_selection
        self.base = lime_base.LimeBase(kernel_of(kernel, width), verbose, self.random_state)
        self.class_names = class_names if class_names is None else [native(name) for name in class_names]
        self.scaler = Scaler().fit(training_data)
        self.feature_values, self.feature_frequencies = neighbours.frequencies(
            categories, self.categorical_features, training_data_stats
        )
        self.scaler.mean_[self.categorical_features] = 0
        self.scaler.scale_[self.categorical_features] = 1

    def discretizer_of(self, discretizer: str | BaseDiscretizer, data: Array, labels: Any) -> BaseDiscretizer:
        """Return the discretizer of a name, fitted to the training data; one that is given as it is.

        Args:
            discretizer: name, or discretizer.
            data: training data.
            labels: labels of the rows.
        """
        about = (data, self.categorical_features, self.feature_names, labels, self.random_state)
        if self.training_data_stats:
            return StatsDiscretizer(*about, self.training_data_stats)
        if isinstance(discretizer, BaseDiscretizer):
            return discretizer
        if not isinstance(discretizer, str) or discretizer not in DISCRETIZERS:
            raise BadInput(
                f"discretizer must be one of {', '.join(DISCRETIZERS)}, or a BaseDiscretizer, not {discretizer!r}"
            )
        continuous = [c for c in range(data.shape[1]) if c not in self.categorical_features]
        bad = [c for c in continuous if np.isnan(data[:, c]).any()]
        if bad:
            raise BadInput(
                f"training_data has NaN in column {self.feature_names[bad[0]]!r}, which cannot be cut into bins: fill "
                "it, or list the column in categorical_features"
            )
        return DISCRETIZERS[discretizer](*about)

    @staticmethod
    def convert_and_round(values: Iterable[Any]) -> list[str]:
        """Return numbers as texts with two decimals."""
        return [f"{value:.2f}" for value in values]

    @staticmethod
    def validate_training_data_stats(training_data_stats: dict[str, Any]) -> None:
        """Raise an error if a statistic is missing."""
        missing = [name for name in STATS if name not in training_data_stats]
        if missing:
            raise BadInput(f"training_data_stats lacks {', '.join(missing)}")

    def explain_instance(
        self,
        data_row: Any,
        predict_fn: Callable[..., Any],
        labels: Iterable[int] | None = (1,),
        top_labels: int | None = None,
        num_features: int = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        sampling_method: str = "gaussian",
        predict_batch: int | None = None,
    ) -> explanation.Explanation:
        """Return the explanation of one prediction.

        Args:
            data_row: Row, (M,), or a sparse row, (1, M).
            predict_fn: Function from rows, (N, M), to probabilities, (N, K), or to values, (N,), in a regression.
            labels: Labels to explain, unless `top_labels` is given.
            top_labels: Number of labels to explain, those with the largest probabilities. None: `labels`.
            num_features: Columns that the explanation names, at most.
            num_samples: Rows that are drawn, the row itself included.
            distance_metric: Distance, as in `sklearn.metrics.pairwise_distances`.
            model_regressor: Regressor of scikit-learn. None: ridge with a penalty of 1.
            sampling_method: Accepted for later versions of lime; "gaussian" is the only one.
            predict_batch: Rows a call of the model. None: all in one call.
        """
        check_request(predict_fn, num_samples, num_features, top_labels)
        if sampling_method != "gaussian":
            raise BadInput(f'sampling_method must be "gaussian", as in lime 0.2.0.1, not {sampling_method!r}')
        row = neighbours.checked_row(data_row, self.feature_names, self.categorical_features, self.discretizer)
        data, inverse = neighbours.drawn(self, row, num_samples)
        if sparse.issparse(data):
            # Not divided, unlike dense rows: a quirk of the original, which its figures depend on.
            scaled = data.multiply(self.scaler.scale_).tocsr()
        else:
            scaled = (data - self.scaler.mean_) / self.scaler.scale_
        distances = distances_to_first(scaled, distance_metric)
        answer = self.checked_answer(answers(predict_fn, inverse, predict_batch))
        mapper = describe(self, row, scaled[0])
        result = explanation.Explanation(mapper, mode=self.mode, class_names=self.class_names)
        if self.mode == "classification":
            wanted = labels_of(result, answer, labels, top_labels)
        else:
            result.predicted_value = float(answer[0])
            result.min_value, result.max_value = float(answer.min()), float(answer.max())
            answer, wanted = answer[:, None], [0]
        samples = (scaled, answer, distances)
        lime_base.explain_labels(
            result, self.base, wanted, samples, num_features, self.feature_selection, model_regressor
        )
        if self.mode == "regression":
            result.intercept[1] = result.intercept[0]
            result.local_exp[1] = list(result.local_exp[0])
            result.local_exp[0] = [(feature, -weight) for feature, weight in result.local_exp[1]]
        return result

    def checked_answer(self, answer: Array) -> Array:
        """Return what the model answered, one value a row in a regression.

        Raises:
            NotImplementedError: a classifier that returns labels.
        """
        if self.mode != "classification":
            if answer.ndim == 2 and answer.shape[1] >= 1:
                answer = answer[:, 0]
            if answer.ndim != 1:
                raise BadInput(f"a regression needs one value a row, (n,) or (n, 1), not {answer.shape}")
            return answer
        if answer.ndim == 1:
            raise NotImplementedError(
                "predict_fn must return probabilities, one column a class, such as predict_proba; it returned one "
                'number a row (for a regressor pass mode="regression")'
            )
        if answer.ndim != 2:
            raise BadInput(f"predict_fn must return (rows, classes), not shape {answer.shape}")
        self.class_names = names_of_classes(self.class_names, answer)
        if not np.allclose(answer.sum(axis=1), 1.0):
            warnings.warn(
                "the predicted probabilities do not sum to 1; are they logarithms, scores or labels?", stacklevel=3
            )
        return answer


class RecurrentTabularExplainer(LimeTabularExplainer):
    """An explainer of models of sequences, (n, T, F): each feature at each step is a column, `f_t-k`, oldest first.

    Args:
        training_data: Sequences, (n, T, F).
        mode: "classification" or "regression".
        training_labels: Labels of the sequences, which the entropy discretizer needs.
        feature_names: Names of the F features. None: their numbers.
        categorical_features: Columns of categories; column f * T + t is feature f at step t.
        categorical_names: For such a column the name of each category.
        kernel_width: Width of the kernel. None: 0.75 times the root of the number of columns.
        kernel: Function of distances and `kernel_width`, to weights. None: the exponential kernel.
        verbose: Whether to print the model's answer and the fitted one.
        class_names: Names of the classes. None: their numbers.
        feature_selection: How columns are selected; see `LimeBase.feature_selection`.
        discretize_continuous: Whether continuous columns get bins.
        discretizer: "quartile", "decile", "entropy", or a discretizer.
        random_state: Seed, or random stream. None: numpy's global stream.
    """

    def __init__(
        self,
        training_data: Any,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Sequence[Any] | None = None,
        categorical_features: Sequence[int] | None = None,
        categorical_names: dict[int, Sequence[Any]] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[Any] | None = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: str | BaseDiscretizer = "quartile",
        random_state: Any = None,
    ) -> None:
        sequences = numbers(training_data, "training_data")
        if sequences.ndim != 3:
            raise BadInput(f"training_data must be sequences, (n, steps, features), not shape {sequences.shape}")
        count, self.n_timesteps, self.n_features = sequences.shape
        names = names_of(feature_names, self.n_features)
        super().__init__(
            sequences.transpose(0, 2, 1).reshape(count, -1),
            mode=mode,
            training_labels=training_labels,
            feature_names=[f"{name}_t-{self.n_timesteps - 1 - t}" for name in names for t in range(self.n_timesteps)],
            categorical_features=categorical_features,
            categorical_names=categorical_names,
            kernel_width=kernel_width,
            kernel=kernel,
            verbose=verbose,
            class_names=class_names,
            feature_selection=feature_selection,
            discretize_continuous=discretize_continuous,
            discretizer=discretizer,
            random_state=random_state,
        )

    def _make_predict_proba(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the model as a function of flat rows."""

        def predict_proba(x: Array) -> Any:
            return func(x.reshape(len(x), self.n_features, self.n_timesteps).transpose(0, 2, 1))

        return predict_proba

    def explain_instance(  # type: ignore[override]
        self,
        data_row: Any,
        classifier_fn: Callable[..., Any],
        labels: Iterable[int] | None = (1,),
        top_labels: int | None = None,
        num_features: int = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        predict_batch: int | None = None,
    ) -> explanation.Explanation:
        """Return the explanation of one prediction.

        Args:
            data_row: Sequence, (T, F) or (1, T, F).
            classifier_fn: Function from sequences, (N, T, F), to probabilities or values.
            labels: Labels to explain, unless `top_labels` is given.
            top_labels: Number of labels to explain, those with the largest probabilities. None: `labels`.
            num_features: Columns that the explanation names, at most.
            num_samples: Sequences that are drawn, the sequence itself included.
            distance_metric: Distance, as in `sklearn.metrics.pairwise_distances`.
            model_regressor: Regressor of scikit-learn. None: ridge with a penalty of 1.
            predict_batch: Sequences a call of the model. None: all in one call.
        """
        sequence = numbers(data_row, "data_row")
        one = (self.n_timesteps, self.n_features)
        if sequence.shape not in (one, (1, *one)):
            raise BadInput(f"data_row must be one sequence, {one}, not shape {sequence.shape}")
        return super().explain_instance(
            sequence.T.reshape(-1),
            self._make_predict_proba(classifier_fn),
            labels=labels,
            top_labels=top_labels,
            num_features=num_features,
            num_samples=num_samples,
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            predict_batch=predict_batch,
        )


def checked_width(training_data: Any) -> int:
    """Return the number of columns, or raise an error if there is no table."""
    if training_data.ndim != 2 or 0 in training_data.shape:
        raise BadInput(f"training_data must be a table with rows and columns, not shape {training_data.shape}")
    return int(training_data.shape[1])


def columns_of(numbers_of_columns: Any) -> list[int]:
    """Return column numbers as integers; raise an error for names."""
    try:
        return [] if numbers_of_columns is None else [int(c) for c in numbers_of_columns]
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"categorical_features must be numbers of columns, such as [0, 3], not {numbers_of_columns!r}"
        ) from error


def names_of(names: Sequence[Any] | None, columns: int) -> list[Any]:
    """Return the names of the columns, their numbers if None; raise an error unless there is one for each."""
    if names is None:
        return [str(k) for k in range(columns)]
    if len(names) != columns:
        raise BadInput(f"feature_names must name {columns} columns; {len(names)} names were given")
    return [native(name) for name in names]
