"""One self-contained page from the folder of a study: its claims first, then the tables and the pictures.

The page is a pure function of `summary.json`, and everything in there is untrusted text, as on the page of an audit.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from unfooled._version import __version__
from unfooled.core.errors import BadInput
from unfooled.drawing.theme import variables
from unfooled.report import words
from unfooled.report.page import TEMPLATES, _environment, _script
from unfooled.runs.files import write_whole

PNG = b"\x89PNG\r\n\x1a\n"
LONG = 40  # characters of text from which a column is wide
NEEDED = (
    "study", "title", "scale", "seeds", "seconds", "environment", "tables", "claims", "notes", "pictures", "command",
    "created",
)  # fmt: skip


def read_study(folder: Path) -> dict[str, Any]:
    """What a study found, as plain values.

    Raises:
        BadInput: no finished study in that folder, or a damaged file.
    """
    path = Path(folder) / "summary.json"
    if not path.exists():
        raise BadInput(f"{folder} has no summary.json: its study has not finished; start it again to resume it")
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise BadInput(f"cannot read {path}: {e}; run the study again") from e
    missing = [name for name in NEEDED if name not in found] if isinstance(found, dict) else list(NEEDED)
    if missing:
        raise BadInput(f"{path} is no study's summary: it has no {missing[0]}")
    return found


def cell(value: Any) -> str:
    """A value of a table, for readers."""
    if value is None:
        return words.NA
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", words.MINUS)
    return words.number(value) if isinstance(value, float) else str(value)


def table(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows with the same keys, as headings, how each column is set, and cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def numeric(name: str) -> bool:
        found = [row.get(name) for row in rows if row.get(name) is not None]
        return bool(found) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)

    def style(name: str) -> str:
        if numeric(name):
            return "num"
        return "long" if any(len(str(row.get(name, ""))) > LONG for row in rows) else ""

    styles = {name: style(name) for name in names}
    lines = [[(cell(row.get(name)), styles[name], row.get(name)) for name in names] for row in rows]
    return {"title": title, "columns": list(styles.items()), "rows": lines}


def picture(found: dict[str, Any]) -> dict[str, str]:
    """A PNG as a data address.

    Raises:
        BadInput: it is no PNG.
    """
    try:
        data = base64.b64decode(found["png"], validate=True)
    except (KeyError, TypeError, binascii.Error) as e:
        raise BadInput(f"a picture of the study cannot be read: {e}; run the study again") from e
    if not data.startswith(PNG):
        raise BadInput(f"the picture {found.get('title', '')!r} is no PNG; run the study again")
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"src": source, "title": str(found.get("title", "")), "caption": str(found.get("caption", ""))}


def compose_study(found: dict[str, Any]) -> str:
    """The page as text; see `render_study`."""
    from jinja2 import UndefinedError
    from markupsafe import Markup

    records = json.dumps(found)
    for character in "<>&":  # safe inside a script element
        records = records.replace(character, f"\\u{ord(character):04x}")
    script, digest = _script()
    style = variables() + (TEMPLATES / "style.css").read_text(encoding="utf-8")
    counts = [(v, sum(c.get("verdict") == v for c in found["claims"])) for v in ("holds", "fails", "undecided")]
    context = {
        "s": found,
        "version": __version__,
        "counts": [(name, count) for name, count in counts if count],
        "tables": [table(title, rows) for title, rows in found["tables"].items()],
        "pictures": [picture(one) for one in found["pictures"]],
        # Our own files, not the study's: the only text that is not escaped, with the records, made safe above.
        "style": Markup(style),
        "script": Markup(script),
        "records": Markup(records),
        "digest": digest,
    }
    try:
        return _environment().get_template("study.html.j2").render(context)
    except (UndefinedError, TypeError, AttributeError) as e:
        raise BadInput(f"the study's summary is incomplete: {e}; run the study again") from e


def render_study(folder: Path, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a study.

    Args:
        folder: of a finished study.
        out: the page to write; `report.html` in that folder where None.

    Returns:
        Where the page is.

    Raises:
        BadInput: a folder without a finished study, a damaged file, or a page that cannot be written.
    """
    folder = Path(folder)
    page = compose_study(read_study(folder))
    out = folder / "report.html" if out is None else Path(out)
    write_whole(out, page.encode("utf-8", "replace"))
    return out
