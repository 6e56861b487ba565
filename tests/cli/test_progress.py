"""Progress: lines without a terminal, samples within a chunk, what was found, and wall time over all starts."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from unfooled import Linf
from unfooled.attacks.gradients import distil
from unfooled.cli import progress
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import beat, listening, report_answer, report_stage
from unfooled.models import SmallCnn
from unfooled.runs.chunks import Run
from unfooled.runs.clock import Clock
from unfooled.runs.folder import discard
from unfooled.runs.stage_names import StageName
from unfooled.runs.store import LocalStore


def shown(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    console = shown(terminal=False)
    with progress.stages(False, console) as stage:
        attacked = StageName("cascade-1-square", "attack, stage 2: square")
        stage(attacked, 20, 100)
        stage(attacked, 60, 100)
        beat(1234)
        time.sleep(0.3)
    lines = text(console).splitlines()
    assert lines[0] == "attack, stage 2: square: 20 of 100 found from an earlier start"
    assert lines[1] == "attack, stage 2: square: 60 of 100, 1,234 passes, 0:00 so far, left 0:00"
    before = len(lines)
    time.sleep(0.1)
    assert len(text(console).splitlines()) == before  # none after the end
    silent = shown(terminal=False)
    with progress.stages(True, silent) as stage:
        stage("clean", 0, 10)
        time.sleep(0.1)
    assert not text(silent)


def test_bars_move_within_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    console, seen = shown(terminal=True), []
    net = SmallCnn((1, 8, 8), 3).eval()
    with progress.stages(False, console) as stage:
        run = Run(None, {"seed": 0}, chunk=4, progress=stage)
        model = Counted(net)

        def work(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            for _ in range(3):
                model(torch.rand(len(rows), 1, 8, 8))
                seen.append(stage.bars.tasks[0].fields["samples"])
            return {"x": rows}

        run.map("clean", work, 8, model=model)
    assert seen == ["4 passes", "8 passes", "12 passes", "16 passes", "20 passes", "24 passes"]


def test_figures_are_shown_as_soon_as_they_are_known() -> None:
    for terminal in (False, True):
        console = shown(terminal=terminal)
        with progress.stages(False, console, answers=True):
            report_answer("clean accuracy", 0.98, 64)
            report_answer("robust accuracy, at most", 0.5, 64)
            report_answer("robust accuracy, at most", 0.5, 64)
            report_answer("robust accuracy, at most", 0.25, 1000)
        lines = text(console)
        assert "clean accuracy" in lines
        assert "98.0 % (n = 64)" in lines
        assert "25.0 % (n = 1,000)" in lines
        if not terminal:
            assert len(lines.splitlines()) == 3
    for quiet, answers in ((True, True), (False, False)):
        silent = shown(terminal=False)
        with progress.stages(quiet, silent, answers=answers):
            report_answer("clean accuracy", 0.98, 64)
        assert not text(silent)


def test_distillation_and_training_are_seen() -> None:
    class Seen:
        def __init__(self) -> None:
            self.stages: list[tuple[str, int, int]] = []
            self.samples = 0

        def beat(self, samples: int) -> None:
            self.samples += samples

        def __call__(self, stage: str, done: int, total: int) -> None:
            self.stages.append((stage, done, total))

    seen = Seen()
    with listening(seen):
        distil(SmallCnn((1, 8, 8), 3).eval(), torch.rand(8, 1, 8, 8), Linf(0.1), rounds=2, points=1, epochs=1)
    assert seen.stages == [("twin", 0, 2), ("twin", 1, 2), ("twin", 2, 2)]
    assert seen.samples > 8
    before = seen.samples
    beat(1)
    report_stage("twin", 0, 2)
    assert (seen.samples, len(seen.stages)) == (before, 3)  # nobody listens any more


def test_wall_time_is_added_up_over_all_starts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for begun, ended in ((100.0, 110.0), (105.0, 120.0), (200.0, 201.0)):  # the first two were at work at once
        clock = Clock(store, begun=begun)
        clock.ended = ended
        store.write_whole(clock.name, json.dumps([begun, ended]).encode())
    (tmp_path / "starts/bad.json").write_text("[[[")
    assert Clock(store).seconds() == pytest.approx(21.0)  # this start did no work
    mine = Clock(store, begun=time.time() - 5)
    mine.note_progress()
    assert mine.seconds() == pytest.approx(26.0, abs=0.5)
    assert Clock(None, begun=time.time() - 2).seconds() == pytest.approx(2.0, abs=0.5)


def test_a_resumed_run_counts_its_earlier_start(tmp_path: Path) -> None:
    def slow(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(0.1)
        if int(rows[0]) == 4 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return {"x": rows}

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "run", {"seed": 0}, chunk=2).map("clean", slow, 6)
    (tmp_path / "again").touch()
    run = Run(tmp_path / "run", {"seed": 0}, chunk=2)
    run.map("clean", slow, 6)
    assert run.clock.seconds() >= 0.3
    found = Run(tmp_path / "run", {"seed": 0}, chunk=2)
    found.map("clean", slow, 6)
    assert found.clock.seconds() <= run.clock.seconds() + 0.2
    assert discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()
