"""`autoattack` against AutoAttack-standard: the same verdicts in less time, Linf, eps .3, one thread, one process.

    python benchmarks/standard_vs_autoattack.py lenet5 trades --peer-path ../auto-attack

lenet5 is undefended, trades is robust. Ours runs before and after the peer; its time is the median. AutoAttack runs
from its own source (github.com/fra31/auto-attack), as shipped, version "standard".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks.ensembles.autoattack import autoattack
from unfooled.core.model.wrappers import Counted
from unfooled.runs.files import write_whole
from unfooled.runs.progress import Progress
from unfooled.runs.records import Environment

sys.path.insert(0, str(Path(__file__).parent))
from cascade_vs_autoattack import (  # type: ignore[import-not-found,unused-ignore]
    EPS,
    STAGES,
    images,
    network,
)
from cascade_vs_autoattack import (
    autoattack as peer_autoattack,
)

FILE = Path(__file__).parent / "results" / "standard-vs-autoattack.json"
COUNTS = {"lenet5": 200, "trades": 50}
TARGETS = {"lenet5": 20.0, "trades": 1.3}


def ours(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[dict[str, Any], Tensor]:
    """One run, judged by `verify`: its record, and who stands."""
    log: list[Progress] = []
    counted = Counted(model)
    wall, cpu = time.perf_counter(), time.process_time()
    z = autoattack(counted, x, y, uf.Linf(EPS), seed=seed, log=log)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    standing = ~uf.verify(model, x, y, z, uf.Linf(EPS)).success
    row = {
        "seed": seed,
        "robust_accuracy": float(standing.double().mean()),
        "seconds": wall,
        "cpu": cpu,
        "forwards": counted.forwards / len(x),
        "backwards": counted.backwards / len(x),
        "curve": [[p.stage, round(p.forward, 2), round(p.backward, 2), round(p.accuracy, 5)] for p in log],
    }
    return row, standing


def compare(name: str, n: int, path: str) -> dict[str, Any]:
    """Ours, the peer, ours again, on the same images."""
    model, (x, y) = network(name), images()
    x, y = x[:n], y[:n]
    runs = [ours(model, x, y, 0)]
    peer = peer_autoattack(model, x, y, path)
    runs.append(ours(model, x, y, 1))
    spent = {k: sum(s[k] for s in peer["spent"].values()) for k in ("seconds", "cpu", "forwards", "backwards")}
    other = peer["survivors"][STAGES[-1]]
    own = {k: statistics.median(row[k] for row, _ in runs) for k in ("seconds", "cpu")}
    return {
        "n": n,
        "load": list(os.getloadavg()),
        "autoattack": {
            "robust_accuracy": {stage: float(peer["survivors"][stage].double().mean()) for stage in STAGES},
            "seconds": spent["seconds"],
            "cpu": spent["cpu"],
            "forwards": spent["forwards"] / n,
            "backwards": spent["backwards"] / n,
            "stages": peer["spent"],
        },
        "ours": [row for row, _ in runs],
        "verdicts_that_differ": [int((standing != other).sum()) for _, standing in runs],
        "wall_ratio": spent["seconds"] / own["seconds"],
        "cpu_ratio": spent["cpu"] / own["cpu"],
        "target": TARGETS[name],
    }


def main() -> None:
    """Compare on each network, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=tuple(COUNTS), default=list(COUNTS))
    parser.add_argument("--n", type=int)
    parser.add_argument("--peer-path", default="../auto-attack")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        found = compare(name, options.n or COUNTS[name], options.peer_path)
        whole = json.loads(FILE.read_text()) if FILE.exists() else {}
        whole |= {
            "command": "python benchmarks/standard_vs_autoattack.py",
            "eps": EPS,
            "environment": Environment.here("cpu").model_dump(),
            name: found,
        }
        write_whole(FILE, json.dumps(whole, indent=1).encode())
        line = {k: round(found[k], 2) for k in ("wall_ratio", "cpu_ratio", "target")}
        print(name, line, "verdicts that differ:", found["verdicts_that_differ"], flush=True)


if __name__ == "__main__":
    main()
