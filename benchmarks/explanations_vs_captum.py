"""Integrated gradients beside Captum's at equal steps: seconds, peak memory, completeness; and what a derivative costs.

Networks: TRADES' small CNN on MNIST (its published weights), and an 8-layer residual network on 32x32 traffic signs
that is trained here for a few epochs. Entrants, all from a zero baseline:

    captum              IntegratedGradients with its defaults (Gauss-Legendre, the whole path in one batch)
    captum, chunked     the same with internal_batch_size = the batch
    unfooled            integrated_gradients with its defaults (Gauss-Legendre, calls of 64 MiB)
    unfooled, midpoint  the same with rule=midpoint

Seconds are medians over rounds in which the entrants take turns, in reversed order every other round; ratios are
medians of the ratios within a round. Peak memory is the growth of a fresh process's resident set over one explanation
(VmHWM, reset before it, minus the resident set then), after a warm-up on one sample, so libraries, weights and images
are not counted, and what the allocator holds is. Completeness is judged by one function for all. `derivative` compares
the gradient of our map taken in two passes with the one-graph way; Captum's maps have none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unfooled
from unfooled.explanations import completeness_gap, integrated_gradients
from unfooled.explanations.paths import midpoint
from unfooled.models.nets.cifar_resnet import CifarResnet
from unfooled.models.nets.trades_small_cnn import TradesSmallCnn

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("UNFOOLED_DATA", HERE.parent.parent / "shared" / "data"))
SEED = 0
Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]
NETWORKS = ("trades 28x28", "resnet8 32x32")


def captum(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, chunk: int | None = None) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(model).attribute(x, target=y, n_steps=steps, internal_batch_size=chunk).to(x.dtype)


def entrants(steps: int, batch: int) -> dict[str, Explain]:
    return {
        "captum": partial(captum, steps=steps),
        "captum, chunked": partial(captum, steps=steps, chunk=batch),
        "unfooled": partial(integrated_gradients, steps=steps),
        "unfooled, midpoint": partial(integrated_gradients, steps=steps, rule=midpoint),
    }


def slope(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, one_graph: bool) -> Tensor:
    """The gradient of the map's squared length with respect to x."""
    leaf = x.clone().requires_grad_()
    e = integrated_gradients(model, leaf, y, steps=steps, one_graph=one_graph, create_graph=True)
    return torch.autograd.grad(e.square().sum(), leaf)[0]


def slopes(steps: int) -> dict[str, Explain]:
    return {name: partial(slope, steps=steps, one_graph=name == "one graph") for name in ("two passes", "one graph")}


def arrays(file: str) -> dict[str, Tensor]:
    with np.load(DATA / file) as f:
        return {name: torch.from_numpy(f[name]) for name in f.files}


def images(network: str, n: int) -> tuple[Tensor, Tensor]:
    if network == NETWORKS[0]:
        data = arrays("mnist.npz")
        return data["x_test"][:n].float()[:, None] / 255, data["y_test"][:n].long()
    data = arrays("gtsrb_subset.npz")
    return data["x_test"][:n].permute(0, 3, 1, 2).float().contiguous() / 255, data["y_test"][:n].long()


def blank(network: str) -> nn.Module:
    return TradesSmallCnn() if network == NETWORKS[0] else CifarResnet(classes=43, depth=8)


def trained(network: str, epochs: int) -> tuple[nn.Module, str]:
    """The network in eval mode, without gradients of its weights, and a sentence on where those come from."""
    torch.manual_seed(SEED)
    model = blank(network)
    if network == NETWORKS[0]:
        weights = DATA / "models" / "mnist_trades_smallcnn.pt"
        model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        return model.eval().requires_grad_(False), "published checkpoint of TRADES"
    data = arrays("gtsrb_subset.npz")
    x, y = data["x_train"].permute(0, 3, 1, 2).float().contiguous() / 255, data["y_train"].long()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    total = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval().requires_grad_(False)
    x, y = images(network, 2105)
    right = float((model(x).argmax(1) == y).float().mean())
    return model, f"trained here, {epochs} epochs of {len(data['y_train'])} images, test accuracy {right:.3f}"


def status(field: str) -> int:
    """A size from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_of(explain: Explain, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Growth of the resident set over one call, in MiB. To be run in a process of its own."""
    explain(model, x[:1], y[:1])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status("VmRSS")
    explain(model, x, y)
    return round((status("VmHWM") - before) / 2**20, 1)


def peaks(block: str, network: str, weights: Path, args: Any) -> dict[str, float]:
    """Peak memory of each entrant, each in a fresh process."""
    found = {}
    for name in entrants(1, 1) if block == "explanation" else slopes(1):
        command = [sys.executable, __file__, "--child", block, network, name, str(weights)]
        for option in ("n", "n_derivative", "steps", "threads"):
            command += ["--" + option.replace("_", "-"), str(getattr(args, option))]
        found[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def child(args: Any) -> None:
    block, network, name, weights = args.child
    model = blank(network)
    model.load_state_dict(torch.load(weights, weights_only=True))
    n, runs = (
        (args.n, entrants(args.steps, args.n)) if block == "explanation" else (args.n_derivative, slopes(args.steps))
    )
    print(peak_of(runs[name], model.eval().requires_grad_(False), *images(network, n)))


def rounds(runs: dict[str, Explain], model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    """Wall and processor seconds of every entrant in every round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in list(runs) if turn % 2 == 0 else reversed(runs):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            runs[name](model, x, y)
            times[name].append((round(time.perf_counter() - begin, 4), round(time.process_time() - begin_cpu, 4)))
    return times


def compare(
    block: str, runs: dict[str, Explain], rival: str, network: str, model: nn.Module, args: Any
) -> dict[str, Any]:
    """One row per entrant; ratios are to the rival named."""
    n = args.n if block == "explanation" else args.n_derivative
    x, y = images(network, n)
    maps = {name: run(model, x, y) for name, run in runs.items()}  # a warm-up too
    times = rounds(runs, model, x, y, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(model.state_dict(), weights)
        memory = peaks(block, network, weights, args)
    rows: dict[str, Any] = {}
    key = rival.replace(" ", "_")
    for name in runs:
        pairs = list(zip(times[rival], times[name], strict=True))
        row: dict[str, Any] = {
            "seconds": statistics.median(t[0] for t in times[name]),
            "cpu_seconds": statistics.median(t[1] for t in times[name]),
            f"times_faster_than_{key}": round(statistics.median(a[0] / b[0] for a, b in pairs), 3),
            f"times_faster_than_{key}_cpu": round(statistics.median(a[1] / b[1] for a, b in pairs), 3),
            "peak_mib": memory[name],
            f"share_of_{key}_memory": round(memory[name] / memory[rival], 4),
            f"largest_difference_from_{key}": float((maps[name] - maps[rival]).abs().max()),
        }
        if block == "explanation":
            gap = completeness_gap(model, x, y, maps[name])
            row["completeness_gap"] = {
                "median": round(float(gap.median()), 6),
                "mean": round(float(gap.mean()), 6),
                "p95": round(float(gap.quantile(0.95)), 6),
            }
        print(f"  {name:20}", row, flush=True)
        rows[name] = row | {"rounds": times[name]}
    return {"n": n, "shape": list(x.shape[1:]), "rows": rows}


def environment() -> dict[str, Any]:
    import captum as peer

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "unfooled": unfooled.__version__,
        "captum": peer.__version__,
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64, help="images in the batch")
    parser.add_argument("--n-derivative", type=int, default=16, help="images in the batch of the derivative")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6, help="of the residual network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "explanations_vs_captum.json")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no data at {DATA}; set UNFOOLED_DATA to the folder that holds mnist.npz and models/")
    torch.set_num_threads(args.threads)
    if args.child:
        child(args)
        return
    command = "python benchmarks/explanations_vs_captum.py " + " ".join(sys.argv[1:])
    result: dict[str, Any] = {"command": command.strip(), "environment": environment(), "seed": SEED}
    result |= {k: getattr(args, k) for k in ("n", "n_derivative", "steps", "repeats", "threads")}
    result |= {"memory": "growth of VmHWM in a fresh process over one call, MiB", "networks": {}}
    for network in NETWORKS:
        load = os.getloadavg()[0]
        model, origin = trained(network, args.epochs)
        print(network, "-", origin, flush=True)
        block: dict[str, Any] = {"weights": origin}
        block["explanation"] = compare("explanation", entrants(args.steps, args.n), "captum", network, model, args)
        block["derivative"] = compare("derivative", slopes(args.steps), "one graph", network, model, args)
        result["networks"][network] = block | {"load": [load, os.getloadavg()[0]]}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
