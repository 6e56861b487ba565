"""Operations of a traced network: affine maps with their transpose and magnitude, activations, and max pooling.

    affine     z -> W z + b      forward(z), linear(z) = W z, magnitude(r) = |W| r, transpose(a) = W^T a
    activation monotone and elementwise: ReLU, leaky ReLU, sigmoid, tanh
    max pool   the largest entry of a window

Every tensor has one row per sample, or per bound that is computed: (R, *shape).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]
FEW = 4  # channels up to which a product and a sum of overlapping blocks are faster than a transposed convolution


class Affine(ABC):
    """An affine map of a sample, z -> W z + b."""

    @abstractmethod
    def linear(self, z: Tensor) -> Tensor:
        """Return W z, (R, *before) -> (R, *after)."""

    @abstractmethod
    def magnitude(self) -> Affine:
        """Return the map with |W| in place of W, and without b."""

    def forward(self, z: Tensor) -> Tensor:
        """Return W z + b."""
        return self.linear(z)

    def transpose(self, a: Tensor, before: Shape) -> Tensor:
        """Return W^T a, (R, *after) -> (R, *before)."""
        follows = torch.is_grad_enabled()
        with torch.enable_grad():
            z = a.new_zeros((len(a), *before), requires_grad=True)
            # Not as grad_outputs: their first use imports PyTorch's symbolic shapes, longer than a brief proof takes.
            (back,) = torch.autograd.grad((self.linear(z) * a).sum(), z, create_graph=follows)
        return back


@dataclass(frozen=True, eq=False)
class Matrix(Affine):
    """A linear layer, z -> z weight + bias.

    Attributes:
        weight: Weights, (before, after).
        bias: Bias, (after,). None: 0.
    """

    weight: Tensor
    bias: Tensor | None

    def linear(self, z: Tensor) -> Tensor:
        """Return W z."""
        return z @ self.weight

    def forward(self, z: Tensor) -> Tensor:
        """Return W z + b."""
        return self.linear(z) if self.bias is None else self.linear(z) + self.bias

    def magnitude(self) -> Matrix:
        """Return the map with |W|."""
        return Matrix(self.weight.abs(), None)

    def transpose(self, a: Tensor, before: Shape) -> Tensor:
        """Return W^T a."""
        return a @ self.weight.t()


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A convolution of any number of dimensions, transposed ones included.

    Attributes:
        weight: Kernel.
        bias: Bias, one per channel. None: 0.
        options: Stride, padding, dilation, transposed, output padding, groups.
    """

    weight: Tensor
    bias: Tensor | None
    options: tuple[Any, ...]

    def linear(self, z: Tensor) -> Tensor:
        """Return W z."""
        return torch.ops.aten.convolution(z, self.weight, None, *self.options)

    def forward(self, z: Tensor) -> Tensor:
        """Return W z + b."""
        return torch.ops.aten.convolution(z, self.weight, self.bias, *self.options)

    def magnitude(self) -> Convolution:
        """Return the map with |W|."""
        return Convolution(self.weight.abs(), None, self.options)

    def transpose(self, a: Tensor, before: Shape) -> Tensor:
        """Return W^T a."""
        stride, padding, dilation, transposed, _, groups = self.options
        if len(before) == 3 and before[0] <= FEW and groups == 1 and not transposed:
            blocks = self.weight.flatten(1).t() @ a.flatten(2)  # faster where there are few channels
            return F.fold(blocks, before[1:], self.weight.shape[2:], dilation, padding, stride)
        like = a.new_zeros(()).expand(len(a), *before)
        back = torch.ops.aten.convolution_backward(a, like, self.weight, None, *self.options, [True, False, False])
        return back[0]


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """A scale and a shift of every entry, which broadcast against a sample.

    Attributes:
        factor: Factor; broadcasts against (R, *shape). None: 1.
        shift: Shift, likewise. None: 0.
    """

    factor: Tensor | None
    shift: Tensor | None

    def linear(self, z: Tensor) -> Tensor:
        """Return W z."""
        return z if self.factor is None else z * self.factor

    def forward(self, z: Tensor) -> Tensor:
        """Return W z + b."""
        return self.linear(z) if self.shift is None else self.linear(z) + self.shift

    def magnitude(self) -> Scale:
        """Return the map with |W|."""
        return Scale(None if self.factor is None else self.factor.abs(), None)

    def transpose(self, a: Tensor, before: Shape) -> Tensor:
        """Return W^T a."""
        return self.linear(a)


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """Another arrangement of the same entries in the same order.

    Attributes:
        shape: Shape of a sample afterwards.
    """

    shape: Shape

    def linear(self, z: Tensor) -> Tensor:
        """Return z in the new shape."""
        return z.reshape(len(z), *self.shape)

    def magnitude(self) -> Reshape:
        """Return the map itself."""
        return self

    def transpose(self, a: Tensor, before: Shape) -> Tensor:
        """Return a in the old shape."""
        return a.reshape(len(a), *before)


@dataclass(frozen=True, eq=False)
class Arrangement(Affine):
    """A linear map without negative weights: a selection, a permutation, zero padding, a mean or a sum.

    Attributes:
        function: The map.
    """

    function: Callable[[Tensor], Tensor]

    def linear(self, z: Tensor) -> Tensor:
        """Return W z."""
        return self.function(z)

    def magnitude(self) -> Arrangement:
        """Return the map itself, since W = |W|."""
        return self


class Curve(StrEnum):
    """Elementwise activations that can be bounded."""

    RELU = "ReLU"
    LEAKY_RELU = "LeakyReLU"
    SIGMOID = "sigmoid"
    TANH = "tanh"


@dataclass(frozen=True)
class Activation:
    """A monotone elementwise activation.

    Attributes:
        curve: Its kind.
        slope: Slope below 0, of ReLU and leaky ReLU.
    """

    curve: Curve
    slope: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        if self.bends:
            return F.leaky_relu(z, self.slope)
        return z.sigmoid() if self.curve is Curve.SIGMOID else z.tanh()

    @property
    def bends(self) -> bool:
        """True if the activation is piecewise linear with its bend at 0."""
        return self.curve in (Curve.RELU, Curve.LEAKY_RELU)

    def derivative(self, z: Tensor) -> Tensor:
        """Return the derivative of a smooth activation."""
        if self.curve is Curve.SIGMOID:
            return z.sigmoid() * (1 - z.sigmoid())
        return 1 - z.tanh().square()


@dataclass(frozen=True)
class MaxPool:
    """Max pooling over windows of one or two dimensions.

    Attributes:
        kernel: Sides of the window.
        stride: Steps.
        padding: Padding, which never wins.
        dilation: Distances inside the window.
        ceil: True: windows at the end may reach over the border.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    ceil: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Options of `torch.nn.functional.max_pool1d` and `max_pool2d`."""
        return {
            "kernel_size": list(self.kernel), "stride": list(self.stride), "padding": list(self.padding),
            "dilation": list(self.dilation), "ceil_mode": self.ceil,
        }  # fmt: skip

    def __call__(self, z: Tensor) -> Tensor:
        """Return the largest entry of each window."""
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return pool(z, **self.options)

    def winners(self, z: Tensor) -> Tensor:
        """Return the flat position, within the spatial dimensions, of the largest entry of each window."""
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return pool(z, **self.options, return_indices=True)[1]
