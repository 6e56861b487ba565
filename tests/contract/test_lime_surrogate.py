"""The surrogate core: closed forms, streaming, errors with the coverage that they claim, priors and selection."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime import (
    Gram,
    bernoulli,
    by_size,
    cosine_kernel,
    every_mask,
    fit,
    hadamard,
    hamming_kernel,
    kernel_sizes,
    l2_kernel,
    leverage,
    paired,
    select_forward,
    select_largest,
    until_stable,
    width_for,
)
from unfooled.explanations.lime.kernels import uniform

SAMPLERS: dict[str, Any] = {
    "bernoulli": bernoulli,
    "paired": paired,
    "by_size": by_size,
    "kernel_sizes": kernel_sizes,
    "hadamard": hadamard,
    "every_mask": every_mask,
}
KERNELS: dict[str, Any] = {
    "uniform": uniform, "cosine": cosine_kernel(), "l2": l2_kernel(), "hamming": hamming_kernel(0.4)
}  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def curved(z: Tensor, seed: int = 3) -> Tensor:
    "A function of masks with interactions of every order, (S, 1)."
    w = noise(z.shape[1], 6, seed=seed)
    return torch.tanh(z.to(torch.float64) @ w * 0.4).sum(1, keepdim=True)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_linear_function_is_found_exactly_and_without_error(sampler: Any, kernel: Any) -> None:
    design = sampler(9, 256, 1)
    w = noise(2, 3, 9)
    w[:, :, 4] = 0
    y = torch.einsum("sm,btm->bst", design.masks.to(torch.float64), w) + 5
    found = fit(design.masks, y, kernel(design.masks), groups=design.unit)
    assert (found.weights - w).abs().max() < 1e-9
    assert (found.intercept - 5).abs().max() < 1e-9
    assert found.se.max() < 1e-9
    assert found.r2.min() > 1 - 1e-12
    assert found.r2_held_out.min() > 1 - 1e-12


def test_weights_are_those_of_weighted_least_squares() -> None:
    design = bernoulli(7, 90, 0)
    z, pi, y = design.masks.numpy().astype(float), cosine_kernel(0.3)(design.masks), curved(design.masks)
    root = pi.sqrt().numpy()[:, None]
    want = np.linalg.lstsq(root * np.c_[np.ones(90), z], root * y.numpy(), rcond=None)[0][:, 0]
    found = fit(design.masks, y[None], pi)
    assert np.abs(found.weights[0, 0].numpy() - want[1:]).max() < 1e-10
    assert abs(float(found.intercept) - want[0]) < 1e-10


def test_the_penalty_is_per_unit_of_weight() -> None:
    from sklearn.linear_model import Ridge

    design = bernoulli(7, 90, 0)
    pi, y = cosine_kernel(0.3)(design.masks), curved(design.masks)
    model = Ridge(alpha=0.1 * float(pi.sum())).fit(design.masks.double().numpy(), y[:, 0].numpy(), pi.numpy())
    found = fit(design.masks, y[None], pi, ridge=0.1)
    assert np.abs(found.weights[0, 0].numpy() - model.coef_).max() < 1e-10
    twice = fit(torch.cat([design.masks] * 2), torch.cat([y, y])[None], torch.cat([pi, pi]), ridge=0.1)
    assert (twice.weights - found.weights).abs().max() < 1e-12


def test_streaming_and_appending_are_one_shot() -> None:
    design = paired(8, 120, 5)
    pi, y = cosine_kernel(0.3)(design.masks), torch.cat([curved(design.masks), curved(design.masks, 4)], 1)
    whole = Gram(8, 2).add(design.masks, y, pi).solve(0.01)
    parts = Gram(8, 2)
    for rows in (slice(0, 7), slice(7, 64), slice(64, 120)):
        parts.add(design.masks[rows], y[rows], pi[rows])
    assert (parts.solve(0.01) - whole).abs().max() < 1e-12
    assert (whole[1:].T - fit(design.masks, y[None], pi, ridge=0.01).weights[0]).abs().max() < 1e-12
    assert parts.ess == pytest.approx(float(pi.sum() ** 2 / (pi**2).sum()))


@pytest.mark.parametrize("sampler", [bernoulli, paired, by_size, kernel_sizes])
def test_a_draw_goes_on_where_it_stopped(sampler: Any) -> None:
    whole, first, rest = sampler(13, 60, 3), sampler(13, 20, 3), sampler(13, 40, 3, start=20)
    assert torch.equal(whole.masks, torch.cat([first.masks, rest.masks]))
    assert not torch.equal(whole.masks, sampler(13, 60, 4).masks)


@pytest.mark.parametrize(("ridge", "unit"), [(0.0, 1), (0.0, 2), (0.05, 2)])
def test_left_out_residuals_are_those_of_refits(ridge: float, unit: int) -> None:
    design = bernoulli(4, 24, 2)
    z, y = design.masks, curved(design.masks)
    pi = cosine_kernel(0.4)(z)
    total = float((y[:, 0] - (pi @ y[:, 0]) / pi.sum()) ** 2 @ pi)
    error = 0.0
    for low in range(0, 24, unit):
        out = torch.arange(low, low + unit)
        keep = torch.ones(24, dtype=torch.bool).scatter(0, out, False)
        gram = Gram(4, 1).add(z[keep], y[keep], pi[keep])
        beta = gram.solve(ridge * float(pi.sum()) / gram.total)  # the penalty of the whole fit
        error += float(pi[out] @ (y[out, 0] - beta[0, 0] - z[out].double() @ beta[1:, 0]) ** 2)
    found = fit(z, y[None], pi, ridge=ridge, groups=unit)
    assert float(found.r2_held_out) == pytest.approx(1 - error / total, abs=1e-9)
    assert found.r2_held_out < found.r2


def test_groups_may_be_labels_in_any_order() -> None:
    z, y = paired(7, 40, 1).masks, curved(paired(7, 40, 1).masks)
    mixed = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    label = torch.arange(len(z)) // 2
    want, found = fit(z, y[None], groups=2), fit(z[mixed], y[mixed][None], groups=label[mixed])
    assert (want.se - found.se).abs().max() < 1e-12
    assert (want.r2_held_out - found.r2_held_out).abs().max() < 1e-12


def coverage(sampler: Any, features: int, samples: int, runs: int) -> tuple[float, float]:
    "Share of 95 % intervals that hold the weights of all masks, and the ratio of claimed to true errors."
    truth = fit(every_mask(features).masks, curved(every_mask(features).masks)[None], groups=0).weights[0, 0]
    inside, errors, claims = [], [], []
    for seed in range(runs):
        design = sampler(features, samples, seed)
        found = fit(design.masks, curved(design.masks)[None], groups=design.unit)
        off = found.weights[0, 0] - truth
        inside.append((off.abs() <= 1.96 * found.se[0, 0]).double().mean())
        errors.append(off**2)
        claims.append(found.se[0, 0] ** 2)
    ratio = torch.stack(claims).mean().sqrt() / torch.stack(errors).mean().sqrt()
    return float(torch.stack(inside).mean()), float(ratio)


@pytest.mark.parametrize("sampler", [bernoulli, paired])
def test_the_intervals_cover(sampler: Any) -> None:
    share, ratio = coverage(sampler, 12, 128, 120)  # 1,440 intervals at about 10 samples a feature
    assert 0.93 <= share <= 0.985
    assert 0.9 < ratio < 1.35


def test_pairs_that_are_ignored_give_another_error() -> None:
    design = paired(12, 256, 0)
    y = curved(design.masks)[None]
    assert fit(design.masks, y, groups=1).se.mean() > 1.2 * fit(design.masks, y, groups=2).se.mean()
    assert fit(every_mask(6).masks, curved(every_mask(6).masks)[None], groups=0).se.abs().max() == 0


def test_a_prior_goes_from_the_plain_fit_to_its_mean() -> None:
    design = paired(6, 40, 0)
    y, mean = torch.stack([curved(design.masks), curved(design.masks, 9)]), noise(2, 6, seed=5)
    plain = fit(design.masks, y)
    weak, strong = (fit(design.masks, y, ridge=k, prior=mean) for k in (1e-12, 1e9))
    assert (weak.weights - plain.weights).abs().max() < 1e-8
    assert (strong.weights[:, 0] - mean).abs().max() < 1e-6
    assert strong.sd is not None
    assert weak.sd is not None
    assert strong.sd.max() < 1e-4 < weak.sd.min()
    between = fit(design.masks, y, ridge=0.2, prior=mean)
    z = design.masks.double() - design.masks.double().mean(0)
    w = len(z)
    for i in range(2):
        c = z.T @ (y[i, :, 0] - y[i, :, 0].mean())
        want = torch.linalg.solve(0.2 * w * torch.eye(6) + z.T @ z, 0.2 * w * mean[i] + c)
        assert (between.weights[i, 0] - want).abs().max() < 1e-10


def test_answers_scaled_and_features_permuted() -> None:
    design = paired(6, 40, 0)
    y, pi = curved(design.masks)[None], cosine_kernel(0.4)(design.masks)
    want, moved = fit(design.masks, y, pi, groups=2), fit(design.masks, -3 * y + 7, pi, groups=2)
    assert (moved.weights + 3 * want.weights).abs().max() < 1e-10
    assert (moved.se - 3 * want.se).abs().max() < 1e-10
    assert (moved.intercept - (-3 * want.intercept + 7)).abs().max() < 1e-10
    assert (moved.r2_held_out - want.r2_held_out).abs().max() < 1e-10
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert (fit(design.masks[:, order], y, pi).weights - want.weights[..., order]).abs().max() < 1e-10


def test_designs_of_their_own_and_several_outputs() -> None:
    designs = [bernoulli(5, 30, seed).masks for seed in range(3)]
    y = torch.stack([torch.cat([curved(z), curved(z, 8)], 1) for z in designs])
    together = fit(torch.stack(designs), y)
    for i, z in enumerate(designs):
        assert (together.weights[i] - fit(z, y[i : i + 1]).weights[0]).abs().max() < 1e-12
        assert (together.se[i] - fit(z, y[i : i + 1]).se[0]).abs().max() < 1e-12


def test_selection_is_the_greedy_search_with_refits() -> None:
    design = bernoulli(8, 60, 4)
    y, pi = curved(design.masks), cosine_kernel(0.4)(design.masks)
    gram = Gram(8, 1).add(design.masks, y, pi)
    chosen: list[int] = []
    for _ in range(4):
        scores = [
            float(fit(design.masks[:, [*chosen, j]], y[None], pi).r2) if j not in chosen else -1 for j in range(8)
        ]
        chosen.append(int(np.argmax(scores)))
    assert select_forward(gram, 4) == chosen
    assert select_largest(torch.tensor([1.0, -3.0, 0.5, 3.0]), 2) == [1, 3]
    twin = torch.cat([design.masks, design.masks[:, chosen[:1]]], 1)
    assert select_forward(Gram(9, 1).add(twin, y, pi), 1) == chosen[:1], "a tie goes to the lowest index"


def test_masks_that_do_not_identify_the_weights_are_flagged() -> None:
    z = bernoulli(4, 40, 0).masks
    z[:, 2] = True
    found = fit(z, curved(z)[None])
    assert bool(found.singular.all())
    assert torch.isfinite(found.weights).all()
    assert not bool(fit(bernoulli(4, 40, 0).masks, curved(z)[None]).singular.any())


def test_a_constant_answer_is_a_flat_explanation() -> None:
    z = bernoulli(4, 40, 0).masks
    found = fit(z, torch.full((1, 40, 1), 0.3))
    assert found.weights.abs().max() < 1e-12
    assert float(found.r2) == 1
    assert float(found.r2_held_out) == 1


# Samplers


def test_pairs_are_complements_and_cancel_even_interactions() -> None:
    design = paired(20, 64, 0)
    assert torch.equal(design.masks[0::2], ~design.masks[1::2])
    z = 2 * design.masks.double() - 1
    found = fit(design.masks, (z[:, 3] * z[:, 7])[None, :, None], groups=2)
    assert found.weights.abs().max() < 1e-10, "an interaction of two has no effect on any weight"
    assert fit(bernoulli(20, 64, 0).masks, (z[:, 3] * z[:, 7])[None, :, None]).weights.abs().max() > 1e-3
    every = paired(5, 32, 0)
    assert every.unit == 0
    assert len(every.masks.unique(dim=0)) == 32


def test_hadamard_cancels_pairs_of_interactions() -> None:
    design = hadamard(10, 200)
    assert len(design.masks) == 128
    z = 2 * design.masks.double() - 1
    assert (z.T @ z - 128 * torch.eye(10)).abs().max() == 0
    for i, j in ((0, 1), (2, 9), (4, 5)):
        assert (z.T @ (z[:, i] * z[:, j])).abs().max() == 0


def test_sizes_are_stratified() -> None:
    design = by_size(10, 200, 0)
    assert torch.equal(design.masks[0::2].sum(1).bincount(minlength=11), torch.tensor([10] * 10 + [0]))
    alone = by_size(10, 100, 0, pairs=False)
    assert torch.equal(alone.masks.sum(1).bincount(minlength=11), torch.tensor([10] * 10 + [0]))
    assert alone.unit == 1


def test_kernel_sizes_has_the_law_of_the_kernel() -> None:
    def shown(z: Tensor) -> Tensor:
        return torch.exp(-(z.shape[1] - z.double().sum(1)))

    masks = kernel_sizes(10, 4000, 0, kernel=shown).masks.double()
    p = 1 / (1 + np.exp(-1.0))  # the counts of independent bits (GLIME)
    assert abs(float(masks.mean()) - p) < 4 * np.sqrt(p * (1 - p) / 40000)


@pytest.mark.parametrize("features", [2, 3, 7, 8])
def test_leverage_draws_distinct_pairs(features: int) -> None:
    everything = leverage(features, 2**features, 0)
    assert len(everything.masks) == 2**features - 2
    assert everything.unit == 0
    some = leverage(features, 2**features // 2, 0)
    assert len(some.masks.unique(dim=0)) == len(some.masks)
    assert torch.equal(some.masks[0::2], ~some.masks[1::2])
    assert everything.shapley is not None
    from unfooled.explanations.lime.samplers import shapley_weights

    assert (everything.shapley - shapley_weights(everything.masks)).abs().max() < 1e-12


def test_widths_for_a_share_of_effective_samples() -> None:
    for features, known in ((20, 0.90), (49, 0.95), (200, 0.99)):  # of LIME's own width
        design = bernoulli(features, 4000, 0)
        pi = cosine_kernel(0.25)(design.masks)
        assert abs(float(pi.sum() ** 2 / (pi**2).sum()) / 4000 - known) < 0.01
        assert abs(width_for(known, features) - 0.25) < 0.05
    width = width_for(0.3, 30, hamming_kernel)
    pi = hamming_kernel(width)(bernoulli(30, 20000, 1).masks)
    assert float(pi.sum() ** 2 / (pi**2).sum()) / 20000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fit(torch.ones(4, 5), torch.ones(1, 4, 1)), "draw at least 7"),
        (lambda: fit(torch.ones(9, 5), torch.ones(1, 9, 1), groups=2), "draw at least 12"),
        (lambda: fit(torch.ones(9, 2), torch.ones(1, 8, 1)), "write"),
        (lambda: fit(torch.ones(9, 2), torch.full((1, 9, 1), torch.nan)), "NaN"),
        (lambda: fit(torch.ones(9, 2), torch.ones(1, 9, 1), prior=torch.ones(2)), "precision"),
        (lambda: fit(torch.ones(9, 2), torch.ones(1, 9, 1), torch.zeros(9)), "sum to 0"),
        (lambda: fit(torch.ones(9, 2), torch.ones(1, 9, 1), torch.ones(8)), "give 9 numbers"),
        (lambda: fit(torch.ones(9, 2), torch.ones(1, 9, 1), ridge=-1.0), "at least 0"),
        (lambda: every_mask(40), "2\\^40"),
        (lambda: hadamard(30, 40), "at least 64"),
        (lambda: leverage(1, 10, 0), "the only feature has"),
        (partial(cosine_kernel, 0.0), "above 0"),
        (lambda: width_for(1.0, 4), "a share"),
        (lambda: until_stable(0), "at least 1"),
        (lambda: bernoulli(3, 4, 0, p=1.0), "probability"),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()
