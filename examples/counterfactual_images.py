"""Turn a digit into another one by its strokes: what would have to change, and can pixels change just that?

A network is trained on images alone; a table says of some of them what they show, and a probe of each column is fitted
to what the last layer takes. As a command:

    unfooled counterfactual --model digits.pt --attributes drawings/table.csv --data drawings --n 3 --target 8

python examples/counterfactual_images.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from unfooled import Classifier, load_data
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train
from unfooled.workflows import Inputs, counterfactual

STROKES = {"loop above": (8, 9), "loop below": (6, 8), "closed ring": (0,), "bar on top": (5, 7), "foot": (1, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400, help="images of the table")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("drawings"))
    options = parser.parse_args()

    x, y = load_data("digits", "train")
    torch.manual_seed(0)
    model = Classifier(SmallCnn(width=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(x, y, 64), Standard(), optimizer, epochs=options.epochs):
        pass

    options.out.mkdir(parents=True, exist_ok=True)
    lines = [",".join(["path", *STROKES])]
    for k in range(options.n):
        label = int(y[k])
        Image.fromarray((x[k, 0] * 255).round().byte().numpy()).save(options.out / f"{k:04d}.png")
        lines.append(",".join([f"{k:04d}.png", *(str(int(label in digits)) for digits in STROKES.values())]))
    (options.out / "table.csv").write_text("\n".join(lines) + "\n")

    inputs = Inputs(model.eval(), str(options.out), n=3)
    record = counterfactual(inputs, options.out / "table.csv", target="8", threat="l2:2", steps=50, out="edits")
    print("AUC:", ", ".join(f"{one.name} {one.auc or 0:.2f}" for one in record.attributes))
    for one in record.results:
        print(f"{one.item} is a {one.predicted}. {one.sentence}")
        for name, figures in one.figures.items():
            print(f"    {name}: valid {figures.valid}, selectivity {figures.selectivity or 0:.2f}")
    print("page: edits/counterfactual.html")


if __name__ == "__main__":
    main()
