"""Cost and use of the proofs of little effort in an audit: passes and processor seconds with and without them.

    python benchmarks/certify_quick.py --out benchmarks/results/certify-quick.json

Two networks for the handwritten digits, one trained with `ibp` and one with clean samples alone, are audited twice each
at linf:0.05: with `--certify quick` and with `--certify off`. Both ends, the verdict, the passes and the processor
seconds of both audits are recorded, and the share of the second ones that is spent on proofs. Audits that are in the
file already are not run again. With --mnist FOLDER also the networks that `certified_training.py` left in a folder, at
the radius of their training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.certification import interval_margins
from unfooled.core.threats import Linf
from unfooled.core.types import TrainingLoss
from unfooled.data import load_dataset
from unfooled.evaluation.audit import Plan, attacked_label, proofs, stages
from unfooled.models.architectures import build
from unfooled.training import Batches, Ibp, Ramp, Standard, initialise_for_intervals, train

EPS, EPOCHS = 0.05, 30


def trained(loss: TrainingLoss, x: Tensor, y: Tensor) -> nn.Module:
    """Train a small network."""
    torch.manual_seed(0)
    model = build("strided-cnn", (1, 8, 8), 10, width=8)
    if isinstance(loss, Ramp):
        initialise_for_intervals(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in train(model, Batches(x, y, 64, 0), loss, optimizer, epochs=EPOCHS):
        pass
    return model.eval()


@contextmanager
def clocked(seconds: list[float]) -> Iterator[None]:
    """Add the processor seconds of all proofs of an audit to a list."""
    places = ((attacked_label, "prover_of"), (stages, "proven_reach"), (proofs.Prover, "__call__"))
    originals = [getattr(place, name) for place, name in places]

    def clock(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = original(*args, **kwargs)
            seconds.append(time.process_time() - begin)
            return result

        return call

    for (place, name), original in zip(places, originals, strict=True):
        setattr(place, name, clock(original))
    try:
        yield
    finally:
        for (place, name), original in zip(places, originals, strict=True):
            setattr(place, name, original)


def audited(model: nn.Module, x: Tensor, y: Tensor, certify: str | None, eps: float) -> dict[str, Any]:
    """Return the figures of one audit."""
    spent: list[float] = []
    begin = time.process_time()
    with clocked(spent):
        summary = uf.audit(model, x, y, Linf(eps), plan=Plan(certify=certify))
    seconds = time.process_time() - begin
    proven = summary.certified_accuracy
    return {
        "certify": certify or "off", "clean": summary.clean_accuracy.value, "robust": summary.robust_accuracy.value,
        "certified": None if proven is None else proven.value, "verdict": summary.verdict,
        "passes": round(summary.passes.forward + summary.passes.backward, 1), "seconds": seconds,
        "seconds_of_proofs": sum(spent), "share_of_proofs": sum(spent) / seconds, "load": os.getloadavg()[0],
    }  # fmt: skip


def networks(mnist: Path | None) -> Iterator[tuple[str, str, float, Callable[[], nn.Module]]]:
    """Return name, data set, radius and training of the networks."""
    fit = load_dataset("digits", split="train")
    losses: dict[str, TrainingLoss] = {
        "ibp": Ramp(Ibp(Linf(EPS), interval_margins, clean=0.5), 15, 3),
        "standard": Standard(),
    }
    for name, loss in losses.items():
        yield name, "digits", EPS, partial(trained, loss, fit.x, fit.y)
    for file in sorted(mnist.glob("*-[0-9]*.json")) if mnist else ():
        run = json.loads(file.read_text())
        again = partial(import_module("certified_training").trained, file.parent, file.stem)
        yield f"mnist, {file.stem}", "mnist", run["eps"], partial(again, run["eps"], run["seed"], run["recipe"])


def main() -> None:
    """Train and audit the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--mnist", type=Path, help="folder of certified_training.py")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.out.read_text())["audits"] if options.out and options.out.exists() else []
    for name, source, eps, make in networks(options.mnist):
        model, test = None, load_dataset(source, split="test", n=options.n)
        for certify in (None, "quick"):
            if any((row["network"], row["n"], row["certify"]) == (name, options.n, certify or "off") for row in rows):
                continue
            model = model or make()
            row = {"network": name, "n": options.n, "eps": eps, **audited(model, test.x, test.y, certify, eps)}
            print(row, flush=True)
            rows.append(row)
            if options.out:
                environment = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1}
                result = {
                    "command": "python benchmarks/certify_quick.py --out benchmarks/results/certify-quick.json"
                    + " --mnist runs/certified/RECIPE" * (options.mnist is not None),
                    "environment": environment, "audits": rows,
                }  # fmt: skip
                options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
