"""A purifier judged in four ways: the attack on the bare network flatters it, the one through the purifier does not.

static        attack the bare network, then purify
BPDA          through the purifier, its gradient taken to be the identity
end to end    the true gradient, with a soft choice of the clusters

python examples/purify_digits.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import torch

from unfooled import Classifier, Linf, load_data, verify
from unfooled.attacks import bpda, pgd
from unfooled.core.losses import margin
from unfooled.features import Encoder
from unfooled.models import SmallCnn
from unfooled.purification import fit_purifier, guard
from unfooled.training import Batches, Standard, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="test samples")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    x_train, y_train = load_data("digits", "train")
    torch.manual_seed(0)
    model = Classifier(SmallCnn(width=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(x_train, y_train, 64), Standard(), optimizer, epochs=options.epochs):
        pass
    model.eval()

    fit = partial(fit_purifier, size=4, atoms=24, sparsity=0.1, max_clusters=2)
    purify = fit(Encoder(model, "fc1"), x_train, y_train, seed=0)
    guarded, soft = guard(model, purify), guard(model, replace(purify, temperature=1.0))
    x, y = load_data("digits", "test", n=options.n)
    threat, attack = Linf(0.1), partial(pgd, steps=20, loss=margin)
    points = {
        "clean": x,
        "static": attack(model, x, y, threat),
        "BPDA": attack(bpda(purify, model), x, y, threat),
        "end to end": attack(soft, x, y, threat),
    }
    right = {name: ~verify(guarded, x, y, z, threat).success for name, z in points.items()}
    right["worst"] = torch.stack(list(right.values())).all(0)
    print(f"bare network  {(~verify(model, x, y, points['static'], threat).success).float().mean():.3f}")
    for name, correct in right.items():
        print(f"{name}  {correct.float().mean():.3f}")


if __name__ == "__main__":
    main()
