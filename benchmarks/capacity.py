"""Capacity: overhead of chunks and of a scheduler's tasks, a simulation of 1,000 workers, and the bill of an audit.

    python benchmarks/capacity.py                        a few minutes on a quiet machine
    python benchmarks/capacity.py --counts 10000 100000 --tasks 100000

- Empty chunks of one stage, by one process and by two that share a folder: processor and wall time of a chunk, by the
  number of chunks; and the time in which a further process reads those of a finished stage, as each does at a barrier.
- Empty tasks through a Dask scheduler with one worker (extra `cluster`): an audit submits one task per worker, whatever
  its number of chunks, so this is a bound for other uses.
- Simulated: a stage of 1,000,000 samples by 1,000 workers, each of which takes the next chunk, pays the measured
  overhead, and reads all chunks at the barrier. The store is taken to serve all workers at the measured speed.
- Passes per sample of AutoAttack and of our cascade, from the records of `cascade_vs_autoattack.py`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.runs.chunks import Run
from unfooled.runs.executors import processes
from unfooled.runs.files import write_whole
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.records import Environment

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "capacity.json"
SHARE = 0.05
"""Share of the time that the overhead may have."""
SAMPLES, WORKERS = 1_000_000, 1_000
NETWORKS = ("lenet5", "pgd-at", "trades")


def empty(rows: Tensor) -> dict[str, Tensor]:
    """A stage that does nothing."""
    return {"value": rows}


def work(folder: Path, count: int, start: Any, watch: Watch | None) -> None:
    """Compute the stage, one row per chunk."""
    Run(folder, {"count": count}, chunk=1, progress=watch, start=start).map("empty", empty, count)


class Job:
    """The work of a helper."""

    def __init__(self, folder: str, count: int, watch: Watch) -> None:
        self.folder, self.count, self.watch = folder, count, watch

    def __call__(self) -> None:
        """Help with the stage."""
        work(Path(self.folder), self.count, self.watch.start, self.watch)


def chunks(count: int, workers: int) -> dict[str, float]:
    """Time of a stage of empty chunks, and of reading it again."""
    executor = processes(workers, threads=1)
    if executor is not None:  # start the process, which takes seconds, before the clock
        executor.submit(abs, 1).result()
    helpers = Helpers(executor)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        began, busy = time.perf_counter(), time.process_time()
        with helpers.on(Job(str(folder), count, helpers.watch)):
            work(folder, count, helpers.start, None)
            wall, cpu = time.perf_counter() - began, time.process_time() - busy
        busy = time.process_time()
        work(folder, count, helpers.start, None)
        read = time.process_time() - busy
    return {
        "chunks": count,
        "processes": workers,
        "wall_ms": round(1000 * wall / count, 3),
        "cpu_ms_of_the_first_process": round(1000 * cpu / count, 3),
        "cpu_ms_to_read": round(1000 * read / count, 4),
        "chunks_per_second": round(count / wall, 1),
    }


def tasks(count: int) -> dict[str, Any]:
    """Time of empty tasks through a Dask scheduler; why not, where it is not installed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return {"skipped": 'distributed is not installed; install it: pip install "unfooled[cluster]"'}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
        client.get_executor(pure=False) as executor,
    ):
        executor.submit(abs, 1).result()
        began, done = time.perf_counter(), 0
        while done < count:  # in blocks, as the client keeps every future
            block = min(10_000, count - done)
            for future in [executor.submit(abs, 1) for _ in range(block)]:
                future.result()
            done += block
        seconds = time.perf_counter() - began
    return {"tasks": count, "seconds": round(seconds, 2), "tasks_per_second": round(count / seconds, 1)}


def simulated(chunk: int, seconds_per_sample: float, overhead: float, read: float) -> dict[str, float]:
    """Simulate a stage: workers take the next chunk, and read all chunks at the barrier.

    Args:
        chunk: Samples per chunk.
        seconds_per_sample: Work of a sample.
        overhead: Seconds that a chunk costs beside its work.
        read: Seconds in which a stored chunk is read.
    """
    count = -(-SAMPLES // chunk)
    free = [0.0] * WORKERS
    for index in range(count):
        size = min(chunk, SAMPLES - index * chunk)
        heapq.heappush(free, heapq.heappop(free) + overhead + size * seconds_per_sample)
    wall = max(free) + count * read
    useful = SAMPLES * seconds_per_sample
    return {
        "samples_per_chunk": chunk,
        "chunks": count,
        "seconds_per_sample": seconds_per_sample,
        "stage_seconds": round(wall, 2),
        "busy_share": round(useful / (wall * WORKERS), 4),
        "overhead_share_of_a_chunk": round(overhead / (overhead + chunk * seconds_per_sample), 4),
    }


def bill(name: str) -> dict[str, Any]:
    """Passes per sample of AutoAttack and of our cascade, and those of a million samples."""
    stored = json.loads((RESULTS / f"cascade-vs-autoattack-{name}.json").read_text(encoding="utf-8"))
    theirs, ours = stored["autoattack"], stored["normal"][0]
    each = {key: row["forwards"] + row["backwards"] for key, row in (("autoattack", theirs), ("ours", ours))}
    return {
        "network": name,
        "eps": stored["eps"],
        **{f"passes_per_sample_{key}": round(value, 1) for key, value in each.items()},
        **{f"passes_of_a_million_{key}": round(value * SAMPLES) for key, value in each.items()},
        "ratio": round(each["autoattack"] / each["ours"], 1),
    }


def record(counts: Sequence[int], workers: Sequence[int], count_tasks: int) -> dict[str, Any]:
    """Measure everything."""
    before, stages = os.getloadavg()[0], []
    for count in counts:
        for number in workers:
            stages.append(chunks(count, number))
            print(stages[-1], flush=True)
    alone = [row for row in stages if row["processes"] == 1]
    if not alone:
        raise BadInput("the simulation needs the overhead of one process; give --workers 1, or 1 2")
    overhead, read = alone[-1]["wall_ms"] / 1000, alone[-1]["cpu_ms_to_read"] / 1000
    scheduler = tasks(count_tasks)
    print(scheduler, flush=True)
    return {
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "stages": stages,
        "scheduler": scheduler,
        "simulated": {
            "samples": SAMPLES,
            "workers": WORKERS,
            "overhead_seconds_per_chunk": overhead,
            "seconds_to_read_a_chunk": read,
            "stages": [
                simulated(chunk, each, overhead, read) for each in (0.01, 0.1, 1.0) for chunk in (10, 25, 100, 400)
            ],
        },
        "seconds_of_a_chunk_for_5_percent": round(overhead * (1 - SHARE) / SHARE, 3),
        "bill": [bill(name) for name in NETWORKS],
        "environment": Environment.here("cpu").model_dump(),
    }


def lines(stored: dict[str, Any]) -> list[str]:
    """Return the lines of the table in docs/how-to/scale.md."""
    made = stored["simulated"]
    last = max(stored["stages"], key=lambda row: (row["chunks"], -row["processes"]))
    rows = [
        (
            f"An empty chunk, of {last['chunks']:,}, one process",
            f"{last['wall_ms']:.0f} ms, {last['cpu_ms_of_the_first_process']:.1f} ms of them processor time",
        ),
        ("Reading a stored chunk at a barrier", f"{last['cpu_ms_to_read']:.2f} ms"),
        ("Time of a chunk for an overhead of 5 %", f"{stored['seconds_of_a_chunk_for_5_percent']:.1f} s"),
    ]
    if "tasks" in stored["scheduler"]:
        task = stored["scheduler"]
        rows.append(
            (f"Empty tasks through a Dask scheduler, {task['tasks']:,}", f"{task['tasks_per_second']:.0f} a second")
        )
    for row in made["stages"]:
        if row["samples_per_chunk"] in (25, 100, 400):
            what = f"{row['samples_per_chunk']} samples of {row['seconds_per_sample']:g} s a chunk"
            rows.append(
                (
                    f"Simulated: {made['samples']:,} samples, {made['workers']:,} workers, {what}",
                    f"busy for {100 * row['busy_share']:.0f} %",
                )
            )
    for row in stored["bill"]:
        ours, theirs = row["passes_per_sample_ours"], row["passes_per_sample_autoattack"]
        rows.append(
            (f"Passes per sample, {row['network']}, eps {row['eps']:g}", f"{ours:.0f}, AutoAttack {theirs:.0f}")
        )
    return [f"| {name} | {value} |" for name, value in rows]


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    counts, workers = (" ".join(map(str, values)) for values in (asked.counts, asked.workers))
    command = f"python benchmarks/capacity.py --counts {counts} --workers {workers} --tasks {asked.tasks}"
    result = {"command": command, **record(asked.counts, asked.workers, asked.tasks)}
    write_whole(asked.out, (json.dumps(result, indent=1) + "\n").encode())
    print("\n".join(lines(result)))


if __name__ == "__main__":
    main()
