"""Proofs beside the truth: exact answers, the order of the methods, and balls in which no point flips a label.

    python benchmarks/certification_truth.py --out benchmarks/results/certification-truth.json

The network with 20 ReLUs of the verification literature on the first 100 test images of MNIST at linf .01, .03, .05:
certified, fooled and open samples by `certify` at thorough effort, beside robust accuracy under the cascade; on the
first --exact images also the exact answer by a mixed integer program. Then 200 certified balls: --points random points
in each, half of them corners, and APGD; what flips a label is counted. Seconds are of the processor, one thread.

Then five networks, each method from intervals to branch and bound on the first --n test images: how often a better
method gives a lower bound, how often a bound exceeds the margin of the cascade's points, how often a certified sample
is fooled, whether logits times .01 and 100 keep the certificates, and whether these pass the check again. Where at
most 50 ReLUs are of unknown sign, the exact smallest margin beside the bounds and the decision, and, of networks with
few inputs, proofs a little inside and outside of the exact distance to the nearest adversarial example. Four of the
networks are trained here, on the handwritten digits.
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
from unfooled.certification import Effort, certify, exact_distance, exact_margins, interval_margins
from unfooled.certification.alpha import Steps
from unfooled.certification.branch import Limits
from unfooled.certification.certify import INNER
from unfooled.certification.crown import crown_bounds, interval_bounds, undecided
from unfooled.certification.graph import trace
from unfooled.certification.proof import Level
from unfooled.certification.region import Region
from unfooled.core.losses import margin
from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.evaluation.verify import verify
from unfooled.models.architectures import build
from unfooled.training import Batches, Ibp, Ramp, Standard, initialise_for_intervals, train

SIZES = (0.01, 0.03, 0.05)
BALLS = 200
AT_ONCE = 20  # points of every ball at once
FEW = 50  # ReLUs of unknown sign up to which the exact answer is asked for
NARROW, MOST = 100, 0.1  # inputs up to which the exact distance is asked for, and how far it is looked for
BESIDE = 0.02  # share of the exact distance by which proofs are tried inside and outside of it
ROUNDING = 1e-5  # of float32, relative to the largest logit
LADDER = (
    Effort("intervals", Level.INTERVALS), Effort("CROWN-IBP", Level.CROWN_IBP), Effort("CROWN", Level.CROWN),
    Effort("alpha", Level.CROWN, Steps(20), inner=INNER),
    Effort("branch and bound", Level.CROWN, Steps(20), Limits(10.0, clock=time.process_time), inner=INNER),
)  # fmt: skip


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


class Residual(nn.Module):
    """A network with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        z = self.first(x.flatten(1)).relu()
        return self.last(z + self.inside(z).relu())


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor, float]]:
    """Return five networks, each with test samples, labels and a radius."""
    mnist, digits, test = load_dataset("mnist", "test"), load_dataset("digits", "train"), load_dataset("digits", "test")

    def wide(*after: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), *after)

    made: dict[str, tuple[nn.Module, float]] = {
        "two hidden layers": (wide(nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 10)), 0.05),
        "leaky ReLU": (wide(nn.LeakyReLU(0.1), nn.Linear(24, 10)), 0.1),
        "residual": (Residual(), 0.05),
        "convolutions, IBP": (build("strided-cnn", (1, 8, 8), 10, width=4), 0.05),
    }
    found = {"tiny": (tiny(), mnist.x, mnist.y, 0.03)}
    for name, (model, eps) in made.items():
        torch.manual_seed(0)
        loss: Any = Standard()
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.reset_parameters()
        if name.endswith("IBP"):
            initialise_for_intervals(model, torch.Generator().manual_seed(0))
            loss = Ramp(Ibp(Linf(eps), interval_margins, clean=0.5), 10, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in train(model, Batches(digits.x, digits.y, 64, 0), loss, optimizer, epochs=20):
            pass
        found[name] = model.eval().requires_grad_(False), test.x, test.y, eps
    return found


def ladder(model: nn.Module, x: Tensor, y: Tensor, eps: float, exact: int) -> dict[str, Any]:
    """Return how the bounds of all methods stand to each other, to attacks and to the exact answer."""
    begin, threat = time.process_time(), Linf(eps)
    logits = model(x)
    right = logits.argmax(1) == y
    x, y, slack = x[right], y[right], ROUNDING * logits[right].abs().amax(1)
    z = cascade(model, x, y, threat)
    fooled, above = verify(model, x, y, z, threat).success, -margin(model(z), y)
    proofs = [certify(model, x, y, threat, effort=effort) for effort in LADDER]
    lower = torch.stack([proof.lower.to(x) for proof in proofs])
    certified = torch.stack([proof.certified for proof in proofs])
    met = torch.tensor([k in proofs[-1].examples for k in range(len(x))])
    kept = [certify(lambda t, c=c: c * model(t), x, y, threat, effort=LADDER[3]).certified for c in (0.01, 100.0)]
    network = trace(model, x).network()
    unknown = undecided(crown_bounds(interval_bounds(network, Region.of(x, threat, torch.float32))))
    few = (unknown <= FEW).nonzero()[:exact, 0]
    truth = torch.tensor([a.value for a in exact_margins(model, x[few], y[few], threat)]).to(x)
    some = few if x[0].numel() <= NARROW else few[:0]
    found = exact_distance(model, x[some], y[some], most=MOST) if len(some) else []
    distance = torch.tensor([a.value for a in found])
    near, radii = some[distance.isfinite()], distance[distance.isfinite()]
    inside, outside = (
        certify(model, x[near], y[near], Linf((1 + side * BESIDE) * radii), effort=LADDER[-1]).certified
        if len(near)
        else torch.zeros(0, dtype=torch.bool)
        for side in (-1, 1)
    )
    return {
        "eps": eps, "n": len(x), "unknown_relus_most": int(unknown.amax()), "methods": [e.name for e in LADDER],
        "mean_lower": lower.mean(1).tolist(), "certified": certified.sum(1).tolist(),
        "bound_falls": int((lower[1:] < lower[:-1] - slack).sum()),
        "certificate_lost": int((certified[:-1] & ~certified[1:]).sum()),
        "above_the_attack": int((lower > above + slack).sum()),
        "certified_and_fooled": int((certified & fooled).sum()),
        "open": int((~certified[-1] & ~fooled & ~met).sum()),
        "changed_by_scale": sum(int((c != certified[3]).sum()) for c in kept),
        "check_fails": sum(int((p.check(model, x, y) != p.certified).sum()) for p in proofs),
        "exact_n": len(few), "above_the_exact": int((lower[:, few] > truth + slack[few]).sum()),
        "decided_otherwise": int((certified[-1][few] != (truth > 0)).sum()),
        "distance_n": len(near), "not_proven_inside": int((~inside).sum()), "proven_outside": int(outside.sum()),
        "seconds": time.process_time() - begin,
    }  # fmt: skip


def main() -> None:
    """Decide, search, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exact", type=int, default=10)
    parser.add_argument("--n", type=int, default=30)
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
    ladders = {}
    for name, (net, images, labels, eps) in networks().items():
        ladders[name] = ladder(net, images[: options.n], labels[: options.n], eps, options.exact)
        print(name, ladders[name], flush=True)
    found = {
        "command": "python benchmarks/certification_truth.py --out benchmarks/results/certification-truth.json",
        "environment": {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "load": load},
        "tiny": rows, "balls": balls, "networks": ladders,
    }  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
