"""Coverage of the 95 % intervals by simulation: how often they hold the true mean, and how wide they are.

Four intervals, each over samples of several distributions whose mean is known, from n = 10 on:

    mean            intervals.mean, beside the percentile bootstrap and Student's t
    over_images     the corrected bootstrap of any statistic, here of a mean
    discrete_mean   values with few levels
    mean_of_shares  random models: each sample is right in a share of 20 draws

    python benchmarks/interval_coverage.py --repeats 2000 --out benchmarks/results/interval-coverage.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

import unfooled
from unfooled.statistics import discrete_mean, mean, mean_of, mean_of_shares, over_images

Draw = Callable[[np.random.Generator, int], np.ndarray]
Ends = tuple[float | None, float | None]
Find = Callable[[np.ndarray, int], Ends]
"""(values, seed) -> ends of an interval."""
VALUES: dict[str, tuple[Draw, float, tuple[float, float]]] = {
    "normal": (lambda g, n: g.normal(size=n), 0.0, (-np.inf, np.inf)),
    "exponential": (lambda g, n: g.exponential(size=n), 1.0, (0.0, np.inf)),
    "uniform": (lambda g, n: g.random(n), 0.5, (0.0, 1.0)),
    "beta(8, 2)": (lambda g, n: g.beta(8, 2, size=n), 0.8, (0.0, 1.0)),
    "60 % ones, else uniform": (lambda g, n: np.where(g.random(n) < 0.6, 1.0, g.random(n)), 0.8, (0.0, 1.0)),
}
"""Name -> draw of n values, their mean, and the smallest and largest value."""
RANDOM: dict[str, tuple[Draw, float]] = {
    "coin: .45 everywhere": (lambda _, n: np.full(n, 0.45), 0.45),
    "little noise: .999 or .001": (lambda g, n: np.where(g.random(n) < 0.9, 0.999, 0.001), 0.8992),
    "beta(2, 1)": (lambda g, n: g.beta(2, 1, size=n), 2 / 3),
    "all nearly right": (lambda _, n: np.full(n, 0.999), 0.999),
}
"""Name -> draw of n probabilities that a draw is right, and their mean."""
LEVELS: Draw = lambda g, n: g.integers(-1, 2, size=n).astype(float)  # noqa: E731


def percentile(values: np.ndarray, seed: int) -> Ends:
    """Return the percentile bootstrap's interval."""
    rows = np.random.default_rng(seed).integers(len(values), size=(999, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return float(low), float(high)


def student(values: np.ndarray, _: int) -> Ends:
    """Return Student's interval."""
    reach = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - reach), float(values.mean() + reach)


def covered(
    interval: Callable[[np.ndarray, int], Ends], draw: Draw, truth: float, n: int, repeats: int
) -> dict[str, Any]:
    """Return the share of repeats whose interval holds the truth, and its median width."""
    source, hits = np.random.default_rng(n), 0
    widths: list[float] = []
    for i in range(repeats):
        low, high = interval(draw(source, n), i)
        if low is not None and high is not None:
            hits, widths = hits + (low <= truth <= high), [*widths, high - low]
    return {"coverage": hits / repeats, "width": float(np.median(widths))}


def resampled(values: np.ndarray, _: int) -> Ends:
    """Return the corrected bootstrap's interval."""
    return over_images(mean_of("a"), {"id": np.arange(len(values)), "a": values})[1:3]


def simulate(sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return one row an interval, distribution and n."""
    rows: list[dict[str, Any]] = []

    def row(name: str, of: str, interval: Find, draw: Draw, truth: float) -> None:
        rows.extend({"interval": name, "of": of, "n": n, **covered(interval, draw, truth, n, repeats)} for n in sizes)

    for of, (draw, truth, within) in VALUES.items():

        def ours(values: np.ndarray, i: int, within: tuple[float, float] = within) -> Ends:
            found = mean(torch.from_numpy(values), within=within, seed=i)
            return found.low, found.high

        row("mean", of, ours, draw, truth)
        row("percentile bootstrap", of, percentile, draw, truth)
        row("Student", of, student, draw, truth)
        row(
            "over_images",
            of,
            lambda v, _: over_images(mean_of("a"), {"id": np.arange(len(v)), "a": v})[1:3],
            draw,
            truth,
        )
    row("discrete_mean", "-1, 0 and 1", lambda v, _: discrete_mean(v)[1:3], LEVELS, 0.0)
    for of, (probability, truth) in RANDOM.items():

        def rates(g: np.random.Generator, n: int, probability: Draw = probability) -> np.ndarray:
            return g.binomial(20, probability(g, n)) / 20

        def shares(values: np.ndarray, _: int) -> Ends:
            found = mean_of_shares(torch.from_numpy(values))
            return found.low, found.high

        row("mean_of_shares", of, shares, rates, truth)
    return rows


def main() -> None:
    """Simulate, print a table and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 60])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    begun = time.perf_counter()
    rows = simulate(given.sizes, given.repeats)
    for one in rows:
        print(
            f"{one['interval']:<22} {one['of']:<28} n = {one['n']:<4} {one['coverage']:.3f}  width {one['width']:.3g}"
        )
    if given.out is not None:
        record = {
            "command": f"python benchmarks/interval_coverage.py --repeats {given.repeats}",
            "repeats": given.repeats,
            "seconds": round(time.perf_counter() - begun, 1),
            "versions": {
                "unfooled": unfooled.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "rows": rows,
        }
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
