"""Architectures by name, and construction of modules that fit given weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unfooled.core.errors import BadInput, nearest
from unfooled.models.names import matches, under_one_prefix
from unfooled.models.nets import (
    CifarResnet,
    ConceptCnn,
    Lenet5,
    MnistCnn,
    ResNet18,
    SmallCnn,
    StridedCnn,
    TradesSmallCnn,
)

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "small-cnn": SmallCnn,
    "lenet5": Lenet5,
    "mnist-cnn": MnistCnn,
    "strided-cnn": StridedCnn,
    "trades-small-cnn": TradesSmallCnn,
    "resnet18": ResNet18,
    "cifar-resnet": partial(CifarResnet, depth=20),
    "cifar-resnet20": partial(CifarResnet, depth=20),
    "cifar-resnet32": partial(CifarResnet, depth=32),
    "cifar-resnet56": partial(CifarResnet, depth=56),
    "concept-cnn": ConceptCnn,
    "concept-cnn-large": partial(ConceptCnn, encoder="large"),
    "concept-resnet": partial(ConceptCnn, encoder="residual"),
}
"""Name -> builder, `(input_shape, classes) -> module`; both arguments have defaults."""


def builder_of(arch: str) -> Callable[..., nn.Module]:
    """Return the builder of an architecture.

    Raises:
        BadInput: There is no such architecture; the message suggests similar names and lists all.
    """
    if arch not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise BadInput(
            f"there is no architecture {arch!r}{nearest(arch, ARCHITECTURES)}; there are {names}, and timm:NAME and "
            "package.module:factory"
        )
    return ARCHITECTURES[arch]


def build(arch: str, input_shape: Sequence[int] | None = None, classes: int | None = None, **options: Any) -> nn.Module:
    """Build a module with fresh weights.

    Args:
        arch: Name of an architecture.
        input_shape: Shape of one sample, (C, H, W). None: the architecture's default.
        classes: Number of classes, K. None: the architecture's default.
        options: Further arguments of the builder.

    Raises:
        BadInput: There is no such architecture, or it does not take images of that shape.
    """
    given = {"input_shape": input_shape, "classes": classes}
    return builder_of(arch)(**{key: value for key, value in given.items() if value is not None}, **options)


def build_like(
    arch: str, state: Mapping[str, Tensor], *, input_shape: Sequence[int] | None = None, classes: int | None = None
) -> nn.Module:
    """Build a module with the sizes inferred from weights: channels, width, attributes and classes.

    Args:
        arch: Name of an architecture.
        state: Tensors by the name of the weight.
        input_shape: Shape of one sample, (C, H, W). None: the architecture's default, with the channels of the weights.
        classes: Number of classes, K. None: number of rows of the last layer's weight.
    """
    native = build(arch)
    state = under_one_prefix(state, set(native.state_dict()))
    first = next(name for name, module in native.named_modules() if isinstance(module, nn.Conv2d))
    last = [name for name, module in native.named_modules() if isinstance(module, nn.Linear)][-1]
    conv, head = state.get(f"{first}.weight"), state.get(f"{last}.weight")
    options = {}
    if conv is not None and conv.ndim == 4:
        if input_shape is None:
            input_shape = (conv.shape[1], *native.input_shape[1:])  # type: ignore[index]
        if "width" in inspect.signature(ARCHITECTURES[arch]).parameters:
            options["width"] = conv.shape[0]
    if head is not None and head.ndim == 2 and "attributes" in inspect.signature(ARCHITECTURES[arch]).parameters:
        options["attributes"] = head.shape[1]
    if classes is None and head is not None and head.ndim == 2:
        classes = head.shape[0]
    return build(arch, input_shape, classes, **options)


class _Undrawn(TorchFunctionMode):
    """Inside it, normal numbers are not drawn: without memory to fill, torch imports its compiler (1.5 s) for that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor that would be filled, or the result of any other function."""
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules that are built inside have shapes, but neither memory nor random numbers."""
    with torch.device("meta"), _Undrawn():
        yield


@cache
def _weight_names(arch: str) -> frozenset[str]:
    """Return the names of an architecture's weights."""
    with without_weights():
        return frozenset(build(arch).state_dict())


def architectures_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return the architectures whose weights have exactly the names of `state`."""
    # "cifar-resnet" is another name of "cifar-resnet20".
    return [name for name in ARCHITECTURES if name != "cifar-resnet" and matches(state, set(_weight_names(name)))]
