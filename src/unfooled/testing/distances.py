"""Contract checks of distances and similarities: `(a, b) -> (B,)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unfooled.core.types import Distance
from unfooled.testing.promises import Snapshot, close, name_of, require, require_refusal, run_checks
from unfooled.testing.subjects import points

PROMISES = ("per_sample", "untouched", "batch", "identity", "range", "symmetry", "metric", "invariances", "refusals")
"""Names of the promises, in the order in which they are checked."""
Pair = tuple[Tensor, Tensor]
N = 5


def check_distance(
    distance: Distance,
    *,
    only: Iterable[str] | None = None,
    equal: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    symmetric: bool = True,
    metric: bool = False,
    invariances: Sequence[Callable[[Tensor, Tensor], Pair]] = (),
    draw: Callable[[int, int], Tensor] | None = None,
    device: str = "cpu",
) -> None:
    """Check that a distance, or a similarity, meets the contract of its family.

    Always checked: one number per sample, of the arguments' dtype and device ("per_sample"), that does not depend on
    the batch ("batch"); arguments and global random generators are left unchanged ("untouched"); equal tensors have the
    declared value, and some different ones do not ("identity"); values lie in the declared range ("range"); bad input
    raises ValueError ("refusals"). Checked where declared: "symmetry", "metric", "invariances".

    Args:
        distance: Function of two tensors of one shape, with its options bound (`functools.partial`).
        only: Names of the promises to check, those in quotes above. None: all.
        equal: Value for equal tensors: 0 for a distance, often 1 for a similarity.
        low: Smallest possible value.
        high: Largest possible value.
        symmetric: Declaration that d(a, b) = d(b, a).
        metric: Declaration of a metric: d(a, c) <= d(a, b) + d(b, c), and only equal tensors have the value `equal`.
        invariances: Functions `(a, b) -> (a, b)` that change the pair but not its distance, such as
            `lambda a, b: (a + 1, b + 1)`.
        draw: Function `(n, seed) -> (n, *D)` that draws arguments in float64, such as probability maps.
            None: uniform images of (2, 9, 8).
        device: Device to run on.

    Raises:
        AssertionError: One sentence that names the broken promise and the setting.
        ValueError: `only` names no promise.

    Example:
        >>> from unfooled.distances import l2
        >>> check_distance(l2, metric=True, invariances=[lambda a, b: (a + 1, b + 1)])
    """
    make = draw or (lambda n, seed: points(n, (2, 9, 8), dtype=torch.float64, seed=seed))
    claims = _Claims(equal, low, high, symmetric, metric, tuple(invariances))
    run_checks(_Case(distance, claims, lambda n, seed: make(n, seed).to(device)).promises(), only, distance)


@dataclass(frozen=True)
class _Claims:
    """Declarations about a distance; see `check_distance`."""

    equal: float
    low: float
    high: float
    symmetric: bool
    metric: bool
    invariances: tuple[Callable[[Tensor, Tensor], Pair], ...]


@dataclass(frozen=True)
class _Case:
    """One distance."""

    distance: Distance
    claims: _Claims
    draw: Callable[[int, int], Tensor]

    def promises(self) -> dict[str, Callable[[], None]]:
        """Return the checks by name."""
        return {name: getattr(self, name) for name in PROMISES}

    def pair(self, dtype: torch.dtype = torch.float64) -> Pair:
        return self.draw(N, 0).to(dtype), self.draw(N, 1).to(dtype)

    def require(self, holds: bool | Tensor, sentence: str, where: str = "float64") -> None:
        require(holds, f"{name_of(self.distance)} {sentence} ({where})")

    # Promises

    def per_sample(self) -> None:
        for dtype in (torch.float32, torch.float64):
            a, b = self.pair(dtype)
            value = self.distance(a, b)
            self.require(isinstance(value, Tensor), f"returns a {type(value).__name__} instead of a tensor")
            self.require(
                value.shape == (N,),
                f"returns shape {tuple(value.shape)} instead of one number per sample, ({N},)",
                f"{dtype}",
            )
            self.require(value.dtype == dtype, f"returns dtype {value.dtype}", f"{dtype}")
            self.require(value.device == a.device, f"returns a tensor on {value.device}", f"{a.device}")

    def batch(self) -> None:
        for dtype in (torch.float32, torch.float64):
            a, b = self.pair(dtype)
            value, order = self.distance(a, b), torch.tensor([3, 1, 4, 0, 2], device=a.device)
            moved = self.distance(a[order], b[order])
            self.require(close(moved, value[order]), "depends on the order of the batch", f"{dtype}")
            alone = torch.cat([self.distance(a[i : i + 1], b[i : i + 1]) for i in range(N)])
            self.require(close(alone, value, rtol=1e-5, atol=1e-6), "depends on the batch", f"{dtype}")

    def untouched(self) -> None:
        a, b = self.pair()
        before = Snapshot(a=a, b=b)
        self.distance(a, b)
        before.require_unchanged(self.distance, "float64")

    def identity(self) -> None:
        a, b = self.pair()
        same, want = self.distance(a, a.clone()), torch.full((N,), self.claims.equal, dtype=a.dtype, device=a.device)
        span = f"{float(same.min()):g} to {float(same.max()):g}"
        self.require(close(same, want), f"is {span} for equal tensors instead of {self.claims.equal:g}")
        apart = (self.distance(a, b) - self.claims.equal).abs() > 1e-6
        self.require(apart.any(), f"is {self.claims.equal:g} for tensors that differ")

    def range(self) -> None:
        for seed in range(3):
            a, b = self.draw(N, 2 * seed), self.draw(N, 2 * seed + 1)
            for pair in ((a, b), (b, a), (a, a.clone()), (a, a.flip(-1))):
                value = self.distance(*pair)
                span = f"{float(value.min()):g} to {float(value.max()):g}"
                inside = (value >= self.claims.low - 1e-9) & (value <= self.claims.high + 1e-9)
                self.require(inside.all(), f"has values of {span}, outside [{self.claims.low:g}, {self.claims.high:g}]")

    def symmetry(self) -> None:
        if self.claims.symmetric:
            for dtype in (torch.float32, torch.float64):
                a, b = self.pair(dtype)
                same = close(self.distance(a, b), self.distance(b, a), rtol=1e-5, atol=1e-6)
                self.require(same, "is not symmetric", f"{dtype}")

    def metric(self) -> None:
        if self.claims.metric:
            a, b, c = (self.draw(N, seed) for seed in range(3))
            direct = self.distance(a, c)
            for middle in (b, (a + c) / 2):
                detour = self.distance(a, middle) + self.distance(middle, c)
                self.require((direct <= detour + 1e-9).all(), "breaks the triangle inequality")
            self.require((direct > self.claims.equal).all(), f"is {self.claims.equal:g} for tensors that differ")

    def invariances(self) -> None:
        a, b = self.pair()
        want = self.distance(a, b)
        for i, change in enumerate(self.claims.invariances):
            value = self.distance(*change(a, b))
            self.require(close(value, want), f"changes under its declared invariance {i + 1}")

    def refusals(self) -> None:
        a, b = self.pair()
        for what, first, second in (
            ("another number of samples", a, b[:2]),
            ("tensors of whole numbers", a, (b * 255).byte()),
        ):
            require_refusal(partial(self.distance, first, second), self.distance, what)
