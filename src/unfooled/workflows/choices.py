"""Choices written as text, with options behind a colon: `grid`, `slic:80`, `slic:segments=80,compactness=1`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from unfooled.core.errors import BadInput, nearest
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import choose, number


def made(table: Mapping[str, catalog.Piece], text: str | Callable[..., Any], kind: str) -> Any:
    """Return the function that a choice names; a function is returned as it is.

    Args:
        table: Choices by name.
        text: A name, with options behind a colon where the choice takes them.
        kind: Kind of the choices, for errors; also the name of the option.

    Raises:
        BadOption: There is no such choice or option, or a value is no number.
    """
    if not isinstance(text, str):
        return text
    name, colon, rest = text.partition(":")
    piece = choose(table, name, kind)
    function = catalog.resolve(piece.path)
    if not piece.makes:
        if colon:
            raise BadOption("{" + kind + "} is {0!r}; {1} takes no options", text, name)
        return function
    options = _options(function, rest, text, kind) if rest else {}
    try:
        return function(**options)
    except BadInput as error:
        raise BadOption("{" + kind + "} is {0!r}: {1}", text, error) from None


def _options(function: Callable[..., Any], rest: str, text: str, kind: str) -> dict[str, Any]:
    """Return the options that a choice's text gives, as numbers; one without a name is the first."""
    known = {name: p for name, p in inspect.signature(function).parameters.items() if _is_numeric(p)}
    options: dict[str, Any] = {}
    if not known:
        raise BadOption("{" + kind + "} is {0!r}; {1} takes no options", text, text.partition(":")[0])
    for k, part in enumerate(rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals and k:
            form = ",".join(
                f"{own}={v.strip()}" for own, v in zip(known, rest.split(","), strict=False) if "=" not in v
            )
            raise BadOption(
                "{" + kind + "} is {0!r}; write the name of each option, such as {1}:{2}; it has {3}",
                text, text.partition(":")[0], form or ",".join(known), ", ".join(known),
            )  # fmt: skip
        name, value = (name.strip().replace("-", "_"), value) if equals else (next(iter(known)), part)
        if name not in known:
            raise BadOption(
                "{" + kind + "} is {0!r}; {1} has no option {2!r}{3}; it has {4}",
                text, text.partition(":")[0], name, nearest(name, known), ", ".join(known),
            )  # fmt: skip
        try:
            given = number(value, name)
        except BadOption:
            raise BadOption("{" + kind + "} is {0!r}; {1} is a number, not {2!r}", text, name, value) from None
        whole = isinstance(known[name].default, int) or "int" in str(known[name].annotation)
        if whole and given != int(given):
            raise BadOption("{" + kind + "} is {0!r}; {1} is a whole number", text, name)
        options[name] = int(given) if whole else given
    return options


def with_options(function: Callable[..., Any], text: str, kind: str) -> Callable[..., Any]:
    """Return a function with the options bound that are written behind its name, as in lime:samples=1000.

    Args:
        function: The function.
        text: Its name, with options behind a colon, or without any.
        kind: Kind of the choice, for errors; also the name of the option.
    """
    rest = text.partition(":")[2]
    return partial(function, **_options(function, rest, text, kind)) if rest else function


def _is_numeric(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter is a number, or a number or None."""
    if isinstance(parameter.default, bool):
        return False
    optional = parameter.default is None and str(parameter.annotation) in ("float | None", "int | None")
    return isinstance(parameter.default, (int, float)) or optional
