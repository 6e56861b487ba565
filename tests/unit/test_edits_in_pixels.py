"""Edits carried to inputs: linear encoders where the answer is known, the box, the curve, measures and controls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.threats import L2, Linf, Threat
from unfooled.counterfactuals.measures import attack_success, measure, random_attributes, targeted_pgd
from unfooled.counterfactuals.pixels import Realized, match_edit, realize_edit
from unfooled.features.inversion import invert_features

D, ATTRIBUTES, K = (1, 4, 4), 4, 3
GAP = torch.tensor([1.0, 2.0, 0.5, 1.0])


@dataclass(frozen=True)
class Asked:
    """What is read of an edit."""

    delta: Tensor
    target: Tensor
    feasible: Tensor


@dataclass(frozen=True)
class Head:
    """What is read of a head."""

    weight: Tensor
    bias: Tensor


class Linear(nn.Module):
    """e = A x with orthogonal rows of length 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Parameter(2 * torch.linalg.qr(torch.randn(16, ATTRIBUTES))[0].T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.rows.T


def setting(n: int = 6) -> tuple[Linear, Any, Tensor, Any]:
    """A linear encoder, a head, grey points, and the nearest edits after which the target wins by .6."""
    encode = Linear().eval()
    torch.manual_seed(1)
    head = Head(torch.randn(2, ATTRIBUTES).double(), torch.zeros(2).double())
    x = 0.5 + 0.1 * (torch.rand(n, *D) - 0.5)
    logits = encode(x).detach().double() @ head.weight.T
    target = logits.argmin(1)
    apart = head.weight[target] - head.weight[1 - target]
    need = (logits.amax(1) - logits.amin(1) + 0.6) / apart.square().sum(1)
    return encode, head, x, Asked(need[:, None] * apart, target, torch.ones(n, dtype=torch.bool))


def carried(encode: Any, head: Any, x: Tensor, edit: Any, threat: Threat, **options: Any) -> Realized:
    settings = {"invert": invert_features, "gap": GAP, "steps": 150, **options}
    return realize_edit(encode, head, x, edit, threat, **settings)


def test_a_linear_encoder_reaches_the_edit_where_it_wins_by_the_margin() -> None:
    encode, head, x, edit = setting()
    found = carried(encode, head, x, edit, L2(3.0), margin=0.5)
    assert found.valid.all()
    assert torch.allclose(found.delta, edit.delta.float(), atol=0.02)
    assert torch.allclose(encode(found.x) - encode(x), found.delta, atol=1e-5)
    assert float(found.residual.max()) < 0.05
    assert (found.kappa == 1).all()
    assert [c.kappa for c in found.curve] == [1, 5, 30]
    assert all((c.steps > 0).all() for c in found.curve)
    assert all(p.grad is None and p.requires_grad for p in encode.parameters())


def test_the_label_counts_where_the_edit_alone_is_not_enough() -> None:
    encode, head, x, edit = setting()
    short = replace(edit, delta=0.5 * edit.delta)
    assert not carried(encode, head, x, short, L2(3.0), kappa=(0.0,)).valid.any()
    found = carried(encode, head, x, short, L2(3.0), kappa=(30.0, 0.0))
    assert found.valid.all()
    assert (found.kappa == 30).all()
    mixed = carried(encode, head, x, replace(edit, delta=torch.cat([edit.delta[:3], short.delta[3:]])), L2(3.0),
                    kappa=(0.0, 30.0))  # fmt: skip
    assert mixed.kappa.tolist() == [0, 0, 0, 30, 30, 30]
    assert torch.equal(mixed.x[:3], mixed.curve[0].x[:3]) and torch.equal(mixed.x[3:], mixed.curve[1].x[3:])


@pytest.mark.parametrize("threat", [L2(0.3), Linf(0.05), L2(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 9.0]))])
def test_box_and_ball_hold_and_what_cannot_be_done_is_an_answer(threat: Threat) -> None:
    encode, head, _, edit = setting()
    x = torch.rand(6, *D).round()  # every coordinate on an edge of the box
    far = replace(edit, delta=20 * edit.delta)
    for moved in (
        carried(encode, head, x, far, threat, steps=20).x,
        match_edit(encode, head, x, far, threat, gap=GAP, steps=5).x,
        targeted_pgd(encode, head, x, far, threat, steps=5),
    ):
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1
        assert (threat.size(moved - x) <= torch.as_tensor(threat.eps) + 1e-5).all()
        assert not moved.requires_grad


def test_infeasible_edits_stay_where_they_are() -> None:
    encode, head, x, edit = setting()
    feasible = torch.tensor([True, False] * 3)
    part = replace(edit, feasible=feasible)
    found, whole = (carried(encode, head, x, e, L2(3.0), steps=40) for e in (part, edit))
    assert torch.equal(found.x[~feasible], x[~feasible])
    assert not found.valid[~feasible].any() and found.valid[feasible].all()
    assert torch.allclose(found.x[feasible], whole.x[feasible], atol=1e-6)
    none = carried(encode, head, x, replace(edit, feasible=feasible & ~feasible), L2(3.0), steps=3)
    assert torch.equal(none.x, x) and not none.valid.any()


def test_results_do_not_depend_on_the_batch() -> None:
    encode, head, x, edit = setting()
    one, all_at_once = (carried(encode, head, x, edit, L2(3.0), steps=20, batch=b) for b in (1, 6))
    assert torch.allclose(one.x, all_at_once.x, atol=1e-5)
    assert torch.equal(one.valid, all_at_once.valid)


def test_levenberg_marquardt_matches_a_linear_encoder_and_a_bent_one() -> None:
    encode, head, x, edit = setting()
    found = match_edit(encode, head, x, edit, L2(3.0), gap=GAP, trust=0.5, damping=1e-6)
    assert torch.allclose(found.delta, edit.delta.float(), atol=1e-3)
    assert found.valid.all() and found.kappa == 0
    double = match_edit(encode, head, x, edit, L2(3.0), gap=GAP, trust=0.5, damping=1e-6, asked=1.5)
    assert torch.allclose(double.delta, 1.5 * edit.delta.float(), atol=1e-3)

    def bent(z: Tensor) -> Tensor:
        return torch.tanh(encode(z))

    away = replace(edit, delta=torch.full((6, ATTRIBUTES), 0.1).double())
    found = match_edit(bent, head, x, away, L2(3.0), gap=GAP, steps=60)
    still = torch.linalg.vector_norm(away.delta / GAP, dim=1)
    assert (found.residual < 0.1 * still).all()


def test_measures_by_hand() -> None:
    encode, head, x, edit = setting(2)
    delta = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, -1.0]]).double()
    edit = replace(edit, delta=delta)
    reached = torch.tensor([[0.3, 0.5, 0.0, 0.0], [0.25, 0.0, 0.1, -1.0]])
    x_new = x + (reached @ encode.rows.detach() / 4).reshape(x.shape)
    m = measure(encode, head, x, x_new, edit, gap=GAP, deviations=(0.5, torch.tensor([1.0, 2, 3, 4])))
    # In units of the switches: asked (0, .5, 0, 0), (.5, 0, 0, -1); reached (.3, .25, 0, 0), (.25, 0, .2, -1).
    assert m.achieved.tolist() == pytest.approx([0.5, (0.125 + 1) / 1.25], rel=1e-4)
    assert m.off_target.tolist() == pytest.approx([0.3, 0.2], rel=1e-4)
    assert m.side_effect.tolist() == pytest.approx([0.3 / 0.25, 0.2 / 1.0625**0.5], rel=1e-4)
    assert m.selectivity.tolist() == pytest.approx([0.0625 / (0.0625 + 0.09), 1.0625 / (1.0625 + 0.04)], rel=1e-4)
    size = (x_new - x).flatten(1).norm(dim=1)
    assert torch.allclose(m.distance, size) and torch.allclose(m.noise, size / delta.norm(dim=1).float())
    assert float(m.noise_standard[0]) == pytest.approx(float(size[0]) / 0.5 / 0.5, rel=1e-5)
    assert m.noise_standard[1].item() == pytest.approx(size[1].item() / 0.5 / (0.25 + 1 / 16) ** 0.5, rel=1e-5)
    assert m.psnr[0].item() == pytest.approx(-10 * (x_new[0] - x[0]).square().mean().log10().item(), rel=1e-4)
    assert m.ssim.shape == (2,) and (m.ssim < 1).all()
    assert torch.equal(m.valid, (encode(x_new).double() @ head.weight.T).argmax(1) == edit.target)
    same = measure(encode, head, x, x, edit, gap=GAP)
    assert not same.valid.any() and torch.isnan(same.noise_standard).all()


def test_a_flip_that_rounding_undoes_is_seen() -> None:
    encode, head, x, edit = setting(1)
    x = (x * 255).round() / 255
    logits = encode(x).detach().double() @ head.weight.T
    apart = head.weight[edit.target] - head.weight[1 - edit.target]
    need = (logits.amax(1) - logits.amin(1)) / apart.square().sum(1)
    step = ((1 + 1e-4) * need[:, None] * apart).float() @ encode.rows.detach() / 4
    m = measure(encode, head, x, x + step.reshape(x.shape), edit, gap=GAP)
    assert m.valid.all()
    tiny = Head(head.weight, torch.zeros(2).double())
    bias = (encode(x).detach().double() @ head.weight.T)[0]
    tiny = Head(1e-3 * head.weight, 1e-3 * torch.stack([bias[1], bias[0]]))  # almost a tie at x
    moved = x + 1e-3 * step.reshape(x.shape)
    assert torch.equal((moved * 255).round(), (x * 255).round())
    rounded = measure(encode, tiny, x, moved, edit, gap=GAP)  # type: ignore[arg-type]
    at_x = measure(encode, tiny, x, x, edit, gap=GAP)  # type: ignore[arg-type]
    assert torch.equal(rounded.valid_8bit, at_x.valid)


def test_controls() -> None:
    encode, head, x, edit = setting()
    edit = replace(edit, delta=torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 6).double())
    source = torch.Generator().manual_seed(0)
    other = random_attributes(edit, GAP, generator=source)
    asked = other.delta / GAP
    assert (asked[:, 1] == 0).all()
    assert torch.allclose(asked.norm(dim=1), torch.full((6,), 0.5).double())
    assert len({int(f) for f in asked.abs().argmax(1)}) > 1
    dense = random_attributes(replace(edit, delta=torch.ones(6, 4).double()), GAP, generator=source)
    assert torch.allclose((dense.delta / GAP).norm(dim=1), (1 / GAP).norm().double().expand(6))
    for stop in (True, False):
        moved = targeted_pgd(encode, head, x, edit, L2(3.0), steps=20, stop=stop)
        assert ((encode(moved).double() @ head.weight.T).argmax(1) == edit.target).all()
    assert str(attack_success(torch.tensor([True, False]), L2(2.0), 200)) == "ASR(l2:2, 200 steps) = 0.50, n = 2"
    with pytest.raises(BadInput, match="no samples"):
        attack_success(torch.zeros(0, dtype=torch.bool), L2(2.0), 200)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gap": torch.ones(3)}, r"gap has shape \(3,\), and the edits have 4 attributes"),
        ({"gap": torch.tensor([1.0, -1.0, 1.0, float("nan")])}, "attribute 1 is -1.*2 attributes are constant"),
        ({"kappa": ()}, "at least one weight"),
        ({"kappa": (-1.0,)}, "none below 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(change: dict[str, Any], sentence: str) -> None:
    encode, head, x, edit = setting()
    with pytest.raises(BadInput, match=sentence):
        carried(encode, head, x, edit, L2(1.0), **change)


def test_edits_and_inputs_pair_up() -> None:
    encode, head, x, edit = setting()
    with pytest.raises(BadInput, match="6 edits for 5 inputs"):
        carried(encode, head, x[:5], edit, L2(1.0))
    with pytest.raises(BadInput, match="they must agree"):
        measure(encode, head, x, x[:5], edit, gap=GAP)
    with pytest.raises(BadInput, match="outside"):
        carried(encode, head, 3 * x, edit, L2(1.0))
    many = replace(edit, delta=torch.zeros(6, 70).double())
    with pytest.raises(BadInput, match="70 attributes, more than the 64"):
        match_edit(encode, head, x, many, L2(1.0), gap=torch.ones(70))
