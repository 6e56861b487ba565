"""Limits of local surrogates: what is stable, what is only a rounding error, and how far the leading features carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled import BadInput
from unfooled.explanations import TabularSpace, lime, lime_image, lime_parts, lime_tabular, lime_text, soft_stability
from unfooled.explanations.lime import (
    Design,
    Flag,
    Stability,
    Surrogates,
    every_mask,
    fit,
    neighbours,
    submodular_pick,
    text_part,
    until_stable,
    with_part_stability,
    with_row_stability,
    with_text_stability,
)
from unfooled.explanations.lime.rounding import settled
from unfooled.explanations.lime.text import pieces_of, positions
from unfooled.explanations.stability import stability_of_samples

RULES = [until_stable(top=1, first=64, at_most=256), until_stable(top=5, first=64, at_most=256),
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
        assert bool(fit(z, y[None], **options).singular)
        free = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.5
        assert not bool(fit(free, y[None], **options).singular)


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


# Soft stability


def sums(texts: list[str]) -> list[list[float]]:
    "One output, which a good word raises and a bad one turns to the other side of that of the empty text."
    return [[1.0 + ("good" in text) - 3 * ("bad" in text)] for text in texts]


@pytest.mark.parametrize("exact", [True, False])
def test_the_side_of_one_output(exact: bool) -> None:
    good = torch.tensor([True, False, False])

    def f(z: Tensor) -> Tensor:
        return torch.stack([1.0 + z[:, 0] - 3.0 * z[:, 1]], 1)

    for r, share in ((1, 2 / 3), (2, 0.5)):  # {}, bad, dull; and both
        found = soft_stability(f, good, r, exact=exact, draws=2000)
        assert found.value == pytest.approx(share, abs=0 if exact else 0.03)
    assert soft_stability(f, ~good & False, 2, exact=True).value == pytest.approx(4 / 7 - 2 / 7, abs=1e-12)
    assert soft_stability(lambda z: 1e6 + 1e-5 * z[:, 1:2].double(), good, 2, exact=True).value == 1
    for tolerance, share in ((0.0, 0.5), (2.9, 0.5), (3.0, 1.0)):
        assert soft_stability(f, good, 2, exact=True, tolerance=tolerance).value == share
    with pytest.raises(BadInput, match="tolerance is -1"):
        soft_stability(f, good, 1, tolerance=-1)


def test_a_regression_has_its_soft_stability() -> None:
    texts = ["good or bad"]
    found = with_text_stability(lime_text(sums, texts), sums, settings=Stability(top=1, r=2))
    assert found.stability == ((1.0, 1.0, 1.0),)  # "bad" leads by |weight|, and nothing outweighs it
    assert found.leading(0, 1).tolist() == [False, False, True]
    wide = with_text_stability(lime_text(sums, texts), sums, settings=Stability(top=1, r=2, tolerance=0.5))
    assert wide.stability == ((0.5, 0.5, 0.5),)
    table = np.random.default_rng(0).normal(size=(60, 3))
    space = TabularSpace.learn(table)
    row = np.array([[2.0, 0.1, 0.0]])

    def slope(rows: Any) -> Any:
        return 5 * rows[:, 0] + rows[:, 1]

    rows = with_row_stability(lime_tabular(slope, row, space=space), slope, row, space=space, settings=Stability(top=1))
    assert rows.stability == ((1.0, 1.0, 1.0),)
    both = with_part_stability(
        lime_parts(sums, [text_part("good or bad")]), sums, [text_part("good or bad")], settings=Stability(top=1)
    )
    assert both.stability == ((1.0, 1.0, 1.0),)
    for one in (found, rows, both):
        assert "the answer stays on its side of that with all features hidden with probability 1.00" in one.to_html()


def test_every_page_says_something_about_soft_stability() -> None:
    table = np.random.default_rng(0).normal(size=(40, 2))
    space = TabularSpace.learn(table)
    results = {
        "with_text_stability(result, predict)": lime_text(spam, "not so bad", 1),
        "with_row_stability(result, predict, rows, space=space)": lime_tabular(
            lambda t: t[:, 0], table[:1], space=space
        ),
        "with_part_stability(result, predict, parts)": lime_parts(spam, [text_part("not so bad")], 1),
        "with_stability(result, model)": lime_image(
            slopes, torch.rand(1, 1, 4, 4), segments=torch.arange(16).reshape(4, 4) // 8
        ),
    }
    for call, found in results.items():
        for html in (found.to_html(), found._repr_html_()):
            assert f"Soft stability was not measured; <code>{call}</code> does it." in html
        assert hasattr(lime, call.split("(")[0])
    assert "Soft stability" not in lime_text(spam, "", 1).to_html()


def test_stored_samples_that_answer_it() -> None:
    def alarm(texts: Any) -> list[list[float]]:
        return [[0.5, 0.9 * ("bad" in text) * ("not" not in text)] for text in texts]

    text = "this is not so bad"
    kept = lime_text(alarm, text, [[0, 1]], keep_samples=True)
    assert kept.leading(0, 5).all()
    known = stability_of_samples(kept.masks[0], kept.answers[0], torch.arange(5) == 4, 4)  # type: ignore[index]
    asked = soft_stability(lambda z: torch.tensor(alarm(pieces_of(text).copies(z))), torch.arange(5) == 4, 4)
    assert known == asked
    assert asked.exact
    assert 0.2 < asked.value < 0.8
    assert "the class stays with probability 1.00 when others are added" in kept.to_html()
    assert "was not measured" in lime_text(alarm, text, 1, keep_samples=True).to_html(), "the other class is not known"
    assert stability_of_samples(kept.masks[0][:9], kept.answers[0][:9], torch.arange(5) == 4, 4) is None  # type: ignore[index]
    one = lime_text(sums, "good or bad", keep_samples=True)
    assert "the answer stays on its side" in one.to_html()
    assert stability_of_samples(one.masks[0][1:], one.answers[0][1:], torch.arange(3) == 2, 2) is None  # type: ignore[index]
    image = lime_image(slopes, torch.rand(1, 1, 4, 4), [[0, 1]], segments=torch.arange(16).reshape(4, 4) // 6,
                       sampler=every_mask, samples=8, keep_samples=True)  # fmt: skip
    assert "the class stays with probability 1.00" in image.to_html()


WIDE = np.random.default_rng(0).normal(size=(50, 30))
FEW: dict[str, Any] = {
    "text": lambda **o: lime_text(spam, " ".join(f"w{k}" for k in range(30)), 1, **o),
    "positions": lambda **o: lime_text(spam, "bad " * 30, 1, unit=positions, **o),
    "image": lambda **o: lime_image(slopes, torch.rand(1, 60), segments=torch.arange(60) // 2, **o),
    "parts": lambda **o: lime_parts(spam, [text_part(" ".join(f"w{k}" for k in range(30)))], 1, **o),
    "row": lambda **o: lime_tabular(
        lambda t: t[:, 0], WIDE[:1], space=TabularSpace.learn(WIDE), kernel=None, **({"samples": 1} | o)
    ),
}


@pytest.mark.filterwarnings("ignore:.*few effective samples")
@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("samples", [4, 30])
def test_fewer_samples_than_the_fit_needs_are_refused_unless_a_ridge_is_given(kind: str, samples: int) -> None:
    explain = FEW[kind]
    with pytest.raises(
        BadInput, match=r"samples do not identify .*30 (features|weights); draw at least (32|62), or giv"
    ):
        explain(samples=samples)
    with pytest.raises(BadInput, match="do not identify"):
        explain(samples=samples, ridge=0.0)
    for options in ({"ridge": 0.1}, {"ridge": 0.1, "prior": torch.zeros(30)}):
        found = explain(samples=samples, **options)
        assert {Flag.SINGULAR, Flag.FEW} <= set(found.flags[0])
        assert "Some weights are not identified" in found.to_html()
        assert set(Surrogates.from_json(found.to_json()).flags[0]) == set(found.flags[0])
    assert Flag.SINGULAR not in explain(samples=400).flags[0]


@pytest.mark.filterwarnings("ignore:.*few effective samples")
def test_a_text_of_many_words_until_it_is_stable() -> None:
    found = FEW["text"](until=until_stable(top=1, first=4, at_most=32))
    assert len(found.flags[0]) > 0
    assert Flag.STABLE not in found.flags[0]
