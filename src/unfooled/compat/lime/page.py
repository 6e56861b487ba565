"""The page of an explanation: one file of at most 30 kB, without scripts and requests, in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

TITLE = "Explanation"
COLOURS = ("paper", "ink", "muted", "rule", "held", "fooled", "heat-on", "heat-off")
CLASSES_SHOWN = 5
BARS_BUDGET, TEXT_BUDGET, TABLE_BUDGET = 9_000, 12_000, 12_000
"""Bytes that a view may take; what does not fit is counted in words."""
NAME_LENGTH = 80
CONTEXT = 120

STYLE = """
.lx{background:var(--paper);color:var(--ink);font:14px/1.45 system-ui,sans-serif;padding:1em;color-scheme:light dark;
min-height:100vh;box-sizing:border-box}
.lx code{overflow-wrap:anywhere}
.lx h2{font-size:1em;margin:0 0 .4em}.lx section{margin:0 0 1.4em;max-width:60em;overflow-x:auto}
.lx table{border-collapse:collapse}.lx th{font-weight:400;text-align:left;padding:.1em .8em .1em 0}
.lx td{padding:.1em .3em;text-align:right}.lx thead th{color:var(--muted)}.lx p{color:var(--muted);margin:.3em 0}
.lx .b{width:12em;padding:.1em .3em;border-left:1px solid var(--rule);text-align:left}
.lx .n{width:12em;border-right:1px solid var(--rule);text-align:right}
.lx i{display:inline-block;height:.8em;background:var(--held)}.lx .n i{background:var(--fooled)}
.lx .t{white-space:pre-wrap;overflow-wrap:anywhere;color:var(--ink)}
.lx mark{color:inherit;background:var(--heat-on);
background:color-mix(in srgb,var(--heat-on) calc(100%*var(--o,1)),transparent)}
.lx mark.a{background:var(--heat-off);
background:color-mix(in srgb,var(--heat-off) calc(100%*var(--o,1)),transparent);text-decoration:underline dotted}
@media(max-width:40em){.lx .b,.lx .n{width:4em}.lx tbody th{overflow-wrap:anywhere}}
"""


def page(views: Iterable[str]) -> str:
    """Return the page of some views; lone surrogates become question marks."""
    from unfooled.drawing.theme import TOKENS

    light, dark = ("".join(f"--{name}:{TOKENS[name][k]};" for name in COLOURS) for k in (0, 1))
    text = (
        '<!doctype html><html lang="en" style="color-scheme:light dark"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{TITLE}</title><style>"
        f".lx{{{light}}}@media (prefers-color-scheme:dark){{.lx{{{dark}}}}}{STYLE}</style></head>"
        f'<body style="margin:0"><div class="lx">{"".join(views)}</div></body></html>'
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def escape(text: object) -> str:
    """Return a name for the page, cut to a length that fits a line."""
    word = str(text)
    return html.escape(word if len(word) <= NAME_LENGTH else word[: NAME_LENGTH - 1] + "…")


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def section(title: str, body: str) -> str:
    """Return a view with its heading."""
    return f"<section><h2>{title}</h2>{body}</section>"


def bar(share: float) -> str:
    """Return a bar; `share` of the full width."""
    width = 0.0 if not math.isfinite(share) else min(max(share, 0.0), 1.0)
    return f'<i style="width:{100 * width:.1f}%"></i>'


def rows_within(rows: Iterable[str], total: int, budget: int, what: str) -> tuple[str, str]:
    """Return the rows that fit into a budget of bytes, and a sentence on those that do not."""
    shown: list[str] = []
    for row in rows:
        budget -= len(row.encode("utf-8", "replace"))
        if budget < 0:
            break
        shown.append(row)
    left = total - len(shown)
    return "".join(shown), f"<p>and {left} more {what}</p>" if left else ""


def probabilities(names: Sequence[str], values: Sequence[float]) -> str:
    """Return the view of the classes with the largest probabilities, the others summed.

    Args:
        names: names of the classes.
        values: probability of each.
    """
    order = sorted(range(len(values)), key=lambda k: -values[k])
    if len(order) > CLASSES_SHOWN:
        order, others = order[: CLASSES_SHOWN - 1], order[CLASSES_SHOWN - 1 :]
        lines = [(escape(names[k]), values[k]) for k in order]
        lines.append((f"{len(others)} others", sum(values[k] for k in others)))
    else:
        lines = [(escape(names[k]), values[k]) for k in order]
    rows = "".join(f'<tr><th>{name}</th><td class="b">{bar(p)}</td><td>{p:.2f}</td></tr>' for name, p in lines)
    return section("Prediction probabilities", f"<table>{rows}</table>")


def predicted_value(value: float, least: float, largest: float) -> str:
    """Return the view of a predicted value between the least and the largest one of the samples."""
    share = (value - least) / (largest - least) if largest > least else 1.0
    row = (
        f'<tr><th>{number(least)} (least)</th><td class="b">{bar(share)}</td><td>{number(largest)} (largest)</td></tr>'
    )
    return section(f"Predicted value {number(value)}", f"<table>{row}</table>")


def reliance(score: float | None, call: str) -> str:
    """Return the view of how far the weights can be relied on: R2, and the call that measures the soft stability.

    Args:
        score: weighted R2 in sample of the label fitted last; None: not known.
        call: call of the native explanations.
    """
    fit = (
        ""
        if score is None or not math.isfinite(score)
        else f"<p>R2 {score:.2f} in sample, of the label fitted last.</p>"
    )
    text = (
        f"Soft stability was not measured: the model is not part of this explanation. <code>{html.escape(call)}</code>"
    )
    return section("Reliance", f"{fit}<p>{text} of unfooled.explanations.lime measures it.</p>")


def weight_bars(title: str, against: str, towards: str, pairs: Sequence[tuple[object, float]], budget: int) -> str:
    """Return the view of an explanation's weights, in the order given.

    Args:
        title: heading.
        against: what a negative weight speaks for.
        towards: what a positive weight speaks for.
        pairs: names and weights.
        budget: bytes.
    """
    scale = max((abs(w) for _, w in pairs if math.isfinite(w)), default=0.0) or 1.0
    rows = (
        f'<tr><th>{escape(name)}</th><td class="n">{bar(-w / scale) if w < 0 else ""}</td>'
        f'<td class="b">{bar(w / scale) if w > 0 else ""}</td><td>{number(w)}</td></tr>'
        for name, w in pairs
    )
    shown, rest = rows_within(rows, len(pairs), budget, "features with smaller weights")
    heads = f'<th></th><th class="n">{escape(against)}</th><th class="b">{escape(towards)}</th><th>weight</th>'
    head = f"<thead><tr>{heads}</tr></thead>"
    body = f"<table>{head}<tbody>{shown}</tbody></table>{rest}" if pairs else "<p>There are no features.</p>"
    return section(escape(title), body)


def marked_text(text: str, marks: Iterable[tuple[int, int, float]], opacity: bool) -> str:
    """Return the view of a text whose words are marked: for the label, or, underlined, against it.

    Args:
        text: the text.
        marks: start, length and weight of each marked piece.
        opacity: whether the marks fade with the weight.
    """
    ordered = sorted(marks)
    scale = max((abs(w) for _, _, w in ordered if math.isfinite(w)), default=0.0) or 1.0
    whole = pieces(text, ordered, scale if opacity else None, None)
    if size(whole) > TEXT_BUDGET:  # a long text: only what stands around its marks
        whole = pieces(text, ordered, scale if opacity else None, CONTEXT)
    shown, left = [], TEXT_BUDGET
    for piece in whole:
        left -= len(piece.encode("utf-8", "replace"))
        if left < 0:
            shown.append("… (the text goes on)")
            break
        shown.append(piece)
    return section("Text with marked words", f'<div class="t">{"".join(shown)}</div>')


def size(parts: Iterable[str]) -> int:
    """Return the bytes of some texts."""
    return sum(len(part.encode("utf-8", "replace")) for part in parts)


def pieces(text: str, marks: Sequence[tuple[int, int, float]], scale: float | None, context: int | None) -> list[str]:
    """Return the pieces of a marked text, long stretches without marks cut out if `context` is given.

    Args:
        text: the text.
        marks: start, length and weight of each marked piece, in order.
        scale: weight of a full mark; None: all marks are full.
        context: characters around a mark. None: everything.
    """
    result, at = [], 0
    for start, length, weight in marks:
        result.append(stretch(text[at:start], context, at > 0, True))
        kind = ' class="a"' if weight < 0 else ""
        fade = "" if scale is None else f' style="--o:{abs(weight) / scale:.2f}"'
        result.append(f"<mark{kind}{fade}>{html.escape(text[start : start + length])}</mark>")
        at = start + length
    result.append(stretch(text[at:], context, at > 0, False))
    return result


def stretch(text: str, context: int | None, after_mark: bool, before_mark: bool) -> str:
    """Return a stretch without marks, its middle or its far end cut out if it is long."""
    if context is None or len(text) <= 2 * context + 5 or not (after_mark or before_mark):
        return html.escape(text)
    left, right = text[:context] if after_mark else "", text[-context:] if before_mark else ""
    return f"{html.escape(left)} … {html.escape(right)}"


def value_table(rows: Sequence[tuple[object, object, float]]) -> str:
    """Return the view of a row of a table.

    Args:
        rows: name, value and weight of each feature.
    """
    scale = max((abs(w) for _, _, w in rows if math.isfinite(w)), default=0.0) or 1.0
    lines = (
        f"<tr><th>{mark(escape(name), w, scale)}</th><td>{mark(escape(value), w, scale)}</td></tr>"
        for name, value, w in rows
    )
    shown, rest = rows_within(lines, len(rows), TABLE_BUDGET, "features")
    head = "<thead><tr><th>Feature</th><th>Value</th></tr></thead>"
    return section("The row", f"<table>{head}<tbody>{shown}</tbody></table>{rest}")


def mark(text: str, weight: float, scale: float) -> str:
    """Return an escaped text marked by its weight; a weight of 0 leaves it unmarked."""
    if weight == 0:
        return text
    kind = ' class="a"' if weight < 0 else ""
    return f'<mark{kind} style="--o:{abs(weight) / scale:.2f}">{text}</mark>'
