"""Explanations of a model without a finite answer: refused where it never has one, else NaN and a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import BadInput
from unfooled.core.checks import trusted
from unfooled.core.losses import cross_entropy
from unfooled.explanations import (
    attention,
    expected_gradients,
    grad_cam,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
)

EXPLANATIONS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        attention, expected_gradients, grad_cam, input_x_gradient, integrated_gradients, saliency, smooth_grad,
    )
}  # fmt: skip
X, Y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4, torch.arange(4) % 3
X[1] += 0.6


class Net(nn.Module):
    """A network without an answer on bright images, or on all."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.conv(x).relu().flatten(1))
        return self.change(logits, x.flatten(1).mean(1)[:, None] > 0.5)


def nowhere(logits: Tensor, _bright: Tensor) -> Tensor:
    return logits * torch.nan


def constant_nan(logits: Tensor, _bright: Tensor) -> Tensor:
    return logits.masked_fill(torch.ones_like(logits) > 0, torch.nan)


def not_bright(logits: Tensor, bright: Tensor) -> Tensor:
    return logits.masked_fill(bright, torch.nan)


def one_class_not_bright(logits: Tensor, bright: Tensor) -> Tensor:
    return logits.masked_fill(bright & (torch.arange(3) == 2), torch.nan)


def padded(logits: Tensor, _bright: Tensor) -> Tensor:
    return torch.cat([logits, torch.full_like(logits[:, :2], -torch.inf)], 1)


@pytest.mark.parametrize("name", EXPLANATIONS)
@pytest.mark.parametrize("change", [nowhere, constant_nan])
def test_a_model_of_nan_is_refused(name: str, change: Any) -> None:
    with pytest.raises(BadInput, match=r"returns NaN or infinite logits at all .* nothing to explain"):
        EXPLANATIONS[name](Net(change).eval(), X, Y)


@pytest.mark.parametrize("name", EXPLANATIONS)
@pytest.mark.parametrize("change", [not_bright, one_class_not_bright])
def test_maps_of_samples_without_an_answer_are_nan_and_it_is_said_once(name: str, change: Any) -> None:
    model = Net(change).eval()
    options = {"background": X[:1]} if name == "expected_gradients" else {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        maps = [EXPLANATIONS[name](model, X, Y, **options) for _ in range(2)]
    assert ["maps of these samples are NaN" in str(w.message) for w in seen] == [True]
    expected = EXPLANATIONS[name](Net(lambda z, _: z).eval(), X, Y, **options)
    for value in maps:
        assert bool(torch.isnan(value[1]).all())
        assert torch.allclose(value[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-6)


def test_trusted_code_gets_nan_without_a_warning() -> None:
    with warnings.catch_warnings(), trusted():
        warnings.simplefilter("error")
        assert bool(torch.isnan(saliency(Net(constant_nan).eval(), X, Y)).all())


@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "grad_cam"])
def test_infinite_logits_of_other_classes_are_an_answer(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"score": cross_entropy}):
            got = EXPLANATIONS[name](Net(padded).eval(), X, Y, **options)
            expected = EXPLANATIONS[name](Net(lambda z, _: z).eval(), X, Y, **options)
            assert torch.allclose(got, expected, atol=1e-6)
