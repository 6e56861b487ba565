"""Every kind of resumable work keeps the same promises: chunks, records, data sets, units, checkpoints, archives."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tests.conftest import points, tiny_net
from torch import Tensor, nn

import unfooled as uf
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.evaluation.audit.records import Summary
from unfooled.features import Encoder, Storage, robust_set
from unfooled.features.making import Search
from unfooled.models import SmallCnn
from unfooled.runs import claims
from unfooled.runs.archives import read_archive, write_archive
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.folder import discard, open_folder, started
from unfooled.runs.opening import open_file
from unfooled.runs.records import Config, read_record
from unfooled.runs.store import LocalStore
from unfooled.runs.units import Units
from unfooled.studies.common.records import StudySummary
from unfooled.training import Batches, Checkpoint, Standard, train

FORK = multiprocessing.get_context("fork")
X, Y = points(12, (1, 6, 6), seed=3), torch.arange(12) % 3


class Value(BaseModel):
    """A record."""

    value: float


class Work(Protocol):
    """Resumable work in one place: three pieces, each noted when it is computed."""

    refuses: bool
    """Whether damage is refused in a sentence instead of computed again."""

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        """Do the work, or what of it is not there; the result."""
        ...

    def files(self, place: Path) -> list[Path]:
        """Return what is kept, but for the settings."""
        ...


def config(seed: int) -> Config:
    return Config(model="m", data="d", n=6, threat="linf:0.1", seed=seed, options={"steps": [1, 2]})


class Chunks:
    """An audit's stage."""

    refuses = False

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        def compute(rows: Tensor) -> Rows:
            note(int(rows[0]) // 2)
            return {"a": rows * 2 + seed, "b": torch.stack([rows.double(), -rows.double()], 1)}

        made = Run(place, config(seed), chunk=2).map("stage", compute, 6)
        return torch.cat([made["a"][:, None], made["b"]], 1)

    def files(self, place: Path) -> list[Path]:
        return sorted((place / "chunks/stage").glob("*"))


class Records:
    """An audit's findings."""

    refuses = False

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        run, model = Run(place, config(seed)), Counted(lambda x: x)

        def compute(piece: int) -> list[Value]:
            note(piece)
            model(torch.zeros(piece + 1, 1))
            return [Value(value=piece + seed), Value(value=float("inf"))]

        made = [run.once(f"f{k}", Value, lambda k=k: compute(k), model=model) for k in range(3)]  # type: ignore[misc]
        assert [run.passes[f"f{k}"] for k in range(3)] == [(1, 0), (2, 0), (3, 0)]
        return torch.tensor([record.value for records in made for record in records])

    def files(self, place: Path) -> list[Path]:
        return sorted((place / "chunks").glob("*"))


class Sets:
    """A data set of rebuilt images."""

    refuses = False

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        def clean(x: Tensor) -> Tensor:
            note(0)
            return x

        net = tiny_net(3, (1, 6, 6), seed=0)
        names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
        encode = Encoder(net, names[0])
        made = robust_set(encode, X, Y, seed=seed, search=Search(steps=2), clean=clean, storage=Storage(place, 4))
        return torch.cat([made.x.flatten(1), made.start[:, None], made.residual[:, None]], 1)

    def files(self, place: Path) -> list[Path]:
        return sorted((place / "chunks/robust").glob("*"))


class Study:
    """A study's units."""

    refuses = False

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        def compute(name: str) -> Value:
            note(int(name))
            return Value(value=float(torch.rand(())) + seed)

        made = Units(place, config(seed)).map("stage", Value, ["0", "1", "2"], compute)
        return torch.tensor([record.value for record in made])

    def files(self, place: Path) -> list[Path]:
        return sorted((place / "units/stage").glob("*"))


class Training:
    """A training's checkpoint."""

    refuses = True

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        net = tiny_net(3, (1, 6, 6), seed=0)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        keep = Checkpoint(place / "net.pt", {"classes": ["a", "b", "c"]}, {"lr": 1e-2, "seed": seed, "sizes": (1, 2)})
        for epoch in train(net, Batches(X, Y, 4), Standard(), optimizer, epochs=3, seed=seed, checkpoint=keep):
            note(epoch.index)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    def files(self, place: Path) -> list[Path]:
        return sorted(place.glob("*.pt"))


class Archive:
    """The result of an attack, whose work is kept beside it until it is written."""

    refuses = True

    def __call__(self, place: Path, note: Callable[[int], None], seed: int = 0) -> Tensor:
        out, settings = place / "out.npz", {"attack": "pgd", "seed": seed, "steps": None}
        found = read_archive(out, settings, kind="attack")
        if found is None:

            def compute(rows: Tensor) -> Rows:
                note(int(rows[0]) // 2)
                return {"x": rows.float() + seed}

            made = Run(open_file(out).parts, settings, chunk=2).map("attack", compute, 6)
            write_archive(out, {"x": made["x"].numpy(), "names": np.array(["a", "b"])}, settings)
            assert discard(open_file(out).parts)
            found = read_archive(out, settings)
        assert found is not None
        assert found["names"].tolist() == ["a", "b"]
        return torch.from_numpy(found["x"])

    def files(self, place: Path) -> list[Path]:
        return sorted(place.glob("*.npz"))


WORK: list[Work] = [Chunks(), Records(), Sets(), Study(), Training(), Archive()]
RECOMPUTED = [work for work in WORK if not work.refuses]
REFUSED = [work for work in WORK if work.refuses]


def name(value: Any) -> str:
    return type(value).__name__.lower()


def silent(piece: int) -> None:
    """Take no note."""


@pytest.mark.parametrize("work", WORK, ids=name)
def test_a_second_start_finds_everything(work: Work, tmp_path: Path) -> None:
    made: list[int] = []
    first = work(tmp_path / "a", made.append)
    assert made
    made.clear()
    assert torch.equal(work(tmp_path / "a", made.append), first)
    assert made == []
    assert torch.equal(work(tmp_path / "b", silent), first)
    assert not list((tmp_path / "a").rglob("*claims*"))


@pytest.mark.parametrize("work", WORK, ids=name)
def test_other_settings_are_refused_in_the_same_sentence(work: Work, tmp_path: Path) -> None:
    first = work(tmp_path, silent)
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(BadInput, match=r"holds another \w+: seed was 0, now it is 1; choose another out") as caught:
        work(tmp_path, silent, seed=1)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == kept
    assert torch.equal(work(tmp_path, silent), first)


def damaged(data: bytes, others: list[bytes]) -> Iterator[bytes]:
    """Damaged copies of a file: under other names, replaced, cut off, and flipped here and there."""
    yield from (*others, b"", b"{}", b"null", b"[1]", data[:1], data[: len(data) // 2], data[:-4])
    for k in range(0, len(data), max(1, len(data) // 12)):
        yield data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]


@pytest.mark.parametrize("work", RECOMPUTED, ids=name)
def test_what_is_not_as_it_was_written_is_computed_again(work: Work, tmp_path: Path) -> None:
    place = tmp_path / "a"
    made: list[int] = []
    first = work(place, silent)
    work(tmp_path / "b", silent, seed=1)
    files, foreign = work.files(place), work.files(tmp_path / "b")
    assert len(files) == 3
    assert [file.name for file in files] == [file.name for file in foreign]
    data = files[1].read_bytes()
    idle = 0
    for k, bad in enumerate(damaged(data, [files[0].read_bytes(), foreign[1].read_bytes()])):
        files[1].write_bytes(bad)
        made.clear()
        assert torch.equal(work(place, made.append), first)
        assert len(made) <= 1
        assert made or k >= 9  # a bit may flip that means nothing, in the name of a field
        idle += not made
        made.clear()
        assert torch.equal(work(place, made.append), first)  # the damaged file was replaced
        assert made == []
    assert idle <= 4
    files[1].unlink()
    files[1].mkdir()  # nor is there a traceback where a folder stands in its place
    with pytest.raises(BadInput, match="cannot write"):
        work(place, silent)


@pytest.mark.parametrize("work", REFUSED, ids=name)
def test_a_result_that_is_not_as_it_was_written_is_refused(work: Work, tmp_path: Path) -> None:
    first = work(tmp_path, silent)
    (file,) = work.files(tmp_path)
    data = file.read_bytes()
    for bad in damaged(data, []):
        file.write_bytes(bad)
        try:
            assert torch.equal(work(tmp_path, silent), first)  # a flipped bit may mean nothing, in a zip's margins
        except BadInput as error:
            assert "choose another out" in str(error)
    file.write_bytes(data[:-40])
    with pytest.raises(BadInput, match="choose another out"):
        work(tmp_path, silent)


def test_weights_that_were_changed_are_refused_and_still_readable(tmp_path: Path) -> None:
    work = Training()
    work(tmp_path, silent)
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    next(iter(state["model"].values()))[0] += 1
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(BadInput, match=r"no checkpoint to resume from .it does not hold what was written there"):
        work(tmp_path, silent)


def test_an_archive_that_was_changed_is_refused(tmp_path: Path) -> None:
    work = Archive()
    work(tmp_path, silent)
    with np.load(tmp_path / "out.npz") as found:
        arrays = dict(found)
    np.savez_compressed(tmp_path / "out.npz", **arrays | {"x": arrays["x"] + 1})
    with pytest.raises(BadInput, match=r"out\.npz is damaged: it does not hold what was written there"):
        work(tmp_path, silent)
    np.savez_compressed(tmp_path / "out.npz", x=arrays["x"])
    with pytest.raises(BadInput, match=r"out\.npz exists and is no result of this command"):
        work(tmp_path, silent)


# Version 0.1


def old_folder(place: Path) -> None:
    place.mkdir()
    (place / "config.json").write_text(config(0).model_dump_json(indent=2))


def old_set(place: Path) -> None:
    place.mkdir()
    (place / "settings.json").write_text('{"kind": "robust", "n": 12, "shard": 4}')


def old_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallCnn((1, 6, 6), 3)


def old_checkpoint(place: Path) -> None:
    place.mkdir()
    net = old_network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    about = {"arch": "small-cnn", "input_shape": [1, 6, 6], "num_classes": 3, "mean": None, "std": None}
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "history": []}
    torch.save({**about, **state, "settings": {"lr": 1e-2, "seed": 0, "sizes": (1, 2)}}, place / "net.pt")


def old_archive(place: Path) -> None:
    place.mkdir()
    np.savez_compressed(place / "out.npz", x=np.zeros(6), asked=np.array(json.dumps({"attack": "pgd", "seed": 0})))


OLD = [
    (Chunks(), old_folder), (Records(), old_folder), (Study(), old_folder), (Sets(), old_set),
    (Training(), old_checkpoint), (Archive(), old_archive),
]  # fmt: skip


@pytest.mark.parametrize(("work", "leave"), OLD, ids=name)
def test_work_of_version_0_1_is_refused_in_one_sentence(work: Work, leave: Any, tmp_path: Path) -> None:
    leave(tmp_path / "a")
    with pytest.raises(BadInput, match=r"/a(/[a-z.]+)? was made by version 0\.1; choose another out") as caught:
        work(tmp_path / "a", silent)
    assert str(caught.value).count("\n") == 0


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    Chunks()(tmp_path, silent)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"layout": 2', '"layout": 3'))
    with pytest.raises(BadInput, match="has layout 3, this version of unfooled continues layout 2"):
        Chunks()(tmp_path, silent)


BROKEN = ("", "[]", '{"layout": 2}', '{"layout": "x", "settings": {}}')


@pytest.mark.parametrize("text", BROKEN)
def test_settings_that_cannot_be_read_are_refused_where_nothing_else_is_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=r"config\.json cannot be read .*; choose another out, or remove"):
        Chunks()(tmp_path, silent)


@pytest.mark.parametrize("change", [*BROKEN, "seed"])
def test_damaged_settings_are_replaced_and_no_chunk_is_lost(change: str, tmp_path: Path) -> None:
    made: list[int] = []
    first = Chunks()(tmp_path, silent)
    file = tmp_path / "config.json"
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"seed": 0', b'"seed": 1') if change == "seed" else change.encode())
    assert torch.equal(Chunks()(tmp_path, made.append), first)
    assert made == []
    assert file.read_bytes() == before
    file.write_text(change)
    other = Chunks()(tmp_path, made.append, seed=1)  # chunks of the other seed do not appear under this one
    assert made
    assert not torch.equal(other, first)


def test_checkpoints_of_version_0_1_are_still_loaded(tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "a")
    net = uf.load_model(tmp_path / "a/net.pt")
    assert torch.equal(net(X), old_network().eval()(X))


def test_results_of_version_0_1_are_still_read() -> None:
    read = []
    for file in sorted((Path(__file__).parents[2] / "benchmarks/results").glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = Summary if "clean_accuracy" in content else StudySummary if "study" in content else None
        if kind is not None:
            read.append(read_record(file, kind).seconds)  # type: ignore[attr-defined]
    assert len(read) > 10


# Several processes


def in_processes(target: Callable[..., None], *arguments: tuple[Any, ...], timeout: float = 60) -> list[int | None]:
    processes = [FORK.Process(target=target, args=values) for values in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    return [process.exitcode for process in processes]


def open_with(place: Path, seed: int, gate: Any) -> None:
    gate.wait(20)
    try:
        open_folder(place, {"seed": seed, "more": "x" * 10_000})
    except BadInput as error:
        os._exit(3 if "holds another run: seed was" in str(error) else 4)
    os._exit(0)


def test_of_two_starts_with_other_settings_one_wins(tmp_path: Path) -> None:
    for turn in range(8):
        gate = FORK.Barrier(4)
        seeds = (0, 1, 2, 0)
        codes = in_processes(open_with, *((tmp_path / str(turn), seed, gate) for seed in seeds))
        won = {seed for seed, code in zip(seeds, codes, strict=True) if code == 0}
        assert len(won) == 1
        assert all(code == (0 if seed in won else 3) for seed, code in zip(seeds, codes, strict=True))
        assert json.loads((tmp_path / str(turn) / "config.json").read_text())["settings"]["seed"] in won


def slow(work: Work, place: Path, log: Path, seconds: float) -> None:
    def note(piece: int) -> None:
        with log.open("a") as file:
            file.write(f"{piece}\n")
        time.sleep(seconds)

    work(place, note)
    os._exit(0)


SHARED = [Chunks(), Records(), Study()]


@pytest.mark.parametrize("work", SHARED, ids=name)
def test_two_processes_share_the_work(work: Work, tmp_path: Path) -> None:
    logs = [tmp_path / str(k) for k in range(2)]
    assert in_processes(slow, *((work, tmp_path / "a", log, 0.3) for log in logs)) == [0, 0]
    done = [log.read_text().split() if log.exists() else [] for log in logs]
    assert sorted(itertools.chain(*done)) == ["0", "1", "2"]
    if not isinstance(work, Records):  # of these, one waits for the other
        assert all(done)


def unequal(place: Path, log: Path, chunk: int) -> None:
    def compute(rows: Tensor) -> Rows:
        with log.open("a") as file:
            file.writelines(f"{int(row)}\n" for row in rows)
        time.sleep(0.1)
        return {"v": rows * 2}

    assert torch.equal(Run(place, config(0), chunk=chunk).map("s", compute, 40)["v"], torch.arange(40) * 2)
    os._exit(0)


def test_starts_with_chunks_of_other_sizes_share_the_work(tmp_path: Path) -> None:
    logs = [tmp_path / str(k) for k in range(2)]
    assert in_processes(unequal, (tmp_path / "a", logs[0], 7), (tmp_path / "a", logs[1], 3)) == [0, 0]
    done = [log.read_text().split() for log in logs]
    assert all(done)
    assert sum(map(len, done)) < 65  # looks that fall together may cost a chunk, and no more


def test_rows_that_another_start_computes_are_left_to_it(tmp_path: Path) -> None:
    made: list[int] = []

    def compute(rows: Tensor) -> Rows:
        made.extend(rows.tolist())
        return {"v": rows * 2}

    run = Run(tmp_path, config(0), chunk=3)
    mine = threading.Thread(target=lambda: run.map("s", compute, 12))
    with claims.Claims(LocalStore(tmp_path)).claimed("chunks/s/2-7.safetensors"):
        mine.start()
        time.sleep(1.0)
        assert sorted(made) == [0, 1, 7, 8, 9, 10, 11]
    mine.join(20)
    assert sorted(made) == list(range(12))


@pytest.mark.parametrize("work", [*SHARED, Training()], ids=name)
def test_a_kill_loses_only_what_was_under_way(work: Work, tmp_path: Path) -> None:
    whole = work(tmp_path / "whole", silent)
    process = FORK.Process(target=slow, args=(work, tmp_path / "a", tmp_path / "log", 0.5))
    process.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (tmp_path / "log").exists():
        time.sleep(0.01)
    while time.monotonic() < deadline and len((tmp_path / "log").read_text().split()) < 2:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)  # not waited for: it stays as a zombie, which holds nothing
    while time.monotonic() < deadline and claims.process_start(process.pid) != "":
        time.sleep(0.01)
    made: list[int] = []
    started_at = time.monotonic()
    assert torch.equal(work(tmp_path / "a", made.append), whole)
    assert time.monotonic() - started_at < 10
    assert made in ([1, 2], [2])  # training may have been killed after its checkpoint was written
    process.join(20)
    assert not list((tmp_path / "a").rglob(".claims"))


def test_a_folder_is_not_discarded_while_another_process_works_there(tmp_path: Path) -> None:
    process = FORK.Process(target=slow, args=(Chunks(), tmp_path / "a", tmp_path / "log", 5.0))
    process.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (tmp_path / "log").exists():
        time.sleep(0.01)
    assert not discard(tmp_path / "a")
    assert started(tmp_path / "a")
    process.kill()
    process.join(20)
    assert discard(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_waiting_ends_when_the_other_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.02)
    process = FORK.Process(target=slow, args=(Study(), tmp_path / "a", tmp_path / "log", 1.5))
    process.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (tmp_path / "log").exists():
        time.sleep(0.01)
    made: list[int] = []

    def note(piece: int) -> None:
        made.append(piece)
        if len(made) == 2 and process.pid is not None:  # all that is left is the other's
            os.kill(process.pid, signal.SIGKILL)

    first = Study()(tmp_path / "a", note)
    assert made == [1, 2, 0]
    assert torch.equal(first, Study()(tmp_path / "b", silent))
    process.join(20)
