"""Low and high band of images."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.low_pass import cosines, low_dct, low_pass
from unfooled.purification import split


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def dense(side: int) -> Tensor:
    """G^T G of one side for differences of neighbours on a ring."""
    difference = torch.roll(torch.eye(side, dtype=torch.float64), 1, 1) - torch.eye(side, dtype=torch.float64)
    return difference.T @ difference


@pytest.mark.parametrize("smooth", [0.5, 5.0])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
def test_closed_form_is_the_dense_solve(smooth: float, height: int, width: int) -> None:
    x, pad = noise(2, 3, height, width), 3
    h, w = height + 2 * pad, width + 2 * pad
    rows, columns = (torch.kron(dense(h), torch.eye(w)), torch.kron(torch.eye(h), dense(w)))
    padded = torch.nn.functional.pad(x, (pad,) * 4, mode="replicate").reshape(6, -1)
    solved = torch.linalg.solve(torch.eye(h * w) + smooth * (rows + columns), padded.T).T.reshape(2, 3, h, w)
    low, high = split(x, smooth=smooth, pad=pad)
    torch.testing.assert_close(low, solved[..., pad:-pad, pad:-pad], rtol=0, atol=1e-13)
    torch.testing.assert_close(low + high, x, rtol=0, atol=1e-15)


def test_constant_images_have_no_high_band_and_mu_0_leaves_none() -> None:
    assert split(torch.full((2, 1, 9, 7), 0.4), smooth=5.0)[1].abs().max() < 1e-6
    assert split(noise(1, 1, 5, 5), smooth=0.0)[1].abs().max() == 0


@pytest.mark.parametrize(("smooth", "gain"), [(1.0, 0.200), (5.0, 0.048)])
def test_gain_at_the_nyquist_frequency(smooth: float, gain: float) -> None:
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 1, 64, 64)
    low = low_pass(stripes, smooth=smooth, pad=0)
    torch.testing.assert_close(low, stripes * gain, rtol=0, atol=5e-4)


@pytest.mark.parametrize("smooth", [1.0, 5.0])
def test_a_change_stays_in_the_linf_ball(smooth: float) -> None:
    change = (noise(20, 1, 8, 8) < 0.5).double() * 2 - 1
    assert low_pass(change, smooth=smooth).abs().max() <= 1 + 1e-12


def test_gradients_are_finite_differences() -> None:
    x = noise(1, 2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: split(x, smooth=5.0, pad=2), (x,))
    assert torch.autograd.gradcheck(lambda x: low_dct(x, share=0.5), (x,))


def test_the_cosine_projection_is_scipys() -> None:
    x = noise(2, 1, 8, 12)
    coefficients = dctn(x.numpy(), axes=(2, 3), norm="ortho")
    coefficients[:, :, 2:] = coefficients[:, :, :, 3:] = 0
    torch.testing.assert_close(low_dct(x), torch.from_numpy(idctn(coefficients, axes=(2, 3), norm="ortho")))
    torch.testing.assert_close(cosines(8) @ cosines(8).T, torch.eye(8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        (torch.zeros(3, 8), {"smooth": 1.0}, r"shape \(3, 8\); images are floating point, \(B, C, H, W\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), {"smooth": 1.0}, "torch.uint8"),
        (torch.zeros(1, 1, 8, 8), {"smooth": -1.0}, "smooth is -1.0"),
        (torch.zeros(1, 1, 8, 8), {"smooth": float("nan")}, "smooth is nan"),
        (torch.zeros(1, 1, 8, 8), {"smooth": 1.0, "pad": -1}, "pad is -1"),
    ],
)
def test_bad_input(x: Tensor, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        low_pass(x, **options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="share is 0"):
        low_dct(torch.zeros(1, 1, 8, 8), share=0)
