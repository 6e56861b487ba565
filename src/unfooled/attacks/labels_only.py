"""The attack for a model that tells its label and nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.attacks.hop_skip_jump import hop_skip_jump
from unfooled.attacks.rays import rays
from unfooled.core.checks import check_attack
from unfooled.core.errors import BadInput
from unfooled.core.threats import Threat
from unfooled.core.types import Model


def labels_only(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> Tensor:
    """Look for the nearest adversarial point by labels alone, and cut it to the threat.

    RayS in Linf, HopSkipJump in L2 and, with points cut to the ball, in L1.

    Args:
        model: any callable to logits, or to one-hot labels, (B, *D) -> (B, K); no gradient is asked of it.
        x: inputs in the threat's box, (B, *D).
        y: labels, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        steps: labels asked for a sample. Cost: so many forwards.
        generator: base seed.
        batch: samples alive at once; all where None.

    Returns:
        Points inside the threat, (B, *D). Success is for `verify` to say.

    Raises:
        BadInput: L0, where a dense point cut to a few entries fools nobody, or inputs that cannot be used.

    References:
        Chen, Gu, RayS, KDD 2020, arXiv:2006.12792. Chen, Jordan, Wainwright, HopSkipJumpAttack, S&P 2020,
        arXiv:1904.02144.
    """
    check_attack(x, y, threat)
    if threat.norm == 0:
        raise BadInput(f"labels_only knows Linf, L2 and L1, the threat is {threat}")
    search, norm = (rays, math.inf) if threat.norm == math.inf else (hop_skip_jump, 2.0)
    size = batch or len(x)
    parts = zip(x.split(size), y.split(size), strict=True)
    found = [search(model, a, b, norm, steps=steps, generator=generator) for a, b in parts]
    return threat.project(torch.cat(found), x)
