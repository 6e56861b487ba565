"""Attributes as coordinates of a network's decision, in units of their switches.

The switch of an attribute, gap, is its mean value where it is present minus that where it is absent. In a concept
network the coordinates are its attribute logits e in switches: u = e / gap, l = (W gap) u + b. In any other network,
probes read scores s = V z + b_s off the features z that its last linear layer W takes. With F the attributes that may
change and K those that must not,

    D = (V_F N)^+,  N = I - V_K^+ V_K          the change of z per unit of s_F, while s_K stays exactly as it is
    l = W D s_F + r                            r: the part of the logits that no attribute in F explains

so the head is affine on (s / gap, r / std), and the geometry of `flips` and `targeted` applies, with r immutable.
Exclusive attributes do not move one at a time: an edit t of s_F becomes V_F D t, the change of the scores that the
features permit.

Edits are the smallest in l_1, so that few attributes change, and go at most one switch beyond the values seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.attributes import switches
from unfooled.counterfactuals.binary import flip_attributes
from unfooled.counterfactuals.cost import Cost
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.flips import flip_edit
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.probes import FOLDS, USABLE, Probe, fit_probe
from unfooled.counterfactuals.targeted import targeted_edit

BEYOND = 1.0
"""Switches by which an edit may leave the range of the values seen."""
DEPENDENT = 1e-3
"""Singular value, relative to the largest, below which directions of attributes count as dependent."""


class AucRows(StrEnum):
    """Images on which the AUC of an attribute was computed."""

    HELD_OUT = "held_out"
    """Images that its logit, or its probe, was not trained on."""
    TRAINING = "training"
    """Images of which some, or all, were trained on."""
    UNKNOWN = "unknown"
    """Images of a table; which images the network was trained on is not known."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of inputs: an affine map of features. A callable, x -> (B, m).

    Attributes:
        model: Features of inputs, (b, *D) -> (b, n).
        weight: A, (m, n).
        bias: (m,).
    """

    model: Callable[[Tensor], Tensor]
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coordinates of inputs. Cost: 1 forward."""
        z = self.model(x)
        return torch.nn.functional.linear(z, self.weight.to(z), self.bias.to(z))


@dataclass(frozen=True, eq=False)
class AttributeSpace:
    """Attributes of a network, as coordinates on which its decision is affine.

    Attributes:
        names: Names of the attributes, p.
        encode: Coordinates of inputs, x -> (B, m): the p attributes in switches first.
        head: The head on these coordinates.
        auc: Area under the ROC curve of each attribute, (p,); NaN where it is constant.
        usable: Attributes with an AUC of at least .8, (p,) bool; nothing is claimed about the others.
        immutable: Attributes that must stay, (p,) bool.
        gap: Switch of each attribute in its own units, (p,).
        middle: Value from which on an attribute counts as present, in switches, (p,).
        low, high: Range of the values seen, in switches, (m,).
        auc_rows: Images on which the AUC of each attribute was computed, p.
        moves: V_F D in switches, (p, p): the change of every attribute that comes with an edit of some. None: an edit
            changes only the attributes that it names.
        again: Builds the space for other attributes that must stay. None: the coordinates do not depend on these.
    """

    names: tuple[str, ...]
    encode: Coordinates
    head: AffineHead
    auc: Tensor
    usable: Tensor
    immutable: Tensor
    gap: Tensor
    middle: Tensor
    low: Tensor
    high: Tensor
    auc_rows: tuple[AucRows, ...] = ()
    moves: Tensor | None = None
    again: Callable[[Sequence[str]], AttributeSpace] | None = None

    @property
    def free(self) -> Tensor:
        """Attributes that an edit may change, (p,) bool."""
        return self.usable & ~self.immutable

    @property
    def left_out(self) -> Tensor:
        """Attributes with too few images of one value, (p,) bool: they have no switch and no AUC."""
        return self.auc.isnan()

    def keeping(self, keep: Sequence[str]) -> AttributeSpace:
        """Return the same attributes with others that must stay.

        Args:
            keep: Names of the attributes that must stay.
        """
        if self.again is not None:
            return self.again(keep)
        return replace(self, immutable=_mask(keep, self.names))

    def _fixed(self) -> Tensor:
        """Return which coordinates stay, (m,) bool."""
        mask = torch.ones(self.head.n, dtype=torch.bool)
        mask[: len(self.names)] = ~self.free
        return mask

    def edit(self, u: Tensor, target: int | None = None, *, beyond: float = BEYOND) -> Edit:
        """Return the smallest edits, in switches, that lead to a class.

        Args:
            u: Coordinates, (B, m).
            target: The class. None: any other than the one predicted.
            beyond: Switches by which an edit may leave the range of the values seen.

        Returns:
            Edits whose cost is their sum of switches: the least, or an upper bound where attributes are dependent.
        """
        u = u.detach().cpu().double()
        low = torch.minimum(self.low - beyond, u)
        high = torch.maximum(self.high + beyond, u)
        cost = Cost(low=low, high=high, immutable=self._fixed())
        if target is None:
            edit = flip_edit(self.head, u, norm=1, cost=cost)
        else:
            edit = targeted_edit(self.head, u, target, norm=1, cost=cost)
        if self.moves is None:
            return edit
        p = len(self.names)
        delta = edit.delta.clone()
        delta[:, :p] = delta[:, :p] @ self.moves.T
        delta[delta.abs() < 1e-9] = 0.0
        changed = (delta - edit.delta).abs().amax(1) > 1e-9
        size = torch.where(changed & edit.feasible, delta.abs().sum(1), edit.cost)
        return replace(edit, delta=delta, cost=size, exact=edit.exact & ~changed)

    def flip(self, u: Tensor, target: int | None = None) -> Edit:
        """Return the fewest attributes of one sample to flip, each by one switch.

        Args:
            u: Coordinates of the sample, (m,).
            target: Class that shall be predicted. None: any but the one predicted now.
        """
        u = u.detach().cpu().double()
        bits = torch.zeros_like(u)
        p = len(self.names)
        bits[:p] = ((u[:p] >= self.middle) & self.free).double()
        shifted = AffineHead(self.head.weight, self.head.bias + self.head.weight @ (u - bits))
        return flip_attributes(shifted, bits[None], target=target, cost=Cost(immutable=self._fixed()))


def concept_space(
    features: Callable[[Tensor], Tensor], head: AffineHead, e: Tensor, attributes: Tensor, names: Sequence[str],
    keep: Sequence[str] = (), *, unseen: Tensor | None = None,
) -> AttributeSpace:  # fmt: skip
    """Return the attributes of a concept network.

    Nothing is fitted, so that every image may serve; but AUC on images that the network was trained on says little
    about others. It is computed on the unseen images; on all of them for an attribute with fewer than five unseen
    images of one value.

    Args:
        features: Its attribute logits, (b, *D) -> (b, n).
        head: Its head on these.
        e: Attribute logits of images, (N, n).
        attributes: Their true attributes, 0 or 1, (N, n); NaN: unknown.
        names: Names of the attributes.
        keep: Names of those that must stay.
        unseen: Images that the network was not trained on, (N,) bool. None: unknown.

    Raises:
        BadInput: No attribute is left that may change.
    """
    e = e.detach().cpu().double()
    auc, gap = _auc_of(e, attributes), switches(e, attributes)
    rows = [AucRows.UNKNOWN if unseen is None else AucRows.TRAINING] * len(gap)
    if unseen is not None:
        held_out = _auc_of(e[unseen], attributes[unseen])
        auc = torch.where(held_out.isnan(), auc, held_out)
        rows = [AucRows.HELD_OUT if good else row for good, row in zip((~held_out.isnan()).tolist(), rows, strict=True)]
    usable, gap = _usable(auc, gap)
    space = AttributeSpace(
        tuple(names), Coordinates(features, torch.diag(1 / gap), torch.zeros(len(gap))),
        AffineHead(head.weight * gap, head.bias, head.classes, names), auc, usable, _mask(keep, names), gap,
        torch.zeros(len(gap), dtype=torch.float64), (e / gap).amin(0), (e / gap).amax(0), tuple(rows),
    )  # fmt: skip
    _check_names(space.names, auc, usable, space.immutable)
    return space


def probe_space(
    features: Callable[[Tensor], Tensor], head: AffineHead, z: Tensor, attributes: Tensor, names: Sequence[str],
    keep: Sequence[str] = (),
) -> AttributeSpace:  # fmt: skip
    """Return attributes that probes read off the features of a network that was trained without them.

    Args:
        features: Inputs of its last linear layer, (b, *D) -> (b, n).
        head: That layer.
        z: Features of images, (N, n).
        attributes: Their attributes, 0 or 1, (N, p); NaN: unknown.
        names: Names of the attributes.
        keep: Names of those that must stay.

    Raises:
        BadInput: Features and attributes do not pair up, or no attribute is left that may change.
    """
    z = z.detach().cpu().double()
    probe = fit_probe(z, attributes)
    usable, gap = _usable(probe.auc, switches(probe.logits(z), attributes))
    return _probed(features, head, z, _Probed(probe, usable, gap), names, keep)


@dataclass(frozen=True, eq=False)
class _Probed:
    """Probes of attributes, those of them that can be used, (p,) bool, and their switches, (p,)."""

    probe: Probe
    usable: Tensor
    gap: Tensor


def _probed(
    features: Callable[[Tensor], Tensor], head: AffineHead, z: Tensor, probed: _Probed, names: Sequence[str],
    keep: Sequence[str],
) -> AttributeSpace:  # fmt: skip
    """Return the space of probes that are fitted already; see `probe_space`."""
    probe, usable, gap = probed.probe, probed.usable, probed.gap
    scores, immutable = probe.logits(z), _mask(keep, names)
    free = usable & ~immutable
    _check_names(names, probe.auc, usable, immutable)
    directions, offsets = probe.weight / gap[:, None], probe.bias / gap
    moves, wide = _moves(directions, free, usable & immutable, z.std(0))
    into = head.weight @ wide  # (c, p): logits per switch
    rest_weight, rest_bias = head.weight - into @ directions, head.bias - into @ offsets
    rest = z @ rest_weight.T + rest_bias
    unit = rest.std(0).clamp(min=1e-6 * float(rest.std(0).max()) + 1e-12)
    encode = Coordinates(
        features, torch.cat([directions, rest_weight / unit[:, None]]), torch.cat([offsets, rest_bias / unit])
    )
    joined = AffineHead(torch.cat([into, torch.diag(unit)], 1), torch.zeros(head.c), head.classes)
    seen = torch.cat([scores / gap, rest / unit], 1)
    return AttributeSpace(
        tuple(names), encode, joined, probe.auc, usable, immutable, gap, 0.5 / gap, seen.amin(0), seen.amax(0),
        (AucRows.HELD_OUT,) * len(names), moves, partial(_probed, features, head, z, probed, names),
    )  # fmt: skip


def _moves(directions: Tensor, free: Tensor, immutable: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return V D, (p, p), and D, (n, p), zero for attributes that do not change.

    Lengths of features are measured in standard deviations.
    """
    p, n = directions.shape
    scaled = directions * spread
    stay = torch.eye(n, dtype=torch.float64)
    if immutable.any():
        stay = stay - torch.linalg.pinv(scaled[immutable], rtol=DEPENDENT) @ scaled[immutable]
    wide = torch.zeros(n, p, dtype=torch.float64)
    wide[:, free] = spread[:, None] * torch.linalg.pinv(scaled[free] @ stay, rtol=DEPENDENT)
    moves = torch.zeros(p, p, dtype=torch.float64)
    moves[free] = directions[free] @ wide
    return moves, wide


def _usable(auc: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Return which attributes can be used, and switches in which the others have the mean of these."""
    usable = (auc >= USABLE) & (gap > 0)
    mean = gap[usable].mean() if usable.any() else gap.new_ones(())
    return usable, torch.where(usable, gap, mean)


def _auc_of(e: Tensor, attributes: Tensor) -> Tensor:
    """Return the area under the ROC curve of each logit, (n,); NaN with fewer than five samples of one value."""
    from sklearn.metrics import roc_auc_score

    areas = torch.full((e.shape[1],), torch.nan, dtype=torch.float64)
    for f, truth in enumerate(attributes.double().unbind(1)):
        known = ~truth.isnan()
        if min(int((truth[known] == value).sum()) for value in (0, 1)) >= FOLDS:
            areas[f] = float(roc_auc_score(truth[known].numpy(), e[known, f].numpy()))
    return areas


def _mask(keep: Sequence[str], names: Sequence[str]) -> Tensor:
    return torch.tensor([name in keep for name in names], dtype=torch.bool)


def _check_names(names: Sequence[str], auc: Tensor, usable: Tensor, immutable: Tensor) -> None:
    """Refuse attributes of which none may change, and say why."""
    if (usable & ~immutable).any():
        return
    poor = [f"{n} {a:.2f}" for n, a, ok in zip(names, auc.tolist(), usable.tolist(), strict=True) if not ok and a == a]
    bad, few = len(poor), int(auc.isnan().sum())
    parts = [f"{bad} cannot be read off the network (AUC below {USABLE:g}: {', '.join(poor[:3])})"] if bad else []
    parts += [f"{few} have fewer than {FOLDS} images of one value"] if few else []
    parts += [f"{int((usable & immutable).sum())} must stay"] if (usable & immutable).any() else []
    raise BadInput(
        f"no attribute may change: of {len(names)}, {', '.join(parts)}; give other attributes or more images"
    )
