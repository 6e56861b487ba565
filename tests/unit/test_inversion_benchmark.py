"""The benchmark of inversion: no ratio where an entrant did not get to the residual that was asked for."""

from __future__ import annotations

import importlib.util
import math
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.conftest import points, source
from torch import Tensor, nn

from unfooled.features import Encoder


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks/inversion.py"
    spec = importlib.util.spec_from_file_location("inversion_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoder() -> Encoder:
    layer = nn.Linear(16, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(6, 16, generator=source(1)))
    return Encoder(nn.Sequential(nn.Flatten(), layer), "1")


def row(entrant: str, residual: float, rate: float) -> dict[str, Any]:
    return {
        "seed": 0, "goal": 0.05, "entrant": entrant, "residual": residual, "images_per_second": rate, "gradients": 8.0,
    }  # fmt: skip


def test_who_did_not_get_there_has_no_ratio(bench: ModuleType) -> None:
    reached = bench.ratios([row("ours", 0.05, 6.0), row("pgd", 0.0509, 2.0)])
    assert [r["faster"] for r in reached] == [3.0]
    assert bench.said(reached[0]).endswith("over pgd: 3.00 times as fast, 1.00 times fewer gradients.")
    for ours, pgd, late in ((0.05, 0.052, ["pgd"]), (0.06, 0.05, ["ours"]), (math.nan, 0.2, ["ours", "pgd"])):
        (found,) = bench.ratios([row("ours", ours, 6.0), row("pgd", pgd, 2.0)])
        assert found["faster"] is None
        assert found["fewer_gradients"] is None
        assert [part.split()[0] for part in found["because"].split("; ")] == late
        assert "no ratio, " in bench.said(found)


def test_a_pgd_that_cannot_reach_the_goal(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def data(_name: str, split: str, *, n: int, **_: Any) -> tuple[Tensor, None]:
        return points(n, (1, 4, 4), seed=len(split)), None

    monkeypatch.setattr(bench, "load_data", data)
    few = Namespace(n=4, batch=4, rounds=1, device="cpu", most=1)
    found = {(r["goal"] == 0.05, r["over"]): r for r in bench.ratios(bench.measured(encoder(), 0, few))}
    assert found[True, "pgd"]["faster"] is None
    assert found[True, "pgd"]["because"].startswith("pgd ended at a median residual of ")
    assert found[False, "loop"]["faster"] > 0


def test_the_length_is_the_one_that_needs_fewest_steps_or_comes_nearest(bench: ModuleType) -> None:
    encode = encoder()
    x, start = points(8, (1, 4, 4)), points(8, (1, 4, 4), seed=1)
    target = encode(x).detach()
    lengths = (0.001, 0.2, 0.1)
    ((length, steps), (nearest, most)) = bench.tuned(encode, start, target, [0.3, 0.0], 12, lengths)
    assert length in (0.1, 0.2)
    assert 0 < steps <= 12
    assert most == 12
    left = {k: bench.residual(encode, bench.pgd(encode, k, 12, 8)(start, target)[0], target) for k in lengths}
    assert nearest == min(left, key=lambda k: left[k]) != lengths[0]
