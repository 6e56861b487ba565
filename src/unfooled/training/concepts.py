"""Heads that are fitted after the encoder: sequential, independent, and sparse; leakage of a concept model.

    sequential     the head is fitted to the attribute logits e = g(x) of an encoder trained on attributes alone
    independent    the head is fitted to the true attributes; attribute f counts as its mean logit where it is present
                   or absent, so that the head stays affine in e
    sparse         min  mean CE(W e + b, y) + l2 ||W||^2 / 2 + l1 ||W||_1,  weights that are not needed exactly 0

Joint training is `ConceptLoss`; `ConceptLoss(label=0)` trains the encoder alone. The objective of a head is convex, and
is minimised on standardised features, see `unfooled.statistics.softmax`.

References:
    Koh et al., Concept bottleneck models, ICML 2020, arXiv:2007.04612 (joint, sequential, independent).
    Wong et al., Leveraging sparse linear layers for debuggable deep networks, ICML 2021, arXiv:2105.04857.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput
from unfooled.statistics.attributes import means_by_presence
from unfooled.statistics.softmax import fit_softmax
from unfooled.training.losses.inner import at_least

TINY = 1e-6


@dataclass(frozen=True, eq=False)
class FittedHead:
    """An affine head, l = W e + b.

    Attributes:
        weight: W, (K, n).
        bias: b, (K,).
        accuracy: Accuracy on the samples that it was fitted to.
        nonzero: Share of the weights that are not 0.
    """

    weight: Tensor
    bias: Tensor
    accuracy: float
    nonzero: float

    def into(self, head: nn.Linear) -> None:
        """Write the weights into a linear layer, in place."""
        if head.weight.shape != self.weight.shape:
            sizes = f"{tuple(head.weight.shape)} weights, and the fitted head {tuple(self.weight.shape)}"
            raise BadInput(f"the layer has {sizes}; build the network with as many attributes and classes")
        with torch.no_grad():
            head.weight.copy_(self.weight)
            head.bias.copy_(self.bias)


def fit_head(
    e: Tensor, y: Tensor, classes: int | None = None, *, l1: float = 0.0, l2: float = 1e-4, steps: int = 500
) -> FittedHead:
    """Fit an affine head by multinomial logistic regression.

    Args:
        e: Features, (N, n): attribute logits, or true attributes.
        y: Labels, (N,) int64.
        classes: Number of classes, K. None: the largest label plus one.
        l1: Weight of the sum of absolute weights, in units of standardised features; larger is sparser.
        l2: Weight of half the sum of squared weights, likewise.
        steps: Steps of the minimisation.

    Raises:
        BadInput: Features and labels do not pair up, there is one class, or features are not finite.

    Example:
        >>> e = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [2.0, 0.1], [-2.0, 0.0]])
        >>> fit_head(e, torch.tensor([0, 1, 0, 1])).accuracy
        1.0
    """
    at_least(0, l1=l1, l2=l2)
    if e.ndim != 2:
        raise BadInput(f"the features have shape {tuple(e.shape)}; they must be (N, n)")
    check_labels(y, len(e))
    if not torch.isfinite(e).all():
        raise BadInput("the features hold NaN or infinite values; leave such samples out")
    k = max(int(y.max()) + 1, classes or 0)
    if len(y.unique()) < 2:
        raise BadInput("all samples have one label; a head needs two classes")
    mean, deviation = e.mean(0), e.std(0, unbiased=False)
    scale = torch.where(deviation > TINY, 1 / deviation.clamp(min=TINY), torch.zeros_like(deviation))
    weight, bias = fit_softmax(((e - mean) * scale).double(), y, k, l1=l1, l2=l2, steps=steps)
    weight = weight.to(e.dtype) * scale
    bias = bias.to(e.dtype) - weight @ mean
    right = (F.linear(e, weight, bias).argmax(1) == y).float().mean()
    return FittedHead(weight, bias, float(right), float((weight != 0).float().mean()))


def mean_logits(e: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean logit of each attribute where it is absent, and where it is present, (n,) each.

    Args:
        e: Attribute logits, (N, n).
        a: True attributes in [0, 1], (N, n); NaN: unknown; present from .5 on.

    Returns:
        Absent and present; NaN for an attribute that is never, or always, present.
    """
    if e.shape != a.shape:
        raise BadInput(f"attribute logits are {tuple(e.shape)}, attributes are {tuple(a.shape)}; they must pair up")
    arrays = [values.detach().cpu().double().numpy() for values in (e, a)]
    absent, present = (torch.from_numpy(mean).to(e) for mean in means_by_presence(*arrays))
    return absent, present


def as_logits(a: Tensor, e: Tensor) -> Tensor:
    """Write true attributes as logits, (N, n): each as its mean logit where it is absent or present.

    An unknown attribute, and one that does not vary, counts as its mean logit.
    """
    absent, present = mean_logits(e, a)
    written = absent + (present - absent) * a
    return torch.where(written.isnan(), e.mean(0).expand_as(e), written)


def independent_head(
    e: Tensor, a: Tensor, y: Tensor, classes: int | None = None, *, l1: float = 0.0, l2: float = 1e-4
) -> FittedHead:
    """Fit a head to the true attributes, written as logits.

    Args:
        e: Attribute logits, (N, n).
        a: True attributes in [0, 1], (N, n); NaN: unknown.
        y: Labels, (N,) int64.
        classes: Number of classes. None: the largest label plus one.
        l1: As in `fit_head`.
        l2: As in `fit_head`.
    """
    return fit_head(as_logits(a, e), y, classes, l1=l1, l2=l2)


@dataclass(frozen=True)
class Leakage:
    """Accuracy of a head on predicted and on true attributes.

    Attributes:
        predicted: Accuracy on the attribute logits.
        true: Accuracy on the true attributes, written as logits. Far below `predicted`: the logits carry information
            that the attributes do not.
    """

    predicted: float
    true: float

    @property
    def gap(self) -> float:
        """Accuracy that is lost when true attributes take the place of logits."""
        return self.predicted - self.true


def leakage(weight: Tensor, bias: Tensor, e: Tensor, a: Tensor, y: Tensor) -> Leakage:
    """Compare a head's accuracy on attribute logits with that on the true attributes.

    Args:
        weight: W, (K, n).
        bias: b, (K,).
        e: Attribute logits, (N, n).
        a: True attributes in [0, 1], (N, n).
        y: Labels, (N,).
    """

    def right(features: Tensor) -> float:
        return float((F.linear(features, weight, bias).argmax(1) == y).float().mean())

    return Leakage(right(e), right(as_logits(a, e)))
