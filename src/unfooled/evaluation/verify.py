"""The only judge of points: is a point allowed, did the label change, how far is it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once, fooled
from unfooled.core.model.batching import batched
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model


@dataclass(frozen=True)
class Verdict:
    """Verdict on proposed points, one entry per sample.

    Attributes:
        inside: Points within the ball and the box, up to the tolerance, (B,) bool.
        success: Samples that lose the label (or hit the target) at an allowed point, or were wrong before, (B,) bool.
        distance: Size of the change in the threat's norm; 0 where already wrong, inf where there is no success, (B,).
        queries: Forwards per sample that the judge itself took, (B,) int64; the attack's come from `counted`.
        undefined: Points whose logits are NaN or infinite: no decision, hence no success, (B,) bool.
        rate: Share of the draws in which the label was lost (one draw for a deterministic model), (B,).
        right_share: Share of the draws in which the answer is right (not the target, when targeted), and finite, (B,).
        prediction: Class predicted at x_adv (in the last draw), (B,) int64.
    """

    inside: Tensor
    success: Tensor
    distance: Tensor
    queries: Tensor
    undefined: Tensor
    rate: Tensor
    right_share: Tensor
    prediction: Tensor


def on_levels(x_adv: Tensor, x: Tensor, levels: int = 256) -> Tensor:
    """Round each coordinate of x_adv to the grid of `levels` values, towards x, so that the ball still holds."""
    top = levels - 1
    up = (x_adv * top - 1e-4).ceil() / top
    down = (x_adv * top + 1e-4).floor() / top
    return torch.where(x_adv > x, torch.maximum(down, x), torch.where(x_adv < x, torch.minimum(up, x), x))


@torch.no_grad()
def verify(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    tol: float = 1e-6,
    levels: int | None = None,
    draws: int = 1,
    batch: int = 256,
) -> Verdict:
    """Judge proposed points; nothing that the attack reports is used.

    Args:
        model: Any callable to logits.
        x: Clean inputs, (B, *D).
        y: Labels, or targets when `targeted`, (B,).
        x_adv: Proposed points, (B, *D).
        threat: Constraint set; `eps = math.inf` allows the whole box.
        targeted: Count hitting y as success.
        tol: Tolerance of the size and of the box, relative to eps where that is above 1.
        levels: Levels of a coordinate: 256 judges the points as 8-bit images, rounded towards x. None: as they are.
        draws: Evaluations of a random model; success is a majority, `rate` the frequency.
        batch: Samples computed at once.

    Returns:
        A `Verdict`. Cost: 2 draws forwards per sample (x and x_adv).

    Raises:
        BadInput: Shapes that do not agree, or inputs that are no images of the unit box.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        given = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else f"type {type(x_adv).__name__}"
        raise BadInput(f"x_adv has {given}, x is a tensor of shape {tuple(x.shape)}; they must agree")
    if draws < 1:
        raise BadInput(f"draws is {draws}; it must be at least 1")
    finite = torch.isfinite(flat(x_adv)).all(1)
    proposed = where_rows(finite, x_adv, x)
    proposed = proposed if levels is None else on_levels(proposed, x, levels)
    size = threat.size(proposed - x)
    inside = finite & _allowed(x, proposed, size, threat, tol)
    count_draws = batched(partial(_count_draws, checked_once(model, y), draws=draws, targeted=targeted), batch)
    fooled_draws, fooled_clean, right_draws, right_clean, undefined, prediction = count_draws(x, y, proposed)
    wrong = fooled_clean * 2 > draws
    success = wrong | (inside & (fooled_draws * 2 > draws))
    return Verdict(
        inside=inside,
        success=success,
        distance=torch.where(success, size, torch.inf).masked_fill(wrong, 0),
        queries=torch.full_like(y, 2 * draws),
        undefined=undefined | ~finite,
        rate=torch.where(inside, fooled_draws, fooled_clean) / draws,
        right_share=torch.where(inside, right_draws, right_clean).double() / draws,
        prediction=prediction,
    )


def _count_draws(
    reader: Callable[..., Tensor], x: Tensor, y: Tensor, z: Tensor, *, draws: int, targeted: bool
) -> tuple[Tensor, ...]:
    """Return counts of draws, whether one is undefined at z, and the last prediction, (b,) each.

    Returns:
        Draws that are fooled at z and at x, draws with a finite answer that are not fooled at z and at x, undefined,
        prediction.
    """
    fooled_draws, fooled_clean, right_draws, right_clean = (torch.zeros(len(x), device=x.device) for _ in range(4))
    undefined = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(draws):
        logits_x, logits_z = reader(x, y), reader(z)
        fooled_x, fooled_z = (fooled(logits, y, targeted=targeted) for logits in (logits_x, logits_z))
        finite = torch.isfinite(logits_z).all(1)
        fooled_clean += fooled_x
        fooled_draws += fooled_z
        right_clean += ~fooled_x & torch.isfinite(logits_x).all(1)
        right_draws += ~fooled_z & finite
        undefined |= ~finite
    return fooled_draws, fooled_clean, right_draws, right_clean, undefined, logits_z.argmax(1)


def _allowed(x: Tensor, z: Tensor, size: Tensor, threat: Threat, tol: float) -> Tensor:
    """Return a mask of the points within the ball and the box, up to the tolerance, (B,) bool."""
    eps = torch.as_tensor(threat.eps, dtype=x.dtype, device=x.device)
    low, high = flat(z).amin(1), flat(z).amax(1)
    near = size <= eps + tol * eps.clamp(min=1).nan_to_num(posinf=1)
    return near & (low >= threat.box.low - tol) & (high <= threat.box.high + tol)
