"""Attacks, sets of features, explanations, scores of maps, studies and merged shares behind URLs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net
from tests.unit.test_shared_work import judged
from tests.unit.test_stores import (  # noqa: F401  (fixtures)
    bucket,
    everything,
    memory,
    needs_s3,
    options,
    refused,
    secrets_in,
    server,
)

from unfooled import workflows
from unfooled.core.errors import BadInput
from unfooled.data.formats.feature_sets import load_features
from unfooled.models import SmallCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.executors import processes
from unfooled.runs.opening import open_file, open_store
from unfooled.runs.remote_store import RemoteStore
from unfooled.runs.store import Store, StoredFile
from unfooled.studies.broken_defences import run_broken_defences
from unfooled.studies.broken_defences.cases import CASES
from unfooled.studies.broken_defences.scale import SCALES
from unfooled.workflows import BadOption, Inputs, Machine, catalog

APART = {"seconds", "created", "out", "manifest", "manifest_sha256", "files", "cpu_seconds", "load"}
"""Fields that say when, where and how fast."""


def inputs() -> Inputs:
    net, x = tiny_net(3, (1, 8, 8)), points(24, (1, 8, 8), seed=5)
    with torch.no_grad():
        return Inputs(net, (x, net(x).argmax(1)))


def arrays(data: bytes | None) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of the arrays of an archive."""
    assert data is not None
    with np.load(io.BytesIO(data)) as stored:
        return {name: (str(one.dtype), one.shape, one.tobytes()) for name, one in stored.items()}


def figures(record: Any) -> Any:
    """A record without what says when, where and how fast."""
    if isinstance(record, dict):
        return {name: figures(value) for name, value in record.items() if name not in APART}
    return [figures(value) for value in record] if isinstance(record, list) else record


def attack(store: Store, progress: Progress | None = None, **how: Any) -> tuple[Any, ...]:
    """An attack in parts of five samples; its record and its points."""
    file = StoredFile(store, "points.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfooled.workflows.attacking.CHUNK_SAMPLES", 5)
        record = workflows.attack(inputs(), "linf:0.05", steps=3, out=file, progress=progress, **how)
    assert record.out == str(file)
    return figures(record.model_dump(mode="json")), arrays(file.read())


def features(store: Store, progress: Progress | None = None, **how: Any) -> tuple[Any, ...]:
    """A set of features; its manifest and its arrays."""
    file, sizes = StoredFile(store, "set.npz"), workflows.FeatureOptions(steps=3, shard=5)
    made = workflows.features(inputs(), file, kind="d-det", threat="l2:1", options=sizes, progress=progress, **how)
    assert made["manifest"] == store.place("set.json")
    assert load_features(file).manifest["sha256"] == made["sha256"]
    return figures(made), arrays(file.read())


def explain(store: Store, progress: Progress | None = None, **how: Any) -> tuple[Any, ...]:
    """Maps and an attack on them; the record and the arrays."""
    spec = workflows.MapAttack("linf:0.05", steps=2, restarts=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfooled.workflows.explaining.SAMPLES_AT_ONCE", 5)
        record = workflows.explain(inputs(), method="saliency", attack=spec, out=store, progress=progress, **how)
    assert record.files == [store.place(name) for name in ("maps.npz", "maps.png", "report.html")]
    assert (store.read("report.html") or b"").startswith(b"<!doctype html>")
    return figures(record.model_dump(mode="json")), arrays(store.read("maps.npz"))


def lens(store: Store, progress: Progress | None = None, *, machine: Machine = Machine()) -> tuple[Any, ...]:  # noqa: B008
    """Scores of maps."""
    a, b = points(20, (9, 9), seed=1), points(20, (9, 9), seed=2)
    machine = replace(machine, batch=5)
    record = workflows.lens(a, b, k=[5], w=[0, 1], out=store, progress=progress, machine=machine)
    stored = json.loads(store.read("lens.json") or b"")
    assert stored["found"] == record.model_dump(mode="json", by_alias=True)["found"]
    return figures(record.model_dump(mode="json")), ()


def run_tiny(scale: str, **how: Any) -> Any:
    """The study of broken defences, with its training, on a tiny network."""
    size = replace(SCALES[scale], n=10, train_n=200, epochs=2, arch=partial(SmallCnn, width=4))
    return run_broken_defences(size, judge=judged, cases=[one for one in CASES if one.number in (4, 5)], **how)


def study(store: Store, progress: Progress | None = None, **how: Any) -> tuple[Any, ...]:
    """A study that trains a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "resolve", lambda path: run_tiny)
        record = workflows.study("broken-defences", out=store, progress=progress, **how)
    assert {"report.html", "summary.json"} <= set(store.list())
    assert [name for name in store.list(deep=True) if name.startswith("networks/")]
    found = figures(record.model_dump(mode="json"))
    for rows in found["tables"].values():
        for row in rows:
            row.pop("seconds", None)
    return found, ()


COMMANDS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "features": features, "attack": attack, "study": study, "explain": explain, "lens": lens,
}  # fmt: skip
every_command = pytest.mark.parametrize("command", list(COMMANDS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, ...]]:
    """Result of a command in a folder of this machine."""
    known: dict[str, tuple[Any, ...]] = {}

    def result(command: str) -> tuple[Any, ...]:
        if command not in known:
            known[command] = COMMANDS[command](open_store(tmp_path_factory.mktemp(command)))
        return known[command]

    return result


def unfinished(store: Store) -> list[str]:
    """Files of work that is not finished."""
    return [name for name in store.list(deep=True) if "parts" in name or name.startswith(".claims")]


@every_command
def test_a_result_behind_a_url_is_that_in_a_folder(command: str, alone: Any) -> None:
    store = open_store(memory())
    stages: list[str] = []
    assert COMMANDS[command](store, progress=lambda stage, *_: stages.append(stage)) == alone(command)
    assert stages
    assert unfinished(store) == []
    assert COMMANDS[command](store) == alone(command)  # over what is there


KILLED = """
import os, signal, sys
from tests.unit.test_stored_results import COMMANDS
from unfooled.runs.opening import open_store

left = 2

def progress(stage, done, total):
    global left
    left -= done > 0
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

COMMANDS[sys.argv[3]](open_store(sys.argv[1], sys.argv[2]), progress=progress)
"""


@needs_s3
@every_command
def test_a_command_that_is_killed_on_s3_is_continued(command: str, alone: Any, options: Path) -> None:  # noqa: F811
    url, root = bucket(), Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "OMP_NUM_THREADS": "1"}
    process = [sys.executable, "-c", KILLED, url, str(options), command]
    ended = subprocess.run(process, env=environment, cwd=root, check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = open_store(url, options)
    kept = {
        name: store.read(name)
        for name in store.list(deep=True)
        if name.endswith((".safetensors", ".pt")) or "/units/" in f"/{name}"
    }
    assert kept, "nothing was stored before the kill"
    seen: dict[str, bytes | None] = {}

    def look(*_: Any) -> None:
        seen.update({name: store.read(name) for name in kept if not name.endswith(".pt") and name not in seen})

    assert COMMANDS[command](store, progress=look) == alone(command)
    assert seen == {name: data for name, data in kept.items() if not name.endswith(".pt")}, "computed again"
    assert unfinished(store) == []
    assert isinstance(store, RemoteStore)
    assert secrets_in(everything(store)) == []


@needs_s3
def test_helpers_share_results_on_s3(alone: Any, options: Path) -> None:  # noqa: F811
    helper = processes(2, threads=1)
    assert helper is not None
    for command in ("attack", "lens"):
        store = open_store(bucket(), options)
        assert COMMANDS[command](store, machine=Machine("cpu", workers=helper))[0] == alone(command)[0]
        assert unfinished(store) == []


@every_command
def test_a_store_that_only_this_process_sees_is_refused_where_others_should_help(command: str) -> None:
    helper = processes(2, threads=1)
    assert helper is not None
    with pytest.raises(BadInput, match="is seen by this process alone, so that no others can help"):
        COMMANDS[command](open_store(memory()), machine=Machine("cpu", workers=helper))


def test_files_behind_urls_are_named_by_their_last_part(tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    for url, folder in (
        (f"memory://{name}/a.npz", f"memory://{name}"),
        (f"memory://{name}.npz", "memory://"),
        (f"{tmp_path.as_uri()}/a.npz", str(tmp_path)),
    ):
        file = open_file(url)
        file.write(b"123")
        assert (file.store.place().rstrip("/") or "/", file.read()) == (folder.rstrip("/"), b"123")
        assert (file.exists(), file.beside("b.json").exists()) == (True, False)
        with file.on_disk() as path:
            assert (path.name, path.read_bytes()) == (file.last, b"123")
        file.remove()
        assert not file.exists()
        with pytest.raises(BadInput, match=r"is not there"), file.on_disk() as path:
            path.read_bytes()


def test_shares_are_merged_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Any) -> None:
    (tmp_path / "net.py").write_text(
        "from tests.conftest import tiny_net\ndef build():\n    return tiny_net(3, (1, 8, 8))\n"
    )
    whole = inputs()
    assert isinstance(whole.data, tuple)
    np.savez(tmp_path / "data.npz", x=whole.data[0].numpy(), y=whole.data[1].numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unfooled.workflows.attacking.CHUNK_SAMPLES", 5)
    monkeypatch.setattr("unfooled.workflows.sharing.CHUNK_SAMPLES", 5)
    named = Inputs("net.py:build", "data.npz")
    for rows in ("0:10", "10:24"):
        choices = workflows.AttackOptions(steps=3)
        workflows.attack_rows(named, "linf:0.05", rows, rows.replace(":", "-"), options=choices)
    with pytest.raises(BadOption, match="which ends with this command"):
        workflows.merge(["0-10", "10-24"], f"{memory()}/points.npz", trust_shares=True)
    out = f"{(tmp_path / 'merged').as_uri()}/points.npz"
    workflows.merge(["0-10", "10-24"], out, trust_shares=True)
    merged = arrays(open_file(out).read())
    assert {name: merged[name] for name in ("x", "success", "distance")} == {
        name: alone("attack")[1][name] for name in ("x", "success", "distance")
    }


def command_line(name: str, *more: str) -> list[str]:
    given = {
        "attack": ["--model", "nothing.pt", "--threat", "linf:0.1"],
        "features": ["--model", "nothing.pt"],
        "study": ["broken-defences"],
        "explain": ["--model", "nothing.pt"],
        "lens": ["a.npy", "b.npy", "--k", "5"],
    }
    return [name, *given[name], *more]


@every_command
def test_places_that_cannot_be_used_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "b.npy"):
        np.save(name, np.ones((2, 3, 3)))
    for out, sentence in (
        ("s3://key:word@b/a.npz", "the URL of --out holds a user name or a password, which would be recorded"),
        ("s3:/b/a.npz", "--out is the path s3:/b/a.npz; give a URL as text, with two slashes"),
        ("s3://b", "--out is s3://b"),
        ("foo://b/a.npz", "there is no store for foo:// "),
        (f"{memory()}.npz", "--out is memory://"),
    ):
        assert refused(command_line(command, "--out", out), capsys).startswith(sentence)
    here = "here.npz" if command in ("attack", "features") else "here"
    said = refused(command_line(command, "--out", here, "--store-options", "o"), capsys)
    assert said.startswith("--store-options belongs to a URL")
    if command in ("attack", "features"):
        said = refused(command_line(command, "--out", "s3://b/points"), capsys)
        assert said == "--out is s3://b/points; the file ends in .npz: give --out URL.npz"
        said = refused(command_line(command, "--out", "s3://b/a.npz", "--rows", "0:5"), capsys)
        assert said.startswith("s3://b/a.npz is a URL, and a share lies in a folder; the same command without --rows")


class Enough(Exception):
    """The end of an interrupted start."""


def test_maps_go_on_only_with_the_same_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfooled.workflows.explaining.SAMPLES_AT_ONCE", 5)

    def explained(store: Store, eps: float, progress: Progress | None = None, seed: int = 0) -> Any:
        spec = workflows.MapAttack(f"linf:{eps}", steps=2, restarts=1)
        workflows.explain(inputs(), method="saliency", attack=spec, out=store, progress=progress, seed=seed)
        return arrays(store.read("maps.npz"))

    def few(stage: str, done: int, total: int) -> None:
        if "attack" in stage and 0 < done < total:
            raise Enough

    store, other = open_store(memory()), open_store(memory())
    with pytest.raises(Enough):
        explained(store, 0.3, few)
    assert unfinished(store)
    for eps, seed in ((0.05, 0), (0.3, 1)):
        assert explained(store, eps, seed=seed) == explained(other, eps, seed=seed)


@pytest.mark.parametrize(("command", "last"), [("explain", "maps.npz"), ("lens", "lens.json")])
def test_work_is_kept_until_its_result_is_written(command: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(memory())
    write = type(store).write_whole

    def full(self: Store, name: str, data: Any) -> None:
        if name == last:
            raise BadInput("the store is full")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "write_whole", full)
        with pytest.raises(BadInput, match="the store is full"):
            COMMANDS[command](store)
    assert unfinished(store)
    COMMANDS[command](store)
    assert unfinished(store) == []


def test_merging_writes_over_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(
        "from tests.conftest import tiny_net\ndef build():\n    return tiny_net(3, (1, 8, 8))\n"
    )
    data = inputs().data
    assert isinstance(data, tuple)
    x, y = data
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.chdir(tmp_path)
    named, sizes = Inputs("net.py:build", "data.npz"), workflows.FeatureOptions(steps=2, shard=5)
    shares = []
    for rows in ("0:10", "10:24"):
        shares.append(rows.replace(":", "-"))
        workflows.features_rows(named, rows, shares[-1], kind="d-det", threat="l2:1", options=sizes)
    Path("foreign.npz").write_bytes(b"hello")
    with pytest.raises(BadInput, match=r"foreign\.npz exists and is no result of this command"):
        workflows.merge(shares, "foreign.npz", trust_shares=True)
    assert Path("foreign.npz").read_bytes() == b"hello"
    workflows.merge(shares, "SET.NPZ", trust_shares=True)
    made = Path("SET.NPZ").read_bytes()
    with pytest.raises(BadInput, match=r"SET\.NPZ is a finished set"):
        workflows.merge(shares, "SET.NPZ", trust_shares=True)
    assert Path("SET.NPZ").read_bytes() == made


def test_places_of_file_urls_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("")
    (tmp_path / "dir.npz").mkdir()
    for place in ("file.py/run", "file.py"):
        with pytest.raises(BadInput, match="choose another"):
            workflows.explain(inputs(), method="saliency", out=f"{tmp_path.as_uri()}/{place}")
    with pytest.raises(BadInput, match="which is a folder"):
        workflows.attack(inputs(), "linf:0.1", out=f"{tmp_path.as_uri()}/dir.npz")
    with pytest.raises(BadInput, match="which is the name of a file"):
        workflows.explain(inputs(), method="saliency", out=f"{memory()}/a.json")
