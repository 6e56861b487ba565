"""Label-only attack: a minimal-norm search that uses only the predicted class, projected onto the threat."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.hop_skip_jump import hop_skip_jump
from unfooled.attacks.rays import rays
from unfooled.core.ascent.nearest import moving_only
from unfooled.core.checks import check_attack, check_inputs, check_mode, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.model.batching import batched
from unfooled.core.threats import UNIT, Threat
from unfooled.core.types import Model

SEARCHES: dict[float, Callable[..., Tensor]] = {math.inf: rays, 2.0: hop_skip_jump, 1.0: hop_skip_jump}
"""The search for each norm of the threat; L1 takes the nearest points in L2."""


def labels_only(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 1000,
    rows: int = 1,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> Tensor:
    """Search for the nearest adversarial point using only predicted labels, and project it onto the threat.

    RayS in Linf, HopSkipJump in L2 and L1.

    Args:
        model: Any callable to logits, or to one-hot labels, (B, *D) -> (B, K); no gradient is computed.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        targeted: True: y are target classes.
        steps: Number of queries per sample (cost: as many forwards).
        rows: Largest number of points of a call with several queries of a sample in turn; above 1, fewer calls and more
            forwards, with the same result.
        generator: Base seed.
        batch: Samples computed at once. None: all.

    Returns:
        Points inside the threat, (B, *D). Success is not implied: see `verify`.

    Raises:
        BadInput: An L0 threat, onto which dense points cannot usefully be projected, or inputs that cannot be used.

    References:
        Chen, Gu, RayS, KDD 2020, arXiv:2006.12792. Chen, Jordan, Wainwright, HopSkipJumpAttack, S&P 2020,
        arXiv:1904.02144.
    """
    x = check_attack(x, y, threat)
    if threat.norm == 0:
        raise BadInput(f"labels_only supports Linf, L2 and L1, the threat is {threat}; use another norm")
    if threat.box != UNIT:
        check_inputs(x)  # the searches work in the unit box
    check_mode(model)
    search, norm = SEARCHES[threat.norm], math.inf if threat.norm == math.inf else 2.0
    model = checked_once(model, y)
    run = partial(search, model, norm=norm, targeted=targeted, steps=steps, rows=rows, generator=generator)
    with trusted(), moving_only(threat.free):
        return threat.project(batched(run, batch or len(x))(x, y), x)
