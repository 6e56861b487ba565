"""`unfooled lens`: scores of maps that were stored elsewhere, before and after a perturbation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import options
from unfooled.cli.command import CheckedCommand
from unfooled.cli.errors import Refused
from unfooled.data.known import existing_maps
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.evaluation.explanations.locality import Survival
    from unfooled.statistics.intervals import Mean

LISTS = ("--k", "--w")


class ListCommand(CheckedCommand):
    """A command that takes several numbers after one option: `--w 1 2 3` for `--w 1,2,3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers, then parse as usual."""
        return super().parse_args(ctx, joined(args))


def joined(arguments: list[str]) -> list[str]:
    """Join the numbers that follow --k and --w by commas; anything else ends the list."""
    words: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        number = re.fullmatch(r"\d+(,\d+)*,?", word) is not None
        if number and len(words) > 1 and words[-2] in LISTS and words[-1] not in LISTS:
            words[-1] = f"{words[-1].rstrip(',')},{word}"
        else:
            words += [option, value] if equals and option in LISTS else [word]
    return words


def lens(
    clean: Annotated[str, typer.Argument(help="Maps before: .npy, .npz or .safetensors; file.npz:name for one array.")],
    perturbed: Annotated[str, typer.Argument(help="Maps after, in the same order.")],
    k: Annotated[list[str], typer.Option("--k", help="Number of top pixels: 100, or several: --k 50 100.")],
    w: Annotated[
        list[str] | None, typer.Option("--w", help="Reach of the window, or several: --w 1 2 3; 1 if not given.")
    ] = None,
    diverse: Annotated[bool, typer.Option("--diverse", help="Score the diverse top k too.")] = False,
    reduce: Annotated[
        str | None,
        typer.Option(
            "--reduce", help=f"Reduction of channels to one map: {', '.join(catalog.REDUCTIONS)}; abs-sum if not given."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Folder or URL for lens.json and the page, report.html.")
    ] = None,
    max_bytes: options.BytesOpt = options.BYTES,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Score how much of a set of attribution maps survived, with the level of chance beside every score.

    For example:

        unfooled lens clean.npy perturbed.npy --k 1000 --w 1 2 3
    """
    ks, ws = numbers(k, "--k"), numbers(w or ["1"], "--w")
    if all([*ks, *ws]):  # else these are refused first
        existing_maps(clean)
        existing_maps(perturbed)
    from unfooled import workflows
    from unfooled.cli import show

    place = workflows.open_out(out, store_options, lasting=True)
    with show.stages(quiet or json) as progress:
        record = workflows.lens(
            clean, perturbed, k=ks, w=ws, diverse=diverse, reduce=reduce, out=place, seed=seed,
            limits=workflows.Limits(max_bytes=max_bytes),
            machine=workflows.Machine(device, threads, batch, None, workers, scheduler),
            command=options.command(), progress=progress,
        )  # fmt: skip
    if json:
        show.record(record)
    elif not quiet:
        print_tables(record.scores, record.warnings)
        if place is not None:
            show.page(place.place("report.html"))


def numbers(given: list[str], option: str) -> list[int]:
    """Read whole numbers from "1", "1,2" and repeated options, each once, in the order given."""
    words = [word for text in given for word in text.removesuffix(",").split(",")]
    if not all(re.fullmatch(r"\s*\d+\s*", word) for word in words):
        raise Refused(f"{option} is {' '.join(given)!r}; give whole numbers, {option} 1 2 3 or {option} 1,2,3")
    return list(dict.fromkeys(int(word) for word in words))


def print_tables(scores: Survival, warnings: list[str]) -> None:
    """Print one table for every k and w, one of rank correlations, and the warnings."""
    from rich.table import Table

    from unfooled.cli import show

    narrow = show.out.width < 100

    def mean(average: Mean, below: bool = narrow) -> str:
        """Write a mean with its interval, below it where there is no room beside."""
        if average.value is None:
            return "none"
        return show.mean(average).replace(" ", "\n", 1) if below else show.mean(average)

    for block in scores.blocks:
        table = Table(
            title=f"k = {block.k}, w = {block.w}   {scores.n} pairs of {scores.shape[0]} x {scores.shape[1]}, "
            f"{scores.undefined} undefined",
            title_justify="left", header_style="bold", box=None, padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False,
        )  # fmt: skip
        for heading in ("score", "dilated", "raw", "chance", "corrected", "n", "p", "p<.05"):
            table.add_column(heading, no_wrap=heading != "chance")
        for row in block.scores:
            colour = "yellow" if row.uninformative else ""
            level = show.number(row.chance.value) + (" too high" if row.uninformative else "")
            table.add_row(
                row.score, row.neutral.removesuffix("_dilated"), mean(row.raw),
                f"[{colour}]{level}" if colour else level, mean(row.corrected), str(row.raw.n),
                show.number(row.p, 3), percent(row.surprising),
            )  # fmt: skip
        show.out.print(table)
        show.out.print(
            f"[dim]zeros among the top k: {percent(block.zeros_clean.value)} clean, "
            f"{percent(block.zeros_perturbed.value)} perturbed"
            f"{diverse_counts(block.found_clean, block.found_perturbed)}\n"
        )
    ranks = Table(title="Rank correlations", title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("correlation", "mean", "n", "undefined"):
        ranks.add_column(heading)
    for one in scores.ranks:
        ranks.add_row(one.name, mean(one.value, below=False), str(one.value.n), str(one.undefined))
    show.out.print(ranks)
    show.out.print(
        "[dim]95 % bootstrap intervals in brackets; corrected = (raw - chance) / (1 - chance); p from all shifts of "
        "the map. The paper's LENS-recall dilates the clean set, its LENS-prec the perturbed one.",
        soft_wrap=True,
    )
    for warning in warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)


def diverse_counts(clean: Mean | None, perturbed: Mean | None) -> str:
    """Write how many diverse pixels the maps have on average."""
    from unfooled.cli import show

    if clean is None or perturbed is None:
        return ""
    return f"; diverse pixels found: {show.number(clean.value, 0)} clean, {show.number(perturbed.value, 0)} perturbed"


def percent(value: float | None) -> str:
    """Write a share in percent."""
    return "none" if value is None else f"{100 * value:.0f} %"
