"""Result files of an audit: samples, pictures of the galleries, and the summary."""

from __future__ import annotations

from pathlib import Path

import torch

from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.summary import AuditContext, worst_first
from unfooled.evaluation.audit.values import Outcome
from unfooled.evaluation.explanations.survival import survival_pictures
from unfooled.runs.chunks import Rows
from unfooled.runs.files import write_whole
from unfooled.runs.packing import packed
from unfooled.runs.records import write_record

PICTURES = ("x", "x_adv", "before", "after")


def store(folder: Path, outcome: Outcome, context: AuditContext, summary: Summary) -> None:
    """Write the result files of a run: samples, pictures of the galleries, and the summary last.

    Args:
        folder: Run folder.
        outcome: Results of the stages.
        context: Plan, settings and names of the audit.
        summary: Summary of the audit.
    """
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
    _write(folder / "samples.safetensors", samples)
    rows = worst_first(outcome, len(summary.gallery))
    points = {"x": x[rows], "x_adv": attack.x_adv[rows]}
    _write(folder / "gallery.safetensors", points | {name: explain[name][rows] for name in ("before", "after")})
    if outcome.nearest_shown is not None:
        _write(folder / "nearest.safetensors", {name: outcome.nearest_shown.rows[name] for name in PICTURES})
    if outcome.survival is not None and summary.reasons is not None and summary.reasons.gallery:
        _write(folder / "reasons.safetensors", survival_pictures(outcome.survival, x))
    if summary.attention is not None and summary.attention.gallery:
        rows = torch.tensor([example.index for example in summary.attention.gallery])
        maps = {name: explain[f"attention_{name}"][rows] for name in ("before", "after")}
        _write(folder / "attention.safetensors", maps | {"x": x[rows], "x_adv": attack.x_adv[rows]})
    write_record(folder / "summary.json", summary)


def _write(file: Path, tensors: Rows) -> None:
    write_whole(file, packed(tensors))
