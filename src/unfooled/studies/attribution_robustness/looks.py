"""Explanations that are attacked, their scores, and the objectives of the attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from unfooled.attacks import kendall_surrogate, out_of_lens, out_of_top_k
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.core.types import Explain
from unfooled.distances import (
    chance,
    corrected,
    diverse_intersection,
    either_nonzero,
    kendall,
    lens_kendall,
    lens_recall,
    top_k_intersection,
)
from unfooled.explanations import integrated_gradients, saliency
from unfooled.studies.attribution_robustness.scale import MapTask

Score = Callable[[Tensor, Tensor], Tensor]
"""(clean map, perturbed map) -> (B,)."""


@dataclass(frozen=True)
class Look:
    """An explanation, with the settings of the attack on it and of its judgement.

    Attributes:
        name: Name in tables.
        judged: The explanation that is judged.
        attacked: The explanation that is differentiated and that ranks candidates; often a cheaper variant.
        restarts: Restarts of each objective.
    """

    name: str
    judged: Explain
    attacked: Explain
    restarts: int = 1


LOOKS_AT = {
    "saliency": Look("saliency", saliency, saliency),
    "integrated gradients": Look(
        "integrated gradients", partial(integrated_gradients, steps=50), partial(integrated_gradients, steps=8)
    ),
}
"""Name -> explanation that is attacked."""


def objectives(task: MapTask) -> tuple[MapObjective, ...]:
    """Return the objectives that the attack maximises one after the other, one for each kind of score."""
    k, w = task.ks[-1], task.ws[0]
    return out_of_top_k(k), out_of_lens(k, w), out_of_lens(k, w, diverse=True), kendall_surrogate()


def scores_of(task: MapTask) -> dict[str, Score]:
    """Return the scores of a data set's maps by name."""

    def above_chance(score: Score, level: Callable[[Tensor], Tensor]) -> Score:
        return lambda a, b: corrected(score(a, b), level(a))

    scores: dict[str, Score] = {}
    for k in task.ks:
        scores[f"top-{k}"] = top = partial(top_k_intersection, k=k)
        scores[f"top-{k}, corrected"] = above_chance(top, partial(chance, k=k, w=0))
        for w in task.ws:
            for diverse in (False, True):
                name = f"LENS {w}@{k}" + ("-div" if diverse else "")
                scores[name] = lens = partial(lens_recall, k=k, w=w, diverse=diverse)
                scores[f"{name}, corrected"] = above_chance(lens, partial(chance, k=k, w=w, diverse=diverse))
            scores[f"top-{k}-div {w}"] = partial(diverse_intersection, k=k, w=w)
    scores["tau"] = kendall
    scores["tau, support"] = lambda a, b: kendall(a, b, support=either_nonzero(a, b))
    for w in task.ws:
        scores[f"LENS-Kendall {w}"] = partial(lens_kendall, w=w)
    return scores


def main_lens(task: MapTask) -> str:
    """Return the score by which a network's gain over the plain one is measured: LENS at largest k, smallest w."""
    return f"LENS {task.ws[0]}@{task.ks[-1]}"


def leaders(task: MapTask) -> list[str]:
    """Return the scores that candidates are ranked by, one of each kind."""
    k, w, lens = task.ks[-1], task.ws[0], main_lens(task)
    return [f"top-{k}", f"top-{k}-div {w}", lens, f"{lens}-div", "tau"]


def kind_of(score: str) -> tuple[str, bool]:
    """Return the kind of a score, which it shares with one of the leaders."""
    if "tau" in score or "Kendall" in score:
        return "tau", False
    return score[:3], "-div" in score


def shown_scores(task: MapTask) -> list[str]:
    """Return the scores of the pictures."""
    return [f"top-{task.ks[-1]}", f"{main_lens(task)}, corrected", "tau"]


def table_scores(task: MapTask) -> list[str]:
    """Return the scores of the tables: every k and w, raw and corrected."""
    names = []
    for k in task.ks:
        names += [f"top-{k}", f"top-{k}, corrected"]
        for w in task.ws:
            lens = f"LENS {w}@{k}"
            names += [lens, f"{lens}, corrected", f"top-{k}-div {w}", f"{lens}-div, corrected"]
    return [*names, "tau", "tau, support", *(f"LENS-Kendall {w}" for w in task.ws)]
