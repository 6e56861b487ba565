"""Calls of a model that leave its input as it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.habits import habits_of, notice, remind
from unfooled.core.model.outputs import ModelFails, logits_of
from unfooled.core.types import Model

WRITES = (
    "The model writes into its input; it was given copies. Write x = (x - mean) / std in place of x.sub_(mean), or "
    "x = x.clone() first in its forward."
)


def run(model: Model, x: Tensor) -> Any:
    """Call the model; its input is left as it is.

    The first call gets a copy of x, which shows whether the model writes into it; if so, all later ones do.

    Raises:
        BadInput: the model writes at some calls alone, too late for a copy.
    """
    habits = habits_of(model)
    if habits is None or habits.writes is None:
        own = x.clone()
        before = _version(own)
        output = model(own)
        writes = _version(own) != before or not _equal(own, x)
        if habits is not None:
            habits.writes = writes
        if writes:
            notice(model, WRITES)
        return output
    remind(habits)
    if habits.writes:
        return model(x.clone())
    before = _version(x)
    try:
        output = model(x)
    except RuntimeError as error:  # autograd refuses it before anything is written
        if "in-place operation" not in str(error) or not x.requires_grad or not x.is_leaf or _version(x) != before:
            raise
        habits.writes = True
        notice(model, WRITES)
        return model(x.clone())
    if _version(x) != before:
        habits.writes = True
        raise BadInput("the model writes into its input, but not at its first call; write x = x.clone() in its forward")
    return output


def logits_from(model: Model, x: Tensor) -> Tensor:
    """Call the model, its input left as it is, and unwrap the logits."""
    return logits_of(run(model, x), model)


def answered(model: Model, x: Tensor) -> Any:
    """Call the model, and report an exception of its own as such.

    Raises:
        ModelFails: with the model's error in one line. Exhausted memory is raised as it is.
    """
    try:
        return run(model, x)
    except (BadInput, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if "out of memory" in str(error).lower():
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        shape, kind = tuple(x.shape[1:]), type(error).__name__
        advice = mend(model, x, error)
        raise ModelFails(
            f"the model fails on samples of shape {shape}, {x.dtype}, with {kind}: {reason}{advice and '; ' + advice}"
        ) from error


def mend(model: Model, x: Tensor, error: BaseException | None) -> str:
    """Return what to do about a model that fails, where its weights or its signature are the cause; else empty."""
    text = str(error)
    if isinstance(error, TypeError) and "required" in text and "argument" in text:
        names = text.partition(":")[2].strip()
        return f"it wants more inputs than x, {names}; wrap it in a function of x alone: lambda x: net(x, other)"
    kinds = {p.dtype for root in modules_of(model) for p in root.parameters() if p.is_floating_point()} - {x.dtype}
    for kind in sorted(kinds, key=str):
        with suppress(Exception), torch.no_grad():
            run(model, x.to(kind))
            kind_of = f"{str(kind).removeprefix('torch.')} weights"
            return f"it has {kind_of}, the samples are {str(x.dtype).removeprefix('torch.')}; convert it: model.float()"
    return ""


def _version(x: Tensor) -> int:
    """Return how often a tensor was written to; 0 where nobody counts (in inference mode)."""
    return 0 if x.is_inference() else x._version


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN included."""
    a, b = a.detach(), b.detach()
    try:
        return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
    except RuntimeError:  # inside torch.func, where values cannot be looked at
        return True
