"""Pages of local surrogates: one HTML file, light and dark, without scripts and requests."""

from __future__ import annotations

import re
from html import escape

from unfooled.drawing import TOKENS, css_variables
from unfooled.explanations.lime.contents import content
from unfooled.explanations.lime.findings import LOW_R2, Flag, notes
from unfooled.explanations.lime.view import Bar, Chart, Page, Sample, weight_text

DRAWN = 6  # samples of a page
LABELS = 5  # classes of a sample
SHOWN = 40  # letters of a feature's name
BESIDE = 12  # letters of a name that stands beside its bar
LETTER = 6.8  # width of a letter in the name of a bar, in pixels
BYTES = 28_500  # bytes of a page, without pictures
FACTOR = 1.959963984540054  # half-width of a 95 % interval in standard errors
STYLE = """
.lime{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);padding:1rem;max-width:60rem}
.lime section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.8rem 1rem;margin:0 0 1rem}
.lime h1{font-size:1.3rem;margin:.2rem 0 .8rem}.lime h2{font-size:1.05rem;margin:.1rem 0 .5rem}
.lime h3{font-size:.95rem;margin:.6rem 0 .1rem}.lime .row{display:flex;flex-wrap:wrap;gap:1.2rem}
.lime .row>*{min-width:0;max-width:100%}
.lime .note{color:var(--muted);font-size:.85rem;margin:.4rem 0}.lime .warn{color:var(--warn)}
.lime svg{max-width:100%;height:auto}.lime svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
.lime svg .e{text-anchor:end}.lime .a{fill:var(--accent)}.lime .z{stroke:var(--strong)}.lime .i{stroke:var(--ink)}
.lime path.p{fill:var(--fooled)}.lime path.n{fill:var(--held)}
.lime img{image-rendering:pixelated;width:224px;border:1px solid var(--rule)}.lime figure{margin:0}
.lime figcaption{font-size:.8rem;color:var(--muted)}.lime td,.lime th{padding:.1rem .7rem .1rem 0;text-align:left}
.lime table{border-collapse:collapse;font-size:.9rem}.lime td{border-top:1px solid var(--rule);overflow-wrap:anywhere}
.lime td:last-child{white-space:nowrap}.lime td:nth-child(2){min-width:4.5em}
.lime code{overflow-wrap:anywhere}
.lime .text{white-space:pre-wrap;overflow-wrap:anywhere}.lime mark{color:inherit;border-radius:3px}
""" + "".join(
    f".lime .{side}{k}{{background:color-mix(in srgb,var(--{tone}) {10 * k}%,transparent)}}"
    for side, tone in (("p", "fooled"), ("n", "held"))
    for k in range(1, 7)
)


def page(view: Page, title: str = "", extra: str = "") -> str:
    """Return the whole page.

    Args:
        view: The explanations.
        title: Heading. Empty: what was explained.
        extra: Part of the page in front of the explanations, as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width"><title>Local explanation</title>'
        f"<style>:root{{color-scheme:light dark}}body{{margin:0;background:{TOKENS['paper'][0]};"
        f"background:var(--paper)}}</style></head><body>{fragment(view, title, extra)}</body></html>\n"
    )


def fragment(view: Page, title: str = "", extra: str = "") -> str:
    """Return the explanations as a part of a page, with their style."""
    style, sections = f"<style>{css_variables()}{STYLE}</style>", ""
    shown = 0
    for shown, sample in enumerate(view.samples[:DRAWN], 1):
        section = _section(sample, shown)
        if sections and _bytes(style + extra + sections + section) > BYTES:
            shown -= 1
            break
        sections += section
    left = f'<p class="note">{shown} of {view.count} are shown.</p>' if view.count > shown else ""
    heading = title or f"Local explanation of {view.count} {view.kind}{'' if view.count == 1 else 's'}"
    return (
        f"{style}<div class=lime><h1>{escape(heading)}</h1>{extra}{left}{sections}"
        f"<p class=note>{escape(view.method)} Error bars: 95 % intervals over the random draw; they say nothing "
        "about how well a linear surrogate fits, which is the held-out R2.</p></div>"
    )


def _bytes(html: str) -> int:
    """Return the length of a part of a page in bytes, without its pictures."""
    return len(re.sub(r"data:image/\w+;base64,[^\"']*", "", html).encode("utf-8", "replace"))


def _section(sample: Sample, number: int) -> str:
    """Draw one explanation."""
    charts = "".join(
        f"<div><h3>{escape(chart.title)}</h3>{bars(chart.bars)}{_fit(chart, sample)}</div>"
        for chart in sample.charts[:LABELS]
    )
    if len(sample.charts) > LABELS:
        charts += f"<p class=note>{LABELS} of {len(sample.charts)} outputs are shown.</p>"
    sentences = notes(sample.flags, sample.ess, sample.features)
    warnings = "".join(f'<p class="note warn">{note}</p>' for note in sentences)
    contents = "".join(map(content, sample.contents))
    return (
        f"<section><h2>{number}. {escape(sample.heading)}</h2><div class=row>{_outputs(sample)}{contents}</div>"
        f"<div class=row>{charts}</div>{_reliance(sample)}{warnings}</section>"
    )


def _reliance(sample: Sample) -> str:
    """Return how far the explanation can be relied on: effective samples and soft stability, as sentences."""
    text = f"{sample.ess:.0f} effective sample{'' if round(sample.ess) == 1 else 's'}."
    if sample.stability is not None and sample.features:
        value, low, high = sample.stability
        one = sample.between is not None or (sample.outputs is not None and len(sample.outputs) < 2)
        what = "the answer stays on its side of that with all features hidden" if one else "the class stays"
        interval = f"({low:.2f} to {high:.2f}) " if low < high else ""
        text += (
            f" Soft stability of the leading features: {what} with probability {value:.2f} {interval}when others are "
            "added."
        )
    elif sample.features and sample.measured_by and Flag.ONE not in sample.flags:
        text += f" Soft stability was not measured; <code>{escape(sample.measured_by)}</code> does it."
    return f"<p class=note>{text}</p>"


def _fit(chart: Chart, sample: Sample) -> str:
    """Return how well the surrogate fits, as a sentence; nothing where there is nothing to compare."""
    if not sample.features or Flag.ONE in sample.flags:
        return ""
    text = f"R2 {chart.r2:.2f}, held out {chart.held_out:.2f}"
    if chart.held_out < LOW_R2:
        text += "; <b>no linear surrogate fits well here</b>"
    size = sum(abs(bar.weight) for bar in chart.bars) or 1.0
    if abs(chart.local - chart.answer) > 0.01 * max(abs(chart.answer), size):
        text += f"; intercept and weights sum to {chart.local:.3g}, the answer is {chart.answer:.3g}"
    return f"<p class=note>{text}.</p>"


def bars(leading: tuple[Bar, ...]) -> str:
    """Draw weights as SVG bars around 0 with error bars."""
    shown = [bar for bar in leading if bar.name or bar.weight]
    if not shown:
        return "<p class=note>There are no features.</p>"
    names = [shortened(bar.name) for bar in shown]
    reach = max(abs(bar.weight) + FACTOR * bar.se for bar in shown) or 1.0
    largest = max(abs(bar.weight) for bar in shown)
    longest = max(map(len, names))
    above = longest > BESIDE  # long names stand above their bars, so that a narrow page need not shrink them
    left, step = (130, 36) if above else (round(144 + LETTER * longest), 20)
    height, right = step * len(shown) + 4, max(205, round(LETTER * longest) - 120) if above else 205
    texts, errors, areas = [], "", {"p": "", "n": ""}
    for k, (name, bar) in enumerate(zip(names, shown, strict=True)):
        y, end, half = step * (k + 1) - 17, 120 * bar.weight / reach, 120 * FACTOR * bar.se / reach
        areas["p" if bar.weight > 0 else "n"] += f"M0 {y}h{end:.1f}v14h{-end:.1f}z"
        errors += f"M{end - half:.1f} {y + 7}h{2 * half:.1f}" if half else ""
        texts.append(
            f"<text{' x=-128 y=' if above else ' class=e x=-130 y='}{y - 4 if above else y + 12}>{escape(name)}</text>"
            f"<text x=130 y={y + 12}>{weight_text(bar.weight, largest)}</text>"
        )
    drawn = "".join(f'<path class={tone} d="{area}"/>' for tone, area in areas.items() if area)
    drawn += f'<path class=i d="{errors}"/>' if errors else ""
    axis = "".join(f"M0 {step * (k + 1) - 20}v20" for k in range(len(shown))) if above else f"M0 0V{height}"
    return (
        f'<svg viewBox="{-left} 0 {left + right} {height}" width={left + right}><path class=z d="{axis}"/>'
        f"{drawn}{''.join(texts)}</svg>"
    )


def shortened(name: str, most: int = SHOWN) -> str:
    """Shorten a name."""
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def _outputs(sample: Sample) -> str:
    """Draw the outputs of the top classes, or a regression's value between the least and the largest seen."""
    if sample.between is not None:
        low, value, high = sample.between
        at = 10 + 180 * (value - low) / (high - low) if high > low else 100
        return (
            f"<div><h3>Answer</h3><svg viewBox='0 0 200 44' width=200><path d='M10 12H190' stroke='var(--strong)' "
            f"stroke-width=3 /><circle cx={at:.0f} cy=12 r=6 fill='var(--accent)'/><text x=10 y=38>{low:.3g}</text>"
            f"<text x=190 y=38 text-anchor=end>{high:.3g}</text><text x=100 y=38 text-anchor=middle>{value:.4g}</text>"
            "</svg><p class=note>between the least and the largest seen</p></div>"
        )
    if sample.outputs is None or len(sample.outputs) < 2:
        return ""
    leading = sorted(sample.outputs, key=lambda pair: -pair[1])[:5]
    values = [value for _, value in sample.outputs]
    largest = 1.0 if min(values) >= -1e-6 and max(values) <= 1 + 1e-6 else max(map(abs, values)) or 1.0
    texts, area = [], ""
    for k, (name, value) in enumerate(leading):
        size, y = round(100 * min(1.0, abs(value) / largest), 1), 20 * k
        area += f"M92 {y + 2}h{size}v14h-{size}z"
        texts.append(
            f"<text class=e x=86 y={y + 14}>{escape(shortened(name, 12))}</text>"
            f"<text x={96 + size} y={y + 14}>{value:.2f}</text>"
        )
    height = 20 * len(leading)
    return (
        f'<div><h3>Outputs</h3><svg viewBox="0 0 240 {height}" width=240><path class=a d="{area}"/>'
        f"{''.join(texts)}</svg></div>"
    )
