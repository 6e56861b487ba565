"""Audits that are killed again and again: nothing is computed twice, and the result is that of an uninterrupted one.

    python benchmarks/reliability/kill.py --out benchmarks/results/reliability_kill.json

An audit of a small network on digits runs once without a stop, which gives its processor time and its longest part:
the longest stretch between two files that it stores. Then it is started and killed (SIGKILL) after two lengths of that
part, until it is done. Processor time counts from the moment when the imports are done; that of interpreter and imports
is given apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KILLS, LIMIT, POLL = 30, 1.1, 0.02
N, CHUNK = 300, 8
VOLATILE = ("seconds", "created")


def run(out: Path) -> None:
    """Audit in this process, and report every stored file with the processor time so far."""
    import torch

    from unfooled import workflows
    from unfooled.models import SmallCnn
    from unfooled.runs.store import Store

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = SmallCnn((1, 8, 8), 10, width=8).eval()
    teach(net)
    real = Store.create_exclusive

    def noted(store: Store, name: str, data: bytes, **options: Any) -> bool:
        made = real(store, name, data, **options)
        if name.startswith("chunks/"):
            print(f"stored {time.process_time():.3f} {name}", flush=True)
        return made

    Store.create_exclusive = noted  # type: ignore[method-assign]
    print(f"ready {time.process_time():.3f}", flush=True)
    workflows.audit(
        workflows.Inputs(net, "digits", n=N),
        "linf:0.06",
        options=workflows.AuditOptions(effort="normal"),
        out=out,
        chunk=CHUNK,
        machine=workflows.Machine("cpu", batch=64),
    )
    print(f"done {time.process_time():.3f}", flush=True)


def teach(net: Any) -> None:
    """Train the network for a moment, the same in every process."""
    import torch

    from unfooled import data

    x, y = data.load_data("digits", "train", n=1000)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(4):
        for part, label in zip(x.split(50), y.split(50), strict=True):
            loss = torch.nn.functional.cross_entropy(net(part), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


def processor_time(pid: int) -> float | None:
    """Return the seconds that a process has computed; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(out: Path, log: Path, allowed: float | None) -> tuple[float, float, bool, list[tuple[float, str]]]:
    """Start the audit, and kill it after some processor time.

    Returns:
        Seconds before and after the imports, whether it is done, and the files that it stored with their times.
    """
    with log.open("wb") as stream:
        child = subprocess.Popen([sys.executable, __file__, "--run", str(out)], stdout=stream, stderr=subprocess.STDOUT)
    ready, spent = None, 0.0
    while child.poll() is None:
        time.sleep(POLL)
        spent = processor_time(child.pid) or spent
        if ready is None:
            line = next((row for row in log.read_text().splitlines() if row.startswith("ready ")), "")
            ready = float(line.split()[1]) if line else None
        elif allowed is not None and spent - ready >= allowed:
            child.send_signal(signal.SIGKILL)
            child.wait()
    lines = [row.split() for row in log.read_text().splitlines()]
    done = [float(row[1]) for row in lines if row[:1] == ["done"]]
    if child.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(log.read_text()[-2000:])
    stored = [(float(row[1]), row[2]) for row in lines if row[:1] == ["stored"]]
    begun = ready or spent
    return begun, max(0.0, (done[0] if done else spent) - begun), bool(done), stored


def result(out: Path) -> str:
    """Return a hash of everything that an audit leaves, but for times."""
    summary = json.loads((out / "summary.json").read_text())
    kept = {name: value for name, value in summary.items() if name not in VOLATILE}
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(out.glob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def main() -> None:
    """Run once without a stop, then with kills, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help="least number of kills")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run)
        return
    with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as place:
        whole, killed, log = Path(place) / "whole", Path(place) / "killed", Path(place) / "log"
        begun, total, _, stored = start(whole, log, None)
        times = [begun, *(at for at, _ in stored), begun + total]
        gaps = [
            (b - a, name) for a, b, name in zip(times, times[1:], [*(n for _, n in stored), "the page"], strict=False)
        ]
        longest, name = max(gaps)
        print(f"uninterrupted: {total:.1f} s, {len(stored)} parts, the longest {longest:.2f} s ({name})", flush=True)
        spent, imports, starts, done = 0.0, 0.0, 0, False
        while not done:
            first, more, done, _ = start(killed, log, 2 * longest)
            spent, imports, starts = spent + more, imports + first, starts + 1
            if starts > 20 * total / longest:
                raise SystemExit("no progress")
        same = result(whole) == result(killed)
    from unfooled.runs.records import Environment

    ratio = round(spent / total, 3)
    record = {
        "command": "python benchmarks/reliability/kill.py",
        "environment": Environment.here("cpu").model_dump(),
        "load": round(os.getloadavg()[0], 2),
        "n": N,
        "chunk": CHUNK,
        "parts": len(stored),
        "longest_part_seconds": round(longest, 3),
        "longest_part": name,
        "kills": starts - 1,
        "uninterrupted_seconds": round(total, 2),
        "killed_seconds": round(spent, 2),
        "ratio": ratio,
        "limit": LIMIT,
        "import_seconds_per_start": round(imports / starts, 2),
        "same_result": same,
        "passed": ratio <= LIMIT and same and starts > args.kills,
    }
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
