"""Texts for transformers, whose pieces are hidden by the attention mask: the model gets tokens instead of strings.

The tokens stay in their places; those that overlap a hidden piece get the attention 0. Special tokens, and what belongs
to no piece, such as punctuation between words, are always shown. All copies of a text share its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput

IDS, ATTENTION, OFFSETS = "input_ids", "attention_mask", "offset_mapping"


@dataclass(frozen=True, eq=False)
class EncodedCopies:
    """Copies of a tokenised text that differ in their attention masks; a slice of them is what the model gets.

    Attributes:
        tokens: Tensors of the text by name, such as `input_ids`, (L,).
        attention: Attention mask of each copy, (S, L) int64.
    """

    tokens: Mapping[str, Tensor]
    attention: Tensor

    def __len__(self) -> int:
        """Return the number of copies."""
        return len(self.attention)

    def __getitem__(self, part: slice) -> dict[str, Tensor]:
        """Return some copies as tensors by name, (n, L)."""
        attention = self.attention[part]
        tokens = {name: t.expand(len(attention), *t.shape) for name, t in self.tokens.items()}
        return tokens | {ATTENTION: attention}

    def distinct(self) -> tuple[EncodedCopies, Tensor]:
        """Return the copies that differ, and the index of each copy among them."""
        rows, place = self.attention.unique(dim=0, return_inverse=True)
        return EncodedCopies(self.tokens, rows), place


@dataclass(frozen=True, eq=False)
class AttentionMask:
    """Function that hides pieces of a text by the attention mask of its tokens; see `attention_mask`.

    Attributes:
        tokenizer: Fast tokeniser.
    """

    tokenizer: Any

    def __call__(self, text: str, hidden: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Return the tokens of a text by name, (L,), with the hidden pieces masked."""
        tokens, places = self.encoded(text)
        shown = [not any(_overlap(place, piece) for piece in hidden) for place in places]
        return {**tokens, ATTENTION: tokens[ATTENTION] * torch.tensor(shown)}

    def copies(
        self, text: str, spans: Sequence[tuple[int, int]], feature: Sequence[int], masks: Tensor
    ) -> EncodedCopies:
        """Return a copy of the text for each mask, (S, M).

        Args:
            text: The text.
            spans: Places of its pieces.
            feature: Feature index of each piece.
            masks: 1 where a feature is shown.
        """
        tokens, places = self.encoded(text)
        belongs = torch.zeros(masks.shape[1], len(places), dtype=torch.int64)
        for piece, j in zip(spans, feature, strict=True):
            for k, place in enumerate(places):
                belongs[j, k] |= _overlap(place, piece)
        hidden = (~masks).to(torch.int64) @ belongs
        own = {name: t for name, t in tokens.items() if name != ATTENTION}
        return EncodedCopies(own, tokens[ATTENTION] * (hidden == 0))

    def encoded(self, text: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """Return the tokens of a text by name, (L,), and the place of each; (0, 0) for special ones.

        Raises:
            BadInput: The tokeniser returns no offsets, or no tokens.
        """
        try:
            found = dict(self.tokenizer(text, return_offsets_mapping=True, truncation=True))
            places = [(int(start), int(end)) for start, end in found.pop(OFFSETS)]
            tokens = {name: torch.as_tensor(values) for name, values in found.items()}
        except (NotImplementedError, TypeError, ValueError, KeyError) as error:
            raise BadInput(
                "the tokeniser returns no tokens with offsets; give a fast tokeniser of Hugging Face"
            ) from error
        ids = tokens.get(IDS)
        if ids is None or ids.shape != (len(places),) or not places:
            raise BadInput(f"the tokeniser returns {sorted(tokens)} for one text; return {IDS} and {ATTENTION}, (L,)")
        tokens.setdefault(ATTENTION, torch.ones_like(ids))
        return tokens, places


def attention_mask(tokenizer: Any) -> AttentionMask:
    """Return a function that hides pieces of a text by the attention mask of its tokens.

    The function explained gets a dictionary of tensors, (n, L), with `input_ids` and `attention_mask`, in place of a
    list of strings; a module gets them as arguments, on its device.

    Args:
        tokenizer: Fast Hugging Face tokeniser, or a function of a text that returns `input_ids`, `attention_mask` and
            `offset_mapping`.
    """
    if not callable(tokenizer):
        raise BadInput(f"the tokeniser is a {type(tokenizer).__name__}; give a fast tokeniser of Hugging Face")
    return AttentionMask(tokenizer)


def of_tokens(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors by name; a module gets them as arguments, on its device."""
    if not isinstance(predict, nn.Module):
        return predict

    def answer(tokens: Mapping[str, Tensor]) -> Any:
        place = next((p.device for p in predict.parameters()), torch.device("cpu"))
        return predict(**{name: t.to(place) for name, t in tokens.items()})

    return answer


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether two places have a character in common."""
    return max(a[0], b[0]) < min(a[1], b[1])
