"""The vectorised step rule against the same algorithm written for one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch
from tests.conftest import interior, points, tiny_net
from tests.reference.apgd_slow import Path, apgd_slow, checkpoints
from torch import Tensor

from unfooled.attacks import apgd
from unfooled.core.ascent import Auto, ascend
from unfooled.core.goals import fooling
from unfooled.core.losses import cross_entropy, margin
from unfooled.core.threats import L2, Linf, Threat

Loss = Callable[[Tensor, Tensor], Tensor]
SHAPE = (1, 6, 5)
NET = tiny_net(5, SHAPE, dtype=torch.float64)
EDGES = points(5, SHAPE, dtype=torch.float64)
EDGES = torch.where(EDGES < 0.2, 0.0, EDGES)  # coordinates on the edge of the box, which L2 masks
INNER = interior(5, SHAPE, dtype=torch.float64)

# In L2, rounding decides whether a point of the sphere still stands on the edge: paths along it agree for a while only.
SETTINGS = {"Linf": (Linf(0.15), EDGES, 40), "L2": (L2(0.4), INNER, 40), "L2, at the edge": (L2(0.6), EDGES, 8)}
every_setting = pytest.mark.parametrize(("threat", "x", "steps"), SETTINGS.values(), ids=SETTINGS)


def slow(loss: Loss, x: Tensor, y: Tensor, threat: Threat, start: Tensor, steps: int, compat: str = "") -> list[Path]:
    def value(i: int) -> Callable[[Tensor], Tensor]:
        return lambda z: loss(NET(z[None]), y[i : i + 1])[0]

    eps, from_zero = float(threat.eps), compat == "reference"
    return [apgd_slow(value(i), x[i], eps, threat.norm, start[i], steps, from_zero=from_zero) for i in range(len(x))]


@pytest.mark.parametrize(("loss", "compat"), [(cross_entropy, ""), (margin, ""), (margin, "reference")])
@every_setting
def test_auto_follows_the_slow_twin(threat: Threat, x: Tensor, steps: int, loss: Loss, compat: str) -> None:
    y, start = NET(x).detach().argmax(1), threat.sample(x)
    paths = slow(loss, x, y, threat, start, steps, compat)
    objective, rule = fooling(NET, y, loss, stop=False), Auto(compat=compat)
    best = ascend(objective, x, threat, steps=steps, rule=rule, start=start)
    last = ascend(objective, x, threat, steps=steps, rule=rule, start=start, keep_best=False, batch=2)
    assert any(path.halved for path in paths), "the comparison covers the checkpoints"
    for i, path in enumerate(paths):
        assert abs(float(best.value[i]) - path.losses[path.best]) < 1e-5
        torch.testing.assert_close(best.z[i], path.points[path.best], rtol=0, atol=1e-5)
        torch.testing.assert_close(last.z[i], path.points[-1], rtol=0, atol=1e-5)
    assert best.used.tolist() == [steps] * len(x)


@every_setting
def test_apgd_stops_where_the_slow_twin_is_first_fooled(threat: Threat, x: Tensor, steps: int) -> None:
    y, start = NET(x).detach().argmax(1), threat.sample(x)
    z = apgd(NET, x, y, threat, steps=steps, start=start)
    seen = set()
    for i, path in enumerate(slow(margin, x, y, threat, start, steps)):
        first = next((t for t, value in enumerate(path.losses) if value > 0), path.best)
        seen.add(first)
        torch.testing.assert_close(z[i], path.points[first], rtol=0, atol=1e-5)
    assert len(seen) > 1


def scripted(script: list[float]) -> Callable[[Tensor], Tensor]:
    """Losses that follow a script; the gradient turns round at every step, so that paths show the step size."""
    turn, line = count(), iter(script)
    return lambda z: 1e-9 * (-1) ** next(turn) * z.sum() + next(line)


# Of the first window's 22 steps 17 rise, the first among them; against 0 the first of these losses does not rise.
FIRST = [-50.0 + t for t in range(18)] + [-40.0 - t for t in range(83)]


def sawtooth() -> Iterator[float]:
    """Rise for one window; then rise in each, from 0 to less than the best: condition 2, every other time."""
    for start, stop in zip(checkpoints(100), [*checkpoints(100)[1:], 101], strict=True):
        for t in range(start, stop):
            yield (100.0 if start == 0 else 0.0) + t - start


@pytest.mark.parametrize(
    ("script", "compat", "halved"),
    [
        (FIRST, "", [41, 57, 70, 80, 87, 93, 99]),
        (FIRST, "reference", [22, 41, 57, 70, 80, 87, 93, 99]),
        (list(sawtooth()), "", [41, 70, 87, 99]),
        ([0.0] * 101, "", [22, 41, 57, 70, 80, 87, 93, 99]),
        ([float(t) for t in range(101)], "", []),
    ],
    ids=["first loss", "first loss against 0", "no new best", "flat", "rising"],
)
def test_where_the_step_is_halved(script: list[float], compat: str, halved: list[int]) -> None:
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    path = apgd_slow(scripted(script), x[0], 0.1, Linf.norm, x[0], 100, from_zero=compat == "reference")
    assert path.halved == halved
    visited, value = [], scripted(script)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        visited.append(z.detach().clone())
        return value(z)[None], torch.zeros_like(at) > 0

    ascend(objective, x, Linf(0.1), steps=100, rule=Auto(compat=compat))
    torch.testing.assert_close(torch.cat(visited), torch.stack(path.points), rtol=0, atol=1e-9)


def test_checkpoints_of_a_hundred_steps() -> None:
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
