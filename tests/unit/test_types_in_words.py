"""Models and samples of types that do not agree: every attack says what to convert."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import BadInput, Linf, attacks
from unfooled.core.model.calls import ModelFails, enter
from unfooled.explanations import saliency

X = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


def on_labels() -> list[str]:
    """Attacks on the label that need nothing besides a model, samples, labels, and a threat or norm."""
    found = []
    for name in attacks.__all__:
        attack = getattr(attacks, name)
        if inspect.isfunction(attack):
            wanted = {k for k, p in inspect.signature(attack).parameters.items() if p.default is p.empty}
            if wanted - {"norm", "threat"} == {"model", "x", "y"}:
                found.append(name)
    return found


def attacked(name: str, model: Any, x: Tensor) -> Tensor:
    attack: Callable[..., Any] = getattr(attacks, name)
    wanted = [k for k, p in inspect.signature(attack).parameters.items() if p.default is p.empty]
    given = {"threat": Linf(0.05), "norm": torch.inf}
    return attack(model, x, torch.zeros(4, dtype=torch.int64), **{k: v for k, v in given.items() if k in wanted})


def test_all_attacks_are_tried() -> None:
    assert {"pgd", "fgsm", "apgd", "fmn", "fab", "square", "rays", "hop_skip_jump"} <= set(on_labels())


@pytest.mark.parametrize("name", on_labels())
def test_every_attack_says_what_to_convert(name: str) -> None:
    with pytest.raises(BadInput, match=r"it has float32 weights, the samples are float64; convert them: x\.float\(\)"):
        attacked(name, net(), X.double())
    with pytest.raises(BadInput, match=r"it has float64 weights, the samples are float32; convert it: model\.float"):
        attacked(name, net().double(), X)


def test_explanations_say_it_too() -> None:
    with pytest.raises(ModelFails, match=r"convert them: x\.float\(\)"):
        saliency(net(), X.double(), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ModelFails, match=r"convert it: model\.float\(\)"):
        enter(net().double(), X)


def test_other_errors_with_gradients_stay_as_they_are() -> None:
    def only_forward(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise RuntimeError("this dtype has no gradient")
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    for model, words in ((only_forward, "^this dtype has no gradient"), (broken, "^no such thing")):
        with pytest.raises(RuntimeError, match=words):
            attacked("pgd", model, X)
