"""Work that is begun before its turn by processes that would wait meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import points, tiny_net

from unfooled.attacks.ensembles.keys import Family, Ledger
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Linf
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.failures import Start
from unfooled.runs.helpers import DriverEnded
from unfooled.runs.records import Config
from unfooled.runs.store import LocalStore

CONFIG = Config(model="m", data="d", n=4, threat="linf:0.1", seed=0)
WAIT = 60.0


def value(number: int, done: list[int] | None = None) -> Callable[[], Rows]:
    """Work that notes when it is done."""

    def compute() -> Rows:
        if done is not None:
            done.append(number)
        return {"value": torch.tensor(number)}

    return compute


def test_who_waits_for_a_piece_begins_the_next_one(tmp_path: Path) -> None:
    mine, other, done = Run(tmp_path, CONFIG), Run(tmp_path, CONFIG), list[int]()

    def work() -> None:
        for k in (2, 3):
            mine.part_ahead(f"piece-{k}", value(k, done))
        for k in (1, 2, 3):
            assert int(mine.part(f"piece-{k}", value(k, done))[0]["value"]) == k

    with other.folder.claims.claimed("chunks/piece-1.safetensors"):
        thread = threading.Thread(target=work)
        thread.start()
        _until(lambda: len(done) == 2)
        assert thread.is_alive()
        other.folder.store_rows("chunks/piece-1.safetensors", value(1)(), dict.fromkeys(FACTS, 0))
    thread.join(WAIT)
    assert done == [2, 3]


FACTS = ("forwards", "backwards", "calls", "seconds")


def test_what_another_process_has_begun_is_left_to_it(tmp_path: Path) -> None:
    mine, other, done = Run(tmp_path, CONFIG), Run(tmp_path, CONFIG), list[int]()
    for k in range(4):
        mine.part_ahead(f"piece-{k}", value(k, done))
    other.part("piece-0", value(0))
    with other.folder.claims.claimed("chunks/piece-1.safetensors"):
        mine.ahead.take("chunks/piece-3.safetensors")  # its turn has come
        assert mine.ahead.work()
        assert done == [2]
        assert not mine.ahead.work()
    mine.part_ahead("piece-1", value(1, done))
    mine.ahead.clear()
    assert not mine.ahead.work()
    mine.part_ahead("piece-0", value(0, done))  # stored
    assert not mine.ahead.pieces
    assert done == [2]


def test_a_helper_begins_at_once_and_the_first_process_in_turn(tmp_path: Path) -> None:
    done = list[int]()
    Run(tmp_path / "first", CONFIG).part_ahead("piece", value(1, done))
    Run(None, CONFIG).part_ahead("piece", value(2, done))
    helper = Run(tmp_path / "helper", CONFIG, start=Start("one", check=lambda: None))
    helper.part_ahead("piece", value(3, done))
    assert done == [3]


def test_a_helper_that_waits_ends_with_its_driver(tmp_path: Path) -> None:
    def gone() -> None:
        raise DriverEnded

    helper, other = Run(tmp_path, CONFIG, start=Start("one", check=gone)), Run(tmp_path, CONFIG)
    with other.folder.claims.claimed("chunks/piece.safetensors"), pytest.raises(DriverEnded):
        helper.part("piece", value(1))


def test_a_twin_counts_the_same_whoever_trained_it(tmp_path: Path) -> None:
    net, x = tiny_net(3, (1, 6, 5)), points(9, (1, 6, 5), seed=5)
    counts = []
    for k, ahead in enumerate((False, True, False)):  # computed here, computed before its turn, and read
        start = Start("one", check=lambda: None) if ahead else Start("")
        ledger = Ledger(Run(tmp_path / ("one" if k else "first"), CONFIG, start=start))
        gradients = Gradients(Counted(net), [], ledger=ledger)
        if ahead:
            gradients.with_twin_ahead(x, Linf(0.1), brief=True)
            assert (tmp_path / "one/chunks/twin-trial-learned.safetensors").is_file()
        gradients = gradients.with_twin(x, Linf(0.1), brief=True)
        counts.append((gradients.forwards, ledger.passes(Family.TWIN)))
    assert counts[0][0] > 0
    assert counts == [counts[0]] * 3


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_folder_of_many_chunks_is_not_listed_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While listing is slow, a chunk is looked for by its name, and what others store is found all the same."""
    real, lists, computed = LocalStore.list, list[str](), list[int]()

    def slow(store: LocalStore, folder: str = "", *, deep: bool = False) -> list[str]:
        if folder.startswith("chunks/"):
            lists.append(folder)
            time.sleep(0.05)
        return real(store, folder, deep=deep)

    monkeypatch.setattr(LocalStore, "list", slow)
    other = Run(tmp_path, CONFIG, chunk=1)

    def work(rows: torch.Tensor) -> Rows:
        computed.append(int(rows[0]))
        if computed == [0]:  # another process does the next chunk meanwhile
            other.folder.store_rows("chunks/stage/1-2.safetensors", {"rows": rows + 1}, dict.fromkeys(FACTS, 0))
        return {"rows": rows}

    rows = Run(tmp_path, CONFIG, chunk=1).map("stage", work, 30)["rows"]
    assert torch.equal(rows, torch.arange(30))
    assert computed == [0, *range(2, 30)]
    assert 2 <= len(lists) < 15
