"""Distance that an explanation moves while the label stays: attack, best of as many random points, one random point.

python examples/explanation_robustness.py
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from unfooled import Classifier, Linf, load_data
from unfooled.attacks import Search, out_of_lens
from unfooled.distances import chance, corrected, kendall, lens_recall, top_k_intersection
from unfooled.evaluation import explanation_robustness
from unfooled.evaluation.explanations.judge import Score
from unfooled.explanations import saliency
from unfooled.models import SmallCnn
from unfooled.training import Batches, Madry, Standard, train

K = 6  # a tenth of the 64 pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=60, help="test samples")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    threat = Linf(0.1)
    x, y = load_data("digits", "test", n=options.n)
    scores: dict[str, Score] = {
        "lens": partial(lens_recall, k=K, w=1), "top k": partial(top_k_intersection, k=K), "tau": kendall,
    }  # fmt: skip

    for name, loss in (("standard", Standard()), ("hardened", Madry(threat, steps=3))):
        torch.manual_seed(0)
        model = Classifier(SmallCnn(width=16))
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in train(model, Batches(*load_data("digits", "train"), 64), loss, optimizer, epochs=options.epochs):
            pass
        model.eval()
        result = explanation_robustness(
            model, x, y, threat, saliency, scores=scores, objectives=[out_of_lens(K, 1)], search=Search(15, restarts=1)
        )
        level = chance(result.clean, k=K, w=1)
        print(f"{name}: {result.attack.counts['lens']}, unrelated maps would score {level.nanmean():.2f} in raw LENS")
        for how, arm in (
            ("attack", result.attack),
            (f"best of {result.n}", result.best_of_n),
            ("random", result.random),
        ):
            values = {"corrected LENS": corrected(arm.scores["lens"], level), **arm.scores}
            print(f"  {how:<12}" + ", ".join(f"{score} {value.nanmean():.2f}" for score, value in values.items()))


if __name__ == "__main__":
    main()
