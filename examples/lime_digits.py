"""LIME of digits, clean and attacked side by side, with error bars; or of a forest's predictions, with --forest.

python examples/lime_digits.py --data mnist --forest
"""

from __future__ import annotations

import argparse

import torch
from sklearn.ensemble import RandomForestClassifier

from unfooled import Classifier, Linf, load_data
from unfooled.attacks import apgd
from unfooled.distances import spearman
from unfooled.explanations import lime_image
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--data", default="digits", help="digits, or mnist of the data folder")
    parser.add_argument("--forest", action="store_true", help="explain a random forest")
    options = parser.parse_args()

    x_train, y_train = load_data(options.data, "train", n=5000)
    x, y = load_data(options.data, "test", n=options.n)
    if options.forest:
        forest = RandomForestClassifier(100, random_state=0).fit(x_train.flatten(1).numpy(), y_train.numpy())
        found = lime_image(
            lambda z: torch.as_tensor(forest.predict_proba(z.flatten(1).numpy())), x, samples=options.samples
        )  # any callable is a model
        for i in range(min(3, len(x))):
            print(f"{int(y[i])} taken for {int(found.y[i])} with {float(found.prediction[i]):.2f}:", end=" ")
            print(", ".join(f"cell {name} {weight:+.3f}" for name, weight in found[i].as_list(top=3)))
        return

    torch.manual_seed(0)
    model = Classifier(SmallCnn(tuple(x.shape[1:])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(x_train, y_train, 64), Standard(), optimizer, epochs=options.epochs):
        pass
    model.eval()
    x_adv = apgd(model, x, y, Linf(0.1), steps=20)
    clean, attacked = (lime_image(model, z, y, samples=options.samples) for z in (x, x_adv))  # of the true class
    apart = (clean.weights - attacked.weights).abs() > 2 * (clean.se**2 + attacked.se**2).sqrt()
    r2, rank = (own.r2_held_out.mean() for own in (clean, attacked)), spearman(clean.heatmap(), attacked.heatmap())
    print("held-out R2 {:.2f} clean, {:.2f} attacked".format(*r2) + f"; rank correlation {rank.nanmean():.2f}")
    print(f"weights that moved beyond their errors {apart.float().mean():.2f}")
    clean[0].plot().savefig("lime_clean.png")  # with error bars
    attacked[0].plot().savefig("lime_attacked.png")


if __name__ == "__main__":
    main()
