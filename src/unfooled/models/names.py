"""Names of weights: removal of wrapper prefixes, and selection of the weights of a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIXES = ("module.", "model.", "_orig_mod.")


def strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the prefixes that all of their names share."""
    shared = dict(state)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in shared)), ""):
        shared = {key.removeprefix(prefix): value for key, value in shared.items()}
    return shared


def within(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the part of `state` under one prefix whose names are exactly `names`; all of it if there is none.

    A training module may store losses and metrics beside the weights of its model.
    """
    for prefix in PREFIXES:
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if set(part) == names:
            return part
    return dict(state)


def matches(state: Mapping[str, Tensor], names: set[str]) -> bool:
    """Return whether the names of the weights, or of a part under one prefix, are exactly `names`."""
    return set(within(state, names)) == names
