"""The kernel: what it costs, who leaves when, what it survives, and how long its steps are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
import torch
from tests.conftest import interior, points, source, tiny_net
from torch import Tensor

from unfooled.core.ascent import Auto, Constant, Decaying, Rule, State, ascend
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooling
from unfooled.core.losses import margin
from unfooled.core.shapes import flat
from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat

NET = tiny_net(3, (1, 6, 5), dtype=torch.float64)


@dataclass
class Watched:
    """An objective: a linear function, done above a level; notes who was evaluated, and never sees a done row again."""

    slope: Tensor
    level: Tensor
    seen: list[list[int]] = field(default_factory=list)
    graded: list[bool] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)

    def __call__(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        assert self.gone.isdisjoint(at.tolist())
        self.seen.append(at.tolist())
        self.graded.append(z.requires_grad)
        value = (flat(z) * self.slope).sum(1)
        done = value.detach() > self.level[at]
        self.gone.update(at[done].tolist())
        return value, done

    def count(self, row: int) -> tuple[int, int]:
        """Forwards and backwards of one sample."""
        turns = [g for rows, g in zip(self.seen, self.graded, strict=True) if row in rows]
        return len(turns), sum(turns)


def watched(n: int = 7, *, never: bool = False) -> tuple[Watched, Tensor]:
    x = interior(n, (4,), dtype=torch.float64)
    slope = torch.tensor([1.0, -2, 0.5, 1], dtype=torch.float64)
    value = (x * slope).sum(1)
    # With eps = .1 the value can rise by .45: the samples are done at different ages, some never.
    rise = torch.full((n,), torch.inf, dtype=x.dtype) if never else torch.linspace(0.02, 0.7, n, dtype=x.dtype)
    return Watched(slope, value + rise), x


def no_end(at: Tensor) -> Tensor:
    return torch.zeros_like(at) > 0


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("batch", [None, 3])
def test_n_steps_cost_n_plus_one_forwards_and_n_backwards(steps: int, batch: int | None) -> None:
    objective, x = watched(never=True)
    found = ascend(objective, x, Linf(0.1), steps=steps, batch=batch)
    assert {objective.count(i) for i in range(7)} == {(steps + 1, steps)}
    assert found.used.tolist() == [steps] * 7
    assert not found.done.any()


@pytest.mark.parametrize("batch", [None, 2])
def test_done_rows_leave_at_once(batch: int | None) -> None:
    objective, x = watched()
    found = ascend(objective, x, Linf(0.1), steps=20, rule=Constant(0.1), batch=batch)
    assert 0 < found.done.sum() < 7
    assert found.used.unique().numel() > 3
    assert set(found.done.nonzero()[:, 0].tolist()) == objective.gone
    assert [objective.count(i)[1] for i in range(7)] == found.used.tolist()
    values = (found.z * objective.slope).sum(1)
    assert ((values > objective.level) == found.done).all()
    torch.testing.assert_close(values, found.value)


def test_where_most_are_done_a_look_saves_the_gradient() -> None:
    objective, x = watched(40)
    objective.level[:] = (x * objective.slope).sum(
        1
    ) + 0.08  # done after two steps of .1 eps |slope|_1 = .045, all alike
    found = ascend(objective, x, Linf(0.1), steps=20, rule=Constant(0.1), batch=10)
    assert found.done.all()
    assert found.used[:10].tolist() == [3] * 10
    assert found.used[10:].tolist() == [2] * 30


@pytest.mark.parametrize("rule", [Constant(0.1), Decaying(), Auto()], ids=["Constant", "Decaying", "Auto"])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_the_queue_refills_and_changes_nothing(rule: Rule, batch: int) -> None:
    objective, x = watched()
    eps = torch.linspace(0.05, 0.12, 7, dtype=x.dtype)
    whole = ascend(objective, x, Linf(eps), steps=12, rule=rule, start=Linf(eps).sample(x))
    parts, _ = watched()
    found = ascend(parts, x, Linf(eps), steps=12, rule=rule, start=Linf(eps).sample(x), batch=batch)
    for name in ("z", "value", "done", "dead"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-12)
    assert 0 < found.done.sum() < 7
    assert max(len(rows) for rows in parts.seen) <= batch
    if batch == 3 and isinstance(rule, Constant):  # rows that start late share a batch with rows that are under way
        assert any(max(r) >= 3 and min(r) < 3 for r in parts.seen if r)


def test_the_best_point_is_kept_or_the_last() -> None:
    x = torch.full((2, 3), 0.5, dtype=torch.float64)
    script = [0.0, 3.0, 1.0, 2.0]
    for keep_best in (True, False):
        visited: list[Tensor] = []

        def objective(z: Tensor, at: Tensor, visited: list[Tensor] = visited) -> tuple[Tensor, Tensor]:
            visited.append(z.detach().clone())
            return 1e-6 * flat(z).sum(1) + script[len(visited) - 1], no_end(at)

        found = ascend(objective, x, Linf(0.3), steps=3, rule=Constant(0.2), keep_best=keep_best)
        index = 1 if keep_best else 3
        assert torch.equal(found.z, visited[index])
        torch.testing.assert_close(found.value, torch.full((2,), script[index], dtype=x.dtype), rtol=0, atol=1e-4)


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_point_that_is_done_is_returned_even_if_another_was_better(keep_best: bool) -> None:
    x = interior(2, (3,), dtype=torch.float64)
    script, visited = [5.0, 1.0], []

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        visited.append(z.detach().clone())
        return 1e-6 * flat(z).sum(1) + script[len(visited) - 1], torch.full_like(at, len(visited) > 1) > 0

    found = ascend(objective, x, Linf(0.1), steps=5, keep_best=keep_best)
    assert found.done.all()
    assert torch.equal(found.z, visited[1])
    torch.testing.assert_close(found.value, torch.ones(2, dtype=x.dtype), rtol=0, atol=1e-4)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3)])
def test_a_zero_gradient_gives_way_to_a_random_direction(threat: Threat) -> None:
    x = points(5, (2, 3), dtype=torch.float64)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        alive = (at % 2).to(z.dtype)
        return flat(z).sum(1) * alive, no_end(at)

    found = ascend(objective, x, threat, steps=4, keep_best=False)
    assert found.dead.tolist() == [4, 0, 4, 0, 4]
    assert found.used.tolist() == [4] * 5
    assert ((found.z != x).flatten(1).any(1)).all()
    assert (threat.size(found.z - x) <= torch.as_tensor(threat.eps) + 1e-12).all()
    again = ascend(objective, x, threat, steps=4, keep_best=False, batch=2)
    torch.testing.assert_close(again.z, found.z)
    other = ascend(objective, x, threat, steps=4, keep_best=False, generator=source(5))
    assert (other.z != found.z).flatten(1).any(1).tolist() == [True, False, True, False, True]


def test_gradients_that_are_not_finite_are_replaced_and_counted() -> None:
    x = interior(3, (4,), dtype=torch.float64)
    x[0] = 0.5

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return (z - 0.5).square().sum(1).sqrt(), no_end(at)  # at .5 the gradient is 0 / 0

    found = ascend(objective, x, Linf(0.1), steps=6)
    assert found.dead.tolist() == [1, 0, 0]
    assert torch.isfinite(found.z).all()
    assert (found.value > 0.1).all()


@pytest.mark.parametrize("rule", [Constant(0.1), Decaying(), Auto()], ids=["Constant", "Decaying", "Auto"])
def test_values_that_are_nan_are_survived(rule: Rule) -> None:
    x = interior(4, (3,), dtype=torch.float64)
    turn = count()

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        value = flat(z).sum(1)
        return torch.where(torch.tensor(next(turn) % 3 == 0), torch.nan, value), no_end(at)

    found = ascend(objective, x, Linf(0.1), steps=7, rule=rule)
    assert torch.isfinite(found.z).all()
    torch.testing.assert_close(found.value, flat(found.z).sum(1), msg="a NaN at the start must not stay the best")
    assert (found.value > flat(x).sum(1)).all()


def test_constant_and_decaying_step_lengths() -> None:
    x = torch.full((2, 1), 0.5, dtype=torch.float64)
    eps = torch.tensor([0.1, 0.2], dtype=x.dtype)

    def lengths(rule: Rule, turns: int) -> Tensor:
        visited: list[Tensor] = []
        turn = count()

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            visited.append(z.detach().clone())
            return z[:, 0] * (-1) ** next(turn), no_end(at)  # to and fro, so that the ball is never met

        ascend(objective, x, Linf(eps), steps=turns, rule=rule)
        return (torch.cat(visited, 1).diff(dim=1).abs() / eps[:, None]).round(decimals=12)

    assert torch.equal(lengths(Constant(0.3), 4), torch.full((2, 4), 0.3, dtype=x.dtype))
    expected = [0.1 + (0.5 - 0.1) * (1 + math.cos(math.pi * t / 5)) / 2 for t in range(5)]
    torch.testing.assert_close(lengths(Decaying(0.5, 0.1), 5), torch.tensor([expected] * 2, dtype=x.dtype))


@dataclass
class Spy:
    """A rule that notes at which age the step size of its only row changes."""

    rule: Rule
    changed: list[int] = field(default_factory=list)

    def begin(self, z: Tensor, steps: int) -> State:
        return self.rule.begin(z, steps)

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        before = state["size"]
        z = self.rule.move(state, g, x, threat, steps)
        if not torch.equal(state["size"], before):
            assert torch.equal(state["size"], before / 2)
            self.changed.append(int(state["t"][0]))
        return z


def test_auto_halves_a_flat_run_at_every_checkpoint() -> None:
    spy = Spy(Auto())
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    ascend(lambda z, at: (0 * flat(z).sum(1), no_end(at)), x, Linf(0.1), steps=100, rule=spy)
    assert spy.changed == [22, 41, 57, 70, 80, 87, 93, 99]


def test_auto_needs_few_steps_to_an_optimum_that_constant_steps_miss() -> None:
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    top = torch.tensor([[0.53, 0.46]], dtype=x.dtype)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return -(z - top).square().sum(1), no_end(at)

    auto, constant = (-ascend(objective, x, Linf(0.1), steps=50, rule=r).value for r in (Auto(), Constant(0.4)))
    assert auto < 1e-5
    assert auto < constant / 10


def test_auto_has_no_step_for_l0() -> None:
    x = interior(2, (3,))
    with pytest.raises(ValueError, match=r"the threat is l0:2; use Decaying"):
        ascend(lambda z, at: (flat(z).sum(1), no_end(at)), x, L0(2), steps=1, rule=Auto())


def test_auto_in_l1_spreads_its_first_step_over_a_fifth_of_the_entries() -> None:
    x = torch.full((1, 20), 0.5, dtype=torch.float64)
    slope = torch.linspace(1, 2, 20, dtype=x.dtype)
    visited: list[Tensor] = []

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        visited.append(z.detach().clone())
        return (z * slope).sum(1), no_end(at)

    ascend(objective, x, L1(0.4), steps=50, rule=Auto())
    expected = torch.zeros(20, dtype=x.dtype)
    expected[-4:] = 0.1
    torch.testing.assert_close(visited[1][0] - x[0], expected)
    # Two steps make a window: of 4 changed entries 4 / 1.5 move on, and so on to the one that counts most.
    torch.testing.assert_close(visited[-1][0] - x[0], torch.cat([torch.zeros(19), torch.tensor([0.4])]).to(x.dtype))


@pytest.mark.parametrize("threat", [L2(0.5, box=Box(0, 1)), L1(0.5)], ids=["L2", "L1"])
def test_coordinates_that_push_out_of_the_box_take_no_length(threat: Threat) -> None:
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    slope = torch.tensor([9.0, -8.0, 1.0, 0.0], dtype=x.dtype)
    found = ascend(lambda z, at: ((z * slope).sum(1), no_end(at)), x, threat, steps=1, rule=Constant(1.0))
    torch.testing.assert_close(found.z, torch.tensor([[1.0, 0.0, 1.0, 0.5]], dtype=x.dtype))


def test_a_network_loses_more_the_longer_it_is_attacked() -> None:
    x = points(6, (1, 6, 5), dtype=torch.float64)
    objective = fooling(NET, NET(x).argmax(1), margin, stop=False)
    values = [ascend(objective, x, Linf(0.1), steps=n, rule=Auto()).value for n in (0, 2, 10, 40)]
    assert all((b >= a - 1e-9).all() for a, b in pairwise(values))
    assert values[-1].mean() > values[0].mean() + 0.5


def test_bad_calls_are_named() -> None:
    x = interior(2, (3,))
    with pytest.raises(ValueError, match="steps is -2"):
        ascend(lambda z, at: (flat(z).sum(1), no_end(at)), x, Linf(0.1), steps=-2)
    with pytest.raises(BadInput, match="carries no gradient"):
        ascend(lambda z, at: (flat(z.detach()).sum(1), no_end(at)), x, Linf(0.1), steps=1)
    with pytest.raises(BadInput, match=r"start has shape \(1, 3\), x has \(2, 3\)"):
        ascend(lambda z, at: (flat(z).sum(1), no_end(at)), x, Linf(0.1), steps=1, start=x[:1])


def test_nothing_is_touched() -> None:
    x = interior(3, (4,)).requires_grad_()
    start = x.detach().clone().requires_grad_()
    kept = x.detach().clone()
    with torch.no_grad():  # the kernel switches gradients on where it needs them
        found = ascend(lambda z, at: (flat(z).sum(1), no_end(at)), x, Linf(0.1), steps=3, start=start)
    assert torch.equal(x.detach(), kept)
    assert torch.equal(start.detach(), kept)
    assert (x.grad, start.grad) == (None, None)
    assert not found.z.requires_grad
    assert (found.z > kept).all()
