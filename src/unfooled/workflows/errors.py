"""Errors about options, which Python and the command line each write in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from unfooled.core.errors import BadInput, Spell, printable

MOST = 2**62
"""Largest whole number of an option."""


class BadOption(BadInput):
    """An option that cannot be used, in one sentence.

    Args:
        sentence: Problem, value found and remedy. Options are written `{name}`, or `{name:value}` with the
            value to give; everything else that varies is written `{0}`, `{1}`, ..., as for `str.format`.
        values: Values that the numbers stand for.

    Example:
        >>> str(BadOption("{steps} is {0}; leave it out, or give {loss:madry}", 0))
        "steps is 0; leave it out, or give loss='madry'"
    """

    def __init__(self, sentence: str, *values: object) -> None:
        self.sentence, self.values = sentence, values
        super().__init__(sentence)

    def spelled(self, spell: Spell) -> str:
        """Return the sentence with the options written by `spell`."""
        return printable(Formatter().vformat(self.sentence, self.values, _Options(spell)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sentence, *self.values)


class BelowBound(Exception):
    """Exception for a figure of an audit that is below its bound."""


class _Options(Mapping[str, Any]):
    """Mapping from every name to an option that `str.format` can write."""

    def __init__(self, spell: Spell) -> None:
        self.spell = spell

    def __getitem__(self, name: str) -> Any:
        return _Option(name, self.spell)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Option:
    def __init__(self, name: str, spell: Spell) -> None:
        self.name, self.spell = name, spell

    def __format__(self, value: str) -> str:
        return self.spell(self.name, value)
