"""No answer is no robustness: points without a finite answer are counted apart, and found where attacks reach them."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import L0, L1, L2, Linf, verify, workflows
from unfooled.attacks import pgd
from unfooled.attacks.ensembles import autoattack, cascade
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.core.errors import BadInput
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks.after import diagnose
from unfooled.evaluation.checks.refusals import refusals
from unfooled.features import d_rand
from unfooled.report.page import compose
from unfooled.report.runs import read_runs
from unfooled.training import Batches, Checkpoint, Monitor, train
from unfooled.training.losses.standard import Standard
from unfooled.workflows import catalog
from unfooled.workflows.attacks import bind_attack

SHAPE = (1, 6, 5)
NET, OTHER = tiny_net(5, SHAPE), tiny_net(5, SHAPE, seed=7)
EPS = 0.06
SHORT = Effort("short", (Ascents(6), Ascents(6)))


class Unsure(nn.Module):
    """Gives no answer where it is less sure than on clean samples."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self.least = float(self.gap(net(x)).min()) * 0.9

    def gap(self, z: Tensor) -> Tensor:
        top = z.topk(2, dim=1).values.detach()
        return top[:, 0] - top[:, 1]

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z.masked_fill((self.gap(z) < self.least)[:, None], torch.nan)


def test_an_ascent_finds_refusals_that_random_points_do_not() -> None:
    x = points(16, SHAPE, seed=3)
    y = NET(x).argmax(1)
    model = Unsure(NET, x).eval()
    assert refusals(model, x, y, Linf(0.2)).fired
    assert not refusals(NET, x, y, Linf(0.2)).fired
    found = diagnose(model, x, y, Linf(0.2), x)
    assert any(f.id == "D22" and f.fired for f in found)


def test_an_attack_counts_no_answer_apart(tmp_path: Path) -> None:
    x = points(12, SHAPE, seed=3)
    y = NET(x).argmax(1)

    class Grid(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            known = (z[:, None] == x[None]).flatten(2).all(2).any(1)
            return NET(z).masked_fill(~known[:, None], torch.nan)

    def attacked(model: nn.Module) -> workflows.attacking.AttackRecord:
        out = tmp_path / f"{type(model).__name__}.npz"
        return workflows.attack(
            workflows.Inputs(model.eval(), (x, y)), Linf(0.1), attack=partial(pgd, steps=2), out=out
        )

    record = attacked(Grid())
    assert record.clean_accuracy.value == 1
    assert (record.undefined, record.robust_accuracy.value) == (12, 0)
    assert any("without a finite answer on 12 samples" in warning for warning in record.warnings)
    with pytest.raises(BadInput, match="NaN or infinite logits for 12 of 12 clean samples"):
        attacked(nn.Sequential(nn.Flatten(), nn.Linear(30, 5).requires_grad_(False), Nan()))


class Nan(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * torch.nan


class Quarrel(nn.Module):
    """Gives no answer where two networks disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([NET, OTHER])

    def forward(self, z: Tensor) -> Tensor:
        p, q = (net(z) for net in self.nets)
        return ((p + q) / 2).masked_fill((p.argmax(1) != q.argmax(1))[:, None], torch.nan)


def agreed(n: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Samples on which both networks agree."""
    x = points(40 * n, SHAPE, seed=3)
    label = NET(x).argmax(1)
    rows = ((label == OTHER(x).argmax(1)) & (label < classes)).nonzero()[:n, 0]
    return x[rows], label[rows]


def test_an_audit_keeps_points_without_an_answer_as_what_they_are(tmp_path: Path) -> None:
    x, y = agreed(16)
    plan = Plan(
        attack=partial(pgd, steps=8), nearest_budget=100, nearest_n=8, explain_n=4, gallery=2, floor=100, reasons=None
    )
    s = audit(Quarrel().eval(), x, y, Linf(EPS), plan=plan, out=tmp_path)
    assert s.verdict == "NOT EVALUABLE"
    assert "D22" in {f.id for f in s.diagnostics if f.fired}
    assert s.no_answer is not None
    silent, right, wrong = s.no_answer.value, s.robust_accuracy.value, s.attack_success_rate.value
    assert silent is not None and right is not None and wrong is not None
    assert silent > 0.1
    assert silent + right + wrong == pytest.approx(1)
    rows = load_file(tmp_path / "samples.safetensors")
    lone = ~torch.isfinite(Quarrel()(rows["x_adv"])).all(1)
    assert int(lone.sum()) == round(silent * 16)
    assert bool(((rows["x_adv"] - x).flatten(1).abs().amax(1) <= EPS + 1e-6).all())
    assert sum(map(sum, s.confusion)) == 16 - round(silent * 16)
    shares = [(p.accuracy.value or 0.0) + p.no_answer for p in s.curve]
    assert any(p.no_answer for p in s.curve)
    falling = [p.accuracy.value or 0.0 for p in s.curve]
    assert falling == sorted(falling, reverse=True)
    assert max(shares) <= 1
    page = compose(read_runs([tmp_path]))
    assert f"on {round(silent * 16)} the model gave no answer" in page


@pytest.mark.parametrize("ensemble", [partial(cascade, effort=SHORT), autoattack], ids=["cascade", "autoattack"])
def test_ensembles_return_the_points_without_an_answer(ensemble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    published = importlib.import_module("unfooled.attacks.ensembles.autoattack")
    monkeypatch.setattr(published, "STEPS", 5)
    monkeypatch.setattr(published, "QUERIES", 5)
    x, y = agreed(12)
    z = ensemble(Quarrel().eval(), x, y, Linf(0.15))
    verdict = verify(Quarrel().eval(), x, y, z, Linf(0.15))
    assert bool((verdict.undefined & verdict.inside).any())
    assert not bool((verdict.undefined & verdict.success).any())


@pytest.mark.parametrize("name", sorted(name for name, row in catalog.ATTACKS.items() if not row.purifier))
def test_no_attack_is_stopped_by_a_missing_answer(name: str) -> None:
    x, y = agreed(6)
    known, takes = catalog.ATTACKS[name].norms, catalog.takes(catalog.resolve(catalog.ATTACKS[name].path))
    steps = (100 if name == "envelope" else 12) if "steps" in takes else None
    for threat in [t for t in (Linf(0.15), L2(0.8), L1(3.0), L0(4)) if t.norm in known]:
        bound = bind_attack(name, threat, steps=steps)
        model, source = Quarrel().eval(), torch.Generator().manual_seed(0)
        if bound.nearest is not None:
            z = bound.nearest(model, x, y, threat.norm, generator=source)
        else:
            z = bound.propose(model, x, y, threat, generator=source)
        assert bool(torch.isfinite(z).all())
        assert float(z.min()) >= 0 and float(z.max()) <= 1


def test_an_attack_finds_missing_answers_on_its_way(tmp_path: Path) -> None:
    x, y = agreed(12)
    record = workflows.attack(
        workflows.Inputs(Quarrel().eval(), (x, y)), Linf(0.15), attack=partial(pgd, steps=10), out=tmp_path / "a.npz"
    )
    assert record.undefined > 0
    assert "neither right nor wrong" in record.warnings[-1]


def nothing() -> nn.Module:
    """Return a network whose answers are all NaN, its features are not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 5), Nan()).eval()


@pytest.mark.parametrize("kind", ["robust", "d-rand"])
def test_sets_are_not_made_of_missing_answers(kind: str, tmp_path: Path) -> None:
    x, y = agreed(8)
    threat = None if kind == "robust" else "l2:0.5"
    with pytest.raises(BadInput, match="NaN or infinite logits for 8 of 8 clean samples"):
        workflows.features(workflows.Inputs(nothing(), (x, y)), tmp_path / "set.npz", kind=kind, threat=threat)


def test_targets_without_an_answer_are_not_reached(tmp_path: Path) -> None:
    x, y = agreed(12)

    def nowhere(model: Any, x: Tensor, t: Tensor, threat: Any, **_: Any) -> Tensor:
        return threat.project(x + 0.15 * (t[:, None, None, None] % 2 * 2 - 1), x)

    class Clean(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            near = (z[:, None] - x[None]).flatten(2).abs().amax(2).amin(1) < 0.02
            silent = torch.tensor([torch.inf, 0, 0, 0, 0])  # margin -inf: no target is reached by that
            return torch.where((near | (z.mean((1, 2, 3)) > 0.5))[:, None], NET(z), silent)

    made = d_rand(Clean().eval(), x, y, Linf(0.15), attack=nowhere)
    assert made.manifest["undefined"] > 0
    assert made.manifest["reached"] <= 1 - made.manifest["undefined"] / 12


def test_explanations_of_missing_answers_are_refused(tmp_path: Path) -> None:
    x, y = agreed(8)
    with pytest.raises(BadInput, match="NaN or infinite logits for 8 of 8 clean samples"):
        workflows.explain(workflows.Inputs(nothing(), (x, y)), out=tmp_path)

    def half(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        return x.masked_fill((x.mean((1, 2, 3)) < middle)[:, None, None, None], torch.nan)

    def nowhere(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        return x * torch.nan

    middle = x.mean((1, 2, 3)).median()
    record = workflows.explain(workflows.Inputs(NET, (x, y)), method=half, out=tmp_path)
    assert record.undefined == int((x.mean((1, 2, 3)) < middle).sum()) > 0
    with pytest.raises(BadInput, match="for every sample"):
        workflows.explain(workflows.Inputs(NET, (x, y)), method=nowhere, out=tmp_path)


class Grows(nn.Module):
    """Answers while it trains, and with NaN when it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(30, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.net(x) * torch.nan


@pytest.mark.parametrize("held", [True, False])
def test_training_ends_where_the_network_gives_no_answers(held: bool, tmp_path: Path) -> None:
    x, y = agreed(8)
    net = Grows()
    epochs = train(
        net, Batches(x, y, 4, 0), Standard(), torch.optim.SGD(net.parameters(), 0.1), epochs=1,
        held_out=(x, y) if held else None, checkpoint=Checkpoint(tmp_path / "net.pt", {}, {}),
    )  # fmt: skip
    with pytest.raises(BadInput, match="returns NaN or infinite logits for 8 of 8 samples"):
        list(epochs)
    assert not (tmp_path / "net.pt").exists()
    watch = Monitor(Linf(0.1), x, torch.zeros_like(y))
    assert watch.look(Grows().eval(), torch.device("cpu")) == (0, 0)
