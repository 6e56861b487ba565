"""The smoothed classifier beside the verdict of an audit, against analytic truths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.report_runs import estimate, summary
from torch import Tensor, nn

from unfooled import L0, L1, L2, BadInput, Linf, audit
from unfooled.attacks.ensembles.cascade import QUICK
from unfooled.certification import Smoothing, ablate, smooth
from unfooled.certification.ablation import ablated_ceiling
from unfooled.core import rng
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Smoothed
from unfooled.report import render
from unfooled.report.evidence import KINDS
from unfooled.report.runs import Run
from unfooled.report.sections.smoothed import smoothed_words
from unfooled.runs.records import Passes

W = torch.tensor([1.0, -2.0, 0.5, 1.5])
PLAN = Plan(effort=QUICK, reasons=None, nearest_n=8)


class Plane(nn.Module):
    """Two classes, divided by w . (z - 1/2) = 0."""

    def __init__(self, w: Tensor = W) -> None:
        super().__init__()
        self.w = w

    def forward(self, z: Tensor) -> Tensor:
        score = (z.flatten(1) - 0.5) @ self.w
        return torch.stack([score, -score], 1)


def samples(n: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    return x, Plane()(x).argmax(1)


def test_a_plane_is_proven_where_its_distance_is_larger_and_nowhere_else(tmp_path: Path) -> None:
    """The smoothed classifier of a plane is the plane itself, so that its radius is at most the distance."""
    x, y = samples()
    found = audit(Plane(), x, y, L2(0.1), plan=PLAN.with_options(certify="smoothing:0.1"), out=tmp_path)
    assert found.smoothed is not None
    distance = ((x - 0.5) @ W).abs() / W.norm()
    exact = float((distance >= 0.1).double().mean())
    proven = found.smoothed.certified_accuracy.value
    assert proven is not None
    assert exact - 0.1 < proven <= exact
    assert found.certified_accuracy is None
    assert found.robust_accuracy.value == pytest.approx(exact)
    assert found.smoothed.passes == Passes(forward=1100.0, backward=0.0)
    radius = load_file(tmp_path / "samples.safetensors")["smoothed_radius"]
    assert bool((radius <= distance + 1e-6).all())
    values = [p.accuracy.value or 0.0 for p in found.smoothed.curve]
    assert values == sorted(values, reverse=True)
    assert max(p.eps for p in found.smoothed.curve) <= found.smoothed.ceiling


def test_chunks_do_not_change_what_is_proven() -> None:
    x, y = samples(12)
    plan = PLAN.with_options(certify=Smoothing(0.1, draws=100))
    once, twice = (audit(Plane(), x, y, L2(0.05), plan=plan, chunk=chunk) for chunk in (12, 5))
    assert once.smoothed is not None
    assert twice.smoothed is not None
    assert once.smoothed.certified_accuracy == twice.smoothed.certified_accuracy


@pytest.mark.parametrize("threat", [L1(0.05), L0(1), L0(1, per="pixel")])
def test_other_norms_and_black_boxes(threat: L1 | L0) -> None:
    """A model that looks at the whole image is proven; it is a function of arrays without gradients."""
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.4
    x[::2] += 0.6
    bright = (x.flatten(1).mean(1) > 0.5).long()

    def model(z: Tensor) -> Tensor:
        score = z.flatten(1).sum(1).detach() - (4.0 if isinstance(threat, L0) else 18.0)
        return torch.stack([-score, score], 1)

    certify = "smoothing:8" if isinstance(threat, L0) else "smoothing:0.2"
    found = audit(model, x, bright, threat, plan=PLAN.with_options(certify=certify))
    assert found.smoothed is not None
    assert found.smoothed.certified_accuracy.value == 1.0


def test_entries_that_are_fixed_get_no_noise() -> None:
    """The class depends on one entry alone; it is certain where that entry cannot change."""
    x = torch.full((2, 3), 0.5)
    x[:, 0] = torch.tensor([0.52, 0.48])
    model, free = Plane(torch.tensor([1.0, 0.0, 0.0])), torch.tensor([False, True, True])
    assert (smooth(model, x, sigma=0.5, draws=200).radius < 0.1).all()
    found = smooth(model, x, sigma=0.5, draws=200, free=free)
    assert torch.allclose(found.radius, torch.full((2,), found.ceiling, dtype=torch.float64))
    assert found.prediction.tolist() == [0, 1]
    kept = ablate(model, x, keep=1, draws=200, free=free.float())
    assert kept.prediction.tolist() == [0, 1]
    assert (kept.probability > 0.9).all()
    with pytest.raises(BadInput, match="between 1 and 1"):
        ablate(model, x, keep=2, draws=200, free=free)


def test_an_answer_that_is_not_finite_is_for_no_class() -> None:
    def model(z: Tensor) -> Tensor:
        score = torch.where(z[:, 0] > 0.55, torch.nan, 1.0)  # about 42 of 100 draws
        return torch.stack([score, torch.zeros_like(score)], 1)

    found = smooth(model, torch.full((1, 2), 0.5), sigma=0.25, draws=2000)
    assert 0.5 < float(found.probability) < 0.65


def test_what_can_prove_nothing_is_refused_before_the_attack() -> None:
    x, y = samples(4)
    for threat, words in (
        (L2(1.0), r"no radius above 0.246, and eps is 1; give smoothing:0.406 or more"),
        (Linf(0.1), "bounds changes in L2, L1 or L0"),
    ):
        with pytest.raises(BadInput, match=words):
            audit(Plane(), x, y, threat, plan=PLAN.with_options(certify="smoothing:0.1"))
    for text in ("smoothing", "smoothing:much", "smoothing:-1"):
        with pytest.raises(BadInput, match=r"smoothing:0\.25"):
            Plan(certify=text)
    with pytest.raises(BadInput, match="whole number of entries"):
        audit(Plane(), x, y, L0(1), plan=PLAN.with_options(certify="smoothing:1.5"))


def test_the_size_that_a_refusal_names_is_enough() -> None:
    Smoothing(0.406).check(L2(1.0), (3, 32, 32))
    with pytest.raises(BadInput, match="give smoothing:") as refused:
        Smoothing(500).check(L0(3), (1, 28, 28))
    size = int(str(refused.value).split("give smoothing:")[1].split()[0])
    Smoothing(size).check(L0(3), (1, 28, 28))
    with pytest.raises(BadInput):
        Smoothing(size + 1).check(L0(3), (1, 28, 28))


def test_the_numbers_of_laplace_noise_are_never_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, -1):  # the smallest and the largest hash
        monkeypatch.setattr(rng, "bits", lambda seed, size, draw=0, word=word: torch.full((len(seed), size), word))
        u = rng.inner_uniform(torch.zeros(1, dtype=torch.int64), (3,))
        assert bool(((u > 0) & (u < 1)).all())
        seen: list[Tensor] = []

        def model(z: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(z)
            return z

        smooth(model, torch.full((1, 3), 0.5), sigma=0.5, norm=1, draws=5)
        assert all(bool(z.isfinite().all()) for z in seen)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_smoothed(kind: torch.dtype) -> None:
    x, y = samples(6)
    net = nn.Sequential(nn.Linear(4, 2)).eval()
    y = net(x).argmax(1)
    found = audit(net.to(kind), x, y, L2(0.01), plan=PLAN.with_options(certify="smoothing:0.1"))
    assert found.smoothed is not None
    assert (found.smoothed.clean_accuracy.value or 0) > 0.5


def test_a_model_that_takes_no_noise_is_refused_before_the_attack() -> None:
    calls = []

    def strict(z: Tensor) -> Tensor:
        calls.append(len(z))
        if z.min() < 0 or z.max() > 1:
            raise ValueError("pixels lie in [0, 1]")
        return Plane()(z)

    x, y = samples(40)
    with pytest.raises(BadInput, match=r"the noise of smoothing:1, which leaves \[0, 1\] .*: pixels lie in"):
        audit(strict, x, y, L2(0.1), plan=PLAN.with_options(certify="smoothing:1"))
    assert len(calls) < 12


def test_draws_that_prove_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="give at least 10 draws"):
        Smoothing(0.25, draws=5).check(L2(0.1), (10,))
    assert Smoothing(0.25, draws=10).ceiling(L2(0.1), (10,)) > 0
    with pytest.raises(BadInput, match="smoothing:64 keeps all of the 64 pixels that may change"):
        Smoothing(64).check(L0(1, per="pixel"), (3, 8, 8))


def test_the_size_of_a_refusal_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    count = []

    def counted(*values: Any) -> float:
        count.append(values)
        return ablated_ceiling(*values)

    monkeypatch.setattr("unfooled.certification.smoothed.ablated_ceiling", counted)
    with pytest.raises(BadInput, match="give smoothing:169 or less"):
        Smoothing(2000).check(L0(200, per="pixel"), (3, 224, 224))
    assert len(count) < 20


def test_large_samples_are_computed_in_small_parts() -> None:
    sizes = []

    def model(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return torch.stack([z[:, 0, 0, 0], z[:, 0, 0, 0]], 1)

    smooth(model, torch.full((1, 1, 1500, 1500), 0.5), sigma=0.1, first=1, draws=9)
    assert max(sizes) == 7


def test_the_curve_of_l0_has_whole_numbers() -> None:
    x = torch.rand(20, 36, generator=torch.Generator().manual_seed(0))
    y = (x.mean(1) > 0.5).long()

    def model(z: Tensor) -> Tensor:
        score = z.sum(1) - 2.0
        return torch.stack([-score, score], 1)

    found = audit(model, x, y, L0(2), plan=PLAN.with_options(certify="smoothing:4", radii=(0.25, 0.5, 0.75, 1.0, 1.75)))
    assert found.smoothed is not None
    assert [p.eps for p in found.smoothed.curve] == [1.0, 2.0, 3.0]
    assert found.smoothed.curve[1].accuracy == found.smoothed.certified_accuracy


def test_where_the_time_is_over_it_is_left_out() -> None:
    x, y = samples(6)
    found = audit(Plane(), x, y, L2(0.1), plan=PLAN.with_options(certify="smoothing:0.1").with_budget(1e-6))
    assert found.smoothed is None
    assert "the smoothed classifier" in found.left_out
    assert not found.trusted


def test_without_labels_clean_accuracy_is_not_stated() -> None:
    x, _ = samples(6)
    found = audit(Plane(), x, L2(0.05), plan=PLAN.with_options(certify="smoothing:0.1"))
    assert found.smoothed is not None
    assert found.smoothed.clean_accuracy.value is None
    assert found.smoothed.certified_accuracy.n == 6
    for text in (smoothed_words(Run(0, "a", "a", found, {})), KINDS["model-card"](found)):
        assert "is right" not in str(text)
        assert "audited" in str(text)


def test_figures_that_no_classifier_has_are_refused() -> None:
    numbers: dict[str, Any] = {"size": 0.1, "first": 10, "draws": 10, "failure": 0.001, "ceiling": 1.0}
    numbers["abstained"] = 0.0
    with pytest.raises(ValueError, match="above clean accuracy"):
        Smoothed(
            **numbers, clean_accuracy=estimate(3, 10), certified_accuracy=estimate(4, 10),
            passes=Passes(forward=1.0, backward=0.0),
        )  # fmt: skip
    record = summary()
    many = Smoothed(
        **numbers, clean_accuracy=estimate(3, 10_000), certified_accuracy=estimate(3, 10_000),
        passes=Passes(forward=1.0, backward=0.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="certified accuracy is of 10000 samples"):
        type(record).model_validate(record.model_dump() | {"smoothed": many.model_dump()})


def test_the_page_says_whose_figures_they_are(tmp_path: Path) -> None:
    x, y = samples(10)
    audit(Plane(), x, y, L2(0.1), plan=replace(PLAN).with_options(certify="smoothing:0.1"), out=tmp_path / "run")
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "This is another classifier than the audited one" in page
    assert "at 1,100 passes a decision" in page
    words = "the majority class under Gaussian noise of standard deviation 0.1, which 100 draws select and 1,000 others"
    assert words in page
    beside = render([tmp_path / "run"] * 2, tmp_path / "two.html").read_text()
    assert "Smoothed classifier, proven (lower bound)" in beside
    audit(Plane(), x, y, L2(0.1), plan=PLAN, out=tmp_path / "other")
    assert "another classifier" not in render([tmp_path / "other"], tmp_path / "other.html").read_text()
