"""`unfooled features`: rebuild a data set from what a network sees."""

from __future__ import annotations

import json as lib
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused

MOVED = ("d-rand", "d-det")


def features(
    model: options.ModelOpt,
    out: Annotated[
        Path, typer.Option("--out", help="An .npz that --data reads, or a folder of images; a second start continues.")
    ],
    kind: Annotated[str, typer.Option("--kind", help=f"{', '.join(catalog.FEATURES)}.")] = "robust",
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer", help="Inverted is its output, of NAME:input its input. The linear one before the last."
        ),
    ] = None,
    relu: Annotated[
        bool, typer.Option("--relu", help="Rectify the features, as the MNIST study's source does.")
    ] = False,
    threat: Annotated[
        str | None,
        typer.Option("--threat", help="Where images may be moved; d-rand and d-det need one, such as l2:1.5."),
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="images, noise or grey (robust, non-robust).")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Gradients an image at most.")] = 100,
    tol: Annotated[
        float | None, typer.Option("--tol", help="Residual at which an image is done (robust, non-robust): 0.05.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Keep bright strokes alone, at least 2 pixels thick.")] = False,
    n: options.NOpt = None,
    split: options.SplitOpt = "train",
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    shard: Annotated[int, typer.Option("--shard", help="Images a file of what is kept until all are made.")] = 500,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again; do not continue --out.")] = False,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Rebuild a data set from what a network sees, and train another on it.

    For example, images that look to a hardened network as the digits do, and are otherwise something else:

        unfooled features --model runs/hardened.pt --data digits --kind robust --out runs/robust.npz

        unfooled train --data runs/robust.npz --out runs/retrained.pt

    The work is kept beside --out, in a folder that ends in .parts, until --out is whole; the same command in several
    terminals shares it.
    """
    make = catalog.choose(catalog.FEATURES, kind, "kind")
    allowed = check(kind, threat, layer=layer, relu=relu, start=start, tol=tol, steps=steps)
    if shard < 1:
        raise Refused(f"--shard is {shard}; it must be at least 1")
    where = options.machine(device, threads, seed=seed, batch=batch)
    parts = out.parent / (out.name + ".parts")
    refuse_other(out, parts)
    discard = catalog.resolve("runs.folder:discard")
    if fresh and not discard(parts):
        raise Refused(f"another process works in {parts}; wait for it, or choose another --out")
    given = options.load(
        model=model, arch=arch, data=data, split=split, n=n, shuffle=False, seed=seed, mean=mean, std=std, size=size,
        labels=labels, device=where,
    )  # fmt: skip
    from unfooled.cli import show
    from unfooled.data.formats.feature_sets import load_features, manifest_of, save_features, stored

    # What was finished has no parts; they are continued where there are some, whatever --out holds.
    done = None if fresh or working(parts) or not stored(out) else load_features(out)
    from unfooled.features.making import Search, Storage

    more: dict[str, Any] = {}
    if clean:
        more["clean"] = partial(catalog.resolve("features.cleaning:open_mask"), threshold=0.3, size=2)
    if kind in MOVED:
        from unfooled.attacks.pgd import pgd

        subject: Any = given.model
        more |= {"threat": allowed, "attack": partial(pgd, steps=steps, stop=False, batch=batch)}
    else:
        from unfooled.features.inversion import Encoder, last_features

        subject = Encoder(given.model, layer or last_features(given.model), relu)
        given_search = {k: v for k, v in {"tol": tol, "threat": allowed}.items() if v is not None}
        more["search"] = Search(steps=steps, batch=batch, **given_search)
        more |= {"start": start} if start is not None else {}
    with show.stages(quiet or json) as progress:
        found = catalog.resolve(make)(
            subject, given.x, given.y, seed=seed, classes=given.classes, storage=Storage(parts, shard, done),
            progress=progress, **more,
        )  # fmt: skip
    if found is not done:
        asked = {"model": model, "from": {"data": data, "n": len(given.x), **given.options}, "warnings": given.warnings}
        with catalog.resolve("runs.folder:saving")(parts):
            found = save_features(out, found, asked)
    discard(parts)
    record = {**found.manifest, "out": str(out), "manifest": str(manifest_of(out))}
    if json:
        typer.echo(lib.dumps(record, indent=2))
    elif not quiet:
        tell(record, kind)


def check(kind: str, threat: str | None, *, steps: int, **given: Any) -> Any:
    """The threat, where there is one; refuse options that the kind does not take.

    Raises:
        Refused: names the option.
    """
    if kind in MOVED:
        if threat is None:
            raise Refused(f"--kind {kind} moves images inside a threat: give one, such as --threat l2:1.5")
        for option, value in given.items():
            if value not in (None, False):
                raise Refused(f"--kind {kind} takes no --{option}; leave it out, or choose robust or non-robust")
    if steps < 1 or (given.get("tol") is not None and not 0 <= given["tol"] < 1):
        raise Refused(f"--steps is {steps}, --tol {given.get('tol')}; they must be at least 1, and in [0, 1)")
    return None if threat is None else catalog.threat(threat)


def working(parts: Path) -> bool:
    """Whether work is there that can be continued."""
    return bool(catalog.resolve("runs.folder:started")(parts))


def refuse_other(out: Path, parts: Path) -> None:
    """Refuse to write over what this command did not write: at --out, or where its manifest goes.

    Raises:
        Refused: there is such a thing.
    """
    from unfooled.data.formats.feature_sets import check_place, stored

    if not out.name:
        raise Refused(f"--out is {str(out)!r}; name an .npz or a folder")
    if out.suffix == ".npz" and out.is_dir():
        raise Refused(f"{out} is a folder; name a file, or a folder without .npz")
    check_place(out)
    if not out.exists() or stored(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not working(parts):  # else a kill left it without its manifest
        raise Refused(f"{out} exists and is no result of this command; choose another --out")


def tell(record: dict[str, Any], kind: str) -> None:
    """A few lines on stdout."""
    from unfooled.cli import show

    stored = record["residual"]["stored"]
    said = "margin over the target" if kind in MOVED else "residual"
    show.out.print(f"{said}, median {stored['0.5']:.3f}, 95 % below {stored['0.95']:.3f}")
    show.out.print(f"{'target reached' if kind in MOVED else 'done early'}  {100 * record['reached']:.1f} %")
    show.out.print(f"{record['out']}: {record['n']} samples", soft_wrap=True)
    for warning in record["warnings"]:
        show.out.print(f"[yellow]{warning}", soft_wrap=True)
