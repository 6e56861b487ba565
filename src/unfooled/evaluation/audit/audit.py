"""Audit of a classifier: clean and robust accuracy, explanations under attack, and a verdict on the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Ledger
from unfooled.core.checks import check_run, check_threat, trusted
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.stages import perform
from unfooled.evaluation.audit.summary import About, Source, store, summarise_audit
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.memory import Beginning
from unfooled.evaluation.checks.subject import inspect_model
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.records import Config


def audit(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    plan: Plan | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    about: About | Mapping[str, Any] | None = None,
    chunk: int = 100,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Audit a classifier: clean and robust accuracy, the curve over radii, and whether its explanations survive.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K).
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.
        threat: Constraint set.
        plan: Effort or attack, explanations and sizes. None: the defaults of `Plan`.
        out: Run folder; a second start with the same arguments continues what a first one left. None: nothing is
            written.
        seed: Random seed.
        classes: Class names, in the order of the logits. None: their numbers.
        about: Names for the report and other facts about the run, an `About` or a mapping with its fields: model,
            data, title, command, options, warnings. None: nothing.
        chunk: Samples a file; verdicts do not depend on it.
        batch: Samples computed at once. None: as many as fit well in memory.
        progress: Called with (stage, samples done, samples in all).

    Returns:
        The `Summary`, also written to `out/summary.json`. Cost with the default plan: at most about 440 passes a sample
        for the attack, 400 for the nearest points of the first 200, and for the checks a tenth of the attack's, or
        20,000 in all if that is more; attacks that the checks ask for come on top. The attack on saliency maps takes
        about 1100 passes for each of 32 samples: at each of 3 radii 20 steps, 65 random points and the judge.

    Raises:
        BadInput: Inputs, labels, model or folder that cannot be used, in one sentence.
    """
    plan, about = plan or Plan(), About.of(about)
    check_run(seed, batch)
    pristine = Beginning.of(model)
    subject = inspect_model(model, x, y)
    threat = _within_reach(threat, x)
    if not subject.readable:  # an explanation that needs hooks fails here rather than after the attack
        for part in (plan.explaining, plan.explanation_attack):
            if part is not None:
                part.explain(subject.model, x[:1], y[:1])
    config = Config(
        model=about.model or getattr(model, "name", "") or type(model).__name__,
        data=about.data,
        n=len(x),
        threat=str(threat),
        seed=seed,
        options=dict(about.options) | plan.record(),
        fingerprint=dict(subject.fingerprint),
    )
    folder = Path(out) if out is not None else None
    ledger = Ledger(Run(folder, config, chunk=chunk, progress=progress))
    batch = batch or fitting_batch(subject.model, x)
    setting = Setting(subject, Counted(subject.model), pristine, x, y, threat, seed, batch, ledger)
    with trusted():  # model, samples and threat have been checked
        outcome = perform(setting, plan)
    names = list(classes) if classes else [str(k) for k in range(subject.classes)]
    source = Source(x.cpu(), y.cpu(), threat, plan, config, names, about, device=str(x.device))
    summary = summarise_audit(outcome, source, ledger, subject.warnings)
    if folder is not None:
        store(folder, outcome, source, summary)
    return summary


def _within_reach(threat: Threat, x: Tensor) -> Threat:
    """Return the threat, an infinite eps bounded.

    Raises:
        BadInput: It is no threat for these samples, or its eps is more than the inputs' range.
    """
    check_threat(x, threat)
    eps = torch.as_tensor(threat.eps)
    if threat.norm == math.inf and bool(torch.isfinite(eps).all()):
        widest, reach = float(eps.max()), threat.box.high - threat.box.low
        if widest > reach:
            raise BadInput(
                f"eps is {widest:g}, more than the inputs' range of {reach:g}, so anything would be allowed; write "
                f"{widest:g} / 255 for pixels out of 255, or math.inf"
            )
    return threat.bounded(x) if eps.isinf().any() else threat
