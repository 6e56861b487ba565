"""Reading of values given as text (numbers, sizes, threats), and of names in a table."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unfooled.core.threat_text import parse_threat
from unfooled.workflows.errors import MOST, BadOption

if TYPE_CHECKING:
    from torch import Tensor

    from unfooled.core.threats import Threat

Statistic = str | float | Sequence[float] | None
MAX_STATISTIC = 20  # largest mean or standard deviation, in fractions of the input range

THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0", "l0-pixel": "L0"}
"""Name of a norm in text -> its class in `core.threats`."""


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return a table's entry; refuse an unknown name.

    Args:
        table: Entries by name.
        name: The entry's name.
        kind: Kind of the entries, for the error.

    Raises:
        BadOption: there is no such name; the message gives the nearest one and all others.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, list(table), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BadOption(f"there is no {kind} {{0!r}}; {{1}}there are {{2}}", name, hint, ", ".join(table))


def check_choice(names: Iterable[str], name: str, option: str) -> None:
    """Refuse a value that is none of the option's choices; the message gives the nearest one."""
    choose(dict.fromkeys(names), name, f"choice for {{{option}}}")


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""A number in text."""
SMALLEST = 1.2e-38
"""Size below which a number is 0, or nearly so, in single precision."""


def number(text: str, what: str) -> float:
    """Read "0.3" or "8/255".

    Args:
        text: The number.
        what: Meaning of the number, for the error; option names in braces, as in `BadOption`.

    Raises:
        BadOption: it is not a number.
    """
    parts = [part.strip() for part in text.split("/")]
    try:
        if len(parts) > 2 or not all(map(NUMBER.fullmatch, parts)):  # "1_0" and other digits are numbers to float
            raise ValueError
        value = float(parts[0]) / float(parts[1]) if len(parts) == 2 else float(parts[0])
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadOption(f"{what} is {{0!r}}; write a number such as 0.3 or 8/255", text) from None
    if abs(value) < SMALLEST and re.search("[1-9]", parts[0].lower().partition("e")[0]):
        raise BadOption(f"{what} is {{0!r}}, which is 0 in single precision; write 0, or a larger number", text)
    return value


SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
"""Unit of a time in text -> its seconds."""


def seconds_of(text: str | float, option: str) -> float:
    """Read a time: "60s", "5m", "1.5h", or a number of seconds.

    Args:
        text: The time.
        option: Name of the option, for the error.

    Raises:
        BadOption: it is no time above 0.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*(s|m|min|h|)\s*", str(text))
    try:
        value = float(match[1]) * SECONDS[match[2]] if match else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise BadOption(f"{{{option}}} is {{0!r}}; write a time above 0, such as 60s, 5m or 1h", text)
    return value


def at_least(option: str, value: float | None, least: float, *, above: bool = False) -> None:
    """Refuse a number below a bound, NaN or infinite; None: not given.

    Args:
        option: Name of the option.
        value: The number.
        least: The bound.
        above: True: the bound itself is refused too.

    Raises:
        BadOption: it is such a number.
    """
    if isinstance(value, int) and value > MOST:
        raise BadOption("{" + option + "} is {0}; it must be at most {1}", value, MOST)
    if value is None or (math.isfinite(value) and (value > least if above else value >= least)):
        return
    bound = ("above {1}" if above else "at least {1}") + ("" if math.isfinite(value) else ", and finite")
    raise BadOption("{" + option + "} is {0}; it must be " + bound, value, least)


def statistics(mean: Statistic, std: Statistic) -> tuple[Any, Any]:
    """Read the mean and the standard deviation that a model expects, in fractions of the range.

    Raises:
        BadOption: they are no numbers, or are those of bytes, 0 to 255.
    """
    pair = {"mean": numbers(mean, "{mean}"), "std": numbers(std, "{std}")}
    for option, value in pair.items():
        for one in value if isinstance(value, (list, tuple)) else [] if value is None else [value]:
            if not (math.isfinite(one) and abs(one) <= MAX_STATISTIC) or (option == "std" and one <= 0):
                kind = "positive fractions" if option == "std" else "fractions"
                sentence = "{" + option + "} is {0}; it is in {1} of the range, so divide those of bytes by 255"
                raise BadOption(sentence, one, kind)
    return pair["mean"], pair["std"]


def numbers(value: str | float | Sequence[float] | None, what: str) -> Any:
    """Read "0.49,0.48,0.45" into a list; numbers are returned as they are."""
    return [number(part, what) for part in value.split(",")] if isinstance(value, str) else value


def threat_of(value: str | Threat) -> Threat:
    """Read "linf:8/255", "l2:0.5", "l1:12", "l0:10" (entries) or "l0-pixel:10"; a `Threat` is returned as it is.

    Raises:
        BadOption: another norm, no number, or a negative one.
    """
    if not isinstance(value, str):
        return value
    from unfooled.core import threats

    parts = parse_threat(value.lower())
    name, eps = parts.norm, parts.eps
    if name == value.lower():
        raise BadOption("{threat} is {0!r}; write a norm and a radius, such as linf:8/255 or l2:0.5", value)
    kind = choose(THREATS, name, "norm")
    radius = number(eps, "the radius in {threat}")
    if name == "linf" and radius > 1:
        raise BadOption(
            "{threat:{0}}: inputs lie in [0, 1], so a radius of {1:g} allows anything; for pixels out of 255 write "
            "linf:{2}/255",
            value, radius, eps,
        )  # fmt: skip
    if name.startswith("l0") and radius != int(radius):
        raise BadOption(
            "{threat:{0}}: {1} counts changes; write a whole number, such as {1}:{2}", value, name, int(radius)
        )
    try:
        made: Threat = getattr(threats, kind)(radius, **({"per": "pixel"} if name == "l0-pixel" else {}))
    except ValueError as e:
        raise BadOption("{threat:{0}}: {1}", value, e) from None
    return made


def check_reach(threat: Threat, x: Tensor) -> None:
    """Refuse a radius beyond the largest distance between two inputs.

    Args:
        threat: Threat of the attack.
        x: Samples, (B, *D).

    Raises:
        BadOption: The threat allows anything.
    """
    import torch

    first = x[:1]
    largest = float(threat.size(torch.full_like(first, threat.box.high - threat.box.low)))
    radius = float(torch.as_tensor(threat.eps).max())
    if radius > largest * (1 + 1e-6):
        raise BadOption(
            "{threat:{0}}: two samples of shape {1} are at most {2:g} apart, so a radius of {3:g} allows anything; "
            "give a smaller one, for pixels out of 255 divided by 255",
            str(threat), tuple(first.shape[1:]), largest, radius,
        )  # fmt: skip


def size_of(value: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Read "32" or "32x48" (height x width); numbers are returned as a pair.

    Raises:
        BadOption: it is not a size.
    """
    if value is None:
        return value
    if isinstance(value, tuple):
        value = "x".join(map(str, value))
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", str(value).lower())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise BadOption("{size} is {0!r}; write 32 or 32x48 (height x width)", value)
    return size
