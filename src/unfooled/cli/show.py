"""Output of the command: progress on stderr, tables on stdout."""

from __future__ import annotations

import json as lib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from unfooled.cli import progress
from unfooled.cli.errors import ClosedOutput
from unfooled.cli.progress import Stages
from unfooled.cli.words import plain, stage_description
from unfooled.core.errors import printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from unfooled.evaluation.audit.records import Summary
    from unfooled.runs.share_records import Share
    from unfooled.statistics.intervals import Estimate, Mean


class Terminal(Console):
    """A console whose output pipe may be closed early (`| head`), and that prints text such as `:v:` as it is."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Raise ClosedOutput, which `guarded` turns into a quiet exit."""
        raise ClosedOutput


__all__ = ["plain", "stage_description"]

out = Terminal()
err = Terminal(stderr=True)


COLOURS = {"SOUND": "green", "EXTENDED": "green", "OVERSTATED": "bold red", "NOT EVALUABLE": "bold red"}


def stages(quiet: bool, *, answers: bool = False) -> AbstractContextManager[Stages]:
    """Return a context that yields a callback for the progress of a workflow, which shows early answers if wanted."""
    return progress.stages(quiet, err, answers=answers)


def percent(estimate: Estimate) -> str:
    """Format a share: 91.2 % [89.3, 92.9]."""
    if estimate.value is None:
        return "not available"
    return f"{100 * estimate.value:.1f} % [dim]\\[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}][/dim]"


def mean(average: Mean, unit: str = "", digits: int = 2) -> str:
    """Format a mean: 0.42 [0.38, 0.47] unit."""
    if average.value is None:
        return "not available"
    if average.low is None or average.high is None:  # a single sample has no interval
        return f"{average.value:.{digits}f} {unit}".rstrip()
    return (
        f"{average.value:.{digits}f} [dim]\\[{average.low:.{digits}f}, {average.high:.{digits}f}][/dim] {unit}".rstrip()
    )


def robust(run: Summary) -> str:
    """Format robust accuracy, or say why it is not stated."""
    missing = run.guard.not_stated if run.guard is not None else ""
    return missing or percent(run.robust_accuracy)


def certified(run: Summary) -> str:
    """Format certified accuracy, or say that nothing was certified."""
    return "not certified" if run.certified_accuracy is None else percent(run.certified_accuracy)


def add_proofs(table: Table, runs: Sequence[Summary]) -> None:
    """Add what was proven to a table of runs, if anything was certified."""
    if any(r.certified_accuracy is not None for r in runs):
        table.add_row("[bold]robust accuracy, at least (proven)", *(f"[bold]{certified(r)}" for r in runs))
        table.add_row("open, neither proven nor broken", *(open_share(r) for r in runs))


def add_smoothed(table: Table, runs: Sequence[Summary]) -> None:
    """Add what the smoothed classifier proves to a table of runs, if there is one."""
    if any(r.smoothed is not None for r in runs):
        figures = [(r.smoothed.clean_accuracy, r.smoothed.certified_accuracy) if r.smoothed else None for r in runs]
        table.add_row("smoothed classifier: clean accuracy", *(percent(f[0]) if f else "not smoothed" for f in figures))
        table.add_row("smoothed classifier, at least", *(percent(f[1]) if f else "not smoothed" for f in figures))


def last_line(runs: Sequence[Summary]) -> str:
    """Return the words below a table of runs: what robust accuracy means here."""
    if all(run.open == 0 for run in runs):
        return "95 % intervals in brackets; every sample is proven or broken, so that no attack can lower the figure."
    return "95 % intervals in brackets; robust accuracy is an upper bound, a stronger attack may lower it."


def open_share(run: Summary) -> str:
    """Format the share of samples that are neither proven nor broken."""
    return "not certified" if run.open is None else f"{100 * run.open:.1f} %"


def gain_sentence(run: Summary) -> str:
    """Return one line on what the purifier adds."""
    from unfooled.evaluation.audit.guard_fields import purifier_sentence

    assert run.guard is not None
    return purifier_sentence(run.guard, run.verdict)


def explanation_first(run: Summary) -> str:
    """Format the share of the samples whose explanation changed at a smaller eps than the label."""
    share = run.reasons.reason_first if run.reasons is not None else None
    return percent(share) if share is not None else "not available"


def summaries(runs: Sequence[Summary]) -> None:
    """Print a table: one column per run, one row per figure."""
    table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for run in runs:
        table.add_column(plain(run.title), overflow="fold")
    table.add_row("data, n", *(f"{plain(r.data)}, {r.n}" for r in runs))
    table.add_row("threat", *(plain(r.threat) for r in runs))
    table.add_row("attack", *(plain(r.attack) for r in runs))
    table.add_row("clean accuracy", *(percent(r.clean_accuracy) for r in runs))
    table.add_row("[bold]robust accuracy, at most", *(f"[bold]{robust(r)}" for r in runs))
    add_proofs(table, runs)
    add_smoothed(table, runs)
    table.add_row("can it be believed", *(f"[{COLOURS.get(r.verdict, '')}]{r.verdict}" for r in runs))
    table.add_row("attack success rate", *(percent(r.attack_success_rate) for r in runs))
    if any(r.no_answer is not None and r.no_answer.value for r in runs):
        no_answers = (percent(r.no_answer) if r.no_answer is not None else "not available" for r in runs)
        table.add_row("no answer under attack", *no_answers)
    table.add_row("PSNR of what fooled it", *(mean(r.psnr, "dB", 1) for r in runs))
    for i, row in enumerate(runs[0].movements):
        same = [next((m for m in r.movements if m.name == row.name), None) for r in runs]
        cells = [mean(m.fooled) if m else "not available" for m in same]
        table.add_row(plain(f"{row.explanation}: {row.name}, fooled"), *cells, style="dim" if i else "")
    if any(r.reasons is not None and not r.reasons.skipped for r in runs):
        points = [r.reasons.at_eps() if r.reasons is not None else None for r in runs]
        names = " / ".join(dict.fromkeys(r.reasons.explanation for r in runs if r.reasons is not None))
        table.add_row(
            plain(f"{names}: corrected LENS under attack"),
            *(mean(p.lens) if p is not None else "not available" for p in points),
        )
        table.add_row("reason moved before the label", *(explanation_first(r) for r in runs), style="dim")
    table.add_row("passes per sample", *(f"{r.passes.forward:.1f} F + {r.passes.backward:.1f} B" for r in runs))
    table.add_row("seconds", *(f"{r.seconds:.1f}" for r in runs))
    out.print(table)
    out.print(f"[dim]{last_line(runs)}")
    for run in runs:
        if run.guard is not None:
            out.print(f"{plain(run.title)}: {plain(gain_sentence(run))}", soft_wrap=True)
        if run.verdict not in ("SOUND", ""):
            out.print(
                f"[{COLOURS[run.verdict]}]{plain(run.title)}: {run.verdict}. {plain(run.because)}", soft_wrap=True
            )
        for warning in run.warnings:
            out.print(f"[yellow]{plain(run.title)}: {plain(warning)}", soft_wrap=True)


def verdict(run: Summary) -> None:
    """Print the verdict and the figures of an audit in one line."""
    figures = (run.clean_accuracy.value, run.robust_accuracy.value)
    clean, under = ("not available" if value is None else f"{100 * value:.1f} %" for value in figures)
    missing = run.guard.not_stated if run.guard is not None else ""
    proven = None if run.certified_accuracy is None else run.certified_accuracy.value
    bound = ("" if not proven else f"at least {100 * proven:.1f} % and ") + f"at most {under}"
    figures_of = f"({run.n} samples, {printable(run.threat)})"
    typer.echo(f"{run.verdict}: clean accuracy {clean}, robust accuracy {missing or bound} {figures_of}")
    if run.guard is not None:
        typer.echo(printable(gain_sentence(run)))


def record(result: BaseModel | Mapping[str, Any]) -> None:
    """Print a record as JSON, and nothing else."""
    _echo(lib.dumps(dict(result), indent=2) if isinstance(result, Mapping) else result.model_dump_json(indent=2))


def records(results: Sequence[BaseModel]) -> None:
    """Print several records as a JSON list, and nothing else."""
    _echo(lib.dumps([lib.loads(one.model_dump_json()) for one in results], indent=2))


def _echo(text: str) -> None:
    """Print JSON in which control characters beyond ASCII are escaped too."""
    typer.echo(printable(text, json=True))


def share(result: Share, folder: Path, *, json: bool, quiet: bool) -> None:
    """Print what a share of the samples holds, and what comes next."""
    if json:
        record(result)
    if json or quiet:
        return
    first, last = result.rows
    out.print(f"rows {first} to {last - 1} of {result.n}: {plain(folder)}", soft_wrap=True)
    if result.waits:
        out.print(f"waits for the other rows: {plain(result.waits)}", soft_wrap=True)
    if last - first < min(result.chunk, result.n):
        out.print(
            f"[yellow]A part has {result.chunk} samples, more than these rows: other shares may have nothing to do.",
            soft_wrap=True,
        )
    out.print(f"then, with the other shares: unfooled merge {quoted(folder)} OTHERS --out RESULT", soft_wrap=True)


def quoted(path: Path | str) -> str:
    """Return a path as a shell reads it, for a command that is shown."""
    return plain(shlex.quote(str(path)))


def page(path: Path | str) -> None:
    """Print the path or URL of a report page."""
    out.print(f"page: {plain(path)}", soft_wrap=True)


def number(value: float | None, digits: int = 2) -> str:
    """Format a number; "none" for None."""
    return "none" if value is None else f"{value:.{digits}f}"
