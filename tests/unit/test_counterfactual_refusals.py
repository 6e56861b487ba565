"""Heads, costs and groups that cannot be meant, one sentence each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.counterfactuals import (
    AffineHead,
    Cost,
    Group,
    attribute_interval,
    fit_effects,
    fit_probe,
    flip_attributes,
    flip_distance,
    flip_edit,
    group_means,
    head_effect,
    pinv_edit,
    switches,
    targeted_edit,
    total_effect,
    within_covariance,
)

HEAD = AffineHead(
    torch.eye(3, 4), torch.zeros(3), ("auklet", "albatross", "wren"), ("wing=red", "wing=blue", "bill=long", "crest")
)
E = torch.arange(8.0).reshape(2, 4)
MANY = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
NAN = E.clone()
NAN[1, 2] = math.nan


class Bent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, e: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(e).relu())
        return out


class Cosine(nn.Linear):
    def forward(self, e: Tensor) -> Tensor:
        return nn.functional.normalize(e) @ self.weight.T


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "one class": (lambda: AffineHead(torch.ones(1, 4), torch.zeros(1)), r"1 class; a decision needs two: .*\[-w, w\]"),
    "shapes": (lambda: AffineHead(torch.ones(3, 4), torch.zeros(4)), r"bias of shape \(4,\); they must be \(c, n\)"),
    "nan head": (lambda: AffineHead(torch.full((2, 2), math.nan), torch.zeros(2)), "weight holds NaN or infinite"),
    "names": (lambda: AffineHead(torch.eye(2), torch.zeros(2), ("a",)), "1 names are given for the head's 2 classes"),
    "relu in front": (
        lambda: AffineHead.of(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))),
        r"its layer '1' is a ReLU; take the output of '1' as the embedding and read AffineHead.of\(head\[2:\]\)",
    ),
    "softmax behind": (
        lambda: AffineHead.of(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))),
        r"'1' is a Softmax, and none follows it; leave off what is behind '0' and read AffineHead.of\(head\[:1\]\)",
    ),
    "relu behind": (
        lambda: AffineHead.of(
            nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3), nn.ReLU(), nn.Softmax(1))
        ),
        r"'5' is a Softmax, and none follows it; take the output of '1' as the embedding, leave off what is behind '3' "
        r"and read AffineHead.of\(head\[2:4\]\)",
    ),
    "relu alone": (lambda: AffineHead.of(nn.Sequential(nn.ReLU())), "none of its layers is; give the last linear"),
    "own module": (lambda: AffineHead.of(Bent()), r"Bent, is not affine: .* goes into its last linear layer, 'last'"),
    "cosine head": (lambda: AffineHead.of(Cosine(4, 3)), "Cosine, is not affine"),
    "no module": (lambda: AffineHead.of(torch.eye(3)), "a Tensor; give a torch module"),  # type: ignore[arg-type]
    "no width": (lambda: AffineHead.of(nn.Identity()), "without a linear layer; give n"),
    "nan e": (lambda: flip_edit(HEAD, NAN), "e holds NaN or infinite values in 1 samples, the first is sample 1"),
    "one embedding": (lambda: flip_distance(HEAD, E[0]), r"shape \(4,\); .* try e\[None\]"),
    "wide": (lambda: flip_distance(HEAD, torch.ones(2, 5)), r"\(B, 4\)"),
    "no samples": (lambda: flip_distance(HEAD, torch.ones(0, 4)), "no samples"),
    "norm": (lambda: flip_distance(HEAD, E, norm=3), "norm is 3; it must be 1, 2 or math.inf"),
    "class": (lambda: targeted_edit(HEAD, E, 3), "no class 3; the head has 3 classes, 0 to 2"),
    "class name": (lambda: targeted_edit(HEAD, E, "albatros"), "no class 'albatros'; did you mean albatross"),
    "interval": (lambda: attribute_interval(HEAD, E, -1), "no class -1"),
    "targets": (lambda: targeted_edit(HEAD, E, torch.zeros(3, dtype=torch.int64)), r"shape \(3,\); give a class"),
    "attribute name": (lambda: flip_edit(HEAD, E, cost=Cost(immutable=["wing=read"])), "did you mean wing=red"),
    "attribute": (lambda: flip_edit(HEAD, E, cost=Cost(immutable=[4])), "no attribute 4; the embedding has 4, 0 to 3"),
    "all immutable": (lambda: flip_edit(HEAD, E, cost=Cost(immutable=range(4))), "all 4 attributes are immutable"),
    "bounds": (
        lambda: flip_edit(HEAD, E, cost=Cost(high=6.5)),
        "attribute 3 of sample 1 is 7, outside its bound high = 6.5; bounds must contain the current values",
    ),
    "bounds' shape": (lambda: flip_edit(HEAD, E, cost=Cost(low=torch.zeros(3))), r"low has shape \(3,\)"),
    "nan bound": (lambda: Cost(low=math.nan), "low holds NaN"),
    "no member": (lambda: Cost(groups=[()]), "a group has no member"),
    "named, no member": (lambda: Group((), name="bill"), "the group 'bill' has no member"),
    "twice": (lambda: Group((1, 1)), "a member twice: 1, 1"),
    "two groups": (lambda: Cost(groups=[(0, 1), (1, 2)]), "attribute 1 is in two groups"),
    "unknown member": (lambda: flip_attributes(HEAD, torch.ones(1, 4), cost=Cost(groups=[(3, 4)])), "no attribute 4"),
    "no means": (lambda: flip_edit(HEAD, E, cost=Cost(groups=[(0, 1)])), r"\(0, 1\) has no means of 4 entries"),
    "groups, sparse": (lambda: flip_edit(HEAD, E, sparse=1, cost=Cost(groups=[(0, 1)])), "one exchange at a time"),
    "not square": (lambda: Cost(covariance=torch.ones(2, 3)), "must be square"),
    "another size": (lambda: flip_edit(HEAD, E, cost=Cost(covariance=torch.eye(3))), r"\(3, 3\); it must be \(4, 4\)"),
    "asymmetric": (lambda: Cost(covariance=torch.tensor([[1.0, 1], [0, 1]])), "not symmetric"),
    "zero": (lambda: Cost(covariance=torch.zeros(2, 2)), "the covariance is 0; .* embeddings that vary"),
    "negative": (lambda: Cost(covariance=-torch.eye(2)), "negative eigenvalue"),
    "nan covariance": (lambda: Cost(covariance=torch.full((2, 2), math.nan)), "covariance holds NaN"),
    "covariance, norm": (lambda: flip_edit(HEAD, E, norm=1, cost=Cost(covariance=torch.eye(4))), "the l_2 norm"),
    "sparse": (lambda: flip_edit(HEAD, E, sparse=0), "sparse is 0"),
    "weights": (lambda: Cost(weights=torch.zeros(4)), "weights must be positive"),
    "weights there": (lambda: flip_edit(HEAD, E, cost=Cost(weights=torch.ones(4))), "for flip_attributes"),
    "not binary": (lambda: flip_attributes(HEAD, E / 10), "attribute 1 of sample 0 is 0.1; binary attributes"),
    "whole bounds": (lambda: flip_attributes(HEAD, torch.ones(1, 4), cost=Cost(low=0)), "no bounds or covariance"),
    "overshoot": (lambda: flip_edit(HEAD, E, overshoot=-1), "overshoot is -1"),
    "cut-off": (lambda: pinv_edit(HEAD, E, 0, cutoff=2), "cutoff is 2"),
    "switch": (lambda: head_effect(HEAD, E, torch.ones(3)), r"one per attribute, \(4,\)"),
    "pairs": (lambda: switches(E, torch.ones(3, 4)), r"e has shape \(2, 4\) and the attributes \(3, 4\)"),
    "effects' pairs": (lambda: fit_effects(E, torch.ones(3, 2)), "2 embeddings and 3 rows of attributes; they"),
    "few": (lambda: fit_effects(E, torch.ones(2, 2)), "too few for 2 attributes"),
    "probe's pairs": (lambda: fit_probe(E, torch.ones(3, 1)), "2 rows of features and attributes of shape"),
    "probe's values": (lambda: fit_probe(E, torch.full((2, 1), 0.5)), "are 0, 1 or NaN"),
    "alone": (lambda: within_covariance(E, torch.arange(2)), "no class has two of the 2 samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_meant(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises(BadInput, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_singular_covariance_is_shrunk_and_said() -> None:
    with pytest.warns(UserWarning, match=r"singular, rank 1 of 2; it is shrunk by 0.001 towards"):
        cost = Cost(covariance=torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert cost.shrunk == 0.001
    head = AffineHead(torch.eye(2), torch.zeros(2))
    assert flip_distance(head, torch.tensor([[3.0, 1.0]]), cost=cost).isfinite().any()


def test_a_head_is_read_from_modules() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 3)
    e = torch.randn(5, 4)
    assert torch.equal(AffineHead.of(linear).weight, linear.weight.double())
    torch.testing.assert_close(AffineHead.of(linear).logits(e).float(), linear(e))
    assert not AffineHead.of(nn.Linear(4, 3, bias=False)).bias.any()
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(64, 4) * 3 + 1)
    stack = nn.Sequential(norm, nn.Dropout(0.5), nn.Linear(4, 6), nn.Sequential(nn.Identity(), nn.Linear(6, 3)))
    head = AffineHead.of(stack)
    assert stack.training
    torch.testing.assert_close(head.logits(e).float(), stack.eval()(e))
    weight_normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    torch.testing.assert_close(AffineHead.of(weight_normed).logits(e).float(), weight_normed(e))


def test_names_and_numbers_mean_the_same() -> None:
    by_name = targeted_edit(HEAD, E, "albatross", cost=Cost(immutable=["crest"]))
    by_number = targeted_edit(HEAD, E, 1, cost=Cost(immutable=torch.tensor([False, False, False, True])))
    assert torch.equal(by_name.delta, by_number.delta)


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
def test_truth_values_are_a_mask(kind: Callable[[Any], Any]) -> None:
    mask = kind([True, False, False, True])
    assert Cost(immutable=mask).free(HEAD).tolist() == [False, True, True, False]
    assert Cost(immutable=kind([0, 3])).free(HEAD).tolist() == [False, True, True, False]
    with pytest.raises(BadInput, match=r"mask of immutable attributes has shape \(2,\); it must be \(4,\)"):
        Cost(immutable=kind([True, False])).free(HEAD)
    assert Cost(immutable=[np.int64(1), torch.tensor(2), "crest"]).free(HEAD).tolist() == [True, False, False, False]  # type: ignore[list-item]


INDICES: dict[str, tuple[Callable[[], Any], str]] = {
    "fraction": (lambda: Cost(immutable=[1.7]).free(HEAD), r"immutable holds 1\.7; give indices"),  # type: ignore[list-item]
    "whole float": (lambda: Cost(immutable=torch.tensor([1.0])).free(HEAD), r"immutable holds .*1\.0"),
    "mixed": (lambda: Cost(immutable=[True, 2]).free(HEAD), "immutable holds True; give indices"),
    "single truth": (lambda: Cost(immutable=True).free(HEAD), "immutable holds True"),  # type: ignore[arg-type]
    "nothing": (lambda: Cost(immutable=[None]).free(HEAD), "immutable holds None"),  # type: ignore[list-item]
    "group of truths": (lambda: Cost(groups=[[True, False]]), "a group holds True; give indices"),
    "group mask": (lambda: Group(torch.tensor([True, False])), "a group holds True"),  # type: ignore[arg-type]
    "group of fractions": (lambda: Group([0, 1.5], name="wing"), r"group 'wing' holds 1\.5"),  # type: ignore[list-item]
    "group of names": (lambda: Group(["crest"]), "a group holds 'crest'"),  # type: ignore[list-item]
    "bound mask": (lambda: Cost(low=torch.tensor([True, False])), "low holds true and false"),
    "bound of words": (lambda: Cost(high="much"), "high is 'much'; give numbers"),  # type: ignore[arg-type]
    "weight mask": (lambda: Cost(weights=torch.tensor([True])), "weights holds true and false"),
    "means of a mask": (lambda: group_means(E, E > 1, torch.tensor([0, 1]), [True, False]), "a group holds True"),
    "means of none": (lambda: group_means(E, E > 1, torch.tensor([0, 1]), [1, 9]), "there is no attribute 9"),
    "effect": (
        lambda: total_effect(HEAD, MANY, MANY.round(), fit_effects(MANY, MANY.round()), [0, 1.5]),  # type: ignore[list-item]
        r"members holds 1\.5",
    ),
}


@pytest.mark.parametrize("name", INDICES)
def test_indices_are_whole_numbers(name: str) -> None:
    call, sentence = INDICES[name]
    with pytest.raises(BadInput, match=sentence):
        call()
