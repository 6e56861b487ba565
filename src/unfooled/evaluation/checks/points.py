"""Checks on the points of an attack, after they were verified on the model."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.attacks.ensembles.frontier import Frontier
from unfooled.evaluation.checks.table import Finding, above, finding


def check_points(
    frontier: Frontier,
    y: Tensor,
    right: Tensor,
    success: Tensor,
    prediction: Tensor,
    undefined: Tensor,
    refuted: Tensor,
    *,
    random: bool,
) -> list[Finding]:
    """Make the checks on verified points: D10, D22 and D24.

    Args:
        frontier: Best points that the attack found.
        y: Labels, (n,); this and the tensors below are on the CPU.
        right: True for samples that are classified correctly when clean, (n,) bool.
        success: True for points that fool the model when verified, (n,) bool.
        prediction: Classes predicted at the points, (n,).
        undefined: True for points at which the logits are not finite, (n,) bool.
        refuted: True for certified samples that are fooled by points clearly inside the threat, (n,) bool.
        random: True if the model's answers are random.
    """
    n = max(len(right), 1)
    claimed = frontier.fooled.cpu() & right
    n_failed = int((claimed & ~success).sum())
    d10 = above(
        "D10", n_failed / n, f"{n_failed} of {int(claimed.sum())} points that fooled the model when found do not fool "
        "it when judged", "no verdict: the model does not give the same answer twice",
    )  # fmt: skip
    if random:
        d10 = finding("D10", False, "not tried: the answers change by themselves, and fresh draws give the figure")
    reached = undefined if frontier.unanswered is None else undefined | frontier.unanswered.cpu()
    share = float((reached & right).double().mean())
    refused = above(
        "D22", share, f"for {int((reached & right).sum())} of {int(right.sum())} samples the attack reaches a point of "
        "the threat at which the model gives no finite answer",
        "no verdict: a refusal is neither right nor wrong; audit the model without the part that refuses",
    )  # fmt: skip
    broken = int(refuted.sum())
    d24 = above(
        "D24", float(broken), f"{broken} certified samples were fooled",
        "no verdict: the certificate or the judge has a mistake",
    )  # fmt: skip
    return [d10, refused if refused.fired else _rejected(y, prediction, right & success, n), d24]


def _rejected(y: Tensor, prediction: Tensor, changed: Tensor, n: int) -> Finding:
    """D22: fooled samples are predicted as classes that no sample has."""
    new_labels, labels = prediction[changed], y.unique()
    known = torch.zeros(int(prediction.max()) + 1 if len(prediction) else 1, dtype=torch.bool)
    known[labels[labels < len(known)]] = True
    share = float((~known[new_labels]).double().mean()) if len(new_labels) >= 10 and len(known) * 5 <= n else 0.0
    return above(
        "D22", share, f"{share:.0%} of the changed labels are classes that no sample has, such as a class for "
        "rejected inputs",
        "no verdict: what counts as robust depends on what a rejection means", limit=0.5,
    )  # fmt: skip
