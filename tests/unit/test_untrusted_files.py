"""Files from outside: what they state is checked before anything is opened, unpacked or made."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_net
from tests.unit.report_runs import judged, summary

from unfooled import BadInput, Limits, load_data, load_model
from unfooled.cli.errors import as_flag
from unfooled.core.errors import as_keyword, option, printable
from unfooled.core.limits import allowing, limits_now, regular
from unfooled.data.formats.maps import read_maps
from unfooled.evaluation.audit.records import Summary
from unfooled.models import SmallCnn
from unfooled.models.names import under_one_prefix
from unfooled.runs.records import read_json, read_record


def images(root: Path, *files: tuple[str, bytes]) -> Path:
    for k, (name, content) in enumerate(files):
        (root / str(k)).mkdir(parents=True)
        (root / str(k) / name).write_bytes(content)
    return root


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", b"%PDF-1.4\n"])
def test_postscript_is_never_opened_whatever_its_name(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    root = images(tmp_path / "zoo", ("1.png", content), ("2.png", picture(8, 8)))
    with pytest.raises(BadInput, match=r"1\.png cannot be read as an image: it is cut off, or none of PNG, JPEG"):
        load_data(root)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG"])
def test_known_formats_are_read_and_their_pixels_limited(tmp_path: Path, kind: str) -> None:
    name = f"1.{kind.lower().replace('jpeg', 'jpg')}"
    root = images(tmp_path / "zoo", (name, picture(20, 10, kind)), (f"2{name}", picture(20, 10, kind)))
    assert load_data(root)[0].shape[2:] == (10, 20)
    with pytest.raises(BadInput, match=r"20 x 10 pixels, more than 199; .* max_pixels"):
        load_data(root, limits=Limits(max_pixels=199))
    assert limits_now() == Limits()


def test_pixels_of_all_images_are_counted_before_one_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = images(tmp_path / "zoo", ("1.png", picture(40, 40)[:60]), ("2.png", picture(40, 40)))
    monkeypatch.setattr("unfooled.core.model.batching.free_bytes", lambda *_: 1000)
    with pytest.raises(BadInput, match=r"2 images of 40 x 40 need .* GiB .* n, or a smaller size"):
        load_data(root)
    with pytest.raises(BadInput, match="20 samples of 1000 x 1000 need"):
        load_data("digits", n=20, size=1000)


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return path


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def header(text: str, content: bytes = bytes(64)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def stated(shape: str, kind: str = "<f4") -> bytes:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")


HEADERS = {
    "huge": (stated(f"({1 << 40}, {1 << 20})"), "states the shape"),
    "short": (stated("(2, 4)"), "states the shape"),
    "negative": (stated("(-1, 64)"), "header that cannot be read"),
    "no bytes": (stated(f"({1 << 60},)", "<U0"), "states the shape"),
    "deep": (header("(" * 9000), "header that cannot be read"),
    "signs": (header("-" * 9000 + "1"), "header that cannot be read"),
    "long": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64), "header of 4,294,967,295 bytes"),
    "objects": (stated("(4,)", "|O"), "holds pickled objects"),
    "nothing": (b"", "no NumPy array"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_arrays_are_compared_with_what_is_there(tmp_path: Path, name: str) -> None:
    content, says = HEADERS[name]
    x, y = array(np.zeros((4, 1, 8, 8), np.float32)), array(np.arange(4))
    for entries in ({"x": content, "y": y}, {"x": x, "y": content}):
        with pytest.raises(BadInput, match=says):
            load_data(archive(tmp_path / "data.npz", **entries))
    (tmp_path / "maps.npy").write_bytes(content)
    with pytest.raises(BadInput, match=f"{says}|no NumPy file"):
        read_maps(str(tmp_path / "maps.npy"))


def test_archives_are_not_unpacked_beyond_the_limit(tmp_path: Path) -> None:
    x = np.zeros((4, 1, 256, 256), np.float32)
    path = archive(tmp_path / "data.npz", x=array(x), y=array(np.arange(4)))
    with pytest.raises(BadInput, match=r"unpacked to 1,048,704 bytes, more than 1,000,000, .* max_bytes"):
        load_data(path, limits=Limits(max_bytes=1_000_000))
    assert len(load_data(path)[0]) == 4
    noise = np.random.default_rng(0).random((4, 1, 256, 256), np.float32)  # what does not shrink may be of any size
    np.savez_compressed(tmp_path / "noise.npz", x=noise, y=np.arange(4))
    assert len(load_data(tmp_path / "noise.npz", limits=Limits(max_bytes=1000))[0]) == 4


@pytest.mark.parametrize("label", [1 << 40, 1e300, np.inf, 100_000])
def test_labels_are_limited_before_names_are_made(tmp_path: Path, label: float) -> None:
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, 2, label])
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for source in (tmp_path / "data.npz", (x, y), lambda: (x, y)):
        with pytest.raises(BadInput, match=r"at most 100,000 are read; .* max_classes"):
            load_data(source)
    if label == 100_000:
        assert int(load_data((x, y), limits=Limits(max_classes=200_000))[1].max()) == 100_000


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_limits_are_whole_numbers(value: Any) -> None:
    with pytest.raises(BadInput, match=r"max_bytes is .* whole number"):
        Limits(max_bytes=value)


def saved(path: Path, **changes: Any) -> Path:
    net = SmallCnn((1, 8, 8), 10)
    torch.save({"model": net.state_dict(), "arch": "small-cnn", "input_shape": [1, 8, 8], **changes}, path)
    return path


def nested(depth: int) -> Any:
    value: Any = "ha"
    for _ in range(depth):
        value = [value, value]
    return value


FACTS: dict[str, tuple[dict[str, Any], str]] = {
    "classes": ({"num_classes": 1 << 40}, "max_classes"),
    "a shape too large": ({"input_shape": (1 << 60, 8, 8)}, "states sizes that small-cnn cannot have"),
    "other classes": ({"num_classes": 90_000}, "do not fit small-cnn"),
    "names like 2^40": ({"classes": nested(40)}, "the names are no text"),
    "a mean like 2^40": ({"mean": nested(40)}, "states mean = a list"),
    "a place to load from": ({"arch": "timm:local-dir:evil"}, "not known here"),
    "expanded": (
        {"model": {key: torch.zeros(()).expand(4096, 4096) for key in SmallCnn((1, 8, 8), 10).state_dict()}},
        "and has [0-9,]+ itself",
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_checkpoints_state_no_more_than_they_hold(tmp_path: Path, name: str) -> None:
    changes, says = FACTS[name]
    with pytest.raises(BadInput, match=says):
        load_model(saved(tmp_path / "evil.pt", **changes))


def test_entries_of_a_zipped_checkpoint_do_not_overlap(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("archive/data.pkl", bytes(1 << 16))
        for k in range(50):
            entry = zipfile.ZipInfo(f"archive/data/{k}")
            entry.header_offset, entry.CRC = 0, file.filelist[0].CRC
            entry.file_size = entry.compress_size = 1 << 16
            file.filelist.append(entry)
    with pytest.raises(BadInput, match=r"states entries of 3,342,336 bytes, and has [0-9,]+ itself"):
        load_model(tmp_path / "evil.pt", "small-cnn")


@pytest.mark.parametrize("name", ["data.npz", "net.pt", "maps.npy", "names.txt", "summary.json"])
def test_pipes_and_devices_are_not_opened(tmp_path: Path, name: str) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "data.npz": load_data,
        "net.pt": load_model,
        "maps.npy": lambda path: read_maps(str(path)),
        "names.txt": lambda path: load_data("digits", labels=path),
        "summary.json": lambda path: read_record(path, Summary),
    }
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match="is a pipe, not a file"):
        readers[name](tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(BadInput, match="is a device, not a file"):
        readers[name](tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)
    with pytest.raises(BadInput, match="cannot read"):
        regular(tmp_path / name)


def test_json_nested_too_deep_is_one_sentence(tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(BadInput, match="nested too deep"):
        read_json(deep)
    with pytest.raises(BadInput, match=r"no JSON|not JSON"):
        load_data("digits", labels=deep)


def record() -> dict[str, Any]:
    """The values of a possible record."""
    return json.loads(summary(**judged("SOUND")).model_dump_json())


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "accuracy of 7": ({"robust_accuracy": {"value": 7.0, "low": 0.1, "high": 0.2, "n": 10}}, "robust_accuracy.value"),
    "accuracy of NaN": ({"seconds": float("nan")}, "NaN"),
    "n of -5": ({"n": -5}, "n: "),
    "another verdict": ({"verdict": "PERFECT"}, "PERFECT"),
    "trusted all the same": ({"verdict": "OVERSTATED", "trusted": True}, "OVERSTATED"),
    "no interval": ({"clean_accuracy": {"value": 0.5, "low": 0.9, "high": 0.1, "n": 10}}, "interval"),
    "outside of its interval": ({"clean_accuracy": {"value": 0.5, "low": 0.6, "high": 0.9, "n": 10}}, "outside"),
    "of no samples": ({"clean_accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 0}}, "0 samples"),
    "of more samples": ({"clean_accuracy": {"value": 0.9, "low": 0.1, "high": 1.0, "n": 10**6}}, "1000000 samples"),
    "above clean": (
        {
            "clean_accuracy": {"value": 0.1, "low": 0.0, "high": 0.4, "n": 10},
            "robust_accuracy": {"value": 0.9, "low": 0.6, "high": 1.0, "n": 10},
        },
        "above clean accuracy",
    ),
    "negative passes": ({"passes": {"forward": -1.0, "backward": 0.0}}, "forward"),
    "a million points": (
        {"curve": [{"eps": 0.1, "accuracy": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 10}}] * 20_000},
        "curve",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_records_are_refused(tmp_path: Path, name: str) -> None:
    changes, says = IMPOSSIBLE[name]
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(record()))
    read_record(path, Summary)
    path.write_text(json.dumps(record() | changes))
    with pytest.raises(BadInput, match=says):
        read_record(path, Summary)


def test_nan_in_a_sentence_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(record() | {"because": "NaN or Infinity"}))
    assert read_record(path, Summary).because == "NaN or Infinity"


@pytest.mark.parametrize("prefix", ["", "net.", "model.", "ema.", "model_ema.module.", "student.backbone."])
def test_the_prefix_of_weights_is_found_by_matching(tmp_path: Path, prefix: str) -> None:
    net = SmallCnn((1, 8, 8), 10)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    loss = {"loss.weight": torch.zeros(3)} if prefix else {}
    torch.save({"weights": state | loss, "epoch": 3}, tmp_path / "net.pt")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(load_model(tmp_path / "net.pt", "small-cnn", input_shape=(1, 8, 8))(x), net.eval()(x))


def test_averages_come_last_and_twins_are_refused() -> None:
    net = tiny_net().state_dict()
    both = {f"model.{k}": v for k, v in net.items()} | {f"ema.{k}": v + 1 for k, v in net.items()}
    assert all(torch.equal(under_one_prefix(both, set(net))[k], v) for k, v in net.items())
    other = {f"trunk.{k}": v for k, v in net.items()} | {f"ema_trunk.{k}": v + 1 for k, v in net.items()}
    assert all(torch.equal(under_one_prefix(other, set(net))[k], v) for k, v in net.items())
    twins = {f"{side}.{k}": v for side in ("left", "right") for k, v in net.items()}
    with pytest.raises(BadInput, match=r"under left\. and right\."):
        under_one_prefix(twins, set(net))


def test_options_are_spelled_as_they_are_given() -> None:
    error = BadInput(f"give {option('trust_pickle', True)} or {option('mean')}")
    assert str(error) == "give trust_pickle=True or mean"
    assert error.spelled(lambda name, value: f"--{name}") == "give --trust_pickle or --mean"
    assert error.spelled(as_flag) == "give --trust-pickle or --mean"
    assert as_keyword("channels", "3") == "channels=3"
    assert type(error)(error.message).message == error.message


@pytest.mark.parametrize("text", ["\x1b[31mcat", "\x9b2J", "\u202etac", "a\rb", "\ud800"])
def test_control_characters_are_visible(text: str) -> None:
    for shown in (printable(text), str(BadInput(text)), json.loads(f'"{printable(text, json=True)}"') and ""):
        assert all(c.isprintable() for c in shown)
    assert json.loads(f'"{printable(text, json=True)}"') == text


def test_limits_hold_inside_their_context() -> None:
    with allowing(Limits(max_pixels=5)), allowing(None):
        assert limits_now().max_pixels == 5
    assert limits_now() == Limits()
