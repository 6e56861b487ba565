"""`unfooled explain --attack`: the same maps, and what an adversary who keeps the label makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from unfooled.core.threats import Threat

DEFAULT = "lens"
DECIDES = {
    "lens": "lens", "top-k": "top_k", "cosine": "lens", "kendall": "kendall", "mass-center": "center",
    "region": "region",
}  # fmt: skip
"""Objective -> the score whose worst point is kept."""
AIMS = {"center": "pixels that the centre moved", "region": "share of the mass in the region"}
"""What objectives aim at that is no score of similarity: larger is a stronger attack."""
SCORES = {"lens": "LENS", "top_k": "top k kept", "kendall": "Kendall's tau-b"}
ARMS = {"attack": "attack", "best_of_n": "best of N", "random": "one random"}


@dataclass(frozen=True)
class Asked:
    """What the options ask for; `k` is None for a tenth of the pixels, `mask` for all but `region`, (H, W)."""

    objective: str
    threat: Threat
    steps: int
    restarts: int
    k: int | None
    w: int
    mask: Tensor | None = None


def asked(
    attack: str | None,
    threat: str | None,
    steps: int | None,
    restarts: int | None,
    k: int | None,
    w: int | None,
    region: Path | None = None,
) -> Asked | None:
    """Read the options; None where no attack is asked for. `--threat` alone means `--attack lens`.

    Raises:
        Refused: options of the attack without a threat, numbers or a region that cannot be used.
    """
    numbers = {"--steps": (steps, 1), "--restarts": (restarts, 1), "--k": (k, 1), "--w": (w, 0)}
    if attack is not None:
        catalog.choose(catalog.OBJECTIVES, attack, "objective")
    if threat is None:
        given = ["--attack"] if attack is not None else []
        given += ["--region"] if region is not None else []
        given += [name for name, (value, _) in numbers.items() if value is not None]
        if given:
            raise Refused(f"{given[0]} is of the attack, which needs to know what is allowed: give --threat linf:8/255")
        return None
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise Refused(f"{name} is {value}; it must be at least {least}")
    if attack == "region" and region is None:
        raise Refused("--attack region needs to know where to: give --region mask.png, white where the mass shall go")
    if attack != "region" and region is not None:
        raise Refused(f"--region is of --attack region, not of --attack {attack or DEFAULT}; give --attack region")
    mask = None if region is None else read_region(region)
    return Asked(attack or DEFAULT, catalog.threat(threat), steps or 50, restarts or 2, k, 1 if w is None else w, mask)


def read_region(path: Path) -> Tensor:
    """A mask from a grey image, white the region, or from a .npy of bool or numbers in [0, 1]; (H, W) float32.

    Raises:
        Refused: it cannot be read, is no single map, or leaves nothing to choose.
    """
    import numpy as np
    import torch

    from unfooled.core.errors import missing_file
    from unfooled.data.formats.folders import SUFFIXES, decode
    from unfooled.data.formats.maps import read_maps

    if not path.is_file():
        raise missing_file(path, (".npy", *sorted(SUFFIXES)))
    if path.suffix == ".npy":
        found = read_maps(str(path)).float()
    else:
        found = torch.from_numpy(np.ascontiguousarray(decode([path], None, 1)))[0]
    if found.ndim != 3 or len(found) != 1:
        raise Refused(f"--region {path} holds shape {tuple(found.shape)}; a region is one map, (H, W)")
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise Refused(
            f"--region {path} lies in [{low:g}, {high:g}]; a region is 1 where the mass shall go, 0 elsewhere"
        )
    if low == high:
        raise Refused(f"--region {path} is {low:g} everywhere; mark a part of the map")
    return found[0]


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

    from unfooled.attacks import Search
    from unfooled.distances import chance, corrected, kendall, lens_recall, top_k_intersection
    from unfooled.distances.maps.locality import as_maps
    from unfooled.evaluation.explanations.judge import ATTACKED, STATUSES, explanation_robustness
    from unfooled.evaluation.explanations.movement import TOP

    model, x = given.model, given.x
    one = as_maps(explain(model, x[:1], target[:1]))[0]
    pixels = one.numel()
    k = max(1, round(TOP * pixels)) if how.k is None else how.k
    if k >= pixels:
        raise Refused(f"--k is {k}, a map has {pixels} pixels; the top k must be a part of them")
    mask = None if how.mask is None else how.mask.to(one)
    if mask is not None and mask.shape != one.shape:
        (h, w), (height, width) = mask.shape, one.shape
        raise Refused(f"--region is {w}x{h}, the maps are {width}x{height}; give a mask of their size")
    path, takes = catalog.OBJECTIVES[how.objective]
    objective = catalog.resolve(path)(**{name: {"k": k, "w": how.w, "mask": mask}[name] for name in takes})
    decides, aim = DECIDES[how.objective], _aim(how.objective, mask)
    found = explanation_robustness(
        model, x, target, how.threat, explain, objectives=(objective,),
        search=Search(how.steps, restarts=how.restarts),
        scores={
            "lens": partial(lens_recall, k=k, w=how.w), "top_k": partial(top_k_intersection, k=k), "kendall": kendall,
            **({} if aim is None else {decides: partial(_negative, aim)}),
        },
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
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
    # Of the map that is shown, which need not be where LENS is lowest.
    lens = lens_recall(found.clean, as_maps(attribution), k=k, w=how.w).where(status == ATTACKED, torch.nan)
    shown = {"lens": lens, "lens_corrected": corrected(lens, level["lens"])}
    words = [STATUSES[code] for code in status.tolist()]
    arrays = {f"{name}_{what}": value for name, of in scores.items() for what, value in of.items()}
    arrays |= {f"shown_{name}": value for name, value in shown.items()}
    aimed: dict[str, Tensor] = {}
    if aim is not None:
        aimed = {"before": aim(found.clean, found.clean)}
        aimed |= {arm: -getattr(found, arm).scores[decides] for arm in ARMS}
        arrays |= {f"{decides}_{what}": value for what, value in aimed.items()}
        aimed["before"] = aimed["before"].where(status == ATTACKED, torch.nan)
    record = {
        "threat": str(how.threat), "objective": how.objective, "steps": how.steps, "restarts": how.restarts, "k": k,
        "w": how.w, "random_points": found.n, "seed": seed, "kept": decides,
        "counts": {arm: getattr(found, arm).counts[decides] for arm in ARMS},
        "scores": {name: {what: _mean(value) for what, value in of.items()} for name, of in scores.items()},
        "aim": {what: _mean(value) for what, value in aimed.items()},
        "samples": [
            {
                "status": word,
                "shown": {name: _number(v[i]) for name, v in shown.items()},
                "aim": {name: _number(v[i]) for name, v in aimed.items()},
                "output_change": _number(found.attack.output_change[decides][i]),
                **{name: {what: _number(v[i]) for what, v in of.items()} for name, of in scores.items()},
            }
            for i, word in enumerate(words)
        ],
    }  # fmt: skip
    return Moved(x_adv, attribution, {**arrays, "status": words}, record)


def _aim(objective: str, mask: Tensor | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """(clean maps, maps), (B, H, W) -> what `AIMS` names, (B,); None where a score of similarity is aimed at."""
    from unfooled.attacks.explanations.objectives import normalised
    from unfooled.distances.maps.attention import centroid

    if mask is not None:
        return lambda clean, maps: (mask * normalised(maps)).sum((1, 2))
    if objective != "mass-center":
        return None

    def moved(clean: Tensor, maps: Tensor) -> Tensor:
        return ((centroid(maps) - centroid(clean)) * clean.new_tensor(clean.shape[1:])).norm(dim=1)

    return moved


def _negative(aim: Callable[[Tensor, Tensor], Tensor], clean: Tensor, maps: Tensor) -> Tensor:
    """As a score, of which the lowest is the strongest attack."""
    return -aim(clean, maps)


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None


def _mean(values: Tensor) -> float | None:
    kept = values[values.isfinite()]
    return round(float(kept.double().mean()), 6) if len(kept) else None


def tell(record: dict[str, Any]) -> None:
    """One row a score, chance beside it; what the objective aims at; then what failed."""
    from rich.table import Table

    from unfooled.cli import show
    from unfooled.evaluation.explanations.locality import SAYS_NOTHING

    table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("score", "chance", *ARMS.values()):
        table.add_column(heading, no_wrap=True)
    for name, said in SCORES.items():
        of = record["scores"][name]
        table.add_row(said, *(figure(of[what]) for what in ("chance", *ARMS)))
        if name != "kendall":
            table.add_row("  corrected", "0.00", *(figure(of[f"{arm}_corrected"]) for arm in ARMS), style="bold")
    show.out.print(table)
    if record["aim"]:
        values = {"before": "before", **ARMS}
        told = ", ".join(f"{said} {figure(record['aim'][name])}" for name, said in values.items())
        show.out.print(f"{AIMS[record['kept']]}: {told}", soft_wrap=True)
    counted = ", ".join(f"{n} {word}" for word, n in record["counts"]["attack"].items() if n)
    show.out.print(
        f"[dim]{counted}; k = {record['k']}, w = {record['w']}, N = {record['random_points']} random points. Means are "
        "over the attacked; 1 is unmoved, corrected 0 what an unrelated map scores. A failed attack is no robustness.",
        soft_wrap=True,
    )
    lens = record["scores"]["lens"]
    attack, chance = lens["attack_corrected"], lens["best_of_n_corrected"]
    if (lens["chance"] or 0) > SAYS_NOTHING:
        show.out.print(
            f"[yellow]Unrelated maps would score {figure(lens['chance'])} in LENS here, so it says nothing; lower --w "
            "or --k.",
            soft_wrap=True,
        )
    elif None not in (attack, chance) and attack >= chance:
        show.out.print(
            "[yellow]Random points moved LENS as far as the attack: try more --steps or another --attack.",
            soft_wrap=True,
        )


def title(sample: dict[str, Any]) -> str:
    """What stands over a map under attack: its own LENS, corrected where chance leaves room for that."""
    raw, lens = sample["shown"]["lens"], sample["shown"]["lens_corrected"]
    if raw is None:
        return "under attack"
    return f"LENS {raw:.2f}, raw" if lens is None else f"LENS {lens:.2f}, corrected"


def figure(value: float | None) -> str:
    """Two decimals, or that there is none."""
    return "none" if value is None else f"{value:.2f}"
