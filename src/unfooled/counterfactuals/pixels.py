"""Edits of attributes carried to inputs: is there an input whose attributes change as the edit asks?

    min over z in threat   ||(g(z) - e - delta) / gap||_2 + kappa relu( max_{k != j} l_k(z) - l_j(z) + m )

g(z) are the attribute logits, e = g(x), j the target, m its margin, gap the switch of each attribute: its mean logit
where it is present minus where it is absent. The target is part of the objective, since the input that matches the
edited attributes best usually does not change the label. kappa weighs the label against the attributes. Of several
kappas, the result is that of the smallest with which the target is predicted; `curve` lists the results of all.

`match_edit` is the other problem, all attributes and no label, by Levenberg-Marquardt steps:

    d = J^T (J J^T + mu I)^-1 r,      ||d|| <= trust,      r = (e + delta - g(z)) / gap,  J = d (g / gap) / d z

References:
    adityaSridharr/SPECTRA (images rebuilt from edited attributes; there without a threat and without the label).
    Marquardt, An algorithm for least-squares estimation of nonlinear parameters, SIAM 1963.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.ascent import Decaying
from unfooled.core.checks import check_inputs, check_mode, check_threat
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import batched
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.head import AffineHead

Encode = Callable[[Tensor], Tensor]
Invert = Callable[..., Any]
"""`features.invert_features`, whose result has `.x` and `.steps_used`."""

KAPPA = (1.0, 5.0, 30.0)
RULE = Decaying(first=0.2, last=0.002, absolute=True)
MAX_ATTRIBUTES = 64
"""Largest number of attributes for which `match_edit` computes a Jacobian."""


@dataclass(frozen=True, eq=False)
class Carried:
    """Edits carried to inputs at one kappa, one entry per sample.

    Attributes:
        kappa: Weight of the label.
        x: Inputs inside the threat, (B, *D).
        delta: Change of the attribute logits, g(x') - g(x), (B, n).
        residual: ||(g(x') - e - delta) / gap||, (B,).
        valid: Samples for which the head predicts the target, (B,) bool.
        steps: Steps taken, (B,) int64.
    """

    kappa: float
    x: Tensor
    delta: Tensor
    residual: Tensor
    valid: Tensor
    steps: Tensor


@dataclass(frozen=True, eq=False)
class Realized:
    """Edits carried to inputs, one entry per sample.

    Attributes:
        x: Inputs inside the threat, (B, *D), at the least kappa that is valid; at the largest where none is.
        delta: Change of the attribute logits, g(x') - g(x), (B, n).
        residual: ||(g(x') - e - delta) / gap||, (B,).
        valid: Samples for which the head predicts the target, (B,) bool; never for an edit that is not feasible.
        steps: Steps taken at this kappa, (B,) int64.
        kappa: The kappa of x, (B,).
        curve: Results at every kappa, from the least to the largest.
    """

    x: Tensor
    delta: Tensor
    residual: Tensor
    valid: Tensor
    steps: Tensor
    kappa: Tensor
    curve: tuple[Carried, ...]


def replaced_rows(result: Realized, rows: Tensor, other: Realized, others: Tensor) -> Realized:
    """Return a result in which some samples are replaced by those of another search.

    Args:
        result: The result.
        rows: Samples that are replaced, (m,).
        other: Result of the other search, at the same kappas.
        others: Its samples, (m,).
    """

    def merged(one: Any, two: Any) -> dict[str, Any]:
        pairs = {f.name: (getattr(one, f.name), getattr(two, f.name)) for f in fields(one)}
        return {
            name: a.index_copy(0, rows.to(a.device), b[others.to(b.device)])
            for name, (a, b) in pairs.items()
            if isinstance(a, Tensor)
        }

    curve = tuple(replace(a, **merged(a, b)) for a, b in zip(result.curve, other.curve, strict=True))
    return replace(result, curve=curve, **merged(result, other))


@dataclass(frozen=True, eq=False)
class _Problem:
    """Edits, the inputs that they are carried to, and the head that judges the result."""

    encode: Encode
    head: AffineHead
    x: Tensor
    edit: Edit
    gap: Tensor
    batch: int

    def features(self, x: Tensor) -> Tensor:
        """Return the attribute logits of inputs, without a gradient."""
        with torch.no_grad():
            return batched(self.encode, self.batch)(x)

    def result(self, moved: Tensor, *, e: Tensor, goal: Tensor, kappa: float, steps: Tensor) -> Carried:
        """Judge moved inputs.

        Args:
            moved: Inputs after the edit, (B, *D).
            e: Attribute logits of x, (B, n).
            goal: Attribute logits that the edits ask for, (B, n).
            kappa: Weight of the label.
            steps: Steps taken, (B,).
        """
        now = self.features(moved)
        on_target = logits_of(self.head, now).argmax(1) == self.edit.target.to(now.device)
        residual = torch.linalg.vector_norm((now - goal) / self.gap, dim=1)
        return Carried(kappa, moved, now - e, residual, on_target & self.edit.feasible.to(now.device), steps)


class _ScaledFeatures:
    """Features divided by the switches; the last ones are stored, so that a penalty need not compute them again."""

    def __init__(self, encode: Encode, gap: Tensor) -> None:
        self.encode, self.gap = encode, gap
        self.z: Tensor | None = None
        self.model = encode  # so that the modules behind it are found
        self.features: Tensor = gap

    def __call__(self, z: Tensor) -> Tensor:
        self.z, self.features = z, self.encode(z) / self.gap
        return self.features

    def at(self, z: Tensor) -> Tensor:
        return self.features if self.z is z else self(z)


def realize_edit(
    encode: Encode,
    head: AffineHead,
    x: Tensor,
    edit: Edit,
    threat: Threat,
    *,
    invert: Invert,
    gap: Tensor,
    kappa: Sequence[float] = KAPPA,
    margin: float = 0.5,
    steps: int = 200,
    batch: int = 256,
) -> Realized:
    """Carry edits to inputs of the threat in which the target wins.

    Args:
        encode: Attribute logits of inputs, (b, *D) -> (b, n), such as `ConceptCnn.encode`. Not modified.
        head: The affine head on these logits.
        x: Inputs, (B, *D).
        edit: Edits of their attribute logits; those that are not feasible leave x as it is.
        threat: Constraint set of the result; the box is part of it.
        invert: `features.invert_features`, or a function of its signature.
        gap: Switch of each attribute, above 0, (n,).
        kappa: Weights of the label, in attribute switches per logit. Cost: `steps` gradients for each.
        margin: Logits by which the target should win.
        steps: Steps for each kappa.
        batch: Samples computed at once.

    Raises:
        BadInput: x outside the box, shapes that do not agree, a gap that is not above 0, no kappa or one below 0.

    Example:
        `realize_edit(net.encode, head, x, targeted_edit(head, e, 2), L2(3.0), invert=invert_features, gap=gap).valid`
    """
    gap = _checked(encode, x, edit, threat, gap)
    weights = sorted(float(k) for k in kappa)
    if not weights or weights[0] < 0:
        raise BadInput(f"kappa is {list(kappa)}; give at least one weight, none below 0")
    problem = _Problem(encode, head, x, edit, gap, batch)
    search = partial(invert, steps=steps, batch=batch)
    e = problem.features(x)
    curve = tuple(_carried(problem, e, threat, invert=search, kappa=k, margin=margin) for k in weights)
    at = torch.stack([torch.where(c.valid, i, len(curve) - 1) for i, c in enumerate(curve)]).amin(0)

    def pick(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values))[at, torch.arange(len(x), device=at.device)]

    return Realized(
        pick([c.x for c in curve]), pick([c.delta for c in curve]), pick([c.residual for c in curve]),
        pick([c.valid for c in curve]), pick([c.steps for c in curve]),
        torch.tensor(weights, device=at.device)[at], curve,
    )  # fmt: skip


def _carried(problem: _Problem, e: Tensor, threat: Threat, *, invert: Invert, kappa: float, margin: float) -> Carried:
    """Carry the feasible edits to inputs at one kappa."""
    x, edit, gap = problem.x, problem.edit, problem.gap
    rows = edit.feasible.to(x.device).nonzero()[:, 0]
    moved, taken = x.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    goal = e + edit.delta.to(e)
    if len(rows):
        scaled, target = _ScaledFeatures(problem.encode, gap), edit.target.to(x.device)[rows]

        def label_penalty(z: Tensor, at: Tensor) -> Tensor:
            logits = logits_of(problem.head, scaled.at(z) * gap)
            own = F.one_hot(target[at], logits.shape[1]).bool()
            rival = logits.masked_fill(own, -torch.inf).amax(1)
            return kappa * (rival - logits[own] + margin).relu()

        inversion = invert(
            scaled, goal[rows] / gap, x[rows], threat=threat.take(rows), tol=0.0, rule=RULE, penalty=label_penalty
        )
        moved[rows], taken[rows] = inversion.x, inversion.steps_used
    return problem.result(moved, e=e, goal=goal, kappa=kappa, steps=taken)


def logits_of(head: AffineHead, e: Tensor) -> Tensor:
    """Return the head's logits, (B, K), in the precision of e, with a gradient."""
    return F.linear(e, head.weight.to(e), head.bias.to(e))


def match_edit(
    encode: Encode,
    head: AffineHead,
    x: Tensor,
    edit: Edit,
    threat: Threat,
    *,
    gap: Tensor,
    asked: float = 1.0,
    steps: int = 30,
    trust: float = 0.12,
    damping: float = 1e-3,
    batch: int = 256,
) -> Carried:
    """Match all attributes of edits by Levenberg-Marquardt steps, whatever the label becomes.

    More selective than `realize_edit`, and rarely valid. Cost: a forward and n backwards a step.

    Args:
        encode: Attribute logits of inputs, (b, *D) -> (b, n), n at most 64.
        head: The affine head on these logits, by which the result is judged.
        x: Inputs, (B, *D).
        edit: Edits of their attribute logits.
        threat: Constraint set of the result.
        gap: Switch of each attribute, above 0, (n,).
        asked: Multiple of the edit that the search aims at; above 1 more results are valid.
        steps: Steps.
        trust: Longest step, in the l_2 norm of the input; halved for a sample whose residual does not fall.
        damping: mu, relative to the mean squared length of the Jacobian's rows.
        batch: Samples computed at once.

    Returns:
        A `Carried`, with kappa 0; its residual is that to the edit itself, not to the multiple.

    Raises:
        BadInput: As `realize_edit`, or more than 64 attributes.
    """
    gap = _checked(encode, x, edit, threat, gap)
    if len(gap) > MAX_ATTRIBUTES:
        raise BadInput(
            f"there are {len(gap)} attributes, more than the {MAX_ATTRIBUTES} that match_edit takes; use realize_edit"
        )
    problem = _Problem(encode, head, x, edit, gap, batch)
    e = problem.features(x)
    delta = torch.where(edit.feasible.to(x.device)[:, None], edit.delta.to(e), 0.0)

    def scaled(z: Tensor) -> Tensor:
        return encode(z) / gap

    def matched(x: Tensor, goal: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _matched(scaled, x, goal / gap, threat.take(rows), steps=steps, trust=trust, damping=damping)

    with frozen(encode):
        moved, taken = batched(matched, batch)(x, e + asked * delta, torch.arange(len(x), device=x.device))
    return problem.result(moved, e=e, goal=e + delta, kappa=0.0, steps=taken)


def _matched(
    scaled: Encode, x: Tensor, goal: Tensor, threat: Threat, *, steps: int, trust: float, damping: float
) -> tuple[Tensor, Tensor]:
    """Return the points of least residual, and the number of steps that lowered it.

    Args:
        scaled: Features in units of the switches, (b, *D) -> (b, n).
        x: Inputs, (b, *D).
        goal: Features asked for, in the same units, (b, n).
        threat: Constraint set of these inputs.
        steps: Steps.
        trust: Longest step.
        damping: mu, relative to the mean squared length of the Jacobian's rows.
    """
    best, reach = x, torch.full((len(x),), trust, dtype=x.dtype, device=x.device)
    least = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    step, taken = torch.zeros_like(flat(x)), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for number in range(steps + 1):
        z = threat.project(best + step.reshape(x.shape), x).detach().requires_grad_()
        features = scaled(z)
        away = goal - features.detach()
        size = torch.linalg.vector_norm(away, dim=1)
        better = size < least
        taken += better & torch.isfinite(least)
        best, least = where_rows(better, z.detach(), best), torch.where(better, size, least)
        reach = torch.where(better, reach, reach / 2)
        if number == steps:
            break
        rows = [torch.autograd.grad(f.sum(), z, retain_graph=True)[0] for f in features.unbind(1)]
        jacobian = torch.stack([flat(g) for g in rows], 1)
        inner = jacobian @ jacobian.mT
        mu = damping * inner.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        eye = torch.eye(goal.shape[1], dtype=inner.dtype, device=inner.device)
        full = (jacobian.mT @ torch.linalg.solve(inner + mu[:, None, None] * eye, away[:, :, None]))[:, :, 0]
        length = torch.linalg.vector_norm(full, dim=1).clamp(min=1e-12)
        new = full * (reach / length).clamp(max=1)[:, None]
        step = where_rows(better, new, step / 2)
    return best, taken


def _checked(encode: Encode, x: Tensor, edit: Edit, threat: Threat, gap: Tensor) -> Tensor:
    """Return the switches in the precision of x; refuse what cannot be used."""
    check_threat(x, threat)
    check_inputs(x, box=threat.box)
    check_mode(encode)
    if len(edit.delta) != len(x):
        raise BadInput(f"there are {len(edit.delta)} edits for {len(x)} inputs; give one each")
    n = edit.delta.shape[1]
    if gap.shape != (n,):
        raise BadInput(f"gap has shape {tuple(gap.shape)}, and the edits have {n} attributes; give one switch each")
    if bad := [f for f, value in enumerate(gap.tolist()) if not 0 < value < float("inf")]:
        raise BadInput(
            f"the switch of attribute {bad[0]} is {float(gap[bad[0]]):g}, and must be above 0: {len(bad)} attributes "
            "are constant or not learnt; give these the mean switch, and leave them out of the edit"
        )
    return gap.to(x)
