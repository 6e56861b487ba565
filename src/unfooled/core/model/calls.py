"""Calls of a model that leave its input unchanged, and a record of what the first call shows about the model.

Habits of a model, such as writing into its input, are stored outside the model and deleted together with it.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput, Unrecordable
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.precision import is_about_types, kinds_to_try, name_of_kind, wants, weight_kinds
from unfooled.core.types import Model

WRITES = (
    "The model writes into its input; it was given copies. Write x = (x - mean) / std in place of x.sub_(mean), or "
    "x = x.clone() first in its forward."
)

_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@dataclass
class Habits:
    """Facts known about a model.

    Attributes:
        writes: True if it writes into its input. None: not called yet.
        logits: Position of the logits in its output, such as "[1]". Empty: not known yet.
        enters: Type that its input is turned into. None: it takes the input as it is.
        calls: Number of calls so far.
        differentiated: True if it was called with an input that requires a gradient.
        returns: Half precision in which it returned logits. None: none.
        notes: Sentences about the model for the user.
    """

    writes: bool | None = None
    logits: str = ""
    enters: torch.dtype | None = None
    calls: int = 0
    differentiated: bool = False
    returns: torch.dtype | None = None
    notes: list[str] = field(default_factory=list)


_KNOWN: dict[int, tuple[weakref.ref[Any], Habits]] = {}


def bare(model: Any) -> Any:
    """Return the model behind transparent wrappers, which take and return what it does."""
    while getattr(type(model), "transparent", False):
        model = model.__dict__["model"]
    return model


def habits_of(model: Any) -> Habits | None:
    """Return the habits of a model, which callers may update; None for a model that takes no weak reference."""
    model = bare(model)
    entry = _KNOWN.get(id(model))
    return entry[1] if entry is not None and entry[0]() is model else _remember(model, Habits())


def copied(model: Any) -> Any:
    """Return a deep copy of a model that shares its habits."""
    twin = copy.deepcopy(model)
    share_habits(model, twin)
    return twin


def share_habits(model: Any, twin: Any) -> None:
    """Give a deep copy of a model the same `Habits` objects, so that both know what either call shows."""
    for original, copied_module in zip(_members(model), _members(twin), strict=False):
        habits = habits_of(original)
        if copied_module is not original and habits is not None:
            _remember(copied_module, habits)


def _members(model: Any) -> list[Any]:
    """Return a model and its modules."""
    return [bare(model), *(module for root in modules_of(model) for module in root.modules())]


def _remember(model: Any, habits: Habits) -> Habits | None:
    """Store habits until the model is deleted, and return them; None for a model that takes no weak reference."""
    key = id(model)
    try:
        _KNOWN[key] = (weakref.ref(model, lambda _: _KNOWN.pop(key, None)), habits)
    except TypeError:
        return None
    return habits


def notice(model: Any, sentence: str) -> None:
    """Report a sentence about a model once: as a Python warning, or to the `noticing` context around the call."""
    habits = habits_of(model)
    if habits is not None and sentence not in habits.notes:
        habits.notes.append(sentence)
    notes = _NOTES.get()
    if notes is None:
        warnings.warn(sentence, UserWarning, stacklevel=6)
    elif sentence not in notes:
        notes.append(sentence)


def notice_once(model: Any, sentence: str) -> None:
    """Report a sentence about a model as `notice` does, unless it was reported before."""
    habits = habits_of(model)
    if habits is None or sentence not in habits.notes:
        notice(model, sentence)


def remind(habits: Habits) -> None:
    """Add the sentences about a model to the `noticing` context around the call, if there is one."""
    notes = _NOTES.get()
    if notes is not None and habits.notes:
        notes.extend(sentence for sentence in habits.notes if sentence not in notes)


def half_of(model: Any) -> torch.dtype | None:
    """Return the half precision of a model's weights, or of the logits it returned; the coarser of two. None: none."""
    known = [habits_of(part) for part in (model, *modules_of(model))]
    kinds = {habits.returns for habits in known if habits is not None} | set(weight_kinds(model))
    return next((kind for kind in (torch.bfloat16, torch.float16) if kind in kinds), None)


def notes_on(model: Any, *, beyond: Sequence[str] = ()) -> list[str]:
    """Return the sentences that were reported about a model, without those given."""
    habits = habits_of(model)
    return [] if habits is None else [sentence for sentence in habits.notes if sentence not in beyond]


@contextmanager
def noticing() -> Iterator[list[str]]:
    """Collect the sentences about models in a list instead of issuing warnings; yield the list."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


class ModelFails(BadInput):
    """Report of an error inside the model; the original error is its `__cause__`."""


def run(model: Model, x: Tensor) -> Any:
    """Call the model with a copy of x, so that x stays as it is whenever and however the model writes.

    Writing is reported once. It is seen by autograd's count of writes at every call, and by the values, since writes
    through `.data` or an array are not counted, at some: see `_compares`. A model with
    weights in half precision gets the copy in it, see `in_its_precision`.
    """
    habits = habits_of(model)
    if habits is not None and habits.writes is not None:
        remind(habits)

    def call(kind: torch.dtype | None) -> tuple[Any, Tensor, bool]:
        given = x.clone() if kind in (None, x.dtype) else x.to(kind)
        before = _version(given)
        return model(given), given, _version(given) != before

    try:
        output, given, writes = in_its_precision(model, call, x.dtype)
    except RuntimeError as error:
        _say_types(model, x, error)
        raise
    if habits is None or not habits.writes:
        if (habits is None or _compares(habits, x)) and not writes:
            writes = not _equal(given, x.to(given.dtype))
        if habits is not None:
            habits.writes = writes
        if writes:
            notice(model, WRITES)
    return output


def _compares(habits: Habits, x: Tensor) -> bool:
    """Count a call, and return whether the input is compared with its copy after it.

    That is so at the calls 1, 2, 4, 8, ... and at the first for a gradient: rarely enough to cost nothing, and also at
    points of an attack, where a model that rounds its input to a grid writes, as it does not at clean samples.
    """
    habits.calls += 1
    first = x.requires_grad and not habits.differentiated
    habits.differentiated |= x.requires_grad
    return first or habits.calls & (habits.calls - 1) == 0


def enter(model: Any, x: Tensor) -> Any:
    """Call the model with x itself, or with x in the precision of its weights, see `in_its_precision`."""
    try:
        return in_its_precision(model, lambda kind: model(x if kind is None else x.to(kind)), x.dtype)
    except RuntimeError as error:
        _say_types(model, x, error)
        raise


def in_its_precision(model: Any, call: Callable[[torch.dtype | None], Any], given: torch.dtype) -> Any:
    """Call a model with its input in the precision of its weights, where it refuses another.

    The door of networks in half precision: x, and all that is computed from the logits, stay in float32. The input is
    offered as it is first, so that a model which casts it by itself, or only computes in half inside, gets it so.

    Args:
        model: Any callable.
        call: Calls it with its input as the type given; None: as it is.
        given: Type of the input.
    """
    if torch.compiler.is_compiling():
        return call(None)
    habits = habits_of(model)
    if habits is not None and habits.enters is not None and wants(model, habits.enters):
        return call(habits.enters)
    try:
        return call(None)
    except BadInput:
        raise
    except Exception as error:
        for kind in kinds_to_try(model, given, error):
            with suppress(Exception):
                output = call(kind)
                if habits is not None:
                    habits.enters = kind
                return output
        raise


def run_checked(model: Model, x: Tensor) -> Any:
    """Call the model, and turn an exception inside it into `ModelFails`.

    Raises:
        ModelFails: The model fails; the message holds its error in one line. Exhausted memory is raised unchanged.
    """
    try:
        return run(model, x)
    except (BadInput, MemoryError, Unrecordable):
        raise
    except (Exception, SystemExit) as error:
        if "out of memory" in str(error).lower():
            raise
        raise _failure(model, x, error, advice_for(model, x, error)) from error


def _failure(model: Model, x: Tensor, error: BaseException, advice: str) -> ModelFails:
    """Return the report of an error inside a model."""
    reason = (str(error).strip().splitlines() or [""])[0]
    shape, kind = tuple(x.shape[1:]), type(error).__name__
    return ModelFails(
        f"the model fails on samples of shape {shape}, {x.dtype}, with {kind}: {reason}{advice and '; ' + advice}"
    )


def _say_types(model: Model, x: Tensor, error: RuntimeError) -> None:
    """Raise `ModelFails` with advice for an error about types of numbers that do not agree, also with gradients.

    An error that comes with gradients only is left as it is: the checks of gradients report it.
    """
    if torch.compiler.is_compiling() or not is_about_types(error):
        return
    if (advice := advice_for(model, x, error)) and not _works(model, x):
        raise _failure(model, x, error, advice) from error


def _works(model: Model, x: Tensor) -> bool:
    """Return whether a model takes samples without gradients."""
    try:
        with torch.no_grad():
            model(x.detach().clone())
    except Exception:
        return False
    return True


def advice_for(model: Model, x: Tensor, error: BaseException | None) -> str:
    """Return advice on a model that fails because of its weights' dtype, its signature or the number of samples.

    It is empty for other causes.
    """
    text = str(error)
    if isinstance(error, TypeError) and "required" in text and "argument" in text:
        names = text.partition(":")[2].strip()
        return (
            f"it needs more inputs than x, {names}; wrap it in a function of x: lambda x: net(x, other), or, where "
            "they differ from sample to sample, in unfooled.bind"
        )
    if not is_about_types(error):
        return _about_number(model, x, error)
    for kind in {torch.float64, torch.float32, torch.bfloat16, torch.float16} - {x.dtype}:
        with suppress(Exception), torch.no_grad():
            model(x.to(kind))
            convert = "them: x.float()" if kind == torch.float32 else "it: model.float()"
            return f"it has {name_of_kind(kind)} weights, the samples are {name_of_kind(x.dtype)}; convert {convert}"
    kinds = sorted({name_of_kind(kind) for kind in weight_kinds(model)})
    if len(kinds) < 2:
        return ""
    return f"its weights are {' and '.join(kinds)}; cast between its parts, or convert it: model.float()"


def _about_number(model: Model, x: Tensor, error: BaseException | None) -> str:
    """Return advice on a model that answers a sample, and fails alike on copies of it; empty for any other."""
    if len(x) < 2 or error is None:
        return ""
    asked, one = bare(model), x[:1].detach().clone()
    copies = one.repeat(len(x), *[1] * (x.ndim - 1))
    with torch.no_grad():
        try:
            asked(one)
        except (Exception, SystemExit):
            return ""
        try:
            asked(copies)
        except (Exception, SystemExit) as again:
            if (type(again), str(again)) == (type(error), str(error)):
                return f"it answers one sample, and not {len(x)} at once; let its forward split them, by x.split(1)"
    return ""


def _version(x: Tensor) -> int:
    """Return how often a tensor was written to; 0 in inference mode, where torch does not count."""
    return 0 if x.is_inference() else x._version


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN included."""
    a, b = a.detach(), b.detach()
    try:
        return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
    except RuntimeError:  # inside torch.func, where values cannot be looked at
        return True
