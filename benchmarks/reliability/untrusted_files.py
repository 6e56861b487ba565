"""Hostile files: no code in them runs, none hangs or fills the memory, each is refused in one sentence.

    python -m benchmarks.reliability.untrusted_files --out benchmarks/results/reliability_untrusted_files.json

Every file is read by the command in a process of its own, which may take 2 GiB and 60 processor seconds. `gs` is on the
path as a program that leaves a mark, as does the code inside the pickles; a call is wrong if there is a mark, if it does
not end with code 2 and one sentence with the expected words, or if it prints a traceback or an escape code.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import socket
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.reliability.calls import call, hidden, warmed_up
from PIL import Image
from safetensors.torch import save_file

from unfooled.models import SmallCnn
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

MARK = "mark"
RUNS = f"cposix\nsystem\n(S'touch {MARK}'\ntR.".encode()  # a pickle that runs a command
GS = f"#!/bin/sh\ntouch {MARK}\n"
SLOW = 30  # seconds


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: Kind of the file.
        make: Function that writes it into a folder, and returns the arguments of the command that reads it.
        words: Words that the sentence must have.
    """

    name: str
    make: Callable[[Path], list[str]]
    words: tuple[str, ...]


def audit(*, model: str = "net.pt", data: str = "digits") -> list[str]:
    return [
        "audit", "--model", model, "--data", data, "--threat", "linf:0.1", "--n", "8", "--effort", "quick",
        "--reasons", "none", "-q",
    ]  # fmt: skip


def images(*files: tuple[str, bytes]) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        for k, (name, content) in enumerate(files):
            place = home / "images" / str(k % 2)
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        (home / "images/1").mkdir(parents=True, exist_ok=True)
        return audit(data="images")

    return make


def written(name: str, content: bytes, arguments: Callable[[], list[str]]) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        (home / name).write_bytes(content)
        return arguments()

    return make


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that states a size; its rows need not be there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def small_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    size = struct.pack("<H", len(text)) if version == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def archive(**entries: bytes) -> bytes:
    """An .npz of entries, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


X, Y = array(np.zeros((4, 1, 8, 8), np.float32)), array(np.arange(4))


def npz(**entries: bytes) -> Callable[[Path], list[str]]:
    return written("data.npz", archive(**{"x": X, "y": Y, **entries}), lambda: audit(data="data.npz"))


def stated(shape: str, kind: str = "'<f4'") -> bytes:
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n", bytes(64))


def zeros(home: Path) -> list[str]:
    """4 MB that become 4 GB."""
    header = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 1, 32768, 32768), }\n")
    with (
        zipfile.ZipFile(home / "data.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header)
        for _ in range(1 << 12):
            entry.write(bytes(1 << 20))
    with zipfile.ZipFile(home / "data.npz", "a") as file:
        file.writestr("y.npy", Y)
    return audit(data="data.npz")


def pickled(content: bytes, name: str = "evil.pt") -> Callable[[Path], list[str]]:
    """A file of `torch.save` whose pickle is given."""

    def make(home: Path) -> list[str]:
        with zipfile.ZipFile(home / name, "w") as file:
            file.writestr("archive/data.pkl", content)
            file.writestr("archive/version", "3\n")
        return [*audit(model=name), "--arch", "small-cnn"]

    return make


def checkpoint(**facts: Any) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        torch.save({**torch.load(home / "net.pt", weights_only=True), **facts}, home / "evil.pt")
        return audit(model="evil.pt")

    return make


def expanded(home: Path) -> list[str]:
    """Weights of a number that is read again and again."""
    state = {name: torch.zeros(()).expand(1 << 20, 1 << 12) for name in SmallCnn((1, 8, 8), 10).state_dict()}
    torch.save({"model": state, "arch": "small-cnn"}, home / "evil.pt")
    return audit(model="evil.pt")


def overlapping(home: Path) -> list[str]:
    """A zip file many of whose entries are the same bytes."""
    with zipfile.ZipFile(home / "evil.pt", "w") as file:
        file.writestr("archive/data.pkl", bytes(1 << 20))
        for k in range(2000):
            entry = zipfile.ZipInfo(f"archive/data/{k}")
            known = file.filelist[0]
            entry.header_offset, entry.file_size, entry.compress_size = 0, known.file_size, known.compress_size
            entry.CRC = known.CRC
            file.filelist.append(entry)
    return audit(model="evil.pt")


def laughs(home: Path) -> list[str]:
    """Nested lists of names that would be longer than any memory as text."""
    value: Any = "ha"
    for _ in range(40):
        value = [value, value]
    torch.save({**torch.load(home / "net.pt", weights_only=True), "classes": value}, home / "evil.pt")
    return audit(model="evil.pt")


def safetensors(header: bytes, content: bytes = b"") -> Callable[[Path], list[str]]:
    data = struct.pack("<Q", len(header)) + header + content
    return written("evil.safetensors", data, lambda: [*audit(model="evil.safetensors"), "--arch", "small-cnn"])


def exported(**entries: bytes) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        with zipfile.ZipFile(home / "evil.pt2", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in entries.items():
                file.writestr(f"evil/{name}", content)
        return audit(model="evil.pt2")

    return make


def pipe(home: Path, name: str, arguments: list[str]) -> list[str]:
    os.mkfifo(home / name)
    return arguments


def pipe_in_a_run(home: Path) -> list[str]:
    (home / "run").mkdir()
    return pipe(home, "run/summary.json", ["report", "run"])


def hugging_face(**files: bytes) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        (home / "face").mkdir()
        for name, content in files.items():
            (home / "face" / f"{name}.json").write_bytes(content)
        save_file({"w": torch.zeros(1)}, home / "face/model.safetensors")
        return audit(model="face")

    return make


def run_folder(text: str) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        (home / "run").mkdir()
        (home / "run/summary.json").write_text(text)
        return ["report", "run"]

    return make


def linked(target: str, name: str, arguments: list[str]) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        (home / name).symlink_to(target)
        return arguments

    return make


def bound_socket(home: Path) -> list[str]:
    at = os.getcwd()  # noqa: PTH109  (sockets have short names)
    os.chdir(home)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("data.npz")
    os.chdir(at)
    return audit(data="data.npz")


def labelled(text: bytes) -> Callable[[Path], list[str]]:
    return written("names.json", text, lambda: [*audit(), "--labels", "names.json"])


def bomb(home: Path) -> list[str]:
    """An IDX file of 1 MB that unpacks to 1 GB and more than it states."""
    head = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 8, 8)
    (home / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(1 << 30), 9))
    (home / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes(4))
    return audit(data="t10k-images-idx3-ubyte.gz")


DEEP = b"[" * 200_000
PS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(mark) (w) file closefile\nshowpage\n"
HUGE = 12_500
CASES = [
    Case("PostScript named 1.png", images(("1.png", PS), ("2.png", small_png())), ("1.png", "png")),
    Case("PDF named 1.png", images(("1.png", b"%PDF-1.4\n" + bytes(100)), ("2.png", small_png())), ("1.png",)),
    Case("two images of 12,500^2", images(("1.png", png(HUGE, HUGE)), ("2.png", png(HUGE, HUGE))), ("--max-pixels",)),
    Case("an image of 2^31 x 2^31", images(("1.png", png(2**31 - 1, 2**31 - 1)), ("2.png", small_png())), ("1.png",)),
    Case("an image without its rows", images(("1.png", png(8, 8)), ("2.png", small_png())), ("1.png",)),
    Case("one image of 12,500^2 to be explained", written(
        "1.png", png(HUGE, HUGE), lambda: ["explain", "--model", "net.pt", "--data", "1.png"]), ("--max-pixels",)),
    Case("a pipe among the images, alone", lambda home: [
        *images()(home), *pipe(home, "images/1/1.png", [])], ("images",)),
    Case("archive of 4 MB that becomes 4 GB", zeros, ("--max-bytes",)),
    Case("a label of 2^40", npz(y=array(np.array([0, 1, 2, 1 << 40]))), ("--max-classes",)),
    Case("a label of 1e300", npz(y=array(np.array([0, 1, 2, 1e300]))), ("--max-classes",)),
    Case("header of an array of 2^60", npz(x=stated(f"({1 << 40}, {1 << 20})")), ("states the shape",)),
    Case("header with negative sides", npz(x=stated("(-1, 64)")), ("header",)),
    Case("header nested too deep", npz(x=npy("(" * 9000 + ")" * 900)), ("header",)),
    Case("header of signs", npz(x=npy("-" * 9000 + "1")), ("header",)),
    Case("header of 4 GB", npz(x=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64)), ("header",)),
    Case("entries of no bytes, 2^60 of them", npz(x=stated(f"({1 << 60},)", "'<U0'")), ("states the shape",)),
    Case("pickled objects in an archive", npz(x=npy(
        "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n", RUNS)), ("pickled",)),
    Case("maps with a huge header", written(
        "a.npy", stated(f"({1 << 30}, {1 << 20}, 4)"), lambda: ["lens", "a.npy", "a.npy", "--k", "2"]), ("shape",)),
    Case("IDX of 1 GB in 1 MB", bomb, ("idx",)),
    Case("a pickle that runs a command", written(
        "evil.pt", RUNS, lambda: [*audit(model="evil.pt"), "--arch", "small-cnn"]), ("--trust-pickle",)),
    Case("a zipped pickle that runs a command", pickled(RUNS), ("--trust-pickle",)),
    Case("a pickle of 2^60 bytes", pickled(
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10\x85R."), ("evil.pt",)),
    Case("a pickle nested too deep", pickled(b"\x80\x02" + b"(" * 200_000 + b"."), ("evil.pt",)),
    Case("a checkpoint of 2^40 classes", checkpoint(num_classes=1 << 40), ("--max-classes",)),
    Case("a checkpoint of images of 2^20 x 2^20", checkpoint(input_shape=(1, 1 << 20, 1 << 20)), ("takes samples",)),
    Case("a checkpoint of images of 2^60", checkpoint(input_shape=(1 << 60, 8, 8)), ("evil.pt",)),
    Case("weights larger than their file", expanded, ("has", "itself")),
    Case("a zip file whose entries overlap", overlapping, ("states entries",)),
    Case("a checkpoint that names a place to load from", checkpoint(arch="timm:local-dir:evil"), ("not known",)),
    Case("names nested 2^40 times", laughs, ("classes",)),
    Case("safetensors beyond its length", safetensors(
        b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'), ("safetensors",)),
    Case("safetensors with a header of 2^60", written("evil.safetensors", struct.pack("<Q", 1 << 60) + bytes(64),
         lambda: [*audit(model="evil.safetensors"), "--arch", "small-cnn"]), ("safetensors",)),
    Case("an exported program of 1 GB zeros", exported(**{"models/model.json": b"{}", "data/a": bytes(1 << 30)}),
         ("evil.pt2",)),
    Case("an exported program nested too deep", exported(**{"models/model.json": DEEP}), ("evil.pt2",)),
    Case("a pickle in an exported program", exported(
        **{"models/model.json": b"{}", "data/sample_inputs/model.pt": RUNS}), ("pickle",)),
    Case("config.json nested too deep", hugging_face(config=DEEP), ("config.json",)),
    Case("config.json that brings code", hugging_face(
        config=b'{"model_type":"evil","auto_map":{"AutoConfig":"evil.Evil"}}'), ("face",)),
    Case("a record nested too deep", run_folder(DEEP.decode()), ("summary",)),
    Case("a record that is a pipe", pipe_in_a_run, ("pipe",)),
    Case("labels nested too deep", labelled(DEEP), ("names.json",)),
    Case("labels that are a pipe", lambda home: pipe(
        home, "names.txt", [*audit(), "--labels", "names.txt"]), ("pipe",)),
    Case("data that are a pipe", lambda home: pipe(home, "data.npz", audit(data="data.npz")), ("pipe",)),
    Case("data that are a socket", bound_socket, ("socket",)),
    Case("data that are a device", linked("/dev/zero", "data.npz", audit(data="data.npz")), ("device",)),
    Case("a model that is a device", linked("/dev/zero", "evil.pt", audit(model="evil.pt")), ("device",)),
    Case("a link to itself", linked("data.npz", "data.npz", audit(data="data.npz")), ("data.npz",)),
    Case("an --out that is a pipe", lambda home: pipe(
        home, "a.npz", ["attack", "--model", "net.pt", "--threat", "linf:0.1", "--out", "a.npz"]), ("pipe",)),
    Case("a mask that is PostScript", written("mask.png", PS, lambda: [
        "explain", "--model", "net.pt", "--threat", "linf:0.1", "--attack", "region", "--region", "mask.png"]),
        ("mask.png",)),
]  # fmt: skip


def tried(case: Case) -> dict[str, Any]:
    """Make the file in a folder of its own, read it, and return a row of the result."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "bin").mkdir()
        (home / "bin/gs").write_text(GS)
        (home / "bin/gs").chmod(0o755)
        net = SmallCnn((1, 8, 8), 10)
        torch.save({"model": net.state_dict(), "arch": "small-cnn", "input_shape": [1, 8, 8]}, home / "net.pt")
        arguments = case.make(home)
        done = call(home, arguments)
        ran = (home / MARK).exists()
        faults = [*(["code ran"] if ran else []), *done.faults(*case.words)]
        if done.seconds > SLOW:
            faults.append("slow")
        return {
            "case": case.name, "command": " ".join(arguments), "code": done.code, "faults": faults,
            "says": hidden(" ".join(done.sentences), home), "seconds": round(done.seconds, 2),
            "grown_mib": done.grown >> 20, "stderr": hidden(done.err, home)[-1500:] if faults else "",
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="part of a name")
    options = parser.parse_args()
    warmed_up()

    os.environ["PATH"] = f"bin:{os.environ['PATH']}"
    rows = []
    for case in CASES:
        if options.only in case.name:
            rows.append(tried(case))
            print(f"{', '.join(rows[-1]['faults']) or 'right':<24} {case.name}: {rows[-1]['says']}", flush=True)
    record = {
        "command": "python -m benchmarks.reliability.untrusted_files",
        "environment": json.loads(Environment.here("cpu").model_dump_json()),
        "n": len(rows),
        "code_ran": sum("code ran" in row["faults"] for row in rows),
        "hangs": sum("hang" in row["faults"] or "slow" in row["faults"] for row in rows),
        "tracebacks": sum("traceback" in row["faults"] for row in rows),
        "silently_accepted": sum("accepted" in row["faults"] for row in rows),
        "wrong": sum(bool(row["faults"]) for row in rows),
        "most_grown_mib": max((row["grown_mib"] for row in rows), default=0),
        "rows": rows,
    }
    print({name: value for name, value in record.items() if isinstance(value, int)})
    if options.out is not None:
        write_whole(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
