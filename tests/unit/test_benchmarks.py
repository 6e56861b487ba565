"""Benchmarks that keep their work: what is found again was made by the same settings."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from unfooled.data import load_dataset
from unfooled.models import SmallCnn
from unfooled.studies.attention.records import Judged


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the benchmarks as a module."""
    path = Path(__file__).resolve().parents[2] / f"benchmarks/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def test_a_verdict_is_found_again_by_its_settings_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, done = script("cifar10_arp", monkeypatch), []
    net = SmallCnn((1, 8, 8), width=2).eval()

    def judge(model: Any, samples: Any, *_: Any, arm: str, **__: Any) -> tuple[Judged, None]:
        done.append(len(samples.x))
        return Judged(data="", arm=arm, seed=0, eps=0.1, n=len(samples.x), correct={}, columns={}, seconds=0.0), None

    history = [{"seconds": 0.0, "notes": {}}]
    monkeypatch.setattr(bench, "fitted", lambda *_: (net, history))
    monkeypatch.setattr(bench, "load_dataset", lambda _, split, n: load_dataset("digits", split, n))
    monkeypatch.setattr(bench, "judge", judge)
    monkeypatch.setattr(bench, "comparison_table", lambda found, _: [{"n": row.n} for row in found.judged])
    monkeypatch.setattr(bench, "training_claims", lambda *_: [])
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace())  # the script sets what is global
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)

    def start(*arguments: str) -> list[int]:
        call = ["cifar10_arp.py", "--small", "--out", str(tmp_path), "--arms", bench.ARMS[0], "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*call, *arguments])
        bench.main()
        record = json.loads((tmp_path / "cifar10-arp.json").read_text())
        assert record["judging"]["n"] == record["rows"][0]["n"]
        return [row["n"] for row in record["rows"]]

    assert start("--judge", "2") == [2]
    assert start("--judge", "4") == [4]
    assert start("--judge", "2") == [2]
    assert done == [2, 4]
    net.fc2.bias.data.add_(1)
    assert start("--judge", "2") == [2]
    assert done == [2, 4, 2]
    assert len(list(tmp_path.glob("PGD*.json"))) == 3


def test_the_page_on_capacity_has_the_figures_of_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, root = script("capacity", monkeypatch), Path(__file__).resolve().parents[2]
    stored = json.loads((root / "benchmarks/results/capacity.json").read_text(encoding="utf-8"))
    page = (root / "docs/how-to/scale.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in bench.lines(stored) if line not in page] == []


def test_a_simulated_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("capacity", monkeypatch)
    ideal = bench.simulated(100, 0.1, overhead=0.0, read=0.0)
    assert (ideal["stage_seconds"], ideal["busy_share"], ideal["overhead_share_of_a_chunk"]) == (100, 1, 0)
    dear = bench.simulated(
        100, 0.1, overhead=10.0, read=0.001
    )  # overhead as long as the work, and 10,000 chunks to read
    assert (dear["stage_seconds"], dear["overhead_share_of_a_chunk"]) == (210, 0.5)
    uneven = bench.simulated(800_000, 0.1, overhead=0.0, read=0.0)  # two chunks: a worker each
    assert (uneven["chunks"], uneven["stage_seconds"]) == (2, 80_000)


def test_empty_chunks_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = script("capacity", monkeypatch).chunks(3, 1)
    assert row["chunks"] == 3 and row["wall_ms"] > 0 and row["cpu_ms_to_read"] >= 0


def test_another_judge_of_features_is_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study keeps its settings with its folder, and refuses a folder with other ones."""
    bench = script("cifar10_features", monkeypatch)
    for more in ({"robust_n": 11}, {"effort": "normal"}, {"gradients": 5}):
        assert replace(bench.SMALL, **more).settings() != bench.SMALL.settings()
