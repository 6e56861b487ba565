"""Overhead of a chunk: empty chunks of a stage, by one process and by two that share a folder.

    python benchmarks/capacity.py --counts 1000 10000

Every chunk is a file that is created exclusively and flushed to the disk, beside a claim. Processes look for the files
of others before each chunk, so that the overhead grows with the number of chunks of a stage; the record gives the mean
over all chunks, and that over the last tenth. Chunks for which the overhead is at most 5 % of the time take 20 times as
long.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.runs.chunks import Run
from unfooled.runs.executors import processes
from unfooled.runs.files import write_whole
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.records import Environment

FILE = Path(__file__).parent / "results" / "capacity.json"
SHARE = 0.05
"""Share of the time that the overhead may have."""


def empty(rows: Tensor) -> dict[str, Tensor]:
    """A stage that does nothing."""
    return {"value": rows}


def work(folder: Path, count: int, start: Any, ticks: list[float] | None, watch: Watch | None) -> None:
    """Compute the stage, one row per chunk; note the times at which chunks were done."""

    def tick(stage: str, done: int, total: int) -> None:
        if ticks is not None:
            ticks.append(time.perf_counter())
        if watch is not None:
            watch(stage, done, total)

    Run(folder, {"count": count}, chunk=1, progress=tick, start=start).map("empty", empty, count)


def helped(folder: Path, count: int, watch: Watch) -> None:
    """Help with the stage."""
    work(folder, count, watch.start, None, watch)


def measured(count: int, workers: int) -> dict[str, float]:
    """Seconds of a stage, and per chunk."""
    executor = processes(workers, threads=1)
    if executor is not None:  # start the process, which takes seconds, before the clock
        executor.submit(abs, 1).result()
    helpers, ticks = Helpers(executor), list[float]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        began = time.perf_counter()
        with helpers.on(_Job(str(folder), count, helpers.watch)):
            work(folder, count, helpers.start, ticks, None)
            seconds = time.perf_counter() - began
    tail = [tick for tick in ticks if tick >= ticks[-1] - (ticks[-1] - ticks[0]) / 10]
    last = (tail[-1] - tail[0]) / max(1, len(tail) - 1)
    return {
        "chunks": count, "processes": workers, "seconds": round(seconds, 2),
        "milliseconds_a_chunk": round(1000 * seconds / count, 3),
        "milliseconds_between_chunks_in_the_last_tenth_of_the_time": round(1000 * last, 3),
        "seconds_of_a_chunk_for_5_percent": round(last / SHARE, 3),
    }  # fmt: skip


class _Job:
    """The work of a helper."""

    def __init__(self, folder: str, count: int, watch: Watch) -> None:
        self.folder, self.count, self.watch = folder, count, watch

    def __call__(self) -> None:
        helped(Path(self.folder), self.count, self.watch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    load, rows = os.getloadavg()[0], []
    for count in asked.counts:
        for workers in asked.workers:
            rows.append(measured(count, workers))
            print(rows[-1], flush=True)
    counts, workers = (" ".join(map(str, values)) for values in (asked.counts, asked.workers))
    record = {
        "command": f"python benchmarks/capacity.py --counts {counts} --workers {workers}",
        "load": [round(load, 2), round(os.getloadavg()[0], 2)], "stages": rows,
        "environment": Environment.here("cpu").model_dump(),
    }  # fmt: skip
    write_whole(asked.out, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
