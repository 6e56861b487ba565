"""The architectures by name, and a module whose layers have the sizes that given weights have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from unfooled.core.errors import BadInput, nearest
from unfooled.models.nets.cifar_resnet import CifarResnet
from unfooled.models.nets.lenet5 import Lenet5
from unfooled.models.nets.mnist_cnn import MnistCnn
from unfooled.models.nets.resnet18 import ResNet18
from unfooled.models.nets.small_cnn import SmallCnn
from unfooled.models.nets.strided_cnn import StridedCnn
from unfooled.models.nets.trades_small_cnn import TradesSmallCnn
from unfooled.models.readers.checkpoints import within

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
}
"""Name -> builder, `(input_shape, classes) -> module`; without arguments, each builds its native size."""


def builder_of(arch: str) -> Callable[..., nn.Module]:
    """The builder called `arch`.

    Raises:
        BadInput: no such architecture; the nearest names and all of them are given.
    """
    if arch not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise BadInput(
            f"there is no architecture {arch!r}{nearest(arch, ARCHITECTURES)}; there are {names}, and timm:NAME and "
            "package.module:factory"
        )
    return ARCHITECTURES[arch]


def build(arch: str, input_shape: Sequence[int] | None = None, classes: int | None = None, **options: Any) -> nn.Module:
    """A fresh module; what is not given is the architecture's own."""
    given = {"input_shape": input_shape, "classes": classes}
    return builder_of(arch)(**{key: value for key, value in given.items() if value is not None}, **options)


def build_like(
    arch: str, state: Mapping[str, Tensor], *, input_shape: Sequence[int] | None = None, classes: int | None = None
) -> nn.Module:
    """A module of the sizes that `state` has, as far as they can be read off it: channels, width and classes.

    Args:
        arch: an architecture's name.
        state: name of a weight -> tensor.
        input_shape: (C, H, W), where known; else the architecture's own, with the channels of the weights.
        classes: K, where known; else the rows of the last layer's weight.
    """
    native = build(arch)
    state = within(state, set(native.state_dict()))
    first = next(name for name, module in native.named_modules() if isinstance(module, nn.Conv2d))
    last = [name for name, module in native.named_modules() if isinstance(module, nn.Linear)][-1]
    conv, head = state.get(f"{first}.weight"), state.get(f"{last}.weight")
    options = {}
    if conv is not None and conv.ndim == 4:
        if input_shape is None:
            input_shape = (conv.shape[1], *native.input_shape[1:])  # type: ignore[index]
        if "width" in inspect.signature(ARCHITECTURES[arch]).parameters:
            options["width"] = conv.shape[0]
    if classes is None and head is not None and head.ndim == 2:
        classes = head.shape[0]
    return build(arch, input_shape, classes, **options)


def fitting(state: Mapping[str, Tensor]) -> list[str]:
    """The architectures whose weights have just the names that `state` has."""
    return [
        name
        for name in ARCHITECTURES
        if name != "cifar-resnet" and set(build(name).state_dict()) == set(state)  # which is the 20 layers by default
    ]
