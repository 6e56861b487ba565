"""Result files of an audit: samples, pictures of the galleries, and the summary."""

from __future__ import annotations

import torch

from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.summary import AuditContext, worst_first
from unfooled.evaluation.audit.values import Outcome
from unfooled.evaluation.explanations.survival import survival_pictures
from unfooled.runs.packing import packed
from unfooled.runs.records import record_bytes
from unfooled.runs.store import Store

PICTURES = ("x", "x_adv", "before", "after")


SUMMARY = "summary.json"


def store_results(store: Store | None, outcome: Outcome, context: AuditContext, summary: Summary) -> None:
    """Write the result files of a run: samples, pictures of the galleries, and the summary last.

    Args:
        store: Store of the run. None: nothing is written.
        outcome: Results of the stages.
        context: Plan, settings and names of the audit.
        summary: Summary of the audit.
    """
    if store is None:
        return
    x, attack, explain = context.x, outcome.attack, outcome.explain
    samples = {
        "y": context.y,
        "clean": outcome.clean.prediction,
        "adversarial": attack.prediction,
        "success": attack.success,
        "distance": attack.distance,
        "x_adv": attack.x_adv,
    }
    if outcome.certified is not None:
        samples["certified"] = outcome.certified
    if outcome.smoothed is not None:
        samples |= {"smoothed": outcome.smoothed.prediction, "smoothed_radius": outcome.smoothed.radius}
    files = {"samples": samples}
    rows = worst_first(outcome, len(summary.gallery))
    points = {"x": x[rows], "x_adv": attack.x_adv[rows]}
    files["gallery"] = points | {name: explain[name][rows] for name in ("before", "after")}
    if outcome.nearest_shown is not None:
        files["nearest"] = {name: outcome.nearest_shown.rows[name] for name in PICTURES}
    if outcome.survival is not None and summary.reasons is not None and summary.reasons.gallery:
        files["reasons"] = survival_pictures(outcome.survival, x)
    if summary.attention is not None and summary.attention.gallery:
        rows = torch.tensor([example.index for example in summary.attention.gallery])
        maps = {name: explain[f"attention_{name}"][rows] for name in ("before", "after")}
        files["attention"] = maps | {"x": x[rows], "x_adv": attack.x_adv[rows]}
    if outcome.purified is not None and summary.guard is not None and summary.guard.examples:
        files["purified"] = outcome.purified.pictures
    for name, tensors in files.items():
        store.write_whole(f"{name}.safetensors", packed(tensors))
    store.write_whole(SUMMARY, record_bytes(summary))
