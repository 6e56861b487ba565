"""Training by several processes: the same steps in each, a kill, and the result beside that of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unfooled import workflows
from unfooled.cli.app import run
from unfooled.core.errors import BadInput
from unfooled.statistics.intervals import share
from unfooled.training import Batches
from unfooled.workflows import Machine, Recipe
from unfooled.workflows.recipe import is_first_process

CODE = """
import os, sys
from unfooled.workflows import Machine, Recipe, train

def trained(epoch):
    if epoch.index == 1:  # both processes, once the first one has saved
        os._exit(9)

for out in sys.argv[1:]:
    recipe = Recipe(epochs=3, batch=90, n=500, devices=2)
    stop = trained if out.startswith("stop:") else None
    record = train("digits", recipe=recipe, out=out.removeprefix("stop:"), machine=Machine("cpu", 1), progress=stop)
    assert record.held_out_accuracy is not None
"""


def two_processes(*outs: str) -> list[int]:
    """Train networks as under torchrun, and return the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
        launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        started.append(subprocess.Popen([sys.executable, "-c", CODE, *outs], env={**os.environ, **places, **launcher}))
    return [process.wait(timeout=280) for process in started]


def weights(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["model"]
    return found


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """They reach the accuracy of one process, and continue bit for bit after a kill; one process goes on closely."""
    whole, killed, other = (tmp_path / f"{name}.pt" for name in ("whole", "killed", "other"))
    assert two_processes(str(whole), f"stop:{killed}") == [9, 9]
    assert len(torch.load(killed, weights_only=True)["history"]) == 2
    other.write_bytes(killed.read_bytes())
    assert two_processes(str(killed)) == [0, 0]
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    recipe, cpu = Recipe(epochs=3, batch=90, n=500), Machine("cpu", threads=1)
    accuracies = {
        name: accuracy(out, recipe, cpu)
        for name, out in (("two", whole), ("one", tmp_path / "one.pt"), ("mixed", other))
    }
    right = torch.zeros(360).index_fill(0, torch.arange(round(360 * accuracies["one"])), 1.0) > 0
    interval = share(right)
    assert interval.low <= accuracies["two"] <= interval.high
    assert interval.low <= accuracies["mixed"] <= interval.high
    apart = max(float((weights(other)[name] - a[name]).abs().max()) for name in a)
    assert apart < 0.01, "the steps of another number of processes differ by rounding"


def accuracy(out: Path, recipe: Recipe, machine: Machine) -> float:
    """Train by one process, or read what is trained, and return the accuracy after the last epoch."""
    workflows.train("digits", recipe=recipe, out=out, machine=machine)
    value: float = torch.load(out, weights_only=True)["history"][-1]["accuracy"]
    return value


@pytest.mark.parametrize("n", [2, 3, 90, 91, 92, 93, 181, 183])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_processes_take_the_same_steps(n: int, world: int) -> None:
    """Also where the shares of the last batch differ: a process that took one step less would be waited for."""
    x, y = torch.rand(n, 1, 4, 4), torch.arange(n)
    steps = [[list(y) for _, y in Batches(x, y, 90, rank=rank, world=world)(0)] for rank in range(world)]
    assert len({len(part) for part in steps}) == 1
    assert all(len(rows) > 1 for part in steps for rows in part)


def test_numbers_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[Any] = ["train", "--epochs", "1", "--n", "50", "--out", str(tmp_path / "net.pt")]
    assert run([*words, "--nodes", "2", "--devices", "4"]) == 2
    sentence = (
        "--nodes 2 needs a launcher that starts the processes on each machine: torchrun --nnodes 2 --nproc-per-node 4"
    )
    assert sentence in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run([*words, "--nodes", "2"]) == 2
    sentence = "--devices 1 on --nodes 2 are 2 processes, and the launcher started 3"
    assert sentence in " ".join(capsys.readouterr().err.split())
    with pytest.raises(BadInput, match="nodes is 0; it must be at least 1"):
        Recipe(nodes=0).check()


def test_the_first_process() -> None:
    assert is_first_process()
    for names, first in [
        ({"RANK": "0"}, True), ({"RANK": "3", "LOCAL_RANK": "0"}, False), ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
    ]:  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            assert is_first_process() is first
