"""Cost of attention rectification and preservation in adversarial training: seconds per step, beside PGD-AT.

    python benchmarks/arp_cost.py --out benchmarks/results/arp-cost.json

A step is the loss, its gradient and the optimiser's update of a batch of 128 samples; an epoch is so many of them. Both
losses take turns on the same batches, each on its own copy of the network, round by round; the figure is the median of
the rounds' ratios, with the range of the middle half. One thread, processor time. Targets: at most 1.5 with ten inner
steps and 1.9 with seven.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.core.types import TrainingLoss
from unfooled.data import load_dataset
from unfooled.models import SmallCnn
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.studies.attention.scale import four_convolutions
from unfooled.training import Madry, arp

BATCH, TARGETS = 128, {7: 1.9, 10: 1.5}


def setups() -> dict[str, tuple[nn.Module, Tensor, Tensor, uf.Linf]]:
    """Network, samples, labels and threat, by name."""
    shapes, mnist = load_dataset("shapes", "train", 2000), load_dataset("mnist", "train", 2000)
    torch.manual_seed(0)
    study = four_convolutions(tuple(shapes.x.shape[1:]), int(shapes.y.max()) + 1)
    small = SmallCnn((1, 28, 28), 10, width=16)
    study.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {
        "study network, shapes 32x32": (
            study,
            shapes.x,
            shapes.y,
            uf.Linf(4 / 255),
        ),
        "small-cnn of width 16, MNIST": (small, mnist.x, mnist.y, uf.Linf(0.3)),
    }


def step(model: nn.Module, loss: TrainingLoss, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Processor seconds of one step."""
    started = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    loss(model, x, y).backward()
    optimizer.step()
    return time.process_time() - started


def compared(model: nn.Module, x: Tensor, y: Tensor, threat: uf.Linf, steps: int, rounds: int) -> dict[str, Any]:
    """Both losses in turns."""
    losses: dict[str, TrainingLoss] = {"pgd-at": Madry(threat, steps=steps), "pgd-at + arp": arp(threat, steps=steps)}
    nets = {name: copy.deepcopy(model).train() for name in losses}
    optimizers = {name: torch.optim.AdamW(net.parameters(), lr=1e-3) for name, net in nets.items()}
    spent: dict[str, list[float]] = {name: [] for name in losses}
    for index in range(rounds + 1):
        rows = torch.arange(index * BATCH, (index + 1) * BATCH) % len(x)
        for name, loss in list(losses.items())[:: 1 if index % 2 else -1]:
            seconds = step(nets[name], loss, optimizers[name], x[rows], y[rows])
            if index:  # the first round warms up
                spent[name].append(seconds)
    ratios = np.array(spent["pgd-at + arp"]) / np.array(spent["pgd-at"])
    low, middle, high = (float(v) for v in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return {
        "inner_steps": steps,
        "rounds": rounds,
        "milliseconds": {name: 1000 * float(np.median(v)) for name, v in spent.items()},
        "ratio": {"median": middle, "middle_half": [low, high]},
        "target": TARGETS[steps],
        "met": middle <= TARGETS[steps],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "arp-cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (model, x, y, threat) in setups().items():
        for steps in TARGETS:
            row = {"network": name} | compared(model, x, y, threat, steps, options.rounds)
            rows.append(row)
            print(name, steps, f"{row['ratio']['median']:.2f}", row["ratio"]["middle_half"], flush=True)
    whole = {
        "command": f"python benchmarks/arp_cost.py --rounds {options.rounds}",
        "environment": Environment.here("cpu").model_dump(),
        "load": list(os.getloadavg()),
        "batch": BATCH,
        "rows": rows,
    }
    write_whole(options.out, json.dumps(whole, indent=1).encode())


if __name__ == "__main__":
    main()
