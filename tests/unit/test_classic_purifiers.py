"""Classical purifiers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unfooled.attacks.gradients import identity
from unfooled.core.errors import BadInput
from unfooled.core.types import Purify
from unfooled.purification import (
    bit_depth,
    fit_autoencoder,
    jpeg,
    low_band,
    median,
    resized,
    total_variation,
)


def smooth_images(*shape: int, seed: int = 0) -> Tensor:
    """Images with structure, in [0, 1], on the grid of bytes."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    blurred = torch.nn.functional.interpolate(x[..., ::4, ::4], x.shape[-2:], mode="bilinear")
    return ((0.8 * blurred + 0.2 * x) * 255).round() / 255


ALL: dict[str, Purify] = {
    "identity": identity,
    "bit depth": bit_depth,
    "low band": low_band,
    "median": median,
    "total variation": total_variation,
    "jpeg": jpeg,
    "soft jpeg": partial(jpeg, soft=True),
    "resized": partial(resized, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("purify", ALL.values(), ids=ALL)
@pytest.mark.parametrize("shape", [(4, 1, 9, 12), (4, 3, 16, 8)])
def test_images_stay_images_whatever_the_batch(purify: Purify, shape: tuple[int, ...]) -> None:
    x = smooth_images(*shape)
    before = x.clone()
    z = purify(x)
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    assert z.min() >= 0
    assert z.max() <= 1
    assert torch.equal(x, before)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(purify(x[order]), z[order])
    torch.testing.assert_close(torch.cat([purify(part) for part in x.split(1)]), z)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_is_pillows(channels: int, mode: str, quality: int) -> None:
    x = smooth_images(1, channels, 24, 19)
    bytes_ = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(bytes_.squeeze()).convert(mode).save(file, "JPEG", quality=quality, subsampling=0)
    decoded = np.asarray(Image.open(file)).reshape(24, 19, channels)
    expected = torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None] / 255
    apart = (jpeg(x, quality=quality) - expected).abs()
    # Integer transforms there, exact ones here: a coefficient may round the other way.
    assert apart.mean() < 1.2 / 255
    assert apart.quantile(0.99) < 8 / 255
    assert (jpeg(x, quality=quality) - x).abs().mean() > 2 * apart.mean()


def test_soft_jpeg_is_close_to_jpeg_and_has_a_gradient() -> None:
    x = smooth_images(2, 1, 16, 16)
    assert (jpeg(x, quality=40, soft=True) - jpeg(x, quality=40)).abs().mean() < 0.01
    leaf = (0.4 + 0.2 * x[:1, :, :8, :8]).double().requires_grad_()
    assert torch.autograd.gradcheck(partial(jpeg, quality=40, soft=True), (leaf,))
    hard = jpeg(leaf, quality=40)
    assert not hard.requires_grad or not torch.autograd.grad(hard.sum(), leaf)[0].any()


def test_total_variation_minimises_its_objective() -> None:
    x = smooth_images(1, 1, 7, 6).double()
    weight = 0.1

    def value(u: Tensor) -> Tensor:
        down = torch.nn.functional.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
        across = torch.nn.functional.pad(u[..., :, 1:] - u[..., :, :-1], (0, 1))
        return (u - x).square().sum() / 2 + weight * (down.square() + across.square()).sqrt().sum()

    solved = total_variation(x, weight=weight, steps=2000)
    assert value(total_variation(x, weight=weight)) - value(solved) < 0.03 * (value(x) - value(solved))
    for seed in range(20):
        step = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert value(solved + 1e-2 * step / step.norm()) > value(solved)
    # The mean stays: the divergence sums to 0.
    torch.testing.assert_close(solved.mean(), x.mean())
    leaf = x[..., :5, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(partial(total_variation, weight=weight, steps=4), (leaf,))
    assert torch.autograd.grad(total_variation(torch.ones_like(leaf) * leaf.mean()).sum(), leaf)[0].isfinite().all()


def test_median_and_bit_depth() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    assert median(x).abs().max() == 0
    leaf = smooth_images(1, 1, 6, 6).double()
    leaf = (leaf + 1e-3 * torch.arange(36).reshape(1, 1, 6, 6)).requires_grad_()
    assert torch.autograd.gradcheck(median, (leaf,))
    assert bit_depth(torch.rand(2, 1, 20, 20), bits=2).unique().numel() == 4


def test_resized_draws_anew_or_by_its_seed() -> None:
    x = smooth_images(6, 1, 12, 12)
    with torch.random.fork_rng():
        assert not torch.equal(resized(x), resized(x))
    fixed = partial(resized, generator=torch.Generator().manual_seed(4))
    assert torch.equal(fixed(x), fixed(x))
    assert not torch.equal(fixed(x), resized(x, generator=torch.Generator().manual_seed(5)))
    torch.testing.assert_close(resized(x, smallest=1.0, generator=torch.Generator()), x)
    ones = fixed(1 - 1e-4 * torch.arange(50).reshape(50, 1, 1, 1).expand(50, 1, 40, 40))
    sides = ones.sum((1, 2, 3)).sqrt() / 40
    assert sides.min() > 0.78
    assert sides.max() < 1.01
    assert sides.max() - sides.min() > 0.1
    leaf = x[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: resized(z, smallest=1.0, generator=torch.Generator()), (leaf,))


def test_the_autoencoder_removes_noise() -> None:
    ramp = torch.linspace(0, 1, 8)
    x = torch.stack([ramp[:, None] * (1 - k / 64) + 0 * ramp for k in range(64)])[:, None].clamp(0, 1)
    state = torch.get_rng_state()
    net = fit_autoencoder(x, seed=0, epochs=30, width=8, batch=16, lr=1e-2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    noisy = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert (net(noisy) - x).square().mean() < 0.5 * (noisy - x).square().mean()
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(net(x.to(dtype)), net(x.to(dtype).float()).to(dtype))
    again = fit_autoencoder(x[:16], seed=3, epochs=1, width=4)
    assert torch.equal(again(x), fit_autoencoder(x[:16], seed=3, epochs=1, width=4)(x))


other: Any = partial
"""`partial` for arguments of types that no annotation allows."""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(bit_depth, bits=0), "bits is 0"),
        (partial(median, size=2), "size is 2; the side of the window must be odd"),
        (partial(total_variation, weight=-1.0), "weight is -1.0"),
        (partial(jpeg, quality=0), "quality is 0"),
        (partial(resized, smallest=0.0), "smallest is 0.0"),
        (partial(low_band, smooth=-1.0), "smooth is -1.0"),
        (other(bit_depth, bits=2.5), "bits is 2.5; it must be a whole number"),
        (other(median, size=3.0), "size is 3.0; it must be a whole number"),
        (partial(total_variation, steps=-1), "steps is -1; it must be at least 0"),
        (other(jpeg, quality="50"), "quality is '50'; it must be a number"),
        (other(resized, smallest=None), "smallest is None; it must be a number"),
        (other(fit_autoencoder, seed=0, epochs=1.5), "epochs is 1.5; it must be a whole number"),
        (partial(fit_autoencoder, seed=0, noise=-1.0), "noise is -1.0; it must be a finite number, at least 0"),
        (partial(fit_autoencoder, seed=-1), "seed is -1"),
        (lambda x: fit_autoencoder(x[:0], seed=0), "there are no samples"),
        (lambda x: fit_autoencoder(x * torch.nan, seed=0), "NaN or infinite"),
        (lambda x: fit_autoencoder(x + 2, seed=0), "x lies in"),
    ],
)
def test_bad_input(call: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call(torch.zeros(1, 1, 8, 8))
    with pytest.raises(BadInput, match="images have 2 channels"):
        jpeg(torch.zeros(1, 2, 8, 8))
    with pytest.raises(BadInput, match=r"images are floating point, \(B, C, H, W\)"):
        median(torch.zeros(3, 8))
