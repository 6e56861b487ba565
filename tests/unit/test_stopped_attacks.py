"""Attacks that are not continued: after memory was seen, where no figure can be believed, at the limit of passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks import extending
from unfooled.evaluation.checks.memory import OriginalModel
from unfooled.evaluation.checks.table import finding

SHAPE = (1, 6, 5)
NET = tiny_net(5, SHAPE)
PLAN = Plan(
    effort=Effort("short", (Ascents(3), Ascents(3))), nearest_budget=100, nearest_n=4, explain_n=1, gallery=0, floor=1,
    reasons=None,
)  # fmt: skip
Net = Callable[[Tensor], Tensor]


def as_before(x: Tensor, seen: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
    """Answer as at the nearest point that was asked before, with the gradient of the network."""
    out = NET(x)
    stored = out.detach().clone()
    for i, row in enumerate(x.detach()):
        near = next((v for z, v in seen.values() if bool((row - z).abs().max() < 0.31)), None)
        if near is not None:
            stored[i] = near
        elif len(seen) < 60:
            seen[len(seen)] = (row.clone(), stored[i].clone())
    return out + (stored - out).detach()


def in_a_closure() -> Net:
    return partial(as_before, seen={})


def in_a_default() -> Net:
    def model(x: Tensor, seen: dict[int, tuple[Tensor, Tensor]] = {}) -> Tensor:  # noqa: B006
        return as_before(x, seen)

    return model


def behind_a_lock() -> Net:
    lock, seen = threading.Lock(), dict[int, tuple[Tensor, Tensor]]()

    def model(x: Tensor) -> Tensor:
        with lock:
            return as_before(x, seen)

    return model


def without_gradient() -> Net:
    seen = dict[int, tuple[Tensor, Tensor]]()
    return lambda x: as_before(x, seen).detach()


def counted() -> Net:
    def model(x: Tensor, calls: list[int] = [0]) -> Tensor:  # noqa: B006
        calls[0] += len(x)
        return NET(x)

    return model


@pytest.mark.parametrize("make", [in_a_closure, in_a_default, behind_a_lock, without_gradient])
def test_memory_is_seen_before_the_effort_of_an_attack(make: Callable[[], Net], tmp_path: Path) -> None:
    x = points(8, SHAPE, seed=4)
    y = NET(x).argmax(1)
    for _ in range(2):  # the second start reads what the first one stored, and its own model was asked nothing
        s = audit(make(), x, y, Linf(0.3), plan=PLAN, out=tmp_path)
        assert (s.verdict, s.trusted, "D20" in s.because) == ("NOT EVALUABLE", False, True)
        assert (s.nearest, [p.stage for p in s.progress]) == ([], ["clean", "0-apgd"])
        assert any("only the first stage of the attack was run" in w for w in s.warnings)


def test_a_model_that_counts_its_calls_is_audited_as_a_whole() -> None:
    x = points(8, SHAPE, seed=4)
    model = counted()
    original = OriginalModel.of(model)
    assert not original.changed()
    model(x)
    assert original.changed()
    s, plain = (audit(f, x, NET(x).argmax(1), Linf(0.1), plan=PLAN) for f in (counted(), NET))
    assert not any(f.id == "D20" and f.fired for f in s.diagnostics)
    assert (s.robust_accuracy, s.verdict, s.curve) == (plain.robust_accuracy, plain.verdict, plain.curve)
    assert s.nearest


def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a check ask for more attacks, whatever it saw."""
    monkeypatch.setattr(
        "unfooled.evaluation.audit.attacked_label.missed_by",
        lambda s, problem, frontier, near, whole: (finding("D12", True, "restarts fooled somebody", "more"), frontier),
    )


def test_a_continued_attack_stops_at_its_limit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    wide(monkeypatch)
    monkeypatch.setattr(extending, "TIMES", 0)
    monkeypatch.setattr(extending, "AT_LEAST", 10)
    x = points(4, SHAPE, seed=4)
    s = audit(NET, x, NET(x).argmax(1), Linf(0.01), plan=PLAN)
    assert (s.verdict, "limit of passes" in s.because) == ("OVERSTATED", True)
    assert any("was stopped after" in w for w in s.warnings)
    assert [p.stage for p in s.progress if p.stage.startswith("3") and not p.check] == ["300-apgd"]
    assert not any(p.stage.startswith("350") for p in s.progress)


def test_an_attack_is_not_continued_where_no_figure_can_be_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    wide(monkeypatch)
    x = points(24, SHAPE, seed=4)
    s = audit(NET, x, (NET(x).argmax(1) + 1) % 5, Linf(0.01), plan=PLAN)
    assert (s.verdict, "D26" in s.because) == ("NOT EVALUABLE", True)
    assert any("were left out, since no figure can be believed" in w and "D26" in w for w in s.warnings)
    assert not any(p.stage.startswith("300") for p in s.progress)
