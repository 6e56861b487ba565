"""A purifier in front of a model."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unfooled.attacks import Averaged, bpda, pgd
from unfooled.core.errors import BadInput
from unfooled.core.global_rng import same_draws
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.modes import evaluating, frozen
from unfooled.core.threats import Linf
from unfooled.core.types import Purify
from unfooled.purification import DenoisingAutoencoder, bit_depth, guard, is_differentiable, median, resized
from unfooled.purification.guard import purified_alike
from unfooled.testing.subjects import points, tiny_net
from unfooled.training import Madry
from unfooled.workflows.guarding import guarded_by

SHAPE = (1, 6, 6)


@dataclass(frozen=True)
class Shifted:
    """A purifier that is no module but uses one."""

    module: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return (x + 0 * self.module(x).sum()).clamp(0, 1)


def autoencoder() -> DenoisingAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DenoisingAutoencoder(1, 4)


def net() -> nn.Sequential:
    return tiny_net(3, SHAPE, dtype=torch.float32).eval()


def test_the_logits_are_those_of_the_purified_input() -> None:
    model, x = net(), points(5, SHAPE, dtype=torch.float32)
    guarded = guard(model, median)
    assert torch.equal(guarded(x), model(median(x)))
    assert guarded.model is model
    assert guarded.purify is median
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(guarded(leaf).square().sum(), leaf)
    other = x.clone().requires_grad_()
    assert torch.equal(g, torch.autograd.grad(model(median(other)).square().sum(), other)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("purify", [median, autoencoder(), Shifted(tiny_net(3, SHAPE))])
def test_images_of_other_precisions_are_computed_in_that_of_the_weights(purify: Purify, dtype: torch.dtype) -> None:
    model, x = net(), points(5, SHAPE, dtype=torch.float32).to(dtype)
    guarded = guard(model, purify)
    assert torch.equal(guarded(x), guarded(x.float()))
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(guarded(leaf).square().sum(), leaf)
    assert g.dtype == dtype
    assert bool((g != 0).any())
    assert guard(model.double(), median)(x.double()).dtype == torch.float64
    assert guard(lambda z: z.flatten(1), median)(x).dtype == (dtype if dtype is torch.float64 else torch.float32)


def test_bpda_goes_backwards_through_the_approximation() -> None:
    model, x = net(), points(5, SHAPE, dtype=torch.float32)
    guarded = guard(model, bit_depth)
    attacked = bpda(guarded.purify, guarded.model, lambda x: 2 * x)
    leaf, z = x.clone().requires_grad_(), bit_depth(x).requires_grad_()
    assert torch.equal(attacked(leaf), guarded(x))
    (g,) = torch.autograd.grad(attacked(leaf).square().sum(), leaf)
    (expected,) = torch.autograd.grad(model(z).square().sum(), z)
    torch.testing.assert_close(g, 2 * expected)


def test_modules_behind_both_parts_are_found_once() -> None:
    model, inner = net(), tiny_net(2, SHAPE, dtype=torch.float32)
    guarded = guard(lambda x: model(x) + 0, Shifted(inner))
    found = {module for root in modules_of(guarded) for module in root.modules()}
    assert {model, inner} <= found
    autoencoder = DenoisingAutoencoder(1, 4)
    module = guard(model, autoencoder)
    assert len(list(module.parameters())) == len([*model.parameters(), *autoencoder.parameters()])
    with frozen(guarded), evaluating(guarded):
        assert not any(p.requires_grad for p in inner.parameters())
    assert all(p.requires_grad for p in inner.parameters())
    assert copy.deepcopy(module)(points(2, SHAPE, dtype=torch.float32)).shape == (2, 3)


def test_the_purifier_stays_in_eval_mode_while_the_model_trains() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Dropout())
    model = net()
    guarded = guard(model, Shifted(inner))
    assert not inner[2].training
    guarded.train()
    assert model.training
    assert not any(module.training for module in inner)
    guarded.eval()
    assert not model.training


def test_it_is_trained_through_the_purifier() -> None:
    x = points(8, SHAPE, dtype=torch.float32)
    y = torch.arange(8) % 3
    model = net()
    guarded = guard(model, partial(median, size=3))
    torch.manual_seed(0)
    Madry(Linf(0.1), steps=2)(guarded, x, y).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    z = pgd(guarded, x, y, Linf(0.1), steps=3)
    assert (z - x).abs().max() <= 0.1 + 1e-6


def test_a_random_purifier_is_declared_and_averaged() -> None:
    x, model = points(4, SHAPE, dtype=torch.float32), net()
    with pytest.raises(BadInput, match=r"different images for the same input; declare it.*stochastic=True"):
        guard(model, resized)(x)
    guarded = guard(model, resized, stochastic=True)
    assert guarded.stochastic
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean = Averaged(guarded, draws=3)(x)
        torch.manual_seed(0)
        expected = sum(model(resized(x)) for _ in range(3)) / 3
    torch.testing.assert_close(mean, expected)
    guard(model, partial(resized, generator=torch.Generator()))(x)


def test_the_check_leaves_the_global_generator_alone() -> None:
    x, guarded = points(4, SHAPE, dtype=torch.float32), guard(net(), resized, stochastic=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = guarded(x)
        torch.manual_seed(5)
        assert torch.equal(guarded(x), first)


class Switching(nn.Module):
    """A purifier that leaves itself in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return x.clone()


def written(x: Tensor) -> Tensor:
    return x.mul_(0.5)


BAD: dict[str, tuple[Purify, str]] = {
    "shape": (lambda x: x[..., 1:], r"returns shape \(4, 1, 6, 5\) for inputs of shape \(4, 1, 6, 6\)"),
    "box": (lambda x: x + 1, r"returns values in \[.*\]; images lie in \[0, 1\]: end it with clamp"),
    "nan": (lambda x: x / 0 * 0, "returns NaN or infinite values"),
    "input": (written, r"writes into its input; begin it with x = x.clone\(\)"),
    "mode": (Switching(), "changes the mode of Switching"),
    "dtype": (lambda x: x.double(), r"returns torch.float64 on cpu for inputs of torch.float32 on cpu; end it"),
    "type": (lambda x: x.numpy(), "returns a ndarray"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize(("purify", "sentence"), BAD.values(), ids=BAD)
def test_purifiers_that_no_guard_can_use(purify: Purify, sentence: str) -> None:
    x = points(4, SHAPE, dtype=torch.float32)
    before = x.clone()
    guarded = guard(net(), purify)
    for _ in range(2):  # the second call is checked as the first one
        with pytest.raises(BadInput, match=sentence):
            guarded(x)
    assert torch.equal(x, before)


def failing(error: BaseException) -> Purify:
    def purify(x: Tensor) -> Tensor:
        raise error

    return purify


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero; mend it"),
        (KeyError("a"), "KeyError: 'a'; mend it"),
        (SystemExit(3), "SystemExit: 3; mend it"),
        (RuntimeError("first\nsecond"), "RuntimeError: first; mend it"),
        (ValueError(), "with ValueError; mend it"),
    ],
)
def test_exceptions_of_a_purifier_are_one_sentence(error: BaseException, sentence: str) -> None:
    x = points(4, SHAPE, dtype=torch.float32)
    start = r"the purifier fails on samples of shape \(1, 6, 6\), torch.float32, with "
    with pytest.raises(BadInput, match=start):
        guard(net(), failing(error))(x)
    with pytest.raises(BadInput, match=f"{sentence}, or convert what it is given$") as caught:
        pgd(guard(net(), failing(error)), x, torch.zeros(4).long(), Linf(0.1), steps=1)
    assert "\n" not in str(caught.value)
    assert not is_differentiable(failing(error), x)


@pytest.mark.parametrize("error", [BadInput("give others"), MemoryError(), RuntimeError("CUDA out of memory")])
def test_sentences_and_exhausted_memory_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        guard(net(), failing(error))(points(4, SHAPE, dtype=torch.float32))
    assert caught.value is error


def test_a_purifier_that_refuses_inputs_with_a_gradient_has_none() -> None:
    def purify(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("numbers only")
        return x * 1

    assert not is_differentiable(purify, points(4, SHAPE, dtype=torch.float32))


def test_nan_that_was_given_is_not_blamed_on_the_purifier() -> None:
    x = points(4, SHAPE, dtype=torch.float32)
    x[1] = float("nan")
    with torch.no_grad(), pytest.raises(BadInput, match="x holds NaN or infinite values in 1 samples, the first is"):
        guard(net(), lambda x: x * 1)(x)


def test_a_purifier_that_fails_on_attacked_inputs_only() -> None:
    x = points(4, SHAPE, dtype=torch.float32).clamp(0, 0.9)
    guarded = guard(net(), lambda x: torch.where(x > 0.95, x + 1, x))
    guarded(x)
    with torch.no_grad(), pytest.raises(BadInput, match="returns values in"):
        guarded(torch.ones_like(x))


def test_parts_that_cannot_be_called() -> None:
    with pytest.raises(BadInput, match="purify is a str; give a callable"):
        guard(net(), "jpeg")  # type: ignore[arg-type]


def test_a_mode_that_a_purifier_changes_is_refused_and_restored_by_an_audit_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout()).eval()

    def careless(x: Tensor) -> Tensor:
        model.train()
        return x.clone()

    with pytest.raises(BadInput, match="changes the mode of"):
        guarded_by(model, careless, torch.rand(3, 1, 3, 4))
    assert not any(module.training for module in model.modules())


def test_gradients_that_purifiers_pass_on() -> None:
    x = points(4, SHAPE, dtype=torch.float32)
    assert is_differentiable(median, x)
    assert len(resized(x[:0])) == 0
    for purify in (torch.clone, median):  # black images: the gradient of what is 0, too
        assert is_differentiable(purify, torch.zeros_like(x))
    for none in (bit_depth, lambda x: x.detach(), lambda x: torch.from_numpy(x.numpy())):
        assert not is_differentiable(none, x)


def test_one_image_without_a_gradient_does_not_speak_for_the_others() -> None:
    def contrast(x: Tensor) -> Tensor:
        size = x.square().mean((1, 2, 3), keepdim=True).sqrt()  # whose gradient is NaN at a black image
        return (0.9 * x * (size + 0.1) / (size + 0.1)).clamp(0, 1)

    x = points(8, SHAPE, dtype=torch.float32)
    x[3] = 0
    assert is_differentiable(contrast, x)
    assert not is_differentiable(contrast, torch.zeros_like(x))


def mixed_with(noise: Purify, x: Tensor) -> Tensor:
    return (x + noise(x)) / 2


def test_purified_alike_repeats_the_draws_of_every_global_generator() -> None:
    x = points(4, SHAPE, dtype=torch.float32)
    own = torch.Generator().manual_seed(0)
    for noise in (
        torch.rand_like, lambda x: torch.from_numpy(np.random.rand(*x.shape)).to(x),  # noqa: NPY002
        lambda x: torch.full_like(x, random.random()),
    ):  # fmt: skip
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
        made = purified_alike(partial(mixed_with, noise), x, 1 - x)
        assert made is not None
        assert torch.allclose(made[0] - made[1], (2 * x - 1) / 2, atol=1e-6)
        assert torch.equal(before[0], torch.get_rng_state())
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # type: ignore[index] # noqa: NPY002
    assert purified_alike(lambda x: x * torch.rand(x.shape, generator=own), x, x) is None


def test_the_same_draws_whatever_was_drawn_before() -> None:
    drawn = []
    for _ in range(2):
        with same_draws(3):
            drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))  # noqa: NPY002
        assert (float(torch.rand(())), float(np.random.rand()), random.random()) != drawn[-1]  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_first_call_of_one_image_does_not_end_the_checks() -> None:
    guarded = guard(net(), lambda x: (x + x[:1]) / 2)
    x = points(5, SHAPE, dtype=torch.float32)
    with torch.no_grad():
        guarded(x[:0])
        guarded(x[:1])
        with pytest.raises(BadInput, match="depends on the other images of its batch"):
            guarded(x)


def test_values_are_only_checked_where_the_input_lies_in_the_box() -> None:
    model = guard(lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1), lambda x: x * 1)
    with torch.no_grad():
        assert model(torch.tensor([[1.001, -0.001]])).shape == (1, 2), "differences step out of the box"


class Averaging(nn.Module):
    """A purifier with a running mean, which every use moves."""

    mean: Tensor

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        else:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return (0.9 * x + 0.1 * self.mean).clamp(0, 1)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_purifier_with_memory_is_not_called_random(in_place: bool) -> None:
    for stochastic in (False, True):
        guarded = guard(net(), Averaging(in_place=in_place), stochastic=stochastic)
        with pytest.raises(BadInput, match="changes its own state while it is used"):
            guarded(points(5, SHAPE, dtype=torch.float32))


def test_a_purifier_that_differs_where_gradients_are_computed() -> None:
    def other(x: Tensor) -> Tensor:
        return (x * 0.5).clamp(0, 1) if torch.is_grad_enabled() else x.clone()

    with torch.no_grad(), pytest.raises(BadInput, match="returns other images where gradients are computed"):
        guard(net(), other)(points(5, SHAPE, dtype=torch.float32))


@pytest.mark.parametrize("purify", [
        lambda x: (x - x.mean(0) + 0.5).clamp(0, 1), lambda x: x.flip(0), lambda x: (x + x[:1]) / 2,
        lambda x: (x + x[-1:]) / 2,
    ],
)  # fmt: skip
def test_a_purifier_whose_answer_depends_on_the_batch(purify: Purify) -> None:
    guarded = guard(net(), purify)
    with torch.no_grad(), pytest.raises(BadInput, match="depends on the other images of its batch"):
        guarded(points(5, SHAPE, dtype=torch.float32))
