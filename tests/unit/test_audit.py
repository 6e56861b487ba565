"""The audit end to end on small models: figures, records, resumption, and inputs that must be refused."""

from __future__ import annotations

import cProfile
import inspect
import json
import pstats
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks import apgd, fgsm, pgd
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents, Searches, TargetedAscents
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.audit.plan import Explaining, ExplanationAttack, NearestPoints, PlanOptions
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.subject import inspect_model
from unfooled.evaluation.verify import verify
from unfooled.explanations import saliency
from unfooled.report import render
from unfooled.runs.hashes import fingerprint
from unfooled.runs.records import read_record

SHORT = Effort("short", (Ascents(10), TargetedAscents(1, 5), Searches(10, 0.5)))
PLAN = Plan(
    effort=SHORT, nearest_budget=100, nearest_n=12, explain_n=8, gallery=4, floor=3000, reasons_n=4, reasons_steps=3
)
SHAPE = (1, 6, 5)


def subject(n: int = 20, k: int = 3, shape: tuple[int, int, int] = SHAPE) -> tuple[nn.Module, Tensor, Tensor]:
    """A net, and labels that it gets right but for every seventh."""
    model, x = tiny_net(k, shape), points(n, shape, seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % k
    return model, x, y


def verdicts(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "samples.safetensors")


def test_summary_holds_the_contract_and_says_what_verify_says(tmp_path: Path) -> None:
    model, x, y = subject()
    threat = Linf(0.1)
    summary = audit(model, x, y, threat, plan=PLAN, out=tmp_path)
    assert read_record(tmp_path / "summary.json", Summary) == summary
    for name in ("model", "data", "n", "threat", "seed", "passes", "seconds", "warnings"):
        assert hasattr(summary, name)
    assert summary.n == 20
    assert summary.threat == "linf:0.1"
    assert summary.clean_accuracy.value == pytest.approx(17 / 20)
    kept = verdicts(tmp_path)
    v = verify(model, x, y, kept["x_adv"], threat)
    assert bool(v.inside.all())
    assert summary.robust_accuracy.value == pytest.approx(1 - v.success.float().mean().item())
    assert torch.equal(v.success, kept["success"])
    right = kept["clean"] == y
    assert summary.attack_success_rate.n == 17
    assert summary.attack_success_rate.value == pytest.approx(v.success[right].float().mean().item())
    assert sum(map(sum, summary.confusion)) == 20
    assert summary.passes.forward > 1
    assert summary.passes.backward > 0


def test_curve_falls_and_agrees_with_the_verdict() -> None:
    model, x, y = subject(12)
    summary = audit(model, x, y, Linf(0.1), plan=PLAN)
    values = [p.accuracy.value for p in summary.curve if p.accuracy.value is not None]
    assert len(values) == 9
    assert values == sorted(values, reverse=True)
    assert values[0] == summary.clean_accuracy.value
    at_eps = next(p for p in summary.curve if p.eps == pytest.approx(0.1))
    assert at_eps.accuracy.value == summary.robust_accuracy.value


def test_what_the_attack_finds_counts_on_a_weak_curve() -> None:
    model, x, y = subject(12)
    summary = audit(model, x, y, Linf(0.1), plan=PLAN.with_options(nearest_budget=100))
    at_eps = next(p for p in summary.curve if p.eps == pytest.approx(0.1))
    assert at_eps.accuracy.value == summary.robust_accuracy.value
    beyond = [p.accuracy.value for p in summary.curve if p.eps > 0.1 and p.accuracy.value is not None]
    assert all(value <= summary.robust_accuracy.value for value in beyond)  # type: ignore[operator]


def test_what_the_curve_finds_counts_against_a_weak_attack() -> None:
    model, x, y = subject(12)

    def idle(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> Tensor:
        return x.clone()

    summary = audit(model, x, y, Linf(0.3), plan=PLAN.with_options(attack=idle, attack_name="idle"))
    assert summary.robust_accuracy.value is not None
    assert summary.robust_accuracy.value < 0.5


@pytest.fixture(scope="module")
def in_one_chunk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    model, x, y = subject()
    folder = tmp_path_factory.mktemp("whole")
    return folder, audit(model, x, y, Linf(0.05), plan=PLAN, out=folder, chunk=20)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_verdicts_do_not_depend_on_the_chunk(chunk: int, in_one_chunk: tuple[Path, Summary], tmp_path: Path) -> None:
    model, x, y = subject()
    whole, one = in_one_chunk
    two = audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path, chunk=chunk, batch=3)
    a, b = verdicts(whole), verdicts(tmp_path)
    assert torch.equal(a["success"], b["success"])
    assert torch.equal(a["adversarial"], b["adversarial"])
    assert torch.allclose(a["x_adv"], b["x_adv"], atol=1e-5)
    assert one.robust_accuracy == two.robust_accuracy
    assert [p.accuracy for p in one.curve] == [p.accuracy for p in two.curve]


def test_interrupted_audit_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    model, x, y = subject()
    whole = audit(model, x, y, Linf(0.05), plan=PLAN, chunk=4)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "cascade-0-apgd" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path, chunk=4, progress=stop)
    assert not (tmp_path / "summary.json").exists()
    told: list[tuple[str, int, int]] = []
    again = audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path, chunk=4, progress=lambda *a: told.append(a))
    assert told[0] == ("clean", 20, 20)
    assert next(t for t in told if t[0] == "cascade-0-apgd")[1] == 8
    assert again.robust_accuracy == whole.robust_accuracy
    assert again.passes == whole.passes
    assert again.movements == whole.movements


def test_folder_of_another_model_or_data_is_refused(tmp_path: Path) -> None:
    model, x, y = subject()
    audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    with pytest.raises(BadInput, match="fingerprint: model"):
        audit(tiny_net(3, SHAPE, seed=1), x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    with pytest.raises(BadInput, match="fingerprint: data"):
        audit(model, x * 0.9, y, Linf(0.05), plan=PLAN, out=tmp_path)
    with pytest.raises(BadInput, match=r"threat was 'linf:0\.05', now it is 'l2:0\.05'"):
        audit(model, x, y, L2(0.05), plan=PLAN, out=tmp_path)


@pytest.mark.parametrize("threat", [L2(0.5), L1(2.0), L0(4.0), L0(3.0, per="pixel")], ids=str)
def test_every_norm(threat: Threat) -> None:
    model, x, y = subject(8, shape=(3, 6, 5))
    summary = audit(model, x, y, threat, plan=PLAN)
    assert summary.robust_accuracy.n == 8


@pytest.mark.parametrize("k", [2, 3, 100, 120])
@pytest.mark.parametrize("shape", [(9,), (1, 4, 7), (3, 5, 5)], ids=str)
def test_classes_and_shapes(k: int, shape: tuple[int, ...]) -> None:
    x = points(6, shape)
    model = linear(k, shape)
    summary = audit(model, x, model(x).argmax(1), Linf(0.05), plan=PLAN)
    assert summary.clean_accuracy.value == 1.0
    assert len(summary.confusion) == (k if k <= 100 else 0)
    assert (sum(c for _, _, c in summary.confusion_entries) == 6) == (k > 100)


@pytest.mark.parametrize(("n", "k"), [(6, 2), (1, 3), (6, 100)])
def test_tables_leave_a_run_folder_and_a_page(n: int, k: int, tmp_path: Path) -> None:
    from unfooled.report import render

    x = points(n, (5,))
    model = linear(k, (5,))
    audit(model, x, model(x).argmax(1), Linf(0.05), plan=PLAN, out=tmp_path / "run")
    assert "<html" in render([tmp_path / "run"], tmp_path / "page.html").read_text()


def test_one_sample_and_float64() -> None:
    model, x, y = subject(1)
    assert audit(model, x, (y + 2) % 3, Linf(0.1), plan=PLAN).n == 1
    model, x, y = subject(4)
    assert audit(model.double(), x.double(), y, Linf(0.1), plan=PLAN).n == 4


def test_a_model_that_nothing_fools_is_not_called_robust() -> None:
    x, y = points(4, (1, 4, 4)), torch.zeros(4, dtype=torch.int64)
    summary = audit(
        lambda x: torch.stack([x.flatten(1).sum(1) + 99, x.flatten(1).sum(1)], 1), x, y, Linf(0.1), plan=PLAN
    )
    assert summary.robust_accuracy.value == 1.0
    assert summary.robust_accuracy.low < 0.5
    assert summary.psnr.value is None
    assert any("not proof of robustness" in line for line in summary.limits)


def test_nothing_right_when_clean() -> None:
    model, x, y = subject(6)
    with torch.no_grad():
        y = (model(x).argmax(1) + 1) % 3
    summary = audit(model, x, y, Linf(0.1), plan=PLAN)
    assert summary.clean_accuracy.value == 0.0
    assert summary.attack_success_rate.value is None
    assert summary.gallery == []


def test_points_outside_the_threat_are_discarded_and_said() -> None:
    model, x, y = subject()

    def cheat(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> Tensor:
        return 1 - x

    summary = audit(model, x, y, Linf(0.001), plan=PLAN.with_options(attack=cheat, attack_name="cheat"))
    assert summary.robust_accuracy.value == summary.clean_accuracy.value
    assert any("left the threat" in w for w in summary.warnings)


def test_softmax_at_the_end_is_noticed_and_undone() -> None:
    model, x, y = subject()
    plain = audit(model, x, y, Linf(0.05), plan=PLAN)
    wrapped = audit(nn.Sequential(model, nn.Softmax(1)), x, y, Linf(0.05), plan=PLAN)
    assert wrapped.robust_accuracy == plain.robust_accuracy
    assert any("probabilities" in w for w in wrapped.warnings)
    attacked = inspect_model(nn.Sequential(model, nn.Softmax(1)), x, y).model(x)
    assert torch.allclose(attacked, model(x).log_softmax(1), atol=1e-4)
    assert not plain.warnings


def test_random_output_is_noticed_and_judged_by_majority() -> None:
    model, x, y = subject(6)
    noisy = audit(
        lambda z: model(z) + 0.01 * torch.randn(len(z), 3), x, y, Linf(0.05), plan=PLAN.with_options(nearest_n=2)
    )
    assert any("random" in w for w in noisy.warnings)
    assert any(f.id == "D4" and f.fired for f in noisy.diagnostics)


def test_outputs_that_hold_logits() -> None:
    model, x, y = subject()
    plain = audit(model, x, y, Linf(0.05), plan=PLAN)
    held = audit(lambda z: SimpleNamespace(logits=model(z)), x, y, Linf(0.05), plan=PLAN)  # type: ignore[arg-type, return-value]
    assert held.robust_accuracy == plain.robust_accuracy


class Dropping(nn.Module):
    """Dropout before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x.flatten(1)))


BAD = {
    "pixels outside the box": (lambda m, x, y: (m, x * 255, y), r"x lies in \[.*\], outside \[0, 1\].*mean and std"),
    "NaN pixels": (
        lambda m, x, y: (m, x.index_fill(0, torch.tensor([3]), torch.nan), y),
        "NaN or infinite values in 1 samples, the first is sample 3",
    ),
    "infinite pixels": (lambda m, x, y: (m, x.index_fill(0, torch.tensor([0]), torch.inf), y), "NaN or infinite"),
    "NaN logits": (lambda m, x, y: (lambda z: m(z) * torch.nan, x, y), "NaN or infinite logits for"),
    "labels out of range": (lambda m, x, y: (m, x, y + 1), r"labels lie in \[1, 3\], the model has 3 classes"),
    "negative labels": (lambda m, x, y: (m, x, y - 1), r"labels lie in \[-1"),
    "empty": (lambda m, x, y: (m, x[:0], y[:0]), "no samples"),
    "bytes": (lambda m, x, y: (m, (x * 255).byte(), y), r"float\(\) / 255"),
    "training mode": (lambda m, x, y: (Dropping(), x, y), r"training mode: drop \(Dropout\).*eval\(\)"),
    "wrong shape": (lambda m, x, y: (Classifier(m, input_shape=(1, 9, 9)), x, y), "takes samples of shape"),
    "label shape": (lambda m, x, y: (m, x, y[:5]), "one label per sample"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    model, x, y = change(*subject())
    with pytest.raises(BadInput, match=message) as e:
        audit(model, x, y, Linf(0.1), plan=PLAN, out=tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_unwritable_folder(tmp_path: Path) -> None:
    model, x, y = subject()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        audit(model, x, y, Linf(0.1), plan=PLAN, out=tmp_path / "file" / "run")


def test_attack_and_seed_are_what_was_asked() -> None:
    model, x, y = subject()
    plan = PLAN.with_options(attack=partial(apgd, steps=3), attack_name="short")
    summary = audit(model, x, y, Linf(0.01), plan=plan, seed=7)
    assert (summary.attack, summary.seed) == ("short", 7)
    assert summary.passes.backward <= 3


def test_a_model_without_a_gradient_is_judged_and_not_believed() -> None:
    model, x, y = subject()
    plain = audit(model, x, y, Linf(0.1), plan=PLAN)
    hidden = audit(lambda z: torch.from_numpy(model(z).detach().numpy().copy()), x, y, Linf(0.1), plan=PLAN)
    assert {"D8"} <= {f.id for f in hidden.diagnostics if f.fired}
    assert hidden.robust_accuracy.value is not None
    assert plain.robust_accuracy.value is not None
    assert hidden.robust_accuracy.value <= 0.05 or not hidden.trusted
    assert not any(f.fired for f in plain.diagnostics if f.id == "D8")


def test_diagnostics_are_in_the_summary(tmp_path: Path) -> None:
    model, x, y = subject()
    audit(model, x, y, Linf(0.1), plan=PLAN, out=tmp_path)
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept["trusted"] is (kept["verdict"] in ("SOUND", "EXTENDED"))
    assert {"id", "fired", "detail", "action"} <= set(kept["diagnostics"][0])
    assert [f["id"] for f in kept["diagnostics"]] == [f"D{i}" for i in [*range(1, 25), 26, 27, 28]]
    assert kept["because"]
    assert kept["progress"][-1]["accuracy"] >= kept["robust_accuracy"]["value"]
    assert kept["diagnostic_passes"]["forward"] * 20 + kept["diagnostic_passes"]["backward"] * 20 <= 3000
    assert kept["nearest"][0]["norm"] == "linf"


def test_nearest_points_in_every_norm() -> None:
    model, x, y = subject(10)
    norms = (0.0, 1.0, 2.0, float("inf"))
    summary = audit(model, x, y, Linf(0.1), plan=PLAN.with_options(norms=norms, nearest_budget=100))
    assert [k.norm for k in summary.nearest] == ["l0", "l1", "l2", "linf"]
    medians = [k.quartiles[1] for k in summary.nearest]
    assert all(m is not None and m > 0 for m in medians)
    assert medians[1] >= medians[2] >= medians[3]  # type: ignore[operator]
    assert len(summary.nearest[0].classes) == 3


def test_nearest_points_are_explained_from_the_nearest_on(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net, x, y = subject()
    summary = audit(net, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    shown = summary.nearest_gallery
    assert len(shown) == PLAN.explaining.gallery
    distances = [e.distance or 0.0 for e in shown]
    assert distances == sorted(distances)
    kept = load_file(tmp_path / "nearest.safetensors")
    rows = torch.tensor([e.index for e in shown])
    assert torch.equal(kept["x"], x[rows])
    assert (kept["x_adv"] - x[rows]).abs().amax((1, 2, 3)).tolist() == pytest.approx(distances, abs=1e-6)
    assert net(kept["x_adv"]).argmax(1).tolist() == [e.adversarial for e in shown]
    assert all(e.adversarial != e.label == int(y[e.index]) for e in shown)
    for name, at in (("before", kept["x"]), ("after", kept["x_adv"])):
        expected = PLAN.explaining.explain(net, at, y[rows])
        torch.testing.assert_close(kept[name], expected, rtol=1e-4, atol=1e-5)


def test_eps_beyond_the_box_is_refused() -> None:
    model, x, y = subject(4)
    with pytest.raises(BadInput, match="8 / 255 for pixels out of 255"):
        audit(model, x, y, Linf(8.0), plan=PLAN)


def test_a_certified_sample_that_falls_stops_the_verdict() -> None:
    model, x, y = subject()
    summary = audit(
        model,
        x,
        y,
        Linf(0.3),
        plan=PLAN.with_options(certify=lambda x, y, threat: torch.ones(len(x), dtype=torch.bool)),
    )
    assert summary.verdict == "NOT EVALUABLE"
    assert not summary.trusted
    assert any(f.id == "D24" and f.fired for f in summary.diagnostics)


def test_eight_bit_figure_is_given_for_eight_bit_images() -> None:
    model, x, _ = subject()
    x = (x * 255).round() / 255
    with torch.no_grad():
        y = model(x).argmax(1)
    summary = audit(model, x, y, Linf(0.05), plan=PLAN)
    assert summary.robust_accuracy_8bit is not None
    assert summary.robust_accuracy_8bit.value >= summary.robust_accuracy.value  # type: ignore[operator]


def test_a_random_model_keeps_the_mean_of_frequencies() -> None:
    model, x, y = subject(12)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        summary = audit(lambda z: model(z) + 0.5 * torch.randn(len(z), 3), x, y, Linf(0.05), plan=PLAN)
    assert summary.robust_accuracy.value is not None
    assert (summary.robust_accuracy.value * 12 * 20) % 20 > 0  # no whole number of samples
    assert summary.robust_accuracy.low < summary.robust_accuracy.value < summary.robust_accuracy.high


def test_the_figures_of_a_random_model_agree() -> None:
    model, x, y = subject(16)

    def coin(z: Tensor) -> Tensor:
        logits = model(z)
        return torch.where(torch.rand(len(z), 1) < 0.45, logits, logits.roll(1, 1))

    plan = PLAN.with_options(attack=partial(pgd, steps=3), nearest_n=4, explain_n=1, reasons=None)
    y = model(x).argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        s = audit(coin, x, y, Linf(0.001), plan=plan)
        steady = audit(lambda z: model(z) + 1e-3 * torch.randn(len(z), 3), x[:8], y[:8], Linf(0.001), plan=plan)
    clean, robust, lost = s.clean_accuracy.value, s.robust_accuracy.value, s.attack_success_rate.value
    assert clean is not None and robust is not None and lost is not None
    assert clean == pytest.approx(0.45, abs=0.1)
    assert robust == pytest.approx(0.45, abs=0.1)
    assert lost == pytest.approx(max(0, 1 - robust / clean))
    assert next(p for p in s.curve if p.eps == pytest.approx(0.001)).accuracy.n == 4
    for one in (steady.clean_accuracy, steady.robust_accuracy, steady.attack_success_rate):
        assert one.high - one.low > 0.2


def test_rows_that_depend_on_each_other_are_not_believed() -> None:
    model, x, y = subject()
    summary = audit(lambda z: model(z) + 0.01 * model(z).mean(0), x, y, Linf(0.05), plan=PLAN)
    assert (summary.verdict, summary.trusted) == ("NOT EVALUABLE", False)
    assert "D4" in summary.because


def test_other_stages_of_the_same_name_are_refused(tmp_path: Path) -> None:
    model, x, y = subject(6)
    audit(model, x, y, Linf(0.05), plan=PLAN.with_options(effort=Effort("mine", (Ascents(1),))), out=tmp_path)
    with pytest.raises(BadInput, match="stages"):
        audit(model, x, y, Linf(0.05), plan=PLAN.with_options(effort=Effort("mine", (Ascents(50),))), out=tmp_path)


def test_probes_are_kept_and_nearest_passes_counted(tmp_path: Path) -> None:
    model, x, y = subject(8)
    first = audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    again = audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    assert again.diagnostics == first.diagnostics
    assert again.diagnostic_passes.forward > 0.9 * first.diagnostic_passes.forward  # those of the probes are kept
    assert (tmp_path / "chunks/diagnostics-probes.json").exists()
    assert 10 < first.nearest_passes.forward + first.nearest_passes.backward <= 100
    assert first.progress[-1].accuracy == first.robust_accuracy.value


@pytest.mark.parametrize("name", ["nearest_n", "explain_n"])
def test_sizes_of_a_plan_are_checked(name: str) -> None:
    model, x, y = subject(2)
    with pytest.raises(BadInput, match=f"{name} is 0"):
        audit(model, x, y, Linf(0.05), plan=PLAN.with_options(**{name: 0}))  # type: ignore[arg-type]


def test_the_published_ensemble_keeps_its_own_figure() -> None:
    """Samples that only the checks fool do not enter the figure of `whole`."""
    model, x, y = subject(12)

    def idle(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> Tensor:
        return x.clone()

    summary = audit(model, x, y, Linf(0.3), plan=PLAN.with_options(whole=idle, attack_name="idle"))
    assert summary.robust_accuracy.value == summary.clean_accuracy.value
    assert not summary.trusted


@pytest.mark.parametrize("hidden", [False, True], ids=["honest", "no gradient"])
def test_survivors_in_l0_are_no_error(hidden: bool) -> None:
    x = points(8, SHAPE)
    layer = nn.Linear(30, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.ones(30), torch.zeros(30)]) / 30)
        layer.bias.zero_()
    model = nn.Sequential(nn.Flatten(), layer)  # its margin is the mean of all entries, near a half
    y = torch.zeros(8, dtype=torch.int64)
    summary = audit((lambda z: model(z.detach())) if hidden else model, x, y, L0(3.0), plan=PLAN)
    assert summary.robust_accuracy.value == 1


def test_models_that_refuse_inputs_with_a_gradient_are_audited() -> None:
    """As those that call `.numpy()` do."""
    model, x, y = subject(8)
    summary = audit(lambda z: torch.from_numpy(model(z).numpy()), x, y, Linf(0.3), plan=PLAN)
    assert any(f.id == "D8" and f.fired for f in summary.diagnostics)
    assert (summary.robust_accuracy.value or 0) < 1


class Pinned(nn.Module):
    """Answers near the inputs that it met first as it did there."""

    def __init__(self, model: nn.Module, n: int) -> None:
        super().__init__()
        self.model, self.n = model, n
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor) -> Tensor:
        out = []
        for row, logits in zip(z, self.model(z), strict=True):
            kept = next((v for x, v in self.seen if bool((row.detach() - x).abs().max() < 0.3)), None)
            if kept is None and len(self.seen) < self.n:
                self.seen.append((row.detach().clone(), logits.detach().clone()))
            out.append(logits if kept is None else 0.98 * kept + 0.02 * logits)
        return torch.stack(out)


def test_a_model_that_remembers_the_samples_is_not_believed() -> None:
    model, x, y = subject(8)
    summary = audit(Pinned(model, 8), x, y, Linf(0.2), plan=PLAN)
    found = next(f for f in summary.diagnostics if f.id == "D20")
    assert found.fired
    assert summary.verdict == "NOT EVALUABLE"
    plain = audit(model, x, y, Linf(0.005), plan=PLAN)
    assert not any(f.id == "D20" and f.fired for f in plain.diagnostics)
    assert (plain.robust_accuracy.value or 0) > 0  # there were survivors to replay


def test_a_fingerprint_tells_code_and_settings() -> None:
    model, x, y = subject(4)

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, z: Tensor) -> Tensor:
            return self.net(z)  # a comment is no change

    class Rounds(Same):
        def forward(self, z: Tensor) -> Tensor:
            return self.net(z.round())

    def scaled(by: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: by * z.flatten(1)

    def told(subject: Callable[[Tensor], Tensor]) -> str:
        return fingerprint(subject, x, y)["model"]

    one, two = torch.ones(1), 2 * torch.ones(1)
    assert told(Same()) == told(Same())
    assert told(scaled(one)) == told(scaled(one))
    different = [told(m) for m in (Same(), Rounds(), nn.Sequential(model, nn.ReLU()), scaled(one), scaled(two))]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_noise_is_noticed_at_any_scale_of_the_logits(scale: float) -> None:
    model, x, y = subject(8)
    assert inspect_model(lambda z: scale * (model(z) + 0.1 * torch.randn(len(z), 3)), x, y).random
    assert not inspect_model(lambda z: scale * model(z), x, y).random


def test_a_plan_is_small_values_and_these_are_its_record() -> None:
    plan = PLAN.with_options(norms=(0.0, float("inf")), reasons_radii=(0.5,), attack_name="unused")
    assert [f.name for f in fields(Plan)] == ["label_attack", "nearest", "explaining", "explanation_attack", "budget"]
    assert plan.nearest == NearestPoints(12, 100, (0.0, float("inf")))
    assert plan.explaining == Explaining(n=8, gallery=4)
    assert plan.explanation_attack == ExplanationAttack(n=4, steps=3, radii=(0.5,))
    record = plan.record()
    assert record["nearest"] == {
        "n": 12, "budget": 100, "norms": [0.0, "inf"], "radii": [0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0],
        "precision": 0.1,
    }  # fmt: skip
    assert record["label_attack"]["effort"].startswith("Effort(name='short', stages=(Ascents(steps=10, share=1.0")
    assert (record["label_attack"]["attack"], record["label_attack"]["floor"]) == (None, 3000)
    assert (record["explaining"]["explain"], record["explaining"]["n"]) == ("integrated_gradients", 8)
    assert (record["explanation_attack"]["explain"], record["explanation_attack"]["radii"]) == ("saliency", [0.5])
    assert json.loads(json.dumps(record)) == record
    assert plan.with_options(reasons=None).record()["explanation_attack"] is None


def test_flat_keywords_build_the_values_of_a_plan() -> None:
    keywords = inspect.signature(Plan).parameters
    assert list(keywords)[:24] == list(PlanOptions.__annotations__)
    assert (keywords["nearest_n"].default, keywords["reasons"].default) == (200, saliency)
    assert Plan(nearest_n=5) == Plan(nearest=NearestPoints(n=5)) == replace(Plan(), nearest=NearestPoints(5))
    assert Plan(nearest=NearestPoints(budget=7), nearest_n=5).nearest == NearestPoints(5, 7)
    assert PLAN.with_options(nearest_n=5) == Plan(nearest=replace(PLAN.nearest, n=5), **{
        name: getattr(PLAN, name) for name in ("label_attack", "explaining", "explanation_attack")
    })  # fmt: skip
    silent = Plan(reasons=None, reasons_n=7)
    assert silent.explanation_attack is None
    assert silent.with_options(gallery=3).explanation_attack is None
    assert silent.with_options(reasons=saliency, reasons_n=7).explanation_attack == ExplanationAttack(n=7)
    with pytest.raises(FrozenInstanceError):
        Plan().nearest = NearestPoints()  # type: ignore[misc]
    with pytest.raises(TypeError, match="no option 'nearst_n'; it has effort, attack"):
        Plan(nearst_n=3)  # type: ignore[call-arg]
    with pytest.raises(BadInput, match="effort is 'quick'; give QUICK"):
        Plan(effort="quick")  # type: ignore[arg-type]


def test_a_run_with_a_flat_record_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """As earlier versions wrote it; its page is still made."""
    model, x, y = subject(6)
    audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    flat = {"attack": "cascade, short", "effort": "short", "nearest_n": 12, "reasons": "saliency", "reasons_n": 4}
    stored["settings"]["options"] = flat
    del stored["sha256"]  # earlier versions wrote none
    file.write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=r"holds another run: options: attack was 'cascade, short'.*; choose another"):
        audit(model, x, y, Linf(0.05), plan=PLAN, out=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"options": flat}))
    assert "cascade, short" in render([tmp_path], tmp_path / "page.html").read_text()


def test_a_batch_size_of_an_attack_is_no_setting_of_the_run() -> None:
    def blank(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False, batch: int = 1) -> Tensor:
        return torch.zeros_like(x)

    records = [
        PLAN.with_options(attack=partial(apgd, steps=3, batch=size), explain=partial(blank, batch=size)).record()
        for size in (1, 9)
    ]
    assert records[0] == records[1]
    assert records[0]["label_attack"]["attack"] == "apgd(steps=3)"
    assert records[0]["explaining"]["explain"].startswith(
        f"{__name__}.test_a_batch_size_of_an_attack_is_no_setting_of_the_run.<locals>.blank "
    )


def test_passes_of_a_whole_attack_are_counted_by_family() -> None:
    """Also of one that names its stages itself."""
    model, x, y = subject(12)

    def whole(model: Any, x: Tensor, y: Tensor, threat: Threat, *, run: Ledger, **_: object) -> Tensor:
        def work(rows: Tensor) -> dict[str, Tensor]:
            for _ in range(5):
                model(x[rows])
            return {"z": x[rows]}

        return run.map("my-own", work, len(x), model=model)["z"]

    summary = audit(model, x, y, Linf(0.3), plan=PLAN.with_options(whole=whole, attack_name="mine"))
    assert summary.passes.forward == pytest.approx(1 + 1 + 5 + 10 / 12, abs=0.2)  # clean twice, five, adopted
    assert summary.passes.backward == 0


def test_inputs_are_checked_once() -> None:
    model, x, y = subject(12)
    profile = cProfile.Profile()
    profile.runcall(audit, model, x, y, Linf(0.05), plan=PLAN)
    calls: dict[str, int] = {}
    for (file, _, name), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "unfooled" in file:
            calls[name] = calls.get(name, 0) + row[0]
    assert calls["logits_at"] > 500
    assert calls["check_inputs"] == 1
    assert calls["check_labels"] <= 2
    assert calls["check_logits"] <= 2


def scaled_wrongly(model: Any, x: Tensor, y: Tensor, threat: Threat, **_: Any) -> Tensor:
    return pgd(model, 255 * x, y, threat, steps=1)


def labelled_wrongly(x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return verify(lambda z: z.flatten(1)[:, :3], x, y.float(), x, threat).success


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({"attack": scaled_wrongly}, "x lies in .*, outside"),
        ({"whole": scaled_wrongly}, "x lies in .*, outside"),
        ({"certify": labelled_wrongly}, "y has dtype torch.float32"),
    ],
)
def test_functions_of_the_user_call_the_library_with_checks(mine: dict[str, Any], message: str) -> None:
    model, x, y = subject(6)
    with pytest.raises(BadInput, match=message):
        audit(model, x, y, Linf(0.001), plan=replace(PLAN, **mine))


def test_attacks_that_differ_in_their_options_are_other_runs() -> None:
    def record(**options: Any) -> dict[str, Any]:
        return Plan(**options).record()

    one = record(attack=partial(pgd, steps=1))
    assert one != record(attack=partial(pgd, steps=50))
    assert one != record(attack=fgsm)
    assert one == record(attack=partial(pgd, steps=1, batch=7)), "a batch size changes no figure"

    def proven(x: Tensor, y: Tensor, threat: Any) -> Tensor:
        return torch.zeros(len(x), dtype=torch.bool)

    assert record() != record(certify=proven)
