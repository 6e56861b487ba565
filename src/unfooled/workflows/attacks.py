"""Attacks by name, with the options that each takes; minimal-norm attacks turned into budget attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.envelope import envelope
from unfooled.core.checks import check_attack
from unfooled.core.model.batching import batched
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Model, Purify
from unfooled.explanations.attention import attention
from unfooled.purification.semantic import SemanticPurifier
from unfooled.runs.spelling import spelled
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import choose

NORMS = {0.0: "L0", 1.0: "L1", 2.0: "L2", float("inf"): "Linf"}
ATTEND = partial(attention, detach_weights=True)
"""Attention map that `attention_pgd` moves; with its weights attached it has no gradient on ReLU networks."""


@dataclass(frozen=True)
class BoundAttack:
    """An attack with its options bound.

    Attributes:
        propose: `(model, x, y, threat, *, generator) -> x_adv`, points inside the threat.
        label: Name for reports.
        nearest: `(model, x, y, norm, *, generator) -> x_adv`, the minimal-norm attack behind it; None: a budget attack.
    """

    propose: Callable[..., Tensor]
    label: str
    nearest: Callable[..., Tensor] | None = None


def bind_attack(
    attack: str | Callable[..., Tensor],
    threat: Threat,
    *,
    steps: int | None = None,
    restarts: int = 1,
    batch: int | None = None,
    purify: Purify | None = None,
) -> BoundAttack:
    """Bind an attack's options.

    Args:
        attack: Name in `catalog.ATTACKS`, or a budget or minimal-norm attack with its options bound.
        threat: Threat model.
        steps: Gradients or queries; None: the attack's default.
        restarts: Random starts.
        batch: Samples computed at once; None: all.
        purify: Purifier that the model is behind. None: there is none.

    Raises:
        BadOption: no such attack, a norm that it does not know, an option that it does not take, or no purifier with
            clusters where it needs one.
    """
    if not isinstance(attack, str):
        if steps is not None or restarts != 1:
            raise BadOption("{attack} is a function; bind its {steps} and {restarts} with functools.partial")
        return _bound(attack, spelled(attack), batch)
    row: catalog.Attack = choose(catalog.ATTACKS, attack, "attack")
    function = catalog.resolve(row.path)
    takes = catalog.takes(function)
    options: dict[str, Any] = {name: catalog.resolve(path) for name, path in row.bound.items()}
    if row.purifier:
        options |= _clusters_of(purify, attack)
    label = attack.upper()
    if "steps" in takes:
        steps = next(n for n in (steps, row.steps, catalog.default_of(function, "steps")) if n is not None)
        options["steps"] = steps
        label += f", {steps} {row.unit}"
    elif steps is not None:
        raise BadOption("{0} takes no {steps}; leave it out", attack)
    if restarts < 1 or (steps is not None and steps < 1):
        raise BadOption("{steps} is {0} and {restarts} is {1}; both must be at least 1", steps, restarts)
    if "restarts" in takes:
        options["restarts"] = restarts
        label += f", {restarts} restarts" if restarts > 1 else ""
    elif restarts > 1:
        raise BadOption(f"{{0}} has no {{restarts}}; {_restart_advice(row, takes)}", attack)
    if threat.norm not in row.norms:
        known = ", ".join(NORMS[norm] for norm in row.norms)
        raise BadOption("{0} supports {1}, the threat is {2}; choose another {attack}", attack, known, threat)
    if "batch" in takes:
        return _bound(partial(function, batch=batch, **options), label, None)
    return _bound(partial(function, **options), label, batch)


def needs_clusters(attack: str | Callable[..., Tensor] | None) -> bool:
    """Return whether an attack, by name, needs the clusters of a purifier."""
    row = catalog.ATTACKS.get(attack) if isinstance(attack, str) else None
    return row is not None and row.purifier


def _clusters_of(purify: Purify | None, attack: str) -> dict[str, Any]:
    """Return the options of an attack that a purifier's clusters give."""
    if purify is None:
        raise BadOption(
            "{attack:{0}} moves inputs to other clusters of a purifier; give {purify}, a folder that `unfooled purify "
            "fit` wrote", attack,
        )  # fmt: skip
    if not isinstance(purify, SemanticPurifier) or len(purify.label.unique()) < 2:
        raise BadOption(
            "{attack:{0}} needs a purifier with clusters of several classes, and {purify} has none; give a folder that "
            "`unfooled purify fit` wrote, or choose another {attack}", attack,
        )  # fmt: skip
    return {"distance": purify.distance, "label": purify.label}


def _restart_advice(row: catalog.Attack, takes: tuple[str, ...]) -> str:
    """Return the advice for an attack that takes no restarts."""
    if "steps" not in takes:
        return "leave it out"
    return "give it more {steps}" + ("" if row.unit == "steps" else f", which are its {row.unit}")


def _bound(attack: Callable[..., Tensor], label: str, batch: int | None) -> BoundAttack:
    if "norm" in catalog.takes(attack):
        nearest = in_batches(attack, batch)
        return BoundAttack(within_threat(nearest), label, nearest)
    return BoundAttack(in_batches(attack, batch), label)


def in_batches(attack: Callable[..., Tensor], batch: int | None) -> Callable[..., Tensor]:
    """Compute an attack for at most `batch` samples at once; None: all."""
    if batch is None:
        return attack

    def propose(model: Model, x: Tensor, y: Tensor, allowed: Threat | float, **options: Any) -> Tensor:
        def attacked(rows: Tensor) -> Tensor:
            within = allowed.take(rows) if isinstance(allowed, Threat) else allowed
            return attack(model, x[rows], y[rows], within, **options)

        return batched(attacked, batch)(torch.arange(len(x), device=x.device))

    return propose


def within_threat(nearest: Callable[..., Tensor]) -> BudgetAttack:
    """Turn a minimal-norm attack into a budget attack: its nearest points, cut to what the threat allows.

    Args:
        nearest: `(model, x, y, norm, *, generator) -> x_adv`, options bound with `functools.partial`.

    Returns:
        An attack with the signature `(model, x, y, threat, *, targeted, generator) -> x_adv`. Cost: the attack's.
    """

    def attack(
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x = check_attack(x, y, threat)
        options: dict[str, Any] = {"targeted": True} if targeted else {}
        return clip_to_threat(nearest(model, x, y, threat.norm, generator=generator, **options), x, threat)

    return attack


def clip_to_threat(nearest: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Cut points to what a threat allows; points inside it stay where they are."""
    return threat.bounded(x).project(nearest, x)


def nearest_of_all(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float,
    *,
    targeted: bool = False,
    steps: int = 1000,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find the nearest adversarial examples with `envelope`, as a minimal-norm attack in one norm.

    Args:
        model: Any callable to logits.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,).
        norm: 0, 1, 2 or math.inf.
        targeted: Hit y instead of leaving it.
        steps: Forward and backward passes per sample.
        batch: Samples computed at once; None: from the free memory.
        generator: Base seed.
    """
    points = envelope(
        model, x, y, (norm,), budget=steps, targeted=targeted, generator=generator, batch=batch
    )  # fmt: skip
    return points[norm]
