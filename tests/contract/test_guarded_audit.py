"""An audit of a model behind a purifier: every attack is made, and no robust accuracy is stated without."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import points, tiny_net
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks import pgd
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.frontier import Frontier
from unfooled.attacks.ensembles.stages import Ascents, Searches
from unfooled.certification.certify import effort_of, proven
from unfooled.certification.graph import trace
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import listening
from unfooled.evaluation.audit import detection, guard_record, guards
from unfooled.evaluation.audit.guard_fields import purifier_sentence
from unfooled.evaluation.audit.guards import united
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks import extending
from unfooled.evaluation.checks.guards import Way, required, ways_agree
from unfooled.evaluation.checks.table import CheckId, Kind
from unfooled.purification import SemanticPurifier, fit_purifier, guard, low_band, resized, split
from unfooled.report import render
from unfooled.report.page import HALVES
from unfooled.report.sections.guards import notes_of, panels

TINY = Effort("tiny", (Ascents(8), Searches(20)))
SMALL: dict[str, Any] = {
    "nearest_n": 1, "nearest_budget": 100, "explain_n": 1, "gallery": 1, "reasons": None, "floor": 0,
}  # fmt: skip
PLAN = uf.Plan(effort=TINY, **SMALL)
EPS = uf.Linf(0.05)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop continued attacks at once: these tests are about what comes before."""
    monkeypatch.setattr(extending, "TIMES", 0)
    monkeypatch.setattr(extending, "AT_LEAST", 0)


@pytest.fixture(scope="module")
def net() -> Classifier:
    x, y = uf.load_data("digits", split="train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)))
    adam = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(80):
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def semantic(net: Classifier) -> SemanticPurifier:
    x, y = uf.load_data("digits", split="train", n=300)
    return fit_purifier(latents(net), x, y, seed=0, size=4, atoms=4, max_clusters=1, smooth=1.0, sparsity=0.1)


def latents(net: Classifier) -> Callable[[Tensor], Tensor]:
    assert isinstance(net.module, nn.Sequential)
    first = net.module[1]
    return lambda x: first(x.flatten(1))


def samples(n: int = 20) -> tuple[Tensor, Tensor]:
    x, y = uf.load_data("digits", n=n)
    return x, y


def audited(model: Any, n: int = 12, threat: uf.Threat = EPS, **options: Any) -> Summary:
    return uf.audit(model, *samples(n), threat, **({"plan": PLAN} | options))


def test_every_attack_has_its_row_and_the_worst_is_robust_accuracy(
    net: Classifier, semantic: SemanticPurifier, tmp_path: Path
) -> None:
    summary = audited(guard(net, semantic), threat=uf.Linf(0.1), out=tmp_path / "run")
    record = summary.guard
    assert record is not None
    assert record.missing == []
    wanted = required(EPS, clusters=True, random=False)
    assert {row.key for row in record.rows} == set(wanted) == {
        "static", "bpda", "bpda-low-pass", "end-to-end", "assignment", "low-frequency", "black-box",
    }  # fmt: skip
    accuracy = {row.key: row.accuracy.value for row in record.rows}

    def value(estimate: Any) -> float:
        assert estimate is not None
        assert estimate.value is not None
        return float(estimate.value)

    assert record.worst == summary.robust_accuracy
    assert record.worst.value == min(v for v in [record.worst.value, *accuracy.values()] if v is not None)
    assert value(record.static) == accuracy["static"]
    assert value(record.adds) == pytest.approx(value(record.worst) - value(record.bare_robust))
    assert value(record.static_minus_worst) == pytest.approx(value(record.static) - value(record.worst))
    assert record.left is not None
    assert 0 < record.left < 1.5
    assert value(record.own_cluster_clean) > value(record.own_cluster_attacked)
    stages = [p.stage for p in summary.progress]
    assert [s for s in stages if "soft" in s] == [f"{k}-soft-{t}" for k, t in ((122, "10"), (123, "1"), (124, "0.1"))]
    soft = [k for k, stage in enumerate(stages) if "soft" in stage]
    assert all(summary.progress[k].backward > summary.progress[k - 1].backward for k in soft), "gradients are counted"
    before, after = (summary.progress[stages.index("through the purifier") + d] for d in (-1, 0))
    assert after.forward > before.forward + 5, "so are the attacks through the purifier"
    assert summary.passes.forward >= summary.progress[-1].forward >= after.forward
    assert record.beside.forward > 5
    assert record.beside.backward > 5
    again = Summary.model_validate_json((tmp_path / "run" / "summary.json").read_text())
    assert again.guard == record
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "Under the worst attack the purifier adds" in page
    assert "Static minus worst" in page
    assert "With the purifier, BPDA, identity" in page
    assert page.count("false alarms, % of clean samples") == 6  # three scores, two sizes
    for one in record.detectors:
        assert f"As a detector: {one.name}" in page
        assert f"static points: area {one.static.auroc:.2f}" in page
        assert f"joint attack on label and detector: area {one.joint.auroc:.2f}" in page
    assert "With the dictionary of the most frequent cluster for all" in page
    assert "Attacks without the purifier and on parts of it took" in page
    both = render([tmp_path / "run", tmp_path / "run"], tmp_path / "two.html").read_text()
    for row in (
        "The purifier adds, under the worst attack, points",
        "Static minus worst, points",
        "Perturbation left by",
    ):
        assert row in both
    curves = panels(record, HALVES)[0].figures[0][1].traces
    assert [trace.dash for trace in curves] == ["dotted", "dashed", ""]
    assert [len(trace.line.split()) for trace in curves] == [
        len(roc.curve) for roc in (record.detectors[0].static, record.detectors[0].attacked, record.detectors[0].joint)
    ]
    old = record.detectors[0].model_copy(update={"joint": record.detectors[0].joint.model_copy(update={"curve": []})})
    assert panels(record.model_copy(update={"detectors": [old]}), HALVES) == []


def test_scores_of_a_purifier_are_judged_as_detectors(net: Classifier, semantic: SemanticPurifier) -> None:
    summary = audited(guard(net, semantic), n=16, threat=uf.Linf(0.2))
    assert summary.guard is not None
    found = {one.key: one for one in summary.guard.detectors}
    assert list(found) == ["distance", "reconstruction", "label-change"]
    for one in found.values():
        assert one.n == 16
        assert one.static.curve[0] == (0.0, 0.0)
        assert one.static.curve[-1] == (1.0, 1.0)
        assert one.kappa in detection.KAPPAS
    assert found["distance"].joint.auroc < found["distance"].attacked.auroc  # it knows the detector
    assert found["label-change"].joint.auroc <= found["label-change"].attacked.auroc
    text = "\n".join(notes_of(summary, summary.guard))
    assert text.count("As a detector") == 3
    assert "with the dictionaries shuffled" in text


def test_pictures_show_what_the_purifier_does(net: Classifier, semantic: SemanticPurifier, tmp_path: Path) -> None:
    x, y = samples()
    summary = uf.audit(guard(net, semantic), x, y, EPS, plan=PLAN, seed=0, out=tmp_path / "run")
    assert summary.guard is not None
    shown = load_file(tmp_path / "run" / "purified.safetensors")
    rows = [e.index for e in summary.guard.examples]
    assert 1 <= len(rows) <= 4
    assert torch.equal(shown["x"], x[rows])
    assert torch.equal(shown["before"], semantic(x[rows]))
    assert torch.equal(shown["after"], semantic(shown["x_adv"]))
    assert torch.equal((shown["low"] + shown["rebuilt"]).clamp(0, 1), shown["after"])
    own = [e.attacked_cluster for e in summary.guard.examples]
    assert own == semantic.distance(shown["x_adv"]).argmin(1).tolist()
    assert torch.equal(shown["atoms"], semantic.dictionaries[own])
    assert [one.clusters for one in summary.guard.clusters] == [1] * 10
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert page.count("Atoms of its cluster") == page.count("High band, rebuilt") == len(rows)
    assert "10 clusters, by class: 0: 1, 1: 1," in page
    headline = page.split('<p class="headline">')[1].split("</p>")[0]
    assert re.match(r"(The purifier (adds|takes) |Whether the purifier helps or harms )", headline)
    (tmp_path / "run" / "purified.safetensors").unlink()
    with pytest.raises(BadInput, match="the file is missing"):
        render([tmp_path / "run"], tmp_path / "page.html")


def test_a_purifier_without_clusters_shows_before_and_after_only(net: Classifier, tmp_path: Path) -> None:
    summary = uf.audit(guard(net, low_band), *samples(), EPS, plan=PLAN, seed=0, out=tmp_path / "run")
    assert summary.guard is not None and summary.guard.examples and not summary.guard.clusters
    assert set(load_file(tmp_path / "run" / "purified.safetensors")) == {"x", "x_adv", "before", "after"}
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert page.count("Attacked, purified") == len(summary.guard.examples)
    assert "Atoms of its cluster" not in page


def test_a_purifier_that_chooses_by_values_is_named_as_such_by_proofs(
    net: Classifier, semantic: SemanticPurifier
) -> None:
    with pytest.raises(BadInput) as refused:
        trace(guard(net, semantic), samples(2)[0])
    assert "cannot be recorded: its operations depend on values of the input" in str(refused.value)
    assert "the purifier fails" not in str(refused.value)


def test_a_detector_says_nothing_on_clean_samples_and_all_on_marked_ones(net: Classifier) -> None:
    x, _ = samples(16)
    clean, marked = x.flatten(1).sum(1).double(), x.flatten(1).sum(1).double() + 1e6
    assert (detection._roc(clean, clean).auroc, detection._roc(clean, marked).auroc) == (0.5, 1.0)
    assert (detection._roc(clean, marked).detected, detection._roc(clean, clean).detected) == (1.0, 0.0)


def test_the_joint_attack_weighs_label_against_score(net: Classifier) -> None:
    x, y = samples(12)
    model = guard(net, low_band)

    def moved(z: Tensor) -> Tensor:
        return (z - x).flatten(1).norm(dim=1)

    ascent = partial(detection.joint, model, low_band, moved, x, y, uf.Linf(0.3), tau=0.2, scale=0.1, steps=12)
    near, far = (moved(ascent(kappa=kappa)).mean() for kappa in (1e3, 0.0))
    assert float(near) < 0.5 * float(far)
    assert ((net(low_band(ascent(kappa=0.0))).argmax(1) != y).double().mean()) > 0.5


def test_the_choice_of_the_dictionary_stands_beside_the_shuffled_one(
    net: Classifier, semantic: SemanticPurifier
) -> None:
    same = replace(semantic, dictionaries=semantic.dictionaries[:1].expand_as(semantic.dictionaries).contiguous())
    record = audited(guard(net, same)).guard
    assert record is not None
    assert record.choice is not None
    assert record.choice.adds.value == 0.0  # there is nothing to choose
    assert record.choice.own_attacked == record.choice.shuffled_attacked == record.choice.one_attacked
    assert record.choice.own_static == record.choice.one_static
    assert record.choice.one_adds == record.choice.adds
    own = audited(guard(net, semantic), 20).guard
    assert own is not None
    assert own.choice is not None
    assert own.static is not None
    assert own.static.n == own.choice.n == 20
    # The cascade's points on the bare model are among the static ones.
    assert (own.static.value or 0.0) <= (own.choice.own_static.value or 0.0) < 0.9
    other = audited(guard(net, low_band)).guard
    assert other is not None
    assert other.choice is None
    assert [one.key for one in other.detectors] == ["reconstruction", "label-change"]


def test_without_the_choice_no_cluster_has_its_own_dictionary_or_all_have_one(semantic: SemanticPurifier) -> None:
    x = samples(30)[0]
    setting: Any = SimpleNamespace(seed=0, n=len(x), x=x, at=lambda rows: rows)
    made = detection._without_choice(setting, semantic)
    atoms = semantic.dictionaries
    assert not any(torch.equal(a, b) for a, b in zip(made["shuffled"].dictionaries, atoms, strict=True))
    counts = semantic.distance(x).argmin(1).bincount(minlength=len(atoms))
    assert all(torch.equal(one, atoms[counts.argmax()]) for one in made["one"].dictionaries)


def test_passes_of_another_model_count_and_are_shown_only_where_the_values_are_the_same() -> None:
    counted = Counted(tiny_net())
    shown: list[int] = []
    x = points(3, (1, 6, 5)).requires_grad_()
    with counted.watched(lambda z, logits: shown.append(len(z))):
        counted.standing_in(lambda z: 2 * counted.model(z), same_values=False)(x).sum().backward()
        assert (counted.forwards, counted.backwards, shown) == (3, 3, [])
        counted.standing_in(counted.model)(x)
    assert (counted.forwards, shown) == (6, [3])


def test_a_record_without_a_guard_still_reads(net: Classifier) -> None:
    summary = audited(net, 4)
    assert summary.guard is None
    fields = summary.model_dump(mode="json")
    del fields["guard"]
    assert Summary.model_validate(fields) == summary


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[Way], None]:
    def drop(way: Way) -> None:
        every = guards._Guards.ways

        def others(self: Any) -> Iterator[Any]:
            yield from (one for one in every(self) if one[0] != way)

        monkeypatch.setattr(guards._Guards, "ways", others)

    return drop


@pytest.mark.parametrize("way", [w for w in required(EPS, clusters=True, random=False) if w != Way.END_TO_END])
def test_without_one_attack_there_is_no_robust_accuracy(
    net: Classifier, semantic: SemanticPurifier, without: Callable[[Way], None], way: Way
) -> None:
    without(way)
    refused(audited(guard(net, semantic if way == Way.ASSIGNMENT else low_band), 2), way)


def refused(summary: Summary, *ways: str) -> None:
    assert summary.verdict == "NOT EVALUABLE"
    assert summary.guard is not None
    assert summary.guard.missing == list(ways)
    assert summary.guard.not_stated == f"not stated (missing: {', '.join(ways)})"
    assert summary.robust_accuracy.value is None
    assert summary.robust_accuracy_8bit is None
    assert summary.attack_success_rate.value is None
    assert summary.guard.worst is None
    assert summary.guard.adds is None
    assert [point.eps for point in summary.curve] == [0]
    assert "D29" in summary.because


def test_clusters_inside_a_function_are_asked_for(net: Classifier, semantic: SemanticPurifier) -> None:
    """The attack on the assignment needs the semantic purifier itself."""
    summary = audited(guard(net, lambda x: semantic(x.clone())), 4)
    assert summary.guard is not None
    assert summary.guard.missing == ["assignment"]
    assert summary.verdict == "NOT EVALUABLE"
    assert any("give guard(model, purify) the semantic purifier itself" in w for w in summary.warnings)
    assert purifier_sentence(summary.guard, summary.verdict).startswith("What the purifier adds is not stated (missing")


class Holding:
    """A purifier as an object with its parts in a list."""

    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self.parts[0](x)
        return made


def applied(purify: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return purify(x)


def parts_of(semantic: SemanticPurifier, x: Tensor) -> Tensor:
    """Purify with the methods of a semantic purifier alone."""
    low, high = split(x, smooth=semantic.smooth)
    return (low + semantic.rebuilt(high, *semantic.weights(x))).clamp(0, 1)


def in_a_thread(semantic: SemanticPurifier, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(semantic, x).result()


def bright_alone(semantic: SemanticPurifier, x: Tensor) -> Tensor:
    """Purify the brightest of the audit's samples alone."""
    parts = [semantic(z) if float(z.mean()) > 0.34 else low_band(z) for z in x.split(1)]
    return torch.cat(parts)


def by_clusters(semantic: SemanticPurifier, x: Tensor) -> Tensor:
    k = semantic.clusters.distance(semantic.encode(x)).argmin(1, keepdim=True)
    low, high = split(x, smooth=semantic.smooth)
    return (low + semantic.rebuilt(high, k, torch.ones_like(k, dtype=x.dtype))).clamp(0, 1)


WRAPPERS: dict[str, Callable[[SemanticPurifier], Any]] = {
    "partial": lambda one: partial(applied, one),
    "bound method": lambda one: one.__call__,
    "list": Holding,
    "two deep": lambda one: partial(applied, Holding(one)),
    "a copy": lambda one: partial(applied, replace(one, steps=3)),
    "methods": lambda one: partial(parts_of, one),
    "thread": lambda one: partial(in_a_thread, one),
    "thread, by a function": lambda one: lambda x: in_a_thread(one, x),
    "clusters": lambda one: partial(applied, Holding(partial(by_clusters, one))),
    "some samples": lambda one: partial(applied, Holding(partial(bright_alone, one))),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_clusters_are_found_wherever_they_are_hidden(net: Classifier, semantic: SemanticPurifier, wrapper: str) -> None:
    guarded = guard(net, WRAPPERS[wrapper](semantic))
    x, y = samples(30)
    rows = x.mean((1, 2, 3)).argsort()  # the brightest come last
    assert float(x.mean((1, 2, 3)).max()) > 0.34 > float(x[rows[:10]].mean((1, 2, 3)).max())
    summary = uf.audit(guarded, x[rows], y[rows], EPS, plan=uf.Plan(**OWN["attack"], **SMALL))
    assert summary.guard is not None
    assert "assignment" in summary.guard.missing
    assert any("clusters are hidden" in text for text in summary.warnings)


def test_a_purifier_that_asks_a_guarded_model_is_no_second_one(net: Classifier) -> None:
    inner = guard(net, low_band)

    def asking(x: Tensor) -> Tensor:
        inner(x)
        return low_band(x)

    summary = audited(guard(net, asking), 4)
    assert summary.guard is not None
    assert summary.guard.missing == []


def test_a_second_purifier_inside_the_model_is_found(net: Classifier, semantic: SemanticPurifier) -> None:
    summary = audited(guard(guard(net, semantic), low_band), 4)
    refused(summary, *required(EPS, clusters=True, random=False))
    assert any("give one guard for both" in text for text in summary.warnings)


def test_what_a_purifier_adds_follows_the_verdict(net: Classifier, semantic: SemanticPurifier) -> None:
    record = audited(guard(net, semantic), 6).guard
    assert record is not None
    assert "adds at most" in purifier_sentence(record, "OVERSTATED")
    assert "adds at most" not in purifier_sentence(record, "SOUND")
    assert "%" not in purifier_sentence(record, "NOT EVALUABLE")


def test_an_effort_without_gradients_misses_the_end_to_end_attack(net: Classifier) -> None:
    refused(
        audited(guard(net, low_band), 4, plan=PLAN.with_options(effort=Effort("blind", (Searches(20),)))), "end-to-end"
    )


OWN: dict[str, Any] = {
    "attack": {"attack": partial(pgd, steps=2)},
    "whole": {"whole": lambda model, x, y, threat, **_: x},
}


@pytest.mark.parametrize("name", OWN)
def test_an_attack_of_ones_own_is_no_judge_of_a_purifier(net: Classifier, name: str) -> None:
    every = required(EPS, clusters=False, random=False)
    refused(audited(guard(net, low_band), 4, plan=uf.Plan(**OWN[name], **SMALL)), *every)


def test_a_guard_of_a_model_of_one_output_or_several_labels(net: Classifier) -> None:
    x, y = samples(40)
    one = nn.Sequential(net, nn.Softmax(1), nn.Linear(10, 1, bias=False)).eval().requires_grad_(False)
    assert isinstance(one[2], nn.Linear)
    one[2].weight.copy_((torch.arange(10) >= 5).float()[None] * 2 - 1)
    guarded = guard(one, low_band)
    for labels in ((y >= 5).long(), torch.stack([(y >= 5).long(), (y % 2 == 0).long()], 1)):
        if labels.ndim == 2:
            two = nn.Sequential(net, nn.Softmax(1), nn.Linear(10, 2, bias=False)).eval().requires_grad_(False)
            assert isinstance(two[2], nn.Linear)
            two[2].weight.copy_(torch.stack([torch.arange(10) >= 5, torch.arange(10) % 2 == 0]).float() * 2 - 1)
            guarded = guard(two, low_band)
        summary = uf.audit(guarded, x, labels, EPS, plan=PLAN)
        assert summary.guard is not None
        assert summary.guard.missing == []
        assert summary.verdict != "NOT EVALUABLE", summary.because
        words = "single output" if labels.ndim == 1 else "2 labels"
        assert any(words in text for text in summary.warnings), summary.warnings


def test_several_labels_behind_clusters_of_classes_are_not_judged(net: Classifier, semantic: SemanticPurifier) -> None:
    x, y = samples(20)
    two = nn.Sequential(net, nn.Softmax(1), nn.Linear(10, 2, bias=False)).eval().requires_grad_(False)
    assert isinstance(two[2], nn.Linear)
    two[2].weight.copy_(torch.stack([torch.arange(10) >= 5, torch.arange(10) % 2 == 0]).float() * 2 - 1)
    labels = torch.stack([(y >= 5).long(), (y % 2 == 0).long()], 1)
    summary = uf.audit(guard(two, semantic), x, labels, EPS, plan=PLAN)
    assert summary.guard is not None
    assert "static" in summary.guard.missing
    assert summary.verdict == "NOT EVALUABLE"


def test_outputs_are_read_behind_the_purifier() -> None:
    x, _ = samples(40)
    mean = x.mean((1, 2, 3))
    cut = float(mean.quantile(0.7))
    y = (mean < cut).long()

    def inverted(x: Tensor) -> Tensor:
        return 1 - x

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(100 * (x.mean((1, 2, 3)) - (1 - cut)))

    named = Classifier(guard(Bright().eval(), inverted), name="my one").eval()
    summary = uf.audit(named, x, y, uf.Linf(0.001), plan=PLAN)
    assert summary.clean_accuracy.value == 1
    assert any("taken for a probability" in text for text in summary.warnings)
    assert summary.model == "my one"
    assert summary.guard is not None
    assert summary.guard.missing == []


def test_a_random_guard_is_not_proven(net: Classifier) -> None:
    x, y = samples(4)
    guarded = guard(net, lambda x: x, stochastic=True)
    with pytest.raises(BadInput, match="its purifier is random"):
        proven(guarded, x, y, uf.Linf(1e-4), effort=effort_of("quick"))


def test_the_worse_point_of_a_random_bare_model_has_fresh_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[float]]] = []
    known = {"bare": [0.2, 0.9, 0.5], "bare-points": [0.6, 0.1, 0.5], "bare-worse": [0.3, 0.4, 0.5]}

    def shares(_s: Any, _model: Any, z: Tensor, key: str) -> Tensor:
        asked.append((key, z.flatten().tolist()))
        return torch.tensor(known[key], dtype=torch.float64)

    monkeypatch.setattr(guard_record, "shares", shares)
    own, others = torch.zeros(3, 1), torch.ones(3, 1)
    random: Any = SimpleNamespace(subject=SimpleNamespace(random=True))
    assert guard_record._bare_shares(random, low_band, own, others).tolist() == known["bare-worse"]
    assert asked[-1] == ("bare-worse", [0.0, 1.0, 0.0])
    steady: Any = SimpleNamespace(subject=SimpleNamespace(random=False))
    assert guard_record._bare_shares(steady, low_band, own, others).tolist() == [0.2, 0.1, 0.5]


def test_a_guarded_model_is_recorded_for_proofs(net: Classifier) -> None:
    x, y = samples(6)

    def halved(x: Tensor) -> Tensor:
        return 0.5 * x + 0.25

    made = proven(guard(net, halved), x, y, uf.Linf(1e-4), effort=effort_of("quick"))
    assert bool(made.any())
    assert torch.equal(made, proven(lambda x: net(halved(x)), x, y, uf.Linf(1e-4), effort=effort_of("quick")))
    with pytest.raises(BadInput, match="cannot be bounded"):
        proven(guard(net, low_band), x, y, uf.Linf(1e-4), effort=effort_of("quick"))


def test_a_guard_inside_of_another_model(net: Classifier) -> None:
    inside = nn.Sequential(nn.Identity(), guard(net, low_band)).eval()
    summary = audited(inside, 4)
    refused(summary, *required(EPS, clusters=False, random=False))
    assert any("give guard(model, purify) itself" in text for text in summary.warnings)
    seen = audited(Classifier(guard(net, low_band)).eval(), 4)
    assert seen.guard is not None
    assert seen.guard.missing == []


class Slotted:
    """A model in a place where no search for modules looks."""

    __slots__ = ("parts",)

    def __init__(self, model: nn.Module) -> None:
        self.parts = {"first": [model]}

    def __call__(self, x: Tensor) -> Tensor:
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.parts["first"][0](x)
        return logits


@pytest.mark.parametrize("hidden", [Slotted, lambda model: Slotted(model).logits], ids=["object", "method"])
def test_a_guard_that_no_search_finds_is_seen_when_it_is_called(
    net: Classifier, hidden: Callable[[nn.Module], Any]
) -> None:
    summary = audited(hidden(guard(net, low_band)), 4)
    refused(summary, *required(EPS, clusters=False, random=False))
    assert any("give guard(model, purify) itself" in text for text in summary.warnings)
    assert audited(hidden(net), 4).guard is None


def flipped(x: Tensor) -> Tensor:
    """The image, with a gradient of the wrong sign."""
    return 2 * x.detach() - x


SHAMS: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": lambda x: x.detach().clone(),
    "rounded": lambda x: (x * 255).round() / 255,
    "flipped": flipped,
}


@pytest.mark.parametrize("name", SHAMS)
def test_sham_purifiers(net: Classifier, name: str) -> None:
    summary = audited(guard(net, SHAMS[name]), 10 if name == "detached" else 20)
    record = summary.guard
    assert record is not None
    assert record.bare_robust is not None
    assert record.bare_robust.value is not None
    assert summary.robust_accuracy.value is not None
    assert 0.2 < record.bare_robust.value < 0.95
    assert abs(summary.robust_accuracy.value - record.bare_robust.value) <= 0.05
    # These purifiers leave the image as it is, nearly, so that nothing is rejected.
    for one in record.detectors:
        assert one.right_or_rejected.value is not None
        assert one.right_or_rejected.value <= record.bare_robust.value + 0.05
    if name == "detached":
        assert not record.differentiable
        assert "estimated" in {row.key for row in record.rows}
        assert any("passes no gradient on" in text for text in summary.warnings)
        assert summary.verdict == "OVERSTATED"


def test_an_undefended_network_gains_nothing_that_lasts(net: Classifier, semantic: SemanticPurifier) -> None:
    by_eps = [audited(guard(net, semantic), 8, uf.Linf(eps)).robust_accuracy.value for eps in (0.04, 0.3, 1.0)]
    values = [value for value in by_eps if value is not None]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5
    assert values[1] <= 0.05
    assert values[2] == 0


def test_a_random_purifier_is_submitted_ten_times(net: Classifier) -> None:
    summary = audited(guard(net, resized, stochastic=True), 3)
    record = summary.guard
    assert record is not None
    assert record.missing == []
    assert "eot" in {row.key for row in record.rows}
    assert record.submissions is not None
    assert record.submissions.count == 10
    assert record.submissions.mean.value is not None
    assert record.submissions.worst.value is not None
    assert record.submissions.worst.value <= record.submissions.mean.value
    assert record.worst == summary.robust_accuracy
    through = next(one for one in summary.diagnostics if one.id == CheckId.THROUGH)
    assert "that the gradient did not" in through.detail
    assert any("averaged over 20 draws" in text for text in summary.warnings)


def test_no_robust_accuracy_is_told_before_every_attack_on_the_purifier(net: Classifier) -> None:
    told: list[str] = []

    class Told:
        def beat(self, samples: int) -> None:
            pass

        def __call__(self, stage: str, done: int, total: int) -> None:
            pass

        def answer(self, figure: str, value: float, n: int) -> None:
            told.append(figure)

    with listening(Told()):
        audited(guard(net, flipped), 6)
    assert set(told) == {"clean accuracy", "accuracy before the purifier's other attacks"}


def test_what_other_ways_find_is_a_finding() -> None:
    counted = dict.fromkeys(Way, 100)
    found = ways_agree({Way.STATIC: 2.0, Way.IDENTITY: 2.0}, counted)
    assert (found.fired, found.kind) == (True, Kind.MASKING)
    assert found.detail == "static: points of the bare model: fooled 2 that the gradient did not"
    assert ways_agree({Way.IDENTITY: 2.0, Way.STATIC: 0.0}, counted).kind == Kind.EXTEND
    assert not ways_agree({Way.IDENTITY: 0.0}, counted).fired
    assert not ways_agree({Way.IDENTITY: 2.0}, {Way.IDENTITY: 1000}).fired


def test_what_a_way_finds_is_compared_with_the_samples_that_it_was_tried_on() -> None:
    counted = {Way.IDENTITY: 10_000, Way.BLACK_BOX: 200}
    found = ways_agree({Way.IDENTITY: 25.0, Way.BLACK_BOX: 20.0}, counted)
    assert (found.fired, found.kind) == (True, Kind.MASKING)
    assert found.detail == "black box: Square: fooled 20 that the gradient did not, of the first 200"
    assert not ways_agree({Way.IDENTITY: 0.0, Way.BLACK_BOX: 1.0}, counted).fired
    assert ways_agree({Way.BLACK_BOX: 1.0}, {Way.BLACK_BOX: 200, Way.IDENTITY: 200}).fired


def test_what_other_ways_find_counts() -> None:
    x = torch.rand(4, 2)
    before = replace(Frontier.start(x), fooled=torch.tensor([True, False, False, False]), margins=-torch.ones(4))
    other = replace(
        before,
        points=x + 1,
        fooled=torch.tensor([True, True, False, False]),
        margins=torch.tensor([2.0, 1.0, -0.5, -2.0]),
    )
    both = united(before, other)
    assert both.fooled.tolist() == [True, True, False, False]
    assert torch.equal(both.points, torch.stack([x[0], x[1] + 1, x[2] + 1, x[3]]))


def test_in_l0_there_is_neither_search_nor_low_frequency() -> None:
    assert set(required(uf.L0(3), clusters=False, random=False)) == {"static", "bpda", "bpda-low-pass", "end-to-end"}


class Switching(nn.Module):
    """A purifier that puts itself into training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        return x.clone()


BAD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "shape": (lambda x: x[..., 1:], "must keep the shape"),
    "range": (lambda x: x * 3 - 1, r"images lie in \[0, 1\]"),
    "nan": (lambda x: x / 0 * 0, "NaN or infinite"),
    "writes": (lambda x: x.mul_(0.5), "writes into its input"),
    "mode": (Switching(), "changes the mode"),
    "random": (resized, "stochastic=True"),
}


@pytest.mark.parametrize("name", BAD)
def test_purifiers_that_break_a_rule_are_refused(net: Classifier, name: str) -> None:
    purify, said = BAD[name]
    with pytest.raises(BadInput, match=said):
        audited(guard(net, purify), 4)


def test_a_grey_purifier_on_colour_images(semantic: SemanticPurifier) -> None:
    colour = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 10))).eval()
    x, y = samples(4)
    with pytest.raises(BadInput, match="images of 1 channel, these have 3"):
        uf.audit(guard(colour, semantic), x.expand(-1, 3, -1, -1).contiguous(), y, EPS, plan=PLAN)


def test_constant_images_are_an_answer(net: Classifier, semantic: SemanticPurifier) -> None:
    x = torch.linspace(0.1, 0.9, 2)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    guarded = guard(net, replace(semantic, temperature=0.0))
    summary = uf.audit(guarded, x, guarded(x).argmax(1), EPS, plan=PLAN)
    assert summary.guard is not None
    assert summary.guard.missing == []
