"""Faster copies of networks: they answer as a network does, to rounding, in less time.

batch normalisation    folded into the convolution before it
weights                channels last in memory on a CPU, where pooling and convolutions are faster that way
parameters             without gradients
hooks                  none on the backward pass; a network with hooks on the forward pass has no copy
compiled               by torch.compile, if asked and where that works
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.model.calls import bare, copied
from unfooled.core.model.modes import channels_last, in_training
from unfooled.core.model.wrappers import Counted
from unfooled.core.types import Model

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit, that counts as rounding."""
COMPILED = 10.0
"""The same of a compiled copy, in multiples of it."""
FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
HOOKS = (*FORWARD_HOOKS, "_backward_hooks", "_backward_pre_hooks")


def faster(model: Model, x: Tensor, *, compiled: bool = False) -> Model:
    """Return a faster copy of a network, for explanations and own attacks; the model itself where there is none.

    Its answers and gradients are the network's to rounding, without hooks on the backward pass and without gradients of
    its parameters; what it proposes is judged on the network. A counted model counts the passes of the copy.

    Args:
        model: Any callable to logits. A module is copied, in eval mode and not in half precision. Not modified.
        x: A few samples at which the answers are compared, (b, *D). Cost: 4 to 6 forwards, which are not counted.
        compiled: True: compile the copy with torch.compile, which takes a minute or so, for many calls of batches of
            any size. It has no second derivatives. A warning says so where that does not work, and the copy is used as
            it is.

    Raises:
        BadInput: There are no samples.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).eval()
        >>> x = torch.rand(4, 1, 8, 8)
        >>> torch.allclose(faster(net, x)(x), net(x), atol=1e-5)
        True
    """
    network = bare(model)
    if not len(x):
        raise BadInput("x holds no samples; give a few at which the copy's answers are compared")
    with torch.no_grad():
        copy = faster_copy(network, x)
    if copy is None:
        return model
    if compiled:
        copy = compiled_copy(copy, x, partial(warnings.warn, stacklevel=3))
    return model.standing_in(copy) if isinstance(model, Counted) else copy


def _can_be_copied(network: Any) -> bool:
    """Return whether a network is in eval mode, of float32 or float64, and has no hook that may change its answer."""
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule) or in_training(network):
        return False
    if any(getattr(module, name) for module in network.modules() for name in FORWARD_HOOKS):
        return False  # what a hook does to other samples is not seen at these
    return all(p.dtype in (torch.float32, torch.float64) for p in network.parameters())


def faster_copy(network: Any, x: Tensor) -> nn.Module | None:
    """Return a faster copy of a network that answers alike; None where there is none.

    There is none of a network in training mode, in half precision, as TorchScript or with hooks on its forward pass,
    nor of one that changes when it is called.

    Args:
        network: A module. Not modified.
        x: A few samples at which the answers are compared, (b, *D). Cost: 4 to 6 forwards of them.
    """
    if not _can_be_copied(network):
        return None
    try:  # whatever a model does when it is copied, asked or traced
        whole = copied(network)
        state, answer = _state(whole), logits_at(whole, x)
        if not torch.equal(answer, logits_at(whole, x)) or _state(whole) != state:
            return None
    except Exception:
        return None
    orders = (True, False) if x.device.type == "cpu" else (False,)  # a `view` may refuse channels that are last
    return next((copy for last in orders if (copy := _prepared(network, x, last=last)) is not None), None)


def _prepared(network: nn.Module, x: Tensor, *, last: bool) -> nn.Module | None:
    """Return a faster copy of a network that answers alike, with the channels last or not; None where there is none."""
    try:
        copy = copied(network)
        _prepare(copy, last=last)
        own, others = logits_at(network, x), logits_at(copy, x)
        return copy if bool((own - others).abs().amax() <= TOLERANCE * own.abs().amax()) else None
    except Exception:
        return None


def _prepare(copy: nn.Module, *, last: bool) -> None:
    """Change a copy so that it is faster, with the channels last in memory or not."""
    copy.requires_grad_(False)
    for module in copy.modules():
        for name in HOOKS:
            getattr(module, name).clear()
    inner = getattr(copy, "module", copy)
    _fold(inner if isinstance(inner, nn.Module) else copy)
    if last:
        channels_last(copy)


def _fold(network: nn.Module) -> None:
    """Fold batch normalisations into the convolutions before them, if the network's graph can be traced."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    graph = None
    with suppress(Exception):
        graph = fx.Tracer().trace(network)
    if graph is None:
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = [str(before.target), str(node.target)]
        convolution, norm = (network.get_submodule(name) for name in names)
        once = all(targets.count(name) == 1 for name in names)
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and once:
            _put(network, names[0], fuse_conv_bn_eval(convolution, norm))
            _put(network, names[1], nn.Identity())


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a submodule."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _state(network: nn.Module) -> list[Any]:
    """Return what a call of a network may change: numbers, sizes of collections, tensors and buffers."""
    state: list[Any] = []
    for module in network.modules():
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
            if isinstance(value, Tensor):
                state.append((name, id(value), value._version))
            elif isinstance(value, Sized) and not isinstance(value, str):
                state.append((name, len(value)))
            elif isinstance(value, (bool, int, float, str)):
                state.append((name, value))
    return state


def compiled_copy(copy: nn.Module, x: Tensor, tell: Callable[[str], object]) -> nn.Module:
    """Return a copy compiled by torch.compile; the copy itself where that does not work.

    Args:
        copy: Copy of a network, see `faster_copy`.
        x: A few samples at which the answers are compared, (b, *D). Cost: 2 forwards and backwards of them.
        tell: Called with a sentence on what did not work.
    """
    try:  # whatever the compiler does on this machine
        made = _Compiled(copy, tell)
        answers, slopes = zip(*(_first_derivative(model, x) for model in (copy, made)), strict=True)
    except Exception as error:
        tell(_failed(error))
        return copy
    for own, others in (answers, slopes):
        if not bool((own - others).abs().amax() <= COMPILED * TOLERANCE * own.abs().amax()):
            tell("The network compiled by torch.compile answers otherwise; torch.compile is left out.")
            return copy
    return copy if made.network is copy else made


def _failed(error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"torch.compile does not work here ({type(error).__name__}: {reason}); it is left out."


class _Compiled(nn.Module):
    """A compiled network; several gradients may be taken of one answer, as attacks on targets do.

    Each kind of call, such as one of a single sample, is compiled when it first occurs; where that fails, the network
    answers as it is from there on.
    """

    def __init__(self, network: nn.Module, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.plain, self.tell = network, tell
        # An attack's batches shrink with every survivor.
        self.network: nn.Module = cast(nn.Module, torch.compile(network, dynamic=True))

    def forward(self, x: Tensor) -> Tensor:
        if self.network is not self.plain:
            try:
                if torch.is_grad_enabled() and x.requires_grad:
                    return cast(Tensor, _Repeatable.apply(x, self.network))
                return cast(Tensor, self.network(x))
            except Exception as error:  # of the compiler; one of the network is raised again
                answer = self.plain(x)
                self.tell(_failed(error))
                self.network = self.plain
                return cast(Tensor, answer)
        return cast(Tensor, self.plain(x))


class _Repeatable(torch.autograd.Function):
    """A call of a compiled network whose backward pass can be repeated.

    By default such a pass may reuse the memory of what it reads; it asks for that option whenever it runs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: nn.Module) -> Tensor:
        with torch.enable_grad(), _keeping_buffers():
            ctx.leaf = x.detach().requires_grad_()
            ctx.logits = logits_at(network, ctx.leaf)
        return cast(Tensor, ctx.logits.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        with _keeping_buffers():
            return torch.autograd.grad(ctx.logits, ctx.leaf, g, retain_graph=True)[0], None


def _keeping_buffers() -> AbstractContextManager[None]:
    """Return a context in which compiled backward passes leave the memory of what they read as it is."""
    from torch._functorch import config

    return cast(AbstractContextManager[None], config.patch(donated_buffer=False))


def _first_derivative(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits, and the gradients of their sum and of the first of them."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = logits_at(model, leaf)
        (g,) = torch.autograd.grad(logits.sum(), leaf, retain_graph=True)
        return logits.detach(), torch.stack([g, *torch.autograd.grad(logits[:, 0].sum(), leaf)])
