"""Check of the preprocessing: does a model do better on inputs that are normalised once more?"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import answered, logits_at
from unfooled.core.types import Model
from unfooled.evaluation.checks.table import CHECKS, Finding, finding
from unfooled.statistics.paired import worse

NORMALISATIONS = {
    "mean .5, std .5": (0.5, 0.5),
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST's mean and std": (0.1307, 0.3081),
    "pixels from 0 to 255": (0.0, 1 / 255),
}
DRAWS = 5
"""Draws of a random model over which an accuracy is averaged."""
MAX_P = 0.01
"""p-value, of the samples on which both answers differ, above which a gain may be chance: a weak model's answers change
on many, to the better and to the worse."""


def normalisation(model: Model, x: Tensor, y: Tensor, *, random: bool = False, right: Tensor | None = None) -> Finding:
    """D2: the model does better on inputs that are normalised once more: they do not fit it.

    The gain must be above the limit, and, of a model whose answers are not random, more than chance (sign test).

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D); the first 100 are used.
        y: Labels, (B,).
        random: True: the answers are random, and accuracies are means over `DRAWS` draws.
        right: Which of the first 100 are right, (b,) bool; not used where the answers are random. None: the model is
            asked.
    """
    few, label, draws = x[:100], y[:100], DRAWS if random else 1
    before = _right(model, few, label, draws) if random or right is None else right.double().cpu()
    tried = {name: _normalised(few, mean, std) for name, (mean, std) in NORMALISATIONS.items()}
    answers = {}
    for name, z in tried.items():
        with suppress(BadInput):  # a model may refuse what its inputs cannot be
            answers.update({} if z is None else {name: _right(model, z, label, draws)})
    if not answers:
        return finding("D2", False, "not tried: the model refuses inputs that are normalised once more")
    name = max(answers, key=lambda one: float(answers[one].mean()))
    after, base = answers[name], float(before.mean())
    gain, limit = float(after.mean()) - base, max(CHECKS["D2"].limit, 2 / len(few))
    if random:  # four standard errors of the largest possible variance
        limit = max(limit, 4 * (0.5 / (draws * len(few))) ** 0.5)
    # A few samples can say no more than that all of them were gained.
    chance = not random and worse(after > 0, before > 0) > max(MAX_P, 0.5 ** len(few))
    return finding(
        "D2", gain > limit and not chance,
        f"accuracy {base:.0%} on the inputs as given, {float(after.mean()):.0%} after {name}",
        "no verdict: the preprocessing seems wrong; give the model's own mean and std", gain, limit,
    )  # fmt: skip


def _right(model: Model, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """Return the share of some draws in which each sample is right, (B,), on the CPU."""
    hits = []
    for _ in range(draws):
        with torch.no_grad():
            logits = logits_at(model, x)
        hits.append(((logits.argmax(1) == y) & answered(logits, y)).double())
    return torch.stack(hits).mean(0).cpu()


def _normalised(x: Tensor, mean: object, std: object) -> Tensor | None:
    """Return (x - mean) / std, a value per channel; None where the channels are not as many."""
    channels = x.shape[1] if x.ndim > 2 else 0
    if isinstance(mean, tuple) and channels != len(mean):
        return None
    m, s = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (mean, std))
    if m.ndim:
        m, s = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in (m, s))
    return (x - m) / s
