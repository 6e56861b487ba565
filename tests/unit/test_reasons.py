"""The audit's attack on explanations: what is attacked, what is kept, what moved first, and where it is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import points, tiny_net
from tests.unit.test_audit import PLAN, SHAPE, subject
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.threats import L0, Linf
from unfooled.distances import abs_sum, chance, corrected, lens_recall, top_k_intersection
from unfooled.evaluation.audit import audit
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.explanations import survival as reasons
from unfooled.evaluation.explanations.nearer import below_the_label
from unfooled.evaluation.explanations.records import How, Reasons
from unfooled.evaluation.explanations.survival import (
    Approach,
    AttackedExplanations,
    Derivative,
    approach_to,
    moved_first,
    shrunk,
)
from unfooled.explanations import grad_cam, saliency
from unfooled.runs.records import read_record

EPS = 0.1


def reasons_of(summary: Summary) -> Reasons:
    assert summary.reasons is not None
    return summary.reasons


def test_the_record_is_what_the_pictures_say(tmp_path: Path) -> None:
    model, x, y = subject()
    summary = audit(model, x, y, Linf(EPS), plan=PLAN, out=tmp_path)
    assert read_record(tmp_path / "summary.json", Summary) == summary
    found, kept = reasons_of(summary), load_file(tmp_path / "reasons.safetensors")
    assert (found.n, found.k, found.w, found.pixels, found.by) == (4, 3, 1, 30, "gradients")
    assert found.random_points == 3 * 3 + 1 + 1
    assert found.passes.forward > found.random_points
    assert [(p.share, p.how) for p in found.curve[:4]] == [
        (0.25, "attack"), (0.25, "best of N"), (0.25, "random"), (0.5, "attack")
    ]  # fmt: skip
    assert [p.eps for p in found.curve if p.how == "random"] == pytest.approx([0.025, 0.05, 0.1])
    for p in found.curve:
        assert p.attacked + p.failed + p.undefined + p.skipped == 4
        assert p.lens.n == p.attacked
    rows = [e.index for e in found.gallery]
    assert rows
    assert not {0, 7, 14} & set(rows)  # wrong when clean
    assert torch.equal(kept["x"], x[rows])
    assert bool(((kept["x_adv"] - kept["x"]).abs() <= EPS + 1e-6).all())
    with torch.no_grad():
        assert torch.equal(model(kept["x_adv"]).argmax(1), y[rows])
    for name, at in (("before", kept["x"]), ("after", kept["x_adv"])):
        assert torch.allclose(kept[name], saliency(model, at, y[rows]), atol=1e-5)
    a, b = abs_sum(kept["before"]), abs_sum(kept["after"])
    raw, level = lens_recall(a, b, k=3, w=1), chance(a, k=3, w=1)
    assert [e.lens_raw for e in found.gallery] == pytest.approx(raw.tolist())
    assert [e.chance for e in found.gallery] == pytest.approx(level.tolist())
    assert [e.lens for e in found.gallery] == pytest.approx(corrected(raw, level).tolist(), abs=1e-5)
    assert [e.top_k for e in found.gallery] == pytest.approx(top_k_intersection(a, b, k=3).tolist())
    assert [e.lens for e in found.gallery] == sorted(e.lens for e in found.gallery if e.lens is not None)


def test_nothing_depends_on_the_chunk_or_the_batch() -> None:
    model, x, y = subject()
    one = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN))
    two = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN, chunk=3, batch=2))
    assert [(p.lens, p.top_k, p.attacked) for p in one.curve] == [(p.lens, p.top_k, p.attacked) for p in two.curve]
    assert (one.reason_first, one.label_first) == (two.reason_first, two.label_first)


def test_an_interrupted_attack_goes_on_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    model, x, y = subject()
    whole = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN, chunk=2))

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "reasons-samples 1-4" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(model, x, y, Linf(EPS), plan=PLAN, out=tmp_path, chunk=2, progress=stop)
    told: list[tuple[str, int, int]] = []
    again = audit(model, x, y, Linf(EPS), plan=PLAN, out=tmp_path, chunk=2, progress=lambda *a: told.append(a))
    assert next(t for t in told if t[0] == "reasons-samples 1-4") == ("reasons-samples 1-4", 2, 4)
    assert reasons_of(again) == whole
    for change, name in (
        ({"reasons_n": 5}, ": n was 4, now it is 5"),
        ({"reasons": None}, " was .*'saliency'.*, now it is None"),
        ({"reasons_steps": 4}, ": steps was 3, now it is 4"),
    ):
        with pytest.raises(BadInput, match=f"options: explanation_attack{name}"):
            audit(model, x, y, Linf(EPS), plan=PLAN.with_options(**change), out=tmp_path)


def test_which_moved_first() -> None:
    inf = float("inf")
    moved = torch.tensor([0.1, 0.2, inf, inf, 0.4, 0.1], dtype=torch.float64)
    label = torch.tensor([0.2, 0.2, 0.3, inf, inf, 0.05], dtype=torch.float64)
    first, lost, neither = moved_first(moved, label, torch.full((6,), 0.3, dtype=torch.float64))
    assert first.tolist() == [True, False, False, False, False, False]
    assert lost.tolist() == [False, True, True, False, False, True]
    assert neither.tolist() == [False, False, False, True, True, False]


def test_only_samples_with_a_searched_distance_are_compared() -> None:
    model, x, y = subject()
    few, most = (reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN.with_options(nearest_n=n))) for n in (3, len(x)))
    assert few.reason_first is not None and most.reason_first is not None and few.label_first is not None
    assert few.n == most.n
    assert (few.unsearched, few.reason_first.n) == (few.n - 2, 2)
    assert (most.unsearched, most.reason_first.n) == (0, most.n)
    assert [(p.lens, p.attacked) for p in few.curve] == [(p.lens, p.attacked) for p in most.curve]


def test_an_explanation_can_move_before_a_label_that_is_near() -> None:
    eps = torch.full((4,), 0.4, dtype=torch.float64)
    nearest = torch.tensor([0.05, 0.3, 0.1, 0.02])
    close, below = below_the_label(torch.tensor([0, 1, 2, 9]), nearest, eps, Linf(0.1), float("inf"))
    assert close.tolist() == [0, 2]  # the others lie farther, or were not searched
    assert below.tolist() == pytest.approx([0.0495, 0.099])
    counts = below_the_label(torch.arange(3), torch.tensor([1.0, 2.0, 3.0]), 4 * torch.ones(3), L0(2), 0.0)
    assert [part.tolist() for part in counts] == [[1], [1.0]]  # nothing is changed by no entry
    model, x, y = subject()
    wide = reasons_of(audit(model, x, y, Linf(0.9), plan=PLAN.with_options(reasons_radii=(0.5, 1.0), nearest_n=len(x))))
    assert wide.reason_first is not None and wide.label_first is not None
    assert wide.reason_first.value is not None
    assert wide.reason_first.value > 0  # though every label is lost within the smallest radius
    assert any(one.moved_at is not None and one.moved_at < 0.5 for one in wide.gallery)


def rows(attack: list[float], lucky: list[float], status: list[int], level: list[float]) -> dict[str, Tensor]:
    return {
        "chance": torch.tensor(level),
        **{f"{how}: lens": torch.tensor(v) for how, v in (("attack", attack), ("best of N", lucky))},
        **{f"{how}: status": torch.tensor(status) for how in How},
    }


def test_a_reason_is_moved_by_attack_or_chance_and_not_by_a_failure() -> None:
    nan = float("nan")
    found = AttackedExplanations(
        Approach(Derivative.GRADIENTS, pixels=9), torch.arange(5), (0.5, 1.0),
        (rows([0.9, 0.9, nan, nan, 1.0], [0.9, 0.5, nan, nan, 1.0], [0, 0, 1, 2, 0], [0.2, 0.2, 0.2, nan, 1.0]),
         rows([0.4, 0.9, nan, nan, 1.0], [0.9, 0.9, nan, nan, 1.0], [0, 0, 1, 2, 0], [0.2, 0.2, 0.2, nan, 1.0])),
    )  # fmt: skip
    assert found.moved_at().tolist() == [1.0, 0.5, float("inf"), float("inf"), float("inf")]
    assert found.comparable().tolist() == [True, True, True, False, False]  # constant map; windows that cover the map


class Tied(torch.autograd.Function):
    """Squares, and has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


def test_how_an_explanation_can_be_attacked() -> None:
    model, x, y = subject(4)
    assert approach_to(model, x, y, saliency) == Approach(Derivative.GRADIENTS, pixels=30)
    net = tiny_net(3, SHAPE)
    assert approach_to(lambda z: net(Tied.apply(z)), x, y, saliency).by == "differences"
    assert approach_to(model, x, y, lambda model, x, y: x * 2).by == "differences"
    rows = nn.Sequential(nn.Flatten(), nn.Linear(30, 3))
    assert "layer" in approach_to(rows, x, y, grad_cam).reason
    flat = nn.Linear(1, 2)
    assert "single value" in approach_to(flat, torch.rand(2, 1), torch.zeros(2, dtype=torch.int64), saliency).reason


def test_explanations_without_derivatives_are_attacked_by_differences() -> None:
    model, x, y = subject(6)

    def blind(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return saliency(model, x, y)

    found = reasons_of(
        audit(model, x, y, Linf(EPS), plan=PLAN.with_options(reasons=blind, reasons_n=2, reasons_steps=2))
    )
    assert found.by == "differences"
    assert found.random_points == 2 * 9 + 1 + 1


def test_none_and_what_makes_no_sense_is_left_out() -> None:
    model, x, y = subject(8)
    assert audit(model, x, y, Linf(EPS), plan=PLAN.with_options(reasons=None)).reasons is None
    found = reasons_of(audit(lambda z: model(z).detach(), x, y, Linf(EPS), plan=PLAN))
    assert "no gradients" in found.skipped
    assert not found.curve
    wrong = reasons_of(audit(model, x, (model(x).argmax(1) + 1) % 3, Linf(EPS), plan=PLAN))
    assert "right when clean" in wrong.skipped


def test_rows_without_height_and_counts_are_attacked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = points(8, (12,), seed=3)
    found = reasons_of(audit(model, x, model(x).argmax(1), Linf(EPS), plan=PLAN, out=tmp_path))
    assert (found.pixels, found.k) == (12, 1)
    assert load_file(tmp_path / "reasons.safetensors")["before"].shape[1:] == (12,)
    assert [float(shrunk(L0(5), share).eps) for share in (0.25, 0.5, 1.0)] == [2, 3, 5]


def test_constant_maps_are_undefined_and_large_ones_ranked_by_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = subject(6)
    monkeypatch.setattr(reasons, "MAX_PIXELS_FOR_TAU", 1)
    found = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN))
    assert found.curve[0].kendall.value is not None

    def constant(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(x)

    empty = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN.with_options(reasons=constant, reasons_steps=1)))
    assert all(p.undefined == 4 and p.lens.value is None for p in empty.curve)
    assert empty.reason_first is not None
    assert empty.reason_first.n == 0
    assert empty.gallery == []


def test_plans_that_cannot_be_are_refused() -> None:
    model, x, y = subject(4)
    for change, said in (({"reasons_n": 0}, "reasons_n is 0"), ({"reasons_radii": (0.0,)}, "reasons_radii")):
        with pytest.raises(BadInput, match=said):
            audit(model, x, y, Linf(EPS), plan=PLAN.with_options(**change))
