"""LIME for texts: a linear surrogate over words, characters, sentences or tokens that are shown or hidden.

With `unit=types`, all occurrences of a word are hidden together; with `unit=positions`, each one separately. Equal
strings are evaluated once, in batches of fixed size. The defaults are LIME's own distribution of masks and kernel, with
every feature hidden equally often, so that the weights vary less (`balance.py`).

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.attention import AttentionMask, EncodedCopies, of_tokens
from unfooled.explanations.lime.balance import balanced
from unfooled.explanations.lime.findings import Kind
from unfooled.explanations.lime.kernels import Kernel, cosine_kernel
from unfooled.explanations.lime.naming import setting_name
from unfooled.explanations.lime.predicting import Link, check_rows, identity, labels_of, outputs_of
from unfooled.explanations.lime.result import Surrogates, warn_if_few
from unfooled.explanations.lime.samplers import Sampler
from unfooled.explanations.lime.solving import Settings, assembled, samples_of, shrinking, solve_each, stopping
from unfooled.explanations.lime.surrogate import Prior, UntilStable

Span = tuple[int, int]
Split = Callable[[str], Sequence[Span]]
"""Text -> places (start, end) of its pieces, in order."""
BATCH = 1024  # texts a call
KERNEL = cosine_kernel(0.25)


def words(text: str) -> list[Span]:
    r"""Return the places of the words, the runs of \w."""
    return [match.span() for match in re.finditer(r"\w+", text)]


def characters(text: str) -> list[Span]:
    """Return the places of the characters that are not white space."""
    return [(i, i + 1) for i, letter in enumerate(text) if not letter.isspace()]


def sentences(text: str) -> list[Span]:
    """Return the places of the sentences, which end with . ! ? or at the end of a line."""
    return [match.span() for match in re.finditer(r"\S[^.!?\n]*[.!?]*", text)]


def offsets(tokenizer: Any) -> Split:
    """Return a split into the tokens of a fast Hugging Face tokeniser.

    Args:
        tokenizer: Tokeniser that returns offsets.
    """

    def split(text: str) -> list[Span]:
        places = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        return [(int(start), int(end)) for start, end in places if end > start]

    return split


def types(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the feature index of each piece: equal strings share one, numbered by first occurrence."""
    known: dict[str, int] = {}
    return [known.setdefault(text[start:end], len(known)) for start, end in spans]


def positions(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the feature index of each piece: every piece has its own."""
    return list(range(len(spans)))


class Hide(Protocol):
    """Function that hides some pieces of a text."""

    def __call__(self, text: str, hidden: Sequence[Span]) -> Any:
        """Return the text with the pieces hidden; tokens of it for `attention_mask`."""
        ...


def delete(text: str, hidden: Sequence[Span]) -> str:
    """Return the text without the hidden pieces."""
    return replaced(text, hidden, "")


def replaced(text: str, hidden: Sequence[Span], token: str) -> str:
    """Return the text with a token in place of each hidden piece."""
    at, parts = 0, []
    for start, end in hidden:
        parts += [text[at:start], token]
        at = end
    return "".join([*parts, text[at:]])


@dataclass(frozen=True)
class MaskToken:
    """Function that replaces hidden pieces by a token, such as the mask token of a language model; see `mask_token`."""

    token: str

    def __call__(self, text: str, hidden: Sequence[Span]) -> str:
        """Return the text with the token in place of each hidden piece."""
        return replaced(text, hidden, self.token)


def mask_token(token: str = "[MASK]") -> MaskToken:
    """Return a function that replaces hidden pieces by a token."""
    if not isinstance(token, str):
        raise BadInput(f"token is {token!r}; it is a string, such as '[MASK]'")
    return MaskToken(token)


@dataclass(frozen=True)
class Pieces:
    """A text as features that can be hidden.

    Attributes:
        text: The text.
        spans: Places of its pieces.
        feature: Feature index of each piece.
        hide: Function that hides pieces.
    """

    text: str
    spans: tuple[Span, ...]
    feature: tuple[int, ...]
    hide: Hide

    @property
    def features(self) -> int:
        """Number of features."""
        return max(self.feature, default=-1) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features: the string of the first piece of each."""
        first: dict[int, str] = {}
        for (start, end), j in zip(self.spans, self.feature, strict=True):
            first.setdefault(j, self.text[start:end])
        return tuple(first[j] for j in range(self.features))

    @property
    def marks(self) -> tuple[tuple[int, int, int], ...]:
        """Triples (start, end, feature index), one per piece."""
        return tuple((start, end, j) for (start, end), j in zip(self.spans, self.feature, strict=True))

    def written(self, shown: Sequence[bool]) -> Any:
        """Return the text with the features that are not shown hidden."""
        return self.hide(self.text, [s for s, j in zip(self.spans, self.feature, strict=True) if not shown[j]])

    def copies(self, masks: Tensor) -> list[str] | EncodedCopies:
        """Return a copy of the text for each mask, (S, M), with the features hidden that it does not show."""
        if isinstance(self.hide, AttentionMask):
            return self.hide.copies(self.text, self.spans, self.feature, masks)
        token = "" if self.hide is delete else self.hide.token if isinstance(self.hide, MaskToken) else None
        if token is None or not self.spans:
            return [self.written(row) for row in masks.tolist()]
        # Alternately the text between two pieces, and a piece or the token in its place.
        parts, at = [], 0
        for start, end in self.spans:
            parts += [self.text[at:start], self.text[start:end], *([token] if token else [])]
            at = end
        shown = masks[:, list(self.feature)]
        selected = [torch.ones_like(shown), shown, *([~shown] if token else [])]
        rest = self.text[at:]
        rows = torch.stack(selected, 2).flatten(1).numpy()
        return ["".join(compress(parts, row.tobytes())) + rest for row in rows]


def pieces_of(text: str, split: Split = words, unit: Any = types, hide: Hide = delete) -> Pieces:
    """Split a text.

    Raises:
        BadInput: The text is not a string, is not blank but has no pieces, or its pieces overlap or are out of order.
    """
    if not isinstance(text, str):
        raise BadInput(f"a text is a {type(text).__name__}; give strings")
    for name, value, mend in (
        ("split", split, "words, characters, sentences or offsets(tokenizer)"),
        ("unit", unit, "types or positions"),
        (
            "hide",
            hide,
            f"delete, mask_token({hide if isinstance(hide, str) else '[MASK]'!r}) or attention_mask(tokenizer)",
        ),
    ):
        if not callable(value):
            raise BadInput(f"{name} is {value!r}; give a function, such as {mend}")
    try:
        spans = tuple((int(start), int(end)) for start, end in split(text))
    except (TypeError, ValueError) as error:
        raise BadInput("split returns no places; return pairs (start, end), as words does") from error
    at = 0
    for start, end in spans:
        if not at <= start < end <= len(text):
            raise BadInput(f"piece ({start}, {end}) overlaps another, is empty or lies outside of the text")
        at = end
    if text.strip() and not spans:
        raise BadInput(f"nothing is left of the text {text[:30]!r} after splitting; give another split")
    feature = tuple(unit(text, spans))
    if len(feature) != len(spans) or set(feature) != set(range(len(set(feature)))):
        raise BadInput(f"unit returns {feature[:8]} for {len(spans)} pieces; return one number each, from 0, no gaps")
    return Pieces(text, spans, feature, hide)


def lime_text(
    predict: Callable[[list[str]], Any],
    texts: str | Sequence[str],
    y: Tensor | Sequence[Any] | int | None = None,
    *,
    split: Split = words,
    hide: Hide = delete,
    unit: Callable[[str, Sequence[Span]], list[int]] = types,
    sampler: Sampler = balanced,
    samples: int = 1000,
    kernel: Kernel = KERNEL,
    ridge: float | None = None,
    prior: Tensor | Prior | None = None,
    until: UntilStable | None = None,
    link: Link = identity,
    keep_samples: bool = False,
    batch: int = BATCH,
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Explain what a function answers about texts by linear surrogates over their pieces.

    Args:
        predict: Function from a list of strings to outputs, (n, K), such as `predict_proba` of a pipeline; with
            `hide=attention_mask(tokenizer)` of tokens by name, such as a transformer.
        texts: One text, or several; an empty one has no features.
        y: Outputs to explain, (B,) or (B, T), or one for all. None: the largest.
        split: Function from a text to the places of its pieces: `words`, `characters`, `sentences`,
            `offsets(tokenizer)`.
        hide: `delete`, `mask_token("[MASK]")`, or `attention_mask(tokenizer)`.
        unit: `types` hides equal pieces together, `positions` each one separately.
        sampler: Function that draws masks.
        samples: Masks per text; not used with `until`.
        kernel: Weight of a mask.
        ridge: Penalty on the squared weights per unit of sample weight. None: 0 where the samples are at least
            5 (M + 1) for M features, else 0.001, like LIME's; fewer than M + 2 samples need a ridge above 0 of yours.
        prior: Expected weights, (M,) or (B, M), with `ridge` as precision, or a `Prior` with both. None: 0.
        until: `until_stable(...)`, a rule that decides the number of masks. None: `samples`.
        link: Function of the outputs before the fit: `identity` or `log_odds`.
        keep_samples: True: the result holds the masks and answers.
        batch: Texts a call; halved where memory runs out.
        generator: Base seed; not advanced.

    Returns:
        `Surrogates`. Cost: at most `samples` + 1 evaluations per text; equal strings are evaluated once.

    Raises:
        BadInput: An argument or the function's answer is invalid, or the samples do not identify the weights.

    Example:
        >>> found = lime_text(lambda texts: [[len(t), "bad" in t] for t in texts], "not bad at all", 1)
        >>> found.as_list(top=1)[0][0]
        'bad'
    """
    began = time.perf_counter()
    pieces = [pieces_of(text, split, unit, hide) for text in _listed(texts, batch, link)]
    predict = of_tokens(predict) if isinstance(hide, AttentionMask) else predict
    outputs = whole_outputs(predict, pieces, batch)
    labels = labels_of(y, outputs)
    prediction = link(outputs).gather(1, labels)
    drawn = stopping(samples, until)
    settings = Settings(sampler, drawn, kernel, shrinking(ridge, prior), rng.base_seed(generator))
    asked = [1] * len(pieces)

    def answers(i: int, masks: Tensor) -> Tensor:
        distinct, place = _distinct(pieces[i].copies(masks))
        asked[i] += len(distinct)
        return link(outputs_of(predict, distinct, batch))[:, labels[i]][place]

    parts = solve_each(answers, [piece.features for piece in pieces], settings, prediction)
    result = assembled(
        (parts, prediction, labels, settings),
        **_described(pieces),
        baseline=setting_name(hide),
        score="output",
        link=setting_name(link),
        outputs=outputs,
        calls=torch.tensor(asked),
        seconds=time.perf_counter() - began,
        **samples_of(parts, keep_samples),
    )
    return warn_if_few(result)


def _described(pieces: list[Pieces]) -> dict[str, Any]:
    """Return the kind, names, texts and places of features for the result."""
    return {
        "kind": Kind.TEXT,
        "names": tuple(piece.names for piece in pieces),
        "content": tuple(piece.text for piece in pieces),
        "spans": tuple(piece.marks for piece in pieces),
    }


def whole_outputs(predict: Callable[[Any], Any], pieces: list[Pieces], batch: int) -> Tensor:
    """Return the outputs for whole texts, (B, K); tokenised ones, whose lengths differ, one by one."""
    if not isinstance(pieces[0].hide, AttentionMask):
        return outputs_of(predict, [piece.text for piece in pieces], batch)
    every = [piece.copies(torch.ones(1, piece.features, dtype=torch.bool)) for piece in pieces]
    return torch.cat([outputs_of(predict, own, batch) for own in every])


def _listed(texts: Any, batch: int, link: Link) -> list[str]:
    """Return texts as a list; refuse an empty one, an invalid batch, and a link that is no function."""
    check_rows(batch, "texts", link)
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, bytearray)):
        raise BadInput(f"texts is a {type(texts).__name__}; give a string, or a list of them")
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise BadInput("there is no text to explain")
    return listed


def _distinct(texts: list[str] | EncodedCopies) -> tuple[list[str] | EncodedCopies, Tensor]:
    """Return the distinct texts, and the index of each text among them."""
    if isinstance(texts, EncodedCopies):
        return texts.distinct()
    place: dict[str, int] = {}
    at = [place.setdefault(text, len(place)) for text in texts]
    return list(place), torch.tensor(at, dtype=torch.int64)
