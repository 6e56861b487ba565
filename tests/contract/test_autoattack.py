"""AutoAttack-standard: the published budgets, and verdicts that are the samples' own."""

from __future__ import annotations

import importlib
import math
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.ensembles.autoattack import autoattack
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Run
from unfooled.runs.progress import Progress
from unfooled.runs.records import Config

SHAPE = (1, 6, 5)
STAGES = ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
both = pytest.mark.parametrize("threat", [Linf(0.03), L2(0.15), L1(0.5)], ids=str)

MODULE: Any = importlib.import_module("unfooled.attacks.ensembles.autoattack")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets that a test can afford."""
    for name, value in (("STEPS", 8), ("TARGETS", 2), ("QUERIES", 30)):
        monkeypatch.setattr(MODULE, name, value)


def subject(n: int = 16, k: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = tiny_net(k, SHAPE), points(n, SHAPE, seed=8)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % k
    return model, x, y


@both
@pytest.mark.usefixtures("short")
def test_inside_untouched_repeatable(threat: Threat) -> None:
    model, x, y = subject()
    kept, state = x.clone(), torch.get_rng_state()
    z = autoattack(model, x, y, threat)
    verdict = verify(model, x, y, z, threat)
    assert bool(verdict.inside.all())
    assert 0 < int(verdict.success.sum()) < 16
    assert torch.equal(z[~verdict.success], x[~verdict.success])
    assert torch.equal(z[0], x[0])  # wrong already
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(z, autoattack(model, x, y, threat))


@both
@pytest.mark.usefixtures("short")
def test_verdicts_do_not_depend_on_batch_order_or_chunks(threat: Threat) -> None:
    model, x, y = subject()
    whole = verify(model, x, y, autoattack(model, x, y, threat), threat).success
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mixed = autoattack(model, x[order], y[order], threat, batch=3)
    assert torch.equal(whole[order], verify(model, x[order], y[order], mixed, threat).success)
    config = Config(model="", data="", n=16, threat="", seed=0)
    parts = autoattack(model, x, y, threat, run=Run(None, config, chunk=5))
    assert torch.equal(whole, verify(model, x, y, parts, threat).success)
    one = autoattack(model, x[3:4], y[3:4], threat)
    assert torch.equal(whole[3:4], verify(model, x[3:4], y[3:4], one, threat).success)


# In L1 the published ensemble tries five targets, and the nearest of ten classes need not be among them.
@pytest.mark.parametrize(("kind", "k"), [(Linf, 4), (Linf, 10), (L2, 4), (L2, 10), (L1, 4)])
@pytest.mark.usefixtures("short")
def test_linear_optimum(k: int, kind: type[Threat]) -> None:
    model, x = linear(k, SHAPE), interior(12, SHAPE)
    y = model(x).argmax(1)
    best = model.distance(x, y, kind.norm)
    below, above = kind(best * 0.95), kind(best * 1.05)
    assert not verify(model, x, y, autoattack(model, x, y, below), below).success.any()
    assert verify(model, x, y, autoattack(model, x, y, above), above).success.all()


def test_the_log_says_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published steps and targets, whose costs are known where nothing falls."""
    monkeypatch.setattr(MODULE, "QUERIES", 40)
    model, x = linear(10, SHAPE), interior(2, SHAPE)
    y, log = model(x).argmax(1), list[Progress]()
    with counted(model) as seen:
        autoattack(seen, x, y, Linf(model.distance(x, y, math.inf) * 0.5), log=log, batch=2)
    assert [p.stage for p in log] == STAGES
    assert [p.accuracy for p in log] == [1.0] * 5
    forward = [b.forward - a.forward for a, b in pairwise(log)]
    backward = [b.backward - a.backward for a, b in pairwise(log)]
    assert forward[:2] == [101 + 1, 9 * 101 + 1]
    assert 9 * 101 + 2 <= forward[2] <= 9 * 201 + 2
    assert 20 < forward[3] <= 40 + 1
    assert backward[:2] == [100, 900]
    assert 900 <= backward[2] <= 909
    assert backward[3] == 0
    assert log[-1].forward * 2 == seen.forwards
    assert log[-1].backward * 2 == seen.backwards


@pytest.mark.usefixtures("short")
def test_killed_and_resumed(tmp_path: Path) -> None:
    model, x, y = subject(20)
    config = Config(model="m", data="d", n=20, threat="linf:0.02", seed=0)
    log: list[Progress] = []
    whole = autoattack(model, x, y, Linf(0.02), log=log)

    def stop(stage: str, done: int, total: int) -> None:
        if stage.endswith("fab-t") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autoattack(model, x, y, Linf(0.02), run=Run(tmp_path, config, chunk=6, progress=stop))
    assert (tmp_path / "chunks" / "autoattack-apgd-t").is_dir()
    resumed: list[Progress] = []
    with counted(model) as seen:
        again = autoattack(seen, x, y, Linf(0.02), run=Run(tmp_path, config, chunk=6), log=resumed)
    assert seen.forwards < log[-1].forward * 20 / 2 + 30 * 20
    assert seen.backwards <= (log[-1].backward - log[2].backward) * 20
    assert [p.accuracy for p in resumed] == [p.accuracy for p in log]
    assert torch.equal(verify(model, x, y, again, Linf(0.02)).success, verify(model, x, y, whole, Linf(0.02)).success)


def test_what_cannot_run_is_named() -> None:
    model, x, y = subject(2, k=3)
    with pytest.raises(BadInput, match="apgd-t cannot run: its loss needs at least 4 classes, the model has 3"):
        autoattack(model, x, y, Linf(0.1))
    model, x, y = subject(2)
    with pytest.raises(BadInput, match="supports Linf, L2 and L1"):
        autoattack(model, x, y, L0(1.0))
    with pytest.raises(BadInput, match="works in the unit box"):
        autoattack(model, x, y, Linf(0.1, box=Box(-1.0, 2.0)))


def test_fab_beyond_eps_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAB always ends on an adversarial point; here it is outside the ball, or on its edge."""
    model, x = linear(5, SHAPE), interior(6, SHAPE)
    y = model(x).argmax(1)
    best = model.distance(x, y, 2.0)
    eps = torch.where(torch.arange(6) < 3, best * 0.9, best * 1.05)
    for name in ("apgd-ce", "apgd-t"):
        monkeypatch.setitem(MODULE.ATTACKS, name, lambda problem, order: problem.x)
    monkeypatch.setattr(MODULE, "QUERIES", 1)
    log: list[Progress] = []
    z = autoattack(model, x, y, L2(eps), log=log)
    assert torch.equal(verify(model, x, y, z, L2(eps)).success, torch.arange(6) >= 3)
    assert log[3].accuracy == 0.5


@pytest.mark.slow
@both
def test_the_published_ensemble_agrees(threat: Threat) -> None:
    """Against github.com/fra31/auto-attack, where UNFOOLED_AUTOATTACK says where it lies."""
    path = os.environ.get("UNFOOLED_AUTOATTACK")
    if not path:
        pytest.skip("UNFOOLED_AUTOATTACK, the folder that holds the published autoattack package, is not set")
    sys.path.insert(0, path)
    try:
        autoattack = pytest.importorskip("autoattack")
    finally:
        sys.path.remove(path)
    model, x = tiny_net(10, (1, 8, 8)), points(40, (1, 8, 8), seed=8)
    with torch.no_grad():
        y = model(x).argmax(1)
    name, state = "Linf" if threat.norm == math.inf else "L2", torch.get_rng_state()
    judge = autoattack.AutoAttack(model, norm=name, eps=float(threat.eps), seed=0, device="cpu", verbose=False)
    theirs = verify(model, x, y, judge.run_standard_evaluation(x, y), threat, tol=1e-5).success
    torch.set_rng_state(state)
    assert torch.equal(verify(model, x, y, autoattack(model, x, y, threat), threat).success, theirs)
    assert 0 < int(theirs.sum()) < 40
