"""Contexts that are always undone, and the passes that are counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import points
from torch import Tensor, nn

from unfooled.attacks import pgd
from unfooled.core.checks import check_mode
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import channels_last, evaluating, frozen, in_training
from unfooled.core.model.outputs import logits_of
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import Linf


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


class Wrapper:
    """A plain object around a model, as users write them."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


def closure(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: module(x) + 0


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda m: m,
    "Classifier": Classifier,
    "object": Wrapper,
    "object in an object": lambda m: Wrapper(Wrapper(m)),
    "closure": closure,
    "bound method": lambda m: m.forward,
    "partial": lambda m: partial(m.forward),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@every_wrapper
def test_modules_are_found_behind_callables(wrap: Callable[[nn.Module], Any]) -> None:
    module = net()
    found = modules_of(wrap(module))
    assert any(module is m for root in found for m in root.modules())
    assert modules_of(lambda x: x) == []


@every_wrapper
def test_frozen_is_undone(wrap: Callable[[nn.Module], Any]) -> None:
    module = net()
    module[0].weight.requires_grad_(False)
    before = [p.requires_grad for p in module.parameters()]
    with frozen(wrap(module)):
        assert not any(p.requires_grad for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()] == before
    with pytest.raises(RuntimeError, match="inside"), frozen(wrap(module)):
        raise RuntimeError("inside")
    assert [p.requires_grad for p in module.parameters()] == before


@every_wrapper
def test_evaluating_is_undone(wrap: Callable[[nn.Module], Any]) -> None:
    module = net()
    module[1].eval()
    before = [m.training for m in module.modules()]
    with pytest.raises(RuntimeError, match="inside"), evaluating(wrap(module)):
        assert not any(m.training for m in module.modules())
        raise RuntimeError("inside")
    assert [m.training for m in module.modules()] == before


@every_wrapper
def test_training_mode_is_noticed_where_it_matters(wrap: Callable[[nn.Module], Any]) -> None:
    module = net()
    assert len(in_training(wrap(module))) == 2
    module[1].eval()
    (only,) = in_training(wrap(module))
    assert "Dropout" in only
    with pytest.raises(BadInput, match=r"in training mode: .*2 \(Dropout\); call model\.eval\(\) first"):
        check_mode(wrap(module))
    module[2].eval()
    assert module.training
    assert in_training(wrap(module)) == [], "a container in training mode changes nothing"
    check_mode(wrap(module))


def test_attacks_refuse_a_model_in_training_mode() -> None:
    with pytest.raises(BadInput, match=r"1 \(BatchNorm1d\) and 1 more; call model\.eval\(\) first"):
        pgd(net(), points(3, (4,)), torch.tensor([0, 1, 2]), Linf(0.1))


def test_samples_are_counted_not_calls() -> None:
    module, x = net().eval(), points(6, (4,))
    with counted(module) as f:
        f(x)
        assert (f.forwards, f.backwards) == (6, 0)
        with torch.no_grad():
            f(x[:2])
        assert (f.forwards, f.backwards) == (8, 0)
        with frozen(f):
            leaf = x[:3].clone().requires_grad_()
            logits = f(leaf)
            torch.autograd.grad(logits.sum(), leaf, retain_graph=True)
            assert (f.forwards, f.backwards) == (11, 3)
            torch.autograd.grad(logits[0].sum(), leaf)
            assert (f.forwards, f.backwards) == (11, 6)
        assert f.training is False, "the model's own attributes are still there"
        with pytest.raises(AttributeError):
            _ = f.nothing
    assert torch.equal(f(x), module(x))


HELD = net()


def named_globally(x: Tensor) -> Tensor:
    return HELD(x)


def test_a_function_holds_the_modules_that_it_names() -> None:
    assert modules_of(named_globally) == [HELD]


@pytest.mark.parametrize("wrapped", [lambda z: SimpleNamespace(logits=z), lambda z: {"logits": z}, lambda z: (z, 1)])
def test_backwards_are_counted_whatever_holds_the_logits(wrapped: Callable[[Tensor], Any]) -> None:
    with counted(lambda x: wrapped(2 * x)) as f:
        x = points(3, (4,)).requires_grad_()
        logits_of(f(x)).sum().backward()
    assert (f.forwards, f.backwards) == (3, 3)


def test_weights_made_in_inference_mode_are_refused_with_the_mend() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x, y = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    with pytest.raises(BadInput, match=r"weight 1\.weight was made inside torch\.inference_mode.*torch\.no_grad"):
        pgd(model, x, y, Linf(0.1))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_holds_in_every_layer(channels: int) -> None:
    """Of one channel, both orders are equal, and PyTorch chooses by the strides: a grey image must not undo it."""
    orders: list[bool] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        orders.append(output.is_contiguous(memory_format=torch.channels_last))

    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3))
    x = points(2, (channels, 12, 12))
    before = model(x)
    for layer in model:
        layer.register_forward_hook(note)
    assert torch.allclose(channels_last(model)(x), before, atol=1e-6)
    assert orders == [True] * 4
