"""Affine heads: logits l = W e + b of an embedding e, read from a layer or written down.

    d_k = w_k - w_i        m_k = l_i - l_k >= 0        for the predicted class i and every rival k

Everything that the other files of this package compute follows from these differences. Numbers are float64 on the CPU,
whatever the embedding's dtype: an overshoot of 1e-4 of a small distance would be lost in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput, nearest

AFFINE = (nn.Linear, nn.Identity, nn.Flatten, nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Modules that are affine in evaluation mode."""


@dataclass(frozen=True, eq=False)
class AffineHead:
    """The affine map from an embedding to logits.

    Attributes:
        weight: W, (c, n), stored as float64 on the CPU.
        bias: b, (c,).
        classes: Names of the classes, so that a target can be given by name. Empty: numbers only.
        attributes: Names of the embedding's entries, if they have any.

    Raises:
        BadInput: The shapes do not agree, there is only one class, or a value is not finite.

    Example:
        >>> head = AffineHead(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
        >>> head.logits(torch.tensor([[3.0, 1.0]]))
        tensor([[3., 1.]], dtype=torch.float64)
    """

    weight: Tensor
    bias: Tensor
    classes: Sequence[str] = ()
    attributes: Sequence[str] = ()

    def __post_init__(self) -> None:
        weight, bias = _numbers(self.weight, "the head's weight"), _numbers(self.bias, "the head's bias")
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise BadInput(
                f"the head has a weight of shape {tuple(weight.shape)} and a bias of shape {tuple(bias.shape)}; "
                "they must be (c, n) and (c,)"
            )
        if len(weight) < 2:
            raise BadInput(
                f"the head has {len(weight)} class; a decision needs two: for a single logit z, stack the rows "
                "[-w, w] / 2 and [-b, b] / 2"
            )
        if weight.shape[1] == 0:
            raise BadInput("the head's weight has no columns; the embedding must have at least one entry")
        for names, size, what in (
            (self.classes, len(weight), "classes"),
            (self.attributes, weight.shape[1], "attributes"),
        ):
            if len(names) not in (0, size):
                raise BadInput(f"{len(names)} names are given for the head's {size} {what}; give one each, or none")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "attributes", tuple(self.attributes))

    @classmethod
    def of(
        cls, layer: nn.Module, n: int | None = None, *, classes: Sequence[str] = (), attributes: Sequence[str] = ()
    ) -> AffineHead:
        """Read the head from a linear layer, or from any module that is an affine map in evaluation mode.

        Args:
            layer: The module; it is not modified.
            n: Number of entries of the embedding. None: that of the first linear layer inside.
            classes: Names of the classes.
            attributes: Names of the embedding's entries.

        Raises:
            BadInput: The module is not affine; the message names the layer whose input should be the embedding.
        """
        if type(layer) is nn.Linear:
            zeros = layer.weight.new_zeros(layer.out_features)
            return cls(layer.weight, zeros if layer.bias is None else layer.bias, classes, attributes)
        if not isinstance(layer, nn.Module):
            raise BadInput(f"the head is a {type(layer).__name__}; give a torch module, or AffineHead(weight, bias)")
        if isinstance(layer, nn.Sequential):
            _refuse_nonaffine(layer)
        weight, bias = _read_by_evaluation(layer, _input_width(layer) if n is None else n)
        return cls(weight, bias, classes, attributes)

    @property
    def c(self) -> int:
        """Number of classes."""
        return len(self.weight)

    @property
    def n(self) -> int:
        """Number of entries of the embedding."""
        return self.weight.shape[1]

    def logits(self, e: Tensor) -> Tensor:
        """Compute W e + b, (B, c) float64, of embeddings, (B, n)."""
        return e.to(torch.float64) @ self.weight.to(e.device).T + self.bias.to(e.device)


def embeddings(head: AffineHead, e: Tensor, what: str = "e") -> Tensor:
    """Return embeddings as (B, n) float64 on the CPU.

    Raises:
        BadInput: They do not fit the head, or hold NaN or infinite values.
    """
    values = torch.as_tensor(e).detach().to("cpu", torch.float64)
    if values.ndim != 2 or values.shape[1] != head.n:
        more = f"; try {what}[None]" if values.shape == (head.n,) else ""
        raise BadInput(f"{what} has shape {tuple(values.shape)}; the head needs embeddings, (B, {head.n}){more}")
    if len(values) == 0:
        raise BadInput(f"{what} has shape {tuple(values.shape)}: there are no samples in it")
    bad = (~torch.isfinite(values)).any(1).nonzero().flatten()
    if len(bad):
        raise BadInput(f"{what} holds NaN or infinite values in {len(bad)} samples, the first is sample {int(bad[0])}")
    return values


def target_classes(head: AffineHead, target: Tensor | int | str, size: int) -> np.ndarray:
    """Return one target class per sample, (B,) int64.

    Args:
        head: The head.
        target: A class, by number or name, or one number per sample, (B,) int64.
        size: Number of samples.

    Raises:
        BadInput: There is no such class.
    """
    if isinstance(target, str):
        target = index_of(target, head.classes, "class")
    wanted = torch.as_tensor(target).detach().cpu()
    if wanted.is_floating_point() or wanted.dtype == torch.bool or wanted.shape not in ((), (1,), (size,)):
        raise BadInput(
            f"the target is {wanted.dtype} of shape {tuple(wanted.shape)}; give a class, or one per sample, "
            f"({size},) int64"
        )
    wanted = wanted.to(torch.int64).expand(size) if wanted.ndim < 2 else wanted
    outside = wanted[(wanted < 0) | (wanted >= head.c)]
    if len(outside):
        raise BadInput(f"there is no class {int(outside[0])}; the head has {head.c} classes, 0 to {head.c - 1}")
    return np.asarray(wanted.numpy())


def index_of(name: str, names: Sequence[str], what: str) -> int:
    """Return the index of a name.

    Args:
        name: The name.
        names: Known names.
        what: The kind of thing named, for the error: "class" or "attribute".

    Raises:
        BadInput: The name is unknown; the message lists the nearest ones.
    """
    if not names:
        raise BadInput(
            f"there is no {what} {name!r}: the head has no names for it; give its number, or give names to it"
        )
    if name not in names:
        raise BadInput(
            f"there is no {what} {name!r}{nearest(name, names) or f'; there are {len(names)}, such as {names[0]}'}"
        )
    return list(names).index(name)


def indices(values: Any, what: str) -> tuple[int, ...]:
    """Return whole numbers as such.

    Args:
        values: Sequence of whole numbers, of Python, NumPy or torch.
        what: Their name in the error, such as "immutable".

    Raises:
        BadInput: One is true or false, a fraction, or no number.
    """
    items = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values
    items = [items] if isinstance(items, str) or not isinstance(items, Iterable) else list(items)
    whole: list[Any] = [
        item.item() if isinstance(item, (Tensor, np.generic)) and item.ndim == 0 else item for item in items
    ]
    for item in whole:
        if isinstance(item, bool) or not isinstance(item, int):
            raise BadInput(f"{what} holds {item!r}; give indices of attributes, whole numbers such as 0 or 3")
    return tuple(whole)


def _numbers(values: Any, what: str) -> Tensor:
    """Return a copy as float64 on the CPU; refuse what is not finite."""
    numbers = torch.as_tensor(values).detach().to("cpu", torch.float64).clone()
    if not torch.isfinite(numbers).all():
        raise BadInput(f"{what} holds NaN or infinite values; the network may have diverged in training")
    return numbers


def _refuse_nonaffine(layer: nn.Sequential) -> None:
    """Refuse a sequence with a submodule that is not affine; the error names the affine layers after it."""
    children = list(layer.named_children())
    others = [
        k for k, (_, part) in enumerate(children) if not isinstance(part, (*AFFINE, nn.Sequential)) and _leaf(part)
    ]
    if not others:
        return
    name, part = children[others[-1]]
    problem = f"the head is not affine: its layer {name!r} is a {type(part).__name__}"
    if others[-1] + 1 < len(children):
        raise BadInput(
            f"{problem}; take the output of {name!r} as the embedding and read AffineHead.of(head[{others[-1] + 1}:])"
        )
    end = len(children)  # the end of the last affine layers
    while end - 1 in others:
        end -= 1
    before = max((k for k in others if k < end), default=-1)
    if not end:
        raise BadInput(f"{problem}, and none of its layers is; give the last linear layer of the network")
    taken = f"take the output of {children[before][0]!r} as the embedding, " if before >= 0 else ""
    raise BadInput(
        f"{problem}, and none follows it; {taken}leave off what is behind {children[end - 1][0]!r} and read "
        f"AffineHead.of(head[{before + 1 if before >= 0 else ''}:{end}])"
    )


def _leaf(part: nn.Module) -> bool:
    """Return whether a module is one of torch's own without submodules, such as an activation."""
    return type(part).__module__.startswith("torch.nn") and not any(True for _ in part.children())


def _linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in layer.named_modules() if isinstance(part, nn.Linear)]


def _input_width(layer: nn.Module) -> int:
    inside = _linears(layer)
    if not inside:
        raise BadInput(
            f"the head is a {type(layer).__name__} without a linear layer; give n, the number of entries of its input, "
            "or AffineHead(weight, bias)"
        )
    return inside[0][1].in_features


def _read_by_evaluation(layer: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Return W and b of an affine module, from its values at 0 and at the unit vectors."""
    try:
        call: Callable[[Tensor], Tensor] = copy.deepcopy(layer).to("cpu", torch.float64).eval()
        with torch.no_grad():
            bias = call(torch.zeros(1, n, dtype=torch.float64))[0]
            weight = (call(torch.eye(n, dtype=torch.float64)) - bias).T
            points = torch.randn(8, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
            seen, expected = call(points), points @ weight.T + bias
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(
            f"the head, a {type(layer).__name__}, could not be evaluated on embeddings of {n} entries ({error}); give "
            "its last linear layer, AffineHead.of(linear)"
        ) from error
    if seen.shape != expected.shape or not torch.allclose(seen, expected, rtol=1e-6, atol=1e-6):
        inside = _linears(layer)
        name = inside[-1][0] if inside else ""
        last = f"what goes into its last linear layer, {name!r}" if name else "the input of its last affine layer"
        raise BadInput(
            f"the head, a {type(layer).__name__}, is not affine: its values at random points are not those of an "
            f"affine map; take {last}, as the embedding and read AffineHead.of(that layer)"
        )
    return weight, bias
