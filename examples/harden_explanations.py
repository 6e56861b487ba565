"""Train the same network in four ways, and measure how far an attack on the label moves its explanations.

python examples/harden_explanations.py
"""

from __future__ import annotations

import argparse

import torch

from unfooled import Classifier, Linf, load_data
from unfooled.attacks import pgd
from unfooled.core.types import TrainingLoss
from unfooled.distances import kendall, top_k_intersection
from unfooled.distances.maps.locality import abs_sum
from unfooled.explanations import saliency
from unfooled.models import SmallCnn
from unfooled.training import Batches, Igr, InputGradient, Madry, Ramp, Standard, train


def fit(loss: TrainingLoss, epochs: int) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(SmallCnn(width=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in train(model, Batches(*load_data("digits", "train"), 64), loss, optimizer, epochs=epochs):
        pass
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="test samples")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()

    threat = Linf(0.15)
    x, y = load_data("digits", "test", n=options.n)
    madry = Madry(threat, steps=3)
    losses: dict[str, TrainingLoss] = {
        "standard": Standard(),
        "input-gradient": InputGradient(0.1),
        "madry": Ramp(madry, 1),
        "igr": Ramp(Igr(threat, saliency, madry), 1),
    }
    print(f"{'':<15} {'clean accuracy':<15} maps at x and at an adversarial point, {threat}: tau, top 10 in common")
    for name, loss in losses.items():
        model = fit(loss, options.epochs)
        right = model(x).argmax(1) == y
        z = pgd(model, x[right], y[right], threat, stop=False)
        a, b = (abs_sum(saliency(model, at, y[right])) for at in (x[right], z))
        tau, top = kendall(a, b).nanmean(), top_k_intersection(a, b, k=10).nanmean()
        print(f"{name:<15} {right.double().mean():<15.3f} {tau:.3f} {top:.3f}")


if __name__ == "__main__":
    main()
