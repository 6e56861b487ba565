"""Classical purifiers: compression, denoising and random geometry, as functions x -> x in [0, 1].

    identity           x
    bit_depth          round(x (2^b - 1)) / (2^b - 1)                          no gradient
    low_band           the low band of `split`
    median             the median of each window                              gradient of the selected pixel
    total_variation    argmin_u 1/2 ||u - x||^2 + w TV(u), Chambolle's steps unrolled
    jpeg               quantised cosine transform of 8x8 blocks               no gradient, or a soft one
    resized            random size, random place, zeros around                 random
    DenoisingAutoencoder    four convolutions that were trained to remove Gaussian noise

Options are bound with `functools.partial`: `guard(model, partial(jpeg, quality=50))`.

References:
    Guo, Rana, Cisse, van der Maaten, Countering adversarial images using input transformations, ICLR 2018,
    arXiv:1711.00117 (compression, bit depth, total variation).
    Xu, Evans, Qi, Feature squeezing, NDSS 2018, arXiv:1704.01155 (bit depth, median).
    Chambolle, An algorithm for total variation minimization and applications, Journal of Mathematical Imaging and
    Vision 20, 2004.
    Xie et al., Mitigating adversarial effects through randomization, ICLR 2018, arXiv:1711.01991 (resizing and
    padding). Shin, Song, JPEG-resistant adversarial images, NIPS workshop 2017 (the soft rounding).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.gradients.straight_through import identity as identity
from unfooled.core import rng
from unfooled.core.checks import check_count, check_inputs, check_number, check_run
from unfooled.core.errors import BadInput
from unfooled.core.low_pass import check_images, cosines, low_pass

# Tables K.1 and K.2 of the standard, ITU-T T.81, in raster order.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99,
)  # fmt: skip
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def bit_depth(x: Tensor, *, bits: int = 3) -> Tensor:
    """Round to 2^bits levels; the gradient is zero, so attack it with `bpda`."""
    check_count("bits", bits, most=16)
    levels = 2 ** int(bits) - 1
    return (x * levels).round() / levels


def low_band(x: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Return the low band of images, (B, C, H, W); linear but for the clamp to [0, 1].

    Args:
        x: Images, (B, C, H, W).
        smooth: Weight mu of the filter, at least 0, see `split`; the larger, the smoother.
    """
    return low_pass(x, smooth=smooth).clamp(0, 1)


def median(x: Tensor, *, size: int = 3) -> Tensor:
    """Return the median of each window of images, (B, C, H, W); edges are replicated.

    Args:
        x: Images, (B, C, H, W).
        size: Side of the window, odd.
    """
    check_images(x)
    check_count("size", size)
    if size % 2 == 0:
        raise BadInput(f"size is {size}; the side of the window must be odd")
    half = size // 2
    windows = F.pad(x, (half, half, half, half), mode="replicate").unfold(2, size, 1).unfold(3, size, 1)
    return windows.flatten(4).median(4).values


def total_variation(x: Tensor, *, weight: float = 0.1, steps: int = 30) -> Tensor:
    """Denoise images by total variation, with a fixed number of Chambolle's steps.

        p <- (p + tau g) / (1 + tau |g|),   g = grad(div p - x / w),      u = x - w div p,   tau = 1/4

    Args:
        x: Images, (B, C, H, W); each channel by itself.
        weight: Weight w of the total variation, at least 0.
        steps: Number of steps.

    Returns:
        The images, (B, C, H, W), clamped to [0, 1]. Differentiable.
    """
    check_images(x)
    check_number("weight", weight, least=0)
    check_count("steps", steps, least=0)
    if not weight:
        return x
    across = down = torch.zeros_like(x)
    for _ in range(steps):
        inner = _divergence(down, across) - x / weight
        g_down = F.pad(inner[..., 1:, :] - inner[..., :-1, :], (0, 0, 0, 1))
        g_across = F.pad(inner[..., :, 1:] - inner[..., :, :-1], (0, 1))
        # The root has no gradient at 0; a tiny number under it changes nothing else.
        length = 1 + 0.25 * (g_down.square() + g_across.square() + 1e-12).sqrt()
        down, across = (down + 0.25 * g_down) / length, (across + 0.25 * g_across) / length
    return (x - weight * _divergence(down, across)).clamp(0, 1)


def _divergence(down: Tensor, across: Tensor) -> Tensor:
    """Return the divergence of a field whose last row (down) and last column (across) are 0."""
    rows = down - F.pad(down[..., :-1, :], (0, 0, 1, 0))
    return rows + across - F.pad(across[..., :, :-1], (1, 0))


def jpeg(x: Tensor, *, quality: int = 75, soft: bool = False) -> Tensor:
    """Compress and decompress images as JPEG does, colour without subsampling.

    Args:
        x: Images of 1 or 3 channels, (B, C, H, W).
        quality: Quality as libjpeg counts it, 1 to 100.
        soft: True: r + (c - r)^3 in place of the nearest integer r to a coefficient c, which has a gradient. False:
            integers, and 8-bit values at the end; the gradient is zero: attack it with `bpda`, with the soft one as the
            approximation.

    Returns:
        The images, (B, C, H, W), in [0, 1]. Entropy coding, which loses nothing, is left out.

    Raises:
        BadInput: Other numbers of channels, or a quality outside 1 to 100.
    """
    check_images(x)
    if x.shape[1] not in (1, 3):
        raise BadInput(f"images have {x.shape[1]} channels; JPEG has 1 or 3")
    check_number("quality", quality, least=1, most=100)
    height, width = x.shape[-2:]
    right, down = -width % 8, -height % 8
    z = 255 * x if soft else (255 * x).round()
    z = F.pad(z, (0, right, 0, down), mode="replicate")
    colour = x.shape[1] == 3
    z = _mixed(z, YCBCR) if colour else z
    z = z if soft else z.round()
    shift = z.new_tensor([128.0, 0.0, 0.0] if colour else [128.0])[:, None, None]
    z = _coded(z - shift, quality, soft) + shift
    z = z if soft else z.round()
    z = (_mixed(z, RGB) if colour else z)[..., :height, :width] / 255
    return z.clamp(0, 1) if soft else ((z * 255).round() / 255).clamp(0, 1)


def _mixed(z: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Return the channels mixed by a matrix."""
    return torch.einsum("dc,bchw->bdhw", z.new_tensor(matrix), z)


def _coded(z: Tensor, quality: int, soft: bool) -> Tensor:
    """Return planes after the quantisation of the cosine transform of their 8x8 blocks."""
    b, c, height, width = z.shape
    basis = cosines(8).to(z)
    blocks = z.reshape(b, c, height // 8, 8, width // 8, 8).transpose(3, 4)
    tables = [LUMINANCE, CHROMINANCE, CHROMINANCE][:c]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((torch.tensor(tables, dtype=torch.float64) * int(scale) + 50) // 100).clamp(1, 255)
    steps = steps.to(z).reshape(c, 1, 1, 8, 8)
    seen = basis @ blocks @ basis.T / steps
    near = seen.round()
    near = near + (seen - near.detach()) ** 3 if soft else near
    return (basis.T @ (near * steps) @ basis).transpose(3, 4).reshape(b, c, height, width)


def resized(x: Tensor, *, smallest: float = 0.8, generator: torch.Generator | None = None) -> Tensor:
    """Shrink images to a random size and put them at a random place, with zeros around.

    Args:
        x: Images, (B, C, H, W).
        smallest: Smallest size, as a fraction of each side, in (0, 1].
        generator: Base seed: the same seed and image give the same place. None: new draws from torch's global generator
            at every call, which makes the purifier random; guard it with `stochastic=True`.

    Returns:
        The images, (B, C, H, W); differentiable, bilinear.
    """
    check_images(x)
    check_number("smallest", smallest, above=0)
    if smallest > 1:
        raise BadInput(f"smallest is {smallest}; it is a fraction of each side, in (0, 1]")
    if not len(x):
        return x.clone()
    if generator is None:
        u = torch.rand(len(x), 3, dtype=torch.float64).to(x)
    else:
        u = rng.uniform(rng.seeds(x, generator, stage=rng.Stream.RESIZED), (3,), dtype=x.dtype)
    side = smallest + (1 - smallest) * u[:, 0]
    shift = (2 * u[:, 1:] - 1) * (1 - side)[:, None]
    # From coordinates in the output, in [-1, 1], to coordinates in the input.
    zero = torch.zeros_like(side)
    rows = (1 / side, zero, -shift[:, 0] / side, zero, 1 / side, -shift[:, 1] / side)
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp(0, 1)


class DenoisingAutoencoder(nn.Module):
    """Four 3x3 convolutions with ReLU between that return a clean image, clamped to [0, 1].

    Args:
        channels: Channels of the images.
        width: Channels between.

    Example:
        >>> DenoisingAutoencoder(1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        sizes = (channels, width, width, width, channels)
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the images, (B, C, H, W), in the precision of `x`; they are computed in that of the weights."""
        weight = next(self.parameters())
        return self.layers(x.to(weight.dtype)).to(x.dtype).clamp(0, 1)


def fit_autoencoder(
    x: Tensor, *, seed: int, noise: float = 0.2, epochs: int = 5, width: int = 32, batch: int = 128, lr: float = 2e-3
) -> DenoisingAutoencoder:
    """Train a denoising autoencoder: the mean squared error of its output for images with Gaussian noise.

    Args:
        x: Clean images in [0, 1], (N, C, H, W).
        seed: Random seed of weights, order and noise; the global generator is not changed.
        noise: Standard deviation of the noise.
        epochs: Number of passes over the images.
        width: Channels between the convolutions.
        batch: Images per step.
        lr: Learning rate of Adam.

    Returns:
        The network, in eval mode, without gradients of its parameters.

    Raises:
        BadInput: Other than images in [0, 1], or numbers that cannot be used.
    """
    check_images(x)
    check_inputs(x)
    check_run(seed, batch)
    check_number("noise", noise, least=0)
    check_number("lr", lr, above=0)
    check_count("epochs", epochs)
    check_count("width", width)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = DenoisingAutoencoder(x.shape[1], width).to(x)
        optimizer = torch.optim.Adam(net.parameters(), lr)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch):
                clean = x[rows.to(x.device)]
                noisy = (clean + noise * torch.randn(clean.shape, dtype=torch.float32).to(clean)).clamp(0, 1)
                # Without the clamp, whose gradient is zero outside the box.
                error = (net.layers(noisy) - clean).square().mean()
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
    return net.eval().requires_grad_(False)
