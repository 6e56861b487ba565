"""Our lines in the table for users of other libraries name functions that there are, and options that they take."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.test_benchmarks import script

import unfooled as uf

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "uf." in line]
OURS = sorted({" ".join(code.split()) for code in re.findall(r"`(uf\.[^`]+)`", PAGE.read_text())})


def resolved(node: ast.expr) -> Any:
    """The object that a dotted name stands for."""
    if isinstance(node, ast.Attribute):
        return getattr(resolved(node.value), node.attr)
    assert isinstance(node, ast.Name)
    assert node.id == "uf"
    return uf


@pytest.mark.parametrize("code", OURS)
def test_a_line_of_ours_can_be_called(code: str) -> None:
    node = ast.parse(code, mode="eval").body
    if not isinstance(node, ast.Call):
        assert callable(resolved(node))
        return
    keywords = {k.arg: None for k in node.keywords if k.arg}
    inspect.signature(resolved(node.func)).bind(*node.args, **keywords)


def test_there_are_such_lines() -> None:
    assert len(ROWS) >= 15
    assert len(OURS) >= 14


def test_the_twelve_tasks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = script("twelve_tasks", monkeypatch).rows()
    cells = [f"| {r['task']} | {r['peer']} | {r['theirs']['lines']} | {r['ours']['lines']} |" for r in rows]
    assert [line for line in PAGE.read_text().splitlines() if line in cells] == cells
    assert len(rows) == 12
    for kind in ("lines", "statements"):
        longer = [row["ours"][kind] - row["theirs"][kind] for row in rows]
        assert sum(n <= 0 for n in longer) >= 10
        assert max(longer) <= 1


def test_the_rule_counts_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("twelve_tasks", monkeypatch)
    assert bench.counted(written) == {"lines": 4, "statements": 2}


def written() -> Any:
    """Count four lines: imports, this text, the comment and the return are none."""
    import math

    # a comment
    for _ in range(2):
        found = [
            math.pi,
        ]  # fmt: skip
    return found


def test_our_side_of_the_twelve_tasks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("twelve_tasks", monkeypatch)
    done = {task.__name__.removesuffix("_ours"): bench.run(task, tmp_path) for *_, task in bench.TASKS.values()}
    assert len(done["saliency_shown"].axes) == 8
    assert float(done["integrated_gradients"][1].max()) < 0.01
    assert {done["grad_cam"], done["four_panels"]} == set(tmp_path.iterdir())
    assert done["curve"] == sorted(done["curve"], reverse=True)
    assert done["ensemble"] <= done["curve"][-1]
    assert 0 < done["median_l2"] < 5
    assert 0 <= done["normalised_pgd"] <= 1
    _, x, y = bench.subject()
    for name in ("attacked_map", "least_likely"):
        assert 0 < float((done[name] - x).abs().max()) <= bench.EPS + 1e-6
    assert torch.equal(bench.subject()[0](done["attacked_map"]).argmax(1), y)
    assert done["survival"][1] == pytest.approx(0.1, abs=0.02)
    assert done["smooth_grad"].shape == x.shape


@pytest.mark.peer
def test_the_peers_side_runs_and_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("twelve_tasks", monkeypatch)
    for peer in bench.PEERS:
        pytest.importorskip(peer, exc_type=ImportError)
    found = {name: [bench.run(task, tmp_path) for task in row[1:]] for name, row in bench.TASKS.items()}
    theirs, ours = found["integrated gradients with their gap"]
    assert torch.allclose(theirs[0], ours[0], atol=0.01)
    theirs, ours = found["median minimal distance in L2"]
    assert ours <= 1.02 * theirs
    for name in ("PGD robust accuracy of a normalised model", "robust accuracy by an ensemble"):
        theirs, ours = found[name]
        assert ours <= theirs + 1e-6
