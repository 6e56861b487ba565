"""Arithmetic by sample, and work in pieces."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled.core.model import batching
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


@pytest.mark.parametrize("batch", [1, 2, 7, 100, None])
def test_results_of_several_tensors_are_joined_by_place_and_by_name(batch: int | None) -> None:
    a, b = points(7, (3,)), points(7, ())
    twice, total = batched(lambda a, b: (2 * a, a.sum(1) * b), batch)(a, b)
    assert torch.equal(twice, 2 * a)
    torch.testing.assert_close(total, a.sum(1) * b)
    by_name = batched(lambda a: {"twice": 2 * a, "half": a / 2}, batch)(a)
    assert list(by_name) == ["twice", "half"]
    assert torch.equal(by_name["twice"], 2 * a)
    assert torch.equal(by_name["half"], a / 2)


def test_progress_counts_the_samples_from_none_to_all() -> None:
    seen: list[int] = []
    batched(lambda a: a, 3, progress=seen.append)(points(7, (2,)))
    assert seen == [0, 3, 6, 7]
    seen.clear()
    batched(lambda a: a, None, progress=seen.append)(points(7, (2,)))
    assert seen == [0, 7]


def test_no_samples_give_one_empty_result() -> None:
    assert batched(lambda a: a.sum(1), 3)(torch.zeros(0, 2)).shape == (0,)


OWN_PARTS = {
    "attacks/ensembles/cascade.py": "parts of the survivors: the next one is attacked only if this one succeeds",
    "attacks/ensembles/stages.py": "random points, of which the best one is kept",
    "attacks/gradients/estimated.py": "points beside each sample, which are made a part at a time",
    "certification/inner.py": "slopes of each node in one stored tensor",
    "certification/smoothing.py": "noisy copies of one sample, of which votes are counted",
    "training/batches.py": "steps of training",
    "purification/classic.py": "steps of training",
    "workflows/counterfactuals.py": "samples beside the attribute whose gradient is asked for",
    "workflows/purify_files.py": "progress after each part",
    "evaluation/audit/attacked_maps.py": "blocks of samples until the figure is precise",
    "evaluation/explanations/judge.py": "scores of parts of the points",
    "evaluation/audit/guard_record.py": "pairs that a random purifier must see with the same draws",
    "purification/dictionaries.py": "images in random order, until there are enough patches",
    "testing/manners.py": "the contract that a part alone equals the whole",
    "explanations/lime/mixed.py": "columns of the masks, one set for each input",
    "explanations/shapley.py": "masks in arrays of any library",
    "explanations/stability.py": "masks in arrays of any library",
    "compat/lime/indexed.py": "text, split by a pattern",
    "compat/lime/lime_image.py": "pixels of each segment",
}
"""Files that go through parts of a batch themselves, with the reason."""


def test_batches_are_made_in_one_place() -> None:
    """No loop or comprehension goes through `x.split(n)`, or joins parts by `torch.cat`, but in `batched`."""
    root, found = Path(batching.__file__).parents[2], set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.For | ast.comprehension) and any(map(splits, ast.walk(node.iter))):
                found.add(file.relative_to(root).as_posix())
    assert found - {"core/model/batching.py"} == set(OWN_PARTS)


def splits(node: ast.AST) -> bool:
    """Return whether a node is `x.split(n)` of a tensor; text is split at a literal or at white space."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split"):
        return False
    return bool(node.args) and not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str))


def test_chunks_of_no_size() -> None:
    with pytest.raises(ValueError, match="batch is 0; it must be at least 1"):
        batched(lambda a: a, 0)


def test_the_batch_that_fits_follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes() > 1 << 20
    net, small, large = tiny_net(), points(2, (1, 6, 5)), points(2, (1, 60, 50))
    monkeypatch.setattr(batching, "free_bytes", lambda device: 1_000_000)
    found = fitting_batch(net, small, ceiling=10_000)
    assert 1 < found < 10_000
    monkeypatch.setattr(batching, "free_bytes", lambda device: 2_000_000)
    assert abs(fitting_batch(net, small, ceiling=10_000) - 2 * found) <= 1
    assert fitting_batch(net, small, ceiling=3) == 3
    # A convolution's activations are as large as the picture: a hundred times the pixels, a hundredth of the samples.
    assert fitting_batch(net[:2], large) < fitting_batch(net[:2], small, ceiling=10_000) / 50

    def deep(x: Tensor) -> Tensor:  # each exponential keeps its result for the way back
        for _ in range(20):
            x = x.exp()
        return x.flatten(1)

    assert fitting_batch(deep, small) < fitting_batch(lambda x: x.exp().flatten(1), small, ceiling=10_000) / 3
    monkeypatch.setattr(batching, "free_bytes", lambda device: 0)
    assert fitting_batch(net, small) == 1
