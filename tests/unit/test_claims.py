"""Claims without locks: one holder, taken over when it is gone; files created exclusively; settings compared once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import points, tiny_net

from unfooled.core.errors import BadInput
from unfooled.runs import claims
from unfooled.runs.claims import Claims, Holder, claimed_file, process_start
from unfooled.runs.files import create_exclusive, read_file, write_whole
from unfooled.runs.hashes import content_hash
from unfooled.runs.settings import difference, settings_hash
from unfooled.runs.store import LocalStore
from unfooled.studies.common import fitting
from unfooled.training import Batches, Checkpoint, Standard

FORK = multiprocessing.get_context("fork")


def run_all(target: Any, *arguments: tuple[Any, ...]) -> list[int | None]:
    processes = [FORK.Process(target=target, args=values) for values in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


# Files


def create(path: Path, data: bytes, gate: Any, links: bool) -> None:
    if not links:
        without_links(pytest.MonkeyPatch())
    gate.wait(20)
    os._exit(0 if create_exclusive(path, data) else 3)


def without_links(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    patch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_one_of_several_creates_a_file(tmp_path: Path, links: bool) -> None:
    for turn in range(6):
        gate, path = FORK.Barrier(4), tmp_path / str(turn) / "file"
        codes = run_all(create, *((path, bytes([k]) * 100_000, gate, links) for k in range(4)))
        assert sorted(codes, key=str) == [0, 3, 3, 3]
        assert path.read_bytes() == bytes([codes.index(0)]) * 100_000
        assert [file.name for file in path.parent.iterdir()] == ["file"]
    assert not create_exclusive(path, b"x")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BadInput, match="No space left"):
            create_exclusive(tmp_path / "a", b"x")
        without_links(patch)
        with pytest.raises(BadInput, match="No space left"):
            create_exclusive(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []
    assert read_file(tmp_path / "a") is None
    with pytest.raises(BadInput, match="cannot read"):
        read_file(tmp_path)


def test_folders_come_and_go_with_their_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    assert store.list() == []
    store.remove("a/b/c")
    store.write_whole("a/b/c", b"1")
    assert store.create_exclusive("a/d", b"2")
    assert not store.create_exclusive("a/d", b"3")
    assert (store.read("a/d"), store.read("a/e"), store.read("a/d/e")) == (b"2", None, None)
    assert store.list("a") == ["a/d"]
    assert store.list("a", deep=True) == store.list(deep=True) == ["a/b/c", "a/d"]
    store.remove("a/b/c")
    assert not (tmp_path / "run/a/b").exists()
    store.remove("a/d")
    assert list(tmp_path.iterdir()) == []


# Claims


def leave(place: Path, name: str, **changes: Any) -> Path:
    """A claim that somebody left; its file."""
    with Claims(LocalStore(place)).claimed(name):
        (file,) = (place / ".claims").iterdir()
        data = json.loads(file.read_bytes())
    write_whole(file, json.dumps(data | changes).encode())
    return file


def granted(place: Path, name: str = "work") -> bool:
    with Claims(LocalStore(place)).claimed(name) as mine:
        return mine


def test_a_claim_is_held_by_one_and_released(tmp_path: Path) -> None:
    ours = Claims(LocalStore(tmp_path))
    with ours.claimed("work") as mine:
        assert mine
        assert ours.live() == ["work"]
        assert not granted(tmp_path)
        with ours.claimed("work") as again:  # nor twice by one process
            assert not again
        assert granted(tmp_path, "other")
    assert not (tmp_path / ".claims").exists()
    assert granted(tmp_path)
    with pytest.raises(KeyboardInterrupt), ours.claimed("work"):
        raise KeyboardInterrupt
    assert granted(tmp_path)


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),
        ({"started": "1"}, True),  # another process has the number now
        ({"pid": 2**22 + 1}, True),
        ({"beat": 0}, False),  # an old beat of a process that lives: it is stopped, or busy
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "beat": time.time() - 3600}, False),  # a clock an hour behind
        ({"host": "elsewhere", "beat": time.time() + 3600}, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, False),
    ],
)
def test_a_claim_is_taken_over_when_its_holder_is_gone(tmp_path: Path, changes: dict[str, Any], gone: bool) -> None:
    file = leave(tmp_path, "work", **changes)
    assert Claims(LocalStore(tmp_path)).live() == ([] if gone else ["work"])
    assert granted(tmp_path) is gone
    assert file.exists() is not gone  # with the claim that took over


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_heartbeat_on_another_machine_counts_by_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    file, ours = (
        leave(tmp_path, "work", host="elsewhere", beat=time.time() + 3600 * hours),
        Claims(LocalStore(tmp_path)),
    )
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    data = json.loads(file.read_bytes())
    for step in range(4):  # it beats
        assert ours.live() == ["work"]
        now += claims.EXPIRY_SECONDS - 1
        write_whole(file, json.dumps(data | {"beat": data["beat"] + 15 * (step + 1)}).encode())
    assert ours.live() == ["work"]
    now += claims.EXPIRY_SECONDS - 1
    assert ours.live() == ["work"]
    now += 2  # it has stood still
    assert ours.live() == []


def test_a_claim_that_is_old_by_the_clock_of_the_store_is_taken_over_at_once(tmp_path: Path) -> None:
    for seconds, gone in ((claims.EXPIRY_SECONDS - 60, False), (claims.EXPIRY_SECONDS + 60, True)):
        file = leave(tmp_path / str(seconds), "work", host="elsewhere", beat=time.time() + 3600)
        os.utime(file, (time.time() - seconds,) * 2)
        assert granted(tmp_path / str(seconds)) is gone


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"pid": "x"}'])
def test_a_claim_that_cannot_be_read_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    leave(tmp_path, "work").write_bytes(data)  # in the making, on a file system without links
    ours = Claims(LocalStore(tmp_path))
    for expected in (False, True):
        with ours.claimed("work") as mine:
            assert mine is expected
        monkeypatch.setattr(claims, "EXPIRY_SECONDS", -1.0)


def test_claims_are_refreshed_while_they_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "REFRESH_SECONDS", 0.02)
    ours = Claims(LocalStore(tmp_path))

    def beat() -> float:
        (file,) = (file for file in (tmp_path / ".claims").iterdir() if not file.name.startswith("."))
        return float(json.loads(file.read_bytes())["beat"])

    with ours.claimed("work"):
        first, deadline = beat(), time.monotonic() + 10
        while beat() == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert beat() > first
    time.sleep(0.1)
    assert not (tmp_path / ".claims").exists()  # nor does it come back


def test_without_links_claims_work_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch)
    with Claims(LocalStore(tmp_path)).claimed("work") as mine:
        assert mine
        assert not granted(tmp_path)
    assert granted(tmp_path)


def hold(place: Path, ready: Any) -> None:
    with Claims(LocalStore(place)).claimed("work"):
        ready.set()
        time.sleep(60)


def enter(place: Path, log: Path) -> None:
    with Claims(LocalStore(place)).claimed("work", wait=True):
        with log.open("a") as file:
            file.write("in\n")
        time.sleep(0.1)
        with log.open("a") as file:
            file.write("out\n")
    os._exit(0)


def test_those_who_wait_for_a_killed_holder_enter_one_after_the_other(tmp_path: Path) -> None:
    ready = FORK.Event()
    holder = FORK.Process(target=hold, args=(tmp_path / "a", ready))
    holder.start()
    assert ready.wait(20)
    waiting = [FORK.Process(target=enter, args=(tmp_path / "a", tmp_path / "log")) for _ in range(4)]
    for process in waiting:
        process.start()
    time.sleep(0.5)
    assert not (tmp_path / "log").exists()
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    for process in waiting:
        process.join(30)
    assert [process.exitcode for process in waiting] == [0] * 4
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4
    assert not (tmp_path / "a/.claims").exists()
    holder.join(20)


def test_a_process_is_told_by_its_start() -> None:
    assert process_start(os.getpid()) == Holder.here("x").started != ""
    process = FORK.Process(target=time.sleep, args=(60,))
    process.start()
    assert process.pid is not None
    assert process_start(process.pid) not in ("", None)
    process.kill()
    deadline = time.monotonic() + 10
    while process_start(process.pid) != "" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(process.pid) == ""  # a zombie
    process.join()
    assert process_start(process.pid) == ""
    mine = Holder.here("x")
    assert not mine.has_ended
    assert replace(mine, started="0").has_ended


def fit(place: Path, log: Path, gate: Any) -> None:
    def told(what: str, done: int, of: int) -> None:
        if done:
            with log.open("a") as file:
                file.write(f"{done}\n")
            time.sleep(0.1)

    x, y, net = points(12, (1, 6, 6), seed=3), torch.arange(12) % 3, tiny_net(3, (1, 6, 6), seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    gate.wait(30)
    checkpoint = Checkpoint(place / "net.pt")
    fitting.fit(net, Batches(x, y, 4), Standard(), optimizer, epochs=4, checkpoint=checkpoint, progress=told)
    torch.save(net.state_dict(), log.with_suffix(".pt"))
    os._exit(0)


def test_a_network_that_two_starts_want_is_trained_once(tmp_path: Path) -> None:
    logs = [tmp_path / f"{k}.txt" for k in range(2)]
    gate = FORK.Barrier(2)
    assert run_all(fit, *((tmp_path / "networks", log, gate) for log in logs)) == [0, 0]
    assert sorted(log.read_text() if log.exists() else "" for log in logs) == ["", "1\n2\n3\n4\n"]
    a, b = (torch.load(log.with_suffix(".pt"), weights_only=True) for log in logs)
    assert content_hash(a) == content_hash(b)
    assert [file.name for file in (tmp_path / "networks").iterdir()] == ["net.pt"]
    with claimed_file(tmp_path / "networks/other.pt") as mine:
        assert mine


# Settings


def test_the_first_difference_is_named_and_three_more() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": "x", "f": 1, "g": 1, "h": 1}
    assert difference(before, before | {"b": {"c": (1, 2)}}) == ""
    assert difference(before, before | {"b": {"c": [1], "d": 0}}) == (
        "b: c was [1, 2], now it is [1] (and 1 more: b: d)"
    )
    assert difference(before, before | {"b": None}) == "b was {'c': [1, 2], 'd': None}, now it is None"
    assert difference(before, {}).endswith("now it is None (and 5 more: b, e, f)")


def test_hashes_differ_where_settings_do() -> None:
    before: dict[str, Any] = {"a": 1, "b": {"c": [1, 2], "d": None}}
    equal = [{"b": {"c": (1, 2)}, "a": 1}, {"a": 1, "b": {"c": [1, 2]}, "x": None}]
    other: list[dict[str, Any]] = [
        {"a": 2, "b": before["b"]},
        {"a": 1, "b": {"c": [1, 2], "d": 0}},
        {"a": 1, "b": {}},
        {"a": 1},
    ]
    for now in equal:
        assert (difference(before, now), settings_hash(now)) == ("", settings_hash(before))
    for now in other:
        assert difference(before, now)
        assert settings_hash(now) != settings_hash(before)
    assert settings_hash({"a": {}}) != settings_hash({})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0), (1, True), ("1", 1), (None, "null"), ([1, 2], [[1], 2]), ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (["ab", "c"], ["a", "bc"]), ({1: 2}, {"1": 2}), (torch.zeros(2), torch.zeros(1, 2)), (torch.zeros(2), [0, 0]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)), ({}, []), ([1, 23], [12, 3]),
    ],
)  # fmt: skip
def test_other_contents_have_other_hashes(a: Any, b: Any) -> None:
    assert content_hash(a) != content_hash(b)
    assert content_hash({"x": a}) == content_hash({"x": a})
