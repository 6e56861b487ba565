"""Peak memory of an audit against the number of samples: it must not grow with it.

    python benchmarks/reliability/memory.py --out benchmarks/results/reliability_memory.json
    python benchmarks/reliability/memory.py --n 1000 10000          the first sizes alone

Each size runs in a process of its own: a linear model on samples of 3 x 32 x 32 that lie in an uncompressed `.npz`,
made block by block, audited at `quick` with eps so small that at least half survive. The peak is that of the whole
process (`getrusage`, the interpreter and torch included). The samples of a size are the first of the next. Sizes that
the record has already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, CLASSES, BLOCK = (3, 32, 32), 10, 1000
EPS = "linf:0.25/255"
SIZES = (1_000, 10_000, 100_000)
LIMIT = 1.3


def factory() -> Any:
    """Return the linear model: ten random directions."""
    import torch

    layer = torch.nn.Linear(int(np.prod(SHAPE)), CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(directions()))
        layer.bias.zero_()
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()


def directions() -> np.ndarray:
    """Return the weights of the model, (CLASSES, pixels); each sums to 0, so that grey is undecided."""
    w = np.random.default_rng(0).normal(size=(CLASSES, int(np.prod(SHAPE)))).astype(np.float32)
    return w - w.mean(1, keepdims=True)


def write_samples(path: Path, n: int) -> None:
    """Write samples and labels to an uncompressed archive, one block after the other."""
    w, labels = directions(), []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)})
            for start in range(0, n, BLOCK):
                source = np.random.default_rng([1, start])
                x = source.integers(0, 256, (min(BLOCK, n - start), *SHAPE), dtype=np.uint8)
                file.write(x.tobytes())
                labels.append((x.reshape(len(x), -1).astype(np.float32) @ w.T).argmax(1))
        with archive.open("y.npy", "w") as file:
            np.lib.format.write_array(file, np.concatenate(labels).astype(np.int64))


def measure(data: Path, out: Path) -> dict[str, Any]:
    """Audit in this process, and return its peak memory and the figures."""
    import torch

    from unfooled import workflows

    torch.set_num_threads(1)
    started = time.perf_counter()
    summary = workflows.audit(
        workflows.Inputs(factory(), str(data), n=None),
        EPS,
        options=workflows.AuditOptions(effort="quick"),
        out=out,
        machine=workflows.Machine("cpu"),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "n": summary.n,
        "peak_mb": round(peak / 1e6, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "clean_accuracy": summary.clean_accuracy.value,
        "robust_accuracy": summary.robust_accuracy.value,
        "verdict": summary.verdict,
        "summary_kb": round((out / "summary.json").stat().st_size / 1e3, 1),
        "page_kb": round((out / "report.html").stat().st_size / 1e3, 1),
    }


def main() -> None:
    """Measure every size, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("DATA", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    known = json.loads(args.out.read_text())["rows"] if args.out and args.out.exists() else []
    rows = [row for row in known if row["n"] in args.n]
    for n in [n for n in args.n if n not in {row["n"] for row in rows}]:
        with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as place:
            data = Path(place) / "samples.npz"
            write_samples(data, n)
            command = [sys.executable, __file__, "--measure", str(data), str(Path(place) / "run")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                write(args.out, rows)
    print(f"peak of the largest / smallest: {write(args.out, rows)} (limit {LIMIT})")


def write(out: Path | None, rows: list[dict[str, Any]]) -> float:
    """Write the record, and return the ratio of the peaks."""
    from unfooled.runs.records import Environment

    ratio = round(max(row["peak_mb"] for row in rows) / rows[0]["peak_mb"], 3)
    record = {
        "command": "python benchmarks/reliability/memory.py",
        "environment": Environment.here("cpu").model_dump(),
        "load": round(os.getloadavg()[0], 2),
        "threat": EPS,
        "effort": "quick",
        "shape": list(SHAPE),
        "rows": rows,
        "ratio": ratio,
        "limit": LIMIT,
        "passed": ratio <= LIMIT
        and {row["n"] for row in rows} >= set(SIZES)
        and all(row["robust_accuracy"] >= 0.5 for row in rows),
    }
    if out:
        out.write_text(json.dumps(record, indent=2) + "\n")
    return ratio


if __name__ == "__main__":
    main()
