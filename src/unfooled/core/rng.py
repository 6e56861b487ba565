"""Random numbers that belong to the sample, not to the batch.

    u(i) = splitmix64(seed, hash of sample i's bytes, stage, draw, coordinate)

A counter hash instead of a stream: the same sample gets the same numbers whatever its place in the batch, the size of
the batch, the device or the process that works on it. A `torch.Generator` handed to an attack supplies the base seed
and is not advanced; `None` means seed 0.

Two uses of random numbers never share a pair of stage and draw. `Stream` names every use in the library, `USES` says
which stages and draws each takes, and `Numbers` the numbers of an evaluation's stages, which serve as draws.

References:
    Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the finaliser of splitmix64).
"""

from __future__ import annotations

import math
from enum import IntEnum, unique
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


@unique
class Stream(IntEnum):
    """Uses of random numbers, each with the stage that keeps it apart from the others.

    A new use takes a number that no other has, and a row in `USES`. Numbers are never given anew: that would change
    results that are published.
    """

    REVIVED = -1
    """Directions in place of zero gradients. Draw: the step."""
    START = 0
    """Points at which attacks on the label start. Draw: the number of the stage, see `Numbers`."""
    HALF_NORMAL_NOISE = 1
    STROKE_REMOVAL = 2
    CORRUPTION = 3
    """Which corruption an image gets."""
    SHOT_NOISE = 11
    IMPULSE_NOISE = 12
    GLASS_BLUR = 13
    MOTION_BLUR = 14
    ROTATION = 15
    SCALE = 16
    SQUARE = 17
    """Square's windows and signs. Draws: from 2 on those of a query; 0 its first stripes, below 0 its first bumps."""
    ZIGZAG = 18
    TRANSLATION = 19
    FOG = 20
    """Clouds. Stages: one an octave."""
    RELABELLING = 31
    """Labels of a data set whose images are moved to other classes."""
    INVERSION = 32
    """Images at which an inversion starts."""
    JITTER = 33
    """Noise over which a gradient is averaged."""
    SIGNS = 37
    """Directions of an estimated gradient."""
    TWIN = 41
    """Points at which a twin learns a model's answers."""
    PAIRS = 43
    """Pairs of pixels whose order an attack on an explanation reverses."""
    RAYS = 47
    """Orders of coordinates. Draw: the round."""
    MAP_SIGNS = 49
    """Directions of an estimated gradient of a map."""
    RANDOM_POINT = 53
    """Random points beside an attack on an explanation, and where it starts."""
    HOP_SKIP_JUMP = 54
    """Draws: first points, then the probes of step t from t 2^20 on."""
    WALK = 59
    """A random walk beside an attack on an explanation. Draw: the step."""
    MAP_SQUARE = 61
    """Square's windows in an attack on an explanation."""
    BISECTION = 67
    """Points at which a radius is tried again. Draw: the round."""
    SMOOTHING = 71
    """Noisy copies of an input whose explanations are averaged."""
    HASHED_NOISE = 73
    """Noise that a defence draws from the input itself."""
    WAVE = 100
    """Output-diversified directions. Stage: see `wave_stage`. Draws: a fresh direction, whether an old one serves."""
    AUTOATTACK = 200
    """Points at which AutoAttack's APGD starts. Draw: the number of the target, 0 for none."""
    NOISE = 300
    """Random points of the threat. Stages: one a number of a stage."""
    CHECK_START = 400
    """Points at which the checks before an attack look."""
    CHECK_JUMPS = 401
    CHECK_DIRECTIONS = 402
    CHECK_ROUGHNESS = 403
    CHECK_MEMORY = 404
    CHECK_CONSTANT = 405


class Numbers:
    """Numbers of the stages of an evaluation: what each part of it may use, as draws of `START` and elsewhere."""

    ATTACK = range(40)
    CHECKS = range(200, 240)
    WHOLE_BOX = range(250, 251)
    AGAIN = (range(300, 341), range(350, 391))
    """An attack that goes on, in each of two rounds; the last number is that of the look afterwards."""
    HIDDEN = range(400, 461)
    """Attacks that need no gradient; the last number is that of the look afterwards."""
    AUTOATTACK_L1 = range(600, 609)
    """Targets of AutoAttack's APGD in L1."""
    EVERY = (ATTACK, CHECKS, WHOLE_BOX, *AGAIN, HIDDEN, AUTOATTACK_L1)
    MOST = 1009
    """Above every number, so that `derived` gives each seed and number a base of its own."""


def wave_stage(number: int) -> int:
    """Return the stage of an output-diversified wave; an attack that goes on stays clear of the checks' stages."""
    return (Stream.WAVE if number in Numbers.ATTACK else 1000) + number


class Use(NamedTuple):
    """Stages and draws of a stream.

    Attributes:
        stages: ranges of stages.
        draws: range of draws.
    """

    stages: tuple[range, ...]
    draws: range


def _one(stream: Stream, draws: range = range(1)) -> Use:
    return Use((range(stream, stream + 1),), draws)


LONG = range(1 << 20)
"""Draws of a use that takes one a step, or a point."""
USES = MappingProxyType(
    {
        **{stream: _one(stream) for stream in Stream},
        Stream.REVIVED: _one(Stream.REVIVED, LONG),
        Stream.START: _one(Stream.START, range(Numbers.MOST)),
        Stream.SQUARE: _one(Stream.SQUARE, range(-(1 << 31), 1 << 20)),
        Stream.FOG: Use((range(20, 24),), range(1)),
        Stream.JITTER: _one(Stream.JITTER, LONG),
        Stream.SIGNS: _one(Stream.SIGNS, LONG),
        Stream.TWIN: _one(Stream.TWIN, LONG),
        Stream.RAYS: _one(Stream.RAYS, LONG),
        Stream.MAP_SIGNS: _one(Stream.MAP_SIGNS, LONG),
        Stream.RANDOM_POINT: _one(Stream.RANDOM_POINT, LONG),
        Stream.HOP_SKIP_JUMP: _one(Stream.HOP_SKIP_JUMP, range(1 << 40)),
        Stream.WALK: _one(Stream.WALK, LONG),
        Stream.MAP_SQUARE: _one(Stream.MAP_SQUARE, range(-(1 << 31), 1 << 20)),
        Stream.BISECTION: _one(Stream.BISECTION, LONG),
        Stream.SMOOTHING: _one(Stream.SMOOTHING, LONG),
        Stream.WAVE: Use(
            tuple(range(wave_stage(part[0]), wave_stage(part[-1]) + 1) for part in (Numbers.ATTACK, *Numbers.AGAIN)),
            range(2),
        ),
        Stream.AUTOATTACK: _one(Stream.AUTOATTACK, range(10)),
        Stream.NOISE: Use(
            tuple(
                range(Stream.NOISE + part[0], Stream.NOISE + part[-1] + 1)
                for part in (Numbers.ATTACK, Numbers.CHECKS, *Numbers.AGAIN)
            ),
            LONG,
        ),
        Stream.CHECK_DIRECTIONS: _one(Stream.CHECK_DIRECTIONS, range(1, 33)),
        Stream.CHECK_ROUGHNESS: _one(Stream.CHECK_ROUGHNESS, range(8)),
        Stream.CHECK_MEMORY: _one(Stream.CHECK_MEMORY, range(5)),
    }
)
"""The one table of random streams: stage and draw of no two uses coincide."""


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift to the right logically; torch shifts int64 arithmetically."""
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


def derived(seed: int, number: int) -> torch.Generator:
    """Return the generator of one stage of an evaluation.

    Args:
        seed: Seed of the evaluation.
        number: Number of the stage, below `Numbers.MOST`.
    """
    return torch.Generator().manual_seed((seed * Numbers.MOST + number) & 0x7FFFFFFF)


def base_seed(generator: torch.Generator | None) -> int:
    """Return the seed that a generator stands for, 0 for None. The generator is not advanced."""
    return 0 if generator is None else generator.initial_seed() & 0x7FFFFFFFFFFFFFFF


def seeds(x: Tensor, generator: torch.Generator | int | None = None, *, stage: int = Stream.START) -> Tensor:
    """Return one seed a sample, (B,) int64, from the base seed, the sample's bytes and a stage, see `Stream`."""
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
    """Draw uniform numbers in [0, 1), (B, *shape); 24 random bits each, so that they are exact in float32."""
    u = _shift(bits(seed, math.prod(shape), draw=draw), 40).to(torch.float64) * 2.0**-24
    return u.to(dtype).reshape(len(seed), *shape)


def normal(
    seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw standard normal numbers, (B, *shape), by Box and Muller's transform."""
    size = math.prod(shape)
    u = uniform(seed, (2, size), draw=draw, dtype=torch.float64)
    radius = (-2 * torch.log1p(-u[:, 0])).sqrt()  # 1 - u is in (0, 1]: the logarithm is finite
    return (radius * torch.cos(2 * math.pi * u[:, 1])).to(dtype).reshape(len(seed), *shape)
