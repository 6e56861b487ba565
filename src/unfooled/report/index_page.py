"""One page about many runs: a table for each question, the runs by robust accuracy, with a link to each run's page.

Only figures for the same data and the same threat stand in one table; a run whose verdict does not trust its figure
comes last, since its figure is no result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from unfooled.evaluation.audit.records import CurvePoint, Summary
from unfooled.report import trust
from unfooled.report.frame import fill
from unfooled.report.runs import name_of, read_summary
from unfooled.report.sections.curves import drawable_points
from unfooled.report.words import plural
from unfooled.runs.opening import Place, open_store
from unfooled.runs.store import LocalStore

MOST_BESIDE = 6
"""Number of runs above which a page is an index instead of a comparison."""
WIDTH, HEIGHT = 96, 24
"""Size of a small curve, in units of its drawing."""


@dataclass(frozen=True)
class Entry:
    """One run in the index.

    Attributes:
        folder: Name of the run folder.
        summary: Record of the audit.
        doubted: True if the run's own verdict does not trust its figure.
        page: Address of the run's own page, relative to the index; empty: there is none.
        line: The curve of accuracy against radius, as points of a polyline; empty: fewer than two points.
    """

    folder: str
    summary: Summary
    doubted: bool
    page: str
    line: str


@dataclass(frozen=True)
class Board:
    """Runs that answer the same question, the best trusted figure first."""

    data: str
    threat: str
    entries: list[Entry]


def small_curve(points: Sequence[CurvePoint]) -> str:
    """Return accuracy against radius as points of a polyline in a box of `WIDTH` by `HEIGHT`; empty: too few points."""
    drawn = drawable_points(points)
    if len(drawn) < 2 or drawn[-1].eps <= 0:
        return ""
    last = drawn[-1].eps
    return " ".join(f"{WIDTH * p.eps / last:.1f},{HEIGHT * (1 - (p.accuracy.value or 0.0)):.1f}" for p in drawn)


def boards(summaries: Sequence[Summary], folders: Sequence[Place], out: Path) -> list[Board]:
    """Return the runs by question, in the order of their first run.

    Args:
        summaries: Records of the audits.
        folders: Their folders or URLs; a link leads to the page in a folder.
        out: The index, to which links are relative.
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    for summary, folder in zip(summaries, folders, strict=True):
        store = open_store(folder, write=False)
        page = store.root / "report.html" if isinstance(store, LocalStore) else None
        link = quote(os.path.relpath(page.resolve(), out.resolve().parent)) if page and page.is_file() else ""
        entry = Entry(name_of(store), summary, trust.doubted(summary), link, small_curve(summary.curve))
        found.setdefault((summary.data, summary.threat), []).append(entry)

    def place(entry: Entry) -> tuple[bool, float]:
        value = entry.summary.robust_accuracy.value
        return entry.doubted, -value if value is not None and math.isfinite(value) else math.inf

    return [Board(data, threat, sorted(entries, key=place)) for (data, threat), entries in found.items()]


def lead_sentence(boards: Sequence[Board]) -> str:
    """Return how many runs there are, and how many of their figures can be trusted."""
    entries = [entry for board in boards for entry in board.entries]
    doubted = sum(entry.doubted for entry in entries)
    questions = "one data set and threat" if len(boards) == 1 else f"{len(boards)} pairs of data and threat"
    says = "all figures can be trusted" if not doubted else f"{plural(doubted, 'figure')} cannot be trusted"
    return f"{plural(len(entries), 'audit')} on {questions}; {says}."


def compose_index(folders: Sequence[Place], out: Path, *, title: str | None = None) -> str:
    """Return the index as text; see `unfooled.report.render`."""
    summaries = [read_summary(folder) for folder in folders]
    found = boards(summaries, folders, out)
    records = [
        {
            "folder": entry.folder,
            **entry.summary.model_dump(
                mode="json",
                include={"title", "model", "data", "threat", "n", "verdict", "clean_accuracy", "robust_accuracy"},
            ),
        }
        for board in found
        for entry in board.entries
    ]
    return fill(
        "index.html.j2",
        json.dumps(records),
        title=title or plural(len(summaries), "audit"),
        boards=found,
        lead=lead_sentence(found),
        size=(WIDTH, HEIGHT),
    )
