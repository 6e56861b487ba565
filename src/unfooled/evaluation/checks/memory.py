"""Replay of the final points on the model as it was before its first query: does it remember queries?

The model is copied before the audit, functions with their closures and globals included. Where it cannot be copied, and
its state has changed or cannot be inspected, it is loaded again from its source in another process; without a source,
its memory cannot be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core import losses, rng
from unfooled.core.ascent import Constant, ascend
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooling
from unfooled.core.model.calls import share_habits
from unfooled.core.model.duplicates import Duplicate, duplicate, state_hash
from unfooled.core.model.modes import frozen
from unfooled.core.model.outputs import logits_of
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import replayed
from unfooled.evaluation.checks.table import Finding, finding
from unfooled.models.anew import answers_anew
from unfooled.models.origins import origin_of

MAX_REPLAYED, MAX_ITERATED, MAX_FIRST = 500, 50, 16
"""Largest number of points replayed per set, of samples from which `last_iterates` makes other points, and of samples
that are tried before the attack."""


@dataclass(frozen=True)
class OriginalModel:
    """A model as it was before its first query.

    Attributes:
        duplicate: Copy of the model.
        origin: Arguments that load the model again. None: it was not loaded by name.
        state: Hash of everything that it stores.
    """

    duplicate: Duplicate
    origin: Mapping[str, Any] | None
    state: str = ""

    @classmethod
    def of(cls, model: Any) -> OriginalModel:
        """Record a model before its first query."""
        twin = duplicate(model)
        return cls(twin, origin_of(model), _state(twin))

    def changed(self) -> bool:
        """Return whether the model stores something else now, be it only a count of its calls."""
        return _state(self.duplicate) != self.state

    def reason_not_replayed(self) -> str:
        """Return why the original model cannot be queried; empty where it can, or where nothing has changed."""
        twin = self.duplicate
        if twin.changed():
            return "it cannot be copied, and what it stores changed meanwhile"
        return f"it cannot be copied, nor inspected ({', '.join(twin.opaque)})" if twin.opaque else ""


def _state(twin: Duplicate) -> str:
    """Return a hash of what the original model stores now, with the variables outside of it that its methods use."""
    return state_hash([twin.original, *(place.read() for place in twin.variables.values())])[0]


def first_look(
    original: OriginalModel, given: Model, model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0
) -> list[Finding]:
    """Make check D20 before the attack, on a model whose state has changed since its first query.

    A model that answers every point as it answered the sample before cannot be attacked, with whatever effort.

    Args:
        original: The model before its first query.
        given: The same model now.
        model: Wrapper of the model that counts its passes.
        x: Samples that are right, (b, *D); the first 16 are tried.
        y: Labels, (b,).
        threat: Constraint set of these samples.
        seed: Random seed.

    Returns:
        The finding if a copy showed the memory, else nothing. Cost: at most 10 F + 7 B per sample tried.
    """
    if not len(x) or not original.changed():
        return []
    few = torch.arange(min(len(x), MAX_FIRST), device=x.device)
    x, y, threat = x[few], y[few], threat.take(few).bounded(x)
    ends = [threat.extreme(x, seed, stage=rng.Stream.CHECK_MEMORY)]
    with suppress(RuntimeError, BadInput):  # the model may have no gradient
        ends.append(last_iterates(model, x, y, threat, x))
    return [f for f in memory_findings(original, given, model, y, *ends) if f.fired and f.value is not None]


def last_iterates(model: Model, x: Tensor, y: Tensor, threat: Threat, start: Tensor) -> Tensor:
    """Return the last iterate of a short ascent, not the best one, (b, *D). Cost: 8 F + 7 B per sample.

    A model that remembers queries may give the same answer near each of them; then no iterate looks better than the
    sample, and the best one would be the sample itself.

    Args:
        model: Model whose gradients are followed.
        x: Samples, (b, *D).
        y: Labels, (b,).
        threat: Constraint set of these samples.
        start: Starting points, (b, *D).
    """
    goal = fooling(model, y, losses.margin, stop=False)
    with frozen(model):
        return ascend(goal, x, threat, steps=7, rule=Constant(0.3), start=start, keep_best=False).z


def memory_findings(original: OriginalModel, given: Model, model: Model, y: Tensor, *sets: Tensor) -> list[Finding]:
    """Make check D20 after the attack: points fool the original model, but not the model after its queries.

    Args:
        original: The model before its first query.
        given: The same model now.
        model: Wrapper of the model that was attacked, which counts its passes.
        y: Labels, (b,).
        sets: Points of the samples that the attack could not fool, or of the first of them, (b, *D); each set is
            passed to a fresh copy of the model.

    Returns:
        One finding per set, or one if the memory cannot be judged; empty where the model cannot be copied, and its
        state has not changed. Cost: 1 F per point, for at most 500 points per set.
    """
    reason_not_replayed, twin = original.reason_not_replayed(), original.duplicate
    if not reason_not_replayed and twin.model is None:
        return []
    with torch.random.fork_rng(devices=[]):
        if not reason_not_replayed:
            return [_first_fired(replayed(_answers(twin, given), model, z, y[: len(z)]) for z in sets)]
        if original.origin is not None:
            try:
                return [
                    _first_fired(
                        _replay_reloaded(original.origin, model, z[:MAX_REPLAYED], y[: len(z)][:MAX_REPLAYED])
                        for z in sets
                    )
                ]
            except BadInput as e:
                reason_not_replayed = f"{reason_not_replayed}; {e}"
    return [
        finding(
            "D20", True, f"whether the model remembers what it was asked cannot be seen: {reason_not_replayed}",
            'no verdict: load it by name, such as uf.load_model("file.py:factory"), so that it can be loaded anew',
        )
    ]  # fmt: skip


def _answers(twin: Duplicate, given: Model) -> Model:
    """Return a fresh copy of the original model, with what is known about the behaviour of the given one."""
    fresh = twin.fresh()
    share_habits(given, fresh.model)
    return lambda x: logits_of(fresh.answer(x.clone()), fresh.model)


def _first_fired(findings: Iterable[Finding]) -> Finding:
    """Return the first finding that fired, else the last."""
    last = finding("D20", False, "not tried")
    for last in findings:
        if last.fired:
            break
    return last


def _replay_reloaded(origin: Mapping[str, Any], model: Model, z: Tensor, y: Tensor) -> Finding:
    """Replay points on the model that another process loads."""
    answers = answers_anew(origin, z)
    return replayed(lambda _: answers, model, z, y)
