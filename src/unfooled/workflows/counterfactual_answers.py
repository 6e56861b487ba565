"""Records and sentences of counterfactuals, made from the tensors of the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfooled.core.threats import Threat
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.measures import Measures
from unfooled.counterfactuals.pixels import Realized
from unfooled.counterfactuals.records import AttributeRow, Counterfactual, Figures, KappaPoint, Outcome
from unfooled.counterfactuals.spaces import BEYOND, AttributeSpace

EDIT, PGD, RANDOM = "edit", "targeted PGD", "random attribute"
LISTED = 4  # attributes listed in a sentence, at most
TOLERANCE = 0.25
"""Switches by which a changed image may move an attribute that must stay."""


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


@dataclass(frozen=True, eq=False)
class Search:
    """What was searched for.

    Attributes:
        space: The attributes.
        classes: Names of the classes.
        wanted: Class asked for. None: the nearest other one.
        threat: Threat of the search.
        steps: Gradients of the search.
    """

    space: AttributeSpace
    classes: Sequence[str]
    wanted: int | None
    threat: Threat
    steps: int


def answers(tried: Tried, search: Search, items: Sequence[str]) -> list[Counterfactual]:
    """Return the record of each image.

    Args:
        tried: Edits and changed images.
        search: What was searched for.
        items: Names of the images.
    """
    return [_answer(tried, i, item, search) for i, item in enumerate(items)]


def _answer(tried: Tried, i: int, item: str, search: Search) -> Counterfactual:
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
        sentence = _infeasible(tried, i, search)
    else:
        by_pgd = bool(tried.valid[PGD][i])
        reached = _reached(outcome, classes[target], achieved, by_pgd, search)
        sentence = _needed(classes[target], rows) + reached + _stayed(rows)
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
    """Return the attributes of an image, in their own units, without those that are left out."""
    before, delta, moved = tried.u[i].double(), tried.edit.delta[i], (tried.now[i] - tried.u[i]).double()
    rows = []
    for f, name in enumerate(space.names):
        if space.left_out[f]:
            continue
        unit, start = float(space.gap[f]), float(before[f])
        edited: dict[str, Any] = {
            "wanted": (start + float(delta[f])) * unit, "achieved": (start + float(moved[f])) * unit,
            "asked": float(delta[f]), "reached": float(moved[f]),
        }  # fmt: skip
        stays = _stays(start, float(moved[f]), float(space.middle[f])) if space.immutable[f] else None
        edited["stays"] = stays if space.usable[f] else None
        rows.append(AttributeRow(name=name, before=start * unit, **(edited if carried else {})))
    return rows


def _stays(before: float, moved: float, middle: float) -> bool:
    """Return whether an attribute stays, in switches: within the tolerance, and on its side of the middle."""
    return abs(moved) <= TOLERANCE and (before >= middle) == (before + moved >= middle)


def _figures(tried: Tried, name: str, i: int) -> Figures:
    m = tried.measures[name]
    plain = {
        field: _finite(getattr(m, field)[i]) for field in ("selectivity", "side_effect", "off_target", "achieved",
                                                           "psnr", "ssim", "noise")
    }  # fmt: skip
    if not tried.edit.feasible[i]:  # there is no edit that the change could be compared with
        plain |= dict.fromkeys(("selectivity", "side_effect", "off_target", "achieved", "noise"))
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


def _infeasible(tried: Tried, i: int, search: Search) -> str:
    """Return the sentence that no permitted change leads to the target, with the reasons: what would help alone."""
    space, short = search.space, float(tried.edit.shortfall[i])
    fixed = [name for f, name in enumerate(space.names) if space.immutable[f] and space.usable[f]]

    def lacks(other: AttributeSpace, beyond: float = BEYOND) -> float:
        with torch.no_grad():
            u = other.encode(tried.x[i : i + 1]).cpu()
        return float(other.edit(u, search.wanted, beyond=beyond).shortfall)

    def helps(other: AttributeSpace, beyond: float = BEYOND) -> bool:
        return lacks(other, beyond) < short * (1 - 1e-6) - 1e-9

    freed = {name: lacks(space.keeping([one for one in fixed if one != name])) for name in fixed}
    blamed = [name for name, lack in freed.items() if not lack]  # what would be enough alone
    blamed = blamed or [name for name, lack in freed.items() if lack < short * (1 - 1e-6) - 1e-9]
    if not blamed and len(fixed) > 1 and helps(space.keeping(())):
        blamed = fixed
    why = [f"{', '.join(blamed[:LISTED])} must stay"] if blamed else []
    few = int(space.left_out.sum())
    poor = int((~space.usable).sum()) - few
    if space.again is None and (few or poor) and not helps(replace(space, usable=torch.ones_like(space.usable))):
        few = poor = 0  # of a concept network: their logits would not help either
    why += [f"{poor} attributes cannot be read off the network and stay"] if poor else []
    why += [f"{few} have too few images of one value and stay"] if few else []
    why += [f"an edit goes at most {BEYOND:g} switch beyond the values of the table"] if helps(space, math.inf) else []
    return (
        f"No permitted change of the attributes makes it {search.classes[int(tried.edit.target[i])]}: the best falls "
        f"{short:.2g} logits short{'; ' + ', and '.join(why) if why else ''}."
    )


def _stayed(rows: Sequence[AttributeRow]) -> str:
    """Return the sentence on attributes that must stay, and whether the changed image leaves them; empty: none."""
    moved = [row for row in rows if row.stays is False]
    if moved:
        listed = ", ".join(f"{row.name} {row.reached or 0.0:+.2f}" for row in moved[:LISTED])
        more = f" and {len(moved) - LISTED} more" if len(moved) > LISTED else ""
        return f" It does not leave what must stay: {listed}{more} switches."
    least = max((abs(row.reached or 0.0) for row in rows if row.stays), default=None)
    return "" if least is None else f" What must stay does, within {least:.2f} switches."


def _needed(target: str, rows: Sequence[AttributeRow]) -> str:
    """Return the sentence on the attributes that have to change."""
    changed = sorted((row for row in rows if row.asked), key=lambda row: -abs(row.asked))
    listed = ", ".join(f"{row.name} {row.asked:+.2f}" for row in changed[:LISTED])
    more = f" and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
    return f"To be {target} it needs, in switches: {listed}{more}. "


def _reached(outcome: Outcome, target: str, achieved: float | None, by_pgd: bool, search: Search) -> str:
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
