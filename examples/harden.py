"""Train the same network plainly and in two ways against an adversary, and attack each.

python examples/harden.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from unfooled import Classifier, Linf, load_data, verify
from unfooled.attacks import apgd
from unfooled.core.types import TrainingLoss
from unfooled.models import SmallCnn
from unfooled.statistics.intervals import share
from unfooled.training import Batches, Madry, Standard, Trades, train


def fit(loss: TrainingLoss, epochs: int) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(SmallCnn())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(*load_data("digits", "train"), 64), loss, optimizer, epochs=epochs):
        pass
    return model.eval()


def lost(model: Classifier, x: Tensor, y: Tensor, x_adv: Tensor, threat: Linf) -> Tensor:
    return verify(model, x, y, x_adv, threat).success


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="test samples")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()

    threat = Linf(0.15)
    x, y = load_data("digits", "test", n=options.n)
    losses: dict[str, TrainingLoss] = {"standard": Standard(), "madry": Madry(threat), "trades": Trades(threat)}
    print(f"{'':<9} {'clean accuracy':<24} robust accuracy, at most, at {threat}")
    for name, loss in losses.items():
        model = fit(loss, options.epochs)
        clean = share(~lost(model, x, y, x, threat))
        robust = share(~lost(model, x, y, apgd(model, x, y, threat, steps=50), threat))
        cells = [f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in (clean, robust)]
        print(f"{name:<9} {cells[0]:<24} {cells[1]}")


if __name__ == "__main__":
    main()
