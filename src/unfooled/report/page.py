"""One self-contained page from run folders: no request to any network, readable without a script.

The page is a pure function of the run folders. Everything in them is untrusted text: it is escaped by the template
engine, and the page's own content security policy lets nothing run but the one script that the page brings.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfooled._version import __version__
from unfooled.drawing.theme import variables
from unfooled.evaluation.audit.records import Summary
from unfooled.report import trust, words
from unfooled.report.runs import Run, read_runs
from unfooled.report.sections import attention, effort, nearness, reasons
from unfooled.report.sections.compare import compare, unlike
from unfooled.report.sections.confusion import confusion
from unfooled.report.sections.curves import Figure, drawable, figure
from unfooled.report.sections.gallery import galleries, reason_galleries
from unfooled.runs.files import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 2_900_000  # characters of a page; what the words leave is for the pictures
TEXT = 150_000  # room for the text, the style and the tables
LEAST = 200_000  # for the pictures, however long the records are
OF_REASONS = 0.25  # of that room, for the pictures of attacked explanations
SIZES = (("wide", 720, 340, 8), ("narrow", 340, 280, 4))
HALVES = (("wide", 430, 270, 5), ("narrow", 340, 270, 5))  # two beside each other


def embed(summaries: Sequence[Summary]) -> str:
    """The records as JSON that is safe inside a script element: no <, > or & is left in it."""
    text = "[" + ",".join(s.model_dump_json() for s in summaries) + "]"
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One group of curves for each norm: radii of different norms do not share an axis."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(words.parse_threat(run.summary.threat)[0], []).append(run)
    found = []
    for norm, members in groups.items():
        drawn: list[tuple[str, Figure]] = []
        for name, width, height, ticks in SIZES:
            one = figure(members, width=width, height=height, ticks=ticks)
            drawn += [(name, one)] if one is not None else []
        radii = sorted({p.eps for run in members for p in run.summary.curve if words.finite(p.eps)})
        at = [{p.eps: p.accuracy for p in run.summary.curve} for run in members]
        table = [(eps, [points.get(eps) for points in at]) for eps in radii]
        found.append({"norm": norm, "runs": members, "figures": drawn, "table": table})
    return [group for group in found if group["table"]]


def progress(runs: Sequence[Run]) -> dict[str, Any]:
    """Accuracy against passes: the drawings, and the stages of each run that kept them."""
    drawn = [(name, effort.progress(runs, width=w, height=h, ticks=7)) for name, w, h, _ in SIZES]
    kept = [(run, effort.steps(run.summary), effort.flatness(run.summary, run.noun)) for run in runs]
    return {"figures": [(n, one) for n, one in drawn if one is not None], "runs": [one for one in kept if one[1]]}


def nearest(runs: Sequence[Run]) -> dict[str, Any]:
    """The nearest adversarial examples by norm, and by class for each run."""
    norms = {record.norm for run in runs for record in run.summary.nearest}
    found = [(run, nearness.classes(run)) for run in runs]
    sizes = SIZES if len(norms) == 1 else HALVES
    return {"groups": nearness.groups(runs, sizes), "classes": [(r, c) for r, c in found if c is not None]}


def survived(runs: Sequence[Run], budget: int) -> dict[str, Any]:
    """Attacks on explanations: the drawings by norm, and for each run that has a record its words and worst cases."""
    galleries_ = reason_galleries(runs, budget)
    told = [
        (run, found, galleries_[i]) for i, run in enumerate(runs) if (found := run.summary.reasons) is not None
    ]  # fmt: skip
    return {"groups": reasons.groups(runs, HALVES), "runs": told}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from unfooled.core.threats import eps_text

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["w"] = words
    environment.globals["trust"] = trust
    environment.globals["effort"] = effort
    environment.globals["reasons"] = reasons
    environment.globals["attention"] = attention
    environment.filters["eps"] = eps_text
    return environment


def _script() -> tuple[str, str]:
    """The page's script, and the hash by which the content security policy knows it."""
    text = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].summary.title
    count = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}.get(len(runs), str(len(runs)))
    return f"{count} audits compared"


def compose(runs: Sequence[Run], *, title: str | None = None) -> str:
    """The page as text; see `render`."""
    from markupsafe import Markup

    records = embed([run.summary for run in runs])
    script, digest = _script()
    limits = list(dict.fromkeys(limit for run in runs for limit in run.summary.limits))
    style = variables() + (TEMPLATES / "style.css").read_text(encoding="utf-8")
    room = max(LEAST, LARGEST - TEXT - len(records))
    kept = int(OF_REASONS * room) if any(run.reasons for run in runs) else 0
    context = {
        "title": title or _title(runs),
        "version": __version__,
        "runs": runs,
        "many": len(runs) > 1,
        "galleries": galleries(runs, room - kept),
        "survived": survived(runs, kept),
        "looked": attention.looked(runs),
        "confusions": [confusion(run.summary) for run in runs],
        "progress": progress(runs),
        "nearest": nearest(runs),
        "checked": any(run.summary.diagnostics for run in runs),
        "curves": curves(runs),
        "undrawn": [run.letter for run in runs if not drawable(run.summary.curve)],
        "lines": compare(runs) if len(runs) > 1 else [],
        "unlike": unlike(runs),
        "limits": limits,
        "warned": sum(len(run.summary.warnings) for run in runs),
        # Our own files, not the user's: the only text that is not escaped, with the records, which `embed` makes safe.
        "style": Markup(style),
        "script": Markup(script),
        "records": Markup(records),
        "digest": digest,
        "dumps": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    }
    return _environment().get_template("page.html.j2").render(context)


def render(runs: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write one self-contained HTML page about one run, or about several beside each other.

    The page makes no request, works without a script, in light and dark, on a phone and on paper, and stays under
    3 MB (up to some 100 classes: the records are embedded whole). No model is run.

    Args:
        runs: run folders of finished audits, the one to compare with first.
        out: the page to write; its folder is made if need be.
        title: heading of the page; the audit's own where None.

    Returns:
        `out`.

    Raises:
        BadInput: no run, a folder without a finished audit, a damaged file, or a page that cannot be written.
    """
    found = read_runs(runs)
    out = Path(out)
    write_whole(out, compose(found, title=title).encode("utf-8", "replace"))
    return out
