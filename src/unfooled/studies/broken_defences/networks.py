"""Networks that the broken-defences study trains: those inside the defences, and the honest ones beside them.

Interval bound propagation, for one of the honest ones: a linear layer maps the midpoint m and the radius r of an
interval, a monotone layer maps its lower and its upper bound,

    m' = W m + b,   r' = |W| r.

The loss is the mean of CE(f(x), y) and CE(worst, y); `worst` are the logits' lower bound for class y and upper bounds
for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.fgsm import fgsm
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.studies.broken_defences.parts import LEVELS, Around, Step, Winners, ramp, replaced, thermometer
from unfooled.training import Madry, Standard, Trades

Arch = Callable[..., nn.Module]
"""(input_shape, classes) -> module, with `nn.ReLU` layers."""


@dataclass(frozen=True)
class Fgsm:
    """Adversarial training on one full step from x itself: cheap, and apt to fit the step instead of the threat.

    Args:
        threat: Threat of the step.
    """

    threat: Linf

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the batch, a scalar."""
        return F.cross_entropy(model(fgsm(model, x, y, self.threat)), y)


@dataclass(frozen=True)
class Distilled:
    """Cross-entropy to a teacher's probabilities.

    With the student used as 100 f, this is distillation at temperature 100: softmax(100 f / 100) is what is fitted.

    Args:
        teacher: Trained network.
    """

    teacher: nn.Module = field(repr=False)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the batch, a scalar."""
        with torch.no_grad():
            soft = self.teacher(x).softmax(1)
        return F.cross_entropy(model(x), soft)


def bounds(net: nn.Sequential, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate an interval through a sequence of layers.

    Args:
        net: Layers.
        low: Lower bounds of the inputs, (B, *D).
        high: Upper bounds of the inputs, (B, *D).

    Returns:
        Lower and upper bounds of the outputs of all inputs between low and high.

    Raises:
        BadInput: a layer that is neither linear, nor a convolution, nor monotone.

    References:
        Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018,
        arXiv:1810.12715.
    """
    for layer in net:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            middle, radius = layer((low + high) / 2), (high - low) / 2
            if isinstance(layer, nn.Linear):
                radius = F.linear(radius, layer.weight.abs())
            else:
                radius = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
            low, high = middle - radius, middle + radius
        elif isinstance(layer, (nn.ReLU, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d)):
            low, high = layer(low), layer(high)
        else:
            raise BadInput(f"bounds know linear layers, convolutions, ReLU and pooling, not {type(layer).__name__}")
    return low, high


@dataclass(frozen=True)
class Ibp:
    """Half the loss on clean samples, half on the worst case that interval bounds allow.

    Args:
        eps: Radius of the intervals in Linf.

    References:
        Gowal et al. 2018, arXiv:1810.12715. Differs: neither eps nor the weight of the worst case is ramped up.
    """

    eps: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the batch, a scalar."""
        assert isinstance(model, nn.Sequential)
        low, high = bounds(model, (x - self.eps).clamp(0, 1), (x + self.eps).clamp(0, 1))
        is_label = F.one_hot(y, low.shape[1]).bool()
        worst = torch.where(is_label, low, high)
        return (F.cross_entropy(model(x), y) + F.cross_entropy(worst, y)) / 2


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of a network.

    Args:
        build: `(arch, input_shape, classes) -> module`.
        loss: `(eps of the threat, name -> trained network) -> training loss`.
        classes: Number of classes, the first ones; None: all.
        epochs: Factor by which the scale's epochs are multiplied.
        shift: Train on shifted images, too; a network without convolutions is too small for it.
    """

    build: Callable[[Arch, Sequence[int], int], nn.Module]
    loss: Callable[[float, Callable[[str], nn.Module]], TrainingLoss] = lambda eps, network: Standard()
    classes: int | None = None
    epochs: float = 1.0
    shift: bool = True


def _plain(arch: Arch, shape: Sequence[int], k: int) -> nn.Module:
    return arch(shape, k)


def _activation(build: Callable[[], nn.Module], arch: Arch, shape: Sequence[int], k: int) -> nn.Module:
    return replaced(arch(shape, k), nn.ReLU, build)


def _dense(arch: Arch, shape: Sequence[int], k: int) -> nn.Module:
    """Build a network of one hidden layer: bounds stay narrow, so that eps need not be ramped up."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, k))


def _normalised(arch: Arch, shape: Sequence[int], k: int) -> nn.Module:
    """Build a network with batch normalisation."""
    c, h, w = shape
    after = 16 * (-(-h // 2)) * (-(-w // 2))
    return nn.Sequential(
        nn.Conv2d(c, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(after, k)
    )


RECIPES: dict[str, Recipe] = {
    "standard": Recipe(_plain),
    "thermometer": Recipe(lambda arch, s, k: Around(arch((LEVELS * s[0], *s[1:]), k), before=thermometer)),
    "distilled": Recipe(_plain, lambda eps, network: Distilled(network("standard"))),
    "k-winners": Recipe(partial(_activation, Winners), epochs=1.5),
    "step": Recipe(partial(_activation, partial(Step, through=True)), epochs=2),
    "clamped": Recipe(lambda arch, s, k: Around(arch(s, k), before=ramp)),
    "fgsm": Recipe(_plain, lambda eps, network: Fgsm(Linf(eps))),
    "batch-norm": Recipe(_normalised),
    "pgd-at, half eps": Recipe(_plain, lambda eps, network: Madry(Linf(eps / 2), steps=5), epochs=1.5),
    "pgd-at": Recipe(_plain, lambda eps, network: Madry(Linf(eps), steps=5), epochs=1.5),
    "trades, half eps": Recipe(_plain, lambda eps, network: Trades(Linf(eps / 2), steps=5), epochs=1.5),
    "trades": Recipe(_plain, lambda eps, network: Trades(Linf(eps), steps=5), epochs=1.5),
    "ibp": Recipe(_dense, lambda eps, network: Ibp(eps / 2), epochs=2, shift=False),
    "linear": Recipe(lambda arch, s, k: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(s), k)), shift=False),
    "two classes": Recipe(_plain, classes=2),
    "softplus": Recipe(partial(_activation, partial(nn.Softplus, beta=5.0))),
}
"""Name -> recipe. A loss may use networks of other recipes."""

HONEST = ("pgd-at, half eps", "pgd-at", "trades, half eps", "trades", "ibp")
"""Recipes that get the eps at which honest networks are judged; the FGSM network gets the eps of the defences."""
