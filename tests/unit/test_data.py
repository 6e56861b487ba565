"""Loading data: every kind of source, its order, and one sentence for everything that can be wrong with it."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.core.errors import BadInput
from unfooled.data import Dataset, load_data, load_dataset
from unfooled.data.formats.arrays import samples
from unfooled.data.formats.idx import read_idx

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))


def bytes_of(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    x.flat[0] = 255
    return x


# Digits


def test_digits_have_a_fixed_balanced_split() -> None:
    from sklearn.datasets import load_digits

    train, test = load_dataset(split="train"), load_dataset("digits", "test", seed=5)
    assert train.x.shape == (1257, 1, 8, 8) and test.x.shape == (540, 1, 8, 8)
    assert (train.x.dtype, train.y.dtype) == (torch.float32, torch.int64)
    assert float(train.x.min()) == 0 and float(train.x.max()) == 1
    assert test.classes == list("0123456789")
    pixels, y = load_digits(return_X_y=True)
    both = torch.cat([train.x, test.x]).flatten(1).numpy() * 16
    order = np.lexsort(both.T)
    assert np.array_equal(both[order], pixels[np.lexsort(pixels.T)])
    share = test.y.bincount().numpy() / np.bincount(y)
    assert (abs(share - 0.3) < 0.01).all()
    assert torch.equal(load_data(seed=1)[0], test.x)
    assert test.y[:10].tolist() == [0, 2, 4, 6, 8, 1, 5, 7, 0, 9]  # the split is part of published results
    with pytest.raises(BadInput, match="digits has no split 'val'; it has train, test"):
        load_data(split="val")


def test_n_shuffle_and_seed() -> None:
    whole, y = load_data()
    x, first = load_data(n=7)
    assert torch.equal(x, whole[:7]) and torch.equal(first, y[:7])
    state = torch.get_rng_state()
    one, other = load_dataset(shuffle=True, seed=1), load_dataset(shuffle=True, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one.y, other.y)
    assert torch.equal(load_data(n=9, shuffle=True, seed=1)[0], one.x[:9])
    assert torch.equal(one.x, whole[one.index]) and sorted(one.index.tolist()) == list(range(540))
    many = load_dataset(n=1000)
    assert len(many.x) == 540
    assert many.warnings == ("1000 samples were asked for; digits (test) has 540",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"n": -3}, "n is -3"),
        ({"channels": 2}, "channels is 2; it must be 1 .grey. or 3"),
        ({"size": 0}, "size is 0"),
        ({"size": (8, 8, 1)}, r"size is \(8, 8, 1\)"),
        ({"source": "digit"}, "no data 'digit'; did you mean digits.*mnist"),
        ({"source": "fashion-mnst"}, "did you mean fashion-mnist"),
        ({"source": 3}, "the data are a int"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_data(**options)


# Order


def test_sources_sorted_by_class_are_dealt_out_in_turn() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2])
    x = np.linspace(0, 1, 7)[:, None]
    data = load_dataset((x, y))
    assert data.y.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert data.index.tolist() == [0, 4, 6, 1, 5, 2, 3]
    assert torch.allclose(data.x[:, 0], data.index / 6)
    assert load_data((x, y), n=3)[1].tolist() == [0, 1, 2]
    assert load_data((x, y[::-1]), n=3)[1].tolist() == [2, 1, 0]
    assert load_data((x[:3], [2, 1, 0]))[1].tolist() == [2, 1, 0]
    mixed = np.array([2, 0, 0, 1, 0, 1, 0])
    assert load_data((x, mixed))[1].tolist() == mixed.tolist()
    # Sorted in the source, whatever order the labels put its classes in.
    named = load_dataset((x, y, ["a", "b", "c"]), labels=["b", "c", "d", "a"], n=3)
    assert [named.classes[k] for k in named.y] == ["a", "b", "c"]


# Arrays and NumPy archives


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 6, 5), (4, 1, 6, 5)),
        ((4, 6, 5, 3), (4, 3, 6, 5)),
        ((4, 3, 6, 5), (4, 3, 6, 5)),
        ((4, 6, 6, 1), (4, 1, 6, 6)),
        ((4, 2, 9, 9), (4, 2, 9, 9)),
        ((4, 9, 9, 5), (4, 5, 9, 9)),
        ((4, 7), (4, 7)),
    ],
)
def test_channels_are_found_and_bytes_scaled(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x, rows = bytes_of(*shape), np.array([2, 0])
    z = samples(x, rows, "x")
    assert z.shape == (2, *expected[1:]) and z.dtype == np.float32
    if len(shape) == 4 and expected[1] != shape[1]:
        x = x.transpose(0, 3, 1, 2)
    assert np.array_equal(z, x.reshape(expected)[rows].astype(np.float32) / np.float32(255))
    fractions = (x / 255).astype(np.float64)
    assert np.allclose(samples(fractions.reshape(expected), rows, "x"), z)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((2, 3), 1.5), r"lies in \[1.5, 1.5\]"),
        (np.full((2, 3), -0.1), r"lies in \[-0.1, -0.1\]"),
        (np.array([[0.1, np.nan]]), "NaN"),
        (np.full((2, 3), 9), r"holds int64 in \[9, 9\]; save bytes"),
        (np.ones((2, 3), np.uint8), "only the bytes 0 and 1"),
        (np.array([["a"]]), "holds <U1"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((1, 3, 3, 3, 3, 3)), r"shape \(1, 3, 3, 3, 3, 3\)"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        (np.zeros((2, 3, 7, 3)), "either end could be the channels"),
        (np.zeros((2, 9, 7, 9)), "either end could be the channels"),
    ],
)
def test_arrays_that_are_no_samples(x: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        samples(x, np.array([0]), "x")
    assert samples(np.ones((2, 3), bool), np.array([0]), "x").tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("X_train", "Y_train"), ("X_test", "Y_test")),
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("data_train", "targets_train"), ("data_test", "targets_test")),
    ],
)
def test_npz_with_splits(tmp_path: Path, train: tuple[str, str], test: tuple[str, str]) -> None:
    x, y = bytes_of(6, 5, 4, 3), np.array([2, 0, 1, 1, 0, 2])
    arrays: Any = {train[0]: x[:4], train[1]: y[:4], test[0]: x[4:], test[1]: y[4:, None], "track_train": y[:4]}
    np.savez(tmp_path / "some.npz", **arrays)
    data = load_dataset(tmp_path / "some.npz", "train")
    assert (data.name, data.split, data.classes, data.warnings) == ("some", "train", ["0", "1", "2"], ())
    assert np.array_equal(data.x.numpy(), x[:4].transpose(0, 3, 1, 2) / np.float32(255))
    assert load_data(str(tmp_path / "some.npz"))[1].tolist() == [0, 2]
    with pytest.raises(BadInput, match=r"some\.npz has no split 'validation'; it has train, test"):
        load_data(tmp_path / "some.npz", "validation")


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("data", "targets")])
def test_npz_without_splits_is_read_whole_with_a_warning(tmp_path: Path, keys: tuple[str, str]) -> None:
    arrays: Any = {keys[0]: bytes_of(3, 4, 4), keys[1]: np.array(["cat", "ape", "cat"])}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load_dataset(tmp_path / "a.npz")
    assert (data.split, data.classes, data.y.tolist()) == ("all", ["ape", "cat"], [1, 0, 1])
    assert data.warnings == ("a.npz has no splits: all of it was read, whatever split was asked for",)
    with pytest.raises(BadInput, match="there is no split 'tset'; splits are train, test, val"):
        load_data(tmp_path / "a.npz", "tset")


def test_npz_reads_only_the_split_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: Any = {
        f"{key}_{split}": bytes_of(3, 4, 4) if key == "x" else np.arange(3)
        for key in "xy"
        for split in ("train", "test")
    }
    np.savez(tmp_path / "a.npz", **arrays)
    read: list[str] = []
    real = np.lib.npyio.NpzFile.__getitem__

    def spy(held: Any, key: str) -> Any:
        read.append(key)
        return real(held, key)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", spy)
    load_data(tmp_path / "a.npz", "test", n=1)
    assert sorted(read) == ["x_test", "y_test"]


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=bytes_of(30, 9, 9), y=np.arange(30))
    content = path.read_bytes()
    for part in (content[:400], content[:-30], b""):
        path.write_bytes(part)
        with pytest.raises(BadInput, match=r"a\.npz is cut off, damaged or no NumPy archive"):
            load_data(path)
    np.savez_compressed(path, x=bytes_of(30, 9, 9), y=np.arange(30))
    damaged = bytearray(path.read_bytes())
    damaged[300:400] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match=r"a\.npz is cut off, damaged"):
        load_data(path)
    np.savez(path, x=np.array([{"a": 1}], object), y=np.arange(1))
    with pytest.raises(BadInput, match="holds pickled objects"):
        load_data(path)
    np.savez(path, foo=np.zeros(2), bar=np.zeros(2))
    with pytest.raises(BadInput, match="holds foo, bar; samples and labels are looked for as x_test"):
        load_data(path)
    np.savez(path, x=bytes_of(3, 4, 4), y=np.arange(2))
    with pytest.raises(BadInput, match="has 3 samples in x and 2 labels in y"):
        load_data(path)
    np.savez(path, x=np.zeros((0, 4, 4)), y=np.zeros(0))
    with pytest.raises(BadInput, match="is empty"):
        load_data(path)
    np.savez(path, x=bytes_of(2, 4, 4), y=np.array([0, 4]), classes=np.array(["a", "b"]))
    with pytest.raises(BadInput, match="labels up to 4, and 2 names in classes"):
        load_data(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadInput, match="a single array"):
        load_data(path)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3), "look one-hot, save y.argmax"),
        (np.array([0, 1.5, 2]), "no whole numbers"),
        (np.array([0, -1, 2]), "the label -1"),
    ],
)
def test_labels_that_are_none(y: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_data((bytes_of(3, 4), y))
    assert load_data((bytes_of(3, 4), torch.tensor([2.0, 0.0, 1.0])))[1].tolist() == [2, 0, 1]


# IDX


def write_idx(path: Path, values: np.ndarray, code: int = 8) -> Path:
    content = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("style", ["{}-{}-idx{}-ubyte", "letters-{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
def test_idx_folders_and_files(tmp_path: Path, style: str, end: str) -> None:
    x, y = bytes_of(5, 4, 3), np.array([3, 1, 0, 2, 3], np.uint8)
    for split, rows in (("train", slice(3)), ("t10k", slice(3, 5))):
        write_idx(tmp_path / (style.format(split, "images", 3) + end), x[rows])
        write_idx(tmp_path / (style.format(split, "labels", 1) + end), y[rows])
    train, test = load_dataset(tmp_path, "train"), load_dataset(tmp_path)
    assert np.array_equal(train.x.numpy(), x[:3, None] / np.float32(255))
    assert (test.y.tolist(), test.split, test.name) == ([2, 3], "test", tmp_path.name)
    one = tmp_path / (style.format("t10k", "images", 3) + end)
    assert torch.equal(load_data(one)[0], test.x)
    with pytest.raises(BadInput, match="has no split 'train'; it has test"):
        load_data(one, "train")
    with pytest.raises(BadInput, match="has no split 'val'; it has "):
        load_data(tmp_path, "val")


def test_idx_types_and_byte_order(tmp_path: Path) -> None:
    values = np.array([[1, -2], [300, 4]])
    for code, kind in ((0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        found = read_idx(write_idx(tmp_path / "a", values.astype(kind), code))
        assert np.array_equal(found, values) and found.dtype.isnative


def test_idx_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "t10k-images-idx3-ubyte", bytes_of(5, 4, 3))
    with pytest.raises(BadInput, match=r"no labels beside it; t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        load_data(path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(4, np.uint8))
    with pytest.raises(BadInput, match="has 5 images, t10k-labels-idx1-ubyte has 4 labels"):
        load_data(path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], r"cut off: 75 bytes, where its header \(sizes \(5, 4, 3\)\) means 76"),
        (whole + b"\0", "too long: 77 bytes"),
        (whole[:9], "cut off: 9 bytes"),
        (b"\x89PNG", "no IDX file: it starts with 89 50 4e 47"),
        (b"\0\0\x07\x03" + whole[4:], "no IDX file: it starts with 00 00 07 03"),
        (b"", "no IDX file: it starts with nothing"),
        (gzip.compress(whole)[:-12], "cut off or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=message):
            load_data(tmp_path)


# Image folders


def picture(path: Path, value: int | tuple[int, ...], size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = tmp_path / "zoo"
    for split in ("train", "test"):
        for k, name in enumerate(("cat", "ape", "bee")):
            if (split, name) == ("test", "ape"):
                continue
            for i in range(2):
                picture(root / split / name / f"{i}.png", (50 * k, i, 255))
    (root / "test" / "ape").mkdir()
    (root / "test" / ".hidden").mkdir()
    (root / "test" / "cat" / "notes.txt").write_text("no image")
    return root


def test_folders_with_splits_share_their_classes(zoo: Path) -> None:
    train, test = load_dataset(zoo, "train"), load_dataset(zoo, "test")
    assert train.classes == test.classes == ["ape", "bee", "cat"]
    assert train.x.shape == (6, 3, 4, 6)
    assert train.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.x[:3, 0, 0, 0].mul(255).round().tolist() == [50, 100, 0]
    assert train.x[:, 1, 0, 0].mul(255).round().tolist() == [0, 0, 0, 1, 1, 1]
    assert test.y.tolist() == [1, 2, 1, 2]
    assert "1 classes have no images" in test.warnings[0] and test.warnings[0].endswith("ape")
    with pytest.raises(BadInput, match="no split 'val'; it has test, train"):
        load_data(zoo, "val")
    (zoo / "test" / "ape").rmdir()
    assert torch.equal(load_data(zoo, "test")[1], test.y)
    whole = load_dataset(zoo / "train", "test")
    assert (whole.split, len(whole.x)) == ("all", 6)
    assert "has no splits" in whole.warnings[0]


def test_only_the_images_needed_are_decoded(zoo: Path) -> None:
    damaged = zoo / "train" / "bee" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert len(load_data(zoo, "train", n=4)[0]) == 4
    with pytest.raises(BadInput, match=r"bee/1\.png cannot be read as an image"):
        load_data(zoo, "train", n=5)
    damaged.write_bytes(b"")
    with pytest.raises(BadInput, match=r"bee/1\.png cannot be read as an image"):
        load_data(zoo, "train")


def test_sizes_of_images(zoo: Path) -> None:
    picture(zoo / "train" / "bee" / "2.png", (1, 2, 3), (8, 8))
    with pytest.raises(BadInput, match=r"have 2 sizes, 6x4 \(0\.png\), 8x8 \(2\.png\); give the size"):
        load_data(zoo, "train")
    assert load_data(zoo, "train", size=5)[0].shape == (7, 3, 5, 5)
    assert load_data(zoo, "train", size=(3, 2))[0].shape == (7, 3, 3, 2)


def test_modes_of_images(tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    picture(grey / "a" / "0.png", 51, mode="L")
    picture(grey / "b" / "0.png", 1, mode="1")
    Image.fromarray(np.full((4, 6), 13107, np.uint16)).save(grey / "a" / "1.png")
    x, _ = load_data(grey)
    assert x.shape == (3, 1, 4, 6)
    assert torch.allclose(x[:, 0, 0, 0], torch.tensor([0.2, 1.0, 0.2]))
    assert load_data(grey, channels=3)[0].shape == (3, 3, 4, 6)
    assert load_data(grey, size=8)[0].shape == (3, 1, 8, 8)
    picture(grey / "b" / "1.png", (255, 0, 0, 9), mode="RGBA")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.save(grey / "b" / "2.png", transparency=bytes([0, 128]))
    x, y = load_data(grey)
    assert x.shape == (5, 3, 4, 6)
    assert x[y == 1][:, :, 0, 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert torch.allclose(load_data(grey, channels=1)[0][y == 1][1, 0], torch.tensor(76 / 255))
    Image.fromarray(np.full((4, 6), 3.5, np.float32)).save(grey / "a" / "2.tif")
    with pytest.raises(BadInput, match=r"2\.tif .*lie in \[3.5, 3.5\]"):
        load_data(grey)


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no images; with labels they are looked for as"):
        load_data(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(BadInput, match=r"holds 1 folders \(a\) without any images"):
        load_data(tmp_path)
    for k in range(11):
        picture(tmp_path / "numbers" / str(k) / "0.png", k, mode="L")
    data = load_dataset(tmp_path / "numbers")
    assert data.classes[:3] == ["0", "1", "10"]
    assert "in the order of text: 0, 1, 10, 2" in data.warnings[1]


def test_arrays_are_resized_and_recoloured_as_images_are(tmp_path: Path) -> None:
    x = bytes_of(2, 12, 9, 3)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(2))
    for k in range(2):
        (tmp_path / "f" / str(k)).mkdir(parents=True)
        Image.fromarray(x[k]).save(tmp_path / "f" / str(k) / "0.png")
    for options in ({"size": (5, 20)}, {"channels": 1}, {"size": 7, "channels": 1}):
        a, b = (load_data(tmp_path / name, **options)[0] for name in ("a.npz", "f"))
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1.5 / 255
    grey = (bytes_of(2, 4, 4), np.arange(2))
    assert load_data(grey, channels=3)[0].shape == (2, 3, 4, 4)
    assert torch.equal(load_data(grey, channels=3)[0][:, 1:2], load_data(grey)[0])
    with pytest.raises(BadInput, match="size and channels are for images"):
        load_data((bytes_of(2, 4), np.arange(2)), size=8)
    with pytest.raises(BadInput, match="has 2 channels, which cannot become 3"):
        load_data((bytes_of(2, 2, 9, 9), np.arange(2)), channels=3)


# The class order that a model expects


@pytest.mark.parametrize(
    "content",
    [
        "bee\n\nCat\nDog\nape\n",
        json.dumps(["bee", "cat", "dog", "ape"]),
        json.dumps({"3": "ape", "0": "bee", "1": "cat", "2": "dog"}),
        json.dumps({"ape": 3, "bee": 0, "cat": 1, "dog": 2}),
        json.dumps([["n1", "bee"], ["n2", "cat"], ["n3", "dog"], ["n4", "ape"]]),
    ],
)
def test_classes_are_found_by_name(zoo: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(content)
    data = load_dataset(zoo, "train", labels=file)
    assert [name.lower() for name in data.classes] == ["bee", "cat", "dog", "ape"]
    assert data.y.tolist() == [3, 0, 1, 3, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bee\ncta\nape", "1 classes of zoo are not in .*labels.txt, the first is 'cat'; did you mean cta"),
        ("bee\ncat\nape\nCat", "the class 'cat' of zoo is in .* more than once"),
        ("", "there are no labels in"),
        ("[1, 2", "are not JSON"),
        ('{"1": "bee", "2": "cat"}', "have the indices 1, 2, .*; they must be 0, 1, 2"),
    ],
)
def test_labels_that_do_not_fit(zoo: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(BadInput, match=message):
        load_data(zoo, "train", labels=tmp_path / "labels.txt")


def test_labels_name_the_classes_of_a_source_without_names() -> None:
    data = load_dataset(n=5, labels=["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert data.classes[2] == "two" and torch.equal(data.y, load_data(n=5)[1])
    reverse = load_dataset(n=5, labels=list("9876543210"))
    assert torch.equal(reverse.y, 9 - data.y)
    with pytest.raises(BadInput, match="labels names 2 classes; digits has 10"):
        load_data(labels=["a", "b"])
    with pytest.raises(BadInput, match=r"labels in nowhere\.txt cannot be read"):
        load_data(labels="nowhere.txt")


# The user's own code


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("own_data.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass\n"
        "class Settings:\n"
        "    size: int = 3\n"  # looks its own module up
        "X = torch.linspace(0, 1, 6).reshape(3, 2)\n"
        "def pair(): return X, [1, 0, 1]\n"
        "def split(split): return X, [0 if split == 'train' else 1] * 3, ['no', 'yes']\n"
        "def breaks(): raise RuntimeError('the disk is on the moon')\n"
        "def one(): return X\n"
        "def short(): return X, [0]\n"
    )
    yield tmp_path
    sys.modules.pop("own_data", None)


@pytest.mark.parametrize("place", ["own_data", "own_data.py"])
def test_factories(own: Path, place: str) -> None:
    before = list(sys.path)
    data = load_dataset(f"{place}:pair")
    assert data.x.tolist() == torch.linspace(0, 1, 6).reshape(3, 2).tolist()
    assert (data.y.tolist(), data.split) == ([1, 0, 1], "all")
    assert "has no splits" in data.warnings[0]
    told = load_dataset(f"{place}:split", "train")
    assert (told.split, told.y.tolist(), told.classes, told.warnings) == ("train", [0, 0, 0], ["no", "yes"], ())
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:breaks", "own_data:breaks raised RuntimeError: the disk is on the moon"),
        ("own_data:one", "own_data:one is a Tensor; data are .x, y."),
        ("own_data:short", "has 3 samples and 1 labels"),
        ("own_data:piar", "has no 'piar'; did you mean pair"),
        ("own_dta:pair", "importing own_dta failed with ModuleNotFoundError"),
        ("none.py:pair", "there is no file none.py"),
        ("own_data.py", "is no data file"),
    ],
)
def test_what_fails_in_a_factory_is_reported(own: Path, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_data(name)


def test_functions_and_pairs_in_python() -> None:
    data = load_dataset(lambda split: (torch.rand(2, 3), torch.tensor([0, 1])), "val")
    assert isinstance(data, Dataset) and data.split == "val"
    with pytest.raises(BadInput, match="labels up to 4, and 2 class names"):
        load_data((bytes_of(2, 3), [0, 4], ["a", "b"]))


# Packs of JPEG images


def jpeg(value: int) -> bytes:
    out, pixels = io.BytesIO(), np.full((8, 16, 3), value, np.uint8)
    if value % 200 == 0:
        pixels[:, 8:] = bytes_of(8, 8, 3)  # a longer file
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def packed(files: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(files), np.uint8), np.array([len(file) for file in files])


def test_packs_are_decoded(tmp_path: Path) -> None:
    files = [jpeg(v) for v in (0, 100, 200, 250)]
    payload, length = packed(files)
    assert len(set(length.tolist())) > 1
    names = np.array(["a.Cat/1.jpg", "b.Dog/1.jpg", "a.Cat/2.jpg", "b.Dog/2.jpg"])
    y, train = np.array([0, 1, 0, 1]), np.array([True, True, False, False])
    np.savez(tmp_path / "whole.npz", jpeg=payload, length=length, y=y, is_train=train, filename=names)
    test = load_dataset(tmp_path / "whole.npz")
    assert (test.classes, test.y.tolist(), test.split) == (["a.Cat", "b.Dog"], [0, 1], "test")
    assert torch.allclose(test.x[:, 0, 0, 0], torch.tensor([200, 250]) / 255, atol=0.02)

    header = files[0][: next(k for k, bytes_ in enumerate(zip(*files, strict=False)) if len(set(bytes_)) > 1)]
    body, size = packed([file[len(header) : -2] for file in files])
    assert all(file.endswith(b"\xff\xd9") for file in files)
    shared: Any = {
        "jpeg_header": np.frombuffer(header, np.uint8),
        "test_payload": body,
        "test_len": size,
        "y_test": y,
    }
    np.savez(tmp_path / "headed.npz", **shared)
    data = load_dataset(tmp_path / "headed.npz", n=3)
    assert torch.allclose(data.x[:, 0, 0, 0], torch.tensor([0, 100, 200]) / 255, atol=0.02)
    with pytest.raises(BadInput, match="has no split 'train'; it has test"):
        load_data(tmp_path / "headed.npz", "train")
    np.savez(tmp_path / "headed.npz", **shared | {"test_payload": body[:-3]})
    with pytest.raises(BadInput, match="is no whole pack: 4 lengths"):
        load_data(tmp_path / "headed.npz")
    np.savez(tmp_path / "headed.npz", **shared | {"jpeg_header": np.zeros(9, np.uint8)})
    with pytest.raises(BadInput, match=r"image 0 of .* cannot be read as an image"):
        load_data(tmp_path / "headed.npz")


# Published data


def needed(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"no {name} in {DATA} (UNFOOLED_DATA)")
    return DATA / name


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    needed("mnist.npz")
    return load_dataset("mnist")


def test_mnist(mnist: Dataset) -> None:
    assert mnist.x.shape == (10000, 1, 28, 28)
    assert mnist.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert (mnist.name, mnist.split, mnist.classes) == ("mnist", "test", list("0123456789"))
    assert abs(float(mnist.x.mean()) - 0.1325) < 1e-3
    assert mnist.warnings == ()


def test_published_sets() -> None:
    needed("gtsrb_subset.npz")
    train, test = load_dataset("gtsrb", "train", n=43), load_dataset("gtsrb")
    assert test.x.shape == (2105, 3, 32, 32) and len(test.classes) == 43
    assert train.y.tolist() == list(range(43))  # sorted by class in the file
    needed("cifar10_jpeg.npz")
    cifar = load_dataset("cifar10", n=200)
    assert cifar.x.shape == (200, 3, 32, 32)
    assert [cifar.classes[k] for k in cifar.y[:4]] == ["cat", "ship", "ship", "airplane"]
    assert (cifar.x.mean((0, 2, 3)) - torch.tensor([0.49, 0.48, 0.45])).abs().max() < 0.03
    needed("fashion_mnist.npz")
    fashion = load_dataset("fashion-mnist", n=3)
    assert [fashion.classes[k] for k in fashion.y] == ["Ankle boot", "Pullover", "Trouser"]
    birds = load_dataset(needed("cub200/cub10_images128_jpeg.npz"), n=10)
    assert birds.x.shape == (10, 3, 128, 128) and birds.y.tolist() == list(range(10))
    assert birds.classes[0] == "001.Black_footed_Albatross"


def test_known_names_say_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    with pytest.raises(
        BadInput, match=rf"mnist needs the file mnist\.npz in {tmp_path}, which is missing; set UNFOOLED"
    ):
        load_data("mnist")
    np.savez(tmp_path / "mnist.npz", x_test=bytes_of(2, 28, 28), y_test=np.array([3, 4]))
    assert load_dataset("mnist").classes == list("0123456789")
