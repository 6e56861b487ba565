"""Random numbers that belong to the sample, not to the batch.

    u(i) = splitmix64(seed, hash of sample i's bytes, draw, coordinate)

A counter hash instead of a stream: the same sample gets the same numbers whatever its place in the batch, the size of
the batch, the device or the process that works on it. A `torch.Generator` handed to an attack supplies the base seed
and is not advanced; `None` means seed 0.

References:
    Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the finaliser of splitmix64).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch shifts int64 arithmetically."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """Finalise int64 counters into int64 hashes (a bijection; every output bit depends on every input bit)."""
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def sample_keys(x: Tensor) -> Tensor:
    """Hash each sample's bytes: (B, *D) -> (B,) int64. Equal samples have equal keys on every device."""
    rows = x.detach().reshape(len(x), -1)
    if rows.dtype == torch.bool:
        rows = rows.to(torch.uint8)
    if rows.is_floating_point() or rows.is_complex():
        width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
        rows = rows.contiguous().view(width)
    place = mix(torch.arange(1, rows.shape[1] + 1, device=x.device, dtype=torch.int64) * _GOLDEN)
    return mix((mix(rows.to(torch.int64) + place) ^ place).sum(1))


def base_seed(generator: torch.Generator | None) -> int:
    """The seed that a generator stands for; 0 for None. The generator is not advanced."""
    return 0 if generator is None else generator.initial_seed() & 0x7FFFFFFFFFFFFFFF


def seeds(x: Tensor, generator: torch.Generator | int | None = None, *, stage: int = 0) -> Tensor:
    """One seed per sample, (B,) int64, from the base seed, the sample's bytes and a stage number."""
    base = generator if isinstance(generator, int) else base_seed(generator)
    offset = torch.tensor([base, stage], dtype=torch.int64, device=x.device)
    salt = mix(mix(offset[:1] + _GOLDEN) + (offset[1:] + 1) * _GOLDEN)
    return mix(sample_keys(x) ^ salt)


def bits(seed: Tensor, size: int, *, draw: int | Tensor = 0) -> Tensor:
    """Hash counters into (B, size) int64; `draw` separates independent draws, an int or (B,)."""
    offset = torch.as_tensor(draw, dtype=torch.int64, device=seed.device)
    start = mix(seed + (offset + 1) * _MIX1)
    return mix(start[:, None] + torch.arange(1, size + 1, device=seed.device, dtype=torch.int64) * _GOLDEN)


def uniform(
    seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [0, 1), (B, *shape); 24 random bits each, so that they are exact in float32."""
    u = _shift(bits(seed, math.prod(shape), draw=draw), 40).to(torch.float64) * 2.0**-24
    return u.to(dtype).reshape(len(seed), *shape)


def normal(
    seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers, (B, *shape), by Box and Muller's transform."""
    size = math.prod(shape)
    u = uniform(seed, (2, size), draw=draw, dtype=torch.float64)
    radius = (-2 * torch.log1p(-u[:, 0])).sqrt()  # 1 - u is in (0, 1]: the logarithm is finite
    return (radius * torch.cos(2 * math.pi * u[:, 1])).to(dtype).reshape(len(seed), *shape)
