"""Audits that are killed again and again: nothing is computed twice, and the result is that of an uninterrupted one.

    python benchmarks/reliability/kill.py --out benchmarks/results/reliability_kill.json

An audit of a small network on digits runs once without a stop, which gives its processor time and its longest part:
the longest stretch between two files that it stores. Then it is started and killed (SIGKILL) after two lengths of that
part, until it is done. Each start is a fork of one process that has imported every module that an audit uses, also
those that it imports late, so that only the audit's own time counts; that of interpreter and imports is given apart.
Processor time is that of the kernel's accounts (user and system), summed over all starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KILLS, LIMIT, POLL = 30, 1.1, 0.02
N, CHUNK = 64, 4
VOLATILE = ("seconds", "created", "efficiency")


def run(net: Any, out: Path) -> None:
    """Audit in this process, and report every stored file with the processor time so far."""
    from unfooled import workflows
    from unfooled.runs.store import Store

    real = Store.create_exclusive

    def noted(store: Store, name: str, data: bytes, **options: Any) -> bool:
        made = real(store, name, data, **options)
        if name.startswith("chunks/"):
            print(f"stored {time.process_time():.3f} {name}", flush=True)
        return made

    Store.create_exclusive = noted  # type: ignore[method-assign, assignment]
    workflows.audit(
        workflows.Inputs(net, "digits", n=N),
        "linf:0.06",
        options=workflows.AuditOptions(effort="normal", reasons_n=8),
        out=out,
        chunk=CHUNK,
        machine=workflows.Machine("cpu", batch=64),
    )
    print(f"done {time.process_time():.3f}", flush=True)


def prepared() -> Any:
    """Import what an audit always needs, and return a network that has been fitted."""
    import jinja2
    import matplotlib.pyplot
    import safetensors.torch
    import scipy.optimize
    import scipy.stats
    import sklearn.datasets
    import torch

    from unfooled import data, workflows
    from unfooled.report import page, render

    late = (jinja2, matplotlib.pyplot, safetensors.torch)
    assert all((*late, scipy.optimize, scipy.stats, sklearn.datasets, page, render, workflows.audit))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Random features and least squares: a training by gradients would start threads, which a fork does not survive.
    features = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 256), torch.nn.ReLU())
    head = torch.nn.Linear(256, 10)
    x, y = data.load_data("digits", "train", n=1000)
    with torch.no_grad():
        a, b = features(x), torch.nn.functional.one_hot(y, 10).float() * 10
        gram = a.T @ a + 0.1 * torch.eye(256)
        head.weight.copy_(torch.linalg.solve(gram, a.T @ (b - 1)).T)
        head.bias.fill_(1)
    return torch.nn.Sequential(features, head).eval()


def processor_time(pid: int) -> float | None:
    """Return the seconds that a process has computed; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(net: Any, out: Path, log: Path, allowed: float | None) -> tuple[float, bool, list[tuple[float, str]]]:
    """Start the audit in a fork of this process, and kill it after some processor time.

    Returns:
        Seconds that it computed, whether it is done, and the files that it stored with their times.
    """
    log.write_text("")
    child = os.fork()
    if not child:
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = os.fdopen(1, "w")
            code = 1
            try:
                run(net, out)
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
    killed, spent = False, 0.0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(POLL)
        spent = processor_time(child) or spent
        if allowed is not None and spent >= allowed and not killed:
            os.kill(child, signal.SIGKILL)
            killed = True
    _, status, usage = os.wait4(child, 0)
    lines = [row.split() for row in log.read_text(errors="replace").splitlines()]
    done = any(row[:1] == ["done"] for row in lines)
    if not done and not os.WIFSIGNALED(status):
        raise SystemExit(log.read_text()[-2000:])
    stored = [(float(row[1]), row[2]) for row in lines if row[:1] == ["stored"] and len(row) == 3]
    return usage.ru_utime + usage.ru_stime, done, stored


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
    args = parser.parse_args()
    net, imports = prepared(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as place:
        whole, log = Path(place) / "whole", Path(place) / "log"
        total, _, stored = start(net, whole, log, None)
        times = [0.0, *(at for at, _ in stored), total]
        names = [*(name for _, name in stored), "the page"]
        longest, name = max((b - a, name) for a, b, name in zip(times, times[1:], names, strict=False))
        print(f"uninterrupted: {total:.1f} s, {len(stored)} parts, the longest {longest:.2f} s ({name})", flush=True)
        spent, kills, rounds, same = 0.0, 0, 0, True
        while kills < args.kills:  # an audit may be done before it was killed often enough: then another one
            killed, done, starts = Path(place) / f"killed-{rounds}", False, 0
            while not done:
                more, done, parts = start(net, killed, log, 2 * longest)
                spent, starts, kills = spent + more, starts + 1, kills + (not done)
                print(f"audit {rounds}, start {starts}: {more:.2f} s, {len(parts)} parts", flush=True)
                if starts > 20 * total / longest:
                    raise SystemExit("no progress")
            rounds, same = rounds + 1, same and result(whole) == result(killed)
        last, _, _ = start(net, Path(place) / "last", log, None)  # as the machine's load may have changed meanwhile
    from unfooled.runs.records import Environment

    usual = (total + last) / 2
    ratio = round(spent / (rounds * usual), 3)
    record = {
        "command": "python benchmarks/reliability/kill.py",
        "environment": Environment.here("cpu").model_dump(),
        "load": round(os.getloadavg()[0], 2),
        "n": N,
        "chunk": CHUNK,
        "parts": len(stored),
        "longest_part_seconds": round(longest, 3),
        "longest_part": name,
        "audits": rounds,
        "kills": kills,
        "uninterrupted_seconds": round(usual, 2),
        "uninterrupted_before_and_after": [round(total, 2), round(last, 2)],
        "killed_seconds": round(spent, 2),
        "ratio": ratio,
        "limit": LIMIT,
        "import_seconds": round(imports, 2),
        "same_result": same,
        "passed": ratio <= LIMIT and same and kills >= args.kills,
    }
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
