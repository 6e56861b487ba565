"""The global generators of random numbers, from which models and purifiers of others draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Seed the global generators of PyTorch, of every GPU in use, of NumPy and of Python; restore them afterwards."""
    array, plain = np.random.get_state(), random.getstate()  # noqa: NPY002
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(array)  # noqa: NPY002
            random.setstate(plain)
