"""A distilled twin and the attack that transfers from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.conftest import linear, points, source, tiny_net
from torch import Tensor, nn
from torch.nn import functional

from unfooled.attacks import StraightThrough, apgd, pgd
from unfooled.attacks.gradients.twins import Descent, distil, transfer
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import L2, Linf, Threat
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify

SHAPE = (1, 6, 5)
QUICK = partial(distil, rounds=2, points=3, width=8)
DISGUISES: dict[str, Callable[[Tensor], Tensor]] = {
    "scores": lambda z: z,
    "labels": lambda z: torch.eye(z.shape[1])[z.argmax(1)],
    "probabilities": lambda z: (z * 50).softmax(1),
    "huge scores": lambda z: z * 1e5,
}


def closed(model: Model, disguise: str = "scores") -> Model:
    """A model that lets no gradient out."""

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return DISGUISES[disguise](model(x))

    return answer


def fallen(model: Model, x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> float:
    return float(verify(model, x, y, z, threat).success.float().mean())


@pytest.mark.parametrize(
    ("disguise", "threat"), [*((name, Linf(0.06)) for name in DISGUISES), ("scores", L2(0.2))], ids=str
)
def test_a_twin_s_gradient_fools_a_model_that_has_none(disguise: str, threat: Threat) -> None:
    model, x = closed(linear(3, SHAPE), disguise), points(60, SHAPE, seed=1)
    y, state = model(x).argmax(1), torch.get_rng_state()
    white = fallen(model, x, y, apgd(linear(3, SHAPE), x, y, threat, steps=20), threat)
    noise = fallen(model, x, y, threat.sample(x), threat)
    with counted(model) as f:
        twin = QUICK(f, x, threat)
    assert (f.forwards, f.backwards) == (60 * (1 + 2 * 3), 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in twin.modules())
    found = fallen(model, x, y, transfer(twin, proposals=2)(model, x, y, threat), threat)
    assert white > noise + 0.25
    assert found > noise + 0.4 * (white - noise)
    through = fallen(model, x, y, apgd(StraightThrough(model, twin), x, y, threat, steps=20), threat)
    assert through > noise + 0.4 * (white - noise)


@pytest.mark.parametrize("shape", [(7,), (1, 3, 3), (5, 4), (3, 4, 5)], ids=str)
def test_any_shape_has_a_twin(shape: tuple[int, ...]) -> None:
    model, x = linear(3, shape), points(40, shape)
    with torch.no_grad():
        agree = (QUICK(model, x, Linf(0.1))(x).argmax(1) == model(x).argmax(1)).float().mean()
    assert float(agree) > 0.8


def test_same_seed_same_twin_and_the_model_is_left_alone() -> None:
    net, x = tiny_net(3, SHAPE), points(20, SHAPE)
    kept = [p.clone() for p in net.parameters()]
    one, same = (QUICK(net, x, Linf(0.1), rounds=1)(x) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, QUICK(net, x, Linf(0.1), rounds=1, seed=1)(x))
    assert all(torch.equal(p, k) and p.grad is None for p, k in zip(net.parameters(), kept, strict=True))


def test_a_module_of_one_s_own_is_copied_and_trained() -> None:
    model, x = linear(3, SHAPE), points(40, SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(30, 3)
    own, before = nn.Sequential(nn.Flatten(), head), head.weight.clone()
    twin = distil(model, x, Linf(0.1), rounds=1, module=own)
    assert torch.equal(head.weight, before)
    assert isinstance(twin, nn.Sequential)
    assert not torch.equal(twin.state_dict()["1.weight"], before)


def test_transfer_asks_the_model_once_a_proposal_and_keeps_the_best() -> None:
    net, x = tiny_net(3, SHAPE), points(30, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    other, threat = tiny_net(3, SHAPE, seed=1), Linf(1e-4)  # too near for anything to fall
    attack = partial(pgd, steps=0, stop=False)  # another random point each time
    with counted(closed(net)) as f, counted(other) as g:
        one = transfer(g, attack, proposals=1)(f, x, y, threat)
        assert f.forwards == 30
        three = transfer(g, attack, proposals=3)(f, x, y, threat)
        assert f.forwards == 30 * 4
        assert f.backwards == 0
        assert g.forwards > 0

    def lead(z: Tensor) -> Tensor:
        logits = net(z).detach()
        return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]

    assert bool((lead(three) >= lead(one)).all())
    assert bool((lead(three) > lead(one)).any())


def test_transfer_is_a_budget_attack() -> None:
    net, x = tiny_net(3, SHAPE), points(9, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    attack = transfer(net, partial(pgd, steps=10, stop=False))
    z = attack(closed(net), x, y, Linf(0.3))
    assert bool(verify(net, x, y, z, Linf(0.3)).inside.all())
    assert fallen(net, x, y, z, Linf(0.3)) > 0.8
    target = (y + 1) % 3
    hit = verify(net, x, target, attack(net, x, target, L2(3.0), targeted=True), L2(3.0), targeted=True).success
    assert float(hit.float().mean()) > 0.8
    order = torch.tensor([8, 2, 5, 0, 7, 1, 6, 3, 4])
    parts = torch.cat([attack(net, x[r], y[r], Linf(0.05)) for r in order.split(2)])
    torch.testing.assert_close(parts, attack(net, x, y, Linf(0.05))[order])
    assert not torch.equal(parts, attack(net, x, y, Linf(0.05), generator=source(1))[order])


def test_nothing_to_learn_is_said() -> None:
    x = points(4, SHAPE)
    with pytest.raises(BadInput, match="NaN or infinite"):
        distil(lambda z: torch.full((len(z), 3), torch.nan), x, Linf(0.1))
    with pytest.raises(BadInput, match="at least 1"):
        distil(linear(3, SHAPE), x, Linf(0.1), points=0)


def test_the_descent_of_a_twin_is_torch_s_adamw_along_half_a_cosine() -> None:
    """Also where it goes on from a state."""
    x, targets, steps = points(20, SHAPE), torch.rand(20, 3, generator=source(0)).softmax(1), 12
    ours, theirs = tiny_net(3, SHAPE), tiny_net(3, SHAPE)
    descent, optimizer = Descent(ours, steps), torch.optim.AdamW(theirs.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for k in range(steps):
        if k == 5:
            state = {name: value.clone() for name, value in descent.state().items()}
            descent = Descent(ours, steps)
            descent.restore(state)
        loss = functional.kl_div(ours(x).log_softmax(1), targets, reduction="batchmean")
        descent.step(torch.autograd.grad(loss, descent.parameters))
        optimizer.zero_grad()
        functional.kl_div(theirs(x).log_softmax(1), targets, reduction="batchmean").backward()
        optimizer.step()
        schedule.step()
    for mine, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, theirs_)
