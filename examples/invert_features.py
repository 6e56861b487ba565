"""Features of a digit that a network holds: start from another digit, and search for the first one's features.

min over z in [0, 1]^D   || g(z) - g(x) ||,   g = the last hidden layer of a standard or of a hardened network

python examples/invert_features.py
"""

from __future__ import annotations

import argparse

import torch

from unfooled import Classifier, Linf, load_data
from unfooled.features import Encoder, invert_features
from unfooled.models import SmallCnn
from unfooled.training import Batches, Madry, Standard, train
from unfooled.training.progress import Ramp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="test samples")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    x, y = load_data("digits", "test", n=options.n)
    start, other = x.roll(1, 0), y.roll(1)
    for name, loss in (("standard", Standard()), ("hardened", Ramp(Madry(Linf(0.15), steps=5), options.epochs / 3))):
        torch.manual_seed(0)
        model = Classifier(SmallCnn())
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in train(model, Batches(*load_data("digits", "train"), 64), loss, optimizer, epochs=options.epochs):
            pass
        model.eval()

        encode = Encoder(model, "fc1")
        inverted = invert_features(encode, encode(x).detach(), start)
        with torch.no_grad():
            seen = model(inverted.x).argmax(1)
        # For samples that start from another digit: what the network sees now, and how near it is in pixels.
        differs = y != other
        before, after = ((z - x).flatten(1).norm(dim=1)[differs].mean() for z in (start, inverted.x))
        print(
            f"{name}  residual {inverted.residual.median():.3f}  gradients {inverted.gradients.float().mean():.1f}  "
            f"seen as the source {(seen == y)[differs].float().mean():.3f}  "
            f"distance to it {before:.2f} before, {after:.2f} after"
        )


if __name__ == "__main__":
    main()
