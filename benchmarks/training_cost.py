"""Costs and gains of adversarial training: passes, seconds, clean and robust accuracy of each loss.

    python benchmarks/training_cost.py --data digits --out benchmarks/results/training-cost.json
    python benchmarks/training_cost.py --data mnist --out benchmarks/results/training-cost.json

Every entrant trains small-cnn of width 8 for as many epochs over the same samples with the same ramp; `free` also with
as many steps. Robust accuracy is that after `cascade` at NORMAL effort, judged by `verify`; the intervals are
Clopper-Pearson's, for one seed each. One thread; seconds are of the processor. A second start goes on where the first
one was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import cascade
from unfooled.core.ascent import Constant
from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.data import load_dataset
from unfooled.evaluation.verify import verify
from unfooled.models import SmallCnn
from unfooled.statistics.intervals import share
from unfooled.training import Batches, Fast, Free, Madry, Ramp, Standard, Trades, n_fgsm, train

WIDTH, REPLAYS = 8, 4
SETUPS: dict[str, dict[str, Any]] = {
    "digits": {"eps": 0.2, "train": None, "test": 540, "epochs": 15, "ramp": 3, "batch": 64, "lr": 3e-3, "seeds": 3},
    "mnist": {"eps": 0.2, "train": 5_000, "test": 300, "epochs": 5, "ramp": 1, "batch": 64, "lr": 3e-3, "seeds": 1},
}


class Meter(nn.Module):
    """A network that counts the samples passed through it, forwards and backwards."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.net(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self.note)
        return logits

    def note(self, g: Tensor) -> None:
        """Count a gradient that came back."""
        self.backwards += len(g)


def entrants(eps: float) -> dict[str, TrainingLoss]:
    """The losses by name; all but the first against linf:eps."""
    t, half = Linf(eps), Constant(0.5)
    return {
        "standard": Standard(),
        "madry-7": Madry(t),
        "madry-7, remove 2": Madry(t, remove=2.0),
        "madry-3": Madry(t, steps=3, rule=half),
        "madry-3 warm": Madry(t, steps=3, start="warm"),
        "madry-2 warm": Madry(t, steps=2, rule=half, start="warm"),
        "madry-2 warm, remove 2": Madry(t, steps=2, rule=half, start="warm", remove=2.0),
        "fast": Fast(t),
        "n-fgsm": n_fgsm(t),
        "fast, align 0.5": Fast(t, align=0.5),
        "free-4": Free(t, replays=REPLAYS),
        "free-4, equal steps": Free(t, replays=REPLAYS),
        "trades-10": Trades(t),
        "trades-3 warm": Trades(t, steps=3, start="warm"),
    }


def measure(name: str, loss: TrainingLoss, setup: dict[str, Any], data: list[Tensor], seed: int) -> dict[str, Any]:
    """Train once, then attack."""
    x, y, test_x, test_y = data
    torch.manual_seed(seed)
    net = SmallCnn(tuple(x.shape[1:]), 10, width=WIDTH)
    share_of = 1 / REPLAYS if name.endswith("equal steps") else 1.0
    epochs = max(1, round(setup["epochs"] * share_of))
    followed = loss if isinstance(loss, Standard) else Ramp(loss, setup["ramp"] * share_of)
    meter = Meter(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=setup["lr"], weight_decay=1e-4)
    start, last = time.process_time(), 0.0
    for epoch in train(meter, Batches(x, y, setup["batch"], seed), followed, optimizer, epochs=epochs, seed=seed):
        last = epoch.loss
    seconds = time.process_time() - start
    net.eval()
    threat = Linf(setup["eps"])
    verdict = verify(net, test_x, test_y, cascade(net, test_x, test_y, threat), threat)
    with torch.no_grad():
        clean = share(net(test_x).argmax(1) == test_y)
    robust = share(~verdict.success)
    return {
        "entrant": name, "seed": seed, "epochs": epochs, "loss": last,
        "forwards": meter.forwards / len(x) / epochs, "backwards": meter.backwards / len(x) / epochs,
        "cpu_seconds_an_epoch": seconds / epochs, "cpu_seconds": seconds,
        "clean": clean.model_dump(), "robust": robust.model_dump(),
    }  # fmt: skip


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=SETUPS, default="digits")
    parser.add_argument("--only", nargs="*", help="names of entrants; all where left out")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = SETUPS[options.data]
    train_set = load_dataset(options.data, split="train", n=setup["train"], shuffle=setup["train"] is not None)
    test_set = load_dataset(options.data, split="test", n=setup["test"])
    data = [train_set.x, train_set.y, test_set.x, test_set.y]
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    found["environment"] = {"python": platform.python_version(), "torch": torch.__version__, "threads": 1}
    part = found.setdefault(options.data, {"setup": {**setup, "width": WIDTH, "test": len(test_set.x)}, "rows": []})
    for seed in range(setup["seeds"]):
        for name, loss in entrants(setup["eps"]).items():
            done = any(row["entrant"] == name and row["seed"] == seed for row in part["rows"])
            if done or (options.only and name not in options.only):
                continue
            row = measure(name, loss, setup, data, seed)
            part["rows"].append(row)
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(
                f"{name}, seed {seed}: {row['forwards']:.1f} F {row['backwards']:.1f} B, {row['cpu_seconds']:.1f} s, "
                f"clean {row['clean']['value']:.3f}, robust {row['robust']['value']:.3f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
