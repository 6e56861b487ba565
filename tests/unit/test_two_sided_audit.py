"""Audits with proofs: the same upper end for fewer passes, the alarm, models without bounds, page, table and gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import unfooled as uf
from unfooled import BadInput, Linf, Plan, Summary
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.certification import exact_margins
from unfooled.evaluation.audit import proofs
from unfooled.evaluation.audit.records import Summary as Record
from unfooled.report.words import two_sided, verdict_sentences
from unfooled.workflows.bounds import check_bounds, read_bound
from unfooled.workflows.errors import BelowBound

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
    assert 'class="between"' in text
    assert "are open: no attack broke" in text


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
