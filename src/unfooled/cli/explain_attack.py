"""`unfooled explain --attack`: the same maps, and what an adversary who keeps the label makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

    from unfooled.core.threats import Threat

DEFAULT = "lens"
DECIDES = {"lens": "lens", "top-k": "top_k", "mass-center": "lens", "cosine": "lens", "kendall": "kendall"}
"""Objective -> the score whose worst point is kept."""
SCORES = {"lens": "LENS", "top_k": "top k kept", "kendall": "Kendall's tau-b"}
ARMS = {"attack": "attack", "best_of_n": "best of N", "random": "one random"}


@dataclass(frozen=True)
class Asked:
    """What the options ask for; `k` is None for a tenth of the pixels."""

    objective: str
    threat: Threat
    steps: int
    restarts: int
    k: int | None
    w: int


def asked(
    attack: str | None, threat: str | None, steps: int | None, restarts: int | None, k: int | None, w: int | None
) -> Asked | None:
    """Read the options; None where no attack is asked for. `--threat` alone means `--attack lens`.

    Raises:
        Refused: options of the attack without a threat, or numbers that cannot be used.
    """
    numbers = {"--steps": (steps, 1), "--restarts": (restarts, 1), "--k": (k, 1), "--w": (w, 0)}
    if attack is not None:
        catalog.choose(catalog.OBJECTIVES, attack, "objective")
    if threat is None:
        given = ["--attack"] if attack is not None else []
        given += [name for name, (value, _) in numbers.items() if value is not None]
        if given:
            raise Refused(f"{given[0]} is of the attack, which needs to know what is allowed: give --threat linf:8/255")
        return None
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise Refused(f"{name} is {value}; it must be at least {least}")
    return Asked(attack or DEFAULT, catalog.threat(threat), steps or 50, restarts or 2, k, 1 if w is None else w)


@dataclass(frozen=True)
class Moved:
    """What became of each map; arrays as they are written, and the record that is told."""

    x_adv: Tensor
    attribution: Tensor
    arrays: dict[str, Any]
    record: dict[str, Any]


def search(given: options.Inputs, target: Tensor, explain: Any, how: Asked, *, seed: int) -> Moved:
    """Attack, judge, and score beside chance."""
    import torch

    from unfooled.distances import chance, corrected, kendall, lens_recall, top_k_intersection
    from unfooled.distances.locality import as_maps
    from unfooled.evaluation.explanation import STATUSES, explanation_robustness
    from unfooled.evaluation.movement import TOP

    model, x = given.model, given.x
    pixels = as_maps(explain(model, x[:1], target[:1]))[0].numel()
    k = max(1, round(TOP * pixels)) if how.k is None else how.k
    if k >= pixels:
        raise Refused(f"--k is {k}, a map has {pixels} pixels; the top k must be a part of them")
    path, takes = catalog.OBJECTIVES[how.objective]
    objective = catalog.resolve(path)(**{name: {"k": k, "w": how.w}[name] for name in takes})
    found = explanation_robustness(
        model, x, target, how.threat, explain, objectives=(objective,), steps=how.steps, restarts=how.restarts,
        scores={
            "lens": partial(lens_recall, k=k, w=how.w), "top_k": partial(top_k_intersection, k=k), "kendall": kendall
        },
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    decides = DECIDES[how.objective]
    level = {
        "lens": chance(found.clean, k=k, w=how.w),
        "top_k": chance(found.clean, k=k, w=0),
        "kendall": torch.zeros_like(found.clean[:, 0, 0]),
    }
    scores: dict[str, dict[str, Tensor]] = {}
    for name in SCORES:
        arms = {arm: getattr(found, arm).scores[name] for arm in ARMS}
        raised = {f"{arm}_corrected": corrected(value, level[name]) for arm, value in arms.items()}
        scores[name] = {"chance": level[name], **arms, **raised}
    x_adv, status = found.attack.x_adv[decides], found.attack.status[decides]
    parts = zip(x_adv.split(32), target.split(32), strict=True)
    attribution = torch.cat([torch.as_tensor(explain(model, *part)).detach() for part in parts])
    words = [STATUSES[code] for code in status.tolist()]
    arrays = {f"{name}_{what}": value for name, of in scores.items() for what, value in of.items()}
    record = {
        "threat": str(how.threat), "objective": how.objective, "steps": how.steps, "restarts": how.restarts, "k": k,
        "w": how.w, "random_points": found.n, "seed": seed, "kept": decides,
        "counts": {arm: getattr(found, arm).counts[decides] for arm in ARMS},
        "scores": {name: {what: _mean(value) for what, value in of.items()} for name, of in scores.items()},
        "samples": [
            {
                "status": word, "output_change": _number(found.attack.output_change[decides][i]),
                **{name: {what: _number(v[i]) for what, v in of.items()} for name, of in scores.items()},
            }
            for i, word in enumerate(words)
        ],
    }  # fmt: skip
    return Moved(x_adv, attribution, {**arrays, "status": words}, record)


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None


def _mean(values: Tensor) -> float | None:
    kept = values[values.isfinite()]
    return round(float(kept.double().mean()), 6) if len(kept) else None


def tell(record: dict[str, Any]) -> None:
    """One row a score, chance beside it; then what failed."""
    from rich.table import Table

    from unfooled.cli import show

    table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("score", "chance", *ARMS.values()):
        table.add_column(heading, no_wrap=True)
    for name, said in SCORES.items():
        of = record["scores"][name]
        table.add_row(said, *(figure(of[what]) for what in ("chance", *ARMS)))
        if name != "kendall":
            table.add_row("  corrected", "0.00", *(figure(of[f"{arm}_corrected"]) for arm in ARMS), style="bold")
    show.out.print(table)
    counted = ", ".join(f"{n} {word}" for word, n in record["counts"]["attack"].items() if n)
    show.out.print(
        f"[dim]{counted}; k = {record['k']}, w = {record['w']}, N = {record['random_points']} random points. Means are "
        "over the attacked; 1 is unmoved, corrected 0 what an unrelated map scores. A failed attack is no robustness.",
        soft_wrap=True,
    )
    lens = record["scores"]["lens"]
    if None not in (lens["attack"], lens["best_of_n"]) and lens["attack"] >= lens["best_of_n"]:
        show.out.print(
            "[yellow]Random points moved LENS as far as the attack: try more --steps or another --attack.",
            soft_wrap=True,
        )


def figure(value: float | None) -> str:
    """Two decimals, or that there is none."""
    return "none" if value is None else f"{value:.2f}"
