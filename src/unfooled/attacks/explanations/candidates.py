"""Candidates for an attack on an explanation: allowed by the true model, ranked by the true explanation.

Points come from an ascent, a search or random draws; those that keep the label and change the map most are recorded
here, so that success on a smoothed model does not count without success on the true one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unfooled.attacks.explanations.objectives import MapObjective, MapValue, normalised
from unfooled.core.checks import check_attack, check_mode, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at, read_logits
from unfooled.core.model.batching import batched
from unfooled.core.model.wrappers import Tapped, note_second_derivatives
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import defined

Reduce = Callable[[Tensor], Tensor]
"""Attributions (B, *D) -> maps (B, H, W)."""

Observe = Callable[[Tensor, Tensor, Tensor], None]
"""(z (b, *D), at (b,) positions in x, maps (b, H, W)): called with every candidate, for example for other scores."""

Explanation = Callable[..., Tensor]
"""`(model, x, y) -> (B, *D)`; also with `create_graph=True` for differentiable maps."""


MIN_ALLOWED_SHARE = 0.6
"""Share of allowed candidates from which one pass for label and explanation is cheaper than a label's alone first."""


class CleanMaps(NamedTuple):
    """Clean samples as an explanation and its model see them.

    Attributes:
        right: Samples that the model classifies as y, (B,) bool.
        maps: Clean maps, (B, H, W).
        shares_pass: True if the explanation of a point computes the logits at that point.
    """

    right: Tensor
    maps: Tensor
    shares_pass: bool


class Candidates:
    """The best candidate of each sample so far.

    Args:
        model: True model.
        x: Clean inputs, (B, *D).
        y: Labels, (B,).
        threat: Threat model; candidates must be inside (not checked).
        explain: True explanation.
        objective: Value of a map, which ranks candidates. None: no ranking, only `observe` is called.
        reduce: Function from attributions, (B, *D), to maps, (B, H, W).
        observe: Callback for every candidate.
        batch: Clean samples computed at once. None: all.
        known: Clean samples, if they have been evaluated before. None: they are evaluated here.

    Attributes:
        live: Indices of the samples that can be attacked: correctly classified, with a map that is not constant.
        best: Points with the largest value of the objective, x itself where no candidate increases it, (B, *D).
        maps: Number of explanations computed for each sample without gradient, (B,) int64.
        gradients: Number of explanations computed with gradient, (B,) int64.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        explain: Explanation,
        objective: MapObjective | None,
        reduce: Reduce,
        observe: Observe | None = None,
        batch: int | None = None,
        known: CleanMaps | None = None,
    ) -> None:
        x = check_attack(x, y, threat)
        check_mode(model)
        self.model, self.x, self.y, self.explain, self.reduce, self.observe = model, x, y, explain, reduce, observe
        self.threat = threat
        every = torch.arange(len(x), device=x.device)
        self.maps, self.gradients = torch.zeros_like(y), torch.zeros_like(y)
        self.shares_pass, self.allowed, self.seen = False, 0, 0
        if known is None:
            with torch.no_grad():
                right = self.keeps_label(read_logits(model, x, y, batch=batch), every)
            clean = batched(lambda at: self._map(x[at], at)[0], batch or len(x))(every)
        else:
            right, clean, self.shares_pass = known
        self.live = every[right & usable_maps(clean)]
        self.best = x.clone()
        self.value: MapValue | None = None
        self.top = torch.zeros(len(x), dtype=clean.dtype, device=x.device)
        if objective is not None:
            self.value = objective(normalised(clean))
            start = self.value(normalised(clean), every)
            # Gains within rounding error do not count.
            self.top = start + 1e-6 * (1 + start.abs())

    def groups(self, batch: int) -> tuple[Tensor, ...]:
        """Split the samples that can be attacked into batches."""
        return self.live.split(batch) if len(self.live) else ()

    @property
    def one_pass(self) -> bool:
        """True if the explanation computes the logits anyway, and most candidates so far were allowed."""
        return self.shares_pass and self.allowed >= MIN_ALLOWED_SHARE * self.seen

    def keeps_label(self, logits: Tensor, at: Tensor) -> Tensor:
        """Return which samples keep their label, (b,) bool; False for NaN or infinite logits."""
        return (logits.argmax(1) == self.y[at]) & torch.isfinite(logits).all(1)

    def map_of(self, z: Tensor, at: Tensor) -> Tensor:
        """Return the true map at z, (b, H, W)."""
        return self.map_and_logits(z, at)[0]

    def map_and_logits(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the true map at z, (b, H, W), and the logits there, (b, K), if the explanation computed them."""
        with trusted():  # the explanation has checked its arguments on the clean samples
            return self._map(z, at)

    def _map(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute and count the true maps at z, and note whether the logits came with them."""
        self.maps.index_add_(0, at, torch.ones_like(at))
        maps, logits = explained(self.model, z, self.y[at], self.explain, self.reduce)
        self.shares_pass = logits is not None
        return maps, logits

    def graph_of(self, model: Model, z: Tensor, at: Tensor) -> Tensor:
        """Return the map at z of `model`, such as a smoothed one, normalised and with a graph, (b, H, W)."""
        self.gradients.index_add_(0, at, torch.ones_like(at))
        with trusted():
            attribution = self.explain(model, z, self.y[at], create_graph=True)
        note_second_derivatives(self.model, attribution)
        return normalised(mapped(attribution, self.reduce, len(z)))

    @torch.no_grad()
    def record(self, z: Tensor, at: Tensor, logits: Tensor | None = None) -> Tensor:
        """Record candidates for the samples `at`, which must be distinct.

        Args:
            z: Points inside the threat, (b, *D).
            at: Indices into x, (b,).
            logits: Logits of the true model at z. None: computed, for 1 more forward. Cost: 1 explanation where the
                label is kept.

        Returns:
            The value of each candidate, (b,); -inf where it is not allowed.
        """
        z, maps = z.detach(), None
        if logits is None and self.one_pass:
            maps, logits = self.map_and_logits(z, at)
        logits = logits_at(self.model, z) if logits is None else logits.detach()
        allowed = self.keeps_label(logits, at) & (flat(z) != flat(self.x[at])).any(1)
        self.seen, self.allowed = self.seen + len(z), self.allowed + int(allowed.sum())
        values = torch.full((len(z),), -torch.inf, dtype=self.top.dtype, device=z.device)
        if not allowed.any():
            return values
        z, rows = z[allowed], at[allowed]
        maps = self.map_of(z, rows) if maps is None else maps[allowed]
        usable = usable_maps(maps)
        z, rows, maps = z[usable], rows[usable], maps[usable]
        if self.observe is not None and len(rows):
            self.observe(z, rows, maps)
        if self.value is not None and len(rows):
            value = self.value(normalised(maps), rows)
            better = value > self.top[rows]
            self.best[rows] = where_rows(better, z, self.best[rows])
            self.top[rows] = torch.where(better, value, self.top[rows])
            values[allowed.nonzero()[:, 0][usable]] = value
        return values


def explained(model: Model, z: Tensor, y: Tensor, explain: Explanation, reduce: Reduce) -> tuple[Tensor, Tensor | None]:
    """Return the maps of the explanation at z, (b, H, W), detached, and the logits there if it computed them."""
    tap = Tapped(model, z)
    with torch.enable_grad():  # the user's explanation may rely on it
        maps = mapped(explain(tap, z, y), reduce, len(z)).detach()
    seen = tap.seen
    return maps, seen.detach() if isinstance(seen, Tensor) and seen.ndim == 2 else None


def mapped(attribution: Any, reduce: Reduce, n: int) -> Tensor:
    """Reduce the attributions of n samples, a tensor or an array, to maps, (n, H, W).

    Raises:
        BadInput: Their number is not that of the samples, or they cannot be reduced to maps.
    """
    given = torch.as_tensor(attribution)
    if given.ndim < 2 or len(given) != n:
        raise BadInput(
            f"the explanation returned shape {tuple(given.shape)} for {n} samples; it must be (B, *D), one per sample"
        )
    maps = reduce(given)
    if maps.ndim != 3 or len(maps) != n:
        raise BadInput(f"reduce returned shape {tuple(maps.shape)} for {n} samples; maps are (B, H, W)")
    return maps


def usable_maps(maps: Tensor) -> Tensor:
    """Return which maps are finite and not constant, (B,) bool."""
    return defined(maps) & torch.isfinite(flat(maps)).all(1)


def takes_create_graph(explain: Explanation) -> bool:
    """Return whether an explanation has the parameter `create_graph`."""
    try:
        parameters = inspect.signature(explain).parameters.values()
    except (TypeError, ValueError):  # builtins and some compiled callables have no signature
        return False
    return any(p.name == "create_graph" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
