"""Audits that several processes share, whose processes are killed at random: nothing is lost, and no verdict changes.

    python benchmarks/reliability/kill_helpers.py --out benchmarks/results/reliability_kill_helpers.json

An audit of a small network on digits, whose calls wait a little, runs once in one process. Then a driver and its
helpers share it, and every few seconds one of these processes, drawn at random, is killed (SIGKILL). A driver that was
killed is started again with the same command. This goes on, with another audit where one is done, until there were
enough kills. Every stored part is noted by the process that stored it; a part is lost if it was stored and is not there
at the end, and done twice if another process had stored it meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KILLS, HELPERS, PAUSE = 20, 2, (1.0, 8.0)
N, CHUNK, WAIT = 48, 4, 0.0005
VOLATILE = ("seconds", "created", "efficiency", "warnings")
"""Fields that say when, how fast, and what went wrong with helpers."""


def build() -> Any:
    """The network, which waits."""
    import torch

    class Waiting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(WAIT * len(x))
            answer: torch.Tensor = self.net(x)
            return answer

    return Waiting().eval()


def _data() -> Any:
    """Samples with the labels that the network gives them."""
    import torch

    x = torch.rand(N, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, build().net(x).argmax(1)


def audit(out: Path, helpers: int) -> None:
    """Audit in this process and its helpers; every process notes the parts that it stores."""
    import unfooled as uf
    from unfooled.runs.executors import processes
    from unfooled.runs.helpers import Helpers

    _note_stores(out)
    x, y = _data()
    plan = uf.Plan(effort=uf.QUICK, nearest_n=16, explain_n=8, reasons=None)
    executor = processes(helpers + 1, threads=1)
    load = _Source(str(Path(__file__).resolve().parent), str(out))
    uf.audit(build(), x, y, uf.Linf(0.03), plan=plan, out=out / "run", chunk=CHUNK, executor=Helpers(executor, load))


class _Source:
    """Model and samples of a helper, which notes the parts that it stores."""

    def __init__(self, place: str, out: str) -> None:
        self.place, self.out = place, out

    def __call__(self) -> Any:
        _note_stores(Path(self.out))
        return build(), *_data()


def _note_stores(out: Path) -> None:
    from unfooled.runs.store import LocalStore

    real = LocalStore.create_exclusive

    def noted(store: LocalStore, name: str, data: bytes, **options: Any) -> bool:
        made = real(store, name, data, **options)
        if name.startswith("chunks/"):
            with (out / "log").open("a") as log:
                log.write(f"{os.getpid()} {int(made)} {name}\n")
        return made

    if real.__name__ != "noted":
        LocalStore.create_exclusive = noted  # type: ignore[method-assign, assignment]


def helpers_of(driver: int) -> list[int]:
    """Return the processes of a driver's pools."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == driver and b"popen_loky" in command:
            found.append(int(status.parent.name))
    return found


def result(run: Path) -> str:
    """Return a hash of everything that an audit leaves, but for times."""
    summary = json.loads((run / "summary.json").read_text())
    kept = {name: value for name, value in summary.items() if name not in VOLATILE}
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(run.glob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def start(out: Path, helpers: int) -> subprocess.Popen[bytes]:
    """Start a driver."""
    command = [sys.executable, __file__, "--driver", str(out), "--helpers", str(helpers)]
    return subprocess.Popen(command, stderr=(out / "errors").open("ab"))


def killed_audit(out: Path, dice: random.Random, most: int) -> tuple[int, int, int]:
    """Let an audit be done while its processes are killed; return kills of drivers and of helpers, and starts."""
    drivers = helpers = starts = 0
    while True:
        log = out / "log"
        before = log.stat().st_size if log.exists() else 0
        driver, starts = start(out, HELPERS), starts + 1
        while driver.poll() is None:
            end = time.monotonic() + dice.uniform(*PAUSE)
            while driver.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            if driver.poll() is not None or drivers + helpers >= most:
                continue
            if not log.exists() or log.stat().st_size == before:  # this start has stored nothing yet
                continue
            victim = dice.choice([driver.pid, *helpers_of(driver.pid)])
            os.kill(victim, signal.SIGKILL)
            drivers, helpers = drivers + (victim == driver.pid), helpers + (victim != driver.pid)
            print(f"start {starts}: killed {'the driver' if victim == driver.pid else 'a helper'}", flush=True)
        if driver.returncode == 0:
            return drivers, helpers, starts
        if driver.returncode != -signal.SIGKILL:
            raise SystemExit((out / "errors").read_text()[-2000:])


def parts(out: Path) -> tuple[int, int, int]:
    """Return how many parts were stored, lost, and done twice."""
    rows = [line.split(maxsplit=2) for line in (out / "log").read_text().splitlines()]
    made = {name for _, made, name in rows if made == "1"}
    lost = sum(not (out / "run" / name).is_file() for name in made)
    return len(made), lost, sum(made == "0" for _, made, _ in rows)


def main() -> None:
    """Run once in one process, then with kills, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--driver", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--helpers", type=int, default=HELPERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.driver is not None:
        audit(args.driver, args.helpers)
        return
    dice, load = random.Random(args.seed), os.getloadavg()[0]
    counts = {"of_drivers": 0, "of_helpers": 0, "starts": 0, "stored": 0, "lost": 0, "twice": 0}
    audits = changed = 0
    with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as place:
        alone = Path(place) / "alone"
        alone.mkdir()
        if start(alone, 0).wait():
            raise SystemExit((alone / "errors").read_text()[-2000:])
        while (done := counts["of_drivers"] + counts["of_helpers"]) < args.kills:
            out = Path(place) / f"killed-{audits}"
            out.mkdir()
            found = (*killed_audit(out, dice, args.kills - done), *parts(out))
            counts = {name: count + more for (name, count), more in zip(counts.items(), found, strict=True)}
            audits, changed = audits + 1, changed + (result(out / "run") != result(alone / "run"))
            print(f"audit {audits}: {counts}, {changed} changed", flush=True)
    from unfooled.runs.records import Environment

    record = {
        "command": f"python benchmarks/reliability/kill_helpers.py --kills {args.kills} --seed {args.seed}",
        "environment": Environment.here("cpu").model_dump(), "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "n": N, "chunk": CHUNK, "processes": HELPERS + 1, "audits": audits, "kills": counts, "changed_results": changed,
        "passed": changed == 0 and counts["lost"] == 0,
    }  # fmt: skip
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
