"""Feature inversion at equal median residual: ours, the study's one-image loop, and a batched PGD inversion.

    python benchmarks/inversion.py --model lenet5.pt --arch lenet5 --layer linear1 --n 64 --out inversion.json
    python benchmarks/inversion.py --train 6000 --n 64 --seeds 3 --out inversion.json

loop   one image after the other; steps of length .996^k along the gradient's direction, clamped; ends when the distance
       changes by less than .001, or after 100 steps; the last iterate (xziyue/robust_mnist_feature_py, 2019)
pgd    all images take all steps; steps of a fixed length along the gradient's direction, clamped; the best iterate (as
       MadryLab/robustness inverts). The length is the one that needs the fewest gradients on other images; their
       number is the least that reaches the residual on these, which no user would know; where no length does, the one
       that comes nearest takes --most steps
ours   `invert_features`, `tol` being the residual to be reached

All invert the same features, before the ReLU, of the same test images, from the same training images. Two residuals are
asked for: the median at which the loop ends, and .05, which the loop is left out of. Entrants take turns; seconds are
those of the processor (of the wall on a GPU), and the median over the rounds is reported, beside gradients per sample.
Each seed takes other images and other starts, and asks for the residual that the loop reaches on these. An entrant
whose median ends more than 2 % above it did not get there: no ratio is given, and a sentence says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled import __version__
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.data import load_data
from unfooled.features import Encoder, invert_features, last_features
from unfooled.models import MnistCnn, load_model
from unfooled.training import Batches, Standard, train

NEAR = 1.02
"""A median residual up to so many times the one that was asked for has reached it."""
LENGTHS = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0)
Entrant = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""(start, target) -> points, gradients per sample."""


def direction(encode: Encoder, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Distances, (B,), and the unit direction in which they grow."""
    z = z.detach().requires_grad_()
    distance = flat(encode(z) - target).norm(dim=1)
    (g,) = torch.autograd.grad(distance.sum(), z)
    return distance.detach(), g / per_sample(flat(g).norm(dim=1).clamp_min(1e-12), g)


def loop(encode: Encoder, steps: int = 100) -> Entrant:
    """The study's rule, one image after the other."""

    def run(start: Tensor, target: Tensor) -> tuple[Tensor, float]:
        found, gradients = [], 0
        for z, t in zip(start.split(1), target.split(1), strict=True):
            before = torch.tensor(torch.inf)
            for k in range(steps):
                distance, way = direction(encode, z, t)
                gradients += 1
                if bool((distance - before).abs() < 1e-3):
                    break
                before, z = distance, (z - 0.996**k * way).clamp(0, 1)
            found.append(z)
        return torch.cat(found), gradients / len(start)

    return run


def pgd(encode: Encoder, length: float, steps: int, batch: int) -> Entrant:
    """Fixed steps, all of them, by everybody; the best iterate."""

    def part(z: Tensor, t: Tensor) -> Tensor:
        best, least = z, torch.full((len(z),), torch.inf, device=z.device)
        for k in range(steps + 1):
            if k == steps:
                with torch.no_grad():
                    distance, way = flat(encode(z) - t).norm(dim=1), z
            else:
                distance, way = direction(encode, z, t)
            better = distance < least
            best, least = where_rows(better, z, best), torch.where(better, distance, least)
            z = (z - length * way).clamp(0, 1)
        return best

    def run(start: Tensor, target: Tensor) -> tuple[Tensor, float]:
        pairs = zip(start.split(batch), target.split(batch), strict=True)
        return torch.cat([part(z, t) for z, t in pairs]), float(steps)

    return run


def tuned(
    encode: Encoder,
    start: Tensor,
    target: Tensor,
    goals: list[float],
    most: int,
    lengths: Sequence[float] = LENGTHS,
) -> list[tuple[float, int]]:
    """For each residual the length and the number of steps that reach it, by the median, with the fewest gradients.

    Where no length does in `most` steps: the length whose median is the least then, and `most`.
    """
    size = flat(target).norm(dim=1)
    found: list[tuple[float, int] | None] = [None] * len(goals)
    nearest, left = lengths[0], float("inf")
    for length in lengths:
        z, least = start, torch.full((len(start),), torch.inf, device=start.device)
        for k in range(most + 1):
            distance, way = direction(encode, z, target)
            least = torch.minimum(least, distance / size)
            for i, goal in enumerate(goals):
                best = found[i]
                if float(least.median()) <= goal and (best is None or k < best[1]):
                    found[i] = (length, k)
            z = (z - length * way).clamp(0, 1)
        if float(least.median()) < left:
            nearest, left = length, float(least.median())
    return [(nearest, most) if best is None else best for best in found]


def ours(encode: Encoder, goal: float, batch: int) -> Entrant:
    """`invert_features`, until the residual is reached."""

    def run(start: Tensor, target: Tensor) -> tuple[Tensor, float]:
        found = invert_features(encode, target, start, tol=goal, steps=400, batch=batch)
        return found.x, float(found.gradients.float().mean())

    return run


def residual(encode: Encoder, z: Tensor, target: Tensor) -> float:
    """The median over the samples."""
    with torch.no_grad():
        return float((flat(encode(z) - target).norm(dim=1) / flat(target).norm(dim=1)).median())


def clock(device: str) -> float:
    """Seconds of the processor; of the wall where another device works."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def network(asked: argparse.Namespace) -> Classifier:
    """The one that was asked for, or the study's, barely trained."""
    if asked.model:
        return load_model(asked.model, asked.arch, asked.device)
    torch.manual_seed(0)
    model = Classifier(MnistCnn()).to(asked.device)
    data = load_data("mnist", "train", n=asked.train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in train(model, Batches(*data, 64), Standard(), optimizer, epochs=2):
        pass
    return model.eval()


def measured(encode: Encoder, seed: int, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """All entrants on the images and starts of one seed, taking turns."""
    x = load_data("mnist", "test", n=2 * asked.n, shuffle=seed > 0, seed=seed)[0].to(asked.device)
    start = load_data("mnist", "train", n=2 * asked.n, shuffle=True, seed=seed)[0].to(asked.device)
    with torch.no_grad():
        target = encode(x)
    mine, other = slice(0, asked.n), slice(asked.n, None)
    by_loop = residual(encode, loop(encode)(start[mine], target[mine])[0], target[mine])
    goals = [by_loop, 0.05]
    lengths = [length for length, _ in tuned(encode, start[other], target[other], goals, asked.most)]
    choices = [
        tuned(encode, start[mine], target[mine], [goal], asked.most, [length])[0]
        for goal, length in zip(goals, lengths, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    for i, (goal, (length, steps)) in enumerate(zip(goals, choices, strict=True)):
        entrants = {"ours": ours(encode, goal, asked.batch), "pgd": pgd(encode, length, steps, asked.batch)}
        if i == 0:
            entrants["loop"] = loop(encode)
        seconds: dict[str, list[float]] = {name: [] for name in entrants}
        told: dict[str, dict[str, Any]] = {}
        for _ in range(asked.rounds):
            for name, run in entrants.items():
                began = clock(asked.device)
                z, gradients = run(start[mine], target[mine])
                seconds[name].append(clock(asked.device) - began)
                told[name] = {"residual": residual(encode, z, target[mine]), "gradients": gradients}
        for name in entrants:
            rate = asked.n / statistics.median(seconds[name])
            row = {
                "seed": seed, "goal": goal, "entrant": name, "n": asked.n, "images_per_second": rate, **told[name],
                "seconds": seconds[name],
            }  # fmt: skip
            rows.append(row | ({"length": length, "steps": steps} if name == "pgd" else {}))
            print(
                f"seed {seed}  goal {goal:.3f}  {name:<5} {rate:8.2f} images/s  residual {row['residual']:.3f}  "
                f"gradients {row['gradients']:.1f}",
                flush=True,
            )
    return rows


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratios of each peer's seconds and gradients to ours, by seed and goal.

    None where one of the two did not reach the goal; `because` names it.
    """
    found = []
    for row in rows:
        if row["entrant"] == "ours":
            continue
        (own,) = [r for r in rows if (r["seed"], r["goal"], r["entrant"]) == (row["seed"], row["goal"], "ours")]
        late = [r for r in (own, row) if not r["residual"] <= NEAR * row["goal"]]
        found.append({
            "seed": row["seed"], "goal": row["goal"], "over": row["entrant"],
            "faster": None if late else own["images_per_second"] / row["images_per_second"],
            "fewer_gradients": None if late else row["gradients"] / own["gradients"],
            "because": "; ".join(
                f"{r['entrant']} ended at a median residual of {r['residual']:.3f}, {r['goal']:.3f} was asked for"
                for r in late
            ),
        })  # fmt: skip
    return found


def said(ratio: dict[str, Any]) -> str:
    """A ratio as a sentence."""
    head = f"seed {ratio['seed']}, goal {ratio['goal']:.3f}, over {ratio['over']}: "
    if ratio["because"]:
        return f"{head}no ratio, {ratio['because']}."
    return f"{head}{ratio['faster']:.2f} times as fast, {ratio['fewer_gradients']:.2f} times fewer gradients."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a network of MNIST; else the study's is trained on --train images")
    parser.add_argument("--arch")
    parser.add_argument("--layer")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--n", type=int, default=64, help="images inverted; as many others tune pgd")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1, help="of the images and the starts")
    parser.add_argument("--most", type=int, default=150, help="steps that pgd is tuned up to")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    model = network(asked)
    encode = Encoder(model, asked.layer or last_features(model))
    rows: list[dict[str, Any]] = []
    with frozen(encode):
        for seed in range(asked.seeds):
            rows += measured(encode, seed, asked)
    result = {
        "command": {k: str(v) for k, v in vars(asked).items() if k != "out"},
        "n": asked.n,
        "seeds": list(range(asked.seeds)),
        "rounds": asked.rounds,
        "device": torch.cuda.get_device_name() if asked.device != "cpu" else f"{platform.machine()}, CPU",
        "layer": encode.layer,
        "versions": {"unfooled": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "load": os.getloadavg(),
        "times": ratios(rows),
        "rows": rows,
    }
    for ratio in result["times"]:
        print(said(ratio), flush=True)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
