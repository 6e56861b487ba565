"""Table 1 of the MNIST features study over seeds: how far a network's accuracies depend on its own.

    python benchmarks/mnist_features_seeds.py --out runs/table-1 --network "standard, as tabled" --seeds 0 1 2

The study trains each network of that table once. Here some are trained with more seeds, by the same recipe, and tested
on the same five corruptions of all test images. Resumes where it was stopped; MNIST from UNFOOLED_DATA. Writes
mnist-features-seeds.json: accuracy by network, seed and corruption; mean and its 95 % interval over seeds (Student's t,
three or more) beside the published figure. One thread: 8 minutes a seed for "standard, as tabled", 20 for "standard,
faithful".
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.statistics import Interval, over_seeds
from unfooled.studies.common.claims import claim
from unfooled.studies.mnist_features.bench import MnistBench
from unfooled.studies.mnist_features.claims import MAX_SHORTFALL, TABLE_1
from unfooled.studies.mnist_features.scale import FIVE, SCALES


def over(values: list[float], published: float) -> dict[str, Any]:
    """Mean, interval over seeds, and whether it is within three points of the published figure or better."""
    mean = statistics.fmean(values)
    row: dict[str, Any] = {"by seed": values, "mean": round(mean, 4), "published": published}
    if len(values) > 2:
        interval = over_seeds(values, Interval(mean, mean, mean, len(values)))
        verdict = claim("", "", interval, published - MAX_SHORTFALL).verdict
        row |= {"low": round(interval.low, 4), "high": round(interval.high, 4), "within 3 points or better": verdict}
    return row


def main() -> None:
    """Train what is not there yet, test, write."""
    recipes = {recipe.name: recipe for recipe in SCALES["medium"].recipes}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; a second start continues it")
    parser.add_argument("--network", nargs="+", choices=list(recipes), default=["standard, as tabled"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[str, list[list[float]]] = {name: [] for name in options.network}
    seconds: dict[str, list[float]] = {name: [] for name in options.network}
    for name in options.network:
        for seed in options.seeds:
            bench = MnistBench(SCALES["medium"], options.out / f"seed-{seed}", device=options.device, seed=seed)
            right = bench.right(bench.network(name)).double().mean(0)
            found[name].append([round(float(value), 4) for value in right])
            seconds[name].append(round(bench.seconds[name], 1))
            print(name, f"seed {seed}:", *found[name][-1], f"({seconds[name][-1]:.0f} s)", flush=True)
    record = {
        "benchmark": "mnist_features_seeds", "data": "MNIST, 60,000 training and 10,000 test images",
        "seeds": options.seeds, "seconds": seconds,
        "networks": {
            name: {
                group: over([row[k] for row in rows], TABLE_1[recipes[name].network][k]) for k, group in enumerate(FIVE)
            }
            for name, rows in found.items()
        },
        "environment": Environment.here(options.device).model_dump(), "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    write_whole(options.out / "mnist-features-seeds.json", (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
