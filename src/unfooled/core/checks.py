"""Checks of arguments; each error is one sentence: the requirement, the value found, the remedy.

Every public function checks its arguments once, at entry. Inside `trusted()` these checks do nothing, so that
a function that has checked its arguments can call other public functions on them. A user's function is called inside
`untrusted()`, because the arguments that it passes on are unchecked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import NO_GRADIENT, BadInput, OneOutput, option
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.modes import in_training
from unfooled.core.model.precision import widened
from unfooled.core.samples import extent, non_finite_rows
from unfooled.core.threats import UNIT, Box, Threat

ONE_OUTPUT = (
    "the model has one output; two classes need two logits: unfooled.two_class(model, x, y), or cat([-z, z], 1) / 2 of "
    "a single logit z"
)
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """Skip the checks of inputs, labels, threats, modes and outputs until the context ends.

    For code that has checked its own arguments and one output of the model. Not for the body of a generator: its
    consumer would run inside the context too.
    """
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


@contextmanager
def untrusted() -> Iterator[None]:
    """Check arguments again until the context ends, even inside `trusted()`; for calls of a user's own function."""
    token = _TRUSTED.set(False)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Return whether the code runs inside `trusted()`: a caller has already checked the arguments."""
    return _TRUSTED.get()


def check_inputs(x: Tensor, y: Tensor | None = None, *, box: Box = UNIT, slack: float = 1e-6) -> None:
    """Refuse inputs that are empty, not floating point, NaN or outside the box, and labels that do not fit them.

    Args:
        x: Inputs, (B, *D).
        y: Labels, (B,) int64. None: not checked.
        box: Interval that every value must lie in.
        slack: Distance outside the box that still counts as rounding.

    Raises:
        BadInput: x or y is invalid; the message gives the range or shape found.
    """
    if not isinstance(x, Tensor):
        raise BadInput(f"x is a {type(x).__name__}; convert it to a torch tensor, (B, *D), floating point in [0, 1]")
    if x.ndim < 2:
        raise BadInput(f"x has shape {tuple(x.shape)}; a batch has at least two dimensions, (B, *D); try x[None]")
    if len(x) == 0 or x[0].numel() == 0:
        raise BadInput(f"x has shape {tuple(x.shape)}: there are no samples or no values in it")
    if not x.is_floating_point():
        raise BadInput(f"x has dtype {x.dtype}; convert it to floating point in [0, 1], for bytes: x.float() / 255")
    low, high = extent(x)
    if not (torch.isfinite(torch.tensor([low, high])).all()):
        bad = non_finite_rows(x)
        raise BadInput(f"x holds NaN or infinite values in {len(bad)} samples, the first is sample {int(bad[0])}")
    if low < box.low - slack or high > box.high + slack:
        off = max(box.low - low, high - box.high)
        raise BadInput(
            f"x lies in [{low:.4g}, {high:.4g}], outside [{box.low:g}, {box.high:g}] by {off:.2g}; scale it there and "
            f"give the normalisation to the model instead: {option('mean')} and {option('std')}, or Classifier(module, "
            "mean=..., std=...)"
        )
    if y is not None:
        check_labels(y, len(x))


def check_labels(y: Tensor, n: int, classes: int | None = None) -> None:
    """Refuse labels that are not (n,) int64 in [0, classes)."""
    if not isinstance(y, Tensor) or y.shape != (n,):
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise BadInput(f"y is {given}; there must be one label per sample, shape ({n},)")
    if y.dtype != torch.int64:
        raise BadInput(f"y has dtype {y.dtype}; labels are int64, try y.long()")
    if int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes):
        span = f"[{int(y.min())}, {int(y.max())}]"
        known = f", the model has {classes} classes (0 to {classes - 1})" if classes is not None else ""
        raise BadInput(f"labels lie in {span}{known}; check the class order, {option('labels')}")


def check_logits(logits: Any, n: int) -> Tensor:
    """Refuse outputs that are not (n, K) floating point logits with K >= 2; NaN and infinity are allowed."""
    if not isinstance(logits, Tensor):
        raise BadInput(f"the model returned a {type(logits).__name__}; it must return logits, (B, K), or hold .logits")
    if logits.shape == (n,) and logits.is_floating_point():
        raise OneOutput(ONE_OUTPUT)
    if logits.ndim != 2 or len(logits) != n:
        raise BadInput(f"the model returned shape {tuple(logits.shape)} for {n} samples; logits are (B, K)")
    if logits.shape[1] < 2:
        raise OneOutput(ONE_OUTPUT)
    if logits.layout is not torch.strided:
        raise BadInput(f"the model returned a tensor of layout {logits.layout}; return logits.to_dense()")
    if not logits.is_floating_point():
        raise BadInput(f"the model returned dtype {logits.dtype}; logits are floating point")
    return logits


def check_differentiable(logits: Tensor) -> None:
    """Refuse a model whose output does not depend on its input for autograd."""
    if not logits.requires_grad:
        raise BadInput(NO_GRADIENT)


def input_gradient(value: Tensor, leaf: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return the gradient of the sum of `value` with respect to the input `leaf`.

    Raises:
        BadInput: The value does not depend on the input for autograd.
    """
    if value.requires_grad:
        (g,) = torch.autograd.grad(value.sum(), leaf, retain_graph=retain_graph, allow_unused=True)
        if g is not None:
            return g
    raise BadInput(NO_GRADIENT)


def check_mode(model: Any) -> None:
    """Refuse a model in training mode (dropout, batch normalisation), or with weights that allow no gradients."""
    if is_trusted():
        return
    weights = (weight for root in modules_of(model) for weight in root.named_parameters())
    frozen = next((name for name, weight in weights if weight.is_inference()), None)
    if frozen is not None:
        raise BadInput(
            f"the weight {frozen} was made inside torch.inference_mode, which rules out gradients; make the model "
            "inside torch.no_grad instead"
        )
    active = in_training(model)
    if active:
        others = f" and {len(active) - 1} more" if len(active) > 1 else ""
        raise BadInput(f"the model is in training mode: {active[0]}{others}; call model.eval() first")


def check_run(seed: Any, batch: Any = None) -> None:
    """Refuse a seed that is not an integer in [0, 2**63), and a batch below 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise BadInput(f"seed is {seed!r}; it must be a whole number, at least 0 and below 2**63")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise BadInput(f"batch is {batch!r}; it must be a whole number of samples, at least 1")


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None, because: str = "") -> None:
    """Refuse anything but a whole number from `least` to `most`; `because` ends the sentence."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise BadInput(f"{name} is {value!r}; it must be a whole number, at least {least}{because}")
    if most is not None and not least <= value <= most:
        raise BadInput(f"{name} is {value}; it must be in {least} to {most}{because}")
    if value < least:
        raise BadInput(f"{name} is {value}; it must be at least {least}{because}")


def check_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, most: float = math.inf
) -> None:
    """Refuse anything but a finite number, or a tensor of one, at least `least` or above `above`, at most `most`."""
    limit = "" if least is None else f", at least {least:g}"
    limit += "" if above is None else f", above {above:g}"
    limit += f", at most {most:g}" if most < math.inf else ""
    is_one = isinstance(value, (int, float, np.number)) or (isinstance(value, Tensor) and not value.ndim)
    if isinstance(value, bool) or not is_one:
        raise BadInput(f"{name} is {value!r}; it must be a number{limit}")
    try:
        size = float(value)
    except (OverflowError, TypeError):  # too large, or complex
        size = math.nan
    low = (least is not None and size < least) or (above is not None and size <= above)
    if not math.isfinite(size) or low or size > most:
        raise BadInput(f"{name} is {value}; it must be a finite number{limit}")


def check_threat(x: Tensor, threat: Threat) -> None:
    """Refuse anything but a `Threat`, and a per-sample eps of another length than the batch."""
    if not isinstance(threat, Threat):
        raise BadInput(f"threat is a {type(threat).__name__}; write Linf(8 / 255), L2(0.5), L1(12) or L0(10)")
    if isinstance(threat.eps, Tensor) and threat.eps.ndim and len(threat.eps) != len(x):
        raise BadInput(f"eps has {len(threat.eps)} values for {len(x)} samples; give one number or one per sample")


def check_attack(x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Check the inputs of an attack inside a threat, and return x, half precision widened to float32.

    The model's outputs are checked at its first call.
    """
    if is_trusted():
        return x
    check_inputs(x, y, box=getattr(threat, "box", UNIT))
    check_threat(x, threat)
    return widened(x) if isinstance(x, Tensor) else x  # streamed samples are float32
