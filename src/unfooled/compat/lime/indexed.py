"""A text as numbered words or characters, some of which can be removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.core.errors import BadInput

Array = npt.NDArray[Any]


class Indexed:
    """A base of texts as numbered pieces; a subclass splits the text and calls `number`."""

    raw: str
    bow: bool
    mask_string: str
    as_list: list[str]
    string_start: Array
    inverse_vocab: list[str]
    positions: Any

    def number(self, pieces: Sequence[str], is_feature: Callable[[str], bool], bow: bool) -> None:
        """Number the pieces that are features.

        Args:
            pieces: pieces of the text, in order.
            is_feature: whether a piece is a feature; other pieces are never removed.
            bow: whether equal pieces are one feature.
        """
        self.as_list, self.bow = list(pieces), bow
        lengths = [len(piece) for piece in self.as_list]
        self.string_start = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=int)])
        self.inverse_vocab = []
        places: list[list[int]] = []
        numbers: dict[str, int] = {}
        decided: dict[str, bool] = {}
        for place, piece in enumerate(self.as_list):
            if piece not in decided:
                decided[piece] = is_feature(piece)
            if not decided[piece]:
                continue
            feature = numbers.get(piece) if bow else None
            if feature is None:
                feature = numbers[piece] = len(places)
                self.inverse_vocab.append(piece)
                places.append([])
            places[feature].append(place)
        self._feature = np.full(len(self.as_list), -1)
        for feature, where in enumerate(places):
            self._feature[where] = feature
        self.positions = places if bow else np.array([where[0] for where in places], dtype=int)

    @property
    def as_np(self) -> Array:
        """The pieces of the text, separators too, as an array."""
        return np.array(self.as_list)

    def raw_string(self) -> str:
        """Return the text."""
        return self.raw

    def num_words(self) -> int:
        """Return the number of features."""
        return len(self.inverse_vocab)

    def word(self, id_: int) -> str:
        """Return the word of a feature."""
        return self.inverse_vocab[id_]

    def string_position(self, id_: int) -> Array:
        """Return the characters at which a feature starts."""
        return self.string_start[self.positions[id_] if self.bow else [self.positions[id_]]]

    def inverse_removing(self, words_to_remove: Iterable[int]) -> str:
        """Return the text without some features.

        Args:
            words_to_remove: Features. Every occurrence is deleted if `bow`; else the place is masked.
        """
        there = np.ones(self.num_words() + 1, dtype=bool)  # the last one: separators, feature -1
        there[np.asarray(words_to_remove, dtype=int)] = False
        stays = there[self._feature].tolist()
        if self.bow:
            return "".join(compress(self.as_list, stays))
        return "".join([piece if stay else self.mask_string for piece, stay in zip(self.as_list, stays, strict=True)])


class IndexedString(Indexed):
    """A text as numbered words.

    Args:
        raw_string: Text.
        split_expression: Regular expression of what separates words, or function from a text to its words in order.
        bow: Whether a word is the same feature everywhere in the text.
        mask_string: What stands for a removed word if not `bow`. None: UNKWORDZ.

    Attributes:
        as_list: Words and separators in order; `as_np` is the same as an array.
        string_start: Character at which each of them starts.
        inverse_vocab: Word of each feature.
        positions: For each feature its places in `as_list`, or, if not `bow`, its place.
    """

    def __init__(
        self,
        raw_string: str,
        split_expression: str | Callable[[str], Sequence[str]] = r"\W+",
        bow: bool = True,
        mask_string: str | None = None,
    ) -> None:
        self.raw = raw_string
        self.mask_string = "UNKWORDZ" if mask_string is None else mask_string
        if callable(split_expression):
            tokens = list(split_expression(raw_string))
            self.number(between(raw_string, tokens), set(tokens).__contains__, bow)
        else:
            try:
                separator = re.compile(f"({split_expression})|$")
            except re.error as error:
                raise BadInput(f"split_expression {split_expression!r} is no regular expression: {error}") from error
            pieces = [piece for piece in separator.split(raw_string) if piece]
            # A piece that begins like a separator is none of the words, as in the original.
            self.number(pieces, lambda piece: separator.match(piece) is None, bow)


class IndexedCharacters(Indexed):
    """A text as numbered characters.

    Args:
        raw_string: Text.
        bow: Whether a character is the same feature everywhere in the text.
        mask_string: What stands for a removed character if not `bow`. None: chr(0).
    """

    def __init__(self, raw_string: str, bow: bool = True, mask_string: str | None = None) -> None:
        self.raw = raw_string
        self.mask_string = chr(0) if mask_string is None else mask_string
        self.number(list(raw_string), lambda piece: True, bow)


def between(text: str, tokens: Sequence[str]) -> list[str]:
    """Return the tokens of a text and what stands between them.

    Raises:
        BadInput: a token that does not follow in the text.
    """
    pieces, at = [], 0
    for token in tokens:
        start = text.find(token, at)
        if start < 0:
            raise BadInput(
                f"split_expression must return words in the order of the text; {token!r} does not follow character {at}"
            )
        pieces += [text[at:start], token] if start > at else [token]
        at = start + len(token)
    return [*pieces, text[at:]] if at < len(text) else pieces
