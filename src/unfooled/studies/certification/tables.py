"""Tables of the study of certification."""

from __future__ import annotations

from unfooled.core.threat_text import eps_text
from unfooled.studies.certification.figures import Ends
from unfooled.studies.certification.units import Results
from unfooled.studies.common.records import Table


def tables(results: Results) -> dict[str, Table]:
    """Make the table of each radius of one data set."""
    made = {}
    for eps in sorted({one.eps for one in results.judged}):
        ends = Ends.of(results.judged, eps)
        made[f"{results.task.source}, linf:{eps_text(eps)}: both ends"] = [_row(ends, name) for name in ends.networks]
    return made


def _row(ends: Ends, name: str) -> dict[str, str | int]:
    """Make the row of one network."""
    return {
        "network": name,
        "clean": ends.mean(name, "right").text(),
        "at most (attacked)": ends.mean(name, "resists").text(),
        "at least (proven)": ends.mean(name, "proven").text(),
        "by intervals alone": ends.mean(name, "by_intervals").text(),
        "open": ends.open(name).text(),
        "n": ends.mean(name, "right").n,
    }
