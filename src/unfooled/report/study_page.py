"""One self-contained page from the folder of a study: its claims first, then the tables and the pictures.

The page is a pure function of `summary.json`, and everything in there is untrusted text, as on the page of an audit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput
from unfooled.core.threat_text import eps_text
from unfooled.report import words
from unfooled.report.frame import fill, png_element
from unfooled.runs.files import write_whole
from unfooled.runs.opening import Place, open_store
from unfooled.runs.records import MAX_BYTES, parse_json

WIDE_COLUMN_CHARACTERS = 40  # characters of text from which a column is wide
REQUIRED_FIELDS = (
    "study", "title", "scale", "seeds", "seconds", "environment", "tables", "claims", "notes", "pictures", "command",
    "created",
)  # fmt: skip
THREAT = re.compile(r"(?P<name>L(?:inf|0|1|2))\(eps=(?P<eps>[0-9.e-]+), box=Box\(low=0\.0, high=1\.0\)\)")
VERDICTS = ("holds", "fails", "undecided")


def read_study(folder: Place) -> dict[str, Any]:
    """Read the summary of a study, as plain values.

    Raises:
        BadInput: no finished study in that folder, or a damaged file.
    """
    store = open_store(folder, write=False)
    path, data = store.place("summary.json"), store.read("summary.json", most=MAX_BYTES)
    if data is None:
        raise BadInput(f"{store.place()} has no summary.json: its study has not finished; start it again to resume it")
    summary = parse_json(data, path)
    missing = (
        [name for name in REQUIRED_FIELDS if name not in summary]
        if isinstance(summary, dict)
        else list(REQUIRED_FIELDS)
    )
    if missing:
        raise BadInput(f"{path} is no study's summary: it has no {missing[0]}; give the folder of a finished study")
    return summary


def cell_text(value: Any) -> str:
    """Write a value of a table."""
    if value is None:
        return words.NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", words.MINUS)
    return words.number(value) if isinstance(value, float) else THREAT.sub(_threat_text, str(value))


def _threat_text(spelled: re.Match[str]) -> str:
    """Write a threat as on the command line: L2(eps=0.75, box=Box(low=0.0, high=1.0)) is l2:0.75."""
    return f"{spelled['name'].lower()}:{eps_text(float(spelled['eps']))}"


def table_of(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows with the same keys as headings, the style of each column, and cells."""
    listed = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in listed if any(row.get(name) is not None for row in rows)]

    def numeric(name: str) -> bool:
        values = [row.get(name) for row in rows if row.get(name) is not None]
        return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)

    def style(name: str) -> str:
        if numeric(name):
            return "num"
        return "long" if any(len(str(row.get(name, ""))) > WIDE_COLUMN_CHARACTERS for row in rows) else ""

    styles = {name: style(name) for name in names}
    lines = [[(cell_text(row.get(name)), styles[name], row.get(name)) for name in names] for row in rows]
    empty = [name for name in listed if name not in names]
    return {"title": title, "columns": list(styles.items()), "rows": lines, "empty": empty}


def lead_sentence(claims: list[dict[str, Any]]) -> str:
    """Return how many claims hold, fail and are undecided, as one sentence."""
    says = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("is undecided", "are undecided")}
    counts = [(says[v], sum(claim.get("verdict") == v for claim in claims)) for v in VERDICTS]
    parts = [f"{count} {many if count > 1 else one}" for (one, many), count in counts if count]
    text = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    return f"Of {words.plural(len(claims), 'claim')}, {text}." if text else ""


def _number(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and words.finite(value) else None


def claim_card(claim: dict[str, Any]) -> dict[str, Any]:
    """Return a claim with its kind, and the places of its figure and its interval on a line, in percent.

    The line spans 0, the figure and its interval; `reach` is None where the figure is not finite.
    """
    kind = claim.get("verdict") if claim.get("verdict") in VERDICTS else ""
    value, low, high = (_number(claim.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return claim | {"kind": kind, "reach": None, "places": 0}
    ends = (low, high) if low is not None and high is not None else (value, value)
    first, last = min(0.0, value, *ends), max(0.0, value, *ends)
    room = (last - first) or 1.0

    def at(number: float) -> float:
        return 2 + 96 * (number - first) / room

    reach = {"zero": at(0.0), "low": at(ends[0]), "high": at(ends[1]), "value": at(value)}
    places = words.decimals(max(abs(first), abs(last)))
    return claim | {"kind": kind, "reach": reach, "places": places}


def compose_study(summary: dict[str, Any]) -> str:
    """Return the page as text; see `render_study`."""
    from jinja2 import UndefinedError

    tables = [table_of(title, rows) for title, rows in summary["tables"].items()]
    pictures = [png_element(one) for one in summary["pictures"]]
    try:
        return fill(
            "study.html.j2",
            json.dumps(summary),
            title=summary["title"],
            s=summary,
            claims=[claim_card(claim) for claim in summary["claims"]],
            lead=lead_sentence(summary["claims"]),
            tables=tables,
            pictures=pictures,
        )
    except (UndefinedError, TypeError, AttributeError) as e:
        raise BadInput(f"the study's summary is incomplete: {e}; run the study again") from e


def render_study(folder: Path, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a study.

    Args:
        folder: Folder of a finished study.
        out: Page to write. None: `report.html` in that folder.

    Returns:
        Path of the page.

    Raises:
        BadInput: a folder without a finished study, a damaged file, or a page that cannot be written.
    """
    out = folder / "report.html" if out is None else Path(out)
    write_whole(out, compose_study(read_study(folder)).encode("utf-8", "replace"))
    return out


def render_study_beside(study: Place) -> None:
    """Write the page of a study as `report.html` beside its summary.

    Args:
        study: Folder of a finished study, its URL, or an open store.

    Raises:
        BadInput: as for `render_study`.
    """
    store = open_store(study, write=False)
    store.write_whole("report.html", compose_study(read_study(store)).encode("utf-8", "replace"))
