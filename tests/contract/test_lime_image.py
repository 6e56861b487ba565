"""LIME of images: truth on linear models, invariances, derivatives, refusals, and the forms of the result."""

from __future__ import annotations

import io
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.model.calls import ModelFails
from unfooled.core.threats import Linf
from unfooled.explanations import lime_image, lime_map
from unfooled.explanations.gradients import log_probability
from unfooled.explanations.lime import (
    Flag,
    Prior,
    Surrogates,
    bernoulli,
    blur,
    by_size,
    constant,
    contiguous,
    cosine_kernel,
    dataset_mean,
    expected,
    fit,
    grid,
    hadamard,
    kernel_sizes,
    noise,
    paired,
    segment_mean,
    until_stable,
)
from unfooled.explanations.lime.answers import Masked, rows_a_call
from unfooled.explanations.lime.samplers import Independent
from unfooled.explanations.lime.segments import composed
from unfooled.testing import check_explanation

SHAPE = (3, 9, 8)
IDS = (torch.arange(72) // 6).reshape(9, 8)
"""Twelve stripes of six pixels."""


def linear(x: Tensor, k: int = 4) -> tuple[Any, Tensor]:
    w = torch.randn(k, x[0].numel(), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return (lambda z: z.flatten(1) @ w.T + 7), w


def images(n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return points(n, SHAPE, dtype=dtype, seed=4)


def stripes(effect: Tensor) -> Tensor:
    "Sums of (B, C, H, W) over the stripes, (B, 12)."
    total = torch.zeros(len(effect), 12, dtype=effect.dtype)
    return total.index_add(1, IDS.flatten(), effect.sum(1).flatten(1))


BASELINES: dict[str, Any] = {
    "segment_mean": segment_mean,
    "constant": constant(0.3),
    "colour": constant(torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1)),
    "blur": blur,
    "noise": noise,
    "dataset_mean": dataset_mean(points(5, SHAPE, dtype=torch.float64, seed=9)),
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES.keys())
@pytest.mark.parametrize("sampler", [paired, bernoulli, by_size, kernel_sizes, hadamard, Independent(paired)])
def test_a_linear_model_is_explained_exactly(sampler: Any, baseline: Any) -> None:
    x = images()
    model, w = linear(x)
    y = torch.tensor([[0, 1], [2, 3], [1, 0]])
    found = lime_image(model, x, y, segments=IDS, sampler=sampler, samples=128, baseline=baseline)
    hidden = baseline(x, IDS.expand(3, 9, 8))
    for t in range(2):
        want = stripes(w[y[:, t]].reshape(x.shape) * (x - hidden))
        assert (found.weights[:, t] - want).abs().max() < 1e-9
    assert found.weights.shape == (3, 2, 12)
    assert found.se.max() < 1e-9
    assert found.r2_held_out.min() > 1 - 1e-9
    assert (found.local_prediction - found.prediction).abs().max() < 1e-9
    assert (found.prediction - model(x).gather(1, y)).abs().max() < 1e-9


def test_a_linear_model_of_49_cells_in_single_precision() -> None:
    """500 samples: within 1e-5 of the largest weight, the 32 cells that the model ignores included."""
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(5)) + 0.5
    ids = grid(7)(x)[0]
    w = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(6)) * (ids % 3 == 0)
    y = torch.tensor([0, 1, 2, 0])

    def model(z: Tensor) -> Tensor:
        return z.flatten(1) @ w.flatten(1).T

    found = lime_image(model, x, y, samples=500, baseline=constant(0.0))
    want = torch.zeros(4, 49).index_add(1, ids.flatten(), (w[y] * x[:, 0]).flatten(1))
    assert int((want[0] == 0).sum()) == 32
    error = (found.weights[:, 0] - want).abs().amax(1) / want.abs().amax(1)
    assert error.max() < 1e-5
    assert found.r2_held_out.min() > 1 - 1e-9


def test_a_segment_that_the_model_ignores_has_no_weight() -> None:
    x = images()
    net = tiny_net(4, SHAPE, dtype=torch.float64)
    seen = (IDS != 5).to(x.dtype)
    found = lime_image(lambda z: net(z * seen), x, segments=IDS, samples=4096, baseline=constant(0.2))
    assert found.flags[0] == (Flag.EVERY_MASK,)
    assert found.weights[:, :, 5].abs().max() < 1e-9
    assert found.weights.abs().amax() > 1e-3
    few = lime_image(lambda z: net(z * seen), x, segments=IDS, samples=200, baseline=constant(0.2))
    assert (few.weights[:, :, 5].abs() <= 4 * few.se[:, :, 5] + 1e-12).all()
    assert (few.se[:, :, 5] > 0).all()


def test_two_features_that_act_together_share_their_effect() -> None:
    def product(z: Tensor) -> Tensor:
        return torch.stack([z[:, 0] * z[:, 1], z[:, 0] * 0], 1)

    x = torch.ones(1, 2, dtype=torch.float64)
    found = lime_image(product, x, torch.tensor([0]), segments=torch.arange(2), baseline=constant(0.0))
    assert torch.equal(found.weights[0, 0], torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_probabilities_of_a_sure_network_have_weights() -> None:
    x = images()
    model, _ = linear(x)

    def probability(logits: Tensor, y: Tensor) -> Tensor:
        return true_logit(logits.softmax(1), y)

    found = lime_image(model, x, segments=IDS, score=probability, baseline=constant(0.0))
    assert (found.weights.abs().amax(2) > 1e-3).all()
    assert (found.r2_held_out < 0.999).all()


def test_the_batch_and_its_order_do_not_matter() -> None:
    x, net = images(5), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 3, 1, 2, 0])
    order = torch.tensor([3, 0, 4, 2, 1])
    for options in ({}, {"sampler": bernoulli, "independent": True}, {"until": until_stable(2, first=64, at_most=256)}):
        explain: Any = partial(lime_image, net, segments=grid(3), baseline=constant(0.1), **options)
        whole = explain(x, y)
        moved = explain(x[order], y[order])
        assert (moved.weights - whole.weights[order]).abs().max() < 1e-9
        assert (moved.se - whole.se[order]).abs().max() < 1e-9
        for i in range(5):
            assert (explain(x[i : i + 1], y[i : i + 1]).weights[0] - whole.weights[i]).abs().max() < 1e-9
        assert torch.equal(explain(x, y).weights, whole.weights)
        other = explain(x, y, generator=torch.Generator().manual_seed(1))
        assert "samples" in options or (other.weights - whole.weights).abs().max() > 1e-6 or whole.se.max() == 0


def test_the_number_of_rows_in_a_call_does_not_matter() -> None:
    x, net = images(2), tiny_net(4, SHAPE, dtype=torch.float64)
    masks = paired(12, 100, 0).masks
    y, ids = torch.tensor([[0, 1], [2, 3]]), IDS.expand(2, 9, 8)
    with torch.no_grad():
        want = Masked(net, x, y, ids, segment_mean, true_logit).answers(1, masks)
        for batch in (1, 7, 100):
            found = Masked(net, x, y, ids, segment_mean, true_logit, batch).answers(1, masks)
            assert (found - want).abs().max() < 1e-10


def test_calls_on_a_cpu_stay_in_the_cache() -> None:
    light = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert rows_a_call(light, torch.rand(1, 1, 28, 28)) == 128
    wide = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    net = nn.Sequential(wide, nn.Flatten(), nn.Linear(32 * 784, 10))
    assert 32 <= rows_a_call(net, torch.rand(1, 1, 28, 28)) < 128
    assert rows_a_call(lambda z: z.flatten(1)[:, :10], torch.rand(1, 3, 224, 224)) <= (1 << 23) // (3 * 224 * 224 * 4)
    assert rows_a_call(lambda z: z.flatten(1)[:, :10], torch.rand(1, 3, 2000, 1000)) == 1


def test_answers_at_masks_are_those_of_composed_inputs() -> None:
    x, net = images(2), tiny_net(4, SHAPE, dtype=torch.float64)
    found = lime_image(net, x, torch.tensor([1, 2]), segments=IDS, samples=66, keep_samples=True, baseline=blur)
    assert found.masks is not None
    assert found.answers is not None
    hidden = blur(x, IDS)
    for s in (0, 5, 33):
        m = found.masks[1][s][IDS].to(x.dtype)
        z = x[1:] * m + hidden[1:] * (1 - m)
        assert float(found.answers[1][s, 0]) == pytest.approx(float(net(z)[0, 2].detach()), abs=1e-10)
    again = fit(found.masks[1], found.answers[1][None], groups=2)
    assert (again.weights[0] - found.weights[1]).abs().max() < 1e-10
    assert (again.se[0] - found.se[1]).abs().max() < 1e-10
    assert lime_image(net, x, segments=IDS).masks is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_copies_are_the_sample_where_it_is_shown_bit_for_bit(dtype: torch.dtype) -> None:
    for shape, whole in (((3, 9, 8), False), ((3, 9, 8), True), ((40,), True), ((6, 5), False), ((2, 3, 4, 5), False)):
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 100).to(dtype)
        hidden = torch.full((), -0.0, dtype=dtype).expand(shape) if whole else x.flip(0).contiguous()
        ids = torch.arange(x.numel() if whole else x[0].numel()).reshape(shape if whole else shape[1:]) % 7
        masks = bernoulli(7, 20, 0).masks
        shown = masks[:, ids.flatten()].reshape(20, *ids.shape)
        want = torch.where(shown if whole else shown[:, None], x, hidden)
        with torch.no_grad():
            found = composed(masks, ids, x, hidden)
        assert found.dtype == dtype
        assert torch.equal(found, want)
        assert torch.equal(found.signbit(), want.signbit())
        assert torch.equal(composed(masks, ids, x, hidden), want)


def test_samples_of_different_numbers_of_segments() -> None:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    ids = torch.stack([IDS, IDS // 2 * 5 + 3, IDS])  # twelve, six with gaps, twelve
    found = lime_image(net, x, torch.tensor([0, 1, 2]), segments=ids, samples=128)
    assert [len(names) for names in found.names] == [12, 6, 12]
    assert found.weights[1, 0, 6:].abs().max() == 0
    alone = lime_image(net, x[1:2], torch.tensor([1]), segments=IDS // 2, samples=128)
    assert (alone.weights[0, 0] - found.weights[1, 0, :6]).abs().max() < 1e-9
    assert found[1].weights.shape == (1, 1, 6)
    assert len(found.heatmap()) == 3
    assert contiguous(ids)[1].unique().tolist() == list(range(6))


def test_other_shapes_of_samples() -> None:
    for shape, cells in (((40,), 20), ((12, 6), 18), ((3, 8, 8), 16), ((2, 4, 6, 4), 12)):
        x = points(2, shape, dtype=torch.float64, seed=2)
        model, w = linear(x)
        found = lime_image(model, x, torch.tensor([0, 1]), samples=256, baseline=constant(0.0))
        assert found.weights.shape[2] == cells
        total = (w[torch.tensor([0, 1])] * x.flatten(1)).sum(1)
        assert (found.weights.sum(2)[:, 0] - total).abs().max() < 1e-9
        assert found.heatmap().shape == x.shape


def test_random_baselines_are_averaged() -> None:
    x = images()
    model, w = linear(x)
    y = torch.tensor([0, 1, 2])
    found = lime_image(model, x, y, segments=IDS, baseline=expected(noise, 3))
    hidden = torch.stack([noise(x, IDS, draw=k) for k in range(3)]).mean(0)
    assert (found.weights[:, 0] - stripes(w[y].reshape(x.shape) * (x - hidden))).abs().max() < 1e-9
    assert found.calls.tolist() == [3 * 512 + 1] * 3


def test_a_prior_is_another_explanation() -> None:
    x, net = images(2), tiny_net(4, SHAPE, dtype=torch.float64)
    y, mean = torch.tensor([0, 1]), torch.randn(2, 12, dtype=torch.float64)
    plain = lime_image(net, x, y, segments=IDS)
    weak, strong = (lime_image(net, x, y, segments=IDS, prior=Prior(mean, k)) for k in (1e-12, 1e9))
    assert (weak.weights - plain.weights).abs().max() < 1e-8
    assert (strong.weights[:, 0] - mean).abs().max() < 1e-6
    assert strong.sd is not None
    assert plain.sd is None
    mean_alone = lime_image(net, x, y, segments=IDS, prior=mean, ridge=0.3)
    both = lime_image(net, x, y, segments=IDS, prior=Prior(mean, 0.3))
    assert torch.equal(mean_alone.weights, both.weights)


def test_batches_are_halved_where_memory_runs_out() -> None:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    y, seen = torch.tensor([0, 1, 2]), []
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def small(z: Tensor) -> Tensor:
        seen.append(len(z))
        if len(z) > 20:
            raise error
        return net(z)

    whole = lime_image(net, x, y, segments=IDS, samples=100)
    for batch in (None, 100):
        seen.clear()
        found = lime_image(small, x, y, segments=IDS, samples=100, batch=batch)
        assert (found.weights - whole.weights).abs().max() < 1e-9
        assert (found.se - whole.se).abs().max() < 1e-9
        assert sum(n > 20 for n in seen) <= 3, "what did not fit is not tried again"
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    with torch.no_grad():
        assert (lime_map(small, x, y, segments=IDS) - lime_map(net, x, y, segments=IDS)).abs().max() < 1e-9
    seen.clear()
    lime_image(net, x, y, segments=IDS, samples=100, batch=7)

    def noted(z: Tensor) -> Tensor:
        seen.append(len(z))
        return net(z)

    mine = lime_image(noted, x, y, segments=IDS, samples=100, batch=7)
    assert max(seen) <= 7
    assert (mine.weights - whole.weights).abs().max() < 1e-9

    def defect(z: Tensor) -> Tensor:
        raise RuntimeError("out of luck")

    with pytest.raises(ModelFails, match="out of luck"):
        lime_image(defect, x, y, segments=IDS)


def test_masks_of_each_sample() -> None:
    x, net = images(2), tiny_net(4, SHAPE, dtype=torch.float64)
    options: Any = {"segments": IDS, "samples": 100, "keep_samples": True}
    apart = lime_image(net, x, independent=True, **options)
    together = lime_image(net, x, **options)
    assert apart.masks is not None
    assert together.masks is not None
    assert not torch.equal(apart.masks[0], apart.masks[1])
    assert torch.equal(together.masks[0], together.masks[1])


def test_until_the_leading_segments_are_apart() -> None:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    ids = (torch.arange(72) // 3).reshape(9, 8)
    explain = partial(lime_image, net, x, y, segments=ids)
    rough = explain(until=until_stable(3, tolerance=100.0, first=64))
    fine = explain(until=until_stable(3, tolerance=float(rough.se.amax()), first=64, at_most=1024))
    assert rough.calls.tolist() == [129] * 3, "too few effective samples are no basis"
    assert (fine.calls > 129).any()
    assert all(flags[-1] in (Flag.STABLE, Flag.NOT_REACHED) for flags in fine.flags)
    never = explain(until=until_stable(3, tolerance=1e-12, first=64, at_most=256))
    assert never.calls.tolist() == [257] * 3
    assert all(Flag.NOT_REACHED in flags for flags in never.flags)
    same = explain(samples=256)
    assert (same.weights - never.weights).abs().max() < 1e-9, "appended samples are those of one draw"
    apart = explain(until=until_stable(1, first=64, at_most=2048))
    for i, flags in enumerate(apart.flags):
        if Flag.STABLE in flags:
            w, se = apart.weights[i, 0].abs().sort(descending=True).values, apart.se[i, 0].amin()
            assert w[0] - w[1] > se


# The map


def test_the_map_is_the_result_spread_over_pixels() -> None:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 3, 1])
    options: dict[str, Any] = {"kernel": cosine_kernel(), "sampler": bernoulli, "score": log_probability}
    want = lime_image(net, x, y, **options).heatmap()
    assert (lime_map(net, x, y, **options) - want).abs().max() < 1e-9


@pytest.mark.parametrize(
    "explain",
    [
        partial(lime_map, samples=32, segments=grid(2)),
        partial(lime_map, samples=24, sampler=bernoulli, baseline=constant(0.2), kernel=cosine_kernel(), ridge=0.01),
        partial(lime_map, samples=32, score=log_probability, segments=grid(2), baseline=blur),
    ],
)
def test_contract(explain: Any) -> None:
    check_explanation(explain)


def test_the_derivative_is_the_same_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, net = images(2), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 3])
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    slopes = []
    for batch in (512, 20):
        monkeypatch.setattr("unfooled.explanations.lime.answers.fitting_batch", lambda *_, b=batch, **__: b)
        leaf = x.clone().requires_grad_()
        value = (lime_map(net, leaf, y, samples=64, create_graph=True) * v).sum()
        slopes.append(torch.autograd.grad(value, [leaf, *net.parameters()]))
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(*slopes, strict=True))
    assert slopes[0][0].abs().max() > 0


class Narrow(torch.autograd.Function):
    """The identity, whose backward pass has memory for a few rows only."""

    rows: ClassVar[list[int]] = []

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        if len(slopes[0]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        Narrow.rows.append(len(slopes[0]))
        return slopes[0]


@pytest.mark.parametrize(("count", "samples"), [(2, 64), (6, 30)])
def test_memory_that_runs_out_in_the_backward_pass(count: int, samples: int) -> None:
    x, net = images(count), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.arange(count) % 4
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)

    def slopes(model: Any, batch: int | None) -> tuple[Tensor, ...]:
        leaf = x.clone().requires_grad_()
        value = lime_map(model, leaf, y, segments=IDS, samples=samples, batch=batch, create_graph=True)
        return torch.autograd.grad((value * v).sum(), [leaf, *net.parameters()])

    whole = slopes(net, None)
    Narrow.rows.clear()
    parts = slopes(lambda z: net(Narrow.apply(z)), 64)
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(whole, parts, strict=True))
    assert max(Narrow.rows) <= 20
    assert sum(Narrow.rows) <= count * samples + 20, "one part is tried"


def test_graphs_of_many_samples_are_not_kept() -> None:
    x, net = images(8), tiny_net(4, SHAPE, dtype=torch.float64)
    stored = 0

    def saved(t: Tensor) -> Tensor:
        nonlocal stored
        stored += t.numel()
        return t

    sizes = []
    for batch in (None, 30):
        stored, leaf = 0, x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda t: t):
            lime_map(
                net, leaf, torch.zeros(8, dtype=torch.int64), samples=30, segments=IDS, batch=batch, create_graph=True
            )
        sizes.append(stored)
    assert sizes[1] < sizes[0] / 4


def test_the_map_with_a_prior_and_until_it_is_stable() -> None:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    mean = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options: Any = {"segments": IDS, "prior": Prior(mean, 0.3), "batch": 7}
    options["until"] = until_stable(1, first=64, at_most=512)
    want = lime_image(net, x, y, **options)
    assert len(set(want.calls.tolist())) > 1
    for create_graph in (False, True):
        found = lime_map(net, x, y, create_graph=create_graph, **options)
        assert (found - want.heatmap()).abs().max() < 1e-9
    alone = lime_map(net, x, y, segments=IDS, prior=mean[0], ridge=1e9)
    assert (alone - mean[0][IDS][None, None].expand_as(x)).abs().max() < 1e-6
    with pytest.raises(BadInput, match="9 features, the sample 12"):
        lime_map(net, x, y, segments=IDS, prior=torch.zeros(9), ridge=1.0)
    with pytest.raises(BadInput, match="batch is 0"):
        lime_map(net, x, y, batch=0)


def test_clean_and_attacked_inputs_share_the_masks() -> None:
    x = images(2)
    model, w = linear(x)
    y = torch.tensor([0, 1])
    moved = (x + 0.01).clamp(0, 1)
    explain = partial(lime_map, model, y=y, sampler=bernoulli, baseline=constant(0.0), segments=IDS)
    gap = explain(moved) - explain(x)
    want = stripes(w[y].reshape(x.shape) * (moved - x))[:, IDS][:, None].expand_as(x)
    assert (gap - want).abs().max() < 1e-9


def test_it_is_attacked_like_any_explanation() -> None:
    from unfooled.attacks import Search, attack_explanation, out_of_top_k

    x, net = images(2, torch.float32), tiny_net(4, SHAPE)
    with torch.no_grad():
        y = net(x).argmax(1)
    explain = partial(lime_map, samples=64, segments=grid(3))
    z = attack_explanation(
        net, x, y, Linf(0.1), explain, objective=out_of_top_k(20), search=Search(4, restarts=1, every=4)
    )
    assert (net(z).argmax(1) == y).all()
    assert (explain(net, z, y) - explain(net, x, y)).abs().max() > 0
    assert (z - x).abs().max() <= 0.1 + 1e-6


def test_it_is_in_the_catalog() -> None:
    from unfooled.workflows import catalog

    assert catalog.resolve(catalog.EXPLANATIONS["lime"].path) is lime_map


# The result


@pytest.fixture(scope="module")
def result() -> Surrogates:
    x, net = images(3), tiny_net(4, SHAPE, dtype=torch.float64)
    ids = torch.stack([IDS, IDS // 2, IDS])
    return lime_image(net, x, torch.tensor([[0, 1], [2, 1], [3, 1]]), segments=ids, samples=128)


def same(a: Surrogates, b: Surrogates) -> bool:
    for name in a.__dataclass_fields__:
        one, two = getattr(a, name), getattr(b, name)
        if not (torch.equal(one, two) if isinstance(one, Tensor) else repr(one) == repr(two)):
            return False
    return True


def pickled(value: Surrogates) -> Surrogates:
    "What another process gets."
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    again: Surrogates = torch.load(buffer, weights_only=False)
    return again


def test_round_trips(result: Surrogates) -> None:
    assert same(pickled(result), result)
    assert same(Surrogates.from_json(result.to_json()), result)
    kept = lime_image(tiny_net(4, SHAPE), images(1, torch.float32), segments=IDS, keep_samples=True)
    assert same(Surrogates.from_json(kept.to_json()), kept)
    assert not same(result, kept)
    with pytest.raises(BadInput, match="version 7; this release reads version 1"):
        Surrogates.from_json('{"version": 7}')
    with pytest.raises(BadInput, match="no JSON"):
        Surrogates.from_json("weights")
    with pytest.raises(AttributeError):
        result.seed = 3  # type: ignore[misc]


def test_lists_and_maps(result: Surrogates) -> None:
    one = result[1]
    assert one.available_labels() == [2, 1]
    pairs = one.as_list(1, top=3)
    assert [type(v) for v in pairs[0]] == [str, float]
    assert [abs(w) for _, w in pairs] == sorted((abs(float(v)) for v in result.weights[1, 1]), reverse=True)[:3]
    assert one.as_map()[1][0] == (int(pairs[0][0]) - 1, pairs[0][1])
    assert len(one.as_map()[2]) == 6
    assert [len(each) for each in result] == [1, 1, 1]
    assert len(result[1:]) == 2
    for refused, sentence in (
        (result.as_list, "select one"),
        (lambda: one.as_list(3), "label 3 was not explained"),
        (lambda: result.mask(sign=2), "sign is 2"),
    ):
        with pytest.raises(BadInput, match=sentence):
            refused()
    with pytest.raises(IndexError):
        result[3]


def test_masks_are_codes(result: Surrogates) -> None:
    codes = result.mask(1, top=4)
    for i in range(3):
        w = result.weights[i, 1, : len(result.names[i])]
        for j in range(len(w)):
            rank = int((w.abs() > w[j].abs()).sum())
            assert result.segments is not None
            assert codes[i][result.segments[i] == j].unique().tolist() == [int(w[j].sign()) if rank < 4 else 0]
    assert result.mask(1, sign=1).amin() == 0
    assert result.mask(1, sign=-1).amax() == 0
    assert result.mask(1, least=1e9).abs().amax() == 0


# Refusals and corners


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"samples": 20}, "draw at least 26"),
        ({"samples": 0}, "at least 1"),
        ({"samples": 1.5}, "whole number"),
        ({"segments": torch.zeros(9, 8).long()}, "one segment"),
        ({"segments": torch.zeros(9, 7).long()}, "segments have shape"),
        ({"segments": torch.rand(9, 8)}, "whole numbers"),
        ({"segments": torch.arange(216).reshape(3, 9, 8)}, "hides nothing"),
        ({"baseline": constant(torch.zeros(5))}, "the baseline has shape"),
        ({"ridge": -1.0}, "at least 0"),
        ({"prior": Prior(torch.zeros(5), 1.0)}, "prior's mean"),
        ({"prior": torch.zeros(12)}, "with ridge above 0"),
        ({"prior": Prior(torch.zeros(12), 1.0), "ridge": 1.0}, "give one of them"),
        ({"batch": 0}, "batch is 0"),
        ({"y": torch.tensor([0, 4])}, "class"),
        ({"y": torch.tensor([0, -1])}, "labels lie in"),
        ({"y": torch.tensor([0])}, "one label per sample"),
        ({"y": torch.zeros(2, 0).long()}, "classes to explain"),
        ({"x": images(2) * torch.nan}, "NaN"),
        ({"x": torch.zeros(2)}, "at least two dimensions"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    net = tiny_net(4, SHAPE, dtype=torch.float64)
    given = {"x": images(2), "y": torch.tensor([0, 1]), "segments": IDS, **options}
    with pytest.raises(BadInput, match=sentence):
        lime_image(net, **given)


def test_a_model_with_one_output_is_refused() -> None:
    with pytest.raises(BadInput, match="two classes need two logits"):
        lime_image(lambda z: z.flatten(1).sum(1, keepdim=True), images(1))
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(216, 3)).double()
    with pytest.raises(BadInput, match="training mode"):
        lime_image(net, images(1))


def test_few_effective_samples_are_said() -> None:
    net = tiny_net(4, SHAPE, dtype=torch.float64)
    with pytest.warns(UserWarning, match="2 of 2 explanations rest on few effective samples \\(40 for 12 features; 65"):
        found = lime_image(net, images(2), segments=IDS, samples=40)
    assert found.flags[0] == (Flag.FEW,)


def test_a_flat_image_and_a_constant_model() -> None:
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    found = lime_image(tiny_net(4, SHAPE, dtype=torch.float64), x)
    assert found.weights.abs().max() < 1e-9
    constant_model = lime_image(lambda z: z.flatten(1)[:, :2] * 0 + 1, images(2))
    assert constant_model.weights.abs().max() == 0
    assert constant_model.r2.min() == 1
    assert Surrogates.from_json(constant_model.to_json()).weights.abs().max() == 0
