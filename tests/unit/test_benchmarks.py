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


def test_another_judge_of_features_is_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study keeps its settings with its folder, and refuses a folder with other ones."""
    bench = script("cifar10_features", monkeypatch)
    for more in ({"robust_n": 11}, {"effort": "normal"}, {"gradients": 5}):
        assert replace(bench.SMALL, **more).settings() != bench.SMALL.settings()
