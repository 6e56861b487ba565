"""Audits with proofs: the same upper end for fewer passes, the alarm, models without bounds, page, table and gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import unfooled as uf
from unfooled import BadInput, Linf, Plan, Summary
from unfooled.attacks.ensembles.cascade import Effort, cascade
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.certification import exact_margins, interval_margins
from unfooled.certification.certify import proven
from unfooled.compat.loggers import figures
from unfooled.core.model.wrappers import Counted
from unfooled.data import load_dataset
from unfooled.evaluation.audit import proofs
from unfooled.evaluation.audit.records import ClassEnds
from unfooled.evaluation.audit.records import Summary as Record
from unfooled.evaluation.verify import verify
from unfooled.report import render
from unfooled.report.evidence import KINDS
from unfooled.report.index_page import MOST_BESIDE
from unfooled.report.sections.curves import proven_steps
from unfooled.report.words import two_sided, verdict_sentences
from unfooled.training import Batches, Ibp, Ramp, initialise_for_intervals, train
from unfooled.workflows import AuditOptions
from unfooled.workflows.bounds import check_bounds, read_bound
from unfooled.workflows.errors import BelowBound
from unfooled.workflows.gating import Gate, gate

PLAN = Plan(
    effort=Effort("tiny", (Ascents(8), Ascents(8))),
    explain_n=2,
    gallery=1,
    reasons=None,
    nearest_n=4,
    nearest_budget=100,
)


def subject(n: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(n, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3  # a few are wrong
    return model, x, y


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Summary, Path]:
    """The same audit without and with proofs, and the folder of the second."""
    model, x, y = subject()
    out = tmp_path_factory.mktemp("audit") / "run"
    plain = uf.audit(model, x, y, Linf(0.03), plan=PLAN)
    both = uf.audit(model, x, y, Linf(0.03), plan=PLAN.with_options(certify="quick"), out=out)
    return plain, both, out


def test_a_bound_on_what_was_not_proven_is_not_met(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    bounds = Gate(("certified_accuracy=0.01",))
    ruling, other = (gate(summary, bounds)[1] for summary in (plain, both))
    assert (ruling.passed, other.passed) == (False, True)
    assert "certified_accuracy.value is not available" in ruling.sentence


def test_proofs_leave_the_upper_end_and_save_passes(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    assert plain.certified_accuracy is None
    assert plain.open is None
    assert both.robust_accuracy == plain.robust_accuracy
    assert both.clean_accuracy == plain.clean_accuracy
    assert both.nearest == plain.nearest
    assert both.verdict == plain.verdict
    assert both.passes.backward < 0.9 * plain.passes.backward
    assert both.certified_accuracy is not None
    assert both.certified_accuracy.n == 60
    low, high = both.certified_accuracy.value, both.robust_accuracy.value
    assert low is not None and high is not None
    assert 0.3 < low <= high
    assert both.open == pytest.approx(high - low)


def test_what_is_proven_is_stored_for_each_sample(runs: tuple[Summary, Summary, Path]) -> None:
    _, both, out = runs
    stored = load_file(out / "samples.safetensors")
    model, x, y = subject()
    expected = uf.certification.certify(model, x, y, Linf(0.03), effort="quick").certified
    assert torch.equal(stored["certified"], expected)
    assert not bool((stored["certified"] & stored["success"]).any())
    assert both.certified_accuracy is not None
    assert both.certified_accuracy.value == pytest.approx(float(expected.double().mean()))
    assert Record.model_validate_json((out / "summary.json").read_text()).open == both.open


def test_what_is_proven_at_other_radii_is_a_curve_below_that_of_the_attack(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    assert plain.certified_curve == []
    model, x, y = subject()
    few, truth = slice(0, both.curve_n), {}
    for k in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
        proof = uf.certification.certify(model, x[few], y[few], Linf(0.03 * k), effort="quick")
        truth[round(0.03 * k, 6)] = float(proof.certified.double().mean())
    found = {round(p.eps, 6): p.accuracy.value for p in both.certified_curve}
    assert found.pop(0.0) == both.curve[0].accuracy.value
    assert found == pytest.approx(truth)
    assert {p.accuracy.n for p in both.certified_curve} == {both.curve_n}
    attacked = {round(p.eps, 6): p.accuracy.value for p in both.curve}
    shared = attacked.keys() & truth.keys()
    assert len(shared) > 1
    assert all(truth[eps] <= (attacked[eps] or 0) for eps in shared)


def test_the_reach_of_every_sample_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = subject(24)
    calls = []
    certify = proofs.Prover.proves

    def counted(self: proofs.Prover, x: Tensor, y: Tensor, threat: Any) -> Tensor:
        calls.append(len(x))
        return certify(self, x, y, threat)

    monkeypatch.setattr(proofs.Prover, "proves", counted)
    options: dict[str, Any] = {"certify": "quick", "nearest_n": 24, "norms": (math.inf,), "nearest_budget": 100}
    summary = uf.audit(model, x, y, Linf(0.06), plan=PLAN.with_options(**options))
    values = [p.accuracy.value or 0 for p in summary.certified_curve]
    assert values == sorted(values, reverse=True)
    assert values[1] > values[4] > values[6]
    assert summary.certified_accuracy is not None
    assert values[4] == pytest.approx(summary.certified_accuracy.value)
    assert len(calls) == 4  # the first samples, that of the audit, and two rounds
    assert calls[:3] == [proofs.PROBED, 24, 21]  # the last ones are those that are right


def test_both_ends_by_class_add_up(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    assert plain.certified_classes == []
    assert [c.label for c in both.certified_classes] == [0, 1, 2]
    assert sum(c.n for c in both.certified_classes) == 60
    assert both.certified_accuracy is not None
    assert sum(c.certified for c in both.certified_classes) == round(60 * (both.certified_accuracy.value or 0))
    assert sum(c.unbroken for c in both.certified_classes) == round(60 * (both.robust_accuracy.value or 0))
    with pytest.raises(ValueError, match="5 certified, 3 unbroken and 9 samples of a class"):
        ClassEnds(label=0, n=9, unbroken=3, certified=5)


def test_some_proven_samples_are_attacked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = subject()

    def liar(x: Tensor, y: Tensor, threat: Any) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool)

    seen = {}
    for count in (32, 0):
        monkeypatch.setattr("unfooled.evaluation.audit.attacked_label.CHECKED", count)
        summary = uf.audit(model, x, y, Linf(0.4), plan=PLAN.with_options(certify=liar, nearest_n=1))
        seen[count] = next(f for f in summary.diagnostics if f.id == "D24")
    assert proofs.CHECKED == 32
    assert seen[32].fired
    assert (seen[32].value or 0) > 20
    assert (seen[0].value or 0) <= 1  # the nearest point alone


class Smooth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Smooth(), "Nothing was certified: Smooth uses gelu, which cannot be bounded"),
        (lambda x: x.flatten(1)[:, :3] + 0.01 * torch.randn(len(x), 3), "Nothing was certified: the model is random"),
    ],
)
def test_a_model_without_bounds_is_audited_without_and_says_so(model: Callable[[Tensor], Tensor], words: str) -> None:
    _, x, _ = subject(8)
    y = x.flatten(1)[:, :3].argmax(1)
    summary = uf.audit(model, x, y, Linf(0.01), plan=PLAN.with_options(certify="quick", nearest_n=1))
    assert summary.certified_accuracy is None
    assert summary.open is None
    assert any(words in warning for warning in summary.warnings)


def test_a_model_that_returns_probabilities_is_certified_by_its_logits() -> None:
    model, x, y = subject(12)
    likely = nn.Sequential(model, nn.Softmax(1)).eval()
    summary = uf.audit(likely, x, y, Linf(1e-4), plan=PLAN.with_options(certify="quick"))
    assert summary.certified_accuracy is not None
    assert summary.certified_accuracy.value == pytest.approx(0.75)  # all that are right


def test_points_that_the_search_for_proofs_meets_are_verified_and_count() -> None:
    """An attack of no steps finds nothing; the minimisers of open parts do, and what falls is judged like the rest."""
    model, x, y = subject(16)
    plan = PLAN.with_options(effort=Effort("none", (Ascents(1),)), nearest_n=1)
    threat = Linf(0.05)
    truth = [e.value > 0 for e in exact_margins(model, x, y, threat)]
    both = uf.audit(model, x, y, threat, plan=plan.with_options(certify="thorough"))
    assert both.certified_accuracy is not None
    assert both.robust_accuracy.value == pytest.approx(sum(truth) / 16)
    assert both.certified_accuracy.value == pytest.approx(sum(truth) / 16)
    assert both.open == 0
    stage = next(p for p in both.progress if p.stage.endswith("branching"))
    assert stage.accuracy == both.robust_accuracy.value


def test_proposed_points_outside_the_threat_do_not_count() -> None:
    model, x, y = subject(12)

    def far(x: Tensor, y: Tensor, threat: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(x), dtype=torch.bool), 1 - x

    plan = PLAN.with_options(effort=Effort("none", (Ascents(1),)), nearest_n=1)
    summary = uf.audit(model, x, y, Linf(0.0), plan=plan.with_options(certify=far))
    assert summary.robust_accuracy == summary.clean_accuracy


def test_an_unknown_effort_of_proofs_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no effort 'quikc'; .* did you mean quick"):
        Plan(certify="quikc")


def test_the_page_says_in_words_what_lies_between(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    assert two_sided(plain) is None
    words = two_sided(both)
    assert words is not None
    assert "lies between" in words.sentence
    assert "are open" in words.meaning
    exact = both.model_copy(update={"certified_accuracy": both.robust_accuracy, "open": 0.0})
    words = two_sided(exact)
    assert words is not None
    assert "either proven or broken" in words.sentence
    assert words.open == 0
    assert "is exact for these images" in verdict_sentences(exact, "image")[1]
    assert "is no proof of robustness" in verdict_sentences(both, "image")[1]
    void = both.model_copy(update={"verdict": "NOT EVALUABLE", "trusted": False})
    assert two_sided(void) is None


def test_the_page_shows_a_bar_from_proven_to_attacked(runs: tuple[Summary, Summary, Path]) -> None:
    from unfooled.report import render

    _, _, out = runs
    text = render([out], out / "report.html").read_text()
    assert text.count('class="between"') == 1 + 3
    assert "Proven and attacked, by class" in text
    assert text.count('<g class="series s0 dashed">') == 2  # the proven end, wide and narrow
    assert '<th scope="col" class="num">Proven</th>' in text
    assert "are open: no attack broke" in text
    assert "<span>upper bound</span>" in text
    record = out / "summary.json"
    both = Summary.model_validate_json(record.read_text())
    exact = both.model_copy(update={"certified_accuracy": both.robust_accuracy, "open": 0.0})
    record.write_text(exact.model_dump_json())
    text = render([out], out / "report.html").read_text()
    record.write_text(both.model_dump_json())
    assert "<span>exact for these " in text
    assert "<span>upper bound</span>" not in text


def test_the_proven_end_goes_down_in_steps_that_never_rise_above_the_attacked_one(
    runs: tuple[Summary, Summary, Path],
) -> None:
    _, both, _ = runs
    corners = proven_steps(both.certified_curve)
    attacked = [(p.eps, p.accuracy.value or 0.0) for p in both.curve]
    for eps, lower in corners[1:]:
        (a, high), (b, low) = next(pair for pair in pairwise(attacked) if pair[0][0] <= eps + 1e-9 <= pair[1][0] + 2e-9)
        assert lower <= high + (low - high) * (eps - a) / (b - a) + 1e-9
    assert [round(eps / 0.03, 6) for eps, _ in corners[:5]] == [0, 0, 0.25, 0.25, 0.5]


def test_the_page_shows_the_classes_with_the_widest_open_part(runs: tuple[Summary, Summary, Path]) -> None:
    from unfooled.report.runs import read_runs
    from unfooled.report.sections.proofs import proven_sections

    _, both, out = runs
    (run,) = read_runs([out])
    ends = [ClassEnds(label=k, n=10, unbroken=8, certified=8 - k % 7) for k in range(30)]
    many = both.model_copy(update={"certified_classes": ends, "classes": [f"c{k}" for k in range(30)]})
    ((_, bars, more),) = proven_sections([replace(run, summary=many)])
    assert (len(bars), more) == (20, 10)
    assert (bars[0].name, bars[0].proven, bars[0].open, bars[0].text) == ("c6", 20, 60, "2 to 8 of 10")
    assert bars[0].label == "c6: 2 proven, 6 open, 2 broken or wrong, of 10"
    void = both.model_copy(update={"verdict": "NOT EVALUABLE", "trusted": False})
    assert proven_sections([replace(run, summary=void)]) == []


def test_a_bound_on_certified_accuracy_is_a_gate(runs: tuple[Summary, Summary, Path]) -> None:
    plain, both, _ = runs
    bound = read_bound("certified_accuracy=0.2")
    check_bounds(both, [bound])
    with pytest.raises(BelowBound, match=r"certified_accuracy.value is 0\.\d+, below 0.99"):
        check_bounds(both, [read_bound("certified_accuracy=0.99")])
    with pytest.raises(BelowBound, match=r"certified_accuracy.value is not available"):
        check_bounds(plain, [bound])


def test_a_record_with_more_proven_than_left_is_refused(runs: tuple[Summary, Summary, Path]) -> None:
    _, both, _ = runs
    record = both.model_dump()
    record["certified_accuracy"] = both.clean_accuracy.model_dump()
    with pytest.raises(ValueError, match=r"certified accuracy is .* above robust accuracy"):
        Record.model_validate(record)


def hopeless() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model that is right on clean samples, and of which no sample can be proven at 0.3."""
    model, x, _ = subject(24)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def test_proofs_of_little_effort_end_with_the_first_samples_where_none_of_these_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, y = hopeless()
    calls = []
    certify = proofs.Prover.proves

    def counted(self: proofs.Prover, x: Tensor, y: Tensor, threat: Any) -> Tensor:
        calls.append(len(x))
        return certify(self, x, y, threat)

    monkeypatch.setattr(proofs.Prover, "proves", counted)
    plan = PLAN.with_options(nearest_n=1)
    plain = uf.audit(model, x, y, Linf(0.3), plan=plan)
    both = uf.audit(model, x, y, Linf(0.3), plan=plan.with_options(certify="quick"))
    assert calls == [proofs.PROBED]
    assert both.proofs_tried == proofs.PROBED == 16
    assert both.certified_accuracy is not None
    assert both.certified_accuracy.value == 0
    assert both.open == both.robust_accuracy.value
    assert both.certified_curve == []
    assert (both.robust_accuracy, both.verdict, both.passes) == (plain.robust_accuracy, plain.verdict, plain.passes)
    assert both.warnings == plain.warnings
    shown = two_sided(both.model_copy(update={"verdict": "SOUND", "trusted": True}))
    assert shown is not None
    assert ("on 16 samples, in vain" in shown.meaning) == ((both.robust_accuracy.value or 0) > 0)


def test_a_black_box_is_not_asked_for_its_operations() -> None:
    model, x, y = subject(8)
    asked = []

    weights = [parameter.detach().numpy() for parameter in model.parameters()]

    def scores(array: Any) -> Any:
        asked.append(len(array))
        hidden = (array.reshape(len(array), -1) @ weights[0].T + weights[1]).clip(0)
        return hidden @ weights[2].T + weights[3]

    counts = []
    for certify in (None, "quick"):
        asked.clear()
        plan = PLAN.with_options(certify=certify, nearest_n=1)
        summary = uf.audit(uf.BlackBox(scores), x, y, Linf(0.01), plan=plan)
        counts.append(sum(asked))
    assert counts[0] == counts[1]
    assert summary.certified_accuracy is None
    assert any("Nothing was certified: the model is a black box" in warning for warning in summary.warnings)


def test_the_command_certifies_by_default_and_an_audit_without_time_does_not() -> None:
    assert AuditOptions().certify == "quick"
    assert AuditOptions().plan(Linf(0.1)).label_attack.certify == "quick"
    assert AuditOptions(certify="off").plan(Linf(0.1)).label_attack.certify is None
    model, x, y = subject(20)
    summary = uf.audit(model, x, y, Linf(0.01), plan=PLAN.with_options(certify="quick").with_budget(1e-9))
    assert summary.certified_accuracy is None


def test_on_a_network_trained_for_proofs_most_of_the_attack_is_saved() -> None:
    """The attack takes at most .7 of the passes where certified samples are left out, and fools the same samples."""
    data, test = load_dataset("digits", split="train"), load_dataset("digits", split="test")
    x, y, threat = test.x[:80], test.y[:80], Linf(0.04)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    initialise_for_intervals(model, torch.Generator().manual_seed(0))
    loss = Ramp(Ibp(threat, interval_margins, clean=0.5), 2, 1)
    for _ in train(
        model, Batches(data.x, data.y, 128, 0), loss, torch.optim.Adam(model.parameters(), lr=1e-2), epochs=5
    ):
        pass
    fooled, spent = [], []
    for certify in (None, partial(proven, model.eval(), effort="quick")):
        counted = Counted(model)
        points = cascade(counted, x, y, threat, effort=PLAN.label_attack.effort, certify=certify)
        fooled.append(verify(model, x, y, points, threat).success)
        spent.append(counted.forwards + counted.backwards)
    assert torch.equal(*fooled)
    assert float(proven(model, x, y, threat, effort="quick").double().mean()) > 0.5
    assert spent[1] <= 0.7 * spent[0]


def test_what_is_proven_stands_in_every_text(tmp_path: Path) -> None:
    """Beside other runs, in an index of many, in a model card, and in the figures of a logger."""
    model, x, y = subject(20)
    run = tmp_path / "run"
    found = uf.audit(model, x, y, Linf(0.01), plan=PLAN.with_options(certify="quick", floor=2000), out=run)
    plain = tmp_path / "plain"
    uf.audit(model, x, y, Linf(0.01), plan=PLAN.with_options(floor=2000), out=plain)
    proof = found.certified_accuracy
    assert found.trusted
    assert proof is not None
    assert proof.value
    share = f"{100 * proof.value:.1f}"
    pages = [render([run] * k, tmp_path / f"{k}.html").read_text() for k in (2, MOST_BESIDE + 1)]
    assert "Robust accuracy, proven (lower bound)" in pages[0]
    assert f"at least {share}\u202f%, proven" in pages[1]
    for kind in KINDS.values():
        assert f"By proof, it is at least {share} % (95 % interval {100 * proof.low:.1f} to" in kind(found)
    assert figures(found)["unfooled/certified_accuracy"] == proof.value
    others = [render([plain] * k, tmp_path / f"{k}.html").read_text() for k in (2, MOST_BESIDE + 1)]
    assert not any("proven (lower bound)" in page or ", proven<" in page for page in others)


class Step(nn.Module):
    """Class 1 above 1/2 in the first entry, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize(("beyond", "fires"), [(5e-7, False), (-1e-3, True)])
def test_a_point_barely_outside_eps_refutes_no_proof(beyond: float, fires: bool) -> None:
    """The nearest point is `beyond` outside of eps, which `verify` allows; the proof, that none is inside, holds."""
    x = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0.7
    y = torch.ones(40, dtype=torch.int64)

    def over(model: Any, x: Tensor, y: Tensor, threat: Any, **_: Any) -> Tensor:
        z = x.clone()
        z[:, 0] = 0.5 - 1e-9
        return z

    def claims(x: Tensor, y: Tensor, threat: Any) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool)

    plan = PLAN.with_options(attack=over, certify=claims, nearest_n=1)
    found = uf.audit(Step(), x, y, Linf(0.2 - beyond), plan=plan)
    assert next(f for f in found.diagnostics if f.id == "D24").fired == fires
    assert found.attack_success_rate.value == pytest.approx(0.8)  # 32 of the proven samples are attacked
