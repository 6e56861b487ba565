"""Throughput of an audit that two processes share, against one process of one thread.

    python benchmarks/workers.py --rounds 3 --minutes 5.5

Two models: one that waits (a linear model that sleeps 2 ms for each sample of a call), and LeNet-5 on MNIST. One
process and two take turns; both audit the same samples at `quick`, and the verdicts must be equal. The figures are the
ratios of the wall times, of the whole command and of each stage that takes `LONG` seconds alone; with both cores free,
2 would be perfect. Each measurement is stored at once. No measurement begins that would last beyond `--minutes`; the
same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.runs.executors import processes
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

FILE = Path(__file__).parent / "results" / "workers.json"
DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
PLAN = uf.Plan(effort=uf.QUICK, nearest_n=50, explain_n=20, reasons=None)
LONG = 1.0
"""Seconds of one process from which a stage is listed."""
SAME = ("verdict", "clean_accuracy", "robust_accuracy", "confusion")
"""Figures that must be equal. Distances may differ in their last digits: parts of a slow model follow its pace."""


class Waiting(nn.Module):
    """A linear model that waits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Wait, and return the logits."""
        time.sleep(0.002 * len(x))
        answer: Tensor = self.head(x.flatten(1))
        return answer


def waiting(n: int) -> tuple[nn.Module, Tensor, Tensor, float]:
    """The model that waits, on random samples that it gets right."""
    model = Waiting().eval()
    x = torch.rand(n, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model.head(x).argmax(1)
    return model, x, y, 0.01


def lenet(n: int) -> tuple[Any, Tensor, Tensor, float]:
    """LeNet-5 on the first test images of MNIST."""
    model = uf.load_model(DATA / "models" / "mnist_lenet5_clntrained.pt", arch="lenet5")
    x, y = uf.load_data(DATA / "mnist.npz", n=n)
    return model, x, y, 0.1


CASES: dict[str, Callable[[int], Any]] = {"waiting": waiting, "lenet5": lenet}


class Stages:
    """Wall time of each stage, from its first report to that of the next."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note the begin of a stage."""
        if all(name != stage for name, _ in self.began):
            self.began.append((str(stage), time.perf_counter()))

    def seconds(self, end: float) -> dict[str, float]:
        """Return the wall time of each stage."""
        ends = [*(at for _, at in self.began[1:]), end]
        return {name: round(to - at, 3) for (name, at), to in zip(self.began, ends, strict=True)}


def timed(case: Callable[[int], Any], n: int, count: int) -> dict[str, Any]:
    """Return the wall time of an audit by `count` processes of one thread, those of its stages, and its figures."""
    model, x, y, eps = case(n)
    executor = processes(count, threads=1)
    if executor is not None:  # start the processes, which takes seconds, before the clock
        for future in [executor.submit(import_module, "unfooled.evaluation.audit.audit") for _ in range(count - 1)]:
            future.result()
    stages, load = Stages(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        summary = uf.audit(
            model, x, y, uf.Linf(eps), plan=PLAN, out=folder, chunk=25, executor=executor, progress=stages
        )
        end = time.perf_counter()
    if executor is not None:
        executor.dismiss()
    return {
        "seconds": round(end - started, 2), "load": round(load, 2), "stages": stages.seconds(end),
        "figures": summary.model_dump(mode="json", include=set(SAME)),
        "busy": summary.efficiency.busy if summary.efficiency else None,
    }  # fmt: skip


def ratios(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the wall times by number of processes, and their ratios, whole and by stage."""
    counts = sorted({row["processes"] for row in measured})
    whole = {count: [row["seconds"] for row in measured if row["processes"] == count] for count in counts}

    def stage(name: str, count: int) -> float:
        return median(row["stages"].get(name, 0.0) for row in measured if row["processes"] == count)

    names = [name for name in measured[0]["stages"] if 1 in counts and stage(name, 1) >= LONG]
    return {
        "seconds": {str(count): values for count, values in whole.items()},
        "ratio": {str(count): round(median(whole[1]) / median(whole[count]), 3) for count in counts if 1 in counts},
        "stages": {
            name: {str(count): round(stage(name, 1) / max(stage(name, count), 1e-3), 3) for count in counts}
            for name in names
        },
    }


def record(measured: dict[str, list[dict[str, Any]]], n: int) -> dict[str, Any]:
    """Return the record; figures must be equal."""
    for name, rows in measured.items():
        for row in rows:
            apart = [key for key in SAME if row["figures"][key] != rows[0]["figures"][key]]
            assert not apart, f"{name}: {row['processes']} processes changed {apart}"
    return {
        "command": f"python benchmarks/workers.py --n {n}", "n": n, "threads": 1,
        "results": {name: ratios(rows) for name, rows in measured.items() if rows},
        "measurements": measured, "environment": Environment.here("cpu").model_dump(),
    }  # fmt: skip


def earlier(file: Path, n: int) -> dict[str, list[dict[str, Any]]]:
    """Return the measurements of earlier starts with as many samples; none of other records."""
    stored = json.loads(file.read_text()) if file.is_file() else {}
    return stored["measurements"] if "measurements" in stored and stored["n"] == n else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--fresh", action="store_true", help="forget the measurements of earlier starts")
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    begun, longest = time.monotonic(), dict.fromkeys(CASES, 0.0)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES} | (
        {} if asked.fresh else earlier(asked.out, asked.n)
    )
    for round_ in range(asked.rounds):
        for name in asked.cases:
            for count in asked.counts:
                if sum(row["processes"] == count for row in measured[name]) > round_:
                    continue
                longest[name] = max([longest[name], *(row["seconds"] for row in measured[name])])
                if time.monotonic() - begun + 1.2 * longest[name] > 60 * asked.minutes:
                    print(f"no time left for {name} by {count} processes: start again to go on")
                    return
                row = {"processes": count} | timed(CASES[name], asked.n, count)
                measured[name].append(row)
                result = record(measured, asked.n)
                write_whole(asked.out, (json.dumps(result, indent=1) + "\n").encode())
                print(f"{name}, {count} processes: {row['seconds']} s, load {row['load']}", flush=True)
    print(json.dumps(record(measured, asked.n)["results"], indent=1))


if __name__ == "__main__":
    main()
