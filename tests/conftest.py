"""Small models and data for every test: `from tests.conftest import linear, tiny_net, points`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unfooled.testing.subjects import Linear, interior, linear, points, seeded_generator, tiny_net

__all__ = ["Linear", "interior", "linear", "one_thread", "points", "source", "tiny_net"]

source = seeded_generator


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and sums would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
