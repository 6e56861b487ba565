"""A defence that breaks the gradient, and four attacks that do not need it: an upper bound of the accuracy each leaves.

    python examples/adaptive_attack.py

The defended model rounds its input to eight levels. Its gradient is zero everywhere, so a plain attack sees nothing.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import torch
from torch import Tensor

from unfooled import Classifier, Linf, load_data, verify
from unfooled.attacks import Estimated, apgd, bpda, distil, rays, transfer
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


def rounded(x: Tensor) -> Tensor:
    return (x * 7).round() / 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()

    torch.manual_seed(0)
    net = Classifier(SmallCnn(width=16))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in train(net, Batches(*load_data("digits", "train"), 64), Standard(), optimizer, epochs=options.epochs):
        pass
    net.eval()

    def model(z: Tensor) -> Tensor:
        return net(rounded(z))

    x, y = load_data("digits", "test", n=options.n)
    threat = Linf(0.15)
    attack = partial(apgd, steps=20)
    nearest = rays(model, x, y, math.inf, steps=400)  # from labels only: the nearest point, inside the threat or not
    points = {
        "the gradient as it is": attack(model, x, y, threat),
        "BPDA: the rounding taken for the identity": attack(bpda(rounded, net), x, y, threat),
        "gradients estimated from scores": attack(Estimated(model, draws=32, sigma=0.1), x, y, threat),
        "transfer from a distilled twin": transfer(distil(model, x, threat))(model, x, y, threat),
        "RayS: labels only": nearest,
    }
    for name, x_adv in points.items():
        verdict = verify(model, x, y, x_adv, threat)  # the defended model is judged, never a wrapper
        print(f"{name:<44}{1 - verdict.success.float().mean():.3f}")


if __name__ == "__main__":
    main()
