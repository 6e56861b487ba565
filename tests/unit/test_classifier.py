"""Models: normalisation, outputs, layers, and every output that cannot be used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks import apgd, fgsm, pgd
from unfooled.core.errors import BadInput
from unfooled.core.losses import margin
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.outputs import logits_of
from unfooled.core.threats import L2, Linf
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify


def test_normalisation_is_part_of_the_model() -> None:
    x = points(3, (3, 4, 5), dtype=torch.float64)
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    model = Classifier(nn.Flatten(), mean=mean, std=std)
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1).flatten(1)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=0)
    assert model(x).dtype == x.dtype
    torch.testing.assert_close(Classifier(nn.Flatten(), mean=0.5)(x), x.flatten(1) - 0.5)
    torch.testing.assert_close(Classifier(nn.Flatten(), std=0.25)(x[:, 0, 0]), x[:, 0, 0] * 4)
    assert Classifier(nn.Flatten())(x).data_ptr() == x.data_ptr(), "without numbers, nothing is computed"


def test_normalisation_that_does_not_fit() -> None:
    with pytest.raises(BadInput, match="mean has 3 values, the inputs have 1 channels"):
        Classifier(nn.Flatten(), mean=[0.1, 0.2, 0.3])(points(2, (1, 4, 4)))
    with pytest.raises(BadInput, match=r"std is \[0\.0\]; it must be positive"):
        Classifier(nn.Flatten(), std=0)
    with pytest.raises(BadInput, match=r"net takes samples of shape \(1, 8, 8\), these are \(1, 6, 5\)"):
        Classifier(tiny_net(), input_shape=(1, 8, 8), name="net")(points(2, (1, 6, 5)))


def test_layers_and_features_by_name() -> None:
    net, x = tiny_net(), points(2, (1, 6, 5)).requires_grad_()
    model = Classifier(net, classes=["a", "b", "c"])
    assert model.layers() == ["0", "1", "2", "3"]
    assert (model.name, model.classes, model.input_shape) == ("Sequential", ["a", "b", "c"], None)
    features = model.features(x, "1")
    assert torch.equal(features, net[1](net[0](x)))
    assert torch.autograd.grad(features.sum(), x)[0].abs().sum() > 0
    assert not net[1]._forward_hooks
    with pytest.raises(BadInput, match="Sequential has no layer '7'; it has 0, 1, 2, 3"):
        model.features(x, "7")
    net.extra = nn.Identity()
    net.forward = lambda x: net[3](net[2](net[1](net[0](x))))  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="layer 'extra' of Sequential was not called"):
        model.features(x, "extra")
    with pytest.raises(BadInput, match="is a plain callable and has no layers"):
        Classifier(linear(2, (3,))).features(x, "0")
    assert Classifier(linear(2, (3,))).layers() == []


@dataclass
class Output:
    logits: Tensor


UNWRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda z: z,
    "object": Output,
    "dict": lambda z: {"loss": z.sum(), "logits": z},
    "ordered dict": lambda z: OrderedDict(logits=z),
    "tuple": lambda z: (z, z[:, :1]),
    "list": lambda z: [z],
}


@pytest.mark.parametrize("form", UNWRAPPED)
def test_outputs_are_unwrapped(form: str) -> None:
    model, x = linear(3, (4,)), interior(5, (4,))
    y = model(x).argmax(1)

    def wrapped(x: Tensor) -> Any:
        return UNWRAPPED[form](model(x))

    assert torch.equal(logits_of(wrapped(x)), model(x))
    assert torch.equal(Classifier(wrapped)(x), model(x))
    z = pgd(wrapped, x, y, Linf(0.2), loss=margin)
    assert torch.equal(z, pgd(model, x, y, Linf(0.2), loss=margin))
    assert verify(wrapped, x, y, z, Linf(0.2)).success.all()


W = linear(3, (4,))
UNUSABLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one output": (lambda x: W(x)[:, :1], r"the model has one output; two classes need two logits"),
    "no batch": (lambda x: W(x)[0], r"returned shape \(3,\) for 4 samples"),
    "another batch": (lambda x: W(x)[:2], r"returned shape \(2, 3\) for 4 samples"),
    "a map": (lambda x: W(x)[:, :, None], r"returned shape \(4, 3, 1\) for 4 samples; logits are \(B, K\)"),
    "labels": (lambda x: W(x).argmax(1), r"returned shape \(4,\)"),
    "integers": (lambda x: W(x).round().long(), r"returned dtype torch\.int64; logits are floating point"),
    "numpy": (lambda x: W(x).numpy(), r"returned a ndarray; it must return logits"),
    "nothing": (lambda x: None, r"returned a NoneType; it must return logits"),
    "no logits in it": (lambda x: {"scores": W(x)}, r"returned a dict; it must return logits"),
}


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
@pytest.mark.parametrize("fault", UNUSABLE)
def test_unusable_outputs_are_named(fault: str, attack: Callable[..., Tensor]) -> None:
    model, message = UNUSABLE[fault]
    x, y = interior(4, (4,)), torch.tensor([0, 1, 0, 1])

    def careful(x: Tensor) -> Any:
        return model(x.detach()) if fault == "numpy" else model(x)

    with pytest.raises(BadInput, match=message):
        attack(careful, x, y, Linf(0.1))
    with pytest.raises(BadInput, match=message):
        verify(careful, x, y, x, Linf(0.1))


def detached(x: Tensor) -> Tensor:
    return W(x.detach())


def through_numpy(x: Tensor) -> Tensor:
    return W(torch.from_numpy(x.detach().numpy()))


@torch.no_grad()
def without_grad(x: Tensor) -> Tensor:
    return W(x)


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
@pytest.mark.parametrize("model", [detached, through_numpy, without_grad])
def test_a_model_without_gradient_is_named(model: Model, attack: Callable[..., Tensor]) -> None:
    x = interior(4, (4,))
    with pytest.raises(BadInput, match=r"carries no gradient to its input .*gradient attacks cannot judge it"):
        attack(model, x, model(x).argmax(1), Linf(0.1))


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_logits_that_are_nan_are_survived_and_are_no_success(attack: Callable[..., Tensor]) -> None:
    x = interior(6, (4,))
    x[:, 0] = torch.tensor([0.8, 0.8, 0.8, 0.2, 0.2, 0.2])
    y = W(x).argmax(1)
    threat = Linf(0.25)

    def broken(z: Tensor) -> Tensor:
        return torch.where(z[:, :1] < 0.5, torch.nan, W(z))

    z = attack(broken, x, y, threat)
    assert torch.isfinite(z).all()
    verdict = verify(broken, x, y, z, threat)
    assert verdict.inside.all()
    assert verdict.undefined.tolist() == [False, False, False, True, True, True]
    assert not verdict.success[3:].any()
    assert verdict.success[:3].any()
    torch.testing.assert_close(z[:3], attack(W, x, y, threat)[:3])


@pytest.mark.parametrize("k", [2, 3, 100])
def test_probabilities_are_attacked_like_logits(k: int) -> None:
    model, x = linear(k, (5,), rivals=2), interior(10, (5,))
    y = model(x).argmax(1)

    def softmax(z: Tensor) -> Tensor:
        return model(z).softmax(1)

    threat = L2(1.1 * model.distance(x, y, 2.0))
    for attack in (fgsm, pgd, apgd):
        assert verify(softmax, x, y, attack(softmax, x, y, threat), threat).success.all()


@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 4, 9), (3, 9, 2), (2, 2, 3, 4)])
@pytest.mark.parametrize("k", [2, 3, 100])
def test_any_shape_and_number_of_classes(k: int, shape: tuple[int, ...]) -> None:
    model = Classifier(linear(k, shape), name="linear")
    x = interior(3, shape)
    y = model(x).argmax(1)
    for attack in (fgsm, pgd, apgd):
        z = attack(model, x, y, Linf(0.3))
        assert z.shape == x.shape
        verdict = verify(model, x, y, z, Linf(0.3))
        assert verdict.inside.all()
        assert verdict.success.all()
