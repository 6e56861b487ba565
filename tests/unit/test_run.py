"""Runs are cut into whole files: a kill loses one chunk, and no result depends on the cut."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.files import write_whole
from unfooled.runs.folder import discard, saving
from unfooled.runs.records import Config, read_record, write_record
from unfooled.runs.sealed import Seal, seal_rows


def config(**changes: object) -> Config:
    return Config.model_validate({"model": "m", "data": "d", "n": 10, "threat": "linf:0.1", "seed": 0} | changes)


def square(rows: Tensor) -> dict[str, Tensor]:
    return {"value": rows.double() ** 2, "pair": torch.stack([rows, -rows], 1)}


@pytest.mark.parametrize("chunk", [1, 3, 10, 99])
def test_result_does_not_depend_on_the_chunk(chunk: int, tmp_path: Path) -> None:
    got = Run(tmp_path, config(), chunk=chunk).map("s", square, 10)
    assert torch.equal(got["value"], torch.arange(10).double() ** 2)
    assert torch.equal(got["pair"][:, 1], -torch.arange(10))


def test_second_start_computes_only_what_is_missing_whatever_its_chunk(tmp_path: Path) -> None:
    Run(tmp_path, config(), chunk=4).map("s", square, 10)
    (tmp_path / "chunks/s/4-8.safetensors").unlink()
    seen: list[int] = []

    def noted(rows: Tensor) -> dict[str, Tensor]:
        seen.extend(rows.tolist())
        return square(rows)

    got = Run(tmp_path, config(), chunk=3).map("s", noted, 10)
    assert seen == [4, 5, 6, 7]
    assert torch.equal(got["value"], torch.arange(10).double() ** 2)


def test_damaged_chunk_is_computed_again(tmp_path: Path) -> None:
    Run(tmp_path, config(), chunk=5).map("s", square, 10)
    file = tmp_path / "chunks/s/0-5.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    got = Run(tmp_path, config(), chunk=5).map("s", square, 10)
    assert torch.equal(got["value"], torch.arange(10).double() ** 2)


def test_chunks_that_overlap_or_reach_too_far_are_left_out(tmp_path: Path) -> None:
    Run(tmp_path, config(), chunk=5).map("s", square, 10)
    folder = tmp_path / "chunks/s"
    (folder / "2-7.safetensors").write_bytes((folder / "0-5.safetensors").read_bytes())
    (folder / "10-15.safetensors").write_bytes((folder / "0-5.safetensors").read_bytes())
    got = Run(tmp_path, config(), chunk=5).map("s", square, 10)
    assert torch.equal(got["value"], torch.arange(10).double() ** 2)


def test_chunks_are_of_their_settings_also_where_these_were_deleted(tmp_path: Path) -> None:
    Run(tmp_path, config(), chunk=5).map("s", square, 10)
    (tmp_path / "config.json").unlink()
    other = Run(tmp_path, config(threat="linf:0.2"), chunk=5).map("s", lambda rows: {"value": -rows.double()}, 10)
    assert torch.equal(other["value"], -torch.arange(10).double())


def test_passes_of_earlier_starts_are_kept(tmp_path: Path) -> None:
    model = Counted(lambda x: x)

    def work(rows: Tensor) -> dict[str, Tensor]:
        model(torch.zeros(len(rows), 2))
        return {"r": rows}

    Run(tmp_path, config(), chunk=5).map("s", work, 10, model=model)
    again = Run(tmp_path, config(), chunk=5)
    again.map("s", work, 10, model=Counted(lambda x: x))
    assert again.passes["s"] == (10, 0)


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    Run(tmp_path, config(options={"steps": 10}))
    with pytest.raises(BadInput, match="steps was 10, now it is 20"):
        Run(tmp_path, config(options={"steps": 20}))
    with pytest.raises(BadInput, match="seed was 0, now it is 1"):
        Run(tmp_path, config(seed=1, options={"steps": 10}))
    Run(tmp_path, config(options={"steps": 10}))


def test_progress_starts_with_what_was_found(tmp_path: Path) -> None:
    Run(tmp_path, config(), chunk=5).map("s", square, 10)
    (tmp_path / "chunks/s/5-10.safetensors").unlink()
    told: list[tuple[str, int, int]] = []
    Run(tmp_path, config(), chunk=5, progress=lambda *a: told.append(a)).map("s", square, 10)
    assert told == [("s", 5, 10), ("s", 10, 10)]


def test_a_stage_that_returns_too_few_rows_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="returned 1 rows"):
        Run(None, config()).map("s", lambda rows: {"v": rows[:1]}, 10)


def test_empty_stage() -> None:
    assert Run(None, config()).map("s", square, 0) == {}


KILLED = """
    import signal, sys, time, torch
    from pathlib import Path
    from unfooled.runs.records import Config
    from unfooled.runs.chunks import Rows, Run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in children of a background shell

    def slow(rows):
        time.sleep(0.05)
        return {"v": rows * 2}

    config = Config(model="m", data="d", n=40, threat="linf:0.1", seed=0)
    tell = lambda stage, done, total: print(done, flush=True)
    Run(Path(sys.argv[1]), config, chunk=2, progress=tell).map("s", slow, 40)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_loses_at_most_the_chunk_under_way(tmp_path: Path, sign: signal.Signals) -> None:
    script = tmp_path / "work.py"
    script.write_text(textwrap.dedent(KILLED))
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, str(script), str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 10:
            pass
        os.kill(process.pid, sign)
        process.wait(timeout=30)
    assert process.returncode != 0
    files = sorted((out / "chunks/s").glob("*.safetensors"))
    assert 5 <= len(files) < 20
    assert not [f for f in files if f.stat().st_size == 0]
    seen: list[int] = []

    def work(rows: Tensor) -> dict[str, Tensor]:
        seen.extend(rows.tolist())
        return {"v": rows * 2}

    settings = Config(model="m", data="d", n=40, threat="linf:0.1", seed=0)
    got = Run(out, settings, chunk=7).map("s", work, 40)
    assert torch.equal(got["v"], torch.arange(40) * 2)
    assert len(seen) == 40 - 2 * len(files)


def test_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    write_whole(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


def test_records_round_trip_and_complain(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_record(file, config(options={"a": [1, 2.5, None]}))
    assert read_record(file, Config) == config(options={"a": [1, 2.5, None]})
    file.write_text("{")
    with pytest.raises(BadInput, match=r"config\.json is not a config"):
        read_record(file, Config)
    with pytest.raises(BadInput, match="cannot read"):
        read_record(tmp_path / "absent.json", Config)


def squares(rows: Tensor, log: Path | None = None) -> Rows:
    if log is not None:
        with log.open("a", encoding="utf-8") as f:
            f.write(f"{int(rows[0])}\n")
    return {"square": rows**2}


def chunked(
    work: Callable[[Tensor], Rows], n: int, folder: Path, *, chunk: int = 3, a: int = 1, **options: Any
) -> Rows:
    """Settings may be a plain mapping."""
    return Run(folder, {"a": a, "n": n}, chunk=chunk, **options).map("squares", work, n)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, log = tmp_path / "parts", tmp_path / "log"

    def dies(rows: Tensor) -> Rows:
        if int(rows[0]) >= 6:
            raise KeyboardInterrupt
        return squares(rows, log)

    with pytest.raises(KeyboardInterrupt):
        chunked(dies, 10, folder)
    told: list[int] = []
    made = chunked(partial(squares, log=log), 10, folder, progress=lambda what, done, n: told.append(done))
    assert made["square"].tolist() == [k**2 for k in range(10)]
    assert log.read_text().split() == ["0", "3", "6", "9"]
    assert told == [6, 9, 10]
    (folder / "chunks/squares/3-6.safetensors").write_bytes(b"damaged")
    again = chunked(partial(squares, log=log), 10, folder, chunk=5)
    assert torch.equal(again["square"], made["square"])
    assert log.read_text().split()[4:] == ["3"]
    with pytest.raises(BadInput, match="holds another run: a was 1, now it is 2"):
        chunked(squares, 10, folder, a=2)


def test_damaged_chunks_are_made_again(tmp_path: Path) -> None:
    folder, log, other = tmp_path / "parts", tmp_path / "log", tmp_path / "other"
    made = chunked(partial(squares, log=log), 9, folder)
    chunked(squares, 9, other, a=2)
    place = folder / "chunks/squares"
    whole = {a: (place / f"{a}-{a + 3}.safetensors").read_bytes() for a in (0, 3, 6)}
    zeroed = whole[6][:-24] + bytes(24)
    stranger = (other / "chunks/squares/6-9.safetensors").read_bytes()
    bare = safetensors.torch.save({"square": torch.zeros(3, dtype=torch.int64)})
    renamed = whole[6].replace(b'square"', b'sqaure"')
    assert renamed != whole[6]
    about = json.loads(json.loads(whole[6][8 : 8 + int.from_bytes(whole[6][:8], "little")])["__metadata__"]["chunk"])
    lacking = safetensors.torch.save({}, {"chunk": json.dumps(about)})
    short = seal_rows({"square": torch.zeros(2)}, about["facts"], Seal(about["config"], about["name"]))
    for bad in (zeroed, whole[3], stranger, bare, renamed, lacking, short, b""):
        (place / "6-9.safetensors").write_bytes(bad)
        log.write_text("")
        again = chunked(partial(squares, log=log), 9, folder)
        assert log.read_text().split() == ["6"]
        assert torch.equal(again["square"], made["square"])
        kept = safetensors.torch.load_file(place / "6-9.safetensors")
        assert torch.equal(kept["square"], made["square"][6:])  # the damaged file is replaced
        log.write_text("")
        chunked(partial(squares, log=log), 9, folder)
        assert log.read_text() == ""


def test_chunks_are_discarded_by_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "parts"

    def curious(rows: Tensor) -> Rows:
        assert not discard(folder)
        return squares(rows)

    chunked(curious, 4, folder, chunk=2)
    assert len(list(folder.rglob("*.safetensors"))) == 2
    (folder / "notes.txt").write_text("mine")
    (folder / "chunks/squares/notes.txt").write_text("mine")
    (folder / "chunks/squares/.0-2.safetensors.half").write_text("")
    (folder / ".0.lock").write_text("")  # of version 0.1
    (folder / "0-2.safetensors").write_text("")
    assert discard(folder)
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == [
        "chunks/squares/notes.txt", "notes.txt",
    ]  # fmt: skip
    (folder / "notes.txt").unlink()
    (folder / "chunks/squares/notes.txt").unlink()
    chunked(squares, 4, folder, chunk=2)
    assert discard(folder)
    assert not folder.exists()
    assert discard(folder)


def test_a_place_that_is_never_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", nowhere)
    with pytest.raises(
        BadInput, match=r"cannot write .*a\.parts/config\.json: No such file or directory; choose another"
    ):
        chunked(squares, 5, tmp_path / "a.parts")


def test_what_is_made_of_chunks_is_saved_by_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "a.parts"
    order: list[str | bool] = []
    chunked(squares, 2, folder)
    begun = threading.Event()

    def second() -> None:
        begun.wait(5)
        with saving(folder):
            order.append("second")
        order.append(discard(folder))

    other = threading.Thread(target=second)
    other.start()
    with saving(folder):
        begun.set()
        time.sleep(0.3)
        order.append("first")
        order.append(discard(folder))  # somebody waits
    other.join(timeout=5)
    assert order == ["first", False, "second", True]
