"""Explanations of texts and tables, as lists, figures and pages."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.compat.lime import page
from unfooled.compat.lime.checks import native, random_state_of
from unfooled.compat.lime.exceptions import LimeError
from unfooled.compat.lime.pickled import Pickled
from unfooled.core.errors import BadInput

__all__ = ["DomainMapper", "Explanation", "id_generator"]

Array = npt.NDArray[Any]
Weights = list[tuple[int, float]]


def id_generator(size: int = 15, random_state: Any = None) -> str:
    """Return random capital letters and digits.

    Args:
        size: Number of characters.
        random_state: Seed, or random stream. None: numpy's global stream.
    """
    characters = list(string.ascii_uppercase + string.digits)
    return "".join(map(str, random_state_of(random_state).choice(characters, size, replace=True)))


class DomainMapper:
    """Names of features and a view of the instance; texts and tables have their own.

    Attributes:
        native_call: Call of `unfooled.explanations.lime` that measures the soft stability of such an explanation.
    """

    native_call = "soft_stability(f, selected, r)"

    def __init__(self) -> None:
        pass

    def map_exp_ids(self, exp: Weights, **kwargs: Any) -> list[tuple[Any, float]]:
        """Return the weights with names in place of feature numbers; here the numbers themselves.

        Args:
            exp: (feature, weight).
            kwargs: Options of a subclass.
        """
        return exp

    def visualize_instance_html(
        self, exp: Weights, label: int, div_name: str, exp_object_name: str, **kwargs: Any
    ) -> str:
        """Return HTML that shows the instance; here nothing.

        Args:
            exp: (feature, weight).
            label: Label that the weights explain.
            div_name: Ignored; the original's name of an element.
            exp_object_name: Ignored; the original's name of a variable of its script.
            kwargs: Options of a subclass.
        """
        return ""


class Explanation(Pickled):
    """The weights of a text's words or of a row's features, for each explained label.

    Args:
        domain_mapper: Names of the features and view of the instance.
        mode: "classification" or "regression".
        class_names: Names of the classes.
        random_state: Kept for callers that read it; nothing is drawn.

    Attributes:
        local_exp: For each label (feature, weight), the largest |weight| first.
        intercept: For each label the intercept.
        score: Weighted R2 in sample of the label fitted last.
        local_pred: Fitted answer at the instance, of the label fitted last.

    Raises:
        LimeError: another mode.
    """

    def __init__(
        self,
        domain_mapper: DomainMapper,
        mode: str = "classification",
        class_names: Sequence[Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.random_state = random_state
        self.mode = mode
        self.domain_mapper = domain_mapper
        self.local_exp: dict[int, Weights] = {}
        self.intercept: dict[int, float] = {}
        self.score: float | None = None
        self.local_pred: Array | None = None
        self.class_names: Any = class_names if class_names is None else [native(name) for name in class_names]
        if mode == "classification":
            self.top_labels: list[int] | None = None
            self.predict_proba: Any = None
        elif mode == "regression":
            self.class_names = ["negative", "positive"]
            self.predicted_value: float | None = None
            self.min_value = 0.0
            self.max_value = 1.0
            self.dummy_label = 1
        else:
            raise LimeError(f'mode must be "classification" or "regression", not {mode!r}')

    def available_labels(self) -> list[int]:
        """Return the labels that were explained, the most probable first where `top_labels` was given.

        Raises:
            NotImplementedError: a regression, which has no labels.
        """
        if self.mode != "classification":
            raise NotImplementedError("an explanation of a regression has no labels")
        return list(self.top_labels or self.local_exp)

    def weights_of(self, label: int) -> Weights:
        """Return (feature, weight) of a label; of a regression whatever the label.

        Raises:
            KeyError: the label was not explained.
        """
        key = label if self.mode == "classification" else self.dummy_label
        if key not in self.local_exp:
            raise KeyError(f"label {key} was not explained; explained labels: {list(self.local_exp)}")
        return self.local_exp[key]

    def as_list(self, label: int = 1, **kwargs: Any) -> list[tuple[Any, float]]:
        """Return (name, weight), the largest |weight| first.

        Args:
            label: Label that was explained; ignored for a regression.
            kwargs: Options of the names, such as `positions=True` for texts.
        """
        return [(native(x[0]), float(x[1])) for x in self.domain_mapper.map_exp_ids(self.weights_of(label), **kwargs)]

    def as_map(self) -> dict[int, Weights]:
        """Return (feature, weight) for each label."""
        return self.local_exp

    def as_pyplot_figure(self, label: int = 1, figsize: tuple[float, float] | None = None, **kwargs: Any) -> Any:
        """Return a figure of bars, the largest |weight| at the top.

        Args:
            label: Label that was explained; ignored for a regression.
            figsize: Width and height in inches. None: matplotlib's own.
            kwargs: Options of the names.
        """
        from matplotlib import pyplot as plt

        pairs = self.as_list(label, **kwargs)[::-1]
        figure = plt.figure(figsize=figsize)
        axes = figure.add_subplot()
        places = np.arange(len(pairs)) + 0.5
        axes.barh(places, [w for _, w in pairs], align="center", color=["green" if w > 0 else "red" for _, w in pairs])
        axes.set_yticks(places, [str(name) for name, _ in pairs])
        about = f" for class {self.name_of(label)}" if self.mode == "classification" else ""
        axes.set_title(f"Local explanation{about}")
        return figure

    def show_in_notebook(
        self,
        labels: Sequence[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> None:
        """Show the page in a notebook; see `as_html`.

        Raises:
            BadInput: IPython is not installed.
        """
        try:
            from IPython.display import HTML, display
        except (ImportError, RuntimeError, OSError) as error:
            raise BadInput(
                "show_in_notebook needs IPython: pip install ipython, or use save_to_file; importing it failed: "
                f"{error}"
            ) from error
        display(HTML(self.as_html(labels, predict_proba, show_predicted_value, **kwargs)))

    def save_to_file(
        self,
        file_path: str | Path,
        labels: Sequence[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write the page to a file; see `as_html`.

        Args:
            file_path: File to write.
            labels: Labels to show.
            predict_proba: Whether to show the probabilities.
            show_predicted_value: Whether to show the value of a regression.
            kwargs: Options of the view of the instance.
        """
        Path(file_path).write_text(
            self.as_html(labels, predict_proba, show_predicted_value, **kwargs), encoding="utf-8"
        )

    def as_html(
        self,
        labels: Sequence[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> str:
        """Return a page of at most 30 kB: prediction, bars of each label, and the text or the row.

        Nothing is drawn from the explainer's random stream, unlike in the original, where showing the explanation of a
        text changes the next one.

        Args:
            labels: Labels to show. None: all that were explained.
            predict_proba: Whether to show the probabilities of the top classes.
            show_predicted_value: Whether to show a regression's value between the least and the largest one.
            kwargs: Options of the view of the instance: `text` and `opacity` for texts, `show_table` and `show_all`
                for tables.
        """
        views = []
        if self.mode == "classification":
            shown = self.available_labels() if labels is None else list(labels)
            if predict_proba and self.predict_proba is not None:
                values = [float(p) for p in self.predict_proba]
                views.append(page.probabilities([self.name_of(k) for k in range(len(values))], values))
            names = [self.name_of(label) for label in shown]
            heads = [(f"Weights for {name}", f"not {name}", name) for name in names]
        else:
            shown = [self.dummy_label]
            if show_predicted_value and self.predicted_value is not None:
                limits = (float(self.min_value), float(self.max_value))
                views.append(page.predicted_value(float(self.predicted_value), *limits))
            heads = [("Weights", "negative", "positive")]
        budget = page.BARS_BUDGET // max(len(shown), 1)
        views += [
            page.weight_bars(*head, self.as_list(label), budget) for head, label in zip(heads, shown, strict=True)
        ]
        views.append(page.reliance(self.score, getattr(self.domain_mapper, "native_call", DomainMapper.native_call)))
        if shown:
            weights = self.weights_of(shown[0])
            views.append(self.domain_mapper.visualize_instance_html(weights, shown[0], "raw_div", "exp", **kwargs))
        return page.page(views)

    def _repr_html_(self) -> str:
        return self.as_html()

    def name_of(self, label: int) -> str:
        """Return the name of a class, or its number if there is none."""
        names = self.class_names
        return str(names[label]) if names is not None and -len(names) <= label < len(names) else str(label)
