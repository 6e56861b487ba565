"""FAB for a batch against the published loop for one sample, which judges every step with a forward of its own."""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled.attacks.fab import fab, to_plane
from unfooled.core.ascent.nearest import NORMS
from unfooled.evaluation.verify import verify

SHAPE, STEPS = (1, 6, 5), 25
NET = tiny_net(5, SHAPE, dtype=torch.float64)
norms = pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])


def subject(n: int) -> tuple[Tensor, Tensor, Tensor]:
    x = points(n, SHAPE, dtype=torch.float64, seed=4)
    with torch.no_grad():
        order = NET(x).argsort(dim=1, descending=True)
    return x, order[:, 0], order[:, 1]


def slow(x: Tensor, label: int, goal: int, norm: float) -> Tensor:
    """The nearest point met towards one class, x where there is none."""
    size = NORMS[norm](math.inf).size
    best, nearest, z = x, math.inf, x
    for _ in range(STEPS):
        leaf = z.clone().requires_grad_()
        logits = NET(leaf)[0]
        gap = logits[goal] - logits[label]
        (g,) = torch.autograd.grad(gap, leaf)
        at_x = gap.detach() + (g * (x - z)).sum()
        d, d0 = to_plane(z, gap.detach()[None], g, norm), to_plane(x, at_x[None], g, norm)
        alpha = min(float(size(d) / (size(d) + size(d0))), 0.1)
        z = ((1 - alpha) * (z + 1.05 * d) + alpha * (x + 1.05 * d0)).clamp(0, 1)
        for back in (False, True):
            with torch.no_grad():
                hit = int(NET(z).argmax()) != label
            if hit and float(size(z - x)) < nearest:
                best, nearest = z, float(size(z - x))
            if back or not hit:
                break
            z = x + 0.9 * (z - x)
    return best


@norms
def test_the_loop_for_one_agrees(norm: float) -> None:
    x, y, goal = subject(12)
    # With an eps that nothing reaches nobody leaves, and nobody is pulled back at the end.
    z = fab(NET, x, y, norm, targets=goal, steps=STEPS, eps=1e-9)
    moved = 0
    for i in range(len(x)):
        other = slow(x[i : i + 1], int(y[i]), int(goal[i]), norm)[0]
        moved += int(not torch.equal(other, x[i]))
        torch.testing.assert_close(z[i], other, rtol=0, atol=1e-6)
    assert moved > 6


@norms
def test_the_published_attack_is_no_nearer(norm: float) -> None:
    """Against github.com/fra31/auto-attack, where UNFOOLED_AUTOATTACK says where it lies."""
    path = os.environ.get("UNFOOLED_AUTOATTACK")
    if not path:
        pytest.skip("UNFOOLED_AUTOATTACK, the folder that holds the published autoattack package, is not set")
    sys.path.insert(0, path)
    try:
        module = pytest.importorskip("autoattack.fab_pt")
    finally:
        sys.path.remove(path)
    net, (x, y, _) = tiny_net(5, SHAPE), subject(12)
    x, state = x.float(), torch.get_rng_state()
    name = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}[norm]
    theirs = module.FABAttack_PT(net, norm=name, n_iter=STEPS, eps=1e6, targeted=True, n_target_classes=1, device="cpu")
    found = theirs.perturb(x, y)
    torch.set_rng_state(state)
    threat = NORMS[norm](math.inf)
    other = verify(net, x, y, found, threat).distance
    ours = verify(net, x, y, fab(net, x, y, norm, targets=1, steps=STEPS, eps=1e-9), threat).distance
    assert int(torch.isfinite(other).sum()) > 6
    assert bool((ours <= other * (1 + 1e-3)).all())
    close = (ours / other)[torch.isfinite(other)]
    assert float(close.min()) > 0.85
