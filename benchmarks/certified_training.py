"""Networks for which proofs are worth having: MNIST at linf:0.3 and 0.1, in 15 minutes of two cores.

    python benchmarks/certified_training.py runs/certified --eps 0.3 --seed 0
    python benchmarks/certified_training.py runs/certified --out benchmarks/results/certified-training.json

Trains strided-cnn with the loss `ibp`: weights drawn for intervals, eps and kappa by a ramp after some clean training.
With --saturate 1 a fixed layer comes first, min(max((x - eps) / (1 - 2 eps), 0), 1), after which no allowed change is
left of a pixel that is black or white; it is part of the network that is certified. 5,000 training images are held out
for every choice; the test set is seen once, at the end: certified accuracy of all 10,000 images by `certify`, whose
proofs pass the second check, and accuracy of the first 1,000 under PGD and by `cascade`, all of them attacked.

--grow trains at a larger eps than that of the judgement, --average with a moving average of the weights, --shift on
images moved by up to so many pixels, --penalty 1 with a penalty on growing intervals while eps grows. A step of 128
images takes 43 ms of one thread, nearly all of it the four convolutions and two products of intervals themselves.

Resumes where it was stopped. Processor seconds and the load of the machine are recorded for each epoch. With --out the
runs in the folder and its subfolders are collected, with mean and standard deviation over seeds for each recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import cascade
from unfooled.attacks.pgd import pgd
from unfooled.certification import certify, interval_margins, penalised_margins
from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.data import load_dataset
from unfooled.evaluation.verify import verify
from unfooled.models import StridedCnn
from unfooled.statistics.intervals import share
from unfooled.training import Batches, Checkpoint, Ibp, Ramp, Stepping, initialise_for_intervals, train

HELD_OUT = 5000
DEFAULTS = {
    "width": 16, "saturate": 1, "epochs": 14, "wait": 0.5, "ramp": 5, "batch": 128, "lr": 2e-3, "clean": 0.0,
    "grow": 1.0, "average": 0.0, "shift": 0, "penalty": 0,
}  # fmt: skip


class Saturating(nn.Module):
    """A layer that cuts pixels off below eps and above 1 - eps, written with ReLUs so that intervals are exact.

    Args:
        eps: Width that is cut off at each end.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return min(max((x - eps) / (1 - 2 eps), 0), 1)."""
        return 1 - torch.relu(1 - torch.relu((x - self.eps) / (1 - 2 * self.eps)))


@dataclass(frozen=True)
class Shifted:
    """A loss on images that are moved by up to some pixels, each by its own number; 0 moves in.

    Attributes:
        base: Loss, called with the moved images.
        pixels: Largest number of pixels in each direction.
    """

    base: TrainingLoss
    pixels: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        k, (h, w) = self.pixels, x.shape[2:]
        wide = torch.nn.functional.pad(x, (k, k, k, k))
        top, left = torch.randint(2 * k + 1, (2, len(x), 1))
        rows, columns = top + torch.arange(h), left + torch.arange(w)
        moved = wide[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return self.base(model, moved.movedim(-1, 1), y)


def network(eps: float, recipe: dict[str, float]) -> nn.Module:
    """Return the network before training."""
    net = StridedCnn((1, 28, 28), 10, width=int(recipe["width"]))
    return nn.Sequential(Saturating(eps), net) if recipe["saturate"] else net


def trained(folder: Path, name: str, eps: float, seed: int, recipe: dict[str, float]) -> nn.Module:
    """Train a network, or go on training it; processor seconds of each epoch are appended to a file beside it."""
    data = load_dataset("mnist", split="train")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(2026))
    fit, held = order[HELD_OUT:], order[:HELD_OUT]
    model = network(eps, recipe)
    initialise_for_intervals(model, torch.Generator().manual_seed(seed))
    threat = Linf(eps)
    wider = Linf(eps * recipe["grow"])
    loss: TrainingLoss = Ramp(
        Ibp(wider, interval_margins, recipe["clean"], penalised_margins if recipe.get("penalty") else None),
        recipe["ramp"],
        recipe["wait"],
    )
    if recipe["shift"]:
        loss = Shifted(loss, int(recipe["shift"]))
    log, begin, epochs = folder / f"{name}.jsonl", time.process_time(), int(recipe["epochs"])
    for epoch in train(
        model,
        Batches(data.x[fit], data.y[fit], int(recipe["batch"]), seed),
        loss,
        torch.optim.Adam(model.parameters(), lr=recipe["lr"]),
        epochs=epochs,
        seed=seed,
        checkpoint=Checkpoint(folder / f"{name}.pt", {}, {"eps": eps, "seed": seed, **recipe}),
        held_out=(data.x[held], data.y[held]),
        stepping=Stepping(clip=5.0, average=recipe["average"]),
    ):
        seconds = time.process_time() - begin
        with torch.no_grad():
            margins = interval_margins(model.eval(), data.x[held], data.y[held], threat)
        row = {
            "epoch": epoch.index, "loss": epoch.loss, "validation": epoch.accuracy, "seconds": seconds,
            "validation_by_intervals": float((margins > 0).all(1).double().mean()), "load": os.getloadavg()[0],
        }  # fmt: skip
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        begin = time.process_time()
    return model.eval()


def judged(model: nn.Module, eps: float) -> dict[str, Any]:
    """Return clean, certified and attacked accuracy on the test set."""
    test, threat = load_dataset("mnist", split="test"), Linf(eps)
    with torch.no_grad():
        right = model(test.x).argmax(1) == test.y
    begin, proven = time.process_time(), []
    for part in torch.arange(len(test.x)).split(500):
        proven.append(certify(model, test.x[part], test.y[part], threat, effort="quick").certified)
        print(f"certified {int(torch.cat(proven).sum())} of {part[-1] + 1}", flush=True)
    seconds = time.process_time() - begin
    x, y, certified = test.x[:1000], test.y[:1000], torch.cat(proven)
    attacked = {}
    for attack, points in (("pgd_40", pgd(model, x, y, threat, steps=40)), ("cascade", cascade(model, x, y, threat))):
        attacked[attack] = right[:1000] & ~verify(model, x, y, points, threat).success
    conflicts = sum(int((certified[:1000] & ~resists).sum()) for resists in attacked.values())
    return {
        "clean": figure(right), "certified": figure(certified), "certifying_seconds": seconds,
        "certified_of_first_1000": figure(certified[:1000]),
        **{attack: figure(resists) for attack, resists in attacked.items()}, "certified_and_fooled": conflicts,
    }  # fmt: skip


def figure(values: Tensor) -> dict[str, float]:
    """Return a share with its interval."""
    s = share(values)
    return {"value": s.value or 0.0, "low": s.low, "high": s.high, "n": s.n}


def collected(folder: Path) -> dict[str, Any]:
    """Return the results of all runs in a folder and its subfolders, one for each recipe."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("**/*-[0-9]*.json"))]

    def kind(run: dict[str, Any]) -> str:
        recipe = run["recipe"]
        changed = [f"{name} {value:g}" for name, value in recipe.items() if value != DEFAULTS[name]]
        return ", ".join([f"eps {run['eps']:g}", *changed])

    groups = {}
    for each in sorted({kind(run) for run in runs}):
        values = torch.tensor([run["certified"]["value"] for run in runs if kind(run) == each], dtype=torch.float64)
        spread = float(values.std()) if len(values) > 1 else None
        groups[each] = {
            "certified_mean": float(values.mean()),
            "certified_sd": spread,
            "seeds": len(values),
        }
    return {
        "command": "python benchmarks/certified_training.py runs/certified/RECIPE --eps EPS --seed SEED",
        "environment": {"torch": torch.__version__, "machine": platform.machine(), "threads": 1},
        "over_seeds": groups,
        "runs": runs,
    }


def main() -> None:
    """Train and judge one network, or collect the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=float, default=float(value))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.out:
        options.out.write_text(json.dumps(collected(options.folder), indent=1) + "\n")
        return
    recipe = {name: getattr(options, name) for name in DEFAULTS}
    name = f"{options.eps:g}{'-saturating' if recipe['saturate'] else ''}-{options.seed}"
    model = trained(options.folder, name, options.eps, options.seed, recipe)
    epochs = [json.loads(line) for line in (options.folder / f"{name}.jsonl").read_text().splitlines()]
    result = {
        "eps": options.eps, "seed": options.seed, "recipe": recipe,
        "training_seconds": sum(e["seconds"] for e in epochs), "epochs": epochs, **judged(model, options.eps),
    }  # fmt: skip
    (options.folder / f"{name}.json").write_text(json.dumps(result) + "\n")
    print({k: v for k, v in result.items() if k != "epochs"})


if __name__ == "__main__":
    main()
