"""Samples that are read in parts: they behave as tensors that are indexed, and audits of them give the same figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents, Searches, Waves
from unfooled.core import memory
from unfooled.core.errors import BadInput
from unfooled.core.memory import memory_limit, read_size
from unfooled.core.samples import Streamed, blocks, facts, replaced, selected, streamed
from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.data.formats.npz import Archive
from unfooled.data.formats.stored import StoredArray
from unfooled.evaluation.audit import Plan, audit
from unfooled.runs.hashes import tensors_hash
from unfooled.runs.packing import packed

SHAPE = (1, 6, 5)
PLAN = Plan(
    effort=Effort("short", (Ascents(4), Searches(5, 0.5), Waves(3, 0.5), Waves(3, 0.5))), nearest_budget=100,
    nearest_n=6, explain_n=6, gallery=4, floor=2000, reasons_n=2, reasons_steps=2,
)  # fmt: skip


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(memory, "MAX_IN_MEMORY", 1)
    monkeypatch.setattr(memory, "MAX_BLOCK", 1000)


def lazy(x: Tensor) -> tuple[Streamed, list[int]]:
    """Streamed samples, and how many rows each reading took."""
    taken: list[int] = []

    def read(rows: Tensor) -> Tensor:
        taken.append(len(rows))
        return x[rows]

    return Streamed(read, tuple(x.shape), x.dtype), taken


def test_streamed_samples_are_tensors_that_are_indexed(tight: None) -> None:
    x = points(40, SHAPE)
    s, taken = lazy(x)
    assert (len(s), s.shape, s.dtype, s.device, s.ndim, s.is_floating_point()) == (
        40, x.shape, x.dtype, x.device, 4, True,
    )  # fmt: skip
    assert taken == []
    mask = torch.rand(40) < 0.5
    for rows in (
        slice(3, 9),
        slice(None, None, 7),
        torch.tensor([5, 2, -1]),
        mask,
        torch.zeros(0, dtype=torch.int64),
        4,
        -1,
    ):
        assert torch.equal(s[rows], x[rows])
        assert not isinstance(s[rows], Streamed)
    assert max(map(len, blocks(s))) == 1000 // x[0].nbytes
    for fn in (lambda: s * 2, s.sum, lambda: torch.isfinite(s), lambda: list(s)):
        with pytest.raises(RuntimeError, match="needs all samples at once, but they are read in parts"):
            fn()


def test_facts_and_hashes_of_streamed_samples_are_those_of_tensors_in_one_pass(tight: None) -> None:
    x = points(40, SHAPE)
    s, taken = lazy(x)
    one, other = facts(s), facts(x)
    assert (one.low, one.high, one.grid, one.bad.tolist()) == (other.low, other.high, other.grid, [])
    assert torch.equal(one.keys, other.keys)
    assert tensors_hash(s, torch.arange(3)) == tensors_hash(x, torch.arange(3))
    assert sum(taken) == 40
    x[7, 0, 2, 2] = torch.nan
    assert facts(lazy(x)[0]).bad.tolist() == [7]


def test_rows_are_replaced_where_they_are() -> None:
    x = points(10, SHAPE)
    new, rows, where = x[:4] + 1, torch.tensor([8, 1, 5, 2]), torch.tensor([True, False, True, True])
    whole = replaced(x, rows, new, where)
    assert torch.equal(whole[torch.tensor([8, 5, 2])], new[where])
    assert torch.equal(whole[1], x[1])
    s, part = lazy(x)[0], lazy(new)[0]
    for one in (replaced(s, rows, new, where), replaced(s, rows, part, where), replaced(x, rows, part, where)):
        assert isinstance(one, Streamed)
        assert torch.equal(one[:], whole)
        again = replaced(one, torch.tensor([8, 3]), selected(part, torch.tensor([3, 0])))
        assert torch.equal(again[:], replaced(whole, torch.tensor([8, 3]), new[[3, 0]]))
    assert replaced(s, rows, part, torch.zeros(4, dtype=torch.bool)) is s


def test_packed_files_are_those_of_the_library() -> None:
    from safetensors.torch import save

    tensors = {
        "y": torch.arange(5), "b": torch.rand(5) > 0.5, "x": torch.rand(5, 3), "a": torch.rand(5).double(),
        "h": torch.rand(3).half(), "none": torch.rand(0, 3), "u": torch.zeros(3, dtype=torch.uint8),
    }  # fmt: skip
    s = lazy(tensors["x"])[0]
    assert b"".join(map(bytes, packed(tensors | {"x": s}))) == save(tensors)


def outcome(folder: Path | None, model: Any, *data: Any, **options: Any) -> dict[str, Any]:
    """Everything that an audit finds, but for times."""
    made = audit(model, *data, plan=PLAN, out=folder, batch=16, **options).model_dump(mode="json")
    files = {} if folder is None else {f.name: f.read_bytes() for f in folder.glob("*.safetensors")}
    return {k: v for k, v in made.items() if k not in ("seconds", "created", "efficiency")} | files


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tensor, Tensor, dict[str, Any]]:
    model, x = tiny_net(3, SHAPE), points(14, SHAPE, seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return model, x, y, outcome(tmp_path_factory.mktemp("whole"), model, x, y, Linf(0.03), chunk=5)


def test_an_audit_of_streamed_samples_is_that_of_tensors(audited: Any, tight: None, tmp_path: Path) -> None:
    model, x, y, whole = audited
    s, taken = lazy(x)
    assert outcome(tmp_path, model, s, y, Linf(0.03), chunk=5) == whole
    assert sum(taken) > len(x)
    record = json.loads((tmp_path / "summary.json").read_text())
    assert max(map(len, (value for value in record.values() if isinstance(value, list)))) < 100
    files = list((tmp_path / "chunks/cascade-0-apgd").iterdir())
    files[0].write_bytes(b"")
    again = outcome(tmp_path, model, s, y, Linf(0.03), chunk=5)
    assert str(files[0].name) in again.pop("warnings")[-1]
    assert again == {name: value for name, value in whole.items() if name != "warnings"}


class Pairs(Dataset[Any]):
    """Samples and labels as people have them."""

    def __init__(self, x: Tensor, y: Tensor, form: Callable[[Tensor, Tensor], Any]) -> None:
        self.x, self.y, self.form = x, y, form

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> Any:
        return self.form(self.x[k], self.y[k])


class Once(IterableDataset[Any]):
    """Samples that can only be iterated."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.x, self.y.tolist(), strict=True))


class Counted(Once):
    """The same with a length, as many have that cannot be indexed."""

    def __len__(self) -> int:
        return len(self.x)


def test_data_sets_and_loaders_are_audited(audited: Any, tight: None) -> None:
    model, x, y, whole = audited
    pairs = Pairs(x, y, lambda a, b: (a, int(b)))
    loader = DataLoader(pairs, batch_size=4)
    one = outcome(None, model, pairs, Linf(0.03), chunk=5)
    assert one == {name: value for name, value in whole.items() if not name.endswith(".safetensors")}
    from unfooled.data.torch_sets import from_torch

    sources = (
        loader, TensorDataset(x, y), Once(x, y), Counted(x, y), DataLoader(Once(x, y), batch_size=3),
        Pairs(x, y, lambda a, b: {"image": a, "label": b}), DataLoader(pairs, batch_size=None),
    )  # fmt: skip
    for source in sources:
        samples, labels, notes = from_torch(source)
        assert isinstance(samples, Streamed) or isinstance(source, TensorDataset)
        assert torch.equal(samples[:], x)
        assert torch.equal(labels, y)
        assert notes == ()
    assert "order" in from_torch(DataLoader(pairs, batch_size=4, shuffle=True))[2][0]
    bytes_ = (x * 255).round().to(torch.uint8)
    samples, _, _ = from_torch(Pairs(bytes_, y, lambda a, b: (a.numpy().transpose(1, 2, 0), b)))
    assert torch.equal(samples[:], bytes_.float() / 255)


def test_data_sets_that_cannot_be_used() -> None:
    model, x, y = tiny_net(3, SHAPE), points(8, SHAPE), torch.zeros(8, dtype=torch.int64)
    cases: list[tuple[Any, tuple[Any, ...], str]] = [
        (Pairs(x, y, lambda a, b: a), (Linf(0.1),), "they must be pairs"),
        (Pairs(x, y, lambda a, b: {"a": a}), (Linf(0.1),), "items have a; they must have an image and a label"),
        (Pairs(x, y, lambda a, b: (a * torch.rand(()), b)), (Linf(0.1),), "another sample each time"),
        (Pairs(x[:0], y, lambda a, b: (a, b)), (Linf(0.1),), "is empty"),
        (Pairs(x, y, lambda a, b: (a, b)), (y, Linf(0.1)), "leave y out"),
        (x, (y,), "threat is a NoneType"),
    ]
    for data, rest, message in cases:
        with pytest.raises(BadInput, match=message):
            audit(model, data, *rest)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_archives_are_read_from_their_file(
    compressed: bool, dtype: str, tight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 7, 8, 3)).astype("u1")
    x = x if dtype == "u1" else (x / 255).astype(dtype)
    y = np.arange(30) // 3
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", x=x, y=y)
    whole = load_dataset(tmp_path / "a.npz")
    assert not isinstance(whole.x, Streamed)
    whole_array = Archive.__getitem__
    monkeypatch.setattr(
        Archive, "__getitem__", lambda self, name: pytest.fail("read whole") if name == "x" else whole_array(self, name)
    )
    data = load_dataset(tmp_path / "a.npz", stream=True)
    assert isinstance(data.x, Streamed)
    assert torch.equal(data.x[:], whole.x)
    assert torch.equal(data.x[torch.tensor([29, 0, 11])], whole.x[[29, 0, 11]])
    assert torch.equal(data.y, whole.y)


def test_a_flipped_bit_of_an_archive_is_noticed(tight: None, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((30, 7, 8, 3), 9, "u1"), y=np.arange(30) // 3)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(bytes([9] * 50)) + 20] ^= 1
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(BadInput, match="damaged"):
        load_dataset(tmp_path / "a.npz", stream=True)


def test_values_are_checked_over_all_samples(tight: None, tmp_path: Path) -> None:
    x = np.zeros((30, 2, 3, 3), "f4")
    x[29, 0, 0, 0] = 3
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) // 3)
    with pytest.raises(BadInput, match=r"lies in \[0, 3\]"):
        load_dataset(tmp_path / "a.npz", n=2, stream=True)


def test_folders_of_images_are_decoded_in_parts_alike(tight: None, tmp_path: Path) -> None:
    from PIL import Image

    for k in range(12):
        mode, place = ("RGB" if k == 11 else "L"), tmp_path / "ab"[k % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 5) if mode == "L" else (6, 5, 3), 10 * k, np.uint8), mode).save(place / f"{k}.png")
    whole, data = load_dataset(tmp_path), load_dataset(tmp_path, stream=True)
    assert isinstance(data.x, Streamed)
    assert data.x.shape == whole.x.shape == (12, 3, 6, 5)
    assert torch.equal(data.x[:2], whole.x[:2])
    assert torch.equal(data.x[:], whole.x)
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "a/100.png")
    with pytest.raises(BadInput, match="the images have 2 sizes"):
        load_dataset(tmp_path, stream=True)


def test_stored_arrays_that_are_cut_off_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    x = StoredArray(tmp_path / "a", 10, (9, 10), np.dtype("u1"))
    assert x[np.array([8, 0])].shape == (2, 10)
    (tmp_path / "a").write_bytes(bytes(50))
    with pytest.raises(BadInput, match="was cut off or removed while it was read"):
        x[np.array([8])]


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 << 29), (1 << 30, 1 << 30)]
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert read_size(text) == size
    with memory_limit(text):
        assert memory.limit() == size


@pytest.mark.parametrize("text", ["", "much", "-2GB", "2XB", "1MB", "nan", "0", "1e9GB", "9" * 30])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="memory is"):
        read_size(text)


def test_small_samples_stay_in_memory() -> None:
    x = points(6, SHAPE)
    assert streamed(x) is x
    assert torch.equal(streamed(lazy(x)[0]), x)
    assert not isinstance(streamed(lazy(x)[0]), Streamed)


def test_smaller_limits_read_in_smaller_parts() -> None:
    with memory_limit("16MiB"):
        assert memory.max_bytes_in_memory() == 1 << 20
        assert memory.block_bytes() == 1 << 18
