"""Arguments and outputs are checked once, where they come in; loops trust them, and what is wrong is still named."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor

from unfooled import attacks
from unfooled.core.checks import check_attack, check_mode, is_trusted, trusted, untrusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once, fooling, logits_at, read_logits, unwrapped
from unfooled.core.losses import margin
from unfooled.core.model.calls import ModelFails
from unfooled.core.threats import L2, Linf
from unfooled.distances import js
from unfooled.explanations import attention, saliency

CHECKS = ("check_inputs", "check_labels", "check_logits")


@contextmanager
def calls(*names: str) -> Iterator[Counter[str]]:
    """Count the calls of the library's functions of some names."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in names and "unfooled" in frame.f_code.co_filename:
            seen[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


attend = partial(attention, layer="1")
budget: dict[str, Callable[..., Tensor]] = {
    "fgsm": attacks.fgsm,
    "step_ll": attacks.step_ll,
    "pgd": attacks.pgd,
    "pgd, restarts": partial(attacks.pgd, restarts=4),
    "apgd": partial(attacks.apgd, steps=20),
    "apgd, restarts": partial(attacks.apgd, steps=5, restarts=3),
    "square": partial(attacks.square, steps=30),
    "labels_only": partial(attacks.labels_only, steps=30, batch=2),
    "attention_pgd": partial(attacks.attention_pgd, attend=attend, distance=js, steps=5, restarts=2),
    "attention_hold": partial(attacks.attention_hold, attend=attend, distance=js, steps=5, restarts=2),
    "attack_explanation": partial(attacks.attack_explanation, explain=saliency, objective=attacks.cosine()),
    "best_of_random": partial(attacks.best_of_random, explain=saliency, objective=attacks.cosine(), n=30),
}
nearest = {
    name: partial(getattr(attacks, name), norm=norm, steps=30)
    for name, norm in {
        "alma": 2, "bisect": math.inf, "ddn": 2, "fab": 2, "fmn": 1, "pdpgd": 1, "sigma_zero": 0, "rays": math.inf,
        "hop_skip_jump": 2,
    }.items()
}  # fmt: skip
ATTACKS: dict[str, Callable[..., Tensor]] = {
    **{name: partial(attack, threat=Linf(0.05)) for name, attack in budget.items()},
    **nearest,
}
# An attack on a map also calls the explanation on the clean samples, and once to see whether it can be differentiated.
EXPLAINED = {"attention_pgd": 3, "attention_hold": 2, "attack_explanation": 3, "best_of_random": 2}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_checks_its_arguments_once_however_long_it_runs(name: str) -> None:
    net, x = tiny_net(), points(5, (1, 6, 5))
    y = net(x).argmax(1)
    with calls(*CHECKS) as seen:
        ATTACKS[name](net, x, y)
    most = EXPLAINED.get(name, 1)
    assert 1 <= seen["check_inputs"] <= most
    assert seen["check_labels"] <= 3 * most
    assert seen["check_logits"] <= 3 * most


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_beyond_the_classes_are_named_by_every_attack(name: str) -> None:
    net, x = tiny_net(), points(5, (1, 6, 5))
    y = net(x).argmax(1)
    y[3] = 3
    with pytest.raises(BadInput, match=r"labels lie in \[0, 3\], the model has 3 classes \(0 to 2\)"):
        ATTACKS[name](net, x, y)


@pytest.mark.parametrize("batch", [None, 2])
def test_labels_are_checked_before_the_samples_are_computed(batch: int | None) -> None:
    seen: list[int] = []
    model = linear(3, (4,))

    def counting(x: Tensor) -> Tensor:
        seen.append(len(x))
        return model(x)

    x = interior(5, (4,))
    y = model(x).argmax(1)
    assert torch.equal(read_logits(counting, x, y, batch=batch), logits_at(model, x))
    assert torch.equal(logits_at(counting, x, batch=batch), logits_at(model, x))
    assert seen == ([5, 5] if batch is None else [2, 2, 1, 2, 2, 1])
    seen.clear()
    with pytest.raises(BadInput, match="labels lie in"):
        read_logits(counting, x, y + 3, batch=batch)
    assert len(seen) == 1


def test_the_first_output_is_checked_and_the_later_ones_are_trusted() -> None:
    model, x = linear(3, (4,)), interior(5, (4,))
    y = model(x).argmax(1)
    reader = checked_once(model, y)
    assert checked_once(reader, y + 3) is reader, "already checked"
    objective = fooling(reader, y[:2], margin)
    with calls(*CHECKS) as seen:
        for _ in range(4):
            objective(x[:2], torch.arange(2))
            reader(x)
    assert seen == {"check_labels": 1, "check_logits": 1}
    with pytest.raises(BadInput, match="labels lie in"):
        fooling(model, y + 3, margin)(x[:1], torch.tensor([0]))


def test_a_model_that_drops_the_batch_of_one_sample_is_named_in_a_loop_too() -> None:
    model = linear(3, (4,))
    x = interior(3, (4,))
    y = model(x).argmax(1)

    def squeezing(z: Tensor) -> Tensor:
        return model(z).squeeze(0)

    eps = torch.tensor([1e-4, 0.9, 0.9])  # two samples are fooled at once, one is left alone
    with pytest.raises(BadInput, match=r"the model returned shape \(3,\) for 1 samples; logits are \(B, K\)"):
        attacks.pgd(squeezing, x, y, Linf(eps), loss=margin)


def test_outputs_are_unwrapped_once() -> None:
    z = torch.randn(2, 3)
    with calls("logits_of") as seen:
        assert unwrapped(z, 2) is z
        assert torch.equal(unwrapped({"logits": z}, 2), z)
        logits_at(lambda x: (x, None), z)  # type: ignore[arg-type, return-value]
    assert seen == {"logits_of": 2}


def test_a_failing_model_is_named_where_no_gradient_is_recorded() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such thing\nand more")

    for read in (read_logits, logits_at):
        with torch.no_grad(), pytest.raises(ModelFails, match=r"fails on samples of shape \(4,\).*no such thing$"):
            read(broken, interior(2, (4,)))
        with pytest.raises(RuntimeError, match="and more"):
            read(broken, interior(2, (4,)))


def test_trust_ends_with_its_context() -> None:
    x, y = interior(3, (4,)), torch.tensor([0, 1, 2])
    net = torch.nn.Dropout().train()
    with pytest.raises(RuntimeError, match="inside"), trusted():
        assert is_trusted()
        check_attack(255 * x, y, Linf(0.1))
        check_mode(net)
        with trusted():
            pass
        assert is_trusted()
        raise RuntimeError("inside")
    assert not is_trusted()
    with pytest.raises(BadInput, match="outside"):
        check_attack(255 * x, y, Linf(0.1))
    with pytest.raises(BadInput, match="training mode"):
        check_mode(net)


def test_trust_can_be_left_for_a_call() -> None:
    x, y = interior(3, (4,)), torch.tensor([0, 1, 2])
    with trusted():
        with pytest.raises(BadInput, match="outside"), untrusted():
            assert not is_trusted()
            check_attack(255 * x, y, Linf(0.1))
        assert is_trusted()
        check_attack(255 * x, y, Linf(0.1))
    with untrusted():
        pass
    assert not is_trusted()


@pytest.mark.parametrize("wrap", [lambda a: attacks.restarted(a, 3), lambda a: attacks.transfer(tiny_net(4), a)])
def test_attacks_that_are_handed_in_are_trusted_from_the_second_run_on(wrap: Callable[..., Any]) -> None:
    net, x = tiny_net(), points(4, (1, 6, 5))
    y = net(x).argmax(1)
    inside: list[bool] = []

    def attack(*args: Any, **options: Any) -> Tensor:
        inside.append(is_trusted())
        return attacks.pgd(*args, steps=2, **options)

    wrap(attack)(net, x, y, L2(1e-3))
    assert inside[0] is False
    assert all(inside[1:])
