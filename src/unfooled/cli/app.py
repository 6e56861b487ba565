"""The `unfooled` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from unfooled import __version__
from unfooled.cli import attack, audit, demo, doctor, explain, report, train
from unfooled.cli.errors import guarded

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
app.command(name="explain")(explain.explain)
app.command(name="report")(report.report)
app.command(name="doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"unfooled {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Find out what fools your classifier, see why, and train it until it no longer is."""


def main() -> None:
    """Run the command and leave with its code."""
    import click

    def call() -> None:
        try:
            app(standalone_mode=False)
        except click.exceptions.Abort:
            raise KeyboardInterrupt from None
        except click.UsageError as e:
            e.show()
            sys.exit(2)

    sys.exit(guarded(call))
