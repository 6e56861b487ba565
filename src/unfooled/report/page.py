"""One self-contained page from run folders: no request to any network, readable without a script.

The page is a pure function of the run folders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from unfooled.drawing.plots import Size
from unfooled.evaluation.audit.records import Summary
from unfooled.report.frame import fill
from unfooled.report.glossary import glossary
from unfooled.report.index_page import MOST_BESIDE, compose_index
from unfooled.report.runs import Run, read_runs
from unfooled.report.sections.attention import attention_sections
from unfooled.report.sections.compare import compare, different_settings
from unfooled.report.sections.confusion import confusion
from unfooled.report.sections.curves import curve_groups, drawable_points
from unfooled.report.sections.effort import effort_section
from unfooled.report.sections.gallery import first_fooled, galleries, nearest_galleries
from unfooled.report.sections.guards import guard_sections
from unfooled.report.sections.nearness import nearest_section
from unfooled.report.sections.proofs import proven_sections
from unfooled.report.sections.reasons import reasons_section
from unfooled.report.sections.smoothed import smoothed_sections
from unfooled.runs.files import write_whole
from unfooled.runs.opening import Place, open_store

MAX_CHARACTERS = 2_900_000  # characters of a page; pictures get the rest after text and records
TEXT_CHARACTERS = 150_000  # room for the text, the style and the tables
MIN_PICTURE_CHARACTERS = 200_000  # least characters for the pictures, however long the records are
REASONS_SHARE = 0.25  # share of the pictures' characters for attacked explanations
NEAREST_SHARE = 0.2  # share of them for the nearest adversarial examples
SIZES = (Size("wide", 720, 340, 8), Size("narrow", 340, 280, 4))
HALVES = (Size("wide", 430, 270, 5), Size("narrow", 340, 270, 5))  # for two drawings side by side
SINGLE = (Size("single", 360, 270, 5),)  # one drawing for all screens; a second one would double its many points


def records_json(summaries: Sequence[Summary]) -> str:
    """Return the records as a JSON list."""
    return "[" + ",".join(s.model_dump_json() for s in summaries) + "]"


def default_title(runs: Sequence[Run]) -> str:
    """Return the heading of a page without a given title."""
    if len(runs) == 1:
        return runs[0].summary.title
    count = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}.get(len(runs), str(len(runs)))
    return f"{count} audits compared"


def compose(runs: Sequence[Run], *, title: str | None = None) -> str:
    """Return the page as text; see `render`."""
    summaries = [run.summary for run in runs]
    records = records_json(summaries)
    room = max(MIN_PICTURE_CHARACTERS, MAX_CHARACTERS - TEXT_CHARACTERS - len(records))
    for_reasons = int(REASONS_SHARE * room) if any(run.reasons for run in runs) else 0
    for_nearest = int(NEAREST_SHARE * room) if any(run.nearest for run in runs) else 0
    shown = galleries(runs, room - for_reasons - for_nearest)
    return fill(
        "page.html.j2",
        records,
        title=title or default_title(runs),
        runs=runs,
        many=len(runs) > 1,
        galleries=shown,
        pairs=[first_fooled(gallery) for gallery in shown],
        survived=reasons_section(runs, HALVES, for_reasons),
        attended=attention_sections(runs, SINGLE),
        guarded=guard_sections(runs, HALVES),
        confusions=[confusion(s) for s in summaries],
        progress=effort_section(runs, SIZES),
        nearest=nearest_section(runs, SIZES, HALVES),
        outward=nearest_galleries(runs, for_nearest),
        checked=any(s.diagnostics for s in summaries),
        curves=curve_groups(runs, SIZES),
        undrawn=[run.letter for run in runs if not drawable_points(run.summary.curve)],
        proven=proven_sections(runs),
        smoothed=smoothed_sections(runs),
        lines=compare(runs) if len(runs) > 1 else [],
        differing=different_settings(runs),
        glossary=glossary(summaries),
        limits=list(dict.fromkeys(limit for s in summaries for limit in s.limits)),
        warned=sum(len(s.warnings) for s in summaries),
        dumps=lambda value: json.dumps(value, ensure_ascii=False, default=str),
    )


def render(runs: Sequence[Place], out: Path, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about one run, about several beside each other, or an index of many.

    The page makes no request, works without a script, in light and dark, on a phone and on paper, and stays under
    3 MB (up to about 100 classes, since the records are embedded whole). No model is run.

    Args:
        runs: Run folders of finished audits, URLs of them, or open stores; the first is the reference of the
            comparison. More than `MOST_BESIDE` make an index: tables by data and threat, with links to the page in each
            folder.
        out: Page to write; its folder is made if need be.
        title: Heading of the page. None: the audit's own, or "Two audits compared" and the like.

    Returns:
        `out`.

    Raises:
        BadInput: no run, a folder without a finished audit, a damaged file, or a page that cannot be written.
    """
    out = Path(out)
    page = compose_index(runs, out, title=title) if len(runs) > MOST_BESIDE else compose(read_runs(runs), title=title)
    write_whole(out, page.encode("utf-8", "replace"))
    return out


def render_beside(run: Place) -> None:
    """Write the page of a run as `report.html` beside its record.

    Args:
        run: Run folder of a finished audit, its URL, or an open store.

    Raises:
        BadInput: A run that is damaged or has not finished, or a page that cannot be written.
    """
    store = open_store(run, write=False)
    store.write_whole("report.html", compose(read_runs([store])).encode("utf-8", "replace"))
