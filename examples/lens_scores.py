"""Did the reasons move, or only by a pixel? Locality scores of saliency maps, with the level of chance beside each.

python examples/lens_scores.py
"""

from __future__ import annotations

import argparse

import torch

from unfooled import Classifier, Linf, load_data
from unfooled.attacks import pgd
from unfooled.distances import abs_sum, chance, corrected, lens_recall, shift_null, shift_p
from unfooled.explanations import saliency
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--k", type=int, default=6, help="top pixels, of 64")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = Classifier(SmallCnn())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(*load_data("digits", "train"), 64), Standard(), optimizer, epochs=options.epochs):
        pass
    model.eval()

    x, y = load_data("digits", "test", n=options.n)
    threat = Linf(0.1)
    noisy = threat.project(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign(), x)
    before = abs_sum(saliency(model, x, y))
    unrelated = before.roll(1, 0)  # the next image's map
    others = {"attack on the label": pgd(model, x, y, threat, steps=20), "random signs": noisy}
    maps = {name: abs_sum(saliency(model, z, y)) for name, z in others.items()} | {"another image": unrelated}

    print(f"{'maps':<20} {'w':>2} {'raw':>6} {'chance':>7} {'corrected':>10} {'p < .05':>8}")
    for name, after in maps.items():
        for w in (0, 1, 2):
            raw, level = lens_recall(before, after, k=options.k, w=w), chance(before, k=options.k, w=w)
            surprising = (shift_p(shift_null(before, after, k=options.k, w=w)) < 0.05).float()
            means = [v.nanmean() for v in (raw, level, corrected(raw, level), surprising)]
            print("{:<20} {:>2} {:>6.2f} {:>7.2f} {:>10.2f} {:>8.2f}".format(name, w, *means))
    print("raw scores rise with w for unrelated maps too: read the corrected ones")


if __name__ == "__main__":
    main()
