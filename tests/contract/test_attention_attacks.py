"""Attacks on attention: inside the threat, as promised beside it, and Step-LL against its formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled.attacks import Unscaled, attention_hold, attention_only, attention_pgd, iou_below, pgd, r_step_ll, step_ll
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import L2, Linf, Threat
from unfooled.core.types import Model
from unfooled.distances import above_mean, iou, js
from unfooled.explanations import attention

N = 6
attend = partial(attention, layer="1")


def net() -> nn.Module:
    source = torch.Generator().manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(144, 5), nn.Softplus(), nn.Linear(5, 3)
    )
    for p in made.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=source)
    return made.double().eval()


def setting() -> tuple[nn.Module, Tensor, Tensor]:
    model = net()
    x = 0.1 + 0.8 * torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        model[5].bias -= model(x).mean(0)  # type: ignore[index]  # every class is near
    return model, x, model(x).argmax(1)


def moved(model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return js(attend(model, x, y), attend(model, z, y))


guided = partial(attention_pgd, attend=attend, distance=js, steps=5)
only = partial(attention_only, attend=attend, distance=js, steps=5)
hold = partial(attention_hold, attend=attend, distance=js, steps=5)
ATTACKS: dict[str, Callable[..., Tensor]] = {
    "pgd": guided,
    "unscaled": partial(guided, weight=Unscaled(0.3)),
    "targeted": partial(guided, targeted=True),
    "stop": partial(guided, stop=iou_below(0.6)),
    "detached": partial(guided, attend=partial(attend, detach_weights=True)),
    "only": only,
    "hold": hold,
    "step_ll": step_ll,
    "r_step_ll": r_step_ll,
}


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)], ids=str)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_inside_the_threat_the_same_in_any_order_and_nothing_touched(
    attack: Callable[..., Tensor], threat: Threat
) -> None:
    model, x, y = setting()
    kept = x.clone()
    z = attack(model, x, y, threat)
    assert z.shape == x.shape
    assert not z.requires_grad
    assert threat.size(z - x).max() <= threat.eps + 1e-9
    assert 0 <= z.min() <= z.max() <= 1
    assert torch.equal(x, kept)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    order = torch.tensor([3, 0])
    torch.testing.assert_close(attack(model, x[order], y[order], threat), z[order], rtol=0, atol=1e-6)
    with pytest.raises(BadInput, match="outside"):
        attack(model, 2 * x - 1, y, threat)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("restarts", [1, 2])
def test_without_weight_it_is_pgd_bit_for_bit(targeted: bool, restarts: int) -> None:
    model, x, y = setting()
    y = (y + 1) % 3 if targeted else y
    options: dict[str, Any] = {"steps": 5, "targeted": targeted, "restarts": restarts}
    want = pgd(model, x, y, Linf(0.05), **options)
    assert torch.equal(guided(model, x, y, Linf(0.05), weight=0, **options), want)


def test_the_weight_moves_the_map_while_the_label_falls() -> None:
    model, x, y = setting()
    never = lambda before, now: torch.zeros(len(now), dtype=torch.bool)  # noqa: E731
    shifts = [
        moved(model, x, y, guided(model, x, y, Linf(0.1), weight=w, stop=never, steps=10)).mean() for w in (0, 1, 3)
    ]
    assert shifts[0] < shifts[1] < shifts[2]
    loss = [nn.functional.cross_entropy(model(guided(model, x, y, Linf(0.1), weight=w, stop=never)), y) for w in (0, 1)]
    clean = nn.functional.cross_entropy(model(x), y)
    assert loss[0] > clean
    assert loss[1] > clean


def test_attention_alone_never_comes_nearer_and_restarts_help() -> None:
    model, x, y = setting()
    found = moved(model, x, y, only(model, x, y, Linf(0.1)))
    assert (found > 0).all()
    noise = moved(model, x, y, Linf(0.1).sample(x, 3))
    assert (found > noise).all()
    assert (moved(model, x, y, only(model, x, y, Linf(0.1), restarts=3)) >= found - 1e-12).all()
    target = attend(model, x.roll(1, 0), y)
    z = only(model, x, y, Linf(0.1), target_map=target)
    before, after = js(target, attend(model, x, y)), js(target, attend(model, z, y))
    assert (after <= before).all()
    assert after.mean() < 0.9 * before.mean()
    torch.testing.assert_close(only(model, x, y, Linf(0.0)), x)


def test_the_prediction_is_held_by_the_margin_asked_for() -> None:
    model, x, y = setting()
    free = only(model, x, y, Linf(0.3), steps=10)
    assert (model(free).argmax(1) != y).any(), "the setting has something to hold"
    for kappa in (0.0, 0.05):
        z = hold(model, x, y, Linf(0.3), kappa=kappa, steps=10)
        logits = model(z)
        top = logits.topk(2, 1).values
        attacked = (z != x).flatten(1).any(1)
        assert attacked.any()
        assert (logits.argmax(1) == y).all()
        assert ((top[:, 0] - top[:, 1])[attacked] >= kappa).all()
        assert (moved(model, x, y, z)[attacked] > 0).all()
    assert torch.equal(hold(model, x, y, Linf(0.1), kappa=1e3), x), "no point holds it by so much: not attacked"


def test_the_stopping_rule_stops() -> None:
    model, x, y = setting()
    counted = Counted(model)
    z = guided(counted, x, y, Linf(0.2), stop=iou_below(0.7), steps=30)
    agree = iou(above_mean(attend(model, x, y)), above_mean(attend(model, z, y)))
    assert (agree < 0.7).any()
    few = counted.forwards
    counted = Counted(model)
    guided(counted, x, y, Linf(0.2), stop=iou_below(-1.0), steps=30)
    assert few < counted.forwards


def test_a_map_that_never_moves_ends_after_its_steps() -> None:
    model, x, y = setting()

    def still(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        model(x)
        return (0 * x).flatten(1).sum(1)[:, None, None] + torch.full((len(x), 4, 4), 1 / 16, dtype=x.dtype)

    for attack in (attention_pgd, attention_only, attention_hold):
        z = attack(model, x, y, Linf(0.1), attend=still, distance=js, steps=3, stop=iou_below())
        assert z.isfinite().all()


def test_step_ll_leaves_what_is_wrong_unless_it_is_asked_to_move_it() -> None:
    x, y = torch.tensor([[0.6, 0.3]]), torch.tensor([1])  # class 0 is said
    model = lambda z: torch.stack([z.sum(1), 1 - z.sum(1)], 1)  # noqa: E731
    for attack in (step_ll, r_step_ll):
        assert torch.equal(attack(model, x, y, Linf(0.1)), x)
        assert not torch.equal(attack(model, x, y, Linf(0.1), skip_wrong=False), x)


def test_step_ll_is_its_formula_on_a_linear_model() -> None:
    weight = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 1.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.9, 0.1, 0.5]], dtype=torch.float64)
    logits = x @ weight.T
    worst = int(logits.argmin())
    y = logits.argmax(1)
    p = logits.softmax(1)[0]
    g = (p[:, None] * weight).sum(0) - weight[worst]
    want = (x - 0.05 * g.sign()).clamp(0, 1)
    torch.testing.assert_close(step_ll(lambda z: z @ weight.T, x, y, Linf(0.05)), want)
    aimed = step_ll(lambda z: z @ weight.T, x, torch.tensor([1]), Linf(0.05), targeted=True)
    g = (p[:, None] * weight).sum(0) - weight[1]
    torch.testing.assert_close(aimed, (x - 0.05 * g.sign()).clamp(0, 1))
    # Half the radius is noise of the same sign pattern for a seed, half the step.
    z = r_step_ll(lambda z: z @ weight.T, x, y, Linf(0.05))
    assert ((z - x).abs() < 0.05 + 1e-12).all()
    assert {round(v, 3) for v in (z - x)[0].abs().tolist()} <= {0.0, 0.05}
    other = torch.Generator().manual_seed(5)
    assert not torch.equal(r_step_ll(lambda z: z @ weight.T, x, y, Linf(0.05), generator=other), z)


def test_bad_options_are_named() -> None:
    model, x, y = setting()
    with pytest.raises(BadInput, match="weight is -1"):
        guided(model, x, y, Linf(0.1), weight=-1)
    with pytest.raises(BadInput, match="kappa is -1"):
        hold(model, x, y, Linf(0.1), kappa=-1)
    with pytest.raises(BadInput, match="target_map has shape"):
        only(model, x, y, Linf(0.1), target_map=x)
    with pytest.raises(BadInput, match="restarts is 0"):
        only(model, x, y, Linf(0.1), restarts=0)
