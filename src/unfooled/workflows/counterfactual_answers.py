"""Records and sentences of counterfactuals, made from the tensors of the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unfooled.core.threats import Threat
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.measures import Measures
from unfooled.counterfactuals.pixels import Realized
from unfooled.counterfactuals.records import AttributeRow, Counterfactual, Figures, KappaPoint, Outcome
from unfooled.counterfactuals.spaces import AttributeSpace

EDIT, PGD, RANDOM = "edit", "targeted PGD", "random attribute"
LISTED = 4  # attributes listed in a sentence, at most


@dataclass(frozen=True, eq=False)
class Tried:
    """Edits of images, the images changed accordingly, and the controls, B entries each.

    Attributes:
        x: The images, (B, C, H, W).
        u: Their coordinates, (B, m).
        now: Coordinates of the images changed by the edit, (B, m).
        predicted: Classes predicted, (B,).
        edit: The edits asked for.
        realized: Inputs that realise them.
        points: Changed images by method.
        measures: Measures by method.
        valid: Changed images that are inside the threat and predicted as the target, by method, (B,) bool.
        slopes: Gradient of the attribute that changes most, (B, C, H, W).
    """

    x: Tensor
    u: Tensor
    now: Tensor
    predicted: Tensor
    edit: Edit
    realized: Realized
    points: dict[str, Tensor]
    measures: dict[str, Measures]
    valid: dict[str, Tensor]
    slopes: Tensor


def answers(
    tried: Tried, space: AttributeSpace, classes: Sequence[str], items: Sequence[str], threat: Threat, steps: int
) -> list[Counterfactual]:
    """Return the record of each image.

    Args:
        tried: Edits and changed images.
        space: The attributes.
        classes: Names of the classes.
        items: Names of the images.
        threat: Threat of the search.
        steps: Gradients of the search.
    """
    search = _Search(space, classes, threat, steps)
    return [_answer(tried, i, item, search) for i, item in enumerate(items)]


@dataclass(frozen=True, eq=False)
class _Search:
    """Attributes, names of the classes, and budget of a search, which all images share."""

    space: AttributeSpace
    classes: Sequence[str]
    threat: Threat
    steps: int


def _answer(tried: Tried, i: int, item: str, search: _Search) -> Counterfactual:
    """Return the record of one image."""
    space, classes = search.space, search.classes
    predicted, target = int(tried.predicted[i]), int(tried.edit.target[i])
    outcome = _outcome(tried, i)
    carried = outcome in (Outcome.DONE, Outcome.UNREALISED)
    rows = _rows(tried, i, space, carried)
    achieved = _finite(tried.measures[EDIT].achieved[i])
    about: dict[str, Any] = {"predicted": classes[predicted], "target": classes[target], "outcome": outcome}
    if outcome == Outcome.SAME:
        sentence = f"It is predicted as {classes[target]} already: distance 0."
        return Counterfactual(item=item, sentence=sentence, cost=0.0, whole=[], rows=rows, **about)
    if outcome == Outcome.INFEASIBLE:
        sentence = _infeasible(classes[target], float(tried.edit.shortfall[i]), space)
    else:
        by_pgd = bool(tried.valid[PGD][i])
        sentence = _needed(classes[target], rows) + _reached(outcome, classes[target], achieved, by_pgd, search)
    whole = space.flip(tried.u[i], target)
    figures = {name: _figures(tried, name, i) for name in tried.points if carried or name == PGD}
    difference = (tried.points[EDIT][i] - tried.x[i]).mean(0).abs().max()
    return Counterfactual(
        item=item,
        sentence=sentence,
        cost=float(tried.edit.cost[i]) if carried else None,
        exact=bool(tried.edit.exact[i]),
        shortfall=float(tried.edit.shortfall[i]),
        whole=[space.names[f] for f in whole.delta[0, : len(space.names)].nonzero()[:, 0].tolist()]
        if whole.feasible[0]
        else None,
        whole_exact=bool(whole.exact[0]),
        rows=rows,
        figures=figures,
        kappa=float(tried.realized.kappa[i]) if carried else None,
        curve=_curve(tried, i) if carried else [],
        largest_difference=float(difference),
        slope_of=_largest(rows) if carried else "",
        **about,
    )


def _outcome(tried: Tried, i: int) -> Outcome:
    if tried.predicted[i] == tried.edit.target[i]:
        return Outcome.SAME
    if not tried.edit.feasible[i]:
        return Outcome.INFEASIBLE
    return Outcome.DONE if tried.valid[EDIT][i] else Outcome.UNREALISED


def _rows(tried: Tried, i: int, space: AttributeSpace, carried: bool) -> list[AttributeRow]:
    """Return the attributes of an image, in their own units."""
    before, delta, moved = tried.u[i].double(), tried.edit.delta[i], (tried.now[i] - tried.u[i]).double()
    rows = []
    for f, name in enumerate(space.names):
        unit, start = float(space.gap[f]), float(before[f])
        edited = {
            "wanted": (start + float(delta[f])) * unit, "achieved": (start + float(moved[f])) * unit,
            "asked": float(delta[f]), "reached": float(moved[f]),
        }  # fmt: skip
        rows.append(AttributeRow(name=name, before=start * unit, **(edited if carried else {})))
    return rows


def _figures(tried: Tried, name: str, i: int) -> Figures:
    m = tried.measures[name]
    plain = {
        field: _finite(getattr(m, field)[i]) for field in ("selectivity", "side_effect", "off_target", "achieved",
                                                           "psnr", "ssim")
    }  # fmt: skip
    if not tried.edit.feasible[i]:  # there is no edit that the change could be compared with
        plain |= dict.fromkeys(("selectivity", "side_effect", "off_target", "achieved"))
    valid = bool(tried.valid[name][i])
    return Figures(
        valid=valid, valid_8bit=valid and bool(m.valid_8bit[i]), distance=float(m.distance[i]), **plain
    )  # fmt: skip


def _curve(tried: Tried, i: int) -> list[KappaPoint]:
    on = tried.edit.delta[i] != 0
    points = []
    for carried in tried.realized.curve:
        moved = carried.delta[i].cpu().double().square()
        share = float(moved[on].sum()) / float(moved.sum()) if float(moved.sum()) else None
        points.append(KappaPoint(kappa=carried.kappa, valid=bool(carried.valid[i]), selectivity=share))
    return points


def _largest(rows: Sequence[AttributeRow]) -> str:
    return max(rows, key=lambda row: abs(row.asked)).name


def _infeasible(target: str, shortfall: float, space: AttributeSpace) -> str:
    """Return the sentence that no permitted change leads to the target, with the reasons."""
    fixed = [name for name, stays in zip(space.names, space.immutable.tolist(), strict=True) if stays]
    few = int(space.auc.isnan().sum())
    poor = int((~space.usable).sum()) - few
    why = [f"{', '.join(fixed[:LISTED])} must stay"] if fixed else []
    why += [f"{poor} attributes cannot be read off the network and stay"] if poor else []
    why += [f"{few} have too few images of one value and stay"] if few else []
    return (
        f"No permitted change of the attributes makes it {target}: the best falls {shortfall:.2g} logits short"
        f"{'; ' + ', and '.join(why) if why else ''}."
    )


def _needed(target: str, rows: Sequence[AttributeRow]) -> str:
    """Return the sentence on the attributes that have to change."""
    changed = sorted((row for row in rows if row.asked), key=lambda row: -abs(row.asked))
    listed = ", ".join(f"{row.name} {row.asked:+.2f}" for row in changed[:LISTED])
    more = f" and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
    return f"To be {target} it needs, in switches: {listed}{more}. "


def _reached(outcome: Outcome, target: str, achieved: float | None, by_pgd: bool, search: _Search) -> str:
    """Return the sentence on whether an image inside the threat is of the target class.

    Args:
        outcome: Outcome of the edit.
        target: Name of the target class.
        achieved: Share of the edit that the image makes. None: not defined.
        by_pgd: True: targeted PGD found an image of the class inside the threat.
        search: Threat and budget.
    """
    if outcome == Outcome.DONE:
        done = f"; it makes {100 * achieved:.0f} % of that change" if achieved is not None else ""
        return f"An image inside {search.threat} is named {target}{done}."
    if by_pgd:
        return (
            f"No image inside {search.threat} that makes this change and is {target} was found in {search.steps} "
            "steps; targeted PGD, which ignores the attributes, found one that is."
        )
    return (
        f"No image inside {search.threat} that is {target} was found in {search.steps} steps; this does not show that "
        "there is none."
    )


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
