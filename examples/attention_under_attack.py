"""Attention of a network on shapes whose place is known, before and after an attack on its label or on its attention.

python examples/attention_under_attack.py
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from unfooled import Classifier, Linf, load_shapes, verify
from unfooled.attacks import attention_hold, pgd
from unfooled.distances import centroid_shift, coverage, entropy, js
from unfooled.explanations import attention
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()

    torch.manual_seed(0)
    trained, tested = load_shapes(1000, rho=0.9), load_shapes(options.n, split="test")
    model = Classifier(SmallCnn((3, 32, 32), classes=4, width=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in train(model, Batches(trained.x, trained.y, 64), Standard(), optimizer, epochs=options.epochs):
        pass
    model.eval()

    threat, x, y = Linf(4 / 255), tested.x, tested.y
    mask = tested.masks["object"].float()
    attend = partial(attention, detach_weights=True)
    clean = attend(model, x, y)
    points = {
        "clean": x,
        "noise of equal size": threat.sample(x, 1),
        "pgd, on the label": pgd(model, x, y, threat),
        "attention_hold": attention_hold(model, x, y, threat, attend=attend, distance=js, steps=20),
    }
    print(f"{'attention of the label':<22} wrong  on the object (chance {mask.mean():.2f})  moved  divergence  scatter")
    for name, z in points.items():
        p = attend(model, z, y)
        cells = [coverage(p, mask), centroid_shift(clean, p), js(clean, p), entropy(p)]
        wrong = verify(model, x, y, z, threat).success.float()
        print(f"{name:<22} {wrong.mean():.2f}   " + "   ".join(f"{c.mean():.3f}" for c in cells))


if __name__ == "__main__":
    main()
