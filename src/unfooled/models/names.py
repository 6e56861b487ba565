"""Names of weights: removal of wrapper prefixes, and selection of the weights of a module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from unfooled.core.errors import BadInput

PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
AVERAGED_NAME = re.compile(r"(?i)(^|[._])(ema|avg|averaged|swa|shadow|teacher)")


def strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the prefixes that all of their names share."""
    shared = dict(state)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in shared)), ""):
        shared = {key.removeprefix(prefix): value for key, value in shared.items()}
    return shared


def under_one_prefix(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the part of `state` under one prefix whose names are exactly `names`; all of it if there is none.

    A training module may store losses, metrics and averaged weights beside the weights of its model. The prefix is
    found by matching; where several fit, averages (`ema.`) come last.

    Raises:
        BadInput: Several prefixes fit, as those of a teacher and a student.
    """
    wanted = _without_batch_counters(names)
    if not wanted or _without_batch_counters(state) == wanted:
        return dict(state)
    longest = max(wanted, key=len)
    matching = {}
    for prefix in {key[: -len(longest)] for key in state if key.endswith(longest)} - {""}:
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if prefix.endswith(".") and _without_batch_counters(part) == wanted:
            matching[prefix] = part
    unaveraged = [prefix for prefix in matching if not AVERAGED_NAME.search(prefix)] or sorted(matching)
    candidates = [prefix for prefix in unaveraged if prefix in PREFIXES] or unaveraged
    if len(candidates) > 1:
        raise BadInput(
            f"the file holds these weights more than once, under {' and '.join(sorted(candidates)[:4])}; save the "
            "weights of one of them"
        )
    return matching[candidates[0]] if candidates else dict(state)


def _without_batch_counters(names: Iterable[str]) -> set[str]:
    """Return names without batch counters (`num_batches_tracked`), which old files lack and evaluation ignores."""
    return {name for name in names if not name.endswith("num_batches_tracked")}


def matches(state: Mapping[str, Tensor], names: set[str]) -> bool:
    """Return whether the names of the weights, or of a part under one prefix, are exactly `names`."""
    return _without_batch_counters(under_one_prefix(state, names)) == _without_batch_counters(names)
