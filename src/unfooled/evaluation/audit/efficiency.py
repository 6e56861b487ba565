"""Use of the model by an attack: its calls, samples per call, and the share of its time that the bare passes take."""

from __future__ import annotations

import time
from contextlib import suppress

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.core.access import Access
from unfooled.core.goals import logits_at
from unfooled.core.model.modes import frozen
from unfooled.core.pulse import time_limit
from unfooled.core.types import Model
from unfooled.evaluation.audit.records import Efficiency
from unfooled.evaluation.audit.values import Setting
from unfooled.runs.chunks import Rows

BATCH, TIMES = 32, 2
"""Largest batch whose passes are timed, and how often; the fastest counts."""
ATTACK = (Family.CASCADE, Family.AUTOATTACK, Family.GUARD)


def efficiency_of(s: Setting, model: Model) -> Efficiency | None:
    """Return the use of the model by the attack on the label; None where there was none.

    Cost: 4 forwards and 2 backwards of at most 32 samples, which are counted nowhere; none of a black box.

    Args:
        s: Setting of the audit.
        model: What the attack asks: the model, or its faster copy.
    """
    calls, seconds = s.ledger.work(*ATTACK)
    forwards, backwards = s.ledger.passes(*ATTACK)
    if not calls or not len(s.x):
        return None
    if s.subject.access is not Access.GRADIENTS:  # its queries may cost more than time
        return Efficiency(calls=calls, rows=forwards / calls, checks=_share_of_checks(s))
    with time_limit(None):
        bare = s.ledger.part(StageKey(Family.PACE), lambda: _seconds_per_pass(s, model))
    forward, backward = float(bare["forward"]), float(bare["backward"])
    share = (forwards * forward + backwards * backward) / seconds if seconds > 0 and forward > 0 else None
    return Efficiency(calls=calls, rows=forwards / calls, share=share, checks=_share_of_checks(s))


def _share_of_checks(s: Setting) -> float | None:
    total = s.ledger.seconds()
    return s.ledger.seconds(Family.CHECKS, Family.TWIN) / total if total > 0 else None


def over_workers(efficiency: Efficiency | None, ledger: Ledger, workers: int) -> Efficiency | None:
    """Add how busy the processes that shared the work were; unchanged for one process.

    Args:
        efficiency: Use of the model by the attack. None: there was no attack.
        ledger: Ledger with the seconds of every stage, whoever computed it.
        workers: Number of processes.
    """
    wall = ledger.run.clock.seconds()
    if efficiency is None or workers == 1 or wall <= 0:
        return efficiency
    busy = min(1.0, ledger.seconds() / (wall * workers))
    return efficiency.model_copy(update={"workers": workers, "busy": busy})


def _seconds_per_pass(s: Setting, model: Model) -> Rows:
    """Return the seconds of a sample's forward and backward in a full batch; 0 where the model fails or has none."""
    x = s.x[s.at(torch.arange(min(BATCH, s.batch, s.n)))]
    forward, backward = [0.0], [0.0]
    with suppress(Exception), frozen(model):
        with torch.no_grad():
            forward = [_timed(lambda: logits_at(model, x)) for _ in range(TIMES)]
        backward = [_timed(lambda: _gradient(model, x)) for _ in range(TIMES)]
    one, both = min(forward) / len(x), min(backward) / len(x)
    return {"forward": torch.tensor(one), "backward": torch.tensor(max(both - one, 0.0))}


def _gradient(model: Model, x: Tensor) -> Tensor:
    """Return the gradient of the first logits."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return torch.autograd.grad(logits_at(model, leaf)[:, 0].sum(), leaf)[0]


def _timed(work: object) -> float:
    """Return the seconds that some work takes."""
    assert callable(work)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    float(work().sum())  # waits for the device
    return time.perf_counter() - start
