"""Check of the labels: do predictions match them better than guessing, and if not, what is the likely cause?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch import Tensor

from unfooled.evaluation.checks.table import CHECKS, Finding, finding
from unfooled.statistics.agreement import Guess, at_best, guessing, matching, shift

MIN_SHARE = 0.8
"""Share of the predictions that a renaming of the classes must explain for the check to fire."""
MIN_GAIN = 0.2
"""Least gain of that share over the clean accuracy."""
MAX_PAIRS_LISTED = 6
"""Largest number of class pairs that the text lists."""


def agreement(prediction: Tensor, y: Tensor, classes: int) -> Finding:
    """D26: predictions agree with the labels no better than guessing, or much better once the labels are renamed.

    Args:
        prediction: Classes predicted for the clean samples, (n,).
        y: Their labels, (n,).
        classes: Number of classes of the model.
    """
    answers, labels = prediction.cpu().numpy(), y.cpu().numpy()
    guess = guessing(answers, labels, classes)
    n, limit = len(labels), CHECKS["D26"].limit
    hits = guess.hits / n
    chance = _chance(guess, classes)
    detail = f"{guess.hits} of {n} clean samples are right ({hits:.0%}; guessing gives {chance})"
    cause, share = "", 0.0
    if guess.constant or guess.one_class:
        cause = _only_one(guess, n)
    elif not guess.better or (n >= 20 and 1 - hits >= MIN_GAIN and at_best(answers, labels) >= MIN_SHARE * n):
        # else no renaming explains or gains enough
        cause, share = likely_cause(answers, labels, classes)
    renamed = n >= 20 and share >= MIN_SHARE and share - hits >= MIN_GAIN
    fired = not guess.better or renamed
    if fired:
        detail += f": {cause or _unknown(labels, classes)}"
    return finding(
        "D26", fired, detail, "no verdict: mend the labels, their order (--labels) or the preprocessing first",
        guess.p, limit,
    )  # fmt: skip


def _only_one(guess: Guess, n: int) -> str:
    """Return what is wrong with one answer for all samples, or with labels of one class, and what to do."""
    if guess.constant:
        return (
            f"the model answers class {guess.common} for all {n} samples; mend the model, or what is done to its inputs"
        )
    return (
        f"all labels are class {guess.common}, so whether the model knows them or always answers it cannot be tested; "
        "take samples of two classes at least"
    )


def _chance(guess: Guess, classes: int) -> str:
    """Return the accuracy of guessing, as text."""
    if guess.common is None:
        return f"{guess.chance:.2g} of {classes} classes".replace("0.", ".", 1)
    return f"{guess.chance:.0%}, always answering class {guess.common}"


def likely_cause(prediction: np.ndarray, y: np.ndarray, classes: int) -> tuple[str, float]:
    """Return the likely cause of wrong predictions, as text, and the share it explains; "" and 0 if unknown.

    Args:
        prediction: Predicted classes, (n,).
        y: Labels, (n,).
        classes: Number of classes of the model.
    """
    n, (by, shifted) = len(y), shift(prediction, y, classes)
    matched = matching(prediction, y)
    if by and shifted >= n / 2 and shifted >= 0.9 * matched.hits:
        how = "one more" if by == 1 else "one less" if by == -1 else f"{abs(by)} {'more' if by > 0 else 'less'}"
        return (
            f"{shifted / n:.0%} of the predictions are the label's number and {how}, so classes are counted from "
            "another start, or one is missing", shifted / n,
        )  # fmt: skip
    moved = {label: answer for label, answer in matched.pairs.items() if label != answer}
    if not matched.real or matched.hits < n / 2 or not moved:
        return "", 0.0
    order = [matched.pairs[label] for label in sorted(matched.pairs)]
    pairs = ", ".join(f"{label} is {moved[label]}" for label in sorted(moved)[:MAX_PAIRS_LISTED])
    pairs += ", ..." if len(moved) > MAX_PAIRS_LISTED else ""
    rising = all(a < b for a, b in pairwise(order))
    if rising and all(answer > label for label, answer in moved.items()):
        what = "the labels count only the classes that the data hold, the model's others are missing"
    elif moved == {k: v for k, v in enumerate(sorted(range(classes), key=str)) if k in moved}:
        what = "the classes are ordered as text (0, 1, 10, 11, 2, ...) on one side and as numbers on the other"
    else:
        what = "the classes are in another order"
    return f"{what}: {matched.hits / n:.0%} of the predictions fit with other names (label {pairs} for the model)", (
        matched.hits / n
    )


def _unknown(y: np.ndarray, classes: int) -> str:
    """Return the text for predictions that no renaming of the classes explains."""
    present = len(np.unique(y))
    note = f"; the data hold {present} of the model's {classes} classes" if present < classes else ""
    return f"no other order of the classes explains it; the model may be of other classes or normalise otherwise{note}"
