"""`unfooled demo`: the main job on the embedded data, in under three minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.losses import make_loss

THREAT = "linf:0.15"
COMMON = {
    "data": "digits", "arch": "small-cnn", "batch": 64, "weight_decay": 1e-4, "augment": False, "n": None, "size": None,
    "start": None, "mean": None, "std": None,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "standard": {"loss": "standard", "threat": None, "steps": None, "epochs": 15, "lr": 3e-3},
    "hardened": {"loss": "madry", "threat": THREAT, "steps": 5, "epochs": 25, "lr": 3e-3},
}


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder; a second start continues it.")] = Path("runs/demo"),
    n: Annotated[int | None, typer.Option("--n", help="Test samples; all 540 if not given.")] = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "cpu",
    threads: options.ThreadsOpt = 1,  # tensors of 64 pixels are slower on more
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Train a standard and a hardened network on handwritten digits, audit both, and write the page.

    The data are the 8 x 8 scans that come with scikit-learn; nothing is downloaded.
    """
    where = options.machine(device, threads, seed=seed)
    from unfooled.cli import audit, show, train
    from unfooled.report import render

    summaries, folders = [], []
    with show.bars(quiet or json) as progress:
        for name, choice in NETWORKS.items():
            objective = make_loss(choice["loss"], choice["threat"], choice["steps"], 6.0)
            settings = COMMON | {k: choice[k] for k in ("epochs", "lr")} | {"seed": seed, "loss": str(objective)}
            task = progress.add_task(f"train {name}", total=choice["epochs"])
            for epoch in train.run(objective, settings, out / f"{name}.pt", where):
                progress.update(task, completed=epoch.index + 1)
            progress.update(task, completed=choice["epochs"])
    for name in NETWORKS:
        weights = out / f"{name}.pt"
        given = options.load(
            model=str(weights), arch=None, data="digits", split="test", n=n, shuffle=False, seed=seed, mean=None,
            std=None, size=None, labels=None, device=where,
        )  # fmt: skip
        command = f"unfooled audit --model {weights} --data digits --threat {THREAT} --seed {seed} --out {out / name}"
        command += "" if n is None else f" --n {n}"
        command += "" if device == "cpu" else f" --device {device}"
        about = {"model": str(weights), "data": "digits", "title": name, "prefix": f"{name}: ", "command": command}
        folders.append(out / name)
        summaries.append(
            audit.judge(given, catalog.threat(THREAT), out=out / name, about=about, seed=seed, quiet=quiet or json)
        )
    page = render(folders, out / "report.html", title="Handwritten digits: a standard and a hardened network")
    if json:
        import json as lib

        typer.echo(lib.dumps([s.model_dump(mode="json") for s in summaries], indent=2))
    elif not quiet:
        show.summaries(summaries)
        show.out.print(f"page: {page}", soft_wrap=True)
