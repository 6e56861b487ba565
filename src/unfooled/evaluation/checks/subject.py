"""Inspection of a model before it is judged: what it returns, and whether it repeats itself."""

from __future__ import annotations

import random as random_numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.access import Access
from unfooled.core.checks import check_inputs, check_mode
from unfooled.core.goals import checked_once, logits_at
from unfooled.core.model.binding import free_entries
from unfooled.core.model.calls import noticing
from unfooled.core.model.impossible import FiniteLogits, never_the_label, with_finite
from unfooled.core.model.precision import HALF, name_of_kind, weight_kinds
from unfooled.core.samples import first_channels
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import REPEATS, rounding
from unfooled.evaluation.checks.black_box import NO_GRADIENTS, TWIN_EXPLAINED
from unfooled.explanations.recording import refusal
from unfooled.models.black_boxes.box import access_of
from unfooled.purification.guard import contains_guarded, noticing_guards
from unfooled.runs.answers import answers_text
from unfooled.runs.hashes import code_hashes, fingerprint
from unfooled.runs.settings import ANSWERS

RANDOM_DRAWS, GUARDED_DRAWS = 10, 20
"""Evaluations of a random model, and of one behind a random purifier, that are averaged at every gradient."""

PROBABILITIES = "The model returns probabilities, whose gradients vanish when it is sure; their logarithm was attacked."
LABELS_ONLY = (
    "The model returns 0 and 1, that is labels without scores, and no gradient tells how near a decision is. Return "
    "the logits before the argmax or softmax; where there are none, audit a function from arrays to labels as what it "
    "is: unfooled.BlackBox(answer, classes=K)."
)


@dataclass(frozen=True)
class LogOfProbabilities:
    """A model that returns probabilities, read as logits: log max(p, tiny). Same decisions, usable gradients."""

    model: Model

    def __call__(self, x: Tensor) -> Tensor:
        """Return log-probabilities, (B, K)."""
        p = logits_at(self.model, x)
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


@dataclass(frozen=True)
class Subject:
    """A model as it will be judged.

    Attributes:
        given: Model as it was given.
        model: Model to attack: the given one, or its logarithm where it returns probabilities.
        random: True if its output changes from call to call.
        probabilities: True if it returns probabilities instead of logits.
        free: Entries of a sample that may change, (*D) bool, for a bound model, see `uf.bind`. None: all.
        readable: False: its layers cannot be read, as it refuses hooks.
        warnings: Sentences about what was noticed.
        classes: Number of classes.
        access: Part of the model that an attack can use.
        guarded: True if it is a model behind a purifier, `guard(model, purify)`, or uses one.
        fingerprint: Hashes of the model, its code and weights, of the files that its code uses, and of the data, and
            its answers on a few samples unless it is random: a run is only continued with the same.
    """

    given: Model
    model: Model
    random: bool
    probabilities: bool
    free: Tensor | None
    readable: bool
    warnings: tuple[str, ...]
    classes: int
    fingerprint: Mapping[str, str]
    access: Access = Access.GRADIENTS
    guarded: bool = False

    def shown(self, x: Tensor) -> Tensor:
        """Return inputs, or maps of them, as they are shown: without the numbers of a bound model's samples."""
        return x if self.free is None else first_channels(x, int(self.free.flatten(1).all(1).sum()))


def inspect_model(model: Model, x: Tensor, y: Tensor) -> Subject:
    """Check inputs, labels and a model, and look at what it returns for a few samples.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K).
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.

    Returns:
        A `Subject`. Cost: 2 forwards of at most 16 samples; at most 9 of a model that draws random numbers.

    Raises:
        BadInput: Inputs, labels or outputs that cannot be used, or a model in training mode.
    """
    check_inputs(x, y)
    check_mode(model)
    hashes = fingerprint(model, x, y)
    few = x[:16]
    with torch.no_grad(), noticing() as warnings, noticing_guards() as guards:
        reader = checked_once(model, y)
        before = _random_states()
        logits = reader(few, y[:16])
        repeats = REPEATS if _random_states() != before else 1  # a few draws may be equal by chance
        attacked = _of_possible_classes(model, logits, y, warnings)
        if isinstance(attacked, FiniteLogits):
            reader, logits = checked_once(attacked, y), with_finite(logits, attacked.classes)
        scale = rounding(logits, model)
        random = any(bool((logits - reader(few)).abs().max() > scale) for _ in range(repeats))
    hashes |= code_hashes(model) | ({} if random else {ANSWERS: answers_text(model, logits)})
    if random:
        draws = GUARDED_DRAWS if guards or contains_guarded(model) else RANDOM_DRAWS
        warnings.append(
            f"The model's output is random: gradients are averaged over {draws} draws, and robust accuracy is the mean "
            "over 20 fresh draws per sample."
        )
    access = access_of(model)
    probabilities = bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())
    if probabilities:
        hard = access is Access.GRADIENTS and bool(((logits == 0) | (logits == 1)).all())
        warnings.append(LABELS_ONLY if hard else PROBABILITIES)
        attacked = LogOfProbabilities(model)
    if access is not Access.GRADIENTS:
        warnings += [NO_GRADIENTS, TWIN_EXPLAINED]
    free, unreadable = free_entries(model), refusal(model)
    if unreadable:
        warnings.append(f"No Grad-CAM and no attention: {unreadable}.")
    return Subject(
        model,
        attacked,
        random,
        probabilities,
        free,
        not unreadable,
        (*warnings, *_precision(model)),
        logits.shape[1],
        hashes,
        access,
        bool(guards) or contains_guarded(model),
    )


def _of_possible_classes(model: Model, logits: Tensor, y: Tensor, warnings: list[str]) -> Model:
    """Return the model; where its logits of classes that are never the label are -inf, one of finite logits."""
    never = never_the_label(logits, y)
    classes = (torch.isneginf(logits).any(0) & never).nonzero()[:, 0].tolist()
    if not classes:
        return model
    shown = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
    warnings.append(
        f"The model rules out {len(classes)} of {logits.shape[1]} classes by logits of -inf ({shown}), which no label "
        "names; the other classes were attacked."
    )
    return FiniteLogits(model, never)


def _precision(model: Model) -> list[str]:
    """Return a sentence about a model with weights in half precision, in a list; none for another."""
    short = next((kind for kind in weight_kinds(model) if kind in HALF), None)
    if short is None:
        return []
    kind = name_of_kind(short)
    return [f"The model has {kind} weights: its input is turned into that; points, distances and logits are float32."]


def _random_states() -> tuple[Any, ...]:
    """Return the states of the global random generators, which a call of a random model changes."""
    state: Any = np.random.get_state()  # noqa: NPY002
    states: list[Any] = [torch.get_rng_state().numpy().tobytes(), random_numbers.getstate()]
    states.append((state[1].tobytes(), *state[2:]))
    if torch.cuda.is_initialized():
        states.append(tuple(state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()))
    return tuple(states)
