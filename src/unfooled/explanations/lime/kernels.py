"""Kernels: weights of masks by their distance from the mask that shows every feature.

    cosine     exp(-d^2 / (2 w^2)),  d = 1 - sqrt(k / M)        k of M features are shown (images and text in LIME)
    l2         exp(-d^2 / (2 w^2)),  d = sqrt(M - k)            w = .75 sqrt(M) (tables in LIME)
    hamming    exp(-d^2 / (2 w^2)),  d = (M - k) / M
    uniform    1

At the widths of LIME the weights hardly differ, and the samplers set the neighbourhood themselves, so `uniform` is the
default; `width_for` finds the width for a given share of effective samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unfooled.core.errors import BadInput

Kernel = Callable[[Tensor], Tensor]
"""Masks (S, M) -> weights (S,), float64."""


def uniform(z: Tensor) -> Tensor:
    """Return the weight 1 for every mask."""
    return torch.ones(len(z), dtype=torch.float64)


def cosine_kernel(width: float = 0.25) -> Kernel:
    """Return the kernel of the cosine distance."""
    return partial(cosine, width=_checked(width))


def l2_kernel(width: float | None = None) -> Kernel:
    """Return the kernel of the Euclidean distance; None: width .75 sqrt(M)."""
    return partial(euclidean, width=None if width is None else _checked(width))


def hamming_kernel(width: float = 0.25) -> Kernel:
    """Return the kernel of the share of hidden features."""
    return partial(hamming, width=_checked(width))


def cosine(z: Tensor, *, width: float) -> Tensor:
    """Return the weights by cosine distance; the mask that shows nothing has distance 1."""
    return _gauss(1 - (_shown(z) / max(1, z.shape[1])).sqrt(), width)


def euclidean(z: Tensor, *, width: float | None = None) -> Tensor:
    """Return the weights by Euclidean distance."""
    features = max(1, z.shape[1])
    return _gauss((z.shape[1] - _shown(z)).sqrt(), 0.75 * math.sqrt(features) if width is None else width)


def hamming(z: Tensor, *, width: float) -> Tensor:
    """Return the weights by the share of hidden features."""
    return _gauss(1 - _shown(z) / max(1, z.shape[1]), width)


def of_size(kernel: Kernel, features: int) -> Tensor:
    """Return a kernel's weight for each number of shown features, (M + 1,)."""
    return kernel(torch.arange(features) < torch.arange(features + 1)[:, None])


def width_for(ess: float, features: int, kernel: Callable[[float], Kernel] = cosine_kernel) -> float:
    """Return the width at which masks of independent fair bits have a share `ess` of effective samples.

    Args:
        ess: Effective sample size divided by the number of samples, in (0, 1).
        features: Number of features.
        kernel: Function from a width to a kernel.
    """
    if not 0 < ess < 1 or features < 1:
        raise BadInput(f"ess is {ess}, features {features}; ess is a share in (0, 1), of at least 1 feature")
    k = torch.arange(features + 1, dtype=torch.float64)
    log_count = math.lgamma(features + 1) - torch.lgamma(k + 1) - torch.lgamma(features - k + 1)
    share = log_count.softmax(0)

    def reached(width: float) -> float:
        pi = of_size(kernel(width), features)
        pi = pi / pi.amax()
        return float((share @ pi) ** 2 / (share @ pi**2))

    low, high = 1e-3, 1e3 * math.sqrt(features)
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if reached(middle) < ess else (low, middle)
    return high


def _shown(z: Tensor) -> Tensor:
    """Return the number of features shown, (S,) float64."""
    return z.sum(1).to(torch.float64)


def _gauss(distance: Tensor, width: float) -> Tensor:
    """Return exp(-d^2 / (2 w^2))."""
    return torch.exp(-(distance**2) / (2 * width**2))


def _checked(width: float) -> float:
    """Refuse widths that are not positive."""
    if not (math.isfinite(width) and width > 0):
        raise BadInput(f"the kernel's width is {width}; it must be above 0")
    return width
