"""Samples of torch loaders and data sets: their rows, their labels, and errors of reading an item."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip

from unfooled import QUICK, BadInput, Linf, Plan, audit
from unfooled.core.samples import Streamed
from unfooled.data.torch_sets import from_torch

X = torch.arange(60.0)[:, None].expand(60, 3) / 60
Y = torch.arange(60)


class Items(Dataset[Any]):
    """Sixty samples, each with its number as label, in a form of its own."""

    def __init__(self, form: Callable[[int], Any] = lambda k: (X[k], k)) -> None:
        self.form = form

    def __len__(self) -> int:
        return 60

    def __getitem__(self, k: int) -> Any:
        return self.form(k)


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(59, -1, -1))


class Drawn(Sampler[int]):
    """Draws from the generators of Python and NumPy."""

    def __iter__(self) -> Iterator[int]:
        return iter([random.randrange(60) for _ in range(5)] + np.random.randint(0, 60, 5).tolist())  # noqa: NPY002


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


D = Items()
FIXED: dict[str, tuple[Callable[[], DataLoader[Any]], list[int]]] = {
    "batch sampler": (lambda: DataLoader(D, batch_sampler=[[1, 2, 3], [4, 5, 6]]), [1, 2, 3, 4, 5, 6]),
    "batches of others": (lambda: DataLoader(D, batch_sampler=iter([[7], [7, 0]])), [7, 7, 0]),
    "drop_last": (lambda: DataLoader(D, batch_size=16, drop_last=True), list(range(48))),
    "a list": (lambda: DataLoader(D, sampler=[5, 3, 9]), [5, 3, 9]),
    "a list without batches": (lambda: DataLoader(D, sampler=[5, 3, 9], batch_size=None), [5, 3, 9]),
    "sequence of a part": (lambda: DataLoader(D, sampler=SequentialSampler(range(7))), list(range(7))),
    "backwards": (lambda: DataLoader(D, batch_size=7, sampler=Backwards()), list(range(59, -1, -1))),
    "backwards, the rest dropped": (
        lambda: DataLoader(D, batch_sampler=BatchSampler(Backwards(), 50, drop_last=True)), list(range(59, 9, -1)),
    ),
    "own tensors": (lambda: DataLoader(TensorDataset(X, Y), sampler=range(10, 20)), list(range(10, 20))),
}  # fmt: skip


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("name", FIXED)
def test_the_rows_are_those_of_the_loader(name: str, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, rows = FIXED[name]
    monkeypatch.setattr("unfooled.data.torch_sets.max_bytes_in_memory", lambda: 0 if streams else 1 << 30)
    x, y, notes = from_torch(make())
    assert isinstance(x, Streamed) == streams
    assert y.tolist() == rows and torch.equal(x[:], X[rows])
    assert f"the {len(rows)} of 60 " in notes[0]


@pytest.mark.parametrize("loader", [DataLoader(D, batch_size=7), DataLoader(D, batch_size=15, drop_last=True)])
def test_a_whole_set_in_order_needs_no_note(loader: DataLoader[Any]) -> None:
    assert from_torch(loader)[1].tolist() == list(range(60)) and from_torch(loader)[2] == ()


RANDOM: dict[str, tuple[Callable[[], DataLoader[Any]], int]] = {
    "a subset": (lambda: DataLoader(D, batch_size=4, sampler=SubsetRandomSampler(range(50, 60))), 10),
    "eight": (lambda: DataLoader(D, batch_size=4, sampler=RandomSampler(D, num_samples=8)), 8),
    "shuffled": (lambda: DataLoader(D, batch_size=8, shuffle=True), 60),
    "shuffled, cut": (lambda: DataLoader(D, batch_size=8, shuffle=True, drop_last=True), 56),
    "with weights": (lambda: DataLoader(D, sampler=WeightedRandomSampler([1.0] * 60, 9)), 9),
    "Python and NumPy": (lambda: DataLoader(D, sampler=Drawn()), 10),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_order_is_drawn_once_under_the_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, n = RANDOM[name]
    state = torch.get_rng_state(), random.getstate()
    monkeypatch.setattr("unfooled.data.torch_sets.max_bytes_in_memory", lambda: 0)
    x, y, notes = from_torch(make(), seed=3)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert len(y) == n and torch.equal(x[:], X[y]) and torch.equal(x[:], X[y])
    assert y.tolist() != sorted(y.tolist()) and (name != "a subset" or set(y.tolist()) == set(range(50, 60)))
    assert "drawn once with seed 3" in notes[0]
    assert torch.equal(from_torch(make(), seed=3)[1], y)
    assert not torch.equal(from_torch(make(), seed=4)[1], y)


def test_the_generator_of_a_loader_is_left_as_it_is() -> None:
    loader = DataLoader(D, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5))
    assert torch.equal(from_torch(loader, seed=1)[1], from_torch(loader, seed=2)[1])
    fresh = DataLoader(D, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5))
    assert torch.equal(from_torch(fresh)[1], from_torch(loader)[1])


def test_samplers_that_give_nothing_have_no_end_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfooled.data.loader_rows.LONGEST", 100)
    cases: list[tuple[Any, str]] = [([], "gives no samples"), (Endless(), "give it an end"), ([99], "item 99 of the")]
    for sampler, words in cases:
        with pytest.raises(BadInput, match=words):
            from_torch(DataLoader(Items(lambda k: (X[k], Y[k])), sampler=sampler))


class Stream(IterableDataset[Any]):
    """The same items in a stream, in an order drawn anew."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __iter__(self) -> Iterator[Any]:
        return iter([self.form(int(k)) for k in torch.randperm(60)[:20].sort()[0]])


def test_a_random_stream_repeats_under_its_seed() -> None:
    first, again, other = (from_torch(Stream(lambda k: (X[k], k)), seed=s)[1] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def failing(k: int) -> Any:
    """An item of which the 33rd cannot be read."""
    if k == 33:
        raise OSError("broken file 33")
    return X[k], k


BAD: dict[str, tuple[Callable[[int], Any], str]] = {
    "fractions": (lambda k: (X[k], k + 0.7), r"item 0 .*no whole numbers"),
    "a late fraction": (lambda k: (X[k], k + 0.5 * (k == 9)), r"item 9 .*no whole numbers"),
    "one-hot": (lambda k: (X[k], torch.eye(60)[k]), r"item 0 .*one-hot"),
    "a list": (lambda k: (X[k], [0, 1]), r"item 0 .*one number per sample"),
    "negative": (lambda k: (X[k], -1 if k == 7 else k), r"item 7 .*holds the label -1"),
    "not a number": (lambda k: (X[k], float("nan")), r"item 0 .*no whole numbers"),
    "text": (lambda k: (X[k], "cat"), r"item 0 .*is 'cat'; labels are 0, 1, 2"),
    "nothing": (lambda k: (X[k], None), r"item 0 .*is 'None'"),
    "no pairs": (lambda k: None, "items are NoneType; they must be pairs"),
    "an error": (failing, r"item 33 of the data set cannot be read: OSError: broken file 33"),
    "shapes": (lambda k: (X[k, : 2 + k % 2], k), r"samples of shapes \(2,\) and \(3,\)"),
}
DOORS: dict[str, Callable[[Any], Any]] = {
    "data set": Items,
    "loader": lambda form: DataLoader(Items(form), batch_size=8),
    "loader without batches": lambda form: DataLoader(Items(form), batch_size=None),
    "own batches": lambda form: DataLoader(Items(form), batch_size=8, collate_fn=gathered),
}


def gathered(items: list[Any]) -> tuple[Tensor, list[Any]]:
    """A user's function that makes batches."""
    return torch.stack([x for x, _ in items]), [y for _, y in items]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD)
def test_labels_and_items_that_cannot_be_used(name: str, door: str) -> None:
    form, words = BAD[name]
    if door == "own batches" and name in ("no pairs", "shapes"):
        words = r"collate_fn fails on the items 0, 1, 2, 3, .*: \w+Error"
    with pytest.raises(BadInput, match=words):
        from_torch(DOORS[door](form))


@pytest.mark.parametrize("name", ["fractions", "one-hot", "text", "negative", "no pairs"])
def test_streams_have_the_same_sentences(name: str) -> None:
    form, words = BAD[name]
    with pytest.raises(BadInput, match=words.replace("item 0 ", r"item \d+ ").replace("item 7 ", r"item \d+ ")):
        from_torch(Stream(form if name != "negative" else lambda k: (X[k], -1)))


GOOD = (float, np.int64, np.float32, np.uint8, torch.tensor, bool, lambda k: torch.tensor([k]), np.array)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("door", DOORS)
def test_whole_numbers_of_every_kind_are_labels(kind: Callable[[int], Any], door: str) -> None:
    labels = from_torch(DOORS[door](lambda k: (X[k], kind(k))))[1]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [int(bool(k)) if kind is bool else k for k in range(60)]


def test_pictures_in_a_loader_are_read() -> None:
    picture = Image.fromarray(np.full((4, 4), 51, np.uint8))
    assert torch.allclose(from_torch(DataLoader(Items(lambda k: (picture, k))))[0][0], torch.full((1, 4, 4), 0.2))


def test_an_audit_of_a_part_resumes_on_the_same_rows(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 60)).eval()
    loader = DataLoader(D, batch_size=4, sampler=SubsetRandomSampler(range(50, 60)))
    plan = Plan(effort=QUICK, nearest_budget=100, nearest_n=4, explain_n=2, reasons=None)
    first = audit(net, loader, Linf(0.01), plan=plan, out=tmp_path / "run", seed=2)
    again = audit(net, loader, Linf(0.01), plan=plan, out=tmp_path / "run", seed=2)
    assert first.n == again.n == 10 and again.clean_accuracy == first.clean_accuracy
    assert any("10 of 60" in warning for warning in first.warnings)
