"""Audits that are killed again and again: nothing is computed twice, and the result is that of an uninterrupted one.

    python benchmarks/reliability/kill.py --out benchmarks/results/reliability_kill.json

An audit runs once without a stop, which gives its processor time and its longest part: the longest stretch between two
files that it stores. Then it is started and killed (SIGKILL) after two lengths of that part, until it is done. The two
take turns, each audit beside one without a stop, until there were enough kills. Each start is a fork of one process
that has imported every module that an audit uses, also those that it imports late, so that only the audit's own time
counts; that of interpreter and imports is given apart. Processor time is that of the kernel's accounts (user and
system), summed over all starts.

    digits    64 images, a network of random features, 4 images a file: many short parts
    mnist     200 images, LeNet-5 with published weights, 25 images a file, from the folder that UNFOOLED_DATA names

Half a part is lost at each kill, and kills come every two lengths of the longest one. So audits whose parts have one
length could not do better than 1.25, and a ratio near 1 asks for parts that are short beside the longest. Parts of the
second audit are sized by the model's pace, which differs between runs: decisions are equal, last digits may differ.
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
AUDITS = {"digits": ("digits", 64, 4, "linf:0.06"), "mnist": ("mnist", 200, 25, "linf:0.1")}
"""Data, images, images a file, and threat of each audit."""
VOLATILE = ("seconds", "created", "efficiency")


def run(audit: str, net: Any, out: Path) -> None:
    """Audit in this process, and report every stored file with the processor time so far."""
    from unfooled import workflows
    from unfooled.runs.store import LocalStore

    real = LocalStore.create_exclusive

    def noted(store: LocalStore, name: str, data: bytes, **options: Any) -> bool:
        made = real(store, name, data, **options)
        if name.startswith("chunks/"):
            print(f"stored {time.process_time():.3f} {name}", flush=True)
        return made

    LocalStore.create_exclusive = noted  # type: ignore[method-assign, assignment]
    source, n, chunk, threat = AUDITS[audit]
    workflows.audit(
        workflows.Inputs(net, source, n=n),
        threat,
        options=workflows.AuditOptions(effort="normal", reasons_n=8),
        out=out,
        chunk=chunk,
        machine=workflows.Machine("cpu", batch=64),
    )
    print(f"done {time.process_time():.3f}", flush=True)


def prepared(audit: str) -> Any:
    """Import what an audit always needs, and return the network."""
    import jinja2
    import matplotlib.pyplot
    import safetensors.torch
    import scipy.optimize
    import scipy.stats
    import sklearn.datasets
    import torch

    from unfooled import data, models, workflows
    from unfooled.report import page, render

    late = (jinja2, matplotlib.pyplot, safetensors.torch)
    assert all((*late, scipy.optimize, scipy.stats, sklearn.datasets, page, render, workflows.audit))
    torch.set_num_threads(1)
    if audit == "mnist":
        weights = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "models" / "mnist_lenet5_clntrained.pt"
        return models.load_model(weights, arch="lenet5").eval()
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


def start(
    audit: str, net: Any, out: Path, log: Path, allowed: float | None
) -> tuple[float, bool, list[tuple[float, str]]]:
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
                run(audit, net, out)
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
    lines = [row.split(maxsplit=2) for row in log.read_text(errors="replace").splitlines()]
    done = any(row[:1] == ["done"] for row in lines)
    if not done and not os.WIFSIGNALED(status):
        raise SystemExit(log.read_text()[-2000:])
    stored = [(float(row[1]), row[2]) for row in lines if row[:1] == ["stored"] and len(row) == 3]
    return usage.ru_utime + usage.ru_stime, done, stored


def bits(out: Path) -> str:
    """Return a hash of everything that an audit leaves, but for times."""
    summary = json.loads((out / "summary.json").read_text())
    kept = {name: value for name, value in summary.items() if name not in VOLATILE}
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(out.glob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def decisions(out: Path) -> list[Any]:
    """Return the verdict, both accuracies, and what was decided of each sample."""
    from safetensors.torch import load_file

    summary, samples = json.loads((out / "summary.json").read_text()), load_file(out / "samples.safetensors")
    figures = [summary["verdict"], summary["clean_accuracy"], summary["robust_accuracy"]]
    return [*figures, *(samples[name].tolist() for name in ("clean", "success"))]


def turns(audit: str, least: int) -> dict[str, Any]:
    """Audit without a stop and with kills in turn until there were enough kills, and return the figures."""
    net, imports = prepared(audit), time.process_time()
    whole: list[float] = []
    killed: list[float] = []
    kills, same, equal, parts, longest, name = 0, True, True, 0, 0.0, ""
    with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as place:
        log = Path(place) / "log"
        while kills < least:
            turn = len(whole)
            spent, _, stored = start(audit, net, Path(place) / f"whole-{turn}", log, None)
            whole.append(spent)
            if not turn:
                times = [0.0, *(at for at, _ in stored), spent]
                names = [*(name for _, name in stored), "the page"]
                longest, name = max((b - a, name) for a, b, name in zip(times, times[1:], names, strict=False))
                parts = len(stored)
            print(f"{audit} {turn}: {spent:.1f} s, {len(stored)} parts, the longest {longest:.2f} s", flush=True)
            total, done, starts = 0.0, False, 0
            while not done:
                more, done, new = start(audit, net, Path(place) / f"killed-{turn}", log, 2 * longest)
                total, starts, kills = total + more, starts + 1, kills + (not done)
                print(f"    start {starts}: {more:.2f} s, {len(new)} parts", flush=True)
                if starts > 20 * spent / longest:
                    raise SystemExit("no progress")
            killed.append(total)
            ends = Path(place) / f"whole-{turn}", Path(place) / f"killed-{turn}"
            same, equal = same and decisions(ends[0]) == decisions(ends[1]), equal and bits(ends[0]) == bits(ends[1])
    ratio = round(sum(killed) / sum(whole), 3)
    return {
        "n": AUDITS[audit][1],
        "chunk": AUDITS[audit][2],
        "parts": parts,
        "longest_part_seconds": round(longest, 3),
        "longest_part": name,
        "kills": kills,
        "uninterrupted_seconds": [round(seconds, 2) for seconds in whole],
        "killed_seconds": [round(seconds, 2) for seconds in killed],
        "ratio": ratio,
        "lost_seconds_per_kill": round((sum(killed) - sum(whole)) / kills, 2),
        "import_seconds": round(imports, 2),
        "same_decisions": same,
        "same_bits": equal,
        "passed": ratio <= LIMIT and same,
    }


def main() -> None:
    """Audit in turns, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", nargs="+", choices=AUDITS, default=list(AUDITS))
    parser.add_argument("--kills", type=int, default=KILLS, help="least number of kills of each audit")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {audit: turns(audit, args.kills) for audit in args.audits}
    from unfooled.runs.records import Environment

    record = {
        "command": "python benchmarks/reliability/kill.py",
        "environment": Environment.here("cpu").model_dump(),
        "load": round(os.getloadavg()[0], 2),
        "limit": LIMIT,
        "audits": results,
    }
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
