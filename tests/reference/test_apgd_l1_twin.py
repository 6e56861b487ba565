"""The vectorised step rule in L1 against the same algorithm written for one sample at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import interior, points, tiny_net
from tests.reference.apgd_l1_slow import Path, apgd_l1_phases, apgd_l1_slow, project
from torch import Tensor

from unfooled.attacks import apgd
from unfooled.core.ascent import Auto, ascend
from unfooled.core.goals import fooling
from unfooled.core.losses import cross_entropy, margin
from unfooled.core.threats import L1, project_l1_box

SHAPE = (1, 6, 5)
NET = tiny_net(5, SHAPE, dtype=torch.float64)
EDGES = points(5, SHAPE, dtype=torch.float64)
EDGES = torch.where(EDGES < 0.2, 0.0, EDGES)
INNER = interior(5, SHAPE, dtype=torch.float64)


def value(i: int, x: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    y = NET(x).detach().argmax(1)
    return lambda z: loss(NET(z[None]), y[i : i + 1])[0]


@pytest.mark.parametrize("share", [0.2, None])
@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize(("x", "steps"), [(INNER, 60), (EDGES, 30)], ids=["inner", "edges"])
def test_auto_follows_the_slow_twin(
    x: Tensor, steps: int, loss: Callable[[Tensor, Tensor], Tensor], share: float | None
) -> None:
    threat = L1(torch.linspace(0.4, 1.2, len(x), dtype=x.dtype))
    y, start = NET(x).detach().argmax(1), threat.sample(x)
    paths: list[Path] = [
        apgd_l1_slow(value(i, x, loss), x[i], float(threat.eps[i]), start[i], steps, share)  # type: ignore[index]
        for i in range(len(x))
    ]
    objective, visited = fooling(NET, y, loss, stop=False), []

    def noted(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        visited.append(z.detach().clone())
        return objective(z, at)

    best = ascend(noted, x, threat, steps=steps, rule=Auto(share=share), start=start)
    assert any(path.returned for path in paths), "the comparison covers both kinds of checkpoints"
    assert any(path.reduced for path in paths)
    # Whether an entry is exactly that of x rests on the last bit: paths agree to the end only as a rule.
    for i, path in enumerate(paths):
        for t in range(10):
            torch.testing.assert_close(visited[t][i], path.points[t], rtol=0, atol=1e-9)
    top = torch.tensor([path.losses[path.best] for path in paths], dtype=x.dtype)
    assert int(((best.value - top).abs() < 1e-9).sum()) >= len(x) - 1
    assert bool((threat.size(best.z - x) <= torch.as_tensor(threat.eps) + 1e-9).all())
    parts = ascend(objective, x, threat, steps=steps, rule=Auto(share=share), start=start, batch=2)
    torch.testing.assert_close(parts.value, best.value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eps", [0.2, 0.6, 0.8])
def test_apgd_runs_the_phases(eps: float) -> None:
    x, steps = INNER, 20
    y = NET(x).detach().argmax(1)
    start = L1(3 * eps).sample(x)
    z = apgd(NET, x, y, L1(eps), steps=steps)
    same = 0
    for i in range(len(x)):
        point, fools = apgd_l1_phases(value(i, x, margin), x[i], eps, start[i], steps)
        same += bool((z[i] - point).abs().max() < 1e-6) and fools == bool(NET(z[i : i + 1]).argmax(1) != y[i])
    assert same >= len(x) - 1


def test_the_slow_projection_is_the_fast_one() -> None:
    far = EDGES + 0.8 * torch.randn(EDGES.shape, generator=torch.Generator().manual_seed(1), dtype=EDGES.dtype)
    fast = project_l1_box(far, EDGES, 1.3)
    torch.testing.assert_close(torch.stack([project(f, e, 1.3) for f, e in zip(far, EDGES, strict=True)]), fast)
