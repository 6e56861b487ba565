"""Time to a verdict: the whole `unfooled audit`, from start to page, against AutoAttack-standard alone.

    python benchmarks/time_to_verdict.py --networks lenet5 trades tiny --n 16 64 --peer-path ../peers

Each run is a process of its own with one thread (--threads 2: with two, for wall times); its figure is the processor
time of that process, imports included (of bytecode, as after the first start). Ours (`--effort normal`, the default,
and `quick`) and the peer take turns.
AutoAttack is `pyautoattack`, installed with `pip install --no-deps --target ../peers pyautoattack`. `tiny` is a small
CNN that is trained here for a minute on CIFAR-10 (JPEG), `resnet20` a ResNet-20 that is trained for some ten minutes;
both are natural. A peer that takes longer than `--limit` seconds of wall time is recorded as such.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

import unfooled as uf
from unfooled.core.model.wrappers import Counted
from unfooled.data import load_dataset
from unfooled.models import CifarResnet, SmallCnn
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.workflows.words import threat_of

FILE = Path(__file__).parent / "results" / "time-to-verdict.json"
DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
TINY, RESNET = Path("runs/time-to-verdict/tiny.pt"), Path("runs/time-to-verdict/resnet20.pt")
RESNET_IMAGES = 20_000
RATES = ((0, 0.0), (480, 0.1), (1000, 0.1 * 1400 / 1920), (1400, 0.0))
"""Learning rate of the ResNet-20 at some steps, linear between these; the last one is the number of steps."""


class Network(NamedTuple):
    """A network, its data and radius."""

    file: Path
    arch: str
    data: str
    eps: str


NETWORKS = {
    "lenet5": Network(DATA / "models" / "mnist_lenet5_clntrained.pt", "lenet5", "mnist", "0.1"),
    "trades": Network(DATA / "models" / "mnist_trades_smallcnn.pt", "trades-small-cnn", "mnist", "0.3"),
    "tiny": Network(TINY, "small-cnn", "cifar10_jpeg", "2/255"),
    "resnet20": Network(RESNET, "cifar-resnet20", "cifar10_jpeg", "1/255"),
}
OURS = {"normal": [], "quick": ["--effort", "quick"]}


def train_tiny() -> None:
    """Train the tiny network, if it is not there yet."""
    if TINY.exists():
        return
    torch.manual_seed(0)
    data = load_dataset(str(DATA / "cifar10_jpeg.npz"), split="train", n=8000)
    net = SmallCnn((3, 32, 32), 10).train()
    steps = 400
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        rows = torch.randint(0, len(data.x), (64,))
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        loss = F.cross_entropy(net(data.x[rows]), data.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    TINY.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), TINY)


def train_resnet() -> None:
    """Train the ResNet-20, if it is not there yet; a second start goes on after the last whole block of steps."""
    if RESNET.exists():
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = load_dataset(str(DATA / "cifar10_jpeg.npz"), split="train", n=RESNET_IMAGES)
    net = CifarResnet((3, 32, 32), 10, depth=20).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    state, first = RESNET.with_suffix(".state.pt"), 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    RESNET.parent.mkdir(parents=True, exist_ok=True)
    steps = RATES[-1][0]
    for step in range(first, steps):
        source = torch.Generator().manual_seed(step)  # of the step, so that a second start draws the same
        rows = torch.randint(0, len(data.x), (64,), generator=source)
        x, (dx, dy) = data.x[rows], torch.randint(-3, 4, (2,), generator=source).tolist()
        x = torch.where(torch.rand(64, 1, 1, 1, generator=source) < 0.5, x.flip(3), x).roll((dx, dy), (2, 3))
        (a, low), (b, high) = next(pair for pair in pairwise(RATES) if step < pair[1][0])
        optimizer.param_groups[0]["lr"] = low + (high - low) * (step - a) / (b - a)
        loss = F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), data.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(saved, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}", flush=True)
    torch.save(net.state_dict(), RESNET)


def peer(name: str, n: int, path: str, threads: int) -> None:
    """Run AutoAttack-standard on the first n test images, and print its record; the body of a process."""
    sys.path.insert(0, path)
    module = importlib.import_module("pyautoattack")
    torch.set_num_threads(threads)
    network = NETWORKS[name]
    data = load_dataset(str(DATA / f"{network.data}.npz"), split="test", n=n)
    shape = tuple(data.x.shape[1:])
    model = uf.load_model(str(network.file), arch=network.arch, input_shape=shape, num_classes=10)
    eps = float(threat_of(f"linf:{network.eps}").eps)
    counted = Counted(model)
    attack = module.AutoAttack(counted, norm="Linf", eps=eps, seed=0, version="standard", device="cpu")
    z, _ = attack.run_standard_evaluation(data.x, data.y, batch_size=max(n, 1))
    left = 1 - float(uf.verify(model, data.x, data.y, z, uf.Linf(eps), tol=1e-5).success.double().mean())
    record = {"robust_accuracy": left, "calls": counted.calls, "passes": (counted.forwards + counted.backwards) / n}
    print("\n" + json.dumps(record))


def measured(arguments: list[str], limit: float, threads: int) -> dict[str, Any]:
    """Run a process, and return its processor seconds, wall seconds and output."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["OMP_NUM_THREADS"] = str(threads)
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=limit, env=environment)
        output, finished = done.stdout, True
        if done.returncode:
            raise SystemExit(f"{arguments} failed:\n{done.stderr}")
    except subprocess.TimeoutExpired:
        output, finished = "", False
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - start
    return {"cpu": round(spent, 2), "wall": round(wall, 2), "finished": finished, "output": output}


def ours(name: str, n: int, effort: str, limit: float, threads: int) -> dict[str, Any]:
    """Run `unfooled audit` from start to page."""
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = measured(
            [
                sys.executable, "-m", "unfooled", "audit", "--model", str(network.file), "--arch", network.arch,
                "--data", str(DATA / f"{network.data}.npz"), "--n", str(n), "--threat", f"linf:{network.eps}",
                "--threads", str(threads), "--device", "cpu", "--quiet", "--out", folder, *OURS[effort],
            ],
            limit,
            threads,
        )  # fmt: skip
        if run.pop("finished"):
            summary = json.loads((Path(folder) / "summary.json").read_text())
            passes = ("passes", "nearest_passes", "diagnostic_passes")
            run |= {
                "robust_accuracy": summary["robust_accuracy"]["value"], "verdict": summary["verdict"],
                "efficiency": summary["efficiency"], **{k: sum(summary[k].values()) for k in passes},
            }  # fmt: skip
    run.pop("output")
    return run


def compared(name: str, n: int, path: str | None, limit: float, threads: int) -> dict[str, Any]:
    """Run ours, the peer, and ours again."""
    load = list(os.getloadavg())
    row: dict[str, Any] = {"network": name, "n": n, "eps": NETWORKS[name].eps, "threads": threads, "load": load}
    row["normal"] = ours(name, n, "normal", limit, threads)
    if path is not None:
        words = ["--as-peer", name, str(n), "--peer-path", path, "--threads", str(threads)]
        run = measured([sys.executable, __file__, *words], limit, threads)
        output, finished = run.pop("output"), run.pop("finished")
        row["autoattack"] = run | (json.loads(output.splitlines()[-1]) if finished else {"finished": False})
        row["ratio"] = round(row["normal"]["cpu"] / run["cpu"], 3)
        row["wall_ratio"] = round(row["normal"]["wall"] / run["wall"], 3)
    row["quick"] = ours(name, n, "quick", limit, threads)
    if path is not None:
        row["ratio_quick"] = round(row["quick"]["cpu"] / row["autoattack"]["cpu"], 3)
        row["wall_ratio_quick"] = round(row["quick"]["wall"] / row["autoattack"]["wall"], 3)
    return row


def main() -> None:
    """Measure what is asked for, and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--n", nargs="+", type=int, default=[16, 64, 200])
    parser.add_argument("--peer-path", default=None, help="folder of pyautoattack; without it ours runs alone")
    parser.add_argument("--limit", type=float, default=7200.0, help="wall seconds of a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--as-peer", nargs=2, metavar=("NETWORK", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        peer(options.as_peer[0], int(options.as_peer[1]), options.peer_path, options.threads)
        return
    compileall.compile_dir(Path(uf.__file__).parent, quiet=1)  # as after the first start of an installed package
    if "tiny" in options.networks:
        train_tiny()
    if "resnet20" in options.networks:
        train_resnet()
    for n in options.n:
        for name in options.networks:
            row = compared(name, n, options.peer_path, options.limit, options.threads)
            stored = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
            key = (name, n, options.threads)
            runs = [run for run in stored if (run["network"], run["n"], run["threads"]) != key] + [row]
            record = {
                "command": "python benchmarks/time_to_verdict.py", "unit": "processor seconds of whole processes",
                "environment": Environment.here("cpu").model_dump(mode="json"), "runs": runs,
            }  # fmt: skip
            write_whole(FILE, (json.dumps(record, indent=1) + "\n").encode())
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
