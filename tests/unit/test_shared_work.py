"""Attacks, sets of features and studies that several processes share: the same results as alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfooled import workflows
from unfooled.runs.chunks import Progress
from unfooled.runs.executors import Processes, processes
from unfooled.runs.helpers import MIN_CHUNK, PARTS_EACH, Helpers
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.common.run import Findings, StudyRun, map_names
from unfooled.workflows import Inputs, Machine, catalog

NETS = """
import os, pathlib, time, torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(64, 16), torch.nn.Linear(16, 10)

    def forward(self, x):
        (pathlib.Path(PLACE) / f"pid-{os.getpid()}").touch()
        return self.last(torch.relu(self.first(x.flatten(1))))

def build():
    return Net().eval()
"""


@pytest.fixture(scope="module")
def two() -> Processes:
    executor = processes(2, threads=1)
    assert executor is not None
    return executor


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS.replace("PLACE", repr(str(tmp_path))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(file: Path) -> dict[str, Any]:
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("effort", [None, "quick"])
def test_an_attack(home: Path, two: Processes, effort: str | None) -> None:
    inputs, n = Inputs("nets.py:build", n=60), 25
    options: dict[str, Any] = {"steps": 8} if effort is None else {"effort": effort}
    with pytest.MonkeyPatch.context() as patch:  # the parts that two processes would have
        patch.setattr("unfooled.workflows.attacking.CHUNK_SAMPLES", n)
        alone = workflows.attack(inputs, "linf:0.05", out="alone.npz", **options)
    assert len(list(home.glob("pid-*"))) == 1
    shared = workflows.attack(inputs, "linf:0.05", out="shared.npz", machine=Machine(workers=two), **options)
    assert len(list(home.glob("pid-*"))) == 2
    assert shared.model_dump(exclude={"out"}) == alone.model_dump(exclude={"out"})
    assert same(arrays(home / "shared.npz"), arrays(home / "alone.npz"))
    assert not (home / "shared.npz.parts").exists()


def test_a_set_of_features(home: Path, two: Processes) -> None:
    inputs = Inputs("nets.py:build", n=60, split="train")
    options = workflows.FeatureOptions(steps=5, shard=25)
    alone = workflows.features(inputs, "alone.npz", options=options)
    shared = workflows.features(inputs, "shared.npz", options=options, machine=Machine(workers=two))
    assert len(list(home.glob("pid-*"))) == 2
    apart = {"seconds", "out", "manifest", "manifest_sha256"}
    assert {k: v for k, v in shared.items() if k not in apart} == {k: v for k, v in alone.items() if k not in apart}
    assert same(arrays(home / "shared.npz"), arrays(home / "alone.npz"))


def run_toy(
    scale: str, *, out: Path, seeds: Sequence[int], progress: Progress | None = None, command: str = ""
) -> StudySummary:
    """A study whose units say which process measured them."""
    run = StudyRun("broken-defences", "Toy", scale, seeds, out=out, progress=progress, command=command)
    units = run.units({}, n=8)
    place = out.parent

    def measure(name: str) -> Claim:
        (place / f"pid-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len(list(place.glob("pid-*"))) < 2 and os.environ.get("ALONE") != str(os.getpid()):
            assert time.monotonic() < end, "nobody else came"
            time.sleep(0.05)
        return Claim(claim=name, source="toy", verdict="holds", value=float(name), low=0.0, high=9.0, n=1)

    found = map_names(units, "toys", Claim, [str(i) for i in range(8)], measure)
    return run.finish(Findings({"toys": [{"value": one.value} for one in found]}, found))


def test_a_study(home: Path, two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "resolve", lambda path: run_toy)
    shared = workflows.study("broken-defences", out=home / "shared", machine=Machine(workers=two))
    assert len(list(home.glob("pid-*"))) == 2
    monkeypatch.setenv("ALONE", str(os.getpid()))
    alone = workflows.study("broken-defences", out=home / "alone")
    apart = {"seconds", "created"}
    assert shared.model_dump(exclude=apart) == alone.model_dump(exclude=apart)
    assert (home / "shared" / "report.html").is_file()


def test_sizes_of_shared_parts() -> None:
    assert Helpers(None).chunk(100, 1000) == 100
    three = Helpers(Processes(2))
    assert [three.chunk(100, n) for n in (10, 1000, 3 * PARTS_EACH * 60, 10**6)] == [MIN_CHUNK, 42, 60, 100]
    assert three.chunk(10, 10**6) == 10
