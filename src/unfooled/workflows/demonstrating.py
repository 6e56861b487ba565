"""Demonstration on the embedded data: train a standard and a hardened network, audit both, and write the page."""

from __future__ import annotations

from pathlib import Path

from unfooled.evaluation.audit.records import Summary
from unfooled.report import render
from unfooled.runs.chunks import Progress
from unfooled.runs.stage_names import StageName, stage_name
from unfooled.training import Epoch
from unfooled.workflows.auditing import audit
from unfooled.workflows.inputs import Inputs
from unfooled.workflows.losses import LossOptions
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_folder
from unfooled.workflows.recipe import Recipe
from unfooled.workflows.training import train
from unfooled.workflows.words import at_least

THREAT = "linf:0.15"
NETWORKS = {
    "standard": ("standard", None, LossOptions(), 15),
    "hardened": ("madry", THREAT, LossOptions(attack_steps=5, ramp=0.0), 25),
}
"""Name -> loss, threat, options of the loss, epochs."""
TRAIN = StageName("train")
TITLE = "Handwritten digits: a standard and a hardened network"


def demo(
    out: str | Path = "runs/demo",
    *,
    n: int | None = None,
    seed: int = 0,
    machine: Machine = Machine("cpu", threads=1),  # noqa: B008  (frozen; more threads slow down images of 64 pixels)
    progress: Progress | None = None,
) -> list[Summary]:
    """Train a standard and a hardened network on handwritten digits, audit both, and write `report.html`.

    Args:
        out: Folder; a second start continues it.
        n: Number of test samples; None: all 540.
        seed: Random seed.
        machine: The device.
        progress: Called as `("NETWORK/STAGE", done, in all)`.

    Returns:
        The summaries of the two audits.
    """
    at_least("n", n, 1)
    out = check_folder(out)
    machine.prepare(seed)
    for name, (loss, threat, options, epochs) in NETWORKS.items():

        def trained(epoch: Epoch, name: str = name) -> None:
            if progress is not None:
                progress(TRAIN.within(name), epoch.index + 1, epoch.epochs)

        if progress is not None:
            progress(TRAIN.within(name), 0, epochs)
        train(
            "digits", loss, threat=threat, options=options, out=out / f"{name}.pt", seed=seed, machine=machine,
            recipe=Recipe(epochs=epochs, batch=64, lr=3e-3, watch=0), progress=trained,
        )  # fmt: skip
        if progress is not None:
            progress(TRAIN.within(name), epochs, epochs)
    summaries = []
    for name in NETWORKS:

        def staged(stage: str, done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(stage_name(stage).within(name), done, total)

        weights = out / f"{name}.pt"
        command = f"unfooled audit --model {weights} --data digits --threat {THREAT} --seed {seed} --out {out / name}"
        command += "" if n is None else f" --n {n}"
        command += "" if machine.device == "cpu" else f" --device {machine.device}"
        summaries.append(
            audit(
                Inputs(weights, n=n), THREAT, out=out / name, title=name, seed=seed, machine=machine, command=command,
                progress=staged,
            )
        )  # fmt: skip
    render([out / name for name in NETWORKS], out / "report.html", title=TITLE)
    return summaries
