"""Progress of a command on stderr: bars on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from unfooled.cli.words import plain, stage_description
from unfooled.core.pulse import listening

LINE_SECONDS = 30.0  # seconds from line to line
REDRAW_SECONDS = 0.2  # seconds from one drawing of the samples to the next


class Bars(Progress):
    """Bars below a table of the figures that are known already."""

    answers: dict[str, str] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table, if there are figures, and the bars."""
        if self.answers:
            table = Table.grid(padding=(0, 2))
            for figure, text in self.answers.items():
                table.add_row(figure, text)
            yield table
        yield from super().get_renderables()


@dataclass
class Stages:
    """Progress of the stages of a workflow, which are called as `(stage, done, total)`.

    If an earlier start began a stage, the number of its finished items is printed. Between two calls, the samples that
    went through the model show that the work goes on.

    Attributes:
        quiet: True: nothing is shown.
        console: Console that is written to.
        bars: Bars, which are hidden where there is no terminal.
        answers: True: figures are shown as soon as they are known.
    """

    quiet: bool
    console: Console
    bars: Bars
    answers: bool = False
    tasks: dict[str, TaskID] = field(default_factory=dict)
    state: dict[str, tuple[int, int, int, float]] = field(default_factory=dict)  # earlier, done, total, since
    current: str = ""
    samples: int = 0
    last_drawn: float = 0.0
    known: dict[str, str] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Show how much of a stage is done, with a note of the stage's own."""
        if stage not in self.tasks:
            self.samples = 0
            self.state[stage] = (done, done, total, time.monotonic())
            # A stand-in reports its first round after it, so that what is done then was not found.
            if done and not self.quiet and stage != "twin":
                self.console.print(
                    f"[dim]{plain(stage_description(stage))}: {done} of {total} found from an earlier start"
                )
            self.tasks[stage] = self.bars.add_task(stage_description(stage), total=max(total - done, 0), samples="")
        earlier, _, _, since = self.state[stage]
        self.state[stage] = (earlier, done, total, since)
        self.current = stage
        self.bars.update(self.tasks[stage], completed=done - earlier, description=note or None)

    def beat(self, samples: int) -> None:
        """Count samples that went through a model, and draw them now and then."""
        self.samples += samples
        now = time.monotonic()
        if self.current in self.tasks and now - self.last_drawn > REDRAW_SECONDS:
            self.last_drawn = now
            self.bars.update(self.tasks[self.current], samples=f"{self.samples:,} passes")

    def answer(self, figure: str, value: float, n: int) -> None:
        """Show a figure that is known already: in a table on a terminal, elsewhere as a line whenever it changes."""
        text = f"{100 * value:.1f} % (n = {n:,})"
        if self.quiet or not self.answers or self.known.get(figure) == text:
            return
        self.known[figure] = text
        if self.console.is_terminal:
            self.bars.answers = self.known
            self.bars.refresh()
        else:
            self.console.print(plain(f"{figure} {text}"), soft_wrap=True)

    def line(self) -> str:
        """Return the line of the current stage: what is done, of how much, since when, and what is left."""
        earlier, done, total, since = self.state[self.current]
        spent = time.monotonic() - since
        left = spent * (total - done) / (done - earlier) if done > earlier else None
        shown = "not known yet" if left is None else _clock(left)
        return (
            f"{stage_description(self.current)}: {done:,} of {total:,}, {self.samples:,} passes, {_clock(spent)} so "
            f"far, left {shown}"
        )


def _clock(seconds: float) -> str:
    """Write seconds as 1:05, or as 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def stages(quiet: bool, console: Console, *, answers: bool = False) -> Iterator[Stages]:
    """Yield a callback for the progress of a workflow: one bar per stage, or a line every half minute."""
    bars = Bars(
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[samples]}", style="dim", markup=False),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    shown = Stages(quiet, console, bars, answers)
    ended = threading.Event()

    def lines() -> None:
        while not ended.wait(LINE_SECONDS):
            if shown.current:
                console.print(plain(shown.line()), soft_wrap=True)

    clock = threading.Thread(target=lines, daemon=True)
    if not quiet and not console.is_terminal:
        clock.start()
    try:
        with bars, listening(shown):
            yield shown
    finally:
        ended.set()
