"""An audit in a notebook: one line, a small table, and the accuracy against the radius as a plot."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from unfooled.core.errors import BadInput, printable
from unfooled.core.threat_text import parse_threat
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate


class Shown(Record):
    """A record of an audit that shows itself: a base class without fields of its own."""

    if TYPE_CHECKING:  # fields of the record, in whose order they are stored
        title: str
        model: str
        data: str
        threat: str
        attack: str
        clean_accuracy: Estimate
        robust_accuracy: Estimate
        certified_accuracy: Estimate | None
        attack_success_rate: Estimate
        verdict: str
        trusted: bool
        because: str
        curve: list[Any]

    def __repr__(self) -> str:
        return one_line(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Show the audit as a small table in a notebook."""
        return small_html(self)

    def plot(self, axes: Any = None) -> Any:
        """Draw accuracy against the radius of the threat; see `draw_curve`."""
        return draw_curve(self, axes)


def share_text(e: Estimate) -> str:
    """Write a share with its 95 % interval and n: "21.5 % [18.1, 25.2], n = 540"."""
    if e.value is None:
        return "not stated"
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}], n = {e.n:,}"


def measurement_text(s: Shown) -> str:
    """Say whether the figure can be trusted: the verdict, and why."""
    if not s.verdict:
        return "not checked"
    return f"{s.verdict}, {'can' if s.trusted else 'cannot'} be trusted"


def one_line(s: Shown) -> str:
    """Return an audit as one line, for a terminal or a notebook's output."""
    return (
        f"<Summary of {s.model}: robust accuracy {share_text(s.robust_accuracy)} at {s.threat} "
        f"({measurement_text(s)}); clean accuracy {share_text(s.clean_accuracy)}>"
    )


def small_html(s: Shown) -> str:
    """Return an audit as a small table in HTML, without a script, a style sheet or a request."""
    rows = [
        ("Robust accuracy, at most", share_text(s.robust_accuracy)),
        *([] if s.certified_accuracy is None else [("Robust accuracy, at least", share_text(s.certified_accuracy))]),
        ("Clean accuracy", share_text(s.clean_accuracy)),
        ("Attack success rate", share_text(s.attack_success_rate)),
        ("Threat", s.threat),
        ("Attack", s.attack),
        ("Measurement", f"{measurement_text(s)}. {s.because}".rstrip()),
    ]
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(printable(value))}</td></tr>'
        for name, value in rows
    )
    heading = escape(printable(f"{s.model} on {s.data}"))
    return f'<table><caption style="text-align:left">{heading}</caption><tbody>{body}</tbody></table>'


def draw_curve(s: Shown, axes: Any = None) -> Any:
    """Draw accuracy against the radius of the threat, with its 95 % band; the audited radius is dashed.

    Args:
        s: Results of an audit.
        axes: Matplotlib axes to draw into. None: new ones, made with pyplot.

    Returns:
        The axes.

    Raises:
        BadInput: the audit measured no curve.
    """
    points = [(p.eps, p.accuracy) for p in s.curve if p.accuracy.value is not None]
    if not points:
        raise BadInput("the audit measured no curve; give its plan a nearest-point search to have one")
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(5.0, 3.4), layout="constrained")[1]
    eps = [radius for radius, _ in points]
    axes.plot(eps, [e.value for _, e in points], marker="o", label=printable(s.title))
    axes.fill_between(eps, [e.low for _, e in points], [e.high for _, e in points], alpha=0.2)
    threat = parse_threat(s.threat)
    if threat.radius is not None:
        axes.axvline(threat.radius, linestyle="--", linewidth=1, color="0.4")
    axes.set(xlabel=f"radius of the threat ({threat.norm})", ylabel="accuracy, at most", ylim=(0, 1.02))
    return axes
