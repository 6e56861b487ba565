"""Soft stability: does the class stay when features are added to those that an explanation selects?

    tau_r = P[ argmax f(S') = argmax f(S) ],    S' uniform over the supersets of S with at most r further features

For one output, such as a regression's, there is no class. The answer stays where it is on the same side of the answer
with every feature hidden, or, with a tolerance t, where it moves by at most t:

    sign(f(S') - f({})) = sign(f(S) - f({}))        or        |f(S') - f(S)| <= t

f(S) is the model's output with all features outside S hidden. N draws give the estimate and Hoeffding's interval of
half-width sqrt(log(2 / delta) / (2 N)), for any f and any number of features; for few features, all supersets are
enumerated.

References:
    Jin, Xue, You, Goel, Wong, Probabilistic stability guarantees for feature attributions, NeurIPS 2025,
    arXiv:2504.13787.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput

Answers = Callable[[Tensor], Any]
"""Masks (n, M) bool -> outputs (n, K)."""
ROUNDING = 1e-9
"""Share of an answer up to which two answers are equal."""


@dataclass(frozen=True)
class SoftStability:
    """Probability that the class, or the side of one output, stays the same, with an interval.

    Attributes:
        value: Estimate.
        low: Lower end of its interval.
        high: Upper end; both are the value where all supersets were enumerated.
        draws: Number of supersets evaluated.
        exact: True if all supersets were enumerated.
    """

    value: float
    low: float
    high: float
    draws: int
    exact: bool


def soft_stability(
    f: Answers,
    selected: Tensor,
    r: int,
    *,
    draws: int = 150,
    delta: float = 0.1,
    exact: bool | None = None,
    tolerance: float | None = None,
    batch: int = 256,
    generator: torch.Generator | None = None,
) -> SoftStability:
    """Estimate the probability that a sample's class stays when at most r features are added to those selected.

    Args:
        f: Function from masks, (n, M) bool, to outputs, (n, K); K = 1 is a regression.
        selected: Features selected, (M,) bool.
        r: Largest number of features added.
        draws: Number of supersets drawn.
        delta: Error probability of the interval.
        exact: True: enumerate all supersets; False: draw them. None: enumerate if M is at most 12 and there are at most
            `draws`.
        tolerance: For K = 1, largest change of the answer that counts as none, in its unit. None: the answer
            stays where it is on the same side of the answer with every feature hidden.
        batch: Masks per call.
        generator: Base seed; not advanced.

    Returns:
        A `SoftStability`. Cost: `draws` + 1 forwards, `draws` + 2 for K = 1.

    Raises:
        BadInput: An argument or the output is invalid.

    Example:
        >>> or_of_two = lambda z: torch.stack([~z[:, :2].any(1), z[:, :2].any(1)], 1) * 1.0
        >>> soft_stability(or_of_two, torch.tensor([False, False, True]), r=1).value
        0.3333333333333333
    """
    if not callable(f):
        raise BadInput(f"f is a {type(f).__name__}; give a function from masks (n, M) to outputs (n, K)")
    selected = selected if isinstance(selected, Tensor) else torch.as_tensor(selected)
    if selected.ndim != 1 or selected.dtype != torch.bool:
        raise BadInput(f"selected is {selected.dtype}, {tuple(selected.shape)}; it is a mask of features, (M,) bool")
    if tolerance is not None and not tolerance >= 0:
        raise BadInput(f"tolerance is {tolerance}; it is a change of the answer of at least 0, in its unit")
    if r < 0 or draws < 1 or not 0 < delta < 1:
        raise BadInput(f"r is {r}, draws {draws}, delta {delta}; r is at least 0, draws at least 1, delta in (0, 1)")
    free = (~selected).nonzero()[:, 0]
    most = min(r, len(free))
    number = sum(math.comb(len(free), k) for k in range(most + 1))
    if exact is None:
        exact = len(selected) <= 12 and number <= draws
    if exact and number > 1 << 20:
        raise BadInput(f"there are {number} supersets; draw some of them")
    added = (
        _all_subsets(len(free), most) if exact else _random_subsets(len(free), most, draws, rng.base_seed(generator))
    )
    masks = selected.repeat(len(added), 1)
    masks[:, free] = added
    parts = [_outputs(f(part), len(part)) for part in torch.cat([selected[None], masks]).split(batch)]
    outputs = torch.cat(parts)
    hidden = _outputs(f(torch.zeros_like(selected)[None]), 1) if outputs.shape[1] == 1 and tolerance is None else None
    value = float(stays(outputs[1:], outputs[:1], hidden, tolerance).double().mean())
    half = 0.0 if exact else math.sqrt(math.log(2 / delta) / (2 * len(added)))
    return SoftStability(value, max(0.0, value - half), min(1.0, value + half), len(added), exact)


def _all_subsets(free: int, most: int) -> Tensor:
    """Return all subsets of at most `most` features, (n, free) bool."""
    rows = [subset for k in range(most + 1) for subset in combinations(range(free), k)]
    masks = torch.zeros(len(rows), free, dtype=torch.bool)
    for mask, subset in zip(masks, rows, strict=True):
        mask[list(subset)] = True
    return masks


def _random_subsets(free: int, most: int, draws: int, seed: int) -> Tensor:
    """Draw uniformly among the subsets of at most `most` features: first the size, then its members."""
    k = torch.arange(most + 1, dtype=torch.float64)
    log_count = math.lgamma(free + 1) - torch.lgamma(k + 1) - torch.lgamma(free - k + 1)
    share = log_count.softmax(0).cumsum(0)
    seeds = rng.seeds(torch.tensor([[free]]), seed, stage=rng.Stream.SUPERSETS).expand(draws)
    u = rng.uniform(seeds, (free + 1,), draw=torch.arange(draws), dtype=torch.float64)
    size = torch.searchsorted(share, u[:, 0].contiguous()).clamp(max=most)
    return u[:, 1:].argsort(1).argsort(1) < size[:, None]


def stability_of_samples(masks: Tensor, outputs: Tensor, selected: Tensor, r: int) -> SoftStability | None:
    """Return the soft stability from outputs that are at hand; None where they do not have every superset.

    Args:
        masks: Masks, (n, M) bool.
        outputs: Outputs at the masks, (n, K).
        selected: Features selected, (M,) bool.
        r: Largest number of features added.
    """
    free = (~selected).nonzero()[:, 0]
    most = min(r, len(free))
    if sum(math.comb(len(free), k) for k in range(most + 1)) > len(masks):
        return None
    wanted = selected.repeat(sum(math.comb(len(free), k) for k in range(most + 1)), 1)
    wanted[:, free] = _all_subsets(len(free), most)
    place = {bytes(row): k for k, row in enumerate(masks.numpy())}
    at = [place.get(bytes(row)) for row in wanted.numpy()]
    none, one = place.get(bytes(len(selected))), outputs.shape[1] == 1
    if any(k is None for k in at) or (one and none is None):
        return None
    table = outputs[[k for k in at if k is not None]]
    hidden = outputs[none][None] if one and none is not None else None
    value = float(stays(table, outputs[place[bytes(selected.numpy())]][None], hidden).double().mean())
    return SoftStability(value, value, value, len(table), True)


def stays(outputs: Tensor, own: Tensor, hidden: Tensor | None = None, tolerance: float | None = None) -> Tensor:
    """Return which outputs, (n, K), name the same class as the output of the selected features, (n,) bool.

    Args:
        outputs: The outputs.
        own: Output of the selected features, (1, K).
        hidden: Output with every feature hidden, (1, 1), for one output without a tolerance.
        tolerance: For one output, the largest change that counts as none. None: its side of `hidden` counts.
    """
    if outputs.shape[1] > 1:
        return outputs.argmax(1) == own.argmax(1)
    if tolerance is not None:
        return (outputs - own)[:, 0].abs() <= tolerance
    assert hidden is not None
    least = ROUNDING * max(float(hidden.abs()), float(own.abs()))

    def side(values: Tensor) -> Tensor:
        change = (values - hidden)[:, 0]
        return change.sign().where(change.abs() > least, torch.zeros_like(change))

    return side(outputs) == side(own)


def _outputs(outputs: Any, n: int) -> Tensor:
    """Return outputs as a table, (n, K); refuse another number of rows."""
    table = torch.as_tensor(outputs)
    if table.is_complex():
        raise BadInput("f returned complex numbers; return real ones, (n, K)")
    if table.ndim != 2 or len(table) != n or not table.shape[1]:
        raise BadInput(f"f returned shape {tuple(table.shape)} for {n} masks; return one row each, (n, K)")
    return table
