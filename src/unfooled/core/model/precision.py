"""Precision at the door of a model: weights in half precision want their input in it; everything else is single."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unfooled.core.model.anatomy import modules_of

HALF = (torch.float16, torch.bfloat16)
"""Types with so few digits that points, distances and margins are not computed in them."""

_WORDS = "dtype|scalar type|input type|weight type|double|half|bfloat16|float(16|32|64)"


def widened(t: Tensor) -> Tensor:
    """Return a tensor of half precision in float32; any other as it is."""
    return t.float() if t.dtype in HALF else t


def weight_kinds(model: Any) -> Iterator[torch.dtype]:
    """Yield the type of each floating point weight that a callable uses."""
    return (w.dtype for root in modules_of(model) for w in root.parameters() if w.is_floating_point())


def wants(model: Any, kind: torch.dtype) -> bool:
    """Return whether a model that took inputs of a type may still do so: it uses weights of that type, or none."""
    kinds = weight_kinds(model)
    first = next(kinds, kind)
    return first == kind or kind in kinds


def is_about_types(error: BaseException | None) -> bool:
    """Return whether an error is about types of numbers that do not agree."""
    return re.search(_WORDS, str(error), re.IGNORECASE) is not None


def kinds_to_try(model: Any, given: torch.dtype, error: Exception) -> list[torch.dtype]:
    """Return the types that a model which failed on an input may want instead, those of its weights first.

    Inputs are narrowed to half precision, or widened from it to float32; nothing is turned into float64 or out of it.

    Args:
        model: Any callable.
        given: Type of the input that it failed on.
        error: Its error.
    """
    kinds = list(dict.fromkeys(weight_kinds(model)))
    if not kinds and is_about_types(error):
        kinds = [torch.float32, *HALF]
    allowed = HALF if given not in HALF else (torch.float32, *HALF)
    return [kind for kind in kinds if kind in allowed and kind != given]


def name_of_kind(kind: torch.dtype) -> str:
    """Return the name of a type, such as "float16"."""
    return str(kind).removeprefix("torch.")
