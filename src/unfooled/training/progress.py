"""Optional attributes of a training loss: schedule over epochs, repeated batches, state between steps, numbers to log.

A loss is `(model, x, y) -> scalar`. Five attributes are optional, and the loop looks for no others:

    at(epoch) -> TrainingLoss   the loss to use after so many epochs, a float
    replays: int                steps that the loop takes on each batch; 1 if missing
    memory: Memory | None       state between steps; the loop empties, saves and restores it
    base: TrainingLoss          loss wrapped by a dataclass; `at`, `replays` and `memory` are then taken from it
    notes: Notes                numbers to log; the loop writes their means into every `Epoch`

The number of epochs comes from the loop, not from a counter inside the loss, so that a resumed run equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unfooled.core.threats import Threat
from unfooled.core.types import TrainingLoss


class Memory(Protocol):
    """State of a loss between steps, which a checkpoint can store."""

    by_sample: bool
    """True where samples are recognised by their bytes, which augmentation changes."""

    def state(self) -> dict[str, Tensor]:
        """Return the whole state, as tensors."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; an empty mapping empties the memory."""
        ...


class Notes:
    """Running means of per-sample numbers to log, reset at each `read`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor) -> None:
        """Add one number per sample, (B,), for each name; a batch of numbers that are not all finite is left out."""
        for name, value in values.items():
            total = value.detach().sum()
            if torch.isfinite(total):
                self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
                self._counts[name] = self._counts.get(name, 0) + len(value)

    def read(self) -> dict[str, float]:
        """Return the means since the last call, by name."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def notes_of(loss: TrainingLoss) -> dict[str, float]:
    """Return the notes of the loss since the last call; empty for most losses."""
    notes = getattr(loss, "notes", None)
    return notes.read() if isinstance(notes, Notes) else {}


def loss_at(loss: TrainingLoss, epoch: float) -> TrainingLoss:
    """Return the loss to use after `epoch` epochs: the loss itself, unless it has a schedule over epochs."""
    follow, base = getattr(loss, "at", None), base_of(loss)
    if follow is not None or base is None:
        return loss if follow is None else follow(epoch)
    now = loss_at(base, epoch)
    return loss if now is base else replace(loss, base=now)  # type: ignore[type-var]


def replays_of(loss: TrainingLoss) -> int:
    """Return the number of steps that the loop takes on each batch."""
    base = base_of(loss)
    return int(getattr(loss, "replays", 1)) if base is None else replays_of(base)


def memory_of(loss: TrainingLoss) -> Memory | None:
    """Return the state that the loss stores between steps; None where it has none."""
    base = base_of(loss)
    return getattr(loss, "memory", None) if base is None else memory_of(base)


def base_of(loss: TrainingLoss) -> TrainingLoss | None:
    """Return the loss inside this one; None where there is none."""
    return getattr(loss, "base", None)


def threat_of(loss: TrainingLoss) -> Threat | None:
    """Return the threat that the loss trains against: its own, or that of a loss inside it."""
    threat = getattr(loss, "threat", None)
    inside = getattr(loss, "loss", None) or base_of(loss)
    return threat if isinstance(threat, Threat) else None if inside is None else threat_of(inside)


def initialise_of(loss: TrainingLoss) -> Callable[[nn.Module, torch.Generator | None], None] | None:
    """Return the function that draws initial weights for the loss; None: those of the layers will do."""
    own = getattr(loss, "initialise", None)
    inside = getattr(loss, "loss", None) or base_of(loss)
    return own if own is not None or inside is None else initialise_of(inside)


def scaled_by(loss: Any, share: float) -> Any:
    """Return the loss, with its threat, that of its `base`, and its fields listed in `grows` times `share`.

    Fields listed in `falls` go from 1 to their value as the share goes from 0 to 1.
    """
    changed: dict[str, Any] = {name: share * getattr(loss, name) for name in getattr(loss, "grows", ())}
    changed |= {name: 1 - share * (1 - getattr(loss, name)) for name in getattr(loss, "falls", ())}
    if isinstance(getattr(loss, "threat", None), Threat):
        changed["threat"] = loss.threat.scaled(share)
    base = base_of(loss)
    if base is not None and threat_of(base) is not None:
        changed["base"] = scaled_by(base, share)
    return replace(loss, **changed)


@dataclass(frozen=True)
class Ramp:
    """A loss whose threat grows: eps_t = eps min(1, (t - wait) / epochs), t the epochs done at the end of the step.

    A network trained with a large threat from the start can stay at the loss of guessing, log K. Outside `train`, and
    after `epochs`, `Ramp` equals the loss itself.

    Args:
        loss: Dataclass with a `threat`, such as `Madry`, or with a `base` that has one; both threats grow.
        epochs: Number of epochs in which eps grows, above 0; may be a fraction.
        wait: Number of epochs before that, with eps 0; may be a fraction.
    """

    loss: Any
    epochs: float
    wait: float = 0.0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ValueError(f"epochs is {self.epochs}; it must be above 0")
        if not self.wait >= 0:
            raise ValueError(f"wait is {self.wait}; it must be at least 0")
        if threat_of(self.loss) is None:
            raise ValueError(f"{self.loss} has no threat that could grow; use it without Ramp")

    def __repr__(self) -> str:  # that of earlier versions where nothing is new, since checkpoints hold it
        waits = f", wait={self.wait}" if self.wait else ""
        return f"Ramp(loss={self.loss!r}, epochs={self.epochs}{waits})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch under the whole threat, a scalar."""
        value: Tensor = self.loss(model, x, y)
        return value

    def at(self, epoch: float) -> TrainingLoss:
        """Return the loss with its threat after `epoch` epochs."""
        share = min(1.0, max(0.0, epoch - self.wait) / self.epochs)
        now: TrainingLoss = self.loss if share >= 1 else scaled_by(self.loss, share)
        return now

    @property
    def replays(self) -> int:
        """Number of steps that the loss takes on each batch."""
        return replays_of(self.loss)

    @property
    def memory(self) -> Memory | None:
        """State of the loss, shared by all its scaled copies."""
        return memory_of(self.loss)

    @property
    def notes(self) -> Notes | None:
        """Notes of the loss, shared by all its scaled copies."""
        return getattr(self.loss, "notes", None)
