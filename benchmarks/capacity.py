"""Capacity: overhead of chunks and of a scheduler's tasks, a simulation of 1,000 workers, and the bill of an audit.

    python benchmarks/capacity.py --counts 10000 100000 --tasks 100000        some six minutes on a quiet machine

- Empty chunks of one stage, by one process and by two that share a folder: processor and wall time of a chunk, by the
  number of chunks. Of a large stage only the last `COMPUTED` chunks are computed, which cost most; the others lie there
  as files of an earlier start. Also the time in which a process reads all chunks, as each does at a barrier.
- Empty tasks through a Dask scheduler with one worker (extra `cluster`), as many as it does in `--seconds`: an audit
  submits one task per worker, whatever its number of chunks, so this is a bound for other uses.
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

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.runs.chunks import Run
from unfooled.runs.executors import processes
from unfooled.runs.files import write_whole
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.records import Environment
from unfooled.runs.sealed import Seal, seal_rows

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "capacity.json"
SHARE = 0.05
"""Share of the time that the overhead may have."""
SAMPLES, WORKERS = 1_000_000, 1_000
COMPUTED = 300
"""Chunks of a stage that are computed."""
NETWORKS = ("lenet5", "pgd-at", "trades")


def empty(rows: Tensor) -> dict[str, Tensor]:
    """A stage that does nothing."""
    return {"value": rows}


class Ready:
    """Progress callback that notes when the chunks of an earlier start are read, and then waits for the others."""

    def __init__(self, folder: str, workers: int, watch: Watch | None = None) -> None:
        self.folder, self.workers, self.watch = folder, workers, watch
        self.began = self.busy = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Wait for the others at the first call."""
        if self.watch is not None:
            self.watch(stage, done, total)
        if not self.began:
            place = Path(f"{self.folder}.ready")
            place.mkdir(exist_ok=True)
            (place / str(os.getpid())).touch()
            while len(list(place.iterdir())) < self.workers:
                time.sleep(0.01)
            self.began, self.busy = time.perf_counter(), time.process_time()


def work(folder: str, count: int, start: Any, ready: Ready | None) -> None:
    """Compute the stage, one row per chunk."""
    Run(folder, {"count": count}, chunk=1, progress=ready, start=start).map("empty", empty, count)


class Job:
    """The work of a helper."""

    def __init__(self, folder: str, count: int, workers: int, watch: Watch) -> None:
        self.folder, self.count, self.workers, self.watch = folder, count, workers, watch

    def __call__(self) -> None:
        """Help with the stage."""
        work(self.folder, self.count, self.watch.start, Ready(self.folder, self.workers, self.watch))


def fill(folder: str, count: int, stored: int) -> None:
    """Store the first chunks of the stage, as an earlier start would have, without claims and flushes."""
    opened = Run(folder, {"count": count}, chunk=1).folder
    (Path(folder) / "chunks" / "empty").mkdir(parents=True)
    facts = dict.fromkeys(("forwards", "backwards", "calls", "seconds"), 0.0)
    for row in range(stored):
        name = f"chunks/empty/{row}-{row + 1}.safetensors"
        data = seal_rows(empty(torch.tensor([row])), facts, Seal(opened.config, name))
        (Path(folder) / name).write_bytes(data)


def chunks(count: int, workers: int) -> dict[str, float]:
    """Time of the last empty chunks of a stage, and of reading all of them again."""
    computed = min(count, COMPUTED)
    helpers = Helpers(processes(workers, threads=1))
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place) / "run")
        fill(folder, count, count - computed)
        ready = Ready(folder, workers)
        with helpers.on(Job(folder, count, workers, helpers.watch)):
            work(folder, count, helpers.start, ready)
            wall, cpu = time.perf_counter() - ready.began, time.process_time() - ready.busy
        busy = time.process_time()
        work(folder, count, helpers.start, None)
        read = time.process_time() - busy
    return {
        "chunks": count,
        "computed": computed,
        "processes": workers,
        "wall_ms": round(1000 * wall / computed, 3),
        "cpu_ms_of_the_first_process": round(1000 * cpu / computed, 3),
        "cpu_ms_to_read": round(1000 * read / count, 4),
        "chunks_per_second": round(computed / wall, 1),
    }


def tasks(count: int, most: float) -> dict[str, Any]:
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
        while done < count and time.perf_counter() - began < most:  # in blocks, as the client keeps every future
            block = min(1000, count - done)
            for future in [executor.submit(abs, 1) for _ in range(block)]:
                future.result()
            done += block
        seconds = time.perf_counter() - began
    return {
        "asked": count, "tasks": done, "seconds": round(seconds, 2), "tasks_per_second": round(done / seconds, 1),
    }  # fmt: skip


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


def record(counts: Sequence[int], workers: Sequence[int], count_tasks: int, most: float) -> dict[str, Any]:
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
    scheduler = tasks(count_tasks, most)
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
            f"An empty chunk, {'' if last.get('computed', 0) in (0, last['chunks']) else 'beside others, '}"
            f"of {last['chunks']:,}, one process",
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
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time for the tasks")
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    counts, workers = (" ".join(map(str, values)) for values in (asked.counts, asked.workers))
    command = f"python benchmarks/capacity.py --counts {counts} --workers {workers} --tasks {asked.tasks}"
    result = {"command": command, **record(asked.counts, asked.workers, asked.tasks, asked.seconds)}
    write_whole(asked.out, (json.dumps(result, indent=1) + "\n").encode())
    print("\n".join(lines(result)))


if __name__ == "__main__":
    main()
