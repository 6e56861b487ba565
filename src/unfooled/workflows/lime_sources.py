"""Inputs of local surrogates for models that are the user's own code: texts, and rows of a table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import lime as native
from unfooled.explanations.lime.predicting import outputs_of
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.text import pieces_of, whole_outputs
from unfooled.workflows import catalog
from unfooled.workflows.choices import made
from unfooled.workflows.errors import BadOption
from unfooled.workflows.lime_options import LimeOptions, Rows, TextOptions, classes_of, read_classes
from unfooled.workflows.lime_priors import expected_weights
from unfooled.workflows.predicting import Predictor

MAX_FEATURES = 4000
"""Largest number of features of one input: memory grows with its square."""
BATCH = 256
Labels = str | Path | Sequence[str] | None


class Source(Protocol):
    """Inputs that can be explained, by number."""

    @property
    def data(self) -> str:
        """Return the name of the data."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return sentences on what was assumed or left out."""
        ...

    def __len__(self) -> int:
        """Return the number of inputs."""
        ...

    def name(self, i: int) -> str:
        """Return the name of an input."""
        ...

    def usable(self) -> list[int]:
        """Return the numbers of the inputs that can be explained."""
        ...

    def explain(self, at: Sequence[int]) -> Surrogates:
        """Return the explanations of some inputs."""
        ...

    def with_stability(self, result: Surrogates, at: Sequence[int]) -> Surrogates:
        """Return explanations of some inputs with their soft stability."""
        ...


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warning about few effective samples, which the record and the page contain."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rest on few effective samples.*", category=UserWarning)
        yield


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts, and the model whose answers are explained.

    Attributes:
        predict: The model.
        texts: The texts.
        data: Name of the data.
        pieces: Pieces of a text, and the replacement of hidden ones.
        options: Options of all local surrogates.
        labels: Names of the outputs. None: the model's own.
        seed: Random seed.
    """

    predict: Predictor
    texts: Sequence[str]
    data: str
    pieces: TextOptions
    options: LimeOptions
    labels: Labels
    seed: int
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def name(self, i: int) -> str:
        """Return the name of a text."""
        return "text" if len(self.texts) == 1 else f"text {i}"

    def usable(self) -> list[int]:
        """Return the numbers of the texts, all of them."""
        return list(range(len(self.texts)))

    def explain(self, at: Sequence[int]) -> Surrogates:
        """Return the explanations of some texts."""
        settings, texts = self.pieces.made(self.predict.tokenizer), [self.texts[i] for i in at]
        pieces = [pieces_of(text, **settings) for text in texts]
        for i, own in zip(at, pieces, strict=True):
            check_size(own.features, self.name(i), "explain {split:sentences}, or a part")
        outputs = whole_outputs(self.predict, pieces, BATCH)
        names = read_classes(self.labels, self.predict.classes, outputs.shape[1])
        with quiet():
            result = native.lime_text(
                self.predict,
                texts,
                classes_of(self.options, outputs, names),
                **settings,
                **self.options.given,
                prior=expected_weights(self.options.prior, [own.names for own in pieces]),
                sampler=made(catalog.MASK_SAMPLERS, self.options.sampler or "balanced", "sampler"),
                link=made(catalog.LINKS, self.options.link, "link"),
                generator=torch.Generator().manual_seed(self.seed),
            )
        return replace(result, classes=names)

    def with_stability(self, result: Surrogates, at: Sequence[int]) -> Surrogates:
        """Return explanations of some texts with their soft stability."""
        if not self.options.stability:
            return result
        return native.with_text_stability(
            result,
            self.predict,
            hide=self.pieces.made(self.predict.tokenizer)["hide"],
            settings=native.Stability(draws=self.options.stability),
            generator=torch.Generator().manual_seed(self.seed),
        )


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a table, and the model whose answers are explained.

    Attributes:
        predict: The model.
        rows: The rows and the training table.
        options: Options of all local surrogates.
        labels: Names of the outputs. None: the model's own.
        seed: Random seed.
    """

    predict: Predictor
    rows: Rows
    options: LimeOptions
    labels: Labels
    seed: int

    @property
    def data(self) -> str:
        """Return the name of the file."""
        return self.rows.table.source

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return sentences on what was assumed or left out."""
        return self.rows.warnings

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows.table)

    def name(self, i: int) -> str:
        """Return the name of a row, with its label."""
        return self.rows.name(i)

    def usable(self) -> list[int]:
        """Return the numbers of the rows that can be explained."""
        return self.rows.usable()

    def explain(self, at: Sequence[int]) -> Surrogates:
        """Return the explanations of some rows."""
        space, rows = self.rows.space, self.rows.take(at)
        check_size(len(space.features), "the table", "leave some columns out, or join them by {group}")
        values = self.rows.values(at)
        outputs = outputs_of(self.predict, rows, BATCH)
        names = read_classes(self.labels, self.predict.classes, outputs.shape[1])
        with quiet():
            return native.lime_tabular(
                self.predict,
                rows,
                classes_of(self.options, outputs, names),
                space=space,
                classes=names,
                **self.options.given,
                prior=expected_weights(
                    self.options.prior,
                    [space.names(row) for row in values],
                    [[column_of(key) for key in space.keys(row)] for row in values],
                ),
                sampler=made(catalog.TABLE_SAMPLERS, self.options.sampler or "bins", "sampler"),
                link=made(catalog.LINKS, self.options.link, "link"),
                generator=torch.Generator().manual_seed(self.seed),
            )

    def with_stability(self, result: Surrogates, at: Sequence[int]) -> Surrogates:
        """Return explanations of some rows with their soft stability."""
        if not self.options.stability:
            return result
        return native.with_row_stability(
            result,
            self.predict,
            self.rows.take(at),
            space=self.rows.space,
            settings=native.Stability(draws=self.options.stability),
            generator=torch.Generator().manual_seed(self.seed),
        )


def answering(predict: Predictor) -> Callable[[Any], bool]:
    """Return a function that says whether a model has an answer, finite numbers, for some rows."""

    def answers(rows: Any) -> bool:
        try:
            outputs_of(predict, rows, BATCH)
        except BadInput:
            return False
        return True

    return answers


def column_of(key: tuple[Any, ...]) -> str:
    """Return the name of a feature's column, of a group those of its columns: "a,b"."""
    return str(key[0]) if isinstance(key[0], str) else ",".join(map(str, key[0]))


def check_size(features: int, name: str, mend: str) -> None:
    """Refuse an input with more than `MAX_FEATURES` features."""
    if features > MAX_FEATURES:
        raise BadOption(
            f"{{0}} has {{1:,}} features, and at most {MAX_FEATURES:,} are explained; {mend}", name, features
        )


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return texts as a list; refuse an empty list, and items that are not text."""
    listed = list(texts)
    if not listed:
        raise BadInput("there is no text to explain")
    wrong = next((text for text in listed if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(f"a text is a {type(wrong).__name__}; give strings")
    return listed


def check_numbers(rows: Sequence[int], count: int, option: str, what: str) -> None:
    """Refuse numbers of inputs that do not exist."""
    for row in rows:
        if not 0 <= row < count:
            raise BadOption("{" + option + "} is {0}, and there are {1} {2}, 0 to {3}", row, count, what, count - 1)


def numbers_of(value: str | int | Sequence[int], option: str) -> list[int]:
    """Read the numbers of inputs, "0,3", each once.

    Raises:
        BadOption: One is no whole number of at least 0.
    """
    words = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    numbers = [int(word) if str(word).strip().isdecimal() else -1 for word in words]
    if not numbers or min(numbers) < 0:
        raise BadOption("{" + option + "} is {0!r}; give the numbers of inputs from 0, such as 3 or 0,3", value)
    return list(dict.fromkeys(numbers))


def check_choices(options: LimeOptions, samplers: dict[str, catalog.Piece], sampler: str) -> None:
    """Refuse a sampler or link that does not exist."""
    made(samplers, options.sampler or sampler, "sampler")
    made(catalog.LINKS, options.link, "link")
