"""The `unfooled` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from unfooled._version import __version__
from unfooled.cli import (
    attack,
    audit,
    certify,
    counterfactual,
    demo,
    doctor,
    evidence,
    explain,
    features,
    lens,
    lime,
    merge,
    purify,
    report,
    study,
    train,
)
from unfooled.cli.command import CheckedCommand
from unfooled.cli.ending import Ending
from unfooled.cli.errors import CLOSED, INTERRUPTED, guarded, refuse_empty, report_error

app = typer.Typer(
    name="unfooled",
    help="Find out what fools your classifier, see why, and train it until it no longer is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="demo")(demo.demo)
app.command(name="audit")(audit.audit)
app.command(name="train")(train.train)
app.command(name="attack")(attack.attack)
app.command(name="certify")(certify.certify)
app.command(name="explain")(explain.explain)
app.command(name="lens", cls=lens.ListCommand)(lens.lens)
app.add_typer(lime.app, name="lime")
app.command(name="counterfactual")(counterfactual.counterfactual)
app.command(name="features")(features.features)
app.add_typer(purify.app, name="purify")
app.command(name="merge")(merge.merge)
app.command(name="report")(report.report)
app.command(name="evidence")(evidence.evidence)
app.command(name="study")(study.reproduce)
app.command(name="doctor")(doctor.doctor)
for group in (app, lime.app, purify.app):
    for command in group.registered_commands:
        if command.cls is None or not issubclass(command.cls, CheckedCommand):
            command.cls = CheckedCommand


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unfooled {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find out what fools your classifier, see why, and train it until it no longer is."""


def run(arguments: list[str]) -> int:
    """Run the command with these arguments and return its exit code; nothing is raised."""
    code = 0

    def call() -> None:
        nonlocal code
        try:
            refuse_empty(arguments)
            code = app(arguments, prog_name="unfooled", standalone_mode=False) or 0
            if code == INTERRUPTED:  # some versions of typer return a code on Ctrl-C
                raise KeyboardInterrupt
        except typer.Abort:
            raise KeyboardInterrupt from None
        except Exception as e:
            # Usage errors come from typer's own copy of click in some versions, from click in others.
            if not (hasattr(e, "show") and hasattr(e, "exit_code") and hasattr(e, "format_message")):
                raise
            if type(e).__name__ == "NoArgsIsHelpError":
                e.show()
            else:
                place = getattr(getattr(e, "ctx", None), "command_path", "unfooled")
                report_error(f"{e.format_message().rstrip('. ')}; {place} --help lists what there is", e.exit_code)
            code = e.exit_code

    resumable = arguments[:1] in (["demo"], ["train"], ["study"], ["features"], ["attack"], ["merge"]) or (
        arguments[:1] in (["audit"], ["certify"]) and any(a == "--out" or a.startswith("--out=") for a in arguments)
    )
    ended = guarded(call, resumable=resumable) or code
    return 0 if ended == CLOSED and "--help" in arguments else ended


def main() -> None:
    """Run the command line and exit with its code, whatever code of the model or the data calls."""
    # Threads that wait for the next operation sleep. Spinning, the default, took 1.1 to 1.7 times the processor time on
    # two cores, and no less wall time. OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ending = Ending()
    ending.install()
    ending.code = run(sys.argv[1:])
    sys.exit(ending.code)
