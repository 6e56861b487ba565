"""Random numbers that depend on the sample, not on its batch.

    u(i) = splitmix64(seed, hash of sample i's bytes, stage, draw, coordinate)

A counter hash instead of a stream: the same sample gets the same numbers whatever its place in the batch, the size of
the batch, the device or the process. A `torch.Generator` passed to an attack supplies the base seed
and is not advanced; `None` means seed 0.

No two uses of random numbers share a pair of stage and draw. `Stream` lists every use in the library, `USES` the stages
and draws of each, and `Numbers` the numbers of an evaluation's stages, which serve as draws.

References:
    Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the finaliser of splitmix64).
"""

from __future__ import annotations

import math
from enum import IntEnum, unique
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


@unique
class Stream(IntEnum):
    """Uses of random numbers; each value is the stage that makes the use independent of the others.

    A new use needs an unused number and an entry in `USES`. Numbers never change or get reused: published results
    depend on them.
    """

    REVIVED = -1
    """Random directions that replace zero gradients. Draw: the step."""
    START = 0
    """Starting points of attacks on the label. Draw: the number of the stage, see `Numbers`."""
    HALF_NORMAL_NOISE = 1
    STROKE_REMOVAL = 2
    CORRUPTION = 3
    """Kind of corruption of an image."""
    SHOT_NOISE = 11
    IMPULSE_NOISE = 12
    GLASS_BLUR = 13
    MOTION_BLUR = 14
    ROTATION = 15
    SCALE = 16
    SQUARE = 17
    """Windows and signs of Square attack. Draws: 0 the first stripes, < 0 the first bumps, from 2 on the queries."""
    ZIGZAG = 18
    TRANSLATION = 19
    FOG = 20
    """Fog corruption. Stages: one per octave."""
    RELABELLING = 31
    """New labels of a data set whose images are assigned to other classes."""
    INVERSION = 32
    """Starting images of feature inversion."""
    JITTER = 33
    """Noise over which a gradient is averaged."""
    SIGNS = 37
    """Directions of an estimated gradient."""
    TWIN = 41
    """Training points of a distilled twin."""
    PAIRS = 43
    """Pairs of pixels whose order an attack on an explanation reverses."""
    RAYS = 47
    """Orders of coordinates in RayS. Draw: the round."""
    MAP_SIGNS = 49
    """Directions of an estimated gradient of a map."""
    RANDOM_POINT = 53
    """Random baseline of attacks on explanations, and their starting points."""
    HOP_SKIP_JUMP = 54
    """HopSkipJump. Draws: first points, then the probes of step t from t 2^20 on."""
    WALK = 59
    """Random-walk baseline of attacks on explanations. Draw: the step."""
    MAP_SQUARE = 61
    """Windows of Square attack on an explanation."""
    BISECTION = 67
    """Starting points of further attempts at a radius in `bisect`. Draw: the round."""
    SMOOTHING = 71
    """Noisy copies of an input whose explanations are averaged."""
    HASHED_NOISE = 73
    """Noise that a defence computes from a hash of the input."""
    LIME_MASKS = 79
    """Masks of a local surrogate. Draw: the row, or the pair."""
    LIME_SIZES = 83
    """Order of the sizes of masks. Draw: the block."""
    LIME_VALUES = 89
    """Values of perturbed table rows. Draw: the row."""
    LIME_NOISE = 90
    """Noise in place of hidden segments. Draw: the draw of the baseline."""
    SUPERSETS = 91
    """Features added to a selected set, for its soft stability. Draw: the superset."""
    EXPECTED_GRADIENTS = 92
    """Backgrounds and places on the path of expected gradients. Draw: the point."""
    PICK = 93
    """Subsample of a submodular pick."""
    RESIZED = 94
    """Size and place of a purifier that resizes and pads."""
    CERTIFIED_NOISE = 95
    """Noise of randomized smoothing. Draws: those that select the class, then those that bound its probability."""
    MEMETIC = 96
    """Points and windows of the memetic search. Draw: the pool, its generation, and the point."""
    WAVE = 100
    """Output-diversified directions. Stage: see `wave_stage`. Draws: 0 a new direction, 1 choice of a learned one."""
    AUTOATTACK = 200
    """Starting points of AutoAttack's APGD. Draw: the number of the target, 0 for untargeted."""
    NOISE = 300
    """Random points of the threat. Stages: 300 plus the number of an evaluation's stage."""
    CHECK_START = 400
    """Points evaluated by the checks before an attack."""
    CHECK_JUMPS = 401
    """Random numbers of single checks, this and the following."""
    CHECK_DIRECTIONS = 402
    CHECK_ROUGHNESS = 403
    CHECK_MEMORY = 404
    CHECK_CONSTANT = 405
    CHECK_BORDERS = 406


class Numbers:
    """Numbers of an evaluation's stages, by part of the evaluation; `START` and other streams use them as draws."""

    ATTACK = range(41)
    """Stages of an effort, at most 40; the last number is that of the stage which L0 may add."""
    GUARD = range(100, 125)
    """Attacks on a model behind a purifier, each by itself."""
    CHECKS = range(200, 240)
    """Attacks that the checks make."""
    WHOLE_BOX = range(250, 251)
    """The check's attack without a bound but the box."""
    AGAIN = (range(300, 341), range(350, 391))
    """Continued attack after a failed check, one range per round; the last number is the check that follows."""
    HIDDEN = (range(400, 461), range(500, 561), range(700, 761))
    """Gradient-free attacks, one range per round; the last number is the check that follows."""
    REPEATED = (range(800, 860), range(860, 920), range(920, 980))
    """Attacks that found something and run on, one range per round."""
    AUTOATTACK_L1 = range(600, 609)
    """Targets of AutoAttack's APGD in L1."""
    EVERY = (ATTACK, GUARD, CHECKS, WHOLE_BOX, *AGAIN, *HIDDEN, *REPEATED, AUTOATTACK_L1)
    LIMIT = 1009
    """Upper bound of all numbers: `derived` gives each pair of seed and number its own base seed."""


def wave_stage(number: int) -> int:
    """Return the stage of an output-diversified wave; continued attacks start at 1000, above the checks' stages."""
    return (Stream.WAVE if number in Numbers.ATTACK else 1000) + number


class Use(NamedTuple):
    """Stages and draws that a stream may use.

    Attributes:
        stages: Ranges of stages.
        draws: Range of draws.
    """

    stages: tuple[range, ...]
    draws: range


def _one(stream: Stream, draws: range = range(1)) -> Use:
    """Return the use of a stream that has a single stage."""
    return Use((range(stream, stream + 1),), draws)


MANY_DRAWS = range(1 << 20)
"""Draws of a use with one draw per step or point."""
USES = MappingProxyType(
    {
        **{stream: _one(stream) for stream in Stream},
        Stream.REVIVED: _one(Stream.REVIVED, MANY_DRAWS),
        Stream.START: _one(Stream.START, range(Numbers.LIMIT)),
        Stream.SQUARE: _one(Stream.SQUARE, range(-(1 << 31), 1 << 20)),
        Stream.FOG: Use((range(20, 24),), range(1)),
        Stream.JITTER: _one(Stream.JITTER, MANY_DRAWS),
        Stream.SIGNS: _one(Stream.SIGNS, MANY_DRAWS),
        Stream.TWIN: _one(Stream.TWIN, MANY_DRAWS),
        Stream.RAYS: _one(Stream.RAYS, MANY_DRAWS),
        Stream.MAP_SIGNS: _one(Stream.MAP_SIGNS, MANY_DRAWS),
        Stream.RANDOM_POINT: _one(Stream.RANDOM_POINT, MANY_DRAWS),
        Stream.HOP_SKIP_JUMP: _one(Stream.HOP_SKIP_JUMP, range(1 << 40)),
        Stream.WALK: _one(Stream.WALK, MANY_DRAWS),
        Stream.MAP_SQUARE: _one(Stream.MAP_SQUARE, range(-(1 << 31), 1 << 20)),
        Stream.BISECTION: _one(Stream.BISECTION, MANY_DRAWS),
        Stream.SMOOTHING: _one(Stream.SMOOTHING, MANY_DRAWS),
        Stream.LIME_MASKS: _one(Stream.LIME_MASKS, MANY_DRAWS),
        Stream.LIME_SIZES: _one(Stream.LIME_SIZES, MANY_DRAWS),
        Stream.LIME_VALUES: _one(Stream.LIME_VALUES, MANY_DRAWS),
        Stream.LIME_NOISE: _one(Stream.LIME_NOISE, MANY_DRAWS),
        Stream.SUPERSETS: _one(Stream.SUPERSETS, MANY_DRAWS),
        Stream.EXPECTED_GRADIENTS: _one(Stream.EXPECTED_GRADIENTS, MANY_DRAWS),
        Stream.CERTIFIED_NOISE: _one(Stream.CERTIFIED_NOISE, MANY_DRAWS),
        Stream.MEMETIC: _one(Stream.MEMETIC, range(1 << 40)),
        Stream.WAVE: Use(
            tuple(range(wave_stage(part[0]), wave_stage(part[-1]) + 1) for part in (Numbers.ATTACK, *Numbers.AGAIN)),
            range(2),
        ),
        Stream.AUTOATTACK: _one(Stream.AUTOATTACK, range(10)),
        Stream.NOISE: Use(
            tuple(
                range(Stream.NOISE + part[0], Stream.NOISE + part[-1] + 1)
                for part in (Numbers.ATTACK, Numbers.CHECKS, *Numbers.AGAIN, *Numbers.HIDDEN, *Numbers.REPEATED)
            ),
            MANY_DRAWS,
        ),
        Stream.CHECK_JUMPS: _one(Stream.CHECK_JUMPS, range(2)),
        Stream.CHECK_DIRECTIONS: _one(Stream.CHECK_DIRECTIONS, range(1, 33)),
        Stream.CHECK_ROUGHNESS: _one(Stream.CHECK_ROUGHNESS, range(8)),
        Stream.CHECK_MEMORY: _one(Stream.CHECK_MEMORY, range(5)),
    }
)
"""All random streams; no two uses share a pair of stage and draw."""


Counters: TypeAlias = npt.NDArray[np.uint64]


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right logically; torch shifts int64 arithmetically."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """Finalise int64 counters into int64 hashes (a bijection; every output bit depends on every input bit)."""
    if z.device.type == "cpu" and z.ndim:  # NumPy shifts unsigned numbers and does so in place: a third of the time
        return torch.from_numpy(_mixed(z.numpy().view(np.uint64)).view(np.int64))
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _mixed(counters: Counters) -> Counters:
    z = counters >> np.uint64(30)
    z ^= counters
    z *= np.uint64(_MIX1 % 2**64)
    shifted = z >> np.uint64(27)
    z ^= shifted
    z *= np.uint64(_MIX2 % 2**64)
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z


def _steps(size: int, device: torch.device) -> Tensor:
    """Return the counters of `size` coordinates, (size,) int64; shared, so never written to."""
    return torch.from_numpy(_remembered_steps(size)).to(device)


@lru_cache(maxsize=8)
def _remembered_steps(size: int) -> npt.NDArray[np.int64]:
    # An array and no tensor: one that was made while a model is traced would belong to that trace for good.
    return np.arange(1, size + 1, dtype=np.int64) * _GOLDEN


def sample_keys(x: Tensor) -> Tensor:
    """Hash each sample's bytes: (B, *D) -> (B,) int64. Equal samples have equal keys on every device."""
    rows = x.detach().reshape(len(x), -1)
    if rows.dtype == torch.bool:
        rows = rows.to(torch.uint8)
    if rows.is_floating_point() or rows.is_complex():
        width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
        rows = rows.contiguous().view(width)
    place = mix(_steps(rows.shape[1], x.device))
    return mix((mix(rows.to(torch.int64) + place) ^ place).sum(1))


def derived(seed: int, number: int) -> torch.Generator:
    """Return the generator of an evaluation's stage.

    Args:
        seed: Seed of the evaluation.
        number: Number of the stage, below `Numbers.LIMIT`.
    """
    return torch.Generator().manual_seed((seed * Numbers.LIMIT + number) & 0x7FFFFFFF)


def base_seed(generator: torch.Generator | int | None) -> int:
    """Return the initial seed of a generator, which is not advanced; a number itself; 0 for None."""
    if isinstance(generator, int):
        return generator & 0x7FFFFFFFFFFFFFFF
    return 0 if generator is None else generator.initial_seed() & 0x7FFFFFFFFFFFFFFF


def seeds(x: Tensor, generator: torch.Generator | int | None = None, *, stage: int = Stream.START) -> Tensor:
    """Return one seed per sample, (B,) int64, from the base seed, the sample's bytes and a stage, see `Stream`."""
    base = generator if isinstance(generator, int) else base_seed(generator)
    offset = torch.tensor([base, stage], dtype=torch.int64, device=x.device)
    salt = mix(mix(offset[:1] + _GOLDEN) + (offset[1:] + 1) * _GOLDEN)
    return mix(sample_keys(x) ^ salt)


def bits(seed: Tensor, size: int, *, draw: int | Tensor = 0) -> Tensor:
    """Hash counters into (B, size) int64; `draw` separates independent draws, an int or (B,)."""
    offset = torch.as_tensor(draw, dtype=torch.int64, device=seed.device)
    start = mix(seed + (offset + 1) * _MIX1)
    return mix(start[:, None] + _steps(size, seed.device))


def uniform(
    seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw uniform numbers in [0, 1), (B, *shape); 24 random bits each, so that they are exact in float32."""
    exact = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    u = _shift(bits(seed, math.prod(shape), draw=draw), 40).to(exact) * 2.0**-24
    return u.to(dtype).reshape(len(seed), *shape)


def inner_uniform(seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0) -> Tensor:
    """Draw uniform numbers in (0, 1), neither of which is drawn, (B, *shape) float64; 52 random bits each."""
    u = (_shift(bits(seed, math.prod(shape), draw=draw), 12).to(torch.float64) + 0.5) * 2.0**-52
    return u.reshape(len(seed), *shape)


def normal(
    seed: Tensor, shape: tuple[int, ...], *, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw standard normal numbers, (B, *shape), by Box and Muller's transform."""
    size = math.prod(shape)
    u = uniform(seed, (2, size), draw=draw, dtype=torch.float64)
    radius = (-2 * torch.log1p(-u[:, 0])).sqrt()  # 1 - u is in (0, 1]: the logarithm is finite
    return (radius * torch.cos(2 * math.pi * u[:, 1])).to(dtype).reshape(len(seed), *shape)
