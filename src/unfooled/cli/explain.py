"""`unfooled explain`: attribution maps as arrays and as a picture; with --threat also the maps under attack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.errors import Refused, as_flag
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.workflows import MapAttack
    from unfooled.workflows.map_attack import MapAttackRecord

SCORES = {"lens": "LENS", "top_k": "top k kept", "kendall": "Kendall's tau-b"}
METHODS = {"attack": "attack", "best_of_n": "best of N", "random": "one random"}
QUANTITIES = {"center": "pixels that the centre moved", "region": "share of the mass in the region"}
"""Objective that is no similarity of maps -> the quantity it maximises; larger is a stronger attack."""


def explain(
    model: options.ModelOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    method: Annotated[
        str, typer.Option("--method", help=f"Explanation: {', '.join(catalog.EXPLANATIONS)}.")
    ] = "integrated-gradients",
    of: Annotated[str, typer.Option("--of", help="Class that is explained: label or prediction.")] = "label",
    out: Annotated[
        str, typer.Option("--out", help="Folder or URL for maps.npz, maps.png and report.html.")
    ] = "explanations",
    threat: Annotated[
        str | None,
        typer.Option("--threat", help="Threat model of an attack on the maps that keeps the label: linf:8/255, ..."),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", help=f"Objective of the attack: {', '.join(catalog.OBJECTIVES)}; lens if not given."),
    ] = None,
    region: Annotated[
        Path | None,
        typer.Option("--region", help="Region for --attack region: white on a grey image, or a .npy, (H, W)."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Gradients per restart of the attack; 50 if not given.")
    ] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", help="Random starts of the attack; 2 if not given.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Number of top pixels; a tenth of all if not given.")] = None,
    w: Annotated[int | None, typer.Option("--w", help="Reach of LENS in pixels; 1 if not given.")] = None,
    n: options.NOpt = 8,
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    label: options.LabelOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain the model's decision on each sample: an attribution for every input value.

    --data may also be one image, or a folder of images without labels; then predictions are explained. With --threat
    the maps are attacked, the label kept, and scored beside chance:

        unfooled explain --model net.pt --data picture.png --method saliency --threat linf:4/255
    """
    check_sources(model)
    from unfooled import workflows
    from unfooled.cli import show

    map_attack = read_attack(attack, threat, steps, restarts, k, w, region)
    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, n, shuffle, mean, std, size, labels, channels, trust_pickle, limits,
        label=label,
    )  # fmt: skip
    place = workflows.open_out(out, store_options, lasting=True) or out
    with show.stages(quiet or json) as progress:
        record = workflows.explain(
            inputs, method=method, of=of, attack=map_attack, out=place, seed=seed,
            machine=workflows.Machine(device, threads, None, None, workers, scheduler), progress=progress,
        )  # fmt: skip
    if json:
        show.record(record)
    elif not quiet:
        if record.attack is not None:
            print_attack(record.attack)
        if record.undefined:
            show.out.print(f"[yellow]{record.undefined} of {record.n} maps are undefined: NaN or infinite")
        for file in record.files:
            show.out.print(show.plain(file), soft_wrap=True)


def read_attack(
    attack: str | None,
    threat: str | None,
    steps: int | None,
    restarts: int | None,
    k: int | None,
    w: int | None,
    region: Path | None,
) -> MapAttack | None:
    """Read the options of the attack; None where no attack is given. `--threat` alone means `--attack lens`.

    Raises:
        Refused: Options of the attack without a threat.
    """
    from unfooled.workflows import MapAttack
    from unfooled.workflows.words import choose

    options_ = {"attack": attack, "region": region, "steps": steps, "restarts": restarts, "k": k, "w": w}
    given = {name: value for name, value in options_.items() if value is not None}
    if attack is not None:
        choose(catalog.OBJECTIVES, attack, "objective")
    if threat is not None:
        return MapAttack(threat, **given)  # type: ignore[arg-type]
    if given:
        flag = as_flag(next(iter(given)))
        raise Refused(f"{flag} belongs to the attack on the maps, which needs a threat model: give --threat linf:8/255")
    return None


def print_attack(record: MapAttackRecord) -> None:
    """Print one row per score with its chance level, the objective's own quantity, and the counts of failures."""
    from rich.table import Table

    from unfooled.cli import show

    table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("score", "chance", *METHODS.values()):
        table.add_column(heading, no_wrap=True)
    for name, label in SCORES.items():
        score = record.scores[name]
        table.add_row(label, *(show.number(score[what]) for what in ("chance", *METHODS)))
        if name != "kendall":
            table.add_row(
                "  corrected", "0.00", *(show.number(score[f"{method}_corrected"]) for method in METHODS), style="bold"
            )
    show.out.print(table)
    if record.aim:
        values = {"before": "before", **METHODS}
        quantities = ", ".join(f"{label} {show.number(record.aim[name])}" for name, label in values.items())
        show.out.print(f"{QUANTITIES[record.decides]}: {quantities}", soft_wrap=True)
    counted = ", ".join(f"{n} {status}" for status, n in record.counts["attack"].items() if n)
    show.out.print(
        f"[dim]{counted}; k = {record.k}, w = {record.w}, N = {record.random_points} random points. Means are "
        "over the attacked samples; 1: the map did not move, corrected 0: the score of an unrelated map. A failed "
        "attack does not show robustness.",
        soft_wrap=True,
    )
    if warning := score_caution(record):
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)


def score_caution(record: MapAttackRecord) -> str:
    """Return a caution about the scores; empty where there is none."""
    from unfooled.cli import show
    from unfooled.evaluation.explanations.locality import MAX_CHANCE

    lens = record.scores["lens"]
    attack, best_of_n = lens["attack_corrected"], lens["best_of_n_corrected"]
    if (lens["chance"] or 0) > MAX_CHANCE:
        level = show.number(lens["chance"])
        return f"Unrelated maps would score {level} in LENS here, so the score is uninformative; lower --w or --k."
    if attack is not None and best_of_n is not None and attack >= best_of_n:
        return "Random points moved LENS as far as the attack: try more --steps or another --attack."
    return ""
