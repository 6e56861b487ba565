"""Models that optimise at test time: they take gradients of their own inside, and are audited like others."""

from __future__ import annotations

import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.evaluation.audit import Plan, audit

SHAPE = (1, 6, 5)
NET = tiny_net(3, SHAPE)
PLAN = Plan(
    effort=Effort("short", (Ascents(10),)), nearest_budget=100, nearest_n=4, explain_n=2, gallery=0, floor=3000,
    reasons=None,
)  # fmt: skip


class Purified(nn.Module):
    """Moves its input to where the network is surer, by gradients of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x if x.requires_grad else x.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.net(z).logsumexp(1).sum(), z, create_graph=x.requires_grad)
        return self.net(x + 0.01 * g.tanh())


def test_a_defence_that_takes_gradients_inside_is_audited() -> None:
    x = points(8, SHAPE, seed=5)
    model = Purified()
    with torch.no_grad():
        y = model(x).argmax(1)
    summary = audit(model, x, y, Linf(0.05), plan=PLAN)
    assert summary.clean_accuracy.value == 1
    assert summary.robust_accuracy.value is not None
    assert not [f.id for f in summary.diagnostics if f.fired and f.id not in ("D19", "D21", "D23")]
