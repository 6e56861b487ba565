"""Limits of local surrogates: what is stable, what is only a rounding error, and how far the leading features carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled.explanations import TabularSpace, lime_image, lime_parts, lime_tabular, lime_text
from unfooled.explanations.lime import (
    Design,
    Flag,
    Surrogates,
    fit,
    neighbours,
    submodular_pick,
    text_part,
    until_stable,
)
from unfooled.explanations.lime.rounding import settled

RULES = [until_stable(top=1, first=64, at_most=256), until_stable(top=50, first=64, at_most=256),
         until_stable(tolerance=10.0, first=64, at_most=256)]  # fmt: skip


def never_hidden(features: int, samples: int, seed: int, *, start: int = 0) -> Design:
    "Masks that always show the first feature."
    generator = torch.Generator().manual_seed(seed + start)
    masks = torch.rand(samples, features, generator=generator) < 0.5
    masks[:, 0] = True
    return Design(masks, 1)


def every_mask_but(features: int, samples: int, seed: int, *, start: int = 0) -> Design:
    "The same without sampling error."
    return replace(never_hidden(features, samples, seed, start=start), unit=0, complete=True)


def slopes(x: Tensor) -> Tensor:
    return torch.stack([x.flatten(1) @ torch.arange(1.0, 1 + x[0].numel()), x.flatten(1)[:, 0]], 1)


def spam(texts: list[str]) -> list[list[float]]:
    return [[len(text), 3.0 * ("bad" in text)] for text in texts]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sampler", [never_hidden, every_mask_but])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_a_fit_that_is_not_identified_is_never_stable(rule: Any, sampler: Any, ridge: float) -> None:
    options: dict[str, Any] = {"sampler": sampler, "until": rule, "ridge": ridge}
    constant = TabularSpace.learn(np.array([[0, 1.0], [1, 1.0], [0, 2.0], [1, 3.0]]))
    rows = {"sampler": neighbours(1), "until": rule, "ridge": ridge}
    once = np.array([[0.0, 1.0], [1.0, 3.0]])  # two rows cannot tell two columns apart
    results = [
        lime_image(slopes, torch.rand(1, 9), segments=torch.arange(9) // 3, **options),
        lime_text(spam, "not so bad at all", 1, **options),
        lime_parts(spam, [text_part("not so bad at all")], 1, **options),
    ]
    if ridge:
        results.append(lime_tabular(lambda t: t[:, 0], once[:1], space=TabularSpace.learn(once), **rows))
    assert len(constant.features) == 2
    for found in results:
        (flags,) = found.flags
        assert Flag.SINGULAR in flags
        assert Flag.STABLE not in flags
        assert Flag.NOT_REACHED in flags
        assert "Not stable: some weights are not identified." in found.to_html()


def test_a_ridge_does_not_hide_what_the_masks_do_not_identify() -> None:
    z = never_hidden(4, 40, 0).masks
    y = z.double()[:, 1:2]
    for options in ({"ridge": 0.1}, {"ridge": 0.1, "prior": torch.ones(4)}, {}):
        assert bool(fit(z, y[None], **options).singular)  # type: ignore[arg-type]
        free = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.5
        assert not bool(fit(free, y[None], **options).singular)  # type: ignore[arg-type]


def test_rounding_errors_are_not_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(256, 4, generator=generator) < 0.5
    for noise, stable in ((1e-17, False), (1e-3, True)):
        y = 0.5 + noise * z[:, :1].double()
        fitted = fit(z, y[None])
        rule = until_stable(top=1)
        weights = torch.tensor([[[noise, 0.0, 0.0, 0.0]]], dtype=torch.float64)
        sure = replace(fitted, weights=weights, se=torch.zeros_like(weights))
        assert rule.reached(z, y, torch.ones(256), sure, ridge=0.0, groups=1) is stable


def noisy() -> Surrogates:
    "Two words; with weights of rounding errors, whose standard errors are smaller still."
    found = lime_text(spam, ["not bad", "so bad"], 1)
    weights = torch.tensor([[[1e-17, -1e-17]], [[0.5, 1e-12]]], dtype=torch.float64)
    se = torch.tensor([[[1e-18, 1e-18]], [[0.01, 1e-14]]], dtype=torch.float64)
    return replace(found, weights=weights, se=se)


def test_the_sign_of_a_rounding_error_is_not_stable() -> None:
    pytest.importorskip("pandas")
    found = noisy()
    assert found.to_dataframe()["sign_is_stable"].tolist() == [False, False, True, False]
    assert found.to_dataframe()["weight"].tolist() == [1e-17, -1e-17, 0.5, 1e-12]


def test_rounding_errors_are_not_shown_as_weights() -> None:
    found = noisy()
    assert "<mark" not in found[0].to_html()
    assert found[1].to_html().count("<mark") == 1
    assert "h120.0" not in found[0].to_html()
    image = lime_image(slopes, torch.rand(1, 1, 4, 4), segments=torch.arange(16).reshape(4, 4) // 8)
    flat = replace(image, weights=torch.full_like(image.weights, 1e-17), prediction=torch.ones(1, 1))
    assert not flat.mask(top=2).any()
    assert image.mask(top=2).any()


def test_rounding_errors_are_not_covered() -> None:
    found = noisy()
    assert submodular_pick(found, budget=1, noise=found.se).index == (1,)
    assert sorted(submodular_pick(found, budget=2).importance.values())[:2] == [0.0, 0.0]
    w = torch.tensor([[[1.0, 1e-16]], [[0.0, 1e-16]]])
    assert submodular_pick(w, keys=[("a", "b"), ("a", "c")], budget=1).importance["b"] == 0


def test_settled_weights_keep_their_scale() -> None:
    w = torch.tensor([1e-20, 1e-21, 0.0], dtype=torch.float64)
    assert torch.equal(settled(w, torch.tensor(0.0)), w)
    assert torch.equal(settled(w, torch.tensor(1.0)), torch.zeros(3, dtype=torch.float64))
    assert settled(w[:0], torch.tensor(1.0)).shape == (0,)
