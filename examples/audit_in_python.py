"""Train a small network on digits, audit it, and write the page.

    python examples/audit_in_python.py --out runs/example

The command line does the same: `unfooled audit --model ckpt.pt --data digits --threat linf:0.1 --out runs/example`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from unfooled import Classifier, Linf, audit, load_data
from unfooled.models import SmallCnn
from unfooled.report import render
from unfooled.statistics.intervals import Mean
from unfooled.training import Batches, Standard, train


def show(mean: Mean) -> str:
    return "none" if mean.value is None else f"{mean.value:.2f} (n = {mean.n})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="run folder")
    parser.add_argument("--n", type=int, default=200, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = Classifier(SmallCnn(), name="small network")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = load_data("digits", "train")
    for epoch in train(model, Batches(x, y, 64), Standard(), optimizer, epochs=options.epochs):
        print(f"epoch {epoch.index + 1} of {epoch.epochs}: loss {epoch.loss:.3f}")

    x, y = load_data("digits", "test", n=options.n)
    about = {"data": "digits", "title": "A small network"}
    summary = audit(model.eval(), x, y, Linf(0.1), out=options.out, about=about)

    for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        share = getattr(summary, name)
        print(f"{name:<20} {share.value:.3f}  [{share.low:.3f}, {share.high:.3f}]  n = {share.n}")
    for point in summary.curve:
        print(f"eps {point.eps:.4f}  accuracy at most {point.accuracy.value:.3f}")
    for moved in summary.movements:
        print(f"{moved.explanation}, {moved.name}: fooled {show(moved.fooled)}, not fooled {show(moved.unfooled)}")
    print(f"passes per sample: {summary.passes.forward:.1f} forward, {summary.passes.backward:.1f} backward")
    print(f"page: {render([options.out], options.out / 'report.html')}")


if __name__ == "__main__":
    main()
