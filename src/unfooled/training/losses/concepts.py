"""Joint training of concept models: attributes and label at once, plain, under attack, and in a ball of concepts.

    L(x) = label CE(W e + b, y) + attribute BCE(e, a),      e = g(x), the input of the network's linear head

BCE is the mean over the attributes that are known. The `y` of these losses carries row numbers, as in
`Batches(x, torch.arange(len(x)))`: labels and attributes are looked up by row.

References:
    Koh et al., Concept bottleneck models, ICML 2020, arXiv:2007.04612 (joint training).
    Sinha et al., Understanding and enhancing robustness of concept-based models, AAAI 2023, arXiv:2211.16080 (attacks
    on the joint loss).
    adityaSridharr/SPECTRA (the weights .3 and .7).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.threats import Threat
from unfooled.core.types import TrainingLoss
from unfooled.training.losses.inner import at_least, worst_points
from unfooled.training.losses.standard import Standard
from unfooled.training.progress import base_of

OBJECTIVES = ("both", "label", "attribute")
"""Parts of the joint loss that the inner attack can maximise."""


class Joint(Protocol):
    """A loss with the labels and attributes of all rows, and the joint loss of one batch."""

    @property
    def labels(self) -> Tensor:
        """Labels of all rows, (N,) int64."""
        ...

    @property
    def attributes(self) -> Tensor:
        """Attributes of all rows, (N, A)."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor, /) -> Tensor:
        """Return the loss of the batch, a scalar."""
        ...


def head_of(model: Any, attributes: int) -> nn.Linear:
    """Return the last linear layer of a network.

    Args:
        model: Network, or a wrapper of one.
        attributes: Number of attributes, which the layer must take.

    Raises:
        BadInput: There is no linear layer, or the last one takes another number of features.
    """
    linear = [(name, m) for root in modules_of(model) for name, m in root.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise BadInput("the network has no linear layer to be its head; concept losses train one, such as concept-cnn")
    name, head = linear[-1]
    if head.in_features != attributes:
        raise BadInput(
            f"the last linear layer, {name}, takes {head.in_features} features, and there are {attributes} attributes; "
            "build the network with as many, such as ConceptCnn(attributes=...)"
        )
    return head


def concept_logits(model: nn.Module, x: Tensor, attributes: int) -> tuple[Tensor, Tensor]:
    """Return the attribute logits e, (B, n), which the head takes, and the logits, (B, K). Cost: 1 forward."""
    seen: list[Tensor] = []
    handle = head_of(model, attributes).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        logits = model(x)
    finally:
        handle.remove()
    if not seen:
        raise BadInput("the forward pass does not call the network's last linear layer, which should be its head")
    return seen[-1].to(x.dtype), logits.to(x.dtype)


def attribute_loss(e: Tensor, a: Tensor) -> Tensor:
    """Return the binary cross-entropy of each sample, the mean over its known attributes, (B,).

    Args:
        e: Attribute logits, (B, n).
        a: Attributes in [0, 1], (B, n); NaN: unknown.
    """
    known = ~a.isnan()
    each = F.binary_cross_entropy_with_logits(e, a.nan_to_num(0.0).to(e.dtype), reduction="none")
    return (each * known).sum(1) / known.sum(1).clamp(min=1)


def check_concepts(labels: Tensor, attributes: Tensor, **weights: float) -> None:
    """Refuse labels and attributes that do not pair up, attributes outside [0, 1], and negative weights."""
    if not isinstance(attributes, Tensor) or attributes.ndim != 2 or not attributes.is_floating_point():
        given = tuple(attributes.shape) if isinstance(attributes, Tensor) else type(attributes).__name__
        raise BadInput(f"attributes is {given}; it must be (N, n), floating point in [0, 1], NaN where unknown")
    if len(labels) != len(attributes):
        raise BadInput(f"there are {len(labels)} labels and attributes for {len(attributes)} rows; they must pair up")
    if len(labels):
        check_labels(labels, len(labels))
    known = attributes[~attributes.isnan()]
    if len(known) and not 0 <= float(known.min()) <= float(known.max()) <= 1:
        raise BadInput(
            f"attributes lie in [{float(known.min()):.4g}, {float(known.max()):.4g}]; they must lie in [0, 1], NaN "
            "where unknown"
        )
    at_least(0, **weights)


def looked_up(loss: Joint, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels, (B,), and the attributes, (B, n), of row numbers.

    Raises:
        BadInput: A number is no row of the labels.
    """
    at = rows.to(loss.labels.device)
    if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(loss.labels):
        raise BadInput(
            f"y lies in [{int(at.min())}, {int(at.max())}], and the loss has {len(loss.labels)} rows; the y of a "
            "concept loss carries row numbers: Batches(x, torch.arange(len(x)))"
        )
    return loss.labels[at].to(rows.device), loss.attributes[at].to(rows.device)


def takes_rows(loss: Any) -> bool:
    """Return whether the `y` of a loss carries row numbers, because it is a concept loss or contains one."""
    inside = getattr(loss, "loss", None) or base_of(loss)
    return (hasattr(loss, "attributes") and hasattr(loss, "labels")) or (inside is not None and takes_rows(inside))


def attributes_of(loss: Any) -> Tensor:
    """Return the attributes of all rows of a concept loss, (N, n)."""
    attributes = getattr(loss, "attributes", None)
    return attributes_of(getattr(loss, "loss", None) or base_of(loss)) if attributes is None else attributes


def on_rows(loss: Any, labels: Tensor, attributes: Tensor) -> Any:
    """Return a concept loss, and the losses inside it, with other labels and attributes."""
    changed: dict[str, Any] = {}
    for name in ("loss", "base"):
        inside = getattr(loss, name, None)
        if inside is not None and takes_rows(inside):
            changed[name] = on_rows(inside, labels, attributes)
    if not changed:
        changed = {"labels": labels, "attributes": attributes}
    return replace(loss, **changed)


@dataclass(frozen=True, eq=False)
class ConceptLoss:
    """The joint loss, label * base + attribute * BCE. Cost: 1 forward, 1 backward, with the standard base.

    Args:
        labels: Labels of all rows, (N,) int64.
        attributes: Attributes of all rows in [0, 1], (N, n); NaN: unknown.
        label: Weight of the label's loss. 0: the encoder alone is trained, for a head that is fitted afterwards.
        attribute: Weight of the attributes' loss.
        sparse: Weight of the sum of the absolute weights of the head.
        base: Loss of the label, `(model, x, y)`; any other than `Standard` costs another forward and backward.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
        >>> loss = ConceptLoss(torch.tensor([0, 1]), torch.tensor([[1.0, 0, 1], [0, 1, 1]]))
        >>> loss(net, torch.rand(2, 1, 2, 2), torch.tensor([1, 0])).shape
        torch.Size([])
    """

    labels: Tensor = field(repr=False)
    attributes: Tensor = field(repr=False)
    label: float = field(default=0.3, kw_only=True)
    attribute: float = field(default=0.7, kw_only=True)
    sparse: float = field(default=0.0, kw_only=True)
    base: TrainingLoss = field(default=Standard(), kw_only=True)

    def __post_init__(self) -> None:
        check_concepts(self.labels, self.attributes, label=self.label, attribute=self.attribute, sparse=self.sparse)

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        y, a = looked_up(self, rows)
        e, logits = concept_logits(model, x, a.shape[1])
        loss = self.attribute * attribute_loss(e, a).mean()
        if self.label and isinstance(self.base, Standard):
            loss = loss + self.label * F.cross_entropy(logits, y, label_smoothing=self.base.smoothing)
        elif self.label:
            loss = loss + self.label * self.base(model, x, y)
        if self.sparse:
            loss = loss + self.sparse * head_of(model, a.shape[1]).weight.abs().sum()
        return loss


@dataclass(frozen=True, eq=False)
class _Both:
    """A model that returns its logits and its attribute logits side by side, (B, K + n)."""

    model: nn.Module
    attributes: int

    def __call__(self, x: Tensor) -> Tensor:
        e, logits = concept_logits(self.model, x, self.attributes)
        return torch.cat([logits, e], 1)


@dataclass(frozen=True, eq=False)
class ConceptMadry:
    """The joint loss at the points of the threat that are worst for it. Cost: steps + 2 forwards, steps + 1 backwards.

    Args:
        labels: Labels of all rows, (N,) int64.
        attributes: Attributes of all rows in [0, 1], (N, n); NaN: unknown.
        threat: Constraint set of the adversary.
        label: Weight of the label's loss.
        attribute: Weight of the attributes' loss.
        attack: Objective of the adversary: "both", "label" (cross-entropy) or "attribute" (binary cross-entropy).
        steps: Steps of the inner attack.
        rule: Step sizes of the inner attack, relative to eps.
    """

    labels: Tensor = field(repr=False)
    attributes: Tensor = field(repr=False)
    threat: Threat
    label: float = field(default=0.3, kw_only=True)
    attribute: float = field(default=0.7, kw_only=True)
    attack: str = field(default="both", kw_only=True)
    steps: int = field(default=7, kw_only=True)
    rule: Rule = field(default=Constant(0.25), kw_only=True)

    def __post_init__(self) -> None:
        check_concepts(self.labels, self.attributes, label=self.label, attribute=self.attribute)
        if self.attack not in OBJECTIVES:
            raise BadInput(f"attack is {self.attack!r}; it must be {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}")

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.outer(model, rows, self.inner(model, x, rows))

    def inner(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the points to train on, (B, *D)."""
        both: Any = _Both(model, self.attributes.shape[1])
        label = self.label * (self.attack != "attribute")
        attribute = self.attribute * (self.attack != "label")

        def joint(outputs: Tensor, at: Tensor) -> Tensor:
            return self._each(outputs, at, label, attribute)

        return worst_points(both, x, rows, self.threat, loss=joint, steps=self.steps, rule=self.rule)

    def outer(self, model: nn.Module, rows: Tensor, z: Tensor) -> Tensor:
        """Return the loss at these points, a scalar."""
        outputs = _Both(model, self.attributes.shape[1])(z)
        return self._each(outputs, rows, self.label, self.attribute).mean()

    def _each(self, outputs: Tensor, rows: Tensor, label: float, attribute: float) -> Tensor:
        """Return the weighted loss of each sample, (B,), from logits and attribute logits side by side."""
        y, a = looked_up(self, rows)
        logits, e = outputs.split([outputs.shape[1] - a.shape[1], a.shape[1]], 1)
        return label * F.cross_entropy(logits, y, reduction="none") + attribute * attribute_loss(e, a)


@dataclass(frozen=True, eq=False)
class ConceptBall:
    """The joint loss with the worst label loss in a ball of attribute logits, in closed form. Cost: 1 forward, 1 backward.

        max_{||u||_p <= rho} CE(W (e + u) + b, y)  <=  CE(l_k + rho ||w_k - w_y||_q  for k != y),      1/p + 1/q = 1

    The bound is attained for two classes.

    Args:
        labels: Labels of all rows, (N,) int64.
        attributes: Attributes of all rows in [0, 1], (N, n); NaN: unknown.
        rho: Radius of the ball, in attribute logits.
        p: Norm of the ball: 1, 2 or infinity.
        label: Weight of the label's loss.
        attribute: Weight of the attributes' loss.
    """  # noqa: E501

    labels: Tensor = field(repr=False)
    attributes: Tensor = field(repr=False)
    rho: float = field(default=1.0, kw_only=True)
    p: float = field(default=2.0, kw_only=True)
    label: float = field(default=0.3, kw_only=True)
    attribute: float = field(default=0.7, kw_only=True)

    def __post_init__(self) -> None:
        check_concepts(self.labels, self.attributes, label=self.label, attribute=self.attribute, rho=self.rho)
        if self.p not in (1, 2, float("inf")):
            raise BadInput(f"p is {self.p}; the norm of the ball is 1, 2 or infinity")

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        y, a = looked_up(self, rows)
        e, logits = concept_logits(model, x, a.shape[1])
        worst = worst_logits(logits, head_of(model, a.shape[1]).weight, y, self.rho, self.p)
        return self.label * F.cross_entropy(worst, y) + self.attribute * attribute_loss(e, a).mean()


def worst_logits(logits: Tensor, weight: Tensor, y: Tensor, rho: float, p: float = 2.0) -> Tensor:
    """Return l_k + rho ||w_k - w_y||_q, (B, K): each class's largest gain on the label in a ball of radius rho."""
    dual = {1: float("inf"), 2: 2.0, float("inf"): 1.0}[p]
    apart = weight - weight[y][:, None]
    # The norm has no gradient at 0, which the label's own row is.
    apart = torch.where(apart.abs().amax(2, keepdim=True) > 0, apart, torch.ones_like(apart))
    gain = torch.linalg.vector_norm(apart, ord=dual, dim=2)
    return logits + rho * gain.masked_fill(F.one_hot(y, logits.shape[1]).bool(), 0.0)
