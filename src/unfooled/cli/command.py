"""Commands that say when an option is given twice, and refuse whole numbers that nothing counts."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperCommand

from unfooled.cli.errors import Refused
from unfooled.core.errors import BadInput, printable
from unfooled.workflows.errors import MOST

RUNNING: ContextVar[Mapping[str, Any] | None] = ContextVar("running", default=None)
"""Arguments of the running command by name; None: there is none."""


class CheckedCommand(TyperCommand):
    """A command that checks its options before it runs: a later one replaces an earlier one, which is said.

    It is said after the work, or in brackets behind the one sentence with which the command refuses its input.
    """

    repeated: tuple[str, ...] = ()

    def invoke(self, ctx: Any) -> Any:
        """Run, and say which options were given twice."""
        running = RUNNING.set(ctx.params)
        try:
            return super().invoke(ctx)
        except BadInput as error:
            for sentence in self.repeated:
                error.add_note(sentence)
            self.repeated = ()
            raise
        finally:
            RUNNING.reset(running)
            for sentence in self.repeated:
                typer.echo(f"note: {sentence}", err=True)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse whole numbers that are too large for any tensor."""
        rest = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name)
            if isinstance(value, int) and abs(value) > MOST:
                raise Refused(f"{param.opts[0]} is {value}; it must be at most {MOST}")
        return rest

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser of the command, which counts its options."""
        parser: Any = super().make_parser(ctx)
        harmless = {p.name for p in self.params if getattr(p, "multiple", False) or getattr(p, "is_flag", False)}
        parse = parser.parse_args

        def parse_counting(args: list[str]) -> Any:
            values, rest, order = parse(args)
            names = [param.name for param in order if param.param_type_name == "option" and param.name not in harmless]
            twice = {param.name: param for param in order if names.count(param.name) > 1}.values()
            self.repeated = tuple(
                f"{p.opts[0]} is given {names.count(p.name)} times; {printable(str(values.get(p.name)))} counts"
                for p in twice
            )
            return values, rest, order

        parser.parse_args = parse_counting
        return parser
