"""Time limit of an audit: the best figure to be had, what was left out, and no trust in a verdict cut short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Unpack

import numpy as np
import pytest
import torch
from tests.unit.report_runs import fabricate, judged
from tests.unit.report_runs import summary as fabricated
from tests.unit.test_audit import PLAN, subject
from tests.unit.test_reasons import reasons_of
from torch import Tensor, nn

from unfooled import BlackBox
from unfooled.attacks import pgd
from unfooled.attacks.ensembles.autoattack import autoattack
from unfooled.attacks.ensembles.cascade import Cascade, Effort, cascade
from unfooled.attacks.ensembles.frontier import AttackCut, AttackState, Frontier, Problem, kept
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents, Noise, UserAttack
from unfooled.core import pulse
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import OutOfTime, beat, listening, time_limit
from unfooled.core.threats import Linf
from unfooled.evaluation.audit import attacked_label, audit, nearest_points
from unfooled.evaluation.audit.attacked_label import ATTACK, CHECKS, EXTENSION, NEAREST
from unfooled.evaluation.audit.efficiency import over_workers
from unfooled.evaluation.audit.plan import Plan, PlanOptions
from unfooled.evaluation.audit.records import Efficiency, Summary
from unfooled.evaluation.audit.stages import ON_MAPS
from unfooled.evaluation.verify import verify
from unfooled.report import render
from unfooled.report.words import verdict_sentences
from unfooled.runs.chunks import Run, StageCut
from unfooled.runs.records import Config, read_record, write_record
from unfooled.workflows import AuditOptions
from unfooled.workflows.bounds import check_bounds, read_bound
from unfooled.workflows.errors import BadOption, BelowBound

EPS = 0.02


class Seen:
    """A listener that stores the figures that are known early."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, float, int]] = []

    def beat(self, samples: int) -> None:
        pass

    def __call__(self, stage: str, done: int, total: int) -> None:
        pass

    def answer(self, figure: str, value: float, n: int) -> None:
        self.answers.append((figure, value, n))


class Ticks:
    """A clock that moves by a second whenever it is read: once per call of the model; it starts with each limit."""

    count = 0

    def monotonic(self) -> float:
        self.count += 1
        return float(self.count)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    clock = Ticks()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


def run(budget: float | None, **options: Any) -> Summary:
    model, x, y = subject()
    return audit(model, x, y, Linf(EPS), plan=PLAN.with_budget(budget), **options)


def test_work_stops_at_the_first_batch_after_its_time(ticks: Ticks) -> None:
    with time_limit(2):
        beat(1)
        beat(1)
        with time_limit(None):
            beat(1)
        with pytest.raises(OutOfTime):
            beat(1)
    beat(1)
    assert not issubclass(OutOfTime, Exception)  # no handler of errors takes it for one


def test_each_budget_gives_a_bound_and_says_what_was_left_out(ticks: Ticks) -> None:
    whole = run(None)
    assert (whole.budget, whole.left_out) == (None, [])
    clean, least = whole.clean_accuracy.value, whole.robust_accuracy.value
    assert clean is not None and least is not None and least < clean
    seen, bounds = set(), []
    for budget in (0.5, 25, 150):
        cut = run(budget)
        assert cut.budget == budget
        bound = cut.robust_accuracy.value
        assert bound is not None and least - 1e-9 <= bound <= clean
        bounds.append(bound)
        assert cut.left_out
        assert not cut.trusted
        assert cut.verdict == "OVERSTATED"
        assert cut.left_out[0] in cut.because
        assert any(ON_MAPS in warning for warning in cut.warnings)
        with pytest.raises(BelowBound, match="the verdict is OVERSTATED"):
            check_bounds(cut, [read_bound("robust_accuracy=0")])
        seen.add(cut.left_out[0])
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == clean
    assert bounds[-1] < clean
    assert ATTACK in seen
    assert seen & {NEAREST, CHECKS}
    complete = run(1e6)
    assert (complete.left_out, complete.verdict) == ([], whole.verdict)
    assert complete.robust_accuracy == whole.robust_accuracy


def test_a_verdict_without_explanations_is_complete(ticks: Ticks) -> None:
    before = ticks.count
    whole = run(1e6)
    cut = run(ticks.count - before - 3)  # the last calls are those of the attack on explanations
    assert cut.left_out == [ON_MAPS]
    assert (cut.verdict, cut.because, cut.reasons) == (whole.verdict, whole.because, None)
    assert cut.robust_accuracy == whole.robust_accuracy


def test_a_second_start_goes_on(ticks: Ticks, tmp_path: Path) -> None:
    cut = run(40, out=tmp_path)
    assert cut.left_out
    assert read_record(tmp_path / "summary.json", Summary) == cut
    done, whole = run(None, out=tmp_path), run(None)
    assert done.left_out == []
    assert not done.warnings
    for name in ("robust_accuracy", "verdict", "because", "curve_n"):
        assert getattr(done, name) == getattr(whole, name)
    assert [p.lens.n for p in reasons_of(done).curve] == [p.lens.n for p in reasons_of(whole).curve]


def test_figures_are_known_early() -> None:
    seen = Seen()
    with listening(seen):
        summary = run(None)
    assert seen.answers[0] == ("clean accuracy", summary.clean_accuracy.value, 20)
    bounds = [value for figure, value, _ in seen.answers if figure == "robust accuracy, at most"]
    assert bounds
    assert bounds == sorted(bounds, reverse=True)
    assert summary.robust_accuracy.value is not None
    assert bounds[-1] >= summary.robust_accuracy.value - 1e-9


class Refusing(nn.Module):
    """Of half of the samples a corner is fooled, and another part of the threat has no answer."""

    def forward(self, z: Tensor) -> Tensor:
        fragile = (z[:, 7] > 0.5).to(z)
        margin = -1 + 0.5 * z[:, 5] * fragile
        hit = (z[:, :5] < 0.42).all(1) & (fragile > 0)
        margin = torch.where(hit, torch.ones_like(margin), margin)
        no_answer = (z[:, 5] > 0.59) & (fragile > 0) & ~hit
        margin = torch.where(no_answer, torch.full_like(margin, torch.nan), margin)
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_early_bounds_are_never_below_the_last_one() -> None:
    torch.manual_seed(0)
    x = 0.5 + 0.003 * torch.randn(40, 8)
    x[:20, 7], x[20:, 7] = 0.9, 0.1
    seen, y = Seen(), torch.zeros(40, dtype=torch.int64)
    model, threat = Refusing().eval(), Linf(0.1)
    with listening(seen):
        points = cascade(model, x, y, threat)
    verdict = verify(model, x, y, points, threat)
    left = float((~verdict.success & ~verdict.undefined).double().mean())
    bounds = [value for _, value, _ in seen.answers]
    assert left == 0.5
    assert bounds == sorted(bounds, reverse=True)
    assert min(bounds) >= left - 1e-9


def test_an_ensemble_that_is_cut_short_keeps_what_it_found(ticks: Ticks) -> None:
    model, x, y = subject(k=5)
    plan = PLAN.with_options(whole=autoattack, reasons=None, nearest_n=1)
    whole = audit(model, x, y, Linf(EPS), plan=plan)
    cut = audit(model, x, y, Linf(EPS), plan=plan.with_budget(1000))
    assert whole.robust_accuracy.value is not None and cut.robust_accuracy.value is not None
    assert cut.clean_accuracy.value is not None
    assert whole.robust_accuracy.value <= cut.robust_accuracy.value < cut.clean_accuracy.value
    assert ATTACK in cut.left_out
    assert cut.verdict == "OVERSTATED"


def test_a_black_box_is_not_asked_for_its_pace() -> None:
    x = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    w = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).numpy()
    plan = PLAN.with_options(reasons=None, nearest_n=1)
    found = audit(BlackBox(lambda z: z @ w), x, torch.from_numpy(x.numpy() @ w).argmax(1), Linf(EPS), plan=plan)
    assert found.efficiency is not None
    assert found.efficiency.share is None
    assert found.efficiency.calls > 0


def test_times_are_read_and_refused() -> None:
    for text, seconds in (("60s", 60.0), ("5m", 300.0), ("1.5h", 5400.0), ("90", 90.0), (2.5, 2.5)):
        assert AuditOptions(budget=text).plan(Linf(0.1)).budget == seconds
    for wrong in ("soon", "0s", "-3s", "1.2.3s", "nan", 0):
        with pytest.raises(BadOption, match="write a time above 0, such as 60s"):
            AuditOptions(budget=wrong).check(Linf(0.1))
    with pytest.raises(BadInput, match="the plan's budget, in seconds, is 0"):
        PLAN.with_budget(0)
    assert PLAN.with_budget(3).record() == PLAN.record()
    assert PLAN.with_budget(3).with_options(gallery=2).budget == 3


def test_the_use_of_the_model_is_recorded(tmp_path: Path) -> None:
    model, x, y = subject()
    first = audit(model, x, y, Linf(EPS), plan=PLAN.with_options(reasons=None), out=tmp_path)
    found = first.efficiency
    assert found is not None and found.share is not None
    assert found.calls > 20  # the steps of the first stage alone
    assert found.rows == pytest.approx(len(x) * first.passes.forward / found.calls, rel=0.3)
    assert 0 < found.share < 5  # above 1 where the machine was busier while the passes were timed
    assert found.checks is not None and 0 < found.checks < 1
    again = audit(model, x, y, Linf(EPS), plan=PLAN.with_options(reasons=None), out=tmp_path)
    assert again.efficiency == found  # read, not measured again
    page = render([tmp_path], tmp_path / "page.html").read_text()
    assert "Calls for the attack" in page
    assert f"{100 * found.checks:.0f} % of the time of the audit" in page
    assert (found.workers, found.busy) == (1, None) and "of their time" not in page
    shared = first.model_copy(update={"efficiency": found.model_copy(update={"workers": 3, "busy": 0.62})})
    write_record(tmp_path / "summary.json", shared)
    assert "3, busy for 62 % of their time" in render([tmp_path], tmp_path / "page.html").read_text()


def test_the_busy_share_of_several_processes() -> None:
    """Seconds of all stages, whoever computed them, over the time of the processes."""
    ledger: Any = SimpleNamespace(
        seconds=lambda: 12.0, run=SimpleNamespace(clock=SimpleNamespace(seconds=lambda: 10.0))
    )
    alone = Efficiency(calls=5, rows=2.0)
    assert over_workers(alone, ledger, 1) == alone
    assert over_workers(None, ledger, 2) is None
    two = over_workers(alone, ledger, 2)
    assert two is not None and (two.workers, two.busy) == (2, 0.6)
    one = over_workers(alone, SimpleNamespace(seconds=lambda: 99.0, run=ledger.run), 4)  # type: ignore[arg-type]
    assert one is not None and one.busy == 1


def test_a_model_that_hides_its_gradient_is_cut_short_too(ticks: Ticks) -> None:
    model, x, y = subject()
    cut = audit(lambda z: model(z).detach(), x, y, Linf(EPS), plan=PLAN.with_budget(0.5))
    assert cut.left_out[0] == ATTACK
    assert not cut.trusted


def cut_runs(
    ticks: Ticks, budgets: Sequence[float | None], out: Path | None = None, **options: Unpack[PlanOptions]
) -> list[Summary]:
    """Audits of 40 samples with a weak attack, one for each time, in one folder if there is any."""
    model, x, y = subject(n=40)
    plan = PLAN.with_options(**{"effort": Effort("weak", (Noise(1),)), "reasons": None, "floor": 6000} | options)
    return [audit(model, x, y, Linf(EPS), plan=plan.with_budget(budget), chunk=8, out=out) for budget in budgets]


def robust(summary: Summary) -> float:
    assert summary.robust_accuracy.value is not None
    return summary.robust_accuracy.value


def test_what_checks_and_a_longer_attack_found_before_the_time_was_over_stays(ticks: Ticks) -> None:
    runs = cut_runs(ticks, (25, 281, 537, 793, 1e9), nearest_n=1)
    assert [run.left_out[:1] for run in runs] == [[CHECKS], [CHECKS], [CHECKS], [EXTENSION], []]
    bounds = [robust(run) for run in runs]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2]  # found by the checks, which were cut off later
    assert bounds[3] == pytest.approx(bounds[4])
    assert not any(run.trusted for run in runs[:4])
    assert runs[4].verdict == "EXTENDED"


def test_nearest_points_of_the_chunks_that_were_done_stay(ticks: Ticks) -> None:
    options: PlanOptions = {"effort": Effort("short", (Ascents(1),)), "nearest_n": 30}
    early, late, whole = cut_runs(ticks, (73, 120, 1e9), **options)
    assert [run.left_out[:1] for run in (early, late, whole)] == [[NEAREST], [NEAREST], []]
    assert not early.nearest
    assert late.nearest[0].n == 8  # one chunk of the first block of 16
    assert whole.nearest[0].n == 30
    assert late.curve_n == late.nearest[0].n
    assert not late.trusted


@pytest.mark.parametrize("budget", [25, 281])
def test_what_was_judged_of_a_cut_run_is_judged_anew(budget: float, ticks: Ticks, tmp_path: Path) -> None:
    """The points of a cut run are others than those that a later start finds."""
    (whole,) = cut_runs(ticks, (None,), nearest_n=1)
    cut, done = cut_runs(ticks, (budget, None), tmp_path, nearest_n=1)
    assert cut.left_out
    assert robust(done) == robust(whole)
    assert (done.verdict, done.because, done.gallery) == (whole.verdict, whole.because, whole.gallery)


def test_a_second_cut_keeps_what_the_first_had_found(ticks: Ticks, tmp_path: Path) -> None:
    options: PlanOptions = {"effort": Effort("short", (Ascents(1),)), "nearest_n": 30}
    runs = cut_runs(ticks, (141, 60, 100, None), tmp_path, **options)
    counts = [run.nearest[0].n if run.nearest else 0 for run in runs]
    assert counts[0] > 0
    assert counts == sorted(counts)
    assert runs[1].left_out[0] == NEAREST
    assert [robust(run) for run in runs] == sorted((robust(run) for run in runs), reverse=True)
    (whole,) = cut_runs(ticks, (None,), **options)
    assert runs[3].nearest == whole.nearest
    assert robust(runs[3]) == robust(whole)


def test_a_stage_that_is_cut_gives_all_chunks_that_are_stored(tmp_path: Path) -> None:
    config = Config(model="", data="", n=10, threat="", seed=0)

    def work(stop: int, rows: Tensor) -> dict[str, Tensor]:
        if int(rows[0]) >= stop:
            raise OutOfTime
        return {"twice": 2 * rows}

    for stop, positions in ((4, 4), (8, 8)):
        with pytest.raises(StageCut) as cut:
            Run(tmp_path, config, chunk=2).map("stage", partial(work, stop), 10)
        assert (len(cut.value.positions), cut.value.leading) == (positions, positions)
        assert torch.equal(cut.value.rows["twice"], 2 * torch.arange(positions))
    with pytest.raises(StageCut) as cut:
        Run(None, config, chunk=2).map("stage", partial(work, 0), 10)
    assert not cut.value.rows and cut.value.leading == 0


def test_a_random_model_that_was_cut_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = subject(n=32)
    noisy = Noisy(model).eval()
    plan = PLAN.with_options(effort=Effort("weak", (Noise(1),)), nearest_n=32, reasons=None, floor=200)
    search = nearest_points._Search.search

    def cut(self: Any, rows: Tensor, **options: Any) -> Any:
        if int(rows[0]) >= 8:
            raise OutOfTime
        return search(self, rows, **options)

    monkeypatch.setattr(nearest_points._Search, "search", cut)
    first = audit(noisy, x, y, Linf(0.035), plan=plan.with_budget(1e9), chunk=8, out=tmp_path)
    assert first.left_out[0] == NEAREST and first.nearest[0].n == 8
    monkeypatch.undo()
    second = audit(noisy, x, y, Linf(0.035), plan=plan, chunk=8, out=tmp_path)
    assert second.left_out == [] and second.nearest[0].n == 32


class Noisy(nn.Module):
    """A model whose logits are drawn anew for each answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 0.02 * torch.randn_like(logits)


def test_a_cut_keeps_the_latest_state() -> None:
    states = [AttackState(Frontier.start(torch.zeros(n, 1))) for n in (1, 2)]
    with pytest.raises(AttackCut) as cut, kept(states[0]), kept(states[1]):
        raise OutOfTime
    assert cut.value.state is states[1]
    with pytest.raises(ValueError, match="other"), kept(states[0]):
        raise ValueError("other")


def test_points_that_the_checks_find_are_told_early(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_more(attack: Cascade, state: AttackState, *_: Any) -> None:
        raise AttackCut(state)

    monkeypatch.setattr(attacked_label, "extend", nothing_more)
    seen = Seen()
    with listening(seen):
        (whole,) = cut_runs(ticks, (1e9,), nearest_n=1)
    assert whole.left_out[0] == EXTENSION
    bounds = [value for figure, value, _ in seen.answers if figure == "robust accuracy, at most"]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(robust(whole))


def test_what_a_longer_attack_had_found_stays(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(attack: Cascade, state: AttackState, *_: Any) -> None:
        raise AttackCut(attack.stage(state, Ascents(80), 900)[0])

    monkeypatch.setattr(attacked_label, "extend", cut_off)
    model, x, y = subject(n=100)
    plan = PLAN.with_options(effort=Effort("weak", (Noise(1),)), reasons=None, floor=3000, nearest_n=1)
    cut = audit(model, x, y, Linf(EPS), plan=plan.with_budget(1e9))
    assert cut.left_out[0] == EXTENSION
    checked = next(line.accuracy for line in cut.progress if line.stage == "checks")
    assert robust(cut) < checked
    assert not cut.trusted


def test_an_interrupted_stage_of_an_attack_keeps_its_chunks() -> None:
    model, x, y = subject(n=40)
    counted, asked = Counted(model), []

    def slow(*arguments: Any, **options: Any) -> Tensor:
        asked.append(1)
        if len(asked) > 3:
            raise OutOfTime
        return pgd(*arguments, steps=10, **options)

    ledger = Ledger(Run(None, Config(model="", data="", n=40, threat="", seed=0), chunk=8))
    attack = Cascade(Problem(counted, x, y, Linf(EPS), counted), ledger)
    state = attack.begin()
    with pytest.raises(AttackCut) as cut:
        attack.perform(state, [UserAttack(slow)])
    found = cut.value.state
    assert int(found.frontier.fooled.sum()) > int(state.frontier.fooled.sum())
    assert found.log[-1].taken == 24


def test_a_budget_of_python_is_a_number_of_seconds() -> None:
    for budget in (60, np.float32(60), torch.tensor(60.0)):
        assert repr(Plan(budget=budget).budget) == "60.0"  # type: ignore[arg-type]
    for bad in ("60s", True, math.inf, math.nan, 0, -1):
        with pytest.raises(BadInput, match="the plan's budget, in seconds, is"):
            Plan(budget=bad)  # type: ignore[arg-type]


def test_the_page_of_a_cut_audit_blames_the_time() -> None:
    opening = (
        "Of 1,000 images, 994 are classified correctly; when the time was over, 393 of those had been fooled by an"
    )
    because = judged("OVERSTATED", budget=90.0)
    for left_out, words in (
        ([CHECKS], "the checks after the attack"),
        ([ATTACK, NEAREST, CHECKS], "the rest of the attack, the nearest points and the checks after the attack"),
    ):
        first, second = verdict_sentences(fabricated(**because, left_out=left_out), "image")
        assert first.startswith(opening)
        assert f"the time, 1 min 30 s, was over before {words}. Do not quote it." in second
    weak = verdict_sentences(fabricated(**because, left_out=["the explanations"]), "image")
    assert "an attack that the checks call too weak" in weak[1]


def test_a_page_says_that_an_attack_was_cut(tmp_path: Path) -> None:
    for name, left_out in (("cut audit", [CHECKS]), ("weak attack", [])):
        fabricate(tmp_path / name, examples=0, title=name, left_out=left_out, **judged("OVERSTATED"))
        page = render([tmp_path / name], tmp_path / "page.html").read_text()
        assert f"the same {name}" in page
        assert ("not strong enough" in page) == (name == "weak attack")
        assert ("The time was over before the audit was complete: what" in page) == (name == "cut audit")
