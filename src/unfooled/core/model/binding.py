"""Models of several inputs as models of one: the other inputs are stored for each sample.

    packed x = the attacked input, and behind it the number of its sample as bits

The number travels in the tensor itself, so it follows its sample through every selection, order and batch. A bit is a
pair of entries, (1, 0) or (0, 1); it is read from which of the two is larger, so that a change of contrast or
brightness, as along the path of integrated gradients, does not change it. Every number is stored twice. `Bound.threat`
forbids changes of these entries; the model refuses samples whose number is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.calls import in_its_precision
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat

COPIES = 2
"""Copies of a sample's number."""


class Bound(nn.Module):
    """A model of several inputs as a model of the attacked one; see `bind`.

    Attributes:
        model: The model.
        attacked: Name of the attacked input.
        others: Other inputs by name, one row per sample, (n, ...) each.
        same: Inputs that are the same for all samples, by name.
    """

    def __init__(
        self, model: Callable[..., Any], attacked: str, others: Mapping[str, Tensor], same: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.attacked, self.same = model, attacked, dict(same)
        self.names = tuple(others)
        self.n = len(next(iter(others.values()))) if others else 1
        for name, value in others.items():
            self.register_buffer(f"other_{name}", value.detach().clone())
        for name, value in self.same.items():
            if isinstance(value, Tensor):  # moves with the model, and counts in its fingerprint
                self.register_buffer(f"same_{name}", value.detach().clone())
        self.shape: tuple[int, ...] | None = None
        self.train(any(root.training for root in modules_of(model)))

    @property
    def others(self) -> dict[str, Tensor]:
        """Other inputs by name, one row per sample."""
        return {name: getattr(self, f"other_{name}") for name in self.names}

    @property
    def bits(self) -> int:
        """Number of entries that hold a sample's number."""
        return 2 * COPIES * max(1, math.ceil(math.log2(max(self.n, 2))))

    def pack(self, x: Tensor) -> Tensor:
        """Return the attacked input of all samples with their numbers, for attacks and audits.

        Args:
            x: Attacked input in the unit box, (n, *D), in the order of the other inputs.

        Returns:
            The same with more channels (entries of a vector, steps of a sequence): (n, D0 + k, ...).

        Raises:
            BadInput: There are not as many samples as rows of the other inputs.
        """
        if x.ndim < 2 or (self.names and len(x) != self.n):
            raise BadInput(
                f"{self.attacked} has shape {tuple(x.shape)}, {' and '.join(self.names)} hold {self.n} samples; give "
                "one row of each for every sample"
            )
        self.n, self.shape = len(x), tuple(x.shape[1:])
        width = self.bits // (2 * COPIES)
        rows = torch.arange(len(x), device=x.device)
        ones = (rows[:, None] >> torch.arange(width, device=x.device)) & 1
        code = torch.stack([ones, 1 - ones], 2).reshape(len(x), -1).repeat(1, COPIES)
        slices = math.ceil(self.bits / math.prod(self.shape[1:]))
        behind = x.new_zeros(len(x), slices, *self.shape[1:])
        flat(behind)[:, : self.bits] = code.to(x.dtype)
        return torch.cat([x, behind], 1)

    def unpack(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attacked input of packed samples, and the numbers of the samples.

        Raises:
            BadInput: The samples are not packed, or a number was changed.
        """
        shape = self.shape
        if shape is None or z.ndim != len(shape) + 1 or z.shape[2:] != shape[1:] or z.shape[1] <= shape[0]:
            raise BadInput(f"samples of shape {tuple(z.shape[1:])} are not packed; give bound.pack({self.attacked})")
        code = flat(z.detach()[:, shape[0] :])[:, : self.bits].reshape(len(z), COPIES, -1, 2)
        apart = code[..., 0] - code[..., 1]
        ones = (apart > 0).long()
        rows = (ones[:, 0] << torch.arange(ones.shape[2], device=z.device)).sum(1)
        lost = (apart == 0).flatten(1).any(1) | (ones != ones[:, :1]).flatten(1).any(1) | (rows >= self.n)
        lost |= ~torch.isfinite(apart).flatten(1).all(1)
        if bool(lost.any()):
            raise BadInput(
                f"{int(lost.sum())} of {len(z)} samples lost the number by which their other inputs are found; attack "
                f"within bound.threat(...), and change only {self.attacked}"
            )
        return z[:, : shape[0]], rows

    def forward(self, z: Tensor) -> Any:
        """Return what the model returns for packed samples."""
        x, rows = self.unpack(z)
        each = {name: value[rows] for name, value in self.others.items()}
        same = {name: getattr(self, f"same_{name}", value) for name, value in self.same.items()}
        inputs = {self.attacked: x, **each, **same}

        def call(kind: torch.dtype | None) -> Any:
            return self.model(**inputs if kind is None else {name: _cast(v, kind) for name, v in inputs.items()})

        return in_its_precision(self.model, call, x.dtype)

    @property
    def free(self) -> Tensor:
        """Entries of a packed sample that may change, (*D) bool."""
        if self.shape is None:
            raise BadInput(f"pack the samples first: bound.pack({self.attacked})")
        slices = math.ceil(self.bits / math.prod(self.shape[1:]))
        free = torch.ones(self.shape[0] + slices, *self.shape[1:], dtype=torch.bool)
        free[self.shape[0] :] = False
        return free

    def threat(self, threat: Threat) -> Threat:
        """Return the threat for packed samples: the attacked input may change, the numbers may not."""
        return replace(threat, free=self.free)


def _cast(value: Any, kind: torch.dtype) -> Any:
    """Return an input with its floating point numbers in another precision."""
    return value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value


def bind(model: Callable[..., Any], attacked: str, *, same: Mapping[str, Any] | None = None, **others: Tensor) -> Bound:
    """Bind the other inputs of a model, so that it is an ordinary model of the attacked one.

    Args:
        model: Model that is called with keywords, `model(image=x, meta=m)`; in eval mode.
        attacked: Name of the input that is attacked.
        same: Inputs that are the same for all samples, by name, such as a table of positions.
        **others: Other inputs by name, one row per sample: (n, ...) each.

    Returns:
        A `Bound`. `bound.pack(x)` are the samples for `audit` and attacks; `bound.threat(Linf(8 / 255))` is a threat
        that does not change their numbers; `audit` applies it by itself.

    Raises:
        BadInput: Other inputs that are no tensors, or hold different numbers of samples.

    Example:
        >>> net = lambda image, meta: torch.cat([image.sum((1, 2, 3))[:, None], meta], 1)
        >>> bound = bind(net, attacked="image", meta=torch.tensor([[0.5], [2.0]]))
        >>> x = bound.pack(torch.zeros(2, 1, 4, 4))
        >>> bound(x[[1, 0, 1]])[:, 1]
        tensor([2.0000, 0.5000, 2.0000])
    """
    for name, value in others.items():
        if not isinstance(value, Tensor) or not value.ndim:
            kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise BadInput(f"{name} is {kind}; give one row per sample, (n, ...), or same={{{name!r}: ...}}")
    sizes = {name: len(value) for name, value in others.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise BadInput(f"the other inputs hold different numbers of samples: {listed}")
    if attacked in others or attacked in (same or {}):
        raise BadInput(f"{attacked} is attacked, so it cannot be bound; give it to bound.pack")
    return Bound(model, attacked, others, same or {})


def free_entries(model: Any) -> Tensor | None:
    """Return the entries of a sample that may change, (*D) bool, for a bound model. None: all, for any other."""
    inner = (module for root in modules_of(model) for module in root.modules())
    bound = next((module for module in inner if isinstance(module, Bound)), None)
    return None if bound is None else bound.free
