"""Rows of its data set that a torch `DataLoader` gives, in its order: of its sampler and batch sampler."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.sampler import BatchSampler, SequentialSampler

from unfooled.core.errors import BadInput

LONGEST = 10_000_000
"""Largest number of rows of a loader, so that a sampler without an end stops."""


def rows_of(loader: DataLoader[Any], seed: int) -> tuple[list[Any] | None, str]:
    """Return the keys of the samples that a loader gives, drawn once, and a note; None: all of them in their order.

    Args:
        loader: Loader of a data set that can be indexed.
        seed: Random seed of a random order; a generator of the sampler's own is used as it is, and left unchanged.

    Raises:
        BadInput: The sampler fails, gives nothing, or has no end.
    """
    batches, sampler, n = loader.batch_sampler, loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    plain = type(sampler) is SequentialSampler and len(sampler) == n
    cut = type(batches) is not BatchSampler or (batches.drop_last and n % batches.batch_size)
    if plain and (batches is None or not cut):
        return None, ""
    source: Any = sampler if batches is None else batches
    own = type(sampler if batches is None or type(batches) is BatchSampler else batches).__name__
    with seeded(seed), _unchanged(sampler, source):
        try:
            drawn = iter(source) if batches is None else chain.from_iterable(source)
            rows = list(islice(drawn, LONGEST + 1))
        except Exception as error:
            raise BadInput(f"the loader's {own} fails with {type(error).__name__}: {error}") from error
    if not rows or len(rows) > LONGEST:
        given = "no samples" if not rows else f"more than {LONGEST:,} samples; give it an end"
        raise BadInput(f"the loader's {own} gives {given}")
    how = "" if plain else f", drawn once with seed {seed}"
    return rows, f"The samples are the {len(rows)} of {n} that the loader's {own} gives, in its order{how}."


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (what samplers draw from)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _unchanged(*samplers: Any) -> Iterator[None]:
    """Restore the generators that samplers have, so that the next reading draws the same."""
    found = [getattr(sampler, "generator", None) for sampler in samplers]
    states = [(own, own.get_state()) for own in found if isinstance(own, torch.Generator)]
    try:
        yield
    finally:
        for own, state in states:
            own.set_state(state)
