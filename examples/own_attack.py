"""An attack of your own is an objective and one call of `ascend`: turn an even digit into any odd one, or back.

v(z) = max over digits of the other parity of f(z)  -  max over digits of the same parity

python examples/own_attack.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from unfooled import L2, Classifier, ascend, frozen, load_data, verify
from unfooled.core.ascent import Decaying
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.models import SmallCnn
from unfooled.training import Batches, Standard, train


def other_parity(model: Model, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 40) -> Tensor:
    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(z)
        same = (torch.arange(logits.shape[1]) - y[at][:, None]) % 2 == 0
        value = logits.masked_fill(same, -torch.inf).amax(1) - logits.masked_fill(~same, -torch.inf).amax(1)
        return value, value > 0  # a row that is done leaves the batch

    with frozen(model):
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=threat.sample(x)).z


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
    for eps in (0.25, 0.5, 1.0):
        verdict = verify(model, x, y, other_parity(model, x, y, L2(eps)), L2(eps))  # the attack does not grade itself
        flipped = verdict.inside & ((verdict.prediction - y) % 2 != 0)
        print(f"l2:{eps:<4} inside {verdict.inside.float().mean():.3f}  parity changed {flipped.float().mean():.3f}")


if __name__ == "__main__":
    main()
