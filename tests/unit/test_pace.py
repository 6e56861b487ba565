"""Parts of a slow model are short, whatever the chunk, and no result depends on the cut."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import points, tiny_net
from torch import Tensor

from unfooled import Linf
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents, Searches
from unfooled.core.model.wrappers import Counted
from unfooled.evaluation.audit import Plan, audit
from unfooled.runs import pace
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.pace import PASSES, Pace
from unfooled.runs.records import Config
from unfooled.runs.spans import even_end, even_rows

CONFIG = Config(model="m", data="d", n=40, threat="linf:0.1", seed=0)
SHAPE = (1, 6, 5)


def lengths(folder: Path, stage: str) -> list[int]:
    spans = [file.stem.split("-") for file in (folder / "chunks" / stage).iterdir()]
    return [b - a for a, b in sorted((int(a), int(b)) for a, b in spans)]


def slow(x: Tensor) -> Tensor:
    time.sleep(0.004 * len(x))
    return x


def test_parts_of_a_slow_stage_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_SECONDS", 0.2)
    model, results = Counted(slow), []

    def work(rows: Tensor) -> Rows:
        for _ in range(5):
            model(rows)
        return {"rows": rows * 2}

    for folder in (tmp_path, None):
        run = Run(folder, CONFIG, chunk=40)
        run.map("first", lambda rows: {"rows": model(rows)}, 40, model=model)
        results.append(run.map("second", work, 40, model=model)["rows"])
        results.append(run.map("uncounted", lambda rows: {"rows": slow(rows) * 2}, 40)["rows"])
    assert all(torch.equal(r, 2 * torch.arange(40)) for r in results)
    assert lengths(tmp_path, "first") == [40]  # nothing was known before
    first, *rest = lengths(tmp_path, "second")
    assert first == 1
    assert 2 <= max(rest) <= 10
    assert lengths(tmp_path, "uncounted")[0] == 1
    assert max(lengths(tmp_path, "uncounted")) <= 40
    again = Run(tmp_path, CONFIG, chunk=40)
    assert torch.equal(again.map("second", work, 40, model=model)["rows"], results[0])


def test_a_fast_stage_keeps_its_chunks_and_calls_count_once() -> None:
    known = Pace()
    assert known.rows("any", 100) == 100
    known.record("clean", 100, {"forwards": 100, "backwards": 0, "seconds": 0.002})
    assert known.rows("attack", 100) == 100
    known.record("attack", 2, {"forwards": 1000, "backwards": 0, "seconds": 2.0})  # calls of few rows
    assert known.rows("attack", 100) == 100
    known.record("judge", 100, {"forwards": 0, "backwards": 0, "seconds": 10.0})
    assert math.isnan(known.passes["judge"])
    assert known.rows("judge", 100) == 50


def test_a_slow_model_begins_with_few_rows() -> None:
    known = Pace()
    known.record("clean", 100, {"forwards": 100, "backwards": 0, "seconds": 1.0})
    assert known.rows("attack", 100) == int(5 / (0.01 * PASSES)) == 1
    known.record("attack", 1, {"forwards": 20, "backwards": 20, "seconds": 0.5})
    assert known.rows("attack", 100) == 12


def test_an_audit_is_the_same_whatever_the_time_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = tiny_net(5, SHAPE), points(8, SHAPE, seed=4)
    effort = Effort("short", (Ascents(3), Searches(20)))
    plan = Plan(effort=effort, nearest_budget=100, nearest_n=4, explain_n=1, gallery=0, floor=1, reasons=None)
    y, results = net(x).argmax(1), []
    for longest in (5.0, 1e-9):
        monkeypatch.setattr(pace, "MAX_SECONDS", longest)
        folder = tmp_path / str(longest)
        s = audit(net, x, y, Linf(0.05), plan=plan, out=folder)
        stored = load_file(folder / "samples.safetensors")
        results.append(([stored[name].tolist() for name in ("clean", "adversarial", "success")], stored["x_adv"], s))
        assert max(lengths(folder, "cascade-0-apgd")) == (1 if longest < 1 else 8)
    (labels, x_adv, whole), (cut_labels, cut_x_adv, cut) = results
    assert labels == cut_labels
    assert torch.allclose(x_adv, cut_x_adv, atol=1e-6)
    for name in ("verdict", "robust_accuracy", "curve", "passes", "progress", "diagnostics"):
        assert getattr(whole, name) == getattr(cut, name)


def test_a_stage_begins_at_the_pace_of_the_last_one_of_its_kind() -> None:
    known = Pace()
    known.record("cascade-0-apgd", 10, {"forwards": 100, "backwards": 100, "seconds": 2.0})  # 20 passes a row
    assert known.rows("cascade-1-square", 1000) == 1  # 500 passes a row are assumed
    assert known.rows("cascade-11-apgd", 1000) == known.rows("cascade-0-apgd", 1000) == 25


def test_even_parts_cover_a_stage_and_are_few(tmp_path: Path) -> None:
    for n, chunk in [(1, 25), (2, 25), (11, 25), (26, 25), (29, 25), (50, 25), (93, 25), (185, 25), (1000, 7)]:
        folder = tmp_path / f"{n}-{chunk}"
        run = Run(folder, CONFIG, chunk=chunk, even=True)
        rows = run.map("stage", lambda rows: {"rows": rows}, n)["rows"]
        assert torch.equal(rows, torch.arange(n))
        parts = lengths(folder, "stage")
        most = even_rows(n, chunk)
        assert max(parts) == most <= chunk
        assert all(part == most for part in parts[:-1])
        assert len(parts) == 2 or n == 1 or n > chunk
        assert n <= chunk or len(parts) >= 3
    assert [even_end(a, 30, 10, 3) for a in (0, 3, 6, 8, 27)] == [3, 6, 8, 11, 30]
