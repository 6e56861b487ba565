"""Logits in the output of a model: unwrapped, and identified where the model returned several tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import comb
from typing import Any, NoReturn

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.calls import habits_of, notice, run
from unfooled.core.model.precision import HALF, widened
from unfooled.core.types import Model

_LABELS: ContextVar[Tensor | None] = ContextVar("labels", default=None)

SIGNIFICANCE = 0.01
"""An agreement with the labels counts if guessing reaches it with at most this probability."""


@contextmanager
def labelled(y: Tensor | None) -> Iterator[None]:
    """Use these labels, (B,), to identify the logits among several outputs, until the context ends."""
    token = _LABELS.set(y)
    try:
        yield
    finally:
        _LABELS.reset(token)


def logits_from(model: Model, x: Tensor) -> Tensor:
    """Call the model, with its input left unchanged, and unwrap the logits."""
    return logits_of(run(model, x), model)


def logits_of(output: Any, owner: Any = None) -> Tensor:
    """Return the logits in the output of a model, those in half precision in float32; see `entry_of`."""
    logits = entry_of(output, owner)
    habits = habits_of(owner) if logits.dtype in HALF and owner is not None else None
    if habits is not None:
        habits.returns = logits.dtype
    return widened(logits)


def entry_of(output: Any, owner: Any = None) -> Tensor:
    """Return the tensor in the output of a model that holds the logits.

    The output is a tensor, an object with `.logits`, a dict with "logits", or a tuple, list, dict or object with one
    entry that has the form of logits. Among several such entries, the one that agrees with the labels is taken (see
    `labelled`); it is remembered for the owner and reported once.

    Args:
        output: Return value of the model.
        owner: The model. None: nothing is remembered.

    Raises:
        BadInput: No entry, or more than one, can be the logits; the message lists them and gives the line to write.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = dict(_parts(output))
    if not parts:
        raise BadInput(f"the model returned a {type(output).__name__}; it must return logits, (B, K), or hold .logits")
    habits = habits_of(owner)
    key = habits.logits if habits is not None else ""
    if key not in parts:
        key, equal = _choice(output, parts, _known_classes(owner))
        if habits is not None:
            habits.logits = key
        if equal or key != next(iter(parts)):
            why = f"{' and '.join(f'output{other}' for other in equal)} give the same probabilities; " if equal else ""
            notice(owner, f"The model returned {_listed(parts)}; {why}output{key} was taken for the logits.")
    return parts[key]


def _parts(output: Any, path: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested output with the expression that reaches each: `[1]`, `['head']`, `.head`."""
    if isinstance(output, Tensor):
        yield path, output
    elif depth:
        if isinstance(output, dict):
            inner = [(f"[{key!r}]", value) for key, value in output.items()]
        elif isinstance(output, (tuple, list)):
            inner = [(f"[{k}]", value) for k, value in enumerate(output)]
        else:
            inner = [(f".{name}", getattr(output, name, None)) for name in _attributes(output)]
        for word, value in inner:
            yield from _parts(value, path + word, depth - 1)


def _attributes(output: Any) -> list[str]:
    """Return the names of an object's attributes, those in slots included."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(output).__mro__]
    named = [name for names in slots for name in ([names] if isinstance(names, str) else names)]
    return [*named, *getattr(output, "__dict__", {})]


def _known_classes(owner: Any) -> int | None:
    """Return the number of classes that a model states: Hugging Face's `config.num_labels`, or `num_classes`."""
    stated = getattr(getattr(owner, "config", None), "num_labels", None)
    stated = stated if stated is not None else getattr(owner, "num_classes", None)
    return stated if isinstance(stated, int) else None


def _choice(output: Any, parts: dict[str, Tensor], classes: int | None) -> tuple[str, list[str]]:
    """Return the key of the logits among the parts of an output, and the keys of equal ones that it was taken from."""
    y = _LABELS.get()
    fit = {key: t for key, t in parts.items() if t.ndim == 2 and t.shape[1] > 1 and t.is_floating_point()}
    if y is not None and (not len(y) or not any(len(t) == len(y) for t in fit.values())):
        y = None  # labels of other samples
    if y is not None:
        known = {key: t for key, t in fit.items() if len(t) == len(y) and t.shape[1] > int(y.max())}
        fit = known or fit
    first = next(iter(parts))
    leads = isinstance(output, (tuple, list)) and first == "[0]"
    if leads and (list(fit) == [first] or len(parts) == 1):  # the only candidate; `check_logits` reports its faults
        return first, []
    if not fit:
        _refused(output, parts, "none of them has the form of logits")
    declared = [key for key, t in fit.items() if t.shape[1] == classes]
    if len(declared) == 1:
        return declared[0], []
    if y is None:
        same = _same(fit) if len(fit) > 1 else None
        return (same, list(fit)) if same else _refused(output, parts, "there are no labels to tell by", fit)
    shares = {key: _agreement(t, y) for key, t in fit.items()}
    best = max(shares.values())
    agreeing = {key: fit[key] for key, share in shares.items() if share > 0 and share >= best / 2}
    if len(agreeing) == 1:
        return next(iter(agreeing)), []
    reason = f"{len(agreeing)} agree with the labels" if agreeing else "none agrees with the labels better than chance"
    same = _same(agreeing) if agreeing else None
    return (same, list(agreeing)) if same else _refused(output, parts, reason, agreeing or fit)


def _agreement(logits: Tensor, y: Tensor) -> float:
    """Return the share of labels that the largest entry hits; 0 where chance would do as well."""
    n, chance = min(len(y), 256), 1 / logits.shape[1]
    hits = int((logits[:n].detach().argmax(1) == y[:n].to(logits.device)).sum())
    tail = sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(hits, n + 1))
    return hits / n if tail <= SIGNIFICANCE or (n < 8 and 2 * hits > n) else 0.0


def _same(fit: dict[str, Tensor]) -> str | None:
    """Return the key of the logits if all entries have the same softmax, as logits and probabilities do; else None."""
    forms = {key: t.detach().float() for key, t in fit.items()}
    probabilities = {key for key, t in forms.items() if bool((t >= 0).all() and ((t.sum(1) - 1).abs() < 1e-3).all())}
    softmaxed = [t if key in probabilities else t.softmax(1) for key, t in forms.items()]
    first = softmaxed[0]
    if any(t.shape != first.shape or not torch.allclose(t, first, atol=1e-5) for t in softmaxed[1:]):
        return None
    return next((key for key in fit if key not in probabilities), next(iter(fit)))


def _listed(parts: dict[str, Tensor]) -> str:
    """Return the parts of an output in words."""
    shown = [f"output{key} {tuple(t.shape)}" for key, t in list(parts.items())[:8]]
    return ", ".join(shown) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")


def _refused(output: Any, parts: dict[str, Tensor], why: str, fit: dict[str, Tensor] | None = None) -> NoReturn:
    """Refuse an output, with the line to write."""
    key = list(fit or parts)[-1]
    raise BadInput(
        f"the model returned a {type(output).__name__}; it must return logits, (B, K), or hold .logits; which of "
        f"{_listed(parts)} they are is not clear, {why}; return one, such as model = lambda x: net(x){key}"
    )
