"""Random models: what fresh draws do not confirm is no finding, and the figures agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor
from torch.nn import functional as F

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.before import answers
from unfooled.evaluation.checks.draws import DRAWS, gained
from unfooled.evaluation.checks.normalised import normalisation
from unfooled.evaluation.checks.subject import inspect_model

SHAPE = (1, 6, 5)
NET = tiny_net(5, SHAPE)
PLAN = Plan(
    effort=Effort("short", (Ascents(3),)), nearest_budget=100, nearest_n=8, explain_n=1, gallery=0, floor=1,
    reasons=None,
)  # fmt: skip


def coin(p: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(torch.rand(len(x), 1) < p, NET(x), NET(x).roll(1, 1))


def dropout(x: Tensor) -> Tensor:
    return NET(F.dropout(x, 0.2, training=True))


def resized(x: Tensor) -> Tensor:
    size = 6 + int(torch.randint(0, 3, (1,)))
    z = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return NET(F.interpolate(z, size=SHAPE[1:], mode="bilinear", align_corners=False))


MODELS: dict[str, Callable[[Tensor], Tensor]] = {
    "coin .45": coin(0.45), "coin .6": coin(0.6), "coin .8": coin(0.8), "dropout": dropout, "random resize": resized,
    "small noise": lambda x: NET(x + 1e-3 * torch.randn_like(x)), "noise": lambda x: NET(x + 0.1 * torch.randn_like(x)),
}  # fmt: skip


def audited(model: Callable[[Tensor], Tensor], seed: int, n: int = 40, eps: float = 1e-4) -> Summary:
    x = points(n, SHAPE, seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return audit(model, x, NET(x).argmax(1), Linf(eps), plan=PLAN)


@pytest.mark.parametrize("name", MODELS)
def test_chance_accuses_nobody(name: str) -> None:
    """Inside a threat that changes nothing the attack can only be lucky."""
    s = audited(MODELS[name], 0)
    clean, robust, lost = s.clean_accuracy, s.robust_accuracy, s.attack_success_rate
    assert (s.verdict, [f.id for f in s.diagnostics if f.fired and f.id not in ("D3", "D4")]) == ("SOUND", [])
    assert clean.value is not None and robust.value is not None and lost.value is not None
    assert robust.value <= clean.value
    assert lost.value == pytest.approx(1 - robust.value / clean.value)
    assert lost.value < 0.25
    assert min(one.high - one.low for one in (clean, robust, lost)) > 0
    assert all(a.accuracy.value >= b.accuracy.value - 1e-9 for a, b in zip(s.curve, s.curve[1:], strict=False))  # type: ignore[operator]


def test_an_interval_of_ten_samples_has_a_width() -> None:
    s = audited(MODELS["small noise"], 0, n=10)
    for one in (s.clean_accuracy, s.robust_accuracy, s.attack_success_rate, *(p.accuracy for p in s.curve)):
        assert one.n in (8, 10)
        assert one.high - one.low > 0.2


def test_a_random_model_is_attacked_all_the_same() -> None:
    s = audited(MODELS["noise"], 0, eps=0.5)
    assert s.robust_accuracy.value is not None and s.clean_accuracy.value is not None
    assert s.robust_accuracy.value < 0.5 * s.clean_accuracy.value


def draws(share: float, n: int) -> Tensor:
    """Draws of n samples, each right in the same share of them, at other draws for each sample."""
    rows = torch.arange(DRAWS).lt(share * DRAWS)[None].repeat(n, 1)
    return torch.stack([row.roll(7 * i) for i, row in enumerate(rows)])


def test_what_fresh_draws_confirm_is_gained() -> None:
    half, none = draws(0.5, 12), draws(0, 12)
    assert gained(half, none) == pytest.approx(6)
    assert gained(half, draws(0.47, 12)) == 0
    assert gained(draws(0.5, 1), draws(0.3, 1)) == 0
    assert gained(draws(1, 1), draws(0, 1)) == 1
    assert gained(none[:0], none[:0]) == 0
    source = torch.Generator().manual_seed(0)
    tosses = torch.rand(400, 2, 12, DRAWS, generator=source).lt(0.45)
    assert sum(gained(*pair) > 0 for pair in tosses) <= 4


def test_draws_that_samples_share_are_one_draw() -> None:
    """One draw a batch: sums over samples vary more than independent draws would let them."""
    source = torch.Generator().manual_seed(0)
    tosses = torch.rand(400, 2, 1, DRAWS, generator=source).lt(0.45).expand(400, 2, 12, DRAWS)
    assert sum(gained(*pair) > 0 for pair in tosses) <= 4


def test_a_model_whose_first_draws_are_equal_is_random_all_the_same() -> None:
    """One of three draws for a whole batch: the first two calls often agree."""
    x = points(20, SHAPE, seed=4)
    y = NET(x).argmax(1)
    with torch.random.fork_rng():
        for seed in range(8):
            torch.manual_seed(seed)
            assert inspect_model(resized, x, y).random
            d4 = answers(resized, x)[1]
            assert (d4.fired, str(d4.kind)) == (True, "mend")


def test_preprocessing_of_a_random_model_is_not_accused_by_chance() -> None:
    """A net without biases answers alike on scaled inputs, so that chance alone separates the accuracies."""
    x = points(60, SHAPE, seed=4)
    labels = torch.arange(60) % 5

    def model(z: Tensor) -> Tensor:
        right = F.one_hot(labels[: len(z)], 5).to(z)
        return torch.where(torch.rand(len(z), 1) < 0.45, right, right.roll(1, 1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not any(normalisation(model, x, labels, random=True).fired for _ in range(40))
        wrong = normalisation(lambda z: model(z) if z.amin() < 0 else torch.ones(len(z), 5), x, labels, random=True)
    assert wrong.fired
