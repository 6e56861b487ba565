"""Proofs beside the truth: every sample of a tiny network decided, and certified balls in which no point flips a label.

    python benchmarks/certification_truth.py --out benchmarks/results/certification-truth.json

The network with 20 ReLUs of the verification literature on the first 100 test images of MNIST at linf .01, .03, .05:
certified, fooled and open samples by `certify` at thorough effort, beside robust accuracy under the cascade; on the
first --exact images also the exact answer by a mixed integer program. Then 200 certified balls: --points random points
in each, half of them corners, and APGD; what flips a label is counted. Seconds are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.apgd import apgd
from unfooled.attacks.ensembles.cascade import cascade
from unfooled.certification import certify, exact_margins
from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.evaluation.verify import verify

SIZES = (0.01, 0.03, 0.05)
BALLS = 200
AT_ONCE = 20  # points of every ball at once


def tiny() -> nn.Module:
    """Return the network with 20 ReLUs."""
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "hard"
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
    model.load_state_dict(torch.load(folder / "mnist_2_20.pt", weights_only=True, map_location="cpu"))
    return model.eval().requires_grad_(False)


def decided(model: nn.Module, x: Tensor, y: Tensor, eps: float, exact: int) -> dict[str, Any]:
    """Return how many samples are certified, fooled and open, and what attack and exact answer say."""
    threat, begin = Linf(eps), time.process_time()
    right = model(x).argmax(1) == y
    proof = certify(model, x, y, threat, effort="thorough")
    seconds = time.process_time() - begin
    met = torch.tensor([k in proof.examples for k in range(len(x))])
    attacked = verify(model, x, y, cascade(model, x, y, threat), threat).success
    example = x.clone()
    for k, z in proof.examples.items():
        example[k] = z.reshape(x[k].shape)
    genuine = verify(model, x, y, example, threat).success | ~right
    truth = torch.tensor([a.value for a in exact_margins(model, x[:exact], y[:exact], threat)])
    return {
        "eps": eps, "n": len(x), "right": int(right.sum()), "certified": int(proof.certified.sum()),
        "fooled_by_bounds": int((met & right).sum()), "genuine": bool(genuine[met].all()),
        "open": int((right & ~met & ~proof.certified).sum()),
        "robust_under_cascade": int((right & ~attacked).sum()),
        "conflicts": int((proof.certified & attacked).sum()), "seconds": seconds,
        "exact_n": exact, "exact_agrees": bool(((truth > 0) == proof.certified[:exact]).all()),
        "largest_excess_over_exact": float((proof.lower[:exact] - truth).amax()) if exact else None,
    }  # fmt: skip


def flipped(model: nn.Module, x: Tensor, y: Tensor, threat: Linf, points: int) -> int:
    """Return the number of points inside certified balls that flip a label."""
    count = 0
    for draw in range(0, points, AT_ONCE):
        z = torch.cat([(threat.extreme if k % 2 else threat.sample)(x, draw + k) for k in range(AT_ONCE)])
        count += int((model(z).argmax(1) != y.repeat(AT_ONCE)).sum())
    return count + int((model(apgd(model, x, y, threat, steps=100)).argmax(1) != y).sum())


def main() -> None:
    """Decide, search, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exact", type=int, default=10)
    parser.add_argument("--points", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, test, load = tiny(), load_dataset("mnist", split="test"), os.getloadavg()[0]
    rows = []
    for eps in SIZES:
        rows.append(decided(model, test.x[:100], test.y[:100], eps, options.exact))
        print(rows[-1], flush=True)
    threat, x, y = Linf(0.03), test.x[:400], test.y[:400]
    sure = certify(model, x, y, threat, effort="thorough").certified.nonzero()[:BALLS, 0]
    balls = {"eps": 0.03, "balls": len(sure), "points_each": options.points}
    balls["flipped"] = flipped(model, x[sure], y[sure], threat, options.points)
    print(balls)
    found = {
        "command": "python benchmarks/certification_truth.py --out benchmarks/results/certification-truth.json",
        "environment": {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "load": load},
        "tiny": rows, "balls": balls,
    }  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
