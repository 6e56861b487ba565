"""Throughput of an audit that two processes share, against one process of one thread.

    python benchmarks/workers.py --rounds 3

Two models: one that waits (a linear model that sleeps 2 ms for each sample of a call), and LeNet-5 on MNIST. One
process and two take turns; both audit the same samples at `quick`, and the verdicts must be equal. The figure is the
ratio of the wall times; with both cores free, 2 would be perfect.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
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


def timed(case: Callable[[int], Any], n: int, count: int) -> tuple[float, Any]:
    """Wall time of an audit by `count` processes of one thread, and its record without times."""
    model, x, y, eps = case(n)
    executor = processes(count, threads=1)
    if executor is not None:  # start the process, which takes seconds, before the clock
        executor.submit(torch.get_num_threads).result()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        summary = uf.audit(model, x, y, uf.Linf(eps), plan=PLAN, out=folder, chunk=25, executor=executor)
        seconds = time.perf_counter() - started
    return seconds, summary.model_dump(mode="json", exclude={"seconds", "created", "efficiency"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, case in (("waiting", waiting), ("lenet5", lenet)):
        one, two = [], []
        for _ in range(asked.rounds):
            alone, first = timed(case, asked.n, 1)
            shared, second = timed(case, asked.n, 2)
            apart = [field for field in SAME if first[field] != second[field]]
            assert not apart, f"two processes changed {apart}: {[(first[k], second[k]) for k in apart]}"
            one.append(alone)
            two.append(shared)
            print(f"{name}: {alone:.1f} s alone, {shared:.1f} s shared")
        results[name] = {"one": one, "two": two, "ratio": median(one) / median(two)}
    record = {
        "command": f"python benchmarks/workers.py --rounds {asked.rounds} --n {asked.n}",
        "n": asked.n, "threads": 1, "load": os.getloadavg()[0], "results": results,
        "environment": Environment.here("cpu").model_dump(),
    }  # fmt: skip
    write_whole(asked.out, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
