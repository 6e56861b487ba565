"""Commands that say when an option is given twice, and refuse whole numbers that nothing counts."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from unfooled.cli.errors import Refused
from unfooled.core.errors import printable
from unfooled.workflows.errors import MOST


class CheckedCommand(TyperCommand):
    """A command that checks its options before it runs: a later one replaces an earlier one, which is said."""

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
            for param in {param.name: param for param in order if names.count(param.name) > 1}.values():
                last = printable(str(values.get(param.name)))
                typer.echo(f"note: {param.opts[0]} is given {names.count(param.name)} times; {last} counts", err=True)
            return values, rest, order

        parser.parse_args = parse_counting
        return parser
