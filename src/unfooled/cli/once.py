"""Commands that refuse an option that is given twice, of which a parser takes the last."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from unfooled.cli.errors import Refused
from unfooled.workflows.errors import MOST


class OnceCommand(TyperCommand):
    """A command whose options are given once, unless they are lists, or flags without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and refuse whole numbers that no tensor counts."""
        rest = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name)
            if isinstance(value, int) and abs(value) > MOST:
                raise Refused(f"{param.opts[0]} is {value}; it must be at most {MOST}")
        return rest

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser of the command, which counts its options."""
        parser = super().make_parser(ctx)
        harmless = {p.name for p in self.params if getattr(p, "multiple", False) or getattr(p, "is_flag", False)}
        parse = parser.parse_args

        def parse_once(args: list[str]) -> Any:
            values, rest, order = parse(args)
            seen: set[str] = set()
            for param in order:
                if param.param_type_name != "option" or param.name in harmless:
                    continue
                if param.name in seen:
                    raise Refused(f"{param.opts[0]} is given twice; give it once")
                seen.add(str(param.name))
            return values, rest, order

        parser.parse_args = parse_once
        return parser
