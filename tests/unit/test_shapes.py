"""Arithmetic by sample, and work in pieces."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled.core.model import batching as rows
from unfooled.core.model.batching import batched, fitting_batch, free_bytes
from unfooled.core.shapes import flat, per_sample, where_rows


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (3, 2, 5), (2, 2, 2, 2)])
def test_values_meet_their_samples(shape: tuple[int, ...]) -> None:
    x = points(3, shape, dtype=torch.float64)
    value = torch.tensor([1, 2, 3])
    scaled = per_sample(value, x) * x
    assert scaled.dtype == x.dtype
    for i in range(3):
        assert torch.equal(scaled[i], x[i] * (i + 1))
    assert per_sample(0.5, x).ndim == 0
    assert torch.equal(per_sample(torch.tensor(2.0), x) * x, 2 * x)
    assert flat(x).shape == (3, x[0].numel())
    chosen = where_rows(torch.tensor([True, False, True]), x, -x)
    assert torch.equal(chosen, torch.stack([x[0], -x[1], x[2]]))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_chunks_give_the_same_in_pieces(batch: int) -> None:
    seen = []

    def fn(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return flat(a).sum(1) * b

    a, b = points(7, (2, 2)), points(7, ())
    torch.testing.assert_close(batched(fn, batch)(a, b), flat(a).sum(1) * b)
    assert max(seen) <= batch
    assert len(seen) == -(-7 // batch)


def test_chunks_of_no_size() -> None:
    with pytest.raises(ValueError, match="batch is 0; it must be at least 1"):
        batched(lambda a: a, 0)


def test_the_batch_that_fits_follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes() > 1 << 20
    net, small, large = tiny_net(), points(2, (1, 6, 5)), points(2, (1, 60, 50))
    monkeypatch.setattr(rows, "free_bytes", lambda device: 1_000_000)
    found = fitting_batch(net, small, ceiling=10_000)
    assert 1 < found < 10_000
    monkeypatch.setattr(rows, "free_bytes", lambda device: 2_000_000)
    assert abs(fitting_batch(net, small, ceiling=10_000) - 2 * found) <= 1
    assert fitting_batch(net, small, ceiling=3) == 3
    # A convolution's activations are as large as the picture: a hundred times the pixels, a hundredth of the samples.
    assert fitting_batch(net[:2], large) < fitting_batch(net[:2], small, ceiling=10_000) / 50

    def deep(x: Tensor) -> Tensor:  # each exponential keeps its result for the way back
        for _ in range(20):
            x = x.exp()
        return x.flatten(1)

    assert fitting_batch(deep, small) < fitting_batch(lambda x: x.exp().flatten(1), small, ceiling=10_000) / 3
    monkeypatch.setattr(rows, "free_bytes", lambda device: 0)
    assert fitting_batch(net, small) == 1
