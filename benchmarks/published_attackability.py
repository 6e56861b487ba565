"""The published attackability gamed on MNIST: heads of one network, by the published score, exactly, and in pixels.

    python benchmarks/published_attackability.py --out benchmarks/results/published-attackability-mnist.json

The encoder is frozen. Its head is fine-tuned on cross-entropy - weight log ||G^+ h||^2, the published kind of training,
with several weights, or one singular value of its differences is set to 1e-4 without any training. Beside the published
score stand the exact distance to the nearest other class and the accuracy under PGD. A defence would raise both.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled import L2, Classifier, load_data, verify
from unfooled.attacks import pgd
from unfooled.core.model.batching import batched
from unfooled.core.model.encoder import INPUT, root_of
from unfooled.counterfactuals import AffineHead, flip_distance, pinv_attackability
from unfooled.features import Encoder
from unfooled.models import load_model
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.statistics.intervals import share
from unfooled.studies.attackability.published import singular, tuned

WEIGHTS = (0.0, 0.01, 0.1, 1.0)
THREAT = L2(2.0)


def last_layer(model: Classifier) -> nn.Linear:
    """The last linear layer of a network."""
    return [part for part in model.modules() if isinstance(part, nn.Linear)][-1]


def heads(
    head: AffineHead, e: Tensor, y: Tensor, steps: int, weights: tuple[float, ...] = WEIGHTS
) -> dict[str, AffineHead]:
    """The head as it is, fine-tuned with each weight, and with one singular value set."""
    made = {"as trained": head}
    for weight in weights:
        made[f"fine-tuned, weight {weight:g}"] = tuned(head, e, y, weight, 0, steps)
    return made | {"no training: smallest singular value 1e-4": singular(head)}


def row(name: str, head: AffineHead, e: Tensor, y: Tensor, attacked: Tensor | None = None) -> dict[str, Any]:
    """A row of the table: accuracy, published score, exact distance, and which samples PGD did not fool."""
    score, exact = pinv_attackability(head, e), flip_distance(head, e).amin(1)
    right = head.logits(e).argmax(1) == y
    robust = {} if attacked is None else {f"accuracy under PGD, {THREAT}": share(attacked).model_dump()}
    return {
        "head": name, "accuracy": round(float(right.double().mean()), 4),
        "published norm": round(float(score.norm.median()), 3),
        "published attackability": round(float(score.attackability.median()), 5),
        "exact distance": round(float(exact.median()), 3),
        "norm of the embedding": round(float(e.norm(dim=1).median()), 2), **robust,
    }  # fmt: skip


def survivors(model: Classifier, head: AffineHead, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Samples that PGD does not fool when the network has this head."""
    changed = copy.deepcopy(model)
    layer = last_layer(changed)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    z = pgd(changed, x, y, THREAT, steps=steps, generator=torch.Generator().manual_seed(0))
    return ~verify(changed, x, y, z, THREAT).success


def main() -> None:
    """Make all heads, judge them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
    parser.add_argument("--model", type=Path, default=data / "models/mnist_lenet5_clntrained.pt")
    parser.add_argument("--train", type=int, default=2000, help="images that heads are tuned on")
    parser.add_argument("--n", type=int, default=300, help="test images, the first")
    parser.add_argument("--attacked", type=int, default=200, help="of these under PGD")
    parser.add_argument("--steps", type=int, default=600, help="of fine-tuning")
    parser.add_argument("--pgd-steps", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model, "lenet5")
    x, y = load_data("mnist", "train", n=args.train)
    z, t = load_data("mnist", "test", n=args.n)
    layer = last_layer(model)
    encoder = Encoder(model, next(name for name, part in root_of(model).named_modules() if part is layer) + INPUT)
    with torch.no_grad():
        read = batched(encoder, 250)
        e, f = read(x).double(), read(z).double()
    head = AffineHead(layer.weight.detach(), layer.bias.detach())
    few, table = slice(0, args.attacked), []
    for name, one in heads(head, e, y, args.steps).items():
        table.append(row(name, one, f, t, survivors(model, one, z[few], t[few], args.pgd_steps)))
        print(table[-1], flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]), "environment": Environment.here("cpu").model_dump(),
        "load": [round(v, 1) for v in os.getloadavg()], "n": args.n, "attacked": args.attacked, "train": args.train,
        "steps": args.steps, "pgd_steps": args.pgd_steps, "table": table,
    }  # fmt: skip
    if args.out:
        write_whole(args.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
