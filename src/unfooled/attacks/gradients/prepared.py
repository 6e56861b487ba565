"""Prepared networks: copies that answer as a network does, to rounding, in less time, for attacks.

Attacks propose points on the copy; the network as it was given decides whether they fool it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unfooled.core.goals import logits_at
from unfooled.core.model.calls import bare
from unfooled.core.model.faster import COMPILED, TOLERANCE, compiled_copy, faster_copy
from unfooled.core.model.wrappers import Counted
from unfooled.core.types import Model

NOT_COMPILED = (
    "Nothing was compiled by torch.compile: the attack asks this model itself, or a stand-in of it. A copy is made of "
    "a module in eval mode, in single or double precision, without hooks on its forward pass and without memory."
)


class Prepared:
    """A faster copy of a network, made at its first call; the network itself where no copy answers alike.

    There is no copy of a network in training mode, in half precision or as TorchScript, nor of one that changes when it
    is called. Passes are counted as those of the network.

    Args:
        model: The network, which counts its passes. Not modified.
        x: A few samples at which the answers are compared, (b, *D). Cost: 4 forwards of them, which are not counted.
        compiled: True: compile the copy with torch.compile, see `faster`.

    Attributes:
        notes: Sentences about what could not be compiled.
    """

    transparent = True

    def __init__(self, model: Counted, x: Tensor, *, compiled: bool = False) -> None:
        self.model, self.x, self.compiled = model, x, compiled
        self.notes: list[str] = []
        self.ready: tuple[Model, float] | None = None

    def __call__(self, x: Tensor) -> Any:
        """Return the output of the copy."""
        return self._copy()[0](x)

    @property
    def rounding(self) -> float:
        """Largest difference of two logits' difference that is rounding; 0 where the network itself is asked."""
        return self._copy()[1]

    def _copy(self) -> tuple[Model, float]:
        """Return the model to ask, and its rounding."""
        if self.ready is None:
            network = bare(self.model)
            with torch.no_grad():
                copy = faster_copy(network, self.x)
                top = float(logits_at(network, self.x).abs().amax()) if copy is not None else 0.0
            rounding = 10 * TOLERANCE * top
            if self.compiled and copy is None:
                self.notes.append(NOT_COMPILED)
            elif self.compiled and copy is not None:
                plain, copy = copy, compiled_copy(copy, self.x, self.notes.append)
                rounding *= 1.0 if copy is plain else COMPILED
            self.ready = (self.model, 0.0) if copy is None else (self.model.standing_in(copy), rounding)
        return self.ready
