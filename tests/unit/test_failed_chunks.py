"""Chunks that fail: tried again where processes share the work, and left out, with a sentence, after three times."""

from __future__ import annotations

import os
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.executors import Processes
from unfooled.runs.failures import MAX_TRIES, Start
from unfooled.runs.helpers import Helpers

N, CHUNK = 12, 3
WAIT = 60.0


class Work:
    """A stage that notes each chunk it begins, and raises an error for one of them some times."""

    def __init__(self, bad: int, error: Exception, times: int) -> None:
        self.bad, self.error, self.times = bad, error, times
        self.begun: list[int] = []

    def __call__(self, rows: Tensor) -> Rows:
        self.begun.append(int(rows[0]))
        if int(rows[0]) == self.bad and self.begun.count(self.bad) <= self.times:
            raise self.error
        return {"value": rows * 2}


def run(folder: Path, token: str = "one") -> Run:
    return Run(folder, {"kind": "test"}, chunk=CHUNK, start=Start(token))


def test_a_chunk_that_fails_is_tried_again_after_the_others(tmp_path: Path) -> None:
    work = Work(3, RuntimeError("a device is gone"), MAX_TRIES - 1)
    rows = run(tmp_path).map("stage", work, N)
    assert torch.equal(rows["value"], torch.arange(N) * 2)
    assert work.begun == [0, 3, 6, 9, 3, 3]


def test_a_chunk_that_fails_three_times_stops_the_run_at_the_barrier(tmp_path: Path) -> None:
    work = Work(3, RuntimeError("a device\nis gone"), MAX_TRIES)
    sentence = "stage: rows 3 to 5 .RuntimeError: a device is gone. failed 3 times; everything else .* tries again"
    with pytest.raises(BadInput, match=sentence):
        run(tmp_path).map("stage", work, N)
    assert work.begun == [0, 3, 6, 9, 3, 3]
    with pytest.raises(BadInput, match="rows 3 to 5"):  # another process of the same start
        run(tmp_path).map("stage", work, N)
    assert len(work.begun) == 6
    again = run(tmp_path, "two")
    assert torch.equal(again.map("stage", work, N)["value"], torch.arange(N) * 2)
    assert work.begun[6:] == [3]
    assert (tmp_path / ".failures").is_dir()
    again.failures.clear()
    assert not (tmp_path / ".failures").exists()


def test_alone_and_for_bad_input_the_error_is_raised_at_once(tmp_path: Path) -> None:
    for error, token in ((RuntimeError("mine"), ""), (BadInput("no such input"), "one")):
        work = Work(3, error, MAX_TRIES)
        with pytest.raises(type(error), match=str(error)):
            run(tmp_path / token, token).map("stage", work, N)
        assert work.begun == [0, 3]


def test_a_process_that_dies_takes_no_other_with_it_and_is_started_again(tmp_path: Path) -> None:
    executor = Processes(2)
    other = executor.submit(_after, tmp_path / "dead")
    with pytest.raises(BrokenExecutor):
        executor.submit(os._exit, 9).result(WAIT)
    (tmp_path / "dead").touch()
    assert other.result(WAIT) == "well"
    assert executor.submit(abs, -3).result(WAIT) == 3
    executor.dismiss()


def test_a_chunk_that_kills_helpers_is_left_to_them_and_named(tmp_path: Path) -> None:
    helpers = Helpers(Processes(1))
    watch, driver = helpers.watch, os.getpid()

    def work(rows: Tensor) -> Rows:
        if os.getpid() == driver:
            _after(tmp_path / "first death")  # so that the helper meets the chunk first
            assert int(rows[0]) != 3, "the driver took what a helper died of"
        elif int(rows[0]) == 3:
            (tmp_path / "first death").touch()
            os._exit(9)
        return {"value": rows * 2}

    def job() -> None:
        Run(tmp_path / "run", {"kind": "test"}, chunk=CHUNK, start=watch.start, progress=watch).map("stage", work, N)

    mine = Run(tmp_path / "run", {"kind": "test"}, chunk=CHUNK, start=helpers.start)
    with pytest.raises(BadInput, match=r"rows 3 to 5 \(its process died\) failed 3 times"), helpers.on(job):
        mine.map("stage", work, N)
    spans = [file.stem.split("-") for file in (tmp_path / "run" / "chunks" / "stage").iterdir()]
    assert {row for a, b in spans for row in range(int(a), int(b))} == {*range(N)} - {3, 4, 5}


def test_a_helper_that_is_killed_is_started_again(tmp_path: Path) -> None:
    helpers = Helpers(Processes(1))

    def job() -> None:
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os._exit(9)
        (tmp_path / "again").touch()

    with helpers.on(job):
        _after(tmp_path / "again")
    assert len(helpers.notes) == 1
    assert "A helping process died, and was started again" in helpers.notes[0]


def _after(file: Path) -> str:
    """Wait for a file of another process."""
    end = time.monotonic() + WAIT
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.05)
    return "well"
