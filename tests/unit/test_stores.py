"""Runs behind URLs: exclusive creation, equal figures, late lists, refusals in a sentence, and no secret anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.evaluation.audit.audit import audit
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.runs import claims
from unfooled.runs.chunks import Run
from unfooled.runs.claims import DRIVER, Claims
from unfooled.runs.executors import processes
from unfooled.runs.opening import is_url, open_store
from unfooled.runs.remote_store import RemoteStore
from unfooled.runs.store import LocalStore, Store

PLAN = Plan(
    effort=Effort("short", (Ascents(4),)), nearest_budget=100, nearest_n=2, explain_n=2, reasons=None, floor=100
)
APART = {"seconds", "created", "efficiency"}
"""Fields that say when and how fast."""
SECRET = "wJalrXUtnFEMI-K7MDENG-thesecret"
OPTIONS = {"key": "AKIAIOSFODNN7EXAMPLE", "secret": SECRET}
needs_s3 = pytest.mark.skipif(
    not (importlib.util.find_spec("s3fs") and importlib.util.find_spec("moto")),
    reason='an S3 server on this machine needs s3fs and moto: pip install s3fs "moto[server]"',
)


def memory() -> str:
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server, with a bucket `runs`."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer

        running = ThreadedMotoServer(port=0, verbose=False)
        running.start()
        _host, port = running.get_host_and_port()
        address = f"http://127.0.0.1:{port}"
        fs = RemoteStore("s3://runs/x", OPTIONS | {"endpoint_url": address})._open()
        fs.mkdir("runs")
        yield address
        running.stop()


@pytest.fixture
def options(server: str, tmp_path: Path) -> Path:
    """File of options for the server."""
    file = tmp_path / "options.json"
    file.write_text(json.dumps(OPTIONS | {"endpoint_url": server}))
    return file


def bucket() -> str:
    return f"s3://runs/{uuid.uuid4().hex}/run"


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=needs_s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind."""
    if request.param == "local":
        return open_store(tmp_path / "run")
    if request.param == "memory":
        return open_store(memory())
    return open_store(bucket(), request.getfixturevalue("options"))


# Stores


def test_a_url_is_told_from_a_path() -> None:
    assert [is_url(text) for text in ("s3://runs/r", "file:///r", "memory://r", Path("s3://b/r"))] == [True] * 4
    assert [is_url(text) for text in ("runs/a", "/runs/a", "C:/runs", r"C:\runs", "a:b", "s3")] == [False] * 6


def test_files_are_read_written_listed_and_removed(store: Store) -> None:
    assert (store.list(), store.list(deep=True), store.read("a"), store.read_part("a", 0, 4)) == ([], [], None, None)
    store.remove("a/b/c")
    store.write_whole("a/b/c", b"12345")
    assert store.create_exclusive("a/d", b"2")
    assert not store.create_exclusive("a/d", b"3")
    assert (store.read("a/d"), store.read("a/e")) == (b"2", None)
    assert (store.list("a"), store.list()) == (["a/d"], [])
    assert store.list("a", deep=True) == store.list(deep=True) == ["a/b/c", "a/d"]
    assert [store.read_part("a/b/c", *span) for span in ((0, 2), (3, 9), (1, 0))] == [b"12", b"45", b""]
    store.write_whole("a/b/c", iter([b"x" * 10, memoryview(b"yz")]))
    assert store.read("a/b/c") == b"x" * 10 + b"yz"
    assert store.read("a/b/c", most=12) == b"x" * 10 + b"yz"
    with pytest.raises(BadInput, match="has 12 bytes, more than the 11 that are read of such a file"):
        store.read("a/b/c", most=11)
    assert 0 <= store.age("a/d") < 100
    assert store.age("nothing") == 0
    store.remove("a/b/c")
    store.remove("a/d")
    assert store.list(deep=True) == []


def test_one_of_several_creates_an_object(store: Store) -> None:
    for turn in range(3):
        gate, won = threading.Barrier(6), list[int]()

        def create(k: int, turn: int = turn, gate: threading.Barrier = gate, won: list[int] = won) -> None:
            gate.wait()
            if store.create_exclusive(f"{turn}", bytes([k]) * 70_000):
                won.append(k)

        threads = [threading.Thread(target=create, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read(f"{turn}") == bytes(won) * 70_000


@needs_s3
def test_large_objects_are_created_exclusively_too(options: Path) -> None:
    store = open_store(bucket(), options)
    large = os.urandom(1) * (60 << 20)  # of several parts
    assert store.create_exclusive("large", large)
    assert not store.create_exclusive("large", b"0" + large)
    assert not store.create_exclusive("large", b"0")
    assert store.read_part("large", len(large) - 2, 9) == large[-2:]
    store.write_whole("large", iter([large, b"more"]))
    assert store.read_part("large", len(large), 9) == b"more"


# Audits


def case() -> tuple[nn.Module, Tensor, Tensor]:
    net, x = tiny_net(3, (1, 6, 5)), points(24, (1, 6, 5), seed=5)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def audited(out: Any, **options: Any) -> Summary:
    return audit(*case(), Linf(0.05), plan=PLAN, out=out, chunk=6, about={"model": "net"}, **options)


def figures(summary: Summary, store: Store) -> tuple[dict[str, Any], dict[str, list[Any]], bytes]:
    """The record, the samples, and the pictures."""
    samples, pictures = store.read("samples.safetensors"), store.read("gallery.safetensors")
    assert samples is not None
    assert pictures is not None
    stored = Summary.model_validate_json(store.read("summary.json") or b"")
    assert stored == summary
    record = summary.model_dump(mode="json", exclude=APART)
    return record, {name: value.tolist() for name, value in load(samples).items()}, pictures


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, list[Any]], bytes]:
    """Figures of an audit in a folder, by one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return figures(audited(folder), LocalStore(folder))


def test_an_audit_behind_a_url_has_the_figures_of_one_in_a_folder(
    alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (memory(), (tmp_path / "run").as_uri()):
        assert figures(audited(url), open_store(url)) == alone
        monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
        again = audited(url)  # reads what is there
        assert again.model_dump(exclude=APART) == audited(url).model_dump(exclude=APART)
    assert (tmp_path / "run/summary.json").is_file()
    assert not [file for file in open_store(url).list(deep=True) if file.startswith(".")]


@needs_s3
def test_two_processes_share_an_audit_on_s3(alone: Any, options: Path) -> None:
    store = open_store(bucket(), options)
    assert figures(audited(store), store) == alone
    store, helper = open_store(bucket(), options), processes(2, threads=1)
    assert helper is not None
    seen = set[str]()
    summary = audited(store, executor=helper, progress=lambda *_: seen.update(pids(store)))
    assert figures(summary, store) == alone
    assert len(seen) == 2, "one process did everything"
    assert not [file for file in store.list(deep=True) if file.startswith(".")]


def pids(store: Store) -> set[str]:
    """Processes that hold claims."""
    held = [store.read(file) for file in store.list(claims.FOLDER)]
    return {str(json.loads(data)["pid"]) for data in held if data and data.startswith(b"{")}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_stores import audited
from unfooled.runs.opening import open_store

left = int(sys.argv[3])

def progress(stage, done, total):
    global left
    left -= done > 0
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

audited(open_store(sys.argv[1], sys.argv[2]), progress=progress)
"""


@needs_s3
def test_a_driver_that_is_killed_on_s3_is_continued(alone: Any, options: Path) -> None:
    url, root = bucket(), Path(__file__).parents[2]
    store, chunks = open_store(url, options), dict[str, bytes | None]()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    for moment in (2, 3):
        run = [sys.executable, "-c", KILLED, url, str(options), str(moment)]
        assert subprocess.run(run, env=environment, cwd=root, check=False).returncode == -signal.SIGKILL
        assert store.read("summary.json") is None
        found = {file: store.read(file) for file in store.list("chunks", deep=True)}
        assert len(found) > len(chunks), "nothing was stored before the kill"
        assert found.items() >= chunks.items()
        chunks = found
    assert figures(audited(store), store) == alone
    assert {file: store.read(file) for file in chunks} == chunks  # nothing was computed again


def test_other_settings_are_refused_behind_a_url(store: Store) -> None:
    Run(store, {"seed": 0})
    with pytest.raises(BadInput, match="holds another run: seed was 0, now it is 1; choose another out") as caught:
        Run(store, {"seed": 1})
    assert store.place() in str(caught.value)


def test_a_second_start_helps_the_first_one_and_returns_what_that_writes(store: Store) -> None:
    found: list[Summary] = []
    with Claims(store).claimed(DRIVER):
        thread = threading.Thread(target=lambda: found.append(audited(store)))
        thread.start()
        deadline = time.monotonic() + 100
        while not store.list("chunks/explain") and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        assert thread.is_alive(), "it did not wait for the driver"
        assert store.read("summary.json") is None
        mine = audited(memory()).model_copy(update={"title": "of the driver"})
        store.write_whole("summary.json", mine.model_dump_json().encode())
    thread.join(100)
    assert [summary.title for summary in found] == ["of the driver"]


def test_a_second_start_writes_the_result_if_the_first_one_died(tmp_path: Path) -> None:
    store, found = LocalStore(tmp_path / "run"), list[Summary]()
    with Claims(store).claimed(DRIVER):
        thread = threading.Thread(target=lambda: found.append(audited(store)))
        thread.start()
        time.sleep(0.5)
    thread.join(100)
    assert found
    assert store.read("summary.json") is not None


class Late(RemoteStore):
    """A store whose lists are of some time ago: new files are missing, removed ones are there."""

    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        shown, now = STALE.setdefault((self.url, folder, deep), []), time.monotonic()
        shown.append((now, super().list(folder, deep=deep)))
        while len(shown) > 1 and shown[1][0] < now - 0.4:
            shown.pop(0)
        return shown[0][1] if shown[0][0] < now - 0.4 else []


STALE: dict[tuple[str, str, bool], list[tuple[float, list[str]]]] = {}


def test_a_store_that_lists_late_is_harmless(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.05)
    store, found = Late(memory()), list[Summary]()
    threads = [threading.Thread(target=lambda: found.append(audited(store))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(found) == 2
    assert figures(found[0], store) == alone
    assert found[0].model_dump(exclude=APART) == found[1].model_dump(exclude=APART)


def test_the_chunk_that_is_stored_counts_where_two_computed_it(store: Store) -> None:
    def race(rows: Tensor) -> dict[str, Tensor]:
        if not other:
            other.append(Run(store, {"seed": 0}, chunk=4))
            other[0].folder.store_rows("chunks/s/0-4.safetensors", {"a": rows}, facts, 4)
        return {"a": rows + 1}  # rounding that differs, say

    other: list[Run] = []
    facts = {"forwards": 5, "backwards": 6, "calls": 7, "seconds": 8.0}
    run = Run(store, {"seed": 0}, chunk=4)
    assert run.map("s", race, 4)["a"].tolist() == [0, 1, 2, 3]
    assert (run.passes["s"], run.calls["s"], run.seconds["s"]) == ((5, 6), 7, 8.0)
