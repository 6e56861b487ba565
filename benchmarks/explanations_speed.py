"""Processor time of integrated gradients and SmoothGrad beside Captum's at its best batch, equal steps and copies.

    python benchmarks/explanations_speed.py [--n 8] [--steps 32] [--rounds 5] [--out results/explanations-speed.json]

The network is a ResNet-20 on 32 x 32 images with weights of its initialisation and statistics of noise: the time does
not depend on them. Captum gets every batch of `BATCHES` and the fastest counts; ours choose theirs. `faster` explains
the copy of `uf.faster`, whose making is part of its time. The entrants take turns, in reversed order every other round;
figures are medians, and ratios medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.explanations import integrated_gradients, smooth_grad
from unfooled.models.nets.cifar_resnet import CifarResnet

BATCHES = (8, 16, 32, 64, 128)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = CifarResnet(classes=10, depth=20).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(32, 3, 32, 32))
    return net.eval().requires_grad_(False)


def entrants(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, dict[str, Callable[[], Tensor]]]:
    from captum.attr import IntegratedGradients, NoiseTunnel, Saliency

    ours: dict[str, dict[str, Callable[[], Tensor]]] = {
        "integrated gradients": {
            "unfooled": lambda: integrated_gradients(net, x, y, steps=steps),
            "unfooled, faster": lambda: integrated_gradients(uf.faster(net, x[:2]), x, y, steps=steps),
        },
        "smooth grad": {
            "unfooled": lambda: smooth_grad(net, x, y, samples=steps),
            "unfooled, faster": lambda: smooth_grad(uf.faster(net, x[:2]), x, y, samples=steps),
        },
    }
    for batch in (b for b in BATCHES if b >= len(x)):

        def path(batch: int = batch) -> Any:
            return IntegratedGradients(net).attribute(x, target=y, n_steps=steps, internal_batch_size=batch)

        def noisy(batch: int = batch) -> Any:
            return NoiseTunnel(Saliency(net)).attribute(
                x, nt_type="smoothgrad", nt_samples=steps, nt_samples_batch_size=batch // len(x), stdevs=0.15, target=y,
                abs=False,
            )  # fmt: skip

        ours["integrated gradients"][f"captum, {batch}"] = path
        ours["smooth grad"][f"captum, {batch}"] = noisy
    return ours


def measure(runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, Any]:
    """Processor seconds of every entrant in every round, and how many times faster ours are than the best peer."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for turn in range(rounds):
        for name in list(runs) if turn % 2 == 0 else reversed(runs):
            begin = time.process_time()
            runs[name]()
            times[name].append(round(time.process_time() - begin, 4))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in runs if name.startswith("captum")), key=lambda name: seconds[name])
    ratios = {
        name: round(statistics.median(b / a for a, b in zip(times[name], times[best], strict=True)), 3)
        for name in runs
        if name.startswith("unfooled")
    }
    return {"best_peer": best, "cpu_seconds": seconds, "times_faster_than_best_peer": ratios, "rounds": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/explanations-speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="captum")
    net, x = network(0), torch.rand(args.n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    load, rows = os.getloadavg()[0], {}
    for name, runs in entrants(net, x, y, args.steps).items():
        rows[name] = measure(runs, args.rounds)
        print(name, {key: value for key, value in rows[name].items() if key != "rounds"}, flush=True)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": {
            "python": platform.python_version(), "torch": torch.__version__, "unfooled": uf.__version__,
            "cores": os.cpu_count(), "load": [load, os.getloadavg()[0]], "system": platform.platform(),
        },
        "n": args.n, "steps": args.steps, "threads": args.threads, "rows": rows,
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
