"""Gradients of a score with respect to the input: the effect of a small change of each coordinate.

    saliency            d s(f(x), y) / dx                                    signed; take |.| as a channel reduction
    input_x_gradient    x * d s(f(x), y) / dx

The score s is the logit of y by default; `log_probability`, `lead` or any `(logits, y) -> (B,)` can replace it.

The model is used in the mode it is in. Put it in eval mode first, so that no sample depends on the others.

References:
    Simonyan et al., Deep inside convolutional networks, ICLR 2014 workshop, arXiv:1312.6034. Differs: signed, and no
    maximum over channels (`unfooled.distances.peak` is that reduction).
    Shrikumar et al., Not just a black box, 2016, arXiv:1605.01713 (input x gradient).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unfooled.core.checks import check_differentiable, check_inputs, check_mode, is_trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import behind, read_logits
from unfooled.core.losses import cross_entropy, margin, true_logit
from unfooled.core.model.calls import notice_once
from unfooled.core.model.precision import widened
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Box
from unfooled.core.types import Loss, Model

# Points outside the unit box (baselines, noise) are allowed; only NaN and infinity are refused.
_ANYWHERE = Box(-math.inf, math.inf)


def log_probability(logits: Tensor, y: Tensor) -> Tensor:
    """Return the log-probability of y, log softmax(z)_y, (B,)."""
    return -cross_entropy(logits, y)


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """Return the lead of y over the best other class, z_y - max_{j != y} z_j, (B,)."""
    return -margin(logits, y)


def saliency(model: Model, x: Tensor, y: Tensor, *, score: Loss = true_logit, create_graph: bool = False) -> Tensor:
    """Return the gradient of the score with respect to the input.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        score: Function `(logits, y) -> (B,)` to explain.
        create_graph: True: keep the graph, so that the attribution can be differentiated with respect to x and the
            parameters.

    Returns:
        Signed attribution in units of the score per unit of x, (B, *D). Cost: 1 forward, 1 backward per sample.

    Raises:
        BadInput: x, y or the model's output is invalid; the message names which.

    Example:
        >>> saliency(lambda x: torch.cat([2 * x, -x], 1), torch.zeros(1, 1), torch.tensor([0]))
        tensor([[2.]])
    """
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        z = entry(x, create_graph)
        return score_gradient(model, z, y, score, create_graph)


def input_x_gradient(
    model: Model, x: Tensor, y: Tensor, *, score: Loss = true_logit, create_graph: bool = False
) -> Tensor:
    """Return the input times its gradient, x * `saliency`, in units of the score. Arguments as for `saliency`."""
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        z = entry(x, create_graph)
        attribution = z * score_gradient(model, z, y, score, create_graph)
        return attribution if create_graph else attribution.detach()


@contextmanager
def differentiating() -> Iterator[None]:
    """Enable gradients, also inside the caller's no_grad or inference_mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def prepared(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Check model, x and y, and return them for use in autograd: copied if created in inference mode, half x widened.

    A model in training mode is refused, since its output depends on the batch and the call would change its statistics.
    With `create_graph` it is allowed, for training losses that explain the model in training.
    """
    if y is None:
        raise BadInput("y is None; give the classes to explain, (B,) int64, such as model(x).argmax(1)")
    if not is_trusted():
        if not create_graph:
            check_mode(model)
        check_inputs(x, y, box=_ANYWHERE)
        x = widened(x)
    return (x.clone() if x.is_inference() else x), (y.clone() if y.is_inference() else y)


def entry(x: Tensor, create_graph: bool) -> Tensor:
    """Return the point at which a gradient is taken: a copy of x, with x's graph if `create_graph`, else a leaf."""
    return x.clone() if create_graph and x.requires_grad else x.detach().clone().requires_grad_()


def twice_differentiable(wanted: bool = True) -> AbstractContextManager[None]:
    """Run forward passes without fused attention kernels, which have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


UNDEFINED = (
    "The model returns NaN or infinite logits at some points where an explanation asks it; the maps of these samples "
    "are NaN."
)


_MARKING: ContextVar[bool] = ContextVar("marking", default=False)


@contextmanager
def marking_undefined() -> Iterator[None]:
    """Mark maps without an answer as NaN, even where a batch has no other, until the context ends.

    For code that explains in batches, and refuses a model that answers in none of them.
    """
    token = _MARKING.set(True)
    try:
        yield
    finally:
        _MARKING.reset(token)


def scored(model: Model, z: Tensor, y: Tensor, score: Loss) -> Tensor:
    """Return s(f(z), y), (B,), NaN without a finite answer; the output is checked, unless by `checked_once` before.

    Infinite logits of other classes are an answer, if the score is finite.

    Raises:
        BadInput: The model answers at none of the points, or its output is invalid. In trusted code, and inside
            `marking_undefined`, the first is not checked.
    """
    logits = read_logits(model, z, y)
    value = score(logits, y)
    undefined = torch.isnan(logits.detach()).any(1) | ~torch.isfinite(value.detach())
    if not bool(undefined.any()):
        return value
    if not is_trusted():
        if bool(undefined.all()) and not _MARKING.get():
            raise BadInput(
                f"the model returns NaN or infinite logits at all {len(z)} points where the explanation asks it; mend "
                "the model, since there is nothing to explain"
            )
        notice_once(behind(model), UNDEFINED)
    return value.masked_fill(undefined, torch.nan)


def score_gradient(model: Model, z: Tensor, y: Tensor, score: Loss, create_graph: bool) -> Tensor:
    """Return d s(f(z), y) / dz, (B, *D), for a z that requires gradients; NaN where the score is.

    Raises:
        BadInput: The model's output is invalid, does not depend on z for autograd, or is finite nowhere.
    """
    with twice_differentiable(create_graph):
        value = scored(model, z, y, score)
    check_differentiable(value)
    (g,) = torch.autograd.grad(value.sum(), z, create_graph=create_graph, allow_unused=True)
    if g is None:
        raise BadInput(
            "the model's output does not depend on x for autograd (detach or rounding inside?); mend it there"
        )
    g = marked(g, value)
    # For linear f the gradient does not depend on x; it is kept in x's graph, so that it can still be differentiated.
    return g + 0 * z if create_graph and not g.requires_grad else g


def marked(g: Tensor, value: Tensor) -> Tensor:
    """Return what was computed for each sample, (B, ...), with NaN where its score is not finite."""
    undefined = ~torch.isfinite(value.detach())
    return where_rows(undefined, torch.full_like(g, torch.nan), g) if bool(undefined.any()) else g
