"""Replay of the final points on the model as it was before it was asked anything: does it remember queries?

The model is copied before the audit, functions with their closures and globals included. Where the copy is not whole,
and what it shares with the model has changed meanwhile, the model is loaded anew in another process from its source;
without a source, what it remembers cannot be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.calls import share_habits
from unfooled.core.model.duplicates import Duplicate, duplicate
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import replayed
from unfooled.evaluation.checks.table import Finding, finding
from unfooled.models.origins import answers_anew, origin_of

MOST = 500
"""Points that are replayed."""


@dataclass(frozen=True)
class Beginning:
    """A model as it was before it was asked anything.

    Attributes:
        duplicate: Copy of the model, and what the copy shares with it.
        origin: Arguments that load the model again. None: it came from no name.
    """

    duplicate: Duplicate
    origin: Mapping[str, Any] | None

    @classmethod
    def of(cls, model: Any) -> Beginning:
        """Return the beginning of a model that is about to be asked."""
        return cls(duplicate(model), origin_of(model))

    def unseen(self) -> str:
        """Return why the copy says nothing of the model's memory; empty where it does."""
        twin = self.duplicate
        changed = ", ".join(twin.changed())
        if twin.model is not None:
            return f"it changes what a copy of it shares ({changed})" if changed else ""
        if changed:
            return "it cannot be copied, and what it stores changed meanwhile"
        return f"it cannot be copied, nor looked into ({', '.join(twin.opaque)})" if twin.opaque else ""


def remembered(beginning: Beginning, given: Model, model: Model, z: Tensor, y: Tensor) -> list[Finding]:
    """Make check D20 after the attack: the model as it was is fooled where the model itself is not.

    Args:
        beginning: The model before it was asked anything.
        given: The same model now.
        model: The model that was attacked, which counts its passes.
        z: Final points of the samples that the attack could not fool, (b, *D).
        y: Labels, (b,).

    Returns:
        The finding; empty where the model cannot be copied, and nothing in it has changed. Cost: 1 F of at most 500
        points.
    """
    z, y = z[:MOST], y[:MOST]
    unseen, twin = beginning.unseen(), beginning.duplicate.model
    if not unseen and twin is None:
        return []
    with torch.random.fork_rng(devices=[]):
        if not unseen:
            share_habits(given, twin)
            return [replayed(twin, model, z, y)]
        if beginning.origin is not None:
            try:
                anew = answers_anew(beginning.origin, z)
                return [replayed(lambda points: anew[: len(points)], model, z, y)]
            except BadInput as e:
                unseen = f"{unseen}; {e}"
    return [
        finding(
            "D20", True, f"whether the model remembers what it was asked cannot be seen: {unseen}",
            'no verdict: load it by name, such as uf.load_model("file.py:factory"), so that it can be loaded anew',
        )
    ]  # fmt: skip
