"""Formats of data sets as they are published: CIFAR's two versions, ILSVRC2012, folders of `datasets`."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251  (writes what the reader must take or refuse)
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.core import memory
from unfooled.core.errors import BadInput
from unfooled.core.samples import Streamed
from unfooled.data import load_dataset
from unfooled.data.formats.stored import Stacked

NAMES = ("plane", "car", "bird")


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(memory, "MAX_IN_MEMORY", 1)
    monkeypatch.setattr(memory, "MAX_BLOCK", 20_000)


def batches(n: int = 4) -> list[tuple[np.ndarray, list[int]]]:
    source = np.random.default_rng(0)
    return [(source.integers(0, 256, (n, 3072), dtype=np.uint8), [k % 3, 1, 2, 0][:n]) for k in range(6)]


def binary(place: Path) -> None:
    for k, (x, y) in enumerate(batches(), 1):
        data = b"".join(bytes([label]) + row.tobytes() for row, label in zip(x, y, strict=True))
        (place / ("test_batch.bin" if k == 6 else f"data_batch_{k}.bin")).write_bytes(data)
    (place / "batches.meta.txt").write_text("\n".join([*NAMES, ""]))


def pickled(place: Path, protocol: int = 2) -> None:
    for k, (x, y) in enumerate(batches(), 1):
        content = {b"data": x, b"labels": y, b"batch_label": b"one", b"filenames": [b"a.png"] * len(y)}
        (place / ("test_batch" if k == 6 else f"data_batch_{k}")).write_bytes(pickle.dumps(content, protocol))
    (place / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in NAMES]}, protocol))


def hundred(place: Path) -> None:
    x, y = batches()[5]
    data = b"".join(bytes([0, label]) + row.tobytes() for row, label in zip(x, y, strict=True))
    for split in ("train", "test"):
        (place / f"{split}.bin").write_bytes(data)
    (place / "fine_label_names.txt").write_text("\n".join(NAMES))


@pytest.mark.parametrize("write", [binary, *(partial(pickled, protocol=k) for k in (2, 4, 5)), hundred])
@pytest.mark.parametrize("stream", [False, True])
def test_cifar(write: Any, stream: bool, tight: None, tmp_path: Path) -> None:
    write(tmp_path)
    test = load_dataset(tmp_path, stream=stream)
    x, y = batches()[5]
    assert isinstance(test.x, Streamed) == stream
    assert torch.equal(test.x[:], torch.from_numpy(x.reshape(-1, 3, 32, 32)).float() / 255)
    assert (test.y.tolist(), test.classes, test.split) == (y, list(NAMES), "test")
    if write is not hundred:
        train = load_dataset(tmp_path, "train", stream=stream)
        assert train.x.shape == (20, 3, 32, 32)
        assert torch.equal(train.x[17], torch.from_numpy(batches()[4][0][1].reshape(3, 32, 32)).float() / 255)


class Bomb:
    """A pickle that would run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_cifar_pickles_run_no_code_and_bad_files_are_named(tmp_path: Path) -> None:
    pickled(tmp_path)
    file, mark = tmp_path / "test_batch", tmp_path / "mark"
    good = pickle.loads(file.read_bytes())
    bad: list[bytes] = [
        pickle.dumps({b"data": Bomb(mark), b"labels": [1]}), b"", b"\x80\x02", file.read_bytes()[:500],
        pickle.dumps({b"data": 3}), pickle.dumps([1]), pickle.dumps(good | {b"labels": [1]}),
        pickle.dumps(good | {b"data": good[b"data"].astype(float)}), pickle.dumps(good | {b"labels": ["a"] * 4}),
    ]  # fmt: skip
    for data in bad:
        file.write_bytes(data)
        with pytest.raises(BadInput, match=r"test_batch is (damaged or no pickle of plain values|no CIFAR batch)"):
            load_dataset(tmp_path)
    assert not mark.exists()


def test_binary_cifar_that_cannot_be_read(tmp_path: Path) -> None:
    binary(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(BadInput, match="3000 bytes are no multiple of 3073"):
        load_dataset(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(BadInput, match=r"has no data_batch_3\.bin"):
        load_dataset(tmp_path, "train")
    with pytest.raises(BadInput, match="has no split 'val'"):
        load_dataset(tmp_path, "val")


def test_stacked_arrays_are_read_across_files() -> None:
    parts = [np.arange(6).reshape(3, 2), np.arange(6, 10).reshape(2, 2)]
    rows = np.array([4, 0, 3, 3, 2])
    assert np.array_equal(Stacked(parts)[rows], np.concatenate(parts)[rows])


SYNSETS = ("n01440764", "n01443537", "n01484850")
TRUTH = ("n01484850", "n01440764", "n01440764", "n01443537")


def images(place: Path, names: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.fromarray(np.full((4, 5, 3), 20 * k, np.uint8)).save(place / name)


def ilsvrc(root: Path) -> None:
    for synset in SYNSETS:
        images(root / "train" / synset, [f"{synset}_1.JPEG"])
    images(root / "val", [f"ILSVRC2012_val_0000000{k + 1}.JPEG" for k in range(4)])


def kit(root: Path) -> None:
    from scipy.io import savemat

    place = root / "ILSVRC2012_devkit_t12/data"
    place.mkdir(parents=True)
    ids = {"n01440764": 3, "n01443537": 1, "n01484850": 2}
    rows = [(i, s, f"word {s}, other", 0) for s, i in ids.items()] + [(4, "n99999999", "animal", 3)]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    savemat(place / "meta.mat", {"synsets": np.array(rows, kind)})
    (place / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{ids[s]}\n" for s in TRUTH))


def solution(root: Path) -> None:
    rows = [f"ILSVRC2012_val_0000000{k + 1},{s} 1 2 3 4 {s} 5 6 7 8" for k, s in enumerate(TRUTH)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))


def numbered(root: Path) -> None:
    rows = [f"ILSVRC2012_val_0000000{k + 1}.JPEG {SYNSETS.index(s)}" for k, s in enumerate(TRUTH)]
    (root / "val.txt").write_text("\n".join(rows))


def listed(root: Path) -> None:
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(TRUTH))


@pytest.mark.parametrize("label", [kit, solution, numbered, listed])
def test_validation_images_side_by_side(label: Any, tight: None, tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    with pytest.raises(BadInput, match="have no labels: put ILSVRC2012_validation_ground_truth"):
        load_dataset(tmp_path, "val")
    label(tmp_path)
    data = load_dataset(tmp_path, "val", stream=True)
    assert isinstance(data.x, Streamed)
    assert data.x.shape == (4, 3, 4, 5)
    assert data.y.tolist() == [SYNSETS.index(s) for s in TRUTH]
    assert [float(one.mean()) for one in data.x[:]] == pytest.approx([20 * k / 255 for k in range(4)], abs=0.01)
    assert data.classes == [f"word {s}, other" for s in SYNSETS] if label is kit else list(SYNSETS)
    assert load_dataset(tmp_path, "train").classes == list(SYNSETS)


def test_labels_of_validation_images_that_do_not_fit(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0")
    with pytest.raises(BadInput, match=r"val\.txt has no label of 3 images, the first is ILSVRC2012_val_00000002"):
        load_dataset(tmp_path, "val")
    (tmp_path / "val.txt").write_text("0\n1\n")
    with pytest.raises(BadInput, match=r"has 2 labels, and .* 4 images"):
        load_dataset(tmp_path, "val")
    kit(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"meta\.mat is damaged"):
        load_dataset(tmp_path, "val")
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    with pytest.raises(BadInput, match=r"there is no .*meta\.mat"):
        load_dataset(tmp_path, "val")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def saved(place: Path, columns: dict[str, Any], features: dict[str, Any]) -> None:
    """Write a folder as `datasets.Dataset.save_to_disk` does: two files, several record batches each."""
    import pyarrow as pa

    place.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    for k, part in enumerate((table.slice(0, 5), table.slice(5))):
        with (
            pa.OSFile(str(place / f"data-0000{k}-of-00002.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(part, max_chunksize=2)
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    (place / "state.json").write_text("{}")


def test_folders_of_datasets_with_images(tight: None, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    columns = {"image": [{"bytes": png(20 * k), "path": None} for k in range(8)], "label": [k % 2 for k in range(8)]}
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for split in ("train", "test"):
        saved(tmp_path / split, columns, features)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    data = load_dataset(tmp_path, stream=True)
    assert isinstance(data.x, Streamed)
    assert (data.y.tolist(), data.classes, data.split) == ([0, 1] * 4, ["cat", "dog"], "test")
    assert [round(float(one.mean()) * 255) for one in data.x[torch.tensor([7, 0, 3])]] == [140, 0, 60]
    assert torch.equal(load_dataset(tmp_path).x, data.x[:])
    with pytest.raises(BadInput, match="has no split 'val'; it has test, train"):
        load_dataset(tmp_path, "val")
    path = tmp_path / "test/data-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BadInput, match="is damaged or no Arrow stream"):
        load_dataset(tmp_path)


def test_folders_of_datasets_with_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).random((8, 6)).astype(np.float32)
    columns = {"x": pa.array(x.tolist(), pa.list_(pa.float32())), "y": ["b", "a"] * 4}
    saved(tmp_path, columns, {"x": {"feature": {"dtype": "float32"}, "_type": "Sequence"}, "y": {"dtype": "string"}})
    data = load_dataset(tmp_path)
    assert torch.equal(data.x, torch.from_numpy(x))
    assert (data.y.tolist(), data.classes) == ([1, 0] * 4, ["a", "b"])


def test_without_pyarrow_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"needs pyarrow: pip install 'unfooled\[arrow\]'"):
        load_dataset(tmp_path)
