"""Every explanation checks its arguments once, however many passes it takes, and none of its errors gets lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_net
from torch import Tensor, nn

from unfooled import workflows
from unfooled.core import checks
from unfooled.core.errors import BadInput
from unfooled.explanations import (
    attention_image,
    completeness_gap,
    grad_cam,
    input_x_gradient,
    integrated_gradients,
    integrated_gradients_with_gap,
    saliency,
    smooth_grad,
)
from unfooled.models import SmallCnn

SMALL = 20_000  # bytes: a sample or two at once
EVERY: dict[str, Callable[..., Any]] = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": partial(integrated_gradients, steps=4, batch_bytes=SMALL),
    "one graph": partial(integrated_gradients, steps=4, batch_bytes=SMALL, one_graph=True, create_graph=True),
    "two passes": partial(integrated_gradients, steps=4, batch_bytes=SMALL, create_graph=True),
    "with gap": partial(integrated_gradients_with_gap, steps=1, tolerance=1e-9, most=4, batch_bytes=SMALL),
    "smooth_grad": partial(smooth_grad, samples=6),
    "smooth integrated": partial(smooth_grad, samples=4, explain=partial(integrated_gradients, steps=3)),
    "grad_cam": grad_cam,
    "attention_image": attention_image,
}


def inner(name: str) -> int:
    """The first inner call of a smoothed explanation checks too, since it is the one that sees the classes."""
    return 2 if name.startswith("smooth") else 1


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return SmallCnn((1, 8, 8), 3, width=2).eval()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the number of calls of each check."""
    counts: Counter[str] = Counter()

    def count(place: str, name: str, key: str) -> None:
        original = getattr(checks, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            counts[key] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(f"unfooled.{place}.{name}", wrapped)

    count("explanations.gradients", "check_inputs", "inputs")
    count("explanations.gradients", "check_mode", "mode")
    count("core.goals", "check_labels", "classes")
    return counts


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EVERY)
def test_arguments_are_checked_once(net: nn.Module, counted: Counter[str], name: str) -> None:
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    result = EVERY[name](net, x, y)
    if name == "two passes":
        result.square().sum().backward()  # the second pass
    assert counted["inputs"] == inner(name)
    assert counted["mode"] <= inner(name)
    assert counted["classes"] == 1


def test_a_gap_is_measured_with_one_check(net: nn.Module, counted: Counter[str]) -> None:
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    completeness_gap(net, x, y, torch.zeros_like(x), baseline=torch.rand(1, 8, 8))
    assert counted == {"inputs": 1, "mode": 1, "classes": 1}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EVERY)
def test_what_cannot_be_explained_is_still_refused(net: nn.Module, name: str) -> None:
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    explain = EVERY[name]
    with pytest.raises(BadInput, match="model has 3 classes"):
        explain(net, x, torch.tensor([0, 1, 2, 0, 3]))  # the last of the batch
    with pytest.raises(BadInput, match="NaN"):
        explain(net, x * torch.nan, y)
    with pytest.raises(BadInput, match="one label per sample"):
        explain(net, x, y[:2])
    explain(net, x, y)
    with pytest.raises(BadInput, match="NaN"):  # a check that was skipped inside is made by the next caller again
        explain(net, x * torch.nan, y)


def test_smoothing_checks_the_labels_of_every_batch(net: nn.Module) -> None:
    x = torch.rand(5, 1, 8, 8)

    def explain(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        assert isinstance(model, nn.Module)  # the caller's own, not a wrapper
        return saliency(model, x, y, create_graph=create_graph)

    with pytest.raises(BadInput, match="model has 3 classes"):
        smooth_grad(net, x, torch.tensor([0, 1, 2, 0, 3]), explain=explain, samples=3, batch_bytes=1)


def test_smoothing_checks_each_batch_once_and_not_each_draw(net: nn.Module, counted: Counter[str]) -> None:
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    smooth_grad(net, x, y, samples=6, batch_bytes=1)  # one sample and one draw at once: 30 calls
    assert counted == {"inputs": 1 + 5, "mode": 1 + 5, "classes": 5}


def test_k_is_refused_before_maps_are_computed(tmp_path: Path) -> None:
    """The size of a map is known after one sample; the maps of all come after the check."""
    rows: list[int] = []

    def explain(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        rows.append(len(x))
        return saliency(model, x, y, create_graph=create_graph)

    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    inputs = workflows.Inputs(tiny_net(3, (1, 4, 4)), (x, y))
    with pytest.raises(BadInput, match="the top k must be a part"):
        workflows.explain(inputs, method=explain, attack=workflows.MapAttack("linf:0.1", k=16), out=tmp_path / "out")
    assert rows == [1]
