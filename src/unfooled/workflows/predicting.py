"""The user's models of texts and tables: a function, or an object with `predict_proba` or `predict`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from unfooled.core.errors import BadInput
from unfooled.core.user_code import imported
from unfooled.explanations.lime.attention import of_tokens
from unfooled.workflows.errors import BadOption

METHODS = ("predict_proba", "predict")
PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model of texts or table rows.

    Attributes:
        name: Name for records and errors.
        function: Function from inputs to outputs, (n, K).
        classes: Names of the outputs. None: not known.
        frames: True if the model was fitted on pandas data frames, and so takes rows as such.
        tokenizer: Tokeniser of a transformer, its own attribute. None: it has none.
        network: Function of tokens by name, for a model with a tokeniser.
    """

    name: str
    function: Callable[[Any], Any]
    classes: tuple[str, ...] | None = None
    frames: bool = False
    tokenizer: Any = None
    network: Callable[..., Any] | None = None

    def of_tokens(self) -> Predictor:
        """Return the model as a function of tokens by name.

        Raises:
            BadOption: It has no tokeniser.
        """
        if self.tokenizer is None:
            raise BadOption(
                "{hide} is attention-mask, and {0} has no tokeniser; give an object with the attribute tokenizer, such "
                "as a text classification pipeline of transformers",
                self.name,
            )
        return replace(self, function=of_tokens(self.network or self.function))

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs; an error of the user's code becomes one sentence."""
        try:
            return self.function(inputs)
        except BadInput:
            raise
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"{self.name} raised {type(error).__name__}: {error} (it was given {_count(inputs)} inputs as a "
                f"{type(inputs).__name__})"
            ) from error


@contextmanager
def opened(model: str | Path | Callable[..., Any] | Any) -> Iterator[Predictor]:
    """Yield the user's model, with its folder on `sys.path` until the context ends.

    Args:
        model: "file.py:name" or "package.module:name", or the object itself: a function from inputs to outputs (n, K),
            an object with `predict_proba` or `predict`, or a function without parameters that returns either.

    Raises:
        BadInput: It is none of these, does not exist, or its code fails.
    """
    if not isinstance(model, (str, Path)):
        yield predictor(model, getattr(model, "__name__", type(model).__name__))
        return
    source = str(model)
    place, _, attribute = source.rpartition(":")
    if Path(source).suffix in PICKLES:
        raise BadOption(
            "{model} is {0}; a pickled model could run any code when it is opened, so write a function that returns "
            "yours into a file, and give {model:file.py:function}",
            source,
        )
    if not place or not attribute:
        raise BadOption(
            "{model} is {0!r}; give file.py:name or package.module:name of a function, or of an object with "
            "predict_proba or predict",
            source,
        )
    with imported(source) as candidate:
        yield predictor(candidate, source)


def predictor(candidate: Any, name: str) -> Predictor:
    """Return the user's object as a model; a factory is called first."""
    if _is_factory(candidate):
        try:
            candidate = candidate()
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"{name}() raised {type(error).__name__}: {error} (it has no parameters, so it is called to make the "
                "model)"
            ) from error
        name = f"{name}()"
    if isinstance(candidate, type):
        raise BadInput(f"{name} is a class that needs arguments; name an object, or a function that returns one")
    method = next((m for m in METHODS if callable(getattr(candidate, m, None))), None)
    if method is None and not callable(candidate):
        raise BadInput(
            f"{name} is a {type(candidate).__name__}; name a function from inputs to outputs (n, K), or an object with "
            "predict_proba or predict"
        )
    labels = getattr(candidate, "classes_", None)
    classes = None if labels is None else tuple(map(str, np.asarray(labels).tolist()))
    function = candidate if method is None else getattr(candidate, method)
    if method == "predict" and labels is not None:
        function = partial(votes, predict=function, labels=np.asarray(labels))
    tokenizer = getattr(candidate, "tokenizer", None)
    network = next((m for m in (candidate, getattr(candidate, "model", None)) if isinstance(m, nn.Module)), None)
    return Predictor(name, function, classes, hasattr(candidate, "feature_names_in_"), tokenizer, network)


def _count(inputs: Any) -> int:
    """Return the number of inputs, also of tokens by name."""
    return len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)


def votes(inputs: Any, *, predict: Callable[[Any], Any], labels: Any) -> Any:
    """Return the labels that a classifier without probabilities predicts as rows of 0 and 1, (n, K)."""
    return (np.asarray(predict(inputs))[:, None] == labels[None]).astype(np.float64)


def _is_factory(candidate: Any) -> bool:
    """Return whether an object is a function or a class that can be called without arguments."""
    if not (inspect.isroutine(candidate) or inspect.isclass(candidate) or isinstance(candidate, partial)):
        return False
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except (TypeError, ValueError):  # a built-in without a signature
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.kind == kinds[1] or (p.kind not in kinds and p.default is not p.empty) for p in parameters)
