"""Explanations of text classifiers by words or characters that are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.compat.lime import explanation, lime_base, page
from unfooled.compat.lime.checks import (
    answers,
    check_request,
    labels_of,
    names_of_classes,
    native,
    random_state_of,
)
from unfooled.compat.lime.indexed import Indexed, IndexedCharacters, IndexedString
from unfooled.compat.lime.kernels import distances_to_first, kernel_of
from unfooled.core.errors import BadInput

__all__ = ["IndexedCharacters", "IndexedString", "LimeTextExplainer", "TextDomainMapper"]

Array = npt.NDArray[Any]


class TextDomainMapper(explanation.DomainMapper):
    """The words of an explained text, and the text with these words marked.

    Args:
        indexed_string: Text as numbered words.
    """

    native_call = "with_text_stability(lime_text(predict, text), predict)"

    def __init__(self, indexed_string: Indexed) -> None:
        self.indexed_string = indexed_string

    def map_exp_ids(  # type: ignore[override]
        self, exp: explanation.Weights, positions: bool = False
    ) -> list[tuple[str, float]]:
        """Return (word, weight).

        Args:
            exp: (feature, weight).
            positions: Whether the characters at which a word starts are added to it, as in "bad_3-6-12".
        """
        text = self.indexed_string
        if not positions:
            return [(text.word(feature), weight) for feature, weight in exp]
        return [
            (f"{text.word(feature)}_{'-'.join(map(str, text.string_position(feature)))}", weight)
            for feature, weight in exp
        ]

    def visualize_instance_html(  # type: ignore[override]
        self,
        exp: explanation.Weights,
        label: int,
        div_name: str,
        exp_object_name: str,
        text: bool = True,
        opacity: bool = True,
    ) -> str:
        """Return HTML of the text with its words marked.

        Args:
            exp: (feature, weight).
            label: Label that the weights explain.
            div_name: Ignored.
            exp_object_name: Ignored.
            text: Whether to show the text at all.
            opacity: Whether marks fade with the weight.
        """
        if not text:
            return ""
        words = self.indexed_string
        marks = [
            (int(start), len(words.word(feature)), weight)
            for feature, weight in exp
            for start in words.string_position(feature)
        ]
        return page.marked_text(words.raw_string(), marks, opacity)


class LimeTextExplainer:
    """An explainer of text classifiers.

    Of D words, k are removed, k uniform on 1 to D; a linear model of what the classifier answers is fitted with weights
    exp(-d^2 / 2 w^2), d = 100 times the cosine distance to the whole text.

    Args:
        kernel_width: Width w of the kernel.
        kernel: Function of distances and `kernel_width`, to weights. None: the exponential kernel.
        verbose: Whether to print the model's answer and the fitted one.
        class_names: Names of the classes. None: their numbers.
        feature_selection: How words are selected; see `LimeBase.feature_selection`.
        split_expression: Regular expression of what separates words, or function from a text to its words.
        bow: Whether a word is the same feature everywhere; otherwise each place is one.
        mask_string: What stands for a removed word if not `bow`. None: UNKWORDZ, or chr(0) for characters.
        random_state: Seed, or random stream. None: numpy's global stream.
        char_level: Whether characters are removed in place of words.
    """

    def __init__(
        self,
        kernel_width: float = 25,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[Any] | None = None,
        feature_selection: str = "auto",
        split_expression: str | Callable[[str], Sequence[str]] = r"\W+",
        bow: bool = True,
        mask_string: str | None = None,
        random_state: Any = None,
        char_level: bool = False,
    ) -> None:
        self.random_state = random_state_of(random_state)
        self.base = lime_base.LimeBase(kernel_of(kernel, kernel_width), verbose, self.random_state)
        self.class_names = class_names if class_names is None else [native(name) for name in class_names]
        self.vocabulary = None
        self.feature_selection = feature_selection
        self.bow = bow
        self.mask_string = mask_string
        self.split_expression = split_expression
        self.char_level = char_level

    def explain_instance(
        self,
        text_instance: str,
        classifier_fn: Callable[..., Any],
        labels: Iterable[int] | None = (1,),
        top_labels: int | None = None,
        num_features: int = 10,
        num_samples: int = 5000,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        predict_batch: int | None = None,
    ) -> explanation.Explanation:
        """Return the explanation of one prediction.

        Args:
            text_instance: Text. An empty one has no words, and an explanation without features.
            classifier_fn: Function from a list of texts to probabilities, (N, K).
            labels: Labels to explain, unless `top_labels` is given.
            top_labels: Number of labels to explain, those with the largest probabilities. None: `labels`.
            num_features: Words that the explanation names, at most.
            num_samples: Texts that are composed, the text itself included.
            distance_metric: Distance of masks, as in `sklearn.metrics.pairwise_distances`.
            model_regressor: Regressor of scikit-learn. None: ridge with a penalty of 1.
            predict_batch: Texts a call of the classifier. None: all in one call.

        Raises:
            BadInput: no text, or a text without a word.
        """
        check_request(classifier_fn, num_samples, num_features, top_labels)
        text = self.index(text_instance)
        data, answer, distances = self.neighbourhood(text, classifier_fn, num_samples, distance_metric, predict_batch)
        self.class_names = names_of_classes(self.class_names, answer)
        result = explanation.Explanation(
            TextDomainMapper(text), class_names=self.class_names, random_state=self.random_state
        )
        wanted = labels_of(result, answer, labels, top_labels)
        samples = (data, answer, distances)
        lime_base.explain_labels(
            result, self.base, wanted, samples, num_features, self.feature_selection, model_regressor
        )
        return result

    def index(self, text: str) -> Indexed:
        """Return a text as numbered words or characters, or raise an error if it has none."""
        if not isinstance(text, str):
            raise BadInput(f"text_instance must be a text (str), not {type(text).__name__}")
        indexed: Indexed
        if self.char_level:
            indexed = IndexedCharacters(text, self.bow, self.mask_string)
        else:
            indexed = IndexedString(text, self.split_expression, self.bow, self.mask_string)
        if text and indexed.num_words() == 0:
            raise BadInput(f"text_instance {text[:40]!r} has no word; pass another split_expression or char_level=True")
        return indexed

    def neighbourhood(
        self, text: Indexed, predict: Callable[..., Any], num_samples: int, metric: Any, batch: int | None
    ) -> tuple[Array, Array, Array]:
        """Return the masks, (S, D), the classifier's answers, (S, K), and the distances to the text, (S,).

        Args:
            text: text as numbered words.
            predict: function from texts to probabilities.
            num_samples: texts that are composed; the first is the text itself.
            metric: distance of masks.
            batch: texts a call; None: all.
        """
        words = text.num_words()
        if words == 0:
            num_samples = 1
        data = np.ones((num_samples, words))
        texts = [text.raw_string()]
        sizes = self.random_state.randint(1, max(words, 1) + 1, num_samples - 1)
        for row, size in enumerate(sizes, start=1):
            # The same draws as choice(range(words), size, replace=False), which copies its range each time.
            removed = self.random_state.permutation(words)[:size]
            data[row, removed] = 0
            texts.append(text.inverse_removing(removed))
        answer = answers(predict, texts, batch)
        return data, answer, distances_to_first(sparse.csr_matrix(data), metric) * 100 if words else np.zeros(1)
