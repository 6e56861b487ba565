"""Modes of a model that end with their context, and wrappers that watch its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.outputs import logits_of
from unfooled.core.types import Model


def modules_of(model: Any) -> list[nn.Module]:
    """Find the modules behind a callable.

    The callable itself, what it wraps (`.model`, `.module`, `.func`), the owner of a method, what a function closes
    over, and the globals that it names.
    """
    modules: list[nn.Module] = []
    visited: set[int] = set()

    def visit(item: Any) -> None:
        if item is None or id(item) in visited:
            return
        visited.add(id(item))
        if isinstance(item, nn.Module):
            modules.append(item)
            return
        for name in ("model", "module", "func", "__self__", "__wrapped__"):
            visit(getattr(item, name, None))
        for part in bound(item):
            if isinstance(part, nn.Module):
                visit(part)

    visit(model)
    return modules


def bound(item: Any) -> Iterator[Any]:
    """Yield what a partial or a function refers to: arguments, cells of its closure, the globals that it names."""
    if isinstance(item, partial):
        yield from (*item.args, *item.keywords.values())
    for cell in getattr(item, "__closure__", None) or ():
        with suppress(ValueError):  # a cell that is still empty
            yield cell.cell_contents
    code, names = getattr(item, "__code__", None), getattr(item, "__globals__", {})
    if code is not None:
        yield from (names[name] for name in code.co_names if name in names)


def in_training(model: Any) -> list[str]:
    """Name the submodules in training mode whose output depends on it (dropout, batch normalisation)."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    return [
        f"{name or '(root)'} ({type(module).__name__})"
        for root in modules_of(model)
        for name, module in root.named_modules()
        if module.training and isinstance(module, kinds)
    ]


@contextmanager
def _switched(items: list[Any], name: str, value: bool) -> Iterator[None]:
    """Set an attribute of each item; each one's own value is restored on exit."""
    before = [(item, getattr(item, name)) for item in items]
    try:
        for item, _ in before:
            setattr(item, name, value)
        yield
    finally:
        for item, old in before:
            setattr(item, name, old)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put every submodule into eval mode; each one's own mode is restored on exit."""
    with _switched([m for root in modules_of(model) for m in root.modules()], "training", False):
        yield


@contextmanager
def unrecorded(model: Any) -> Iterator[None]:
    """Keep batch normalisation from updating its running statistics, for inputs that are no data.

    In training mode it still normalises by the batch.
    """
    kind = nn.modules.batchnorm._NormBase
    norms = [m for root in modules_of(model) for m in root.modules() if isinstance(m, kind)]
    with _switched([m for m in norms if m.training and m.running_mean is not None], "track_running_stats", False):
        yield


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Switch off gradients of the parameters: an attack needs none, and autograd then saves less memory."""
    with _switched([p for root in modules_of(model) for p in root.parameters()], "requires_grad", False):
        yield


class Counted:
    """A wrapper that counts the samples passed through a model.

    Attributes:
        forwards: samples passed forwards so far.
        backwards: samples passed backwards so far (each time a gradient reaches the logits).
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Run the model and count the samples, now and when a gradient comes back."""
        output = self.model(x)
        self.forwards += len(x)
        logits = _logits_in(output)
        if logits is not None and logits.requires_grad:
            # The hook must not hold the graph: it closes over a count alone.
            batch = len(x)

            def note(_: Tensor) -> None:
                self.backwards += batch

            logits.register_hook(note)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


def _logits_in(output: Any) -> Tensor | None:
    """Return the logits in an output; None: there are none, which its reader will refuse."""
    if isinstance(output, Tensor):
        return output
    try:
        return logits_of(output)
    except BadInput:
        return None


class Tapped:
    """A wrapper that stores the last output of a model, so that its logits need no second pass beside an explanation.

    Attributes:
        output: the output of the last call, in its graph. None: not called yet.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.output: Any = None

    def __call__(self, x: Tensor) -> Any:
        """Run the model and store its output."""
        self.output = self.model(x)
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


@contextmanager
def counted(model: Model) -> Iterator[Counted]:
    """Yield a `Counted` wrapper of `model`, whose `.forwards` and `.backwards` are the samples passed so far.

    Example:
        >>> with counted(lambda x: x) as f:
        ...     _ = f(torch.zeros(3, 2))
        >>> f.forwards, f.backwards
        (3, 0)
    """
    yield Counted(model)
