"""Explain the true label before and after an attack, and measure how far the explanation moved.

python examples/explain_under_attack.py
"""

from __future__ import annotations

import argparse

import torch

from unfooled import Classifier, Linf, load_data, verify
from unfooled.attacks import apgd
from unfooled.distances import abs_sum, psnr, spearman, top_k_intersection
from unfooled.explanations import grad_cam, input_x_gradient, integrated_gradients, saliency
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


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
    threat = Linf(0.1)
    x_adv = apgd(model, x, y, threat, steps=50)
    verdict = verify(model, x, y, x_adv, threat)
    fooled = verdict.success & (verdict.distance > 0)  # right when clean, wrong now
    unfooled = ~verdict.success
    print(f"{int(fooled.sum())} fooled, {int(unfooled.sum())} not fooled; PSNR {psnr(x_adv, x)[fooled].mean():.1f} dB")

    k = round(0.1 * x[0].numel())
    print(f"{'explanation':<22} {'top 10 % kept':<22} rank correlation")
    for explain in (saliency, input_x_gradient, integrated_gradients, grad_cam):
        before, after = (abs_sum(explain(model, z, y)) for z in (x, x_adv))
        overlap, rank = top_k_intersection(before, after, k=k), spearman(before, after)
        cells = [f"{s[fooled].nanmean():.2f} fooled, {s[unfooled].nanmean():.2f} not fooled" for s in (overlap, rank)]
        print(f"{explain.__name__:<22} {cells[0]:<22} {cells[1]}")
    print(f"unrelated maps would keep {k / x[0].numel():.2f} and have correlation 0")


if __name__ == "__main__":
    main()
