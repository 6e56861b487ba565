"""Attack explanations while keeping the label: from options to scores beside chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import AliasChoices, Field
from torch import Tensor

from unfooled.attacks import Search
from unfooled.attacks.explanations.objectives import normalised
from unfooled.core.errors import missing_file
from unfooled.core.threats import Threat
from unfooled.data.formats.folders import SUFFIXES, decode
from unfooled.data.formats.maps import read_maps
from unfooled.distances import chance, corrected, kendall, lens_recall, top_k_intersection
from unfooled.distances.maps.attention import centroid
from unfooled.distances.maps.locality import as_maps
from unfooled.evaluation.explanations.judge import ATTACKED, STATUSES, attributions_of
from unfooled.evaluation.explanations.movement import TOP_SHARE
from unfooled.evaluation.explanations.robustness import ExplanationRobustness, WorstPoints, explanation_robustness
from unfooled.explanations.gradients import marking_undefined
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.hashes import tensors_hash
from unfooled.runs.records import Record
from unfooled.runs.stage_names import StageName
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Loaded
from unfooled.workflows.words import choose, threat_of

SCORES = ("lens", "top_k", "kendall")
METHODS = ("attack", "best_of_n", "random")
"""Ways of choosing the point: by the attack, the worst of N random points, one random point."""
MAPS_AT_ONCE = 32


@dataclass(frozen=True)
class MapAttack:
    """An attack on explanations.

    Args:
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        attack: Objective, a name in `catalog.OBJECTIVES`.
        steps: Gradients per restart.
        restarts: Random starts.
        k: Number of top pixels; None: a tenth of all.
        w: Reach of LENS in pixels.
        region: Region that the mass is driven into, for the objective "region": a grey image, white the region, a .npy,
            or a mask of numbers in [0, 1], (H, W).
    """

    threat: str | Threat
    attack: str = "lens"
    steps: int = 50
    restarts: int = 2
    k: int | None = None
    w: int = 1
    region: str | Path | Tensor | None = None

    def checked(self) -> MapAttack:
        """Return the attack with its threat and region read.

        Raises:
            BadOption: an objective that does not exist, numbers or a region that cannot be used.
        """
        choose(catalog.OBJECTIVES, self.attack, "objective")
        for name, least in (("steps", 1), ("restarts", 1), ("k", 1), ("w", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadOption("{" + name + "} is {0}; it must be at least {1}", value, least)
        masked = "mask" in self.takes
        if masked and self.region is None:
            raise BadOption(
                "{attack:{0}} needs to know where to: give {region:mask.png}, white where the mass shall go",
                self.attack,
            )  # fmt: skip
        if not masked and self.region is not None:
            raise BadOption(
                "{region} belongs to {attack:region}, not to {attack:{0}}; give {attack:region}", self.attack
            )
        region = read_region(self.region) if isinstance(self.region, (str, Path)) else self.region
        return replace(self, threat=threat_of(self.threat), region=region)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parameters of the objective, of k, w and mask."""
        return catalog.takes(catalog.resolve(catalog.OBJECTIVES[self.attack].path))


class SampleRecord(Record):
    """Result of the attack on one map.

    Attributes:
        status: As in `evaluation.explanations.judge`.
        shown: LENS of the map that is shown, raw and corrected for chance.
        aim: Quantity that the objective aims at, where that is not a similarity.
        output_change: Change of the logit of the class that is explained.
        lens, top_k, kendall: Each score by method, with its chance level, raw and corrected.
    """

    status: str
    shown: dict[str, float | None]
    aim: dict[str, float | None]
    output_change: float | None
    lens: dict[str, float | None]
    top_k: dict[str, float | None]
    kendall: dict[str, float | None]

    @property
    def title(self) -> str:
        """Title of the map under attack: its own LENS, corrected where chance leaves room for that."""
        raw, lens = self.shown["lens"], self.shown["lens_corrected"]
        if raw is None:
            return "under attack"
        return f"LENS {raw:.2f}, raw" if lens is None else f"LENS {lens:.2f}, corrected"


class MapAttackRecord(Record):
    """Result of an attack on explanations: means over the samples that were attacked, and each sample.

    Attributes:
        threat: Threat model.
        objective: Objective that was maximised.
        steps, restarts, k, w, seed: The options.
        random_points: Random points of each sample, for comparison.
        decides: Name of the score whose worst point is returned; stored as "kept".
        counts: Samples by status, by method.
        scores: Each score by method, with its chance level, raw and corrected.
        aim: Quantity that the objective aims at, by method, and before; empty where that is a similarity.
        samples: One entry per sample.
    """

    threat: str
    objective: str
    steps: int
    restarts: int
    k: int
    w: int
    random_points: int
    seed: int
    decides: str = Field(validation_alias=AliasChoices("decides", "kept"), serialization_alias="kept")
    counts: dict[str, dict[str, int]]
    scores: dict[str, dict[str, float | None]]
    aim: dict[str, float | None]
    samples: list[SampleRecord]


@dataclass(frozen=True, eq=False)
class AttackedMaps:
    """Result of an attack on maps: points, maps, further arrays to write, and the record."""

    x_adv: Tensor
    attribution: Tensor
    arrays: dict[str, Any]
    record: MapAttackRecord


def read_region(path: str | Path) -> Tensor:
    """Read a mask from a grey image, white the region, or from a .npy of bool or numbers in [0, 1]; (H, W) float32.

    Raises:
        BadInput: it cannot be read, is not a single map, or leaves nothing to choose.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path, (".npy", *sorted(SUFFIXES)))
    if path.suffix == ".npy":
        mask = read_maps(str(path)).float()
    else:
        mask = torch.from_numpy(np.ascontiguousarray(decode([path], None, 1)))[0]
    if mask.ndim != 3 or len(mask) != 1:
        raise BadOption("{region:{0}} holds shape {1}; a region is one map, (H, W)", path, tuple(mask.shape))
    low, high = float(mask.min()), float(mask.max())
    if low < 0 or high > 1:
        raise BadOption(
            "{region:{0}} lies in [{1:g}, {2:g}]; a region is 1 where the mass shall go, 0 elsewhere", path, low, high
        )
    if low == high:
        raise BadOption("{region:{0}} is {1:g} everywhere; mark a part of the map", path, low)
    return mask[0]


def attack_maps(search: MapSearch, result: ExplanationRobustness, *, seed: int) -> AttackedMaps:
    """Score the attacked explanations beside chance.

    Args:
        search: The attack, fitted to the maps.
        result: What `search.found` returned.
        seed: Random seed of the attack, for the record.
    """
    loaded, target, explain, spec = search.loaded, search.target, search.explain, search.spec
    scores = search.scores(result)
    decides = search.decides
    x_adv, status = result.attack.x_adv[decides], result.attack.status[decides]
    attribution = attributions_of(loaded.model, x_adv, target, explain, MAPS_AT_ONCE)
    # LENS of the map that is shown, which need not be the one with the lowest LENS.
    lens = lens_recall(result.clean, as_maps(attribution), k=search.k, w=spec.w).where(status == ATTACKED, torch.nan)
    shown = {"lens": lens, "lens_corrected": corrected(lens, scores["lens"]["chance"])}
    aimed = search.aimed(result)
    arrays = {f"{name}_{what}": value for name, score in scores.items() for what, value in score.items()}
    arrays |= {f"shown_{name}": value for name, value in shown.items()}
    arrays |= {f"{decides}_{what}": value for what, value in aimed.items()}
    if aimed:
        aimed["before"] = aimed["before"].where(status == ATTACKED, torch.nan)
    statuses = [STATUSES[code] for code in status.tolist()]
    record = MapAttackRecord(
        threat=str(spec.threat), objective=spec.attack, steps=spec.steps, restarts=spec.restarts, k=search.k, w=spec.w,
        random_points=result.n, seed=seed, decides=decides,
        counts={method: getattr(result, method).counts[decides] for method in METHODS},
        scores={name: {what: _mean(value) for what, value in score.items()} for name, score in scores.items()},
        aim={what: _mean(value) for what, value in aimed.items()},
        samples=[
            SampleRecord(
                status=status_,
                shown=_row(shown, i),
                aim=_row(aimed, i),
                output_change=_number(result.attack.output_change[decides][i]),
                **{name: _row(score, i) for name, score in scores.items()},
            )
            for i, status_ in enumerate(statuses)
        ],
    )  # fmt: skip
    return AttackedMaps(x_adv, attribution, {**arrays, "status": statuses}, record)


@dataclass(frozen=True, eq=False)
class MapSearch:
    """An attack on explanations, fitted to the size of the maps."""

    loaded: Loaded
    target: Tensor
    explain: Any
    spec: MapAttack
    k: int
    mask: Tensor | None

    @classmethod
    def of(cls, loaded: Loaded, target: Tensor, explain: Any, spec: MapAttack) -> MapSearch:
        """Fit k and the region to the maps; costs one explanation of one sample.

        Args:
            loaded: The model and its data.
            target: Classes that are explained, (B,).
            explain: The explanation.
            spec: Attack, as `MapAttack.checked` returns it.

        Raises:
            BadOption: k or a region that does not fit the maps.
        """
        with marking_undefined():  # the first sample may have no answer
            one = as_maps(attributions_of(loaded.model, loaded.x[:1], target[:1], explain, None))[0]
        pixels = one.numel()
        k = max(1, round(TOP_SHARE * pixels)) if spec.k is None else spec.k
        if k >= pixels:
            raise BadOption("{k} is {0}, a map has {1} pixels; the top k must be a part of them", k, pixels)
        mask = spec.region.to(one) if isinstance(spec.region, Tensor) else None
        if mask is not None and mask.shape != one.shape:
            (h, w), (height, width) = mask.shape, one.shape
            raise BadOption("{region} is {0}x{1}, the maps are {2}x{3}; give a mask of their size", w, h, width, height)
        return cls(loaded, target, explain, spec, k, mask)

    def settings(self) -> dict[str, Any]:
        """Return what identifies the search beside the model and the data, as JSON values."""
        spec, mask = self.spec, self.mask
        return {
            "threat": str(spec.threat), "attack": spec.attack, "steps": spec.steps, "restarts": spec.restarts,
            "k": self.k, "w": spec.w, "region": None if mask is None else tensors_hash(mask),
        }  # fmt: skip

    @property
    def decides(self) -> str:
        """Score whose worst point is returned."""
        return catalog.OBJECTIVES[self.spec.attack].decides

    @property
    def aim(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Function (clean maps, maps), (B, H, W) -> aimed quantity, (B,); None where that is a similarity."""
        aims: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "region": lambda _, maps: _share_inside(self.mask, maps),
            "center": _centre_shift,
        }
        return aims.get(self.decides)

    def found(self, run: Run, seed: int) -> ExplanationRobustness:
        """Attack all samples, part by part, and return what is needed of the result, without its costs."""

        def work(rows: Tensor) -> Rows:
            result = self.attacked(rows.to(self.target.device), seed)
            return {"clean": result.clean, "n": torch.full_like(rows, result.n)} | {
                f"{method}.{name}": value
                for method in METHODS
                for name, value in _columns(getattr(result, method), self.decides).items()
            }

        rows = run.map(StageName("attack", "attack on explanations"), work, len(self.target), even=True)
        rows = {name: value.to(self.target.device) for name, value in rows.items()}
        attack, best_of_n, random = (_worst_points(rows, f"{method}.", self.decides) for method in METHODS)
        return ExplanationRobustness(attack, best_of_n, random, rows["clean"], int(rows["n"][0]))

    def attacked(self, rows: Tensor, seed: int) -> ExplanationRobustness:
        """Attack the samples in `rows`, and compare with random points."""
        loaded, spec, options = self.loaded, self.spec, {"k": self.k, "w": self.spec.w, "mask": self.mask}
        objective = catalog.resolve(catalog.OBJECTIVES[spec.attack].path)
        accepted = {name: value for name, value in options.items() if name in spec.takes}
        with marking_undefined():  # a part may hold samples without an answer alone
            return explanation_robustness(
                loaded.model, loaded.x[rows], self.target[rows], threat_of(spec.threat).take(rows), self.explain,
                objectives=(objective(**accepted),), search=Search(spec.steps, restarts=spec.restarts),
                scores={
                    "lens": partial(lens_recall, k=self.k, w=spec.w),
                    "top_k": partial(top_k_intersection, k=self.k),
                    "kendall": kendall,
                    **({} if self.aim is None else {self.decides: partial(_negative, self.aim)}),
                },
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip

    def scores(self, result: ExplanationRobustness) -> dict[str, dict[str, Tensor]]:
        """Return each score by method, (B,), with its chance level, raw and corrected."""
        level = {
            "lens": chance(result.clean, k=self.k, w=self.spec.w),
            "top_k": chance(result.clean, k=self.k, w=0),
            "kendall": torch.zeros_like(result.clean[:, 0, 0]),
        }
        scores: dict[str, dict[str, Tensor]] = {}
        for name in SCORES:
            by_method = {method: getattr(result, method).scores[name] for method in METHODS}
            corrected_scores = {
                f"{method}_corrected": corrected(value, level[name]) for method, value in by_method.items()
            }
            scores[name] = {"chance": level[name], **by_method, **corrected_scores}
        return scores

    def aimed(self, result: ExplanationRobustness) -> dict[str, Tensor]:
        """Return the quantity that the objective aims at, before and by method, (B,); empty for a similarity."""
        if self.aim is None:
            return {}
        by_method = {method: -getattr(result, method).scores[self.decides] for method in METHODS}
        return {"before": self.aim(result.clean, result.clean), **by_method}


def _columns(worst: WorstPoints, decides: str) -> Rows:
    """Return the scores of one method, and its points that the deciding score was lowest at."""
    points = {"status": worst.status, "output_change": worst.output_change, "x_adv": worst.x_adv}
    return {name: value[decides] for name, value in points.items()} | {
        f"score.{name}": value for name, value in worst.scores.items()
    }


def _worst_points(rows: Rows, prefix: str, decides: str) -> WorstPoints:
    """Return the points and scores of one method; its costs are not stored."""
    own = {name.removeprefix(prefix): value for name, value in rows.items() if name.startswith(prefix)}
    scores = {name.removeprefix("score."): value for name, value in own.items() if name.startswith("score.")}
    return WorstPoints(
        scores, {decides: own["status"]}, {decides: own["output_change"]}, {decides: own["x_adv"]},
        explanations=0, forwards=0, backwards=0, seconds=0.0,
    )  # fmt: skip


def _share_inside(mask: Tensor | None, maps: Tensor) -> Tensor:
    """Return the share of the mass inside the region, (B,)."""
    assert mask is not None
    return (mask * normalised(maps)).sum((1, 2))


def _centre_shift(clean: Tensor, maps: Tensor) -> Tensor:
    """Return the distance in pixels that the centre of mass moved, (B,)."""
    return ((centroid(maps) - centroid(clean)) * clean.new_tensor(clean.shape[1:])).norm(dim=1)


def _negative(aim: Callable[[Tensor, Tensor], Tensor], clean: Tensor, maps: Tensor) -> Tensor:
    """Return the aim negated, as a score whose lowest value is the strongest attack."""
    return -aim(clean, maps)


def _row(values: dict[str, Tensor], i: int) -> dict[str, float | None]:
    return {name: _number(value[i]) for name, value in values.items()}


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None


def _mean(values: Tensor) -> float | None:
    finite = values[values.isfinite()]
    return round(float(finite.double().mean()), 6) if len(finite) else None
