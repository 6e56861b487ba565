"""Wrappers that count the calls of a model or store its output.

`transparent = True` marks a class whose objects take and return what the model does, so that facts learnt about the
model hold for them too: see `calls.bare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.outputs import entry_of
from unfooled.core.pulse import beat
from unfooled.core.types import Model


class Counted:
    """A wrapper that counts the samples passed through a model.

    Attributes:
        forwards: Samples passed forwards so far.
        backwards: Samples passed backwards so far (each time a gradient reaches the logits).
        calls: Calls of the model so far.
    """

    transparent = True

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forwards = 0
        self.backwards = 0
        self.calls = 0
        self._observer: Callable[[Tensor, Tensor], None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Run the model; count the samples now, and again when a gradient reaches the logits."""
        return self._noted(self.model(x), x, self.model)

    def standing_in(self, model: Model, *, same_values: bool = True) -> Model:
        """Return another model, whose passes count as those of this one.

        Args:
            model: The other model.
            same_values: True if it answers as this one does, so that the observer may see its answers.
        """
        return StandIn(self, model, same_values)

    def _noted(self, output: Any, x: Tensor, model: Model, *, shown: bool = True) -> Any:
        """Count a pass, and show it to the observer."""
        self.forwards += len(x)
        self.calls += 1
        beat(len(x))
        logits = _logits_in(output, model)
        if shown and self._observer is not None and logits is not None:
            self._observer(x.detach(), logits.detach())
        if logits is not None and logits.requires_grad:
            # The hook must not hold the graph: it closes over a number only.
            batch = len(x)

            def note(_: Tensor) -> None:
                self.backwards += batch

            logits.register_hook(note)
        return output

    @contextmanager
    def watched(self, observer: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
        """Show the samples and logits of every call inside to an observer."""
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


def note_second_derivatives(model: Any, attribution: Tensor) -> None:
    """Count a later gradient of an attribution as two backwards a sample more, in every `Counted` around the model.

    The gradient of a gradient goes back through both, the forward pass and its backward pass.
    """
    counters = []
    while model is not None:
        counters += [model] if isinstance(model, Counted) else []
        model = getattr(model, "__dict__", {}).get("model")
    if not counters or not attribution.requires_grad:
        return
    spent = 2 * len(attribution)

    def note(_: Tensor) -> None:
        for counter in counters:
            counter.backwards += spent

    attribution.register_hook(note)


class StandIn:
    """A model whose passes are counted as those of another one."""

    transparent = True

    def __init__(self, counted: Counted, model: Model, same_values: bool = True) -> None:
        self.counted = counted
        self.model = model
        self.same_values = same_values

    def __call__(self, x: Tensor) -> Any:
        """Run the model and count the pass."""
        return self.counted._noted(self.model(x), x, self.model, shown=self.same_values)


def _logits_in(output: Any, model: Model) -> Tensor | None:
    """Return the logits in an output; None where there are none: code that reads the output will refuse it."""
    if isinstance(output, Tensor):
        return output
    try:
        return entry_of(output, model)
    except BadInput:
        return None


class Tapped:
    """A wrapper that stores a model's output at given points, so that an explanation and the logits share one pass.

    An explanation may call the model at other points, too, such as a probe of the layout of a layer.

    Args:
        model: Any callable.
        points: Points whose output is stored, (B, *D).

    Attributes:
        seen: Output of the last call at the points, with its graph. None: there was no such call.
    """

    transparent = True

    def __init__(self, model: Model, points: Tensor) -> None:
        self.model, self.points = model, points
        self.seen: Any = None

    def __call__(self, x: Tensor) -> Any:
        """Run the model, and store its output if x are the points."""
        output = self.model(x)
        if x is self.points or (x.shape == self.points.shape and torch.equal(x.detach(), self.points.detach())):
            self.seen = output
        return output

    def output(self) -> Any:
        """Return the output at the points, with its graph; the model is called there if nobody has."""
        return self.model(self.points) if self.seen is None else self.seen

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
