"""Samples whose robustness is known from the literature: CNN-A-Adv on MNIST at linf:0.3, both ends of the verdict.

    python benchmarks/hard_instances.py published runs/cnn-a --seconds 15
    python benchmarks/hard_instances.py unsafe runs/unsafe --seconds 120
    python benchmarks/hard_instances.py published runs/cnn-a --seconds 15 --out benchmarks/results/hard-published.json

`published`: the 200 samples on which verifiers are compared; those that the cascade does not fool are certified by
branch and bound. `unsafe`: 20 samples of which a mixed integer program found adversarial examples that most gradient
attacks miss. Beside branch and bound runs a memetic search, into which the minimisers of open parts enter; it takes
.2 of the time for `published` and .9 for `unsafe`, and `verify` judges what it finds. The limit of a sample is in
processor seconds. Resumes where it was stopped; --out collects what is finished. Figures of the literature: Clip-and-
Verify, table 4 (beta-CROWN 71.0, BICCOS 76.0, attack 76.5 % of the 200, on GPUs).
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

from unfooled.attacks.ensembles.cascade import cascade
from unfooled.attacks.memetic import Hunt
from unfooled.certification import Effort, certify
from unfooled.certification.alpha import Steps
from unfooled.certification.branch import Limits
from unfooled.certification.certify import INNER
from unfooled.certification.proof import Level
from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.evaluation.verify import verify
from unfooled.statistics.intervals import share

SETS = {"published": "mnist_cnn_a_adv_sdp200.txt", "unsafe": "mnist_cnn_a_adv_unsafe.txt"}
THREAT = Linf(0.3)
SHARES = {"published": 0.2, "unsafe": 0.9}
"""Share of the time of branch and bound in which examples are searched for."""


def subject(name: str) -> tuple[nn.Module, Tensor, Tensor, list[int]]:
    """Return the network, and samples, labels and indices of a set."""
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "hard"
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    model.load_state_dict(torch.load(folder / "mnist_cnn_a_adv.pt", weights_only=True))
    rows = [int(word) for word in (folder / SETS[name]).read_text().split()]
    test = load_dataset("mnist", split="test")
    return model.eval(), test.x[rows], test.y[rows], rows


def decided(model: nn.Module, x: Tensor, y: Tensor, seconds: float, share_of_search: float) -> dict[str, Any]:
    """Decide one sample as far as the limit allows; the search for examples takes a share of the time."""
    begin, wall = time.process_time(), time.monotonic()
    with torch.no_grad():
        right = bool(model(x).argmax(1) == y)
    found: dict[str, Any] = {"right": right, "certified": False, "fooled": False, "by": None}
    if right:
        z = cascade(model, x, y, THREAT)
        if bool(verify(model, x, y, z, THREAT).success):
            found |= {"fooled": True, "by": "cascade"}
        else:
            effort = Effort("benchmark", Level.CROWN, Steps(20), Limits(seconds, clock=time.process_time), inner=INNER)
            hunt = Hunt(model, x, y, THREAT, share=share_of_search, clock=time.process_time)
            proof = certify(model, x, y, THREAT, effort=effort, find=hunt)
            found |= {"certified": bool(proof.certified), "lower": float(proof.lower)}
            if 0 in proof.examples:
                example = proof.examples[0].reshape(x.shape)
                found |= {"fooled": bool(verify(model, x, y, example, THREAT).success), "by": "branch and bound"}
            found["least_margin"] = None if found["fooled"] else hunt.least
    spent = {"seconds": time.process_time() - begin, "wall": time.monotonic() - wall, "load": os.getloadavg()[0]}
    return found | spent


def collected(folder: Path, name: str, indices: list[int], seconds: float) -> dict[str, Any]:
    """Return the figures over the samples that are finished."""
    rows = [json.loads(path.read_text()) for i in indices if (path := folder / f"{i}.json").exists()]

    def figure(field: str) -> dict[str, float]:
        s = share(torch.tensor([row[field] for row in rows]))
        return {"value": s.value or 0.0, "low": s.low, "high": s.high, "n": s.n}

    return {
        "command": f"python benchmarks/hard_instances.py {name} FOLDER --seconds {seconds:g}",
        "environment": {"torch": torch.__version__, "machine": platform.machine(), "threads": 1},
        "finished": len(rows), "of": len(indices),
        "clean": figure("right"), "certified": figure("certified"), "fooled": figure("fooled"),
        "fooled_by_branch_and_bound": sum(row["by"] == "branch and bound" for row in rows),
        "certified_and_fooled": sum(row["certified"] and row["fooled"] for row in rows),
        "processor_seconds": sum(row["seconds"] for row in rows), "samples": rows,
    }  # fmt: skip


def main() -> None:
    """Decide the samples that are not decided yet, or collect the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    model, x, y, indices = subject(options.set)
    if options.out:
        found = collected(options.folder, options.set, indices, options.seconds)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        return
    for k, index in enumerate(indices):
        path = options.folder / f"{index}.json"
        if path.exists():
            continue
        row = {"index": index, **decided(model, x[k : k + 1], y[k : k + 1], options.seconds, SHARES[options.set])}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(row))
        part.replace(path)
        print(row, flush=True)


if __name__ == "__main__":
    main()
