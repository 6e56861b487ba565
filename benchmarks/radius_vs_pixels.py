"""Does the radius rank the scenes of a network as their pixel distances do? More scenes than the study takes.

Networks are those of a run of the study of attackability, in its folder, or are trained there. For each, Spearman's
correlation of the radius with the l_2 distance to the nearest adversarial example of DDN and FMN: over all scenes, and
with the classes taken out; and the mean of both over networks, with Student's interval. Finished networks are stored in
DIR/radius_vs_pixels, and are not measured again.

    unfooled study attackability --scale medium --out runs/attackability-medium
    python benchmarks/radius_vs_pixels.py --study runs/attackability-medium --n 200
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.counterfactuals import radius
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.studies.attackability.bench import JOINT, ConceptBench, subset
from unfooled.studies.attackability.figures import arrays, spearman, spearman_within
from unfooled.studies.attackability.scale import SCALES
from unfooled.studies.attackability.training import nearest
from unfooled.studies.common.records import listed

RESULTS = Path(__file__).parent / "results" / "radius-vs-pixels.json"


def measured(folder: Path, rho: float, seed: int, n: int, steps: int) -> dict[str, Any]:
    """Return radii, pixel distances and labels of correctly classified scenes, and processor seconds."""
    stored = folder / "radius_vs_pixels" / f"{rho:g}_{seed}_{n}_{steps}.json"
    if stored.is_file():
        content: dict[str, Any] = json.loads(stored.read_text())
        return content
    bench = ConceptBench(SCALES["medium"], rho, seed, folder=folder)
    embedded, rows = bench.embedded(), bench.right[:n]
    x, y = subset(bench.tests, rows)
    began = time.process_time()
    columns = {
        "radius": radius(embedded.head, embedded.test[rows], embedded.covariance),
        "distance": nearest(bench.network(JOINT), x, y, steps, seed),
        "label": y.double(),
    }
    made = {
        "columns": {name: listed(values) for name, values in columns.items()},
        "processor_seconds": round(time.process_time() - began, 1), "load": round(os.getloadavg()[1], 1),
    }  # fmt: skip
    stored.parent.mkdir(exist_ok=True)
    write_whole(stored, json.dumps(made).encode())
    return made


def over_networks(values: list[float]) -> dict[str, Any]:
    """Return the mean over networks with Student's interval."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(np.mean(values))
    return {"mean": round(mean, 3), "low": round(mean - half, 3), "high": round(mean + half, 3), "n": len(values)}


def main() -> None:
    """Measure all networks, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--networks", type=int, default=SCALES["medium"].networks)
    args = parser.parse_args()
    rows = []
    for rho in SCALES["medium"].rhos:
        for seed in range(args.networks):
            one = measured(args.study, rho, seed, args.n, args.steps)
            columns = arrays(one["columns"])
            every = spearman([columns], "radius", "distance")
            inside = spearman_within([columns], "radius", "distance")
            few = {name: values[:30] for name, values in columns.items()}
            rows.append({
                "rho": rho, "network": seed, "n": len(columns["id"]), "spearman": round(every.value, 3),
                "interval": [round(every.low, 3), round(every.high, 3)], "within classes": round(inside.value, 3),
                "interval, within classes": [round(inside.low, 3), round(inside.high, 3)],
                "spearman, first 30": round(spearman([few], "radius", "distance").value, 3),
                "processor_seconds": one["processor_seconds"], "load": one["load"],
            })  # fmt: skip
            print(rows[-1], flush=True)
    record = {
        "environment": Environment.here("cpu").model_dump(), "n": args.n, "steps": args.steps,
        "over networks": {name: over_networks([row[name] for row in rows]) for name in ("spearman", "within classes")},
        "networks": rows,
    }  # fmt: skip
    write_whole(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
    print(record["over networks"])


if __name__ == "__main__":
    main()
