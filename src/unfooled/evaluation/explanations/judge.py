"""The judge of attacks on explanations: did the explanation move, while the label stayed?

    attacked    the point is inside the threat, keeps the label, and its map differs from that of x
    failed      the point is outside the threat, loses the label, equals x, or has the same map as x
    undefined   the clean or the perturbed map is constant or not finite, so they cannot be compared
    skipped     the model is wrong on the clean sample

Scores are NaN unless the status is `attacked`: a failed attack does not count as a score of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.attacks.explanations.candidates import CleanMaps, Explanation, Reduce, explained, mapped, usable_maps
from unfooled.core.errors import BadInput
from unfooled.core.goals import answered, logits_at
from unfooled.core.losses import true_logit
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps
from unfooled.evaluation.verify import verify
from unfooled.explanations.gradients import marking_undefined

Score = Callable[[Tensor, Tensor], Tensor]
"""`(clean maps, perturbed maps)`, (B, H, W) each -> similarity, (B,); lower: a stronger attack; NaN: undefined."""

STATUSES = ("attacked", "failed", "undefined", "skipped")
"""Names of the statuses; the code of a status is its position."""
ATTACKED, FAILED, UNDEFINED, SKIPPED = range(4)


@dataclass(frozen=True, eq=False)
class ExplanationVerdict:
    """Verdict on proposed points, one entry per sample.

    Attributes:
        status: Codes of the statuses, positions in `STATUSES`, (B,) int64.
        inside: True for points within the ball and the box, (B,) bool.
        scores: Score name -> (B,); NaN where the status is not `attacked`.
        output_change: |f_y(x') - f_y(x)|, in logits, (B,); NaN where the point is outside the threat.
    """

    status: Tensor
    inside: Tensor
    scores: dict[str, Tensor]
    output_change: Tensor

    @property
    def attacked(self) -> Tensor:
        """Samples with status `attacked`, (B,) bool."""
        return self.status == ATTACKED

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each status."""
        return status_counts(self.status)


def status_counts(status: Tensor) -> dict[str, int]:
    """Return the number of samples of each status."""
    return {name: int((status == code).sum()) for code, name in enumerate(STATUSES)}


def judge_explanation(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    threat: Threat,
    explain: Explanation,
    scores: Mapping[str, Score],
    *,
    reduce: Reduce = as_maps,
    clean: Tensor | None = None,
    batch: int | None = None,
) -> ExplanationVerdict:
    """Judge proposed points on the true model and the true explanation; nothing that the attack reports is used.

    Args:
        model: Any callable to logits, in eval mode.
        x: Clean inputs, (B, *D).
        y: Labels, (B,).
        x_adv: Proposed points, (B, *D).
        threat: Constraint set.
        explain: The true explanation, `(model, x, y) -> (B, *D)`.
        scores: Name -> similarity `(clean maps, perturbed maps) -> (B,)`.
        reduce: Attributions (B, *D) -> maps (B, H, W).
        clean: Clean maps, (B, H, W). None: they are computed (cost: 1 explanation per sample).
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).

    Returns:
        An `ExplanationVerdict`. Cost: 4 forwards and 2 explanations per sample.

    Raises:
        BadInput: Shapes that do not agree, or inputs that cannot be used.
    """
    batch = batch or fitting_batch(model, x)
    reference = reference_of(model, x, y, explain, reduce, batch, clean)
    verdict = judge_points(model, x, y, x_adv, threat, explain, reduce, reference, batch)
    return verdict.scored(reference.known.maps, scores)


@dataclass(frozen=True, eq=False)
class Reference:
    """Clean samples that points are judged against.

    Attributes:
        known: Samples that are right, and their maps.
        logits: Logits of y, (B,).
    """

    known: CleanMaps
    logits: Tensor

    def take(self, rows: Tensor) -> Reference:
        """Return the reference of some samples, which may repeat."""
        right, maps, shares_pass = self.known
        return Reference(CleanMaps(right[rows], maps[rows], shares_pass), self.logits[rows])


def reference_of(
    model: Model, x: Tensor, y: Tensor, explain: Explanation, reduce: Reduce, batch: int, clean: Tensor | None = None
) -> Reference:
    """Evaluate the clean samples. Cost: 1 forward and, without `clean` maps, 1 explanation per sample."""
    logits, right = _true_logits(model, x, y, batch)
    shares_pass = False
    if clean is None:
        clean, heard = maps_and_logits(model, x, y, explain, reduce, batch)
        shares_pass = heard is not None
    return Reference(CleanMaps(right, clean, shares_pass), logits)


@dataclass(frozen=True, eq=False)
class JudgedPoints:
    """Judged points before they are scored, one entry a point.

    Attributes:
        status: Positions in `STATUSES`, (B,) int64.
        inside: True for points within the ball and the box, (B,) bool.
        output_change: |f_y(x') - f_y(x)|, (B,).
        maps: Maps at the points, (B, H, W).
    """

    status: Tensor
    inside: Tensor
    output_change: Tensor
    maps: Tensor

    def take(self, rows: Tensor) -> JudgedPoints:
        """Return some of the points, which may repeat."""
        return JudgedPoints(self.status[rows], self.inside[rows], self.output_change[rows], self.maps[rows])

    def scored(self, clean: Tensor, scores: Mapping[str, Score]) -> ExplanationVerdict:
        """Return the verdict, with scores against the clean maps."""
        values = {}
        for name, score in scores.items():
            value = score(clean, self.maps)
            if not isinstance(value, Tensor) or value.shape != self.status.shape:
                n = len(self.status)
                raise BadInput(f"score {name!r} returned {_shape(value)}; it must be one number per sample, ({n},)")
            values[name] = value.where(self.status == ATTACKED, torch.nan)
        return ExplanationVerdict(self.status, self.inside, values, self.output_change)


def judge_points(
    model: Model, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat, explain: Explanation, reduce: Reduce,
    reference: Reference, batch: int,
) -> JudgedPoints:  # fmt: skip
    """Judge points by `verify` and by the true explanation. Cost: 3 forwards at most and 1 explanation per point."""
    verdict = verify(model, x, y, x_adv, threat, batch=batch)
    right, clean, _ = reference.known
    z = where_rows(torch.isfinite(flat(x_adv)).all(1), x_adv, x)
    maps, logits = maps_and_logits(model, z, y, explain, reduce, batch)
    if logits is None:
        logits_adv, keeps_label = _true_logits(model, z, y, batch)
    else:
        logits_adv, keeps_label = _label_kept(logits, y)
    unmoved = (flat(z) == flat(x)).all(1) | _same_map(clean, maps)
    status = torch.full_like(y, ATTACKED)
    status[~usable_maps(maps)] = UNDEFINED
    status[~verdict.inside | ~keeps_label | verdict.undefined | unmoved] = FAILED
    status[~usable_maps(clean)] = UNDEFINED
    status[~right] = SKIPPED
    change = (logits_adv - reference.logits).abs().where(verdict.inside, torch.nan)
    return JudgedPoints(status, verdict.inside, change, maps)


def maps_of(model: Model, x: Tensor, y: Tensor, explain: Explanation, reduce: Reduce, batch: int) -> Tensor:
    """Return the maps of the explanation, (B, H, W), detached."""
    with torch.enable_grad():
        return batched(lambda z, label: mapped(explain(model, z, label), reduce, len(z)).detach(), batch)(x, y)


def maps_and_logits(
    model: Model, x: Tensor, y: Tensor, explain: Explanation, reduce: Reduce, batch: int
) -> tuple[Tensor, Tensor | None]:
    """Return the maps, (B, H, W), and the logits, (B, K), if the explanation computes them; both detached."""
    parts = [
        explained(model, z, label, explain, reduce) for z, label in zip(x.split(batch), y.split(batch), strict=True)
    ]
    heard = [logits for _, logits in parts if logits is not None]
    return torch.cat([maps for maps, _ in parts]), torch.cat(heard) if len(heard) == len(parts) else None


def attributions_of(
    model: Model,
    x: Tensor,
    y: Tensor,
    explain: Explanation,
    batch: int | None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the attributions, (B, *D), detached; NaN where the model gives no answer.

    Args:
        model: Any callable to logits.
        x: Samples, (B, *D).
        y: Classes that are explained, (B,).
        explain: The explanation; its result may be an array.
        batch: Samples computed at once. None: all.
        progress: Called with the number of samples explained, as by `batched`.
    """
    with marking_undefined():
        return batched(lambda *part: torch.as_tensor(explain(model, *part)).detach(), batch, progress=progress)(x, y)


@torch.no_grad()
def _true_logits(model: Model, x: Tensor, y: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Return the logits of y, and whether y is predicted, both (B,)."""
    return _label_kept(logits_at(model, x, batch=batch), y)


def _label_kept(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of y, and whether y is predicted, both (B,)."""
    return true_logit(logits, y), (logits.argmax(1) == y) & answered(logits, y)


def _same_map(a: Tensor, b: Tensor) -> Tensor:
    """Return whether two maps are equal up to rounding, (B,) bool."""
    difference = flat(a - b).abs().amax(1)
    return difference <= 1e-6 * flat(a).abs().amax(1)


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
