"""A whole robustness curve from one batch: eps may have one value per sample.

    python examples/robustness_curve.py

Each sample is repeated once per radius, and every copy has its own radius. One call of the attack serves them all.
"""

from __future__ import annotations

import argparse

import torch

from unfooled import Classifier, Linf, counted, load_data, verify
from unfooled.attacks import apgd
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train

RADII = torch.tensor([0.0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = Classifier(SmallCnn())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(*load_data("digits", "train"), 64), Standard(), optimizer, epochs=options.epochs):
        pass
    model.eval()

    x, y = load_data("digits", "test", n=options.n)
    n, r = len(x), len(RADII)
    many, labels = x.repeat_interleave(r, 0), y.repeat_interleave(r)
    threat = Linf(RADII.repeat(n))  # one eps per row
    with counted(model) as f:
        x_adv = apgd(f, many, labels, threat, steps=30)
    fooled = verify(model, many, labels, x_adv, threat).success.reshape(n, r)
    # What is fooled at a radius is fooled at every larger one, since the same point is allowed there.
    accuracy = 1 - fooled.cummax(1).values.float().mean(0)

    for eps, share in zip(RADII.tolist(), accuracy.tolist(), strict=True):
        print(f"eps {eps:.2f}  accuracy at most {share:.3f}  {'#' * round(40 * share)}")
    print(f"{f.forwards / n:.1f} forward and {f.backwards / n:.1f} backward passes per sample, for {r} radii")


if __name__ == "__main__":
    main()
