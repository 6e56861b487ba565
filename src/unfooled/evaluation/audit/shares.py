"""A share of an audit, for processes that have no folder in common; `unfooled.runs.shares` joins them.

A share computes the clean samples of all, since their predictions decide what is attacked and cost one pass each, and
so do proofs of little effort. Of every other stage it computes the chunks that begin in its rows, up to the first stage
that needs the results of the others: after the first stage of the attack, samples are selected from all that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.core.checks import check_run
from unfooled.core.errors import BadInput, option
from unfooled.core.model.batching import fitting_batch
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.audit import Work, fitting_chunk
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.proofs import QUICK
from unfooled.evaluation.audit.summary import About
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.share_records import Share
from unfooled.runs.shares import compute_share

COMMAND = "audit"


def audit_rows(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    rows: tuple[int, int],
    *,
    out: Path | str,
    plan: Plan | None = None,
    seed: int = 0,
    about: About | Mapping[str, Any] | None = None,
    chunk: int = 100,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Share:
    """Compute a share of an audit; the arguments but `rows` are those of the whole audit.

    Args:
        model: Model, see `unfooled.audit`.
        x: All inputs, (n, *D).
        y: All labels, (n,).
        threat: Constraint set.
        rows: First row of the share, and the row after its last one. Chunks that begin there belong to it.
        out: Folder of the share; a second start continues it.
        plan: Plan of the audit, without a time limit. None: the defaults of `Plan`.
        seed: Random seed.
        about: Facts about the run; their "options" are part of its settings. None: nothing.
        chunk: Samples per file.
        batch: Samples computed at once. None: as many as fit well in memory.
        progress: Called with (stage, samples done, samples in all).

    Returns:
        The record of the share. `runs.shares.join` joins the shares, and `unfooled.audit` goes on in the folder.

    Raises:
        BadInput: Rows outside the samples, a time limit, or inputs that cannot be used.
    """
    plan, about = plan or Plan(), About.of(about)
    check_run(seed, batch)
    if plan.budget is not None:
        raise BadInput(f"{option('budget')} limits a whole audit; leave it out with {option('rows')}")
    work = Work.of(model, x, y, threat, plan, about, seed)
    batch = batch or fitting_batch(work.subject.model, work.x)
    chunk = fitting_chunk(chunk, work.x, None, shared=False)
    clean = [StageKey(Family.CLEAN), *(StageKey(family, "clean") for family in (Family.AUTOATTACK, Family.CASCADE))]
    if plan.label_attack.certify == QUICK:  # else proofs cost more than the attack, and are shared
        clean.append(StageKey(Family.CASCADE, "proofs"))
    whole = tuple(sorted(str(key.folder) for key in clean))
    share = Share(command=COMMAND, rows=rows, n=len(work.x), chunk=chunk, whole=whole).checked()
    run = Run(Path(out), work.config, chunk=chunk, progress=progress, share=share)
    return compute_share(Path(out), share, lambda: work.perform(plan, seed, batch, Ledger(run)))
