"""`unfooled attack`: adversarial examples as a file."""

from __future__ import annotations

import io
import json as lib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from unfooled.core.threats import Threat


def attack(
    model: options.ModelOpt,
    threat: options.ThreatOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    out: Annotated[Path, typer.Option("--out", help="An .npz that --data reads: x, y, clean_x, success.")] = Path(
        "adversarial.npz"
    ),
    attack: Annotated[str, typer.Option("--attack", help=f"{', '.join(catalog.ATTACKS)}.")] = "apgd-margin",
    steps: Annotated[int | None, typer.Option("--steps", help="Gradients a restart, or queries.")] = None,
    restarts: Annotated[int, typer.Option("--restarts", help="Random starts.")] = 1,
    n: options.NOpt = options.MOST,
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Attack a model and keep what was found, each point judged by `verify`."""
    allowed = catalog.threat(threat)
    catalog.attack(attack, steps=steps, restarts=restarts)
    where = options.machine(device, threads, seed=seed, batch=batch)
    given = options.load(
        model=model, arch=arch, data=data, split=split, n=n, shuffle=shuffle, seed=seed, mean=mean, std=std, size=size,
        labels=labels, device=where,
    )  # fmt: skip
    out = out if out.suffix == ".npz" else out.with_name(out.name + ".npz")
    asked = {
        "model": model, "data": data, "n": len(given.x), "threat": threat, "attack": attack, "steps": steps,
        "restarts": restarts, "seed": seed, **{k: v for k, v in given.options.items() if v is not None},
    }  # fmt: skip
    refuse_other(out, asked)
    record = search(given, allowed, asked, out, batch=batch, quiet=quiet or json)
    if json:
        typer.echo(lib.dumps(record, indent=2))
    elif not quiet:
        from unfooled.cli import show
        from unfooled.statistics.intervals import Estimate

        show.out.print(f"clean accuracy   {show.percent(Estimate(**record['clean_accuracy']))}")
        show.out.print(f"robust accuracy  {show.percent(Estimate(**record['robust_accuracy']))} at most")
        show.out.print(f"{out}: {record['n']} samples", soft_wrap=True)
        for warning in record["warnings"]:
            show.out.print(f"[yellow]{warning}", soft_wrap=True)


def search(
    given: options.Inputs, allowed: Threat, asked: dict[str, Any], out: Path, *, batch: int | None, quiet: bool
) -> dict[str, Any]:
    """Attack chunk by chunk, judge, write the file, and return what is to be told."""
    import numpy as np
    import torch

    from unfooled.cli import show
    from unfooled.core.model.batching import fitting_batch
    from unfooled.core.model.modes import counted
    from unfooled.evaluation.checks.subject import inspect_model
    from unfooled.evaluation.verify import verify
    from unfooled.runs.files import write_whole
    from unfooled.statistics import intervals

    x, y, found = given.x, given.y, []
    subject = inspect_model(given.model, x, y)
    batch = batch or fitting_batch(subject.model, x)
    run, said = catalog.attack(asked["attack"], steps=asked["steps"], restarts=asked["restarts"], batch=batch)
    with show.bars(quiet) as progress, counted(subject.model) as model:
        for part in progress.track(torch.arange(len(x)).split(100), description=said):
            source = torch.Generator().manual_seed(asked["seed"])
            found.append(run(model, x[part], y[part], allowed, generator=source))
    x_adv, draws = torch.cat(found), 20 if subject.random else 1
    verdict = verify(subject.model, x, y, x_adv, allowed, draws=draws)
    clean = verify(subject.model, x, y, x, allowed, draws=draws)
    arrays = {"x": x_adv, "y": y, "clean_x": x, "success": verdict.success, "distance": verdict.distance}
    kept = {k: v.cpu().numpy() for k, v in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, asked=np.array(lib.dumps(asked)), **kept)
    write_whole(out, buffer.getvalue())
    return {
        **{k: asked[k] for k in ("model", "data", "n", "threat", "seed")},
        "attack": said,
        "clean_accuracy": intervals.share(~clean.success.cpu()).model_dump(),
        "robust_accuracy": intervals.share(~verdict.success.cpu()).model_dump(),
        "passes": {"forward": model.forwards / len(x), "backward": model.backwards / len(x)},
        "warnings": [*given.warnings, *subject.warnings],
        "out": str(out),
    }


def refuse_other(out: Path, asked: dict[str, Any]) -> None:
    """Refuse to write over the result of another question.

    Raises:
        Refused: names what differs, or says that the file is none of ours.
    """
    if not out.exists():
        return
    import numpy as np

    try:
        with np.load(out, allow_pickle=False) as found:
            before = lib.loads(str(found["asked"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise Refused(f"{out} exists and is no result of this command; choose another --out") from None
    changed = [k for k in sorted({*before, *asked}) if before.get(k) != asked.get(k)]
    if changed:
        k = changed[0]
        raise Refused(
            f"{out} holds another attack: {k} was {before.get(k)!r}, now it is {asked.get(k)!r}; choose another --out"
        )
