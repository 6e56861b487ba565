"""CROWN of this package beside that of auto_LiRPA, from a folder with its source: values and processor seconds.

    python benchmarks/certification_vs_auto_lirpa.py FOLDER --out benchmarks/results/certification-vs-auto-lirpa.json

FOLDER holds the package `auto_LiRPA` (its repository; it needs appdirs, graphviz, tqdm, pyyaml and sortedcontainers);
without it nothing is measured. Both bound every margin of the label over a ball in Linf, without the box, which here is
so wide that no ball leaves it. auto_LiRPA's method is "backward" with "adaptive" lower slopes, which are ours: 1 where
u > -l and else 0. This package also takes an interval where it is tighter than a relaxation, so that two things are
compared: CROWN alone, which must agree, and what `certify` does, which may only gain. Networks: random weights, fully
connected, with a sum, and with convolutions; and CNN-A-Adv on MNIST where the data folder has it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.certification import trace
from unfooled.certification.crown import Rows, crown_bounds, interval_bounds, lower_bounds, margin_rows
from unfooled.certification.region import Region
from unfooled.core.threats import Box, Linf
from unfooled.data import load_dataset

REPEATS = 3
TOLERANCE = 1e-4


class Sum(nn.Module):
    """A small network with a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        z = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(z)) + z)


def subjects() -> dict[str, tuple[nn.Module, Tensor, float]]:
    """Return networks, inputs and radii."""
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, Tensor, float]] = {
        "fully connected": (
            nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)),
            torch.rand(16, 20), 0.05,
        ),
        "sum": (Sum(), torch.rand(16, 20), 0.05),
        "convolution": (
            nn.Sequential(
                nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                nn.Linear(8 * 16, 4),
            ),
            torch.rand(8, 1, 16, 16), 0.03,
        ),
    }  # fmt: skip
    weights = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "hard/mnist_cnn_a_adv.pt"
    if weights.is_file():
        net = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
        )  # fmt: skip
        net.load_state_dict(torch.load(weights, weights_only=True))
        found["CNN-A-Adv"] = (net, load_dataset("mnist", split="test", n=4).x, 0.1)
    return {name: (net.eval(), x, eps) for name, (net, x, eps) in found.items()}


def ours(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return CROWN's lower bounds of the margins, (B, K - 1)."""
    with torch.no_grad():
        network = trace(net, x).network()
        region = Region.of(x, Linf(eps, box=Box(-10.0, 10.0)), torch.float32)
        bounds = crown_bounds(interval_bounds(network, region))
        return lower_bounds(margin_rows(network, y), bounds).reshape(len(x), -1)


def plain(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the same bounds from CROWN alone: intervals that are tighter do not count, as in auto_LiRPA."""
    with torch.no_grad():
        network = trace(net, x).network()
        bounds = interval_bounds(network, Region.of(x, Linf(eps, box=Box(-10.0, 10.0)), torch.float32))
        for i in network.curved[1:]:
            before = network.nodes[i].inputs[0]
            shape = network.nodes[before].shape
            size, n = math.prod(shape), len(x)
            a = torch.eye(size).reshape(size, *shape).repeat(n, *[1] * len(shape))
            rows = Rows(before, a, torch.arange(n).repeat_interleave(size))
            low, high = (lower_bounds(replace(rows, a=sign * a), bounds).reshape(n, *shape) for sign in (1.0, -1.0))
            nodes = list(bounds.nodes)
            nodes[before] = low, -high
            bounds = replace(bounds, nodes=nodes)
        return lower_bounds(margin_rows(network, y), bounds).reshape(len(x), -1)


def theirs(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return auto_LiRPA's lower bounds of the same margins."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    bounded = BoundedModule(net, torch.empty_like(x), bound_opts={"activation_bound_option": "adaptive"})
    ball = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=eps))
    with torch.no_grad():
        classes = net(x[:1]).shape[1]
    eye = torch.eye(classes)
    rows = [[eye[label] - eye[k] for k in range(classes) if k != int(label)] for label in y]
    margins = torch.stack([torch.stack(own) for own in rows])
    with torch.no_grad():
        lower, _ = bounded.compute_bounds(x=(ball,), C=margins, method="backward", bound_upper=False)
    return lower


def measured(name: str, net: nn.Module, x: Tensor, eps: float) -> dict[str, Any]:
    """Compare one network."""
    with torch.no_grad():
        y = net(x).argmax(1)
    seconds, values = {}, {}
    for who, bound in (("unfooled", ours), ("auto_LiRPA", theirs)):
        values[who] = bound(net, x, y, eps)  # the first call imports and compiles
        times = []
        for _ in range(REPEATS):
            begin = time.process_time()
            bound(net, x, y, eps)
            times.append(time.process_time() - begin)
        seconds[who] = min(times)
    alone = (plain(net, x, y, eps) - values["auto_LiRPA"]).double()
    apart = (values["unfooled"] - values["auto_LiRPA"]).double()
    size = float(values["auto_LiRPA"].abs().max())
    return {
        "network": name, "samples": len(x), "eps": eps, "margins": apart.numel(), "largest_bound": size,
        "crown_alone_apart": float(alone.abs().max()), "largest_gain": float(apart.max()),
        "largest_loss": -float(apart.min()), "seconds": seconds, "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Compare all networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.folder / "auto_LiRPA").is_dir():
        print(f"{options.folder} holds no auto_LiRPA: nothing is measured")
        return
    sys.path.insert(0, str(options.folder))
    import auto_LiRPA

    torch.set_num_threads(1)
    rows = []
    for name, subject in subjects().items():
        rows.append(measured(name, *subject))
        print(rows[-1], flush=True)
    result = {
        "command": "python benchmarks/certification_vs_auto_lirpa.py FOLDER",
        "environment": {"torch": torch.__version__, "machine": platform.machine(), "threads": 1},
        "auto_LiRPA": auto_LiRPA.__version__, "tolerance": TOLERANCE,
        "agrees": all(row["crown_alone_apart"] <= TOLERANCE for row in rows), "networks": rows,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
