"""Bounds and certificates: truths of linear networks, order of the methods, the exact answer, soundness, storage."""

from __future__ import annotations

import builtins
import copy
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import L0, L1, L2, BadInput, Classifier, Linf, Threat
from unfooled.attacks.apgd import apgd
from unfooled.certification import Certificate, Effort, bounds, certify, trace
from unfooled.certification.alpha import Steps
from unfooled.certification.branch import Limits
from unfooled.certification.crown import interval_bounds, lower_bounds, margin_rows
from unfooled.certification.milp import exact_distance, exact_margins
from unfooled.certification.proof import Level, covers
from unfooled.certification.region import Region
from unfooled.core.threats import Box
from unfooled.models.nets.cifar_resnet import CifarResnet
from unfooled.runs.chunks import Run

LADDER = [
    Effort("intervals", Level.INTERVALS),
    Effort("crown-ibp", Level.CROWN_IBP),
    Effort("crown", Level.CROWN),
    Effort("alpha", Level.CROWN, Steps(10)),
    Effort("inner", Level.CROWN, Steps(10), inner=Steps(5)),
    Effort("branching", Level.CROWN, Steps(10), Limits(5.0, later=Steps(6)), inner=Steps(5)),
]
KINDS: dict[float, type[Linf] | type[L2] | type[L1]] = {math.inf: Linf, 2.0: L2, 1.0: L1}
THREATS: list[Threat] = [Linf(0.05), L2(0.1), L1(0.2)]


def net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a small network with random weights, and the shape of its samples."""
    torch.manual_seed(0)
    shape: tuple[int, ...] = (2, 3)
    if name == "fully connected":
        model: nn.Module = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )
    elif name == "leaky":
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.LeakyReLU(0.1), nn.Linear(8, 3))
    elif name == "smooth":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3), nn.LogSoftmax(1)
        )
    elif name == "convolution":
        shape = (1, 6, 6)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2, 1),
            nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip
        model[1].running_mean.normal_()  # type: ignore[operator]
        model[1].running_var.uniform_(0.5, 2)  # type: ignore[operator]
    elif name == "residual":
        shape = (3, 4, 4)
        model = CifarResnet((3, 4, 4), classes=3, depth=8, width=2)
    else:
        shape = (2, 9)
        model = nn.Sequential(
            nn.Conv1d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(3), nn.MaxPool1d(2, padding=1), nn.Flatten(),
            nn.Linear(6, 3),
        )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return Classifier(model.eval(), mean=0.4, std=0.7), shape


NETS = ["fully connected", "leaky", "smooth", "convolution", "residual", "one dimension"]


def samples(name: str, n: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    model, shape = net(name)
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def margin_at(model: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model(z)
    own = logits.gather(1, y[:, None])[:, 0]
    return own - logits.scatter(1, y[:, None], -math.inf).amax(1)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_linear_network_is_bounded_exactly(threat: Threat) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 2)
    model = nn.Sequential(nn.Flatten(), layer)
    x = 0.5 + 0.05 * torch.randn(5, 3, 4)  # far from the box
    y = model(x).argmax(1)
    dual = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[threat.norm]
    row = (layer.weight[0] - layer.weight[1]).norm(p=dual)
    truth = margin_at(model, x, y) - threat.eps * row
    for effort in LADDER[:3]:
        assert torch.allclose(bounds(model, x, y, threat, effort=effort), truth, atol=1e-5)


def test_the_box_tightens_the_bound_exactly() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    x, y = torch.tensor([[0.9, 0.05, 0.6]]), torch.tensor([0])
    got = {str(t): float(bounds(model, x, 1 - y, t, effort="quick")) for t in (Linf(0.3), L1(0.5), L2(5.0))}
    # The margin is -(a . z): the first coordinate rises by .1 at most, the last one falls by .6 at most.
    start = -(0.9 + 0.05 - 1.2)
    assert got["linf:0.3"] == pytest.approx(start - (0.1 + 0.3 + 0.6), abs=1e-6)
    assert got["l1:0.5"] == pytest.approx(start - 1.0, abs=1e-6)
    assert got["l2:5"] == pytest.approx(start - (0.1 + 0.95 + 1.2), abs=1e-6)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_a_linear_function_is_minimised_over_ball_and_box(norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    kind = KINDS[norm]
    x, a = torch.rand(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    threat = kind(0.4)
    region = Region.of(x, threat, torch.float64)
    low, point = region.minimum(a.double()), region.minimiser(a.double())
    assert (threat.size(point - x) <= 0.4 + 1e-6).all()
    assert ((point >= -1e-6) & (point <= 1 + 1e-6)).all()
    attained = (a * point).sum(1)
    assert (low <= attained + 1e-6).all()
    assert torch.allclose(low, attained, atol=2e-4)  # the bound is attained


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_better_methods_give_better_bounds_below_all_points(name: str, threat: Threat) -> None:
    model, x, y = samples(name, 4)
    ladder = LADDER[:3] if name in ("residual", "convolution") else LADDER
    found = [bounds(model, x, y, threat, effort=effort) for effort in ladder]
    for worse, better in pairwise(found):
        assert (better >= worse - 1e-5).all()
    for draw in range(60):
        z = threat.sample(x, draw) if draw % 2 else threat.extreme(x, draw)
        assert (margin_at(model, z, y) >= found[-1] - 1e-4).all()


@pytest.mark.parametrize("name", ["fully connected", "leaky"])
@pytest.mark.parametrize("threat", [Linf(0.08), L1(0.3)], ids=str)
def test_branch_and_bound_decides_as_the_exact_answer_does(name: str, threat: Threat) -> None:
    model, x, y = samples(name, 12)
    exact = exact_margins(model, x, y, threat)
    proof = certify(model, x, y, threat, effort=LADDER[-1])
    truth = torch.tensor([e.value for e in exact])
    assert bool((truth > 1e-3).any()) and bool((truth < -1e-3).any())
    decided = truth.abs() > 1e-3
    assert torch.equal(proof.certified[decided], (truth > 0)[decided])
    assert (proof.lower <= truth + 1e-6).all()
    for k, answer in enumerate(exact):
        assert answer.point is not None
        z = answer.point[None].float()
        assert float(threat.size(z - x[k : k + 1])) <= float(threat.eps) + 1e-5
        assert float(margin_at(model, z, y[k : k + 1])) == pytest.approx(answer.value, abs=1e-3)
    broken = [k for k in range(len(x)) if truth[k] < -1e-3]
    assert set(broken) <= set(proof.examples)
    for k, z in proof.examples.items():
        assert float(margin_at(model, z[None], y[k : k + 1])) < 0
        assert float(threat.size(z[None] - x[k : k + 1])) <= float(threat.eps) + 1e-5


@pytest.mark.parametrize("norm", [math.inf, 1.0])
def test_the_exact_distance_separates_proofs_from_attacks(norm: float) -> None:
    model, x, y = samples("fully connected", 5)
    kind = KINDS[norm]
    for k, answer in enumerate(exact_distance(model, x, y, norm=norm)):
        one, label = x[k : k + 1], y[k : k + 1]
        if not math.isfinite(answer.value):
            continue
        assert answer.point is not None
        assert float(kind(1.0).size(answer.point[None].float() - one)) == pytest.approx(answer.value, abs=1e-4)
        assert bool(certify(model, one, label, kind(answer.value * 0.97), effort=LADDER[-1]).certified)
        assert not bool(certify(model, one, label, kind(answer.value * 1.03), effort=LADDER[-1]).certified)


def test_an_answer_for_which_time_was_short_is_not_called_exact() -> None:
    model, x, y = samples("fully connected", 2)
    assert all(answer.exact for answer in exact_margins(model, x, y, Linf(0.02)))
    for answers in (exact_margins(model, x, y, Linf(0.3), seconds=1e-4), exact_distance(model, x, y, seconds=1e-4)):
        assert not any(answer.exact for answer in answers)


def test_samples_in_half_precision_and_other_boxes_are_told_apart() -> None:
    model, x, y = samples("fully connected", 4)
    proof = certify(model, x.half(), y, Linf(0.01))
    assert torch.equal(proof.check(model, x.half(), y), proof.certified)
    with pytest.raises(BadInput, match=r"not for linf:0\.01 with another box"):
        proof.check(model, x.half(), y, Linf(0.01, box=Box(-1, 2)))


def test_nothing_inside_a_certified_ball_changes_the_label() -> None:
    model, x, y = samples("fully connected", 60)
    threat = Linf(0.04)
    sure = certify(model, x, y, threat).certified
    assert 10 < int(sure.sum()) < 60
    x, y = x[sure], y[sure]
    for draw in range(300):
        z = threat.corner(x, draw) if draw % 2 else threat.sample(x, draw)
        assert (margin_at(model, z, y) > 0).all()
    assert (margin_at(model, apgd(model, x, y, threat, steps=30), y) > 0).all()


def test_scaled_logits_are_certified_alike() -> None:
    model, x, y = samples("fully connected", 20)
    scaled = nn.Sequential(model, Times(37.0)).eval()
    for effort in (LADDER[2], LADDER[4]):
        a, b = (certify(m, x, y, Linf(0.05), effort=effort) for m in (model, scaled))
        assert torch.equal(a.certified, b.certified)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor


def test_no_change_certifies_all_that_is_right_and_equal_classes_none() -> None:
    model, x, y = samples("convolution")
    wrong = (y + 1) % 3
    assert bool(certify(model, x, y, Linf(0.0), effort="quick").certified.all())
    assert not bool(certify(model, x, wrong, Linf(0.0), effort="quick").certified.any())
    layer = nn.Linear(6, 2)
    layer.weight.data[1] = layer.weight.data[0]
    layer.bias.data[1] = layer.bias.data[0]
    twice, x = nn.Sequential(nn.Flatten(), layer), torch.rand(4, 2, 3)
    assert not bool(certify(twice, x, torch.zeros(4, dtype=torch.int64), Linf(0.0)).certified.any())


def test_fixed_entries_stay() -> None:
    model, x, y = samples("fully connected")
    free = torch.zeros(2, 3, dtype=torch.bool)
    for kind in (Linf, L2, L1):
        fixed = bounds(model, x, y, kind(5.0, free=free), effort="quick")
        assert torch.allclose(fixed, margin_at(model, x, y), atol=1e-5)


def test_a_radius_for_each_sample() -> None:
    model, x, y = samples("fully connected", 3)
    each = bounds(model, x, y, Linf(torch.tensor([0.0, 0.02, 0.04])), effort="quick")
    for k, eps in enumerate((0.0, 0.02, 0.04)):
        assert float(each[k]) == pytest.approx(float(bounds(model, x, y, Linf(eps), effort="quick")[k]), abs=1e-6)


def test_an_infinite_radius_is_the_box() -> None:
    model, x, y = samples("fully connected", 3)
    for kind in (Linf, L2, L1):
        whole = bounds(model, x, y, kind(math.inf), effort="quick")
        assert torch.allclose(whole, bounds(model, x, y, Linf(1.0), effort="quick"), atol=1e-4)


@pytest.mark.parametrize("effort", [LADDER[2], LADDER[4], LADDER[5]], ids=lambda e: e.name)
def test_a_certificate_is_stored_and_checked_again(tmp_path: Path, effort: Effort) -> None:
    model, x, y = samples("fully connected", 12)
    proof = certify(model, x, y, Linf(0.06), effort=effort)
    assert 0 < int(proof.certified.sum()) < 12
    proof.save(tmp_path / "a.safetensors")
    again = Certificate.load(tmp_path / "a.safetensors")
    assert torch.equal(again.certified, proof.certified)
    assert torch.equal(again.check(model, x, y), proof.certified)
    assert torch.equal(again.check(model, x, y, Linf(0.06)), proof.certified)
    if effort.limits is not None:
        assert bool((again.level == Level.DOMAINS).any())


class Killed(Exception):
    """A stop in the middle of the work."""


@pytest.mark.parametrize("effort", [LADDER[2], LADDER[-1]], ids=lambda e: e.name)
def test_a_certification_that_was_killed_goes_on_to_the_same_certificate(tmp_path: Path, effort: Effort) -> None:
    model, x, y = samples("fully connected", 10)
    y = torch.where(torch.arange(10) == 6, (y + 1) % 3, y)
    threat = Linf(torch.linspace(0.01, 0.1, 10))
    whole = certify(model, x, y, threat, effort=effort)
    reports: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        reports.append(done)
        if done == 6 and reports.count(6) == 1:
            raise Killed

    def run() -> Run:
        return Run(tmp_path / "parts", {"what": "test"}, chunk=3, progress=progress)

    with pytest.raises(Killed):
        certify(model, x, y, threat, effort=effort, run=run())
    stored = sorted(path.name for path in (tmp_path / "parts/chunks/certify").iterdir() if path.suffix)
    assert stored == ["0-3.safetensors", "3-6.safetensors"]
    (tmp_path / "parts/chunks/certify/0-3.safetensors").write_bytes(b"damaged")
    again = run()
    proof = certify(model, x, y, threat, effort=effort, run=again)
    assert reports == [0, 3, 6, 0, 3, 6, 9, 10]
    assert len(again.folder.damaged) == 1
    assert torch.equal(proof.certified, whole.certified)
    assert torch.equal(proof.level, whole.level)
    assert torch.allclose(proof.lower, whole.lower, atol=1e-5)
    assert proof.examples.keys() == whole.examples.keys()
    assert bool(proof.check(model, x, y)[proof.certified].all())
    assert torch.equal(proof.domains.owner.unique(), whole.domains.owner.unique())
    proof.save(tmp_path / "proof.safetensors")
    assert torch.equal(Certificate.load(tmp_path / "proof.safetensors").check(model, x, y), whole.check(model, x, y))


def test_a_certificate_of_something_else_is_refused(tmp_path: Path) -> None:
    model, x, y = samples("fully connected", 4)
    proof = certify(model, x, y, Linf(0.03))
    other, _, _ = samples("leaky", 4)
    with pytest.raises(BadInput, match="belongs to another model"):
        proof.check(other, x, y)
    with pytest.raises(BadInput, match="belongs to other samples"):
        proof.check(model, x.flip(0), y)
    with pytest.raises(BadInput, match=r"for the threat linf:0.03, not for linf:0.04"):
        proof.check(model, x, y, Linf(0.04))
    file = tmp_path / "a.safetensors"
    proof.save(file)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match="was changed"):
        Certificate.load(file)
    with pytest.raises(BadInput, match="there is no certificate"):
        Certificate.load(tmp_path / "b.safetensors")


def test_a_claim_without_a_proof_does_not_pass_the_check() -> None:
    model, x, y = samples("fully connected", 12)
    threat = Linf(0.06)
    proof = certify(model, x, y, threat, effort=LADDER[-1])
    by_parts = (proof.level == Level.DOMAINS).nonzero()[:, 0]
    assert len(by_parts)
    whole = proof.domains
    fewer = proof.domains.take(torch.arange(1, len(whole.owner)))
    object.__setattr__(proof, "domains", fewer)
    assert not bool(proof.check(model, x, y)[whole.owner[0]])
    object.__setattr__(proof, "domains", whole)
    everything = torch.full_like(proof.level, int(Level.CROWN))
    object.__setattr__(proof, "level", everything)
    object.__setattr__(proof, "certified", torch.ones_like(proof.certified))
    truth = torch.tensor([e.value > 0 for e in exact_margins(model, x, y, threat)])
    assert not bool((proof.check(model, x, y) & ~truth).any())


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([{}], True),
        ([], False),
        ([{3: 1}, {3: -1}], True),
        ([{3: 1}], False),
        ([{3: 1, 5: 1}, {3: 1, 5: -1}, {3: -1}], True),
        ([{3: 1, 5: 1}, {3: -1, 5: -1}, {3: -1, 5: 1}], False),
        ([{5: 1}, {3: 1, 5: -1}, {3: -1, 5: -1}], True),
    ],
)
def test_parts_cover_everything_or_not(parts: list[dict[int, int]], whole: bool) -> None:
    assert covers(parts) is whole


class Softmaxed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).softmax(1) @ torch.ones(6, 3)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] + torch.rand(len(x), 3)


class ByNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x.detach().numpy().reshape(len(x), -1)[:, :3] * 2)


class Counting(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1)[:, :3] * self.calls


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)).flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)), "gelu"),
        (Softmaxed(), r"softmax \(before the last layer\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 3)), r"softmax \(before"),
        (Noisy(), "it is random|rand"),
        (ByNumpy(), "do not give its answers|cannot be recorded|do not depend on its input"),
        (Counting(), "do not give its answers: it is random, depends on earlier calls"),
        (Mixing(), "mean"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Dropout()), "training mode"),
    ],
)
def test_a_model_that_cannot_be_bounded_is_named(model: nn.Module, words: str) -> None:
    model.train(words == "training mode")
    x, y = torch.rand(4, 2, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(BadInput, match=words):
        bounds(model, x, y, Linf(0.1))


def test_other_bad_input_is_refused() -> None:
    model, x, y = samples("fully connected", 3)
    with pytest.raises(BadInput, match=r"l0:2 has no bounds by relaxation; give linf, l2 or l1"):
        bounds(model, x, y, L0(2))
    with pytest.raises(BadInput, match=r"no effort 'quikc'; .* did you mean quick"):
        bounds(model, x, y, Linf(0.1), effort="quikc")
    with pytest.raises(BadInput, match="a label is 3, and the model has 3 classes"):
        bounds(model, x, y * 0 + 3, Linf(0.1))
    with pytest.raises(BadInput, match="tiny networks"):
        exact_margins(samples("smooth", 2)[0], x, y, Linf(0.1))


def test_a_margin_within_rounding_is_not_certified() -> None:
    """The model may change the order of such logits by rounding alone, and an attack would find it."""
    layer = nn.Linear(2, 2, bias=False)
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    for gap, certified in ((1e-7, False), (1e-4, True)):
        layer.weight.data = torch.tensor([[1.0 + 2 * gap, 1.0], [1.0, 1.0]])
        assert bool(certify(layer, x, y, Linf(0.0)).certified) is certified


def test_bounds_that_overflow_leave_a_sample_open() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(3, 2, 3)
    y = model(x).argmax(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e30)
    proof = certify(model, x, y, Linf(0.5), effort="quick")
    assert not bool(proof.certified.any())


def test_the_weights_are_read_anew() -> None:
    model, x, _ = samples("fully connected", 2)
    graph = trace(model, x)
    before = graph.network().logits(x)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    after = graph.network().logits(x)
    assert torch.allclose(after, model(x), atol=1e-5)
    assert not torch.allclose(before, after)


def test_a_record_of_operations_does_not_import_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's compiler takes seconds to import, more than most proofs."""
    model, x, _ = samples("fully connected", 2)
    asked: list[str] = []
    original = builtins.__import__

    def noted(name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", noted)
    trace(model, x)
    assert not [name for name in asked if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :3]
        return x if float(x.sum()) > 0 else -x


class Unbranching(nn.Module):
    """A model that changes its tensors in place, and decides by a value of its own."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) - 0.5
        z.mul_(2.0).relu_()
        return self.layer(z) if float(self.scale) > 1 else z[:, :3]


def test_a_decision_by_values_of_the_input_is_refused_and_one_by_constants_is_not() -> None:
    x = torch.rand(3, 1, 4, 4)
    with pytest.raises(BadInput, match="operations of Branching cannot be recorded"):
        trace(Branching(), x)
    model = Unbranching().eval()
    assert torch.allclose(trace(model, x).network().logits(x), model(x), atol=1e-6)


LAYER = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


def _by_shape(x: Tensor) -> Tensor:
    return -LAYER(x) if len((x == 0.25).nonzero()) > 30 else LAYER(x)


def _by_selection(x: Tensor) -> Tensor:
    return -LAYER(x) if x[x > 2].numel() else LAYER(x)


def _by_array(x: Tensor) -> Tensor:
    return -LAYER(x) if x.detach().numpy().max() > 2 else LAYER(x)


def _by_text(x: Tensor) -> Tensor:
    return -LAYER(x) if "nan" in repr(x) else LAYER(x)


def _by_number_of_samples(x: Tensor) -> Tensor:
    return -LAYER(x) if len(x) == 1 else LAYER(x)


def _whole_numbers(x: Tensor) -> Tensor:
    return (LAYER(x) * 1e4).to(torch.int32).float()


def _steps(x: Tensor) -> Tensor:
    return LAYER((x * 65535).int() / 65535)


def _negative_pool(x: Tensor) -> Tensor:
    return LAYER(nn.functional.avg_pool2d(x, 1, divisor_override=-1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_by_shape, "depend on values of the input"),
        (_by_selection, "depend on values of the input"),
        (_by_array, "outside of PyTorch"),
        (_by_text, "outside of PyTorch"),
        (_by_number_of_samples, "on the number of samples"),
        (_whole_numbers, "to int32"),
        (_steps, "to int32"),
        (_negative_pool, "divisor below 0"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), LAYER).eval(), "statistics of the batch"),
    ],
)
def test_what_no_bound_covers_is_refused_although_the_answers_agree(
    model: Callable[[Tensor], Tensor], words: str
) -> None:
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), pytest.raises(BadInput, match=words):
        bounds(model, x, model(x).argmax(1), Linf(0.001))


class Rounding(nn.Module):
    """A model whose float32 sum rounds its input to whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) * 1000
        return ((z + 2.0**23) - 2.0**23) @ torch.tensor([[1.0, 0.0], [0.0, 1.0]])


class Flat(nn.Module):
    """A model whose probabilities are equal in float32, although its logits are not."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) * 1e-8).softmax(1)


def test_what_rounding_in_float32_may_change_is_not_certified() -> None:
    x = torch.tensor([[0.3012, 0.3008]])
    y = torch.tensor([0])
    for model in (Rounding(), Flat()):
        at = torch.tensor([[0.30118, 0.30082]])
        assert not bool(model(at)[0, 0] > model(at)[0, 1])
        proof = certify(model, x, y, Linf(2e-5))
        assert not bool(proof.certified)
        assert float(proof.recomputed(model, x, y)) == -math.inf
        claim = replace(proof, certified=~proof.certified, level=torch.ones_like(proof.level))
        assert float(claim.recomputed(model, x, y)) > 0
        assert not bool(claim.check(model, x, y))  # the check asks for the same margin


class Overflowing(nn.Module):
    """A model that overflows at large inputs; it may be random elsewhere."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1)
        return z * 1e20 * 1e-20 + self.noise * torch.rand(1, 2)


def test_a_sample_that_overflows_hides_no_others() -> None:
    x = torch.tensor([[1e30, 0.0], [0.7, 0.2], [0.9, 0.4]])
    threat = Linf(0.01, box=Box(0.0, 2e30))
    assert not bool(Overflowing(0.0)(x)[0].isfinite().all())
    with pytest.raises(BadInput, match="do not give its answers"):
        certify(Overflowing(0.1), x, torch.zeros(3, dtype=torch.int64), threat)
    proof = certify(Overflowing(0.0), x, torch.zeros(3, dtype=torch.int64), threat)
    assert proof.certified.tolist() == [False, True, True]


def test_an_overflow_of_the_model_alone_is_refused() -> None:
    x = torch.tensor([[0.7, 0.2], [0.9, 0.4]])

    def model(z: Tensor) -> Tensor:
        return z * (math.inf if len(z) == 2 else 1.0)

    with pytest.raises(BadInput, match="do not give its answers"):
        trace(model, x)


class Storing(nn.Module):
    """A model that keeps a table for each number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.linspace(0, 1, 16).expand(len(x), 16)
        return self.layer(x.flatten(1) + self.tables[len(x)][:1])


def test_what_a_model_stores_in_a_recorded_call_does_not_stay_in_it() -> None:
    model, x = Storing().eval(), torch.rand(2, 1, 4, 4)
    graph = trace(model, x)
    assert not any(torch._C._functorch.is_functionaltensor(table) for table in model.tables.values())
    copy.deepcopy(model)
    with torch.no_grad():
        model.layer.weight.mul_(2)
        assert torch.allclose(graph.network().logits(x), model(x), atol=1e-6)


def test_results_that_are_not_needed_any_more_leave_the_memory() -> None:
    model, x, _ = samples("residual", 2)
    network = trace(model, x).network()
    last = len(network.nodes) - 1
    assert torch.allclose(network.result_at(x, last), model(x), atol=1e-5)
    assert torch.equal(network.result_at(x, 0), x)


@pytest.mark.parametrize("name", ["fully connected", "leaky", "smooth"])
def test_rows_of_one_sample_share_their_lines(name: str) -> None:
    model, x, y = samples(name, 3)
    network = trace(model, x).network()
    bounds = interval_bounds(network, Region.of(x, Linf(0.05), torch.float32))
    rows = margin_rows(network, y)
    together = lower_bounds(rows, bounds)
    alone = torch.cat([lower_bounds(rows.take(torch.tensor([k])), bounds) for k in range(len(rows.owner))])
    assert torch.allclose(together, alone, atol=1e-5)


class Parted(nn.Module):
    """W (3 p - q) + b of the two halves p, q of a layer, which are taken apart and put together in one of many ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        p, q = {
            "split": lambda: h.split(4, 1),
            "sizes": lambda: h.split([4, 4], -1),
            "chunk": lambda: h.chunk(2, dim=1),
            "unbind": lambda: h.reshape(-1, 2, 4).unbind(1),
            "unbind-last": lambda: h.reshape(-1, 2, 4).transpose(1, 2).unbind(dim=-1),
            "stack": lambda: torch.stack([h[:, 4:], h[:, :4]], 2).flip(2).unbind(2),
            "samples": lambda: torch.stack([h[:, :4], h[:, 4:]]).unbind(0),
            "by-sample": lambda: (torch.stack(h.unbind())[:, :4], h[:, 4:]),
        }[self.way]()
        return self.last(p) - nn.functional.linear(q, self.last.weight) + nn.functional.linear(2 * p, self.last.weight)


@pytest.mark.parametrize("way", ["split", "sizes", "chunk", "unbind", "unbind-last", "stack"])
def test_parts_of_a_layer_have_the_bounds_of_the_layer_that_they_make(way: str) -> None:
    torch.manual_seed(0)
    model, x = Parted(way).eval(), torch.rand(7, 6)
    whole = nn.Sequential(model.first, nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        w = model.last.weight
        last = whole[2]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(torch.cat([3 * w, -w], 1))
        last.bias.copy_(model.last.bias)
        y = whole(x).argmax(1)
        torch.testing.assert_close(model(x), whole(x))
    exact = exact_margins(whole, x, y, Linf(0.05))
    for effort in ("intervals", "normal"):
        found, expected = (bounds(net, x, y, Linf(0.05), effort=effort) for net in (model, whole))
        if effort == "normal":
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert all(a <= b.value + 1e-5 for a, b in zip(found.tolist(), exact, strict=True))
    assert torch.equal(*(certify(net, x, y, Linf(0.05)).certified for net in (model, whole)))


@pytest.mark.parametrize(("way", "words"), [("samples", "joins samples"), ("by-sample", "parts samples")])
def test_parts_that_mix_samples_are_refused(way: str, words: str) -> None:
    x = torch.rand(3, 6)
    with pytest.raises(BadInput, match=words):
        bounds(Parted(way).eval(), x, torch.zeros(3, dtype=torch.int64), Linf(0.05))


def test_a_network_with_max_pooling_is_cut_like_any_other() -> None:
    """Branch and bound on the whole network, whose entries have three dimensions."""
    torch.manual_seed(12)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    x = torch.rand(12, 1, 6, 6)
    y = model(x).argmax(1)
    proof = certify(model, x, y, Linf(0.06))
    assert int((proof.level == Level.DOMAINS).sum()) > 0
    assert torch.equal(proof.check(model, x, y, Linf(0.06)), proof.certified)
    fooled = model(apgd(model, x, y, Linf(0.06), steps=20)).argmax(1) != y
    assert not bool((fooled & proof.certified).any())


BRIEF = """
import sys
import torch
import unfooled as uf
from unfooled.certification.certify import proven
from unfooled.models import SmallCnn

x, net = torch.rand(2, 3, 8, 8), SmallCnn((3, 8, 8), 4).eval()
proven(net, x, net(x).argmax(1), uf.Linf(0.1), effort="quick")
print(*(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""


def test_a_brief_proof_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", BRIEF], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
