"""Train the PGD-AT network that the attack benchmarks judge: small-cnn of width 16 on MNIST, linf:0.3.

    python benchmarks/train_pgd_at.py runs/pgd-at-mnist.pt

Resumes where it was stopped. An epoch costs 9 forwards and 8 backwards of 60,000 images: minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.models import SmallCnn
from unfooled.training import Batches, Checkpoint, Madry, train

EPOCHS, EPS, WIDTH, STEPS, SEED = 6, 0.3, 16, 7, 0
RAMP = 2  # epochs in which eps grows from 0: at .3 from the start the loss stays at log 10


class Ramped:
    """PGD adversarial training whose eps grows step by step."""

    def __init__(self, done: int, steps: int) -> None:
        self.done, self.steps = done, steps

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch."""
        self.done += 1
        return Madry(Linf(EPS * min(1.0, self.done / self.steps)), steps=STEPS)(model, x, y)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    data, held = load_dataset("mnist", split="train"), load_dataset("mnist", split="test")
    model = SmallCnn((1, 28, 28), 10, width=WIDTH)
    settings = {"epochs": EPOCHS, "eps": EPS, "steps": STEPS, "ramp": RAMP, "seed": SEED}
    about = {"arch": "small-cnn", "input_shape": [1, 28, 28], "num_classes": 10}
    batches = Batches(data.x, data.y, 128, SEED)
    done = len(torch.load(options.out, weights_only=True)["history"]) if options.out.exists() else 0
    for epoch in train(
        model,
        batches,
        Ramped(done * len(batches), RAMP * len(batches)),
        torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4),
        epochs=EPOCHS,
        seed=SEED,
        checkpoint=Checkpoint(options.out, about, settings),
        held_out=(held.x, held.y),
    ):
        print(epoch, flush=True)


if __name__ == "__main__":
    main()
