"""Feature inversion: an input whose features equal those of another input.

    min over z in threat   L(z) = ||g(z) - t||_2 + penalty(z),      residual r(z) = ||g(z) - t||_2 / ||t||_2

g(z) are the features of z, t the features to reach. -L is maximised for all samples in one batch, with Polyak's step
size, which needs the least possible L, here 0, and along averaged directions. This takes a fraction of the gradients
that steps of fixed length take; a sample ends once r <= tol.

References:
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175, section 3.
    xziyue/robust_mnist_feature_py, 2019 (steps of length .996^k, one image at a time).
    Polyak, Introduction to optimization, Optimization Software 1987, section 5.3.
    Sherali, Ulular, A primal-dual conjugate subgradient algorithm for specially structured linear and convex
    programming problems, Applied Mathematics and Optimization 1989 (averaged directions).
    Differs from the published code: step and direction; the best iterate instead of the last; features before the ReLU,
    where dead units still give a gradient; a sample whose gradient vanishes ends and is flagged (there: NaN).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.ascent import Polyak, Rule, ascend
from unfooled.core.checks import check_differentiable, check_inputs, check_mode, check_threat
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import BatchBudget, batched
from unfooled.core.model.encoder import INPUT, root_of
from unfooled.core.model.encoder import Encoder as Encoder
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat
from unfooled.core.threats import L2, Threat

Encode = Callable[[Tensor], Tensor]
"""x (B, *D) -> features (B, *F), differentiable; a sample's features do not depend on the others."""

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.Dropout, nn.BatchNorm1d,
)  # fmt: skip
"""Layers that, in eval mode, act on each feature separately."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FUNCTIONS = frozenset({
    "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "sigmoid",
    "tanh", "hardswish", "hardtanh", "dropout",
})  # fmt: skip
"""Names of functions and methods that act on each feature separately."""


@dataclass(frozen=True)
class Inversion:
    """Result of `invert_features`, one entry per sample.

    Attributes:
        x: Inputs, (B, *D), detached.
        residual: ||g(x) - t|| / ||t||, (B,); ||g(x)|| where t is 0.
        steps_used: Steps taken, (B,) int64.
        reached: Samples that ended early because residual <= tol or by `stop`, (B,) bool.
        gradients: Gradients taken, (B,) int64: steps_used, and often one more at the last point.
        vanished: Samples that ended early because their gradient was zero or not finite, (B,) bool.
    """

    x: Tensor
    residual: Tensor
    steps_used: Tensor
    reached: Tensor
    gradients: Tensor
    vanished: Tensor


def invert_features(
    encode: Encode,
    target: Tensor,
    start: Tensor,
    *,
    threat: Threat = L2(math.inf),  # noqa: B008  (frozen)
    steps: int = 100,
    tol: float = 0.05,
    rule: Rule = Polyak(cap=1.0),  # noqa: B008  (frozen)
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
    stop: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    batch: int | None = None,
) -> Inversion:
    """Search the threat around `start` for inputs whose features are `target`.

    Args:
        encode: Features of inputs, (b, *D) -> (b, *F): an `Encoder`, or any differentiable callable. Not modified.
        target: Features to reach, (B, *F).
        start: First points and centres of the threat, (B, *D) in its box.
        threat: Constraint set of the result, by default the whole box. Steps are steepest in its norm.
        steps: Largest number of gradients per sample (cost: steps + 1 forwards, steps backwards, less where it ends
            early).
        tol: Residual at which a sample ends.
        rule: Step sizes. With a penalty the least L is not known, and `Decaying(absolute=True)` is better.
        penalty: `(z (b, *D), at (b,)) -> (b,)`, added to the distance; `at` are the rows of `start` that z belongs to.
        stop: `(z, features (b, *F), at) -> (b,) bool`, a further rule by which samples end. None: only `tol`.
        batch: Samples computed at once; samples that end make room for others. None: as many as fit in memory.

    Returns:
        An `Inversion`, with the point at which a sample ended early, else that of lowest L; success is not implied.
        Results do not depend on `batch`.

    Raises:
        BadInput: start outside the box, a target of another shape than the features or not finite, steps or tol below
            0, no gradient, or dropout in training mode; the message names which.

    Example:
        >>> found = invert_features(lambda z: 2 * z, torch.tensor([[0.2, 1.0]]), torch.tensor([[0.5, 0.5]]), tol=1e-4)
        >>> found.x, bool(found.reached)
        (tensor([[0.1000, 0.5000]]), True)
    """
    check_threat(start, threat)
    check_inputs(start, box=threat.box)
    check_mode(encode)
    check_search(steps, tol)
    _check_target(encode, target, start, batch)
    start, distance = start.detach(), _Distance(encode, target)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        d, features = distance(z, at)
        done = d.detach() <= tol * distance.length[at]
        if stop is not None:
            done = done | stop(z.detach(), features.detach(), at)
        return -(d if penalty is None else d + penalty(z, at)), done

    with frozen(encode):
        batch = batch or _batch(encode, start)
        result = ascend(objective, start, threat, steps=steps, rule=rule, batch=batch, revive=False)
        if penalty is None:
            size = -result.value
        else:
            rows = torch.arange(len(start), device=start.device)
            with torch.no_grad():
                size = batched(lambda z, at: distance(z, at)[0], batch)(result.z, rows)
    return Inversion(
        x=result.z,
        residual=size / distance.length,
        steps_used=result.moved,
        reached=result.done,
        gradients=result.used,
        vanished=result.dead > 0,
    )


class _Distance:
    """The distance ||g(z) - t|| of features from the target, and the target's length, 1 where it is 0."""

    def __init__(self, encode: Encode, target: Tensor) -> None:
        self.encode, self.shape, self.target = encode, tuple(target.shape), flat(target.detach())
        length = torch.linalg.vector_norm(self.target, dim=1)
        self.length = torch.where(length > 0, length, torch.ones_like(length))

    def __call__(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances, (b,), and the features, (b, *F), of points for the rows `at`."""
        features = self.encode(z)
        if features.shape != (len(z), *self.shape[1:]):
            raise BadInput(
                f"encode returned shape {tuple(features.shape)} for {len(z)} samples, target has {self.shape}"
            )
        return torch.linalg.vector_norm(flat(features) - self.target[at], dim=1), features


def _check_target(encode: Encode, target: Tensor, start: Tensor, batch: int | None) -> None:
    """Refuse a target that does not fit the starts or is not finite, tensors on several devices, a batch below 1."""
    if batch is not None and batch < 1:
        raise BadInput(f"batch is {batch}; it must be at least 1")
    if not isinstance(target, Tensor) or len(target) != len(start) or not target.is_floating_point():
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise BadInput(f"target is {shape} for {len(start)} starts; give the features of each, floating point")
    if bad := int((~torch.isfinite(flat(target))).any(1).sum()):
        raise BadInput(f"target holds NaN or infinite values for {bad} of {len(target)} samples; no input has them")
    devices = {str(t.device) for t in (start, target, *itertools.islice(weights_of(encode), 1))}
    if len(devices) > 1:
        raise BadInput(f"start, target and the network lie on {' and '.join(sorted(devices))}; move them to one device")


def check_search(steps: int, tol: float) -> None:
    """Refuse a number of steps below 0, and a residual to be reached that is negative or not finite."""
    if not hasattr(steps, "__index__") or steps < 0:
        raise BadInput(f"steps is {steps!r}; it must be a whole number, at least 0")
    if not 0 <= tol < math.inf:
        raise BadInput(f"tol is {tol:g}; it must be a finite residual, at least 0")


def weights_of(encode: Encode) -> Iterator[Tensor]:
    """Iterate over the parameters and buffers of the networks behind a callable."""
    return (weight for root in modules_of(encode) for weight in (*root.parameters(), *root.buffers()))


def _batch(encode: Encode, x: Tensor) -> int:
    """Return the number of samples that fit in memory with their autograd graph. Cost: 1 forward pass of one sample."""
    budget = BatchBudget(encode, x)
    with torch.enable_grad(), budget.measuring(1):
        features = encode(x[:1].detach().clone().requires_grad_())
    check_differentiable(features)
    return min(budget.batch, 256 if x.device.type == "cpu" else 4096, len(x))


def last_features(model: nn.Module) -> str:
    """Name the layer that is inverted by default: the linear layer before the last one, before its ReLU.

    It is selected if, in the traced graph of the forward pass, only activations, dropout and batch normalisation lie
    between it and the last linear layer. Otherwise, as in residual networks, transformers and networks that cannot be
    traced, the input of the last linear layer is selected; without linear layers, the input of the last convolution. No
    pass is made.

    Raises:
        BadInput: The model has neither linear layers nor convolutions.

    Example:
        >>> last_features(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)))
        '0'
    """
    root = root_of(model)
    linear = [name for name, module in root.named_modules() if isinstance(module, nn.Linear) and name]
    if not linear:
        others = [name for name, module in root.named_modules() if isinstance(module, CONVOLUTIONS) and name]
        if not others:
            raise BadInput(
                "the model has no linear layer and no convolution, whose features would be inverted by default; name a "
                f"layer, of {', '.join(name for name, _ in root.named_modules() if name) or 'which it has none'}. An "
                "exported program (.pt2) has none that can be: give the checkpoint that it was exported from"
            )
        return others[-1] + INPUT
    calls = _calls(root)
    order = [node.target for node in calls if node.target in linear]
    if not order:
        return linear[-1] + INPUT
    head = order[-1]
    node = _input_call(next(node for node in reversed(calls) if node.target == head))
    while node is not None and _elementwise(node, root):
        node = _input_call(node)
    layer = None if node is None or node.op != "call_module" else node.target
    # `Encoder` takes the last call of a layer; of a layer that is called more than once, this may be another call.
    return str(layer) if order.count(layer) == 1 and layer != head else head + INPUT


def _input_call(node: Any) -> Any:
    """Return the call whose result is the first argument of this one; None where there is none."""
    before = next(iter(node.args), None)
    return before if hasattr(before, "op") else None


def _elementwise(node: Any, root: nn.Module) -> bool:
    """Return whether a call acts on each feature separately."""
    if node.op == "call_module":
        return isinstance(root.get_submodule(node.target), ELEMENTWISE)
    called = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and called in FUNCTIONS


def _calls(root: nn.Module) -> list[Any]:
    """Return the calls of modules in the graph of the forward pass, in order; none where it cannot be traced."""
    from torch.fx import Tracer

    class Coarse(Tracer):
        """A tracer that enters only modules that contain linear layers."""

        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            inside = any(isinstance(part, nn.Linear) for part in m.modules())
            return not inside or super().is_leaf_module(m, module_qualified_name)

    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = Coarse().trace(root)
    except Exception:  # some forward passes fail on a proxy in place of a tensor
        return []
    return [node for node in graph.nodes if node.op == "call_module"]
