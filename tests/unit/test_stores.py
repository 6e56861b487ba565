"""Runs behind URLs: exclusive creation, equal figures, late lists, refusals in a sentence, and no secret anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import workflows
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.cli.app import run
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.evaluation.audit.audit import audit
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.runs import claims
from unfooled.runs.chunks import Run
from unfooled.runs.claims import DRIVER, Claims
from unfooled.runs.executors import dask, processes
from unfooled.runs.folder import recomputed_note
from unfooled.runs.opening import is_url, open_store
from unfooled.runs.remote_store import RemoteStore
from unfooled.runs.sealed import Seal, seal_rows
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
        fs.makedirs("runs", exist_ok=True)  # the buckets of all servers of a process are one
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
    parts = [bytes(store.read_part("a/b/c", *span) or b"") for span in ((0, 2), (3, 9), (1, 0))]
    assert parts == [b"12", b"45", b""]
    more: list[bytes | memoryview] = [b"x" * 10, memoryview(b"yz")]
    store.write_whole("a/b/c", iter(more))
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
    assert bytes(store.read_part("large", len(large) - 2, 9) or b"") == large[-2:]
    store.write_whole("large", iter([large, b"more"]))
    assert bytes(store.read_part("large", len(large), 9) or b"") == b"more"


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


def test_an_audit_behind_a_url_has_the_figures_of_one_in_a_folder(alone: Any, tmp_path: Path) -> None:
    for url in (memory(), (tmp_path / "run").as_uri()):
        assert figures(audited(url), open_store(url)) == alone
    assert figures(audited(url), open_store(url)) == alone  # from what is there
    assert (tmp_path / "run/summary.json").is_file()
    assert not [file for file in open_store(url).list(deep=True) if file.startswith(".")]


@needs_s3
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_an_audit_on_s3(count: int, alone: Any, options: Path) -> None:
    store, helper = open_store(bucket(), options), processes(count, threads=1)
    assert helper is not None
    seen = set[str]()
    summary = audited(store, executor=helper, progress=lambda *_: seen.update(pids(store)))
    assert figures(summary, store) == alone
    assert len(seen) > 1, "one process did everything"
    assert not [file for file in store.list(deep=True) if file.startswith(".")]


@needs_s3
def test_workers_of_a_dask_cluster_share_an_audit_on_s3(alone: Any, options: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    store, seen = open_store(bucket(), options), set[str]()
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True)
    with cluster, dask(cluster.scheduler_address) as executor:
        summary = audited(store, executor=executor, progress=lambda *_: seen.update(pids(store)))
    assert figures(summary, store) == alone
    assert len(seen) > 1, "one process did everything"


def pids(store: Store) -> set[str]:
    """Processes that hold claims."""
    held = [store.read(file) for file in store.list(claims.FOLDER)]
    return {str(json.loads(data)["pid"]) for data in held if data and data.startswith(b"{")}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_stores import audited
from unfooled.runs.folder import recomputed_note
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
        process = [sys.executable, "-c", KILLED, url, str(options), str(moment)]
        assert subprocess.run(process, env=environment, cwd=root, check=False).returncode == -signal.SIGKILL
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


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_second_start_helps_the_first_one_and_returns_what_that_writes(kind: str, tmp_path: Path) -> None:
    store, found = open_store(tmp_path / "run" if kind == "local" else memory()), list[Summary]()
    with Claims(store).claimed(DRIVER):
        thread = threading.Thread(target=lambda: found.append(audited(store)))
        thread.start()
        deadline = time.monotonic() + 100
        while not store.list("chunks/explain") and time.monotonic() < deadline:
            time.sleep(0.2)
        mine = audited(memory()).model_copy(update={"title": "of the driver"})
        assert thread.is_alive(), "it did not wait for the driver"
        assert store.read("summary.json") is None
        store.write_whole("summary.json", mine.model_dump_json().encode())
    thread.join(100)
    assert [summary.title for summary in found] == ["of the driver"]


def test_a_second_start_writes_the_result_if_the_first_one_died(tmp_path: Path) -> None:
    store, found, notes = LocalStore(tmp_path / "run"), list[Summary](), list[str]()

    def second() -> None:
        net, x, y = case()
        inputs = workflows.Inputs(net, (x, y))
        found.append(workflows.audit(inputs, "linf:0.05", options=PLAN, out=store, notify=notes.append))

    with Claims(store).claimed(DRIVER):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 100
        while not store.list("chunks/clean") and time.monotonic() < deadline:
            time.sleep(0.05)
    thread.join(100)
    assert found
    assert notes[1:] == [f"process {os.getpid()} on {platform.node()} is at work on this run; this one helps"]
    assert {"summary.json", "report.html"} <= set(store.list())


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


# Bad input


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command line; it ends with code 2 and one sentence, which is returned."""
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert not any(value in said.err for value in OPTIONS.values())
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    return lines[0].removeprefix("unfooled: ")


def command(out: str, *more: str) -> list[str]:
    return ["audit", "--model", "nothing.pt", "--threat", "linf:0.1", "--out", out, *more]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("foo://b/run", "there is no store for foo:// "),
        ("memory://run", "--out is memory://run, which ends with this command; give a folder or another URL"),
        ("s3://key:word@b/run", "the URL of --out holds a user name or a password, which would be recorded; give them"),
        (
            "s3://b/run?token=x",
            "the URL of --out has a query or is a chain of URLs; give protocol://bucket/fo",
        ),
        ("simplecache::s3://b/run", "the URL of --out has a query or is a chain of URLs; give protocol://bucket"),
        ("s3:/b/run", "--out is the path s3:/b/run; give a URL as text, with two slashes"),
        ("s3://", "--out is s3://, the root of a store; name a folder in it, such as s3://bucket/run"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(out: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command(out), capsys).startswith(sentence)


@pytest.mark.parametrize(("protocol", "package"), [("gs", "pip install gcsfs"), ("s3", 'pip install "unfooled[s3]"')])
def test_a_package_that_is_missing_is_named(
    protocol: str, package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = sys.modules["fsspec.registry"].__dict__["_registry"]
    monkeypatch.setitem(sys.modules, {"gs": "gcsfs", "s3": "s3fs"}[protocol], None)
    monkeypatch.delitem(known, protocol, raising=False)
    said = refused(command(f"{protocol}://b/run"), capsys)
    assert said.startswith(f"{protocol}://b/run needs the package ")
    assert said.endswith(f"; install it: {package}")


def test_the_root_of_a_store_and_urls_that_are_read_are_refused_as_what_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for url, where in (("s3://b", "s3://b/run"), ("s3://", "s3://bucket/run"), ("gs://b/", "gs://b/run")):
        said = refused(command(url), capsys)
        assert said == f"--out is {url}, the root of a store; name a folder in it, such as {where}"
        assert refused(["report", url], capsys) == said.replace("--out", "a run")
    said = refused(["report", f"s3://key:{SECRET}@b/run"], capsys)
    assert said.startswith("the URL of a run holds a user name or a password, which would be recorded")
    assert refused(["report", "s3:/b/run"], capsys).startswith("a run is the path s3:/b/run; give a URL as text")
    audited = ["audit", "--threat", "linf:0.1"]
    for more, option in (
        (["--model", "s3://b/net.pt"], "--model"),
        (["--model", "m.pt", "--data", "s3://b/x.npz"], "--data"),
        (["--model", "m.pt", "--purify", "s3://b/purifier"], "--purify"),
    ):
        said = refused([*audited, *more], capsys)
        assert said.startswith(f"{option} is a URL, s3://b/"), said
        assert said.endswith("; only a run of an audit is read from one, copy it to this machine")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read --store-options {file}: No such file or directory"),
        ("{", "--store-options {file} is no JSON; it holds an object of options by name"),
        (f'["{SECRET}"]', "--store-options {file} holds no JSON object; it holds options by name"),
        (f'{{"secret": "{SECRET}", }}', "--store-options {file} is no JSON; it holds an object of options by name"),
    ],
)
def test_files_of_options_that_cannot_be_read_are_refused(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "options.json"
    if content is not None:
        file.write_text(content)
    assert refused(command("memory://run", "--store-options", str(file)), capsys) == sentence.format(file=file)


def test_options_without_a_url_and_options_on_the_command_line_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inline = json.dumps(OPTIONS)
    assert refused(command("memory://run", "--store-options", inline), capsys).startswith(
        "--store-options is JSON itself"
    )
    arguments = ["audit", "--model", "nothing.pt", "--threat", "linf:0.1", "--store-options", "o.json"]
    assert refused(arguments, capsys) == "--store-options belongs to the URL of a run; give --out URL"
    said = refused(command(str(tmp_path / "run"), "--store-options", "o.json"), capsys)
    assert said == f"--store-options belongs to a URL, and {tmp_path / 'run'} is a folder; leave it out"


@pytest.mark.parametrize(
    "arguments",
    [
        ["certify", "--model", "m.pt", "--threat", "linf:0.1", "--out", "s3://b/c.cert"],
        ["audit", "--model", "m.pt", "--threat", "linf:0.1", "--out", "runs/a", "--write-baseline", "s3://b/a.json"],
        ["report", "runs/a", "--out", "s3://b/report.html"],
    ],
)
def test_other_results_are_kept_on_this_machine(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(arguments, capsys)
    assert re.search(r"is a URL, s3://b/.*; what is written here is kept on this machine, give a name on it", said)


class Answering(MemoryFileSystem):
    """A store with the answers of other servers than that of the tests."""

    protocol = "answering"
    busy = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if mode == "create" and self.busy:
            type(self).busy -= 1
            raise OSError(5, "An error occurred (ConditionalRequestConflict) when calling the PutObject operation")
        try:
            super().pipe_file(path, value, mode=mode)
        except FileExistsError:
            raise OSError(5, "An error occurred (PreconditionFailed) when calling the PutObject operation") from None


def test_other_answers_to_an_exclusive_creation_are_understood() -> None:
    register_implementation("answering", Answering, clobber=True)
    store = open_store(f"answering://{uuid.uuid4().hex}/run")  # which tries it
    Answering.busy = 2
    assert store.create_exclusive("a", b"1")
    assert Answering.busy == 0
    assert not store.create_exclusive("a", b"2")
    assert store.create_exclusive("a", b"1"), "a repeated request whose answer was lost"
    assert store.read("a") == b"1"


class Failing(MemoryFileSystem):
    """A store whose writes fail."""

    protocol = "failing"
    error: Exception = OSError()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError("Access Denied"),
            "these credentials do not allow it (PermissionError: Access Denied); give",
        ),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket or container"),
        (OSError(28, "No space left on device"), "the store is full"),
        (OSError(122, "Disk quota exceeded"), "the store is full"),
        (
            OSError("XMinioStorageFull: Storage backend has reached its minimum free drive threshold"),
            "the store is full",
        ),
        (OSError("QuotaExceeded"), "the store is full"),
        (
            type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"),
            "there are no credentials for it",
        ),
        (
            type("DefaultCredentialsError", (Exception,), {})("x"),
            "there are no credentials for it; give cred",
        ),
        (
            ConnectionError(f"no route with {SECRET} to http://me:{SECRET}@host/"),
            "ConnectionError: no route with *** to ",
        ),
        (
            ConnectionError(f"no route to http://host/b?sig={SECRET[:5]} today"),
            "ConnectionError: no route to http://host/b?*** today",
        ),
        (NotImplementedError(), "NotImplementedError; choose another --out, or try again"),
    ],
)
def test_a_store_that_cannot_be_written_is_refused_at_once(
    error: Exception, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o.json").write_text(json.dumps(OPTIONS))
    register_implementation("failing", Failing, clobber=True)
    Failing.error = error
    said = refused(command("failing://b/run", "--store-options", str(tmp_path / "o.json")), capsys)
    assert re.match(r"cannot write failing://b/run/.claims/.probe-\w+: " + re.escape(sentence), said), said


class Small(MemoryFileSystem):
    """A store with room for one chunk more."""

    protocol = "small"
    room = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if "/chunks/" in path:
            if not self.room:
                raise OSError(122, "Disk quota exceeded")
            type(self).room -= 1
        super().pipe_file(path, value, mode=mode)


def test_a_store_that_becomes_full_stops_the_run_and_more_room_continues_it() -> None:
    register_implementation("small", Small, clobber=True)
    store, Small.room = open_store(f"small://{uuid.uuid4().hex}/run"), 1
    with pytest.raises(
        BadInput, match=r"cannot write small://.*/4-8\.safetensors: the store is full .*; free some space"
    ):
        Run(store, {"seed": 0}, chunk=4).map("s", lambda rows: {"a": rows}, 8)
    assert store.list(claims.FOLDER) == []
    assert store.list("chunks/s") == ["chunks/s/0-4.safetensors"]
    Small.room, computed = 9, list[int]()

    def compute(rows: Tensor) -> dict[str, Tensor]:
        computed.extend(rows.tolist())
        return {"a": rows}

    assert Run(store, {"seed": 0}, chunk=4).map("s", compute, 8)["a"].tolist() == list(range(8))
    assert computed == [4, 5, 6, 7]


def test_a_store_that_does_not_create_exclusively_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    class Careless(MemoryFileSystem):
        protocol = "careless"

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            super().pipe_file(path, value)

    register_implementation("careless", Careless, clobber=True)
    assert refused(command("careless://b/run"), capsys).startswith("careless://b/run does not create files exclusively")


@needs_s3
def test_a_bucket_or_credentials_that_are_missing_are_refused(
    options: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(command("s3://nowhere/run", "--store-options", str(options)), capsys)
    assert re.search(
        "^cannot write s3://nowhere/run/.*: there is no such bucket or container .*; create it first$", said
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "o.json").write_text(json.dumps({"endpoint_url": json.loads(options.read_text())["endpoint_url"]}))
    said = refused(command("s3://runs/run", "--store-options", str(tmp_path / "o.json")), capsys)
    assert "there are no credentials for it; give credentials in the environment or with --store-options FILE" in said


def test_a_private_store_is_refused_where_others_should_help() -> None:
    helper = processes(2, threads=1)
    with pytest.raises(BadInput, match="is seen by this process alone, so that no others can help; leave out exec"):
        audited(memory(), executor=helper)


def test_work_of_another_version_is_refused_or_computed_again(store: Store) -> None:
    first = Run(store, {"seed": 0}, chunk=4)
    first.map("s", lambda rows: {"a": rows}, 8)
    text = (store.read("config.json") or b"").decode()
    store.write_whole("config.json", text.replace('"layout": 2', '"layout": 1').encode())
    with pytest.raises(BadInput, match="has layout 1, this version of unfooled continues layout 2; choose another out"):
        Run(store, {"seed": 0})
    store.write_whole("config.json", text.encode())
    file = "chunks/s/0-4.safetensors"
    store.write_whole(file, seal_rows({"a": torch.ones(4)}, {}, Seal("of another version", file)))
    second = Run(store, {"seed": 0}, chunk=4)
    assert second.map("s", lambda rows: {"a": rows}, 8)["a"].tolist() == list(range(8))
    assert recomputed_note(second.folder.damaged) == [
        f"1 stored file was damaged, renamed or of other work, and computed again: {file}."
    ]
    assert Run(store, {"seed": 0}).folder.read_rows(file, 4) is not None


# Secrets


def everything(store: RemoteStore) -> bytes:
    """All names and contents of a store."""
    return b"\n".join(name.encode() + b"\n" + (store.read(name) or b"") for name in store.list(deep=True))


def secrets_in(data: bytes) -> list[str]:
    return [name for name, value in OPTIONS.items() if value.encode() in data]


@needs_s3
def test_nothing_that_is_written_or_printed_holds_a_credential(
    options: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    url = bucket()
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    arguments = [
        "audit",
        "--model",
        f"{tmp_path}/nets.py:build",
        "--threat",
        "linf:0.1",
        "--n",
        "6",
        "--effort",
        "quick",
    ]
    arguments += ["--reasons", "none", "--out", url, "--store-options", str(options)]
    caplog.set_level("DEBUG", logger="unfooled")
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert f"page: {url}/report.html" in said.out
    store = open_store(url, options)
    assert isinstance(store, RemoteStore)
    assert {"config.json", "report.html", "samples.safetensors", "summary.json"} <= set(store.list())
    assert run(["report", url, "--store-options", str(options), "--out", str(tmp_path / "page.html")]) == 0
    assert run(["report", url, "--store-options", str(options), "--out", str(tmp_path / "page.html"), "--json"]) == 0
    page = (tmp_path / "page.html").read_bytes()
    assert b"<html" in page
    more = capsys.readouterr()
    for text in (said.out, said.err, more.out, more.err, caplog.text, repr(store)):
        assert secrets_in(text.encode()) == []
    assert secrets_in(everything(store)) == secrets_in(page) == secrets_in(bytes(ForkingPickler.dumps(store))) == []
    back = ForkingPickler.loads(ForkingPickler.dumps(store))
    assert back == store
    assert back.options == store.options


def test_options_are_part_of_no_record_or_hash(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text("{}")
    a, b = memory(), memory()
    with_options, without = open_store(a, tmp_path / "o.json"), open_store(b)
    assert isinstance(with_options, RemoteStore)
    object.__setattr__(with_options, "options", OPTIONS)
    records = [Run(store, {"seed": 0}).folder.config for store in (with_options, without)]
    assert records[0] == records[1]
    assert with_options.read("config.json") == without.read("config.json")
    assert secrets_in(everything(with_options)) == []
