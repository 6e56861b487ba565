"""Pages and figures of local surrogates: one HTML file, light and dark, without scripts and requests."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unfooled.drawing import TOKENS, Encoding, css_variables, displayed, encode, form_of, heat_map, photograph
from unfooled.explanations.lime.findings import Flag

if TYPE_CHECKING:
    from unfooled.explanations.lime.result import Surrogates

DRAWN = 6  # samples of a page
LABELS = 5  # classes of a sample
SHOWN = 24  # letters of a feature's name
FACTOR = 1.959963984540054  # half-width of a 95 % interval in standard errors
PICTURE = Encoding(224, False)
STYLE = """
.lime{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);padding:1rem;max-width:60rem}
.lime section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.8rem 1rem;margin:0 0 1rem}
.lime h1{font-size:1.3rem;margin:.2rem 0 .8rem}.lime h2{font-size:1.05rem;margin:.1rem 0 .5rem}
.lime h3{font-size:.95rem;margin:.6rem 0 .1rem}.lime .row{display:flex;flex-wrap:wrap;gap:1.2rem}
.lime .note{color:var(--muted);font-size:.85rem;margin:.4rem 0}.lime .warn{color:var(--warn)}
.lime svg{max-width:100%;height:auto}.lime svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
.lime img{image-rendering:pixelated;width:224px;border:1px solid var(--rule)}.lime figure{margin:0}
.lime figcaption{font-size:.8rem;color:var(--muted)}.lime td,.lime th{padding:.1rem .7rem .1rem 0;text-align:left}
.lime .text{white-space:pre-wrap;overflow-wrap:anywhere}.lime mark{color:inherit;border-radius:3px}
"""


def page(result: Surrogates, top: int = 12) -> str:
    """Return the whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width"><title>Local explanation</title>'
        f"<style>:root{{color-scheme:light dark}}body{{margin:0;background:{TOKENS['paper'][0]};"
        f"background:var(--paper)}}</style></head><body>{fragment(result, top)}</body></html>\n"
    )


def fragment(result: Surrogates, top: int = 8) -> str:
    """Return the explanations as a part of a page, with their style."""
    shown = [result[i] for i in range(min(len(result), DRAWN))]
    left = f'<p class="note">{DRAWN} of {len(result)} are shown.</p>' if len(result) > DRAWN else ""
    sections = "".join(_section(one, i, top) for i, one in enumerate(shown))
    return (
        f"<style>{css_variables()}{STYLE}</style><div class=lime><h1>Local explanation of {len(result)} "
        f"{_words(result, len(result))}</h1>{left}{sections}<p class=note>{_settings(result)}</p></div>"
    )


def _words(result: Surrogates, count: int) -> str:
    """Return what was explained, as a word."""
    word = {"image": "sample", "text": "text", "table": "row"}.get(result.kind.value, "input")
    return word if count == 1 else word + "s"


def _settings(result: Surrogates) -> str:
    """Return how it was computed, as a sentence."""
    link = "" if result.link == "identity" else f" after {escape(result.link)}"
    return (
        f"A linear surrogate of {escape(result.score)}{link}. Hidden features: {escape(result.baseline)}. "
        f"Masks: {escape(result.sampler)}, weights: {escape(result.kernel)}, seed {result.seed}. Error bars: 95 % "
        "intervals over the draw of the masks; they say nothing about how well a linear surrogate fits, "
        "which is the held-out R2."
    )


def _section(one: Surrogates, number: int, top: int) -> str:
    """Draw one explanation."""
    content = _content(one)
    labels = [t for t in range(one.y.shape[1])][:LABELS]
    charts = "".join(f"<div><h3>{escape(_title(one, t))}</h3>{bars(one, t, top)}{_fit(one, t)}</div>" for t in labels)
    if one.y.shape[1] > LABELS:
        charts += f"<p class=note>{LABELS} of {one.y.shape[1]} outputs are shown.</p>"
    notes = []
    if Flag.FEW in one.flags[0]:
        notes.append(f"More samples needed: {float(one.ess[0]):.0f} effective ones for {len(one.names[0])} features.")
    if Flag.NOT_REACHED in one.flags[0]:
        notes.append("More samples needed: the leading features are not separated yet.")
    if Flag.SINGULAR in one.flags[0]:
        notes.append("The masks do not tell every feature from the others; their weights are shared out.")
    if Flag.EVERY_MASK in one.flags[0]:
        notes.append("Every mask was used: there is no sampling error.")
    warnings = "".join(f'<p class="note warn">{note}</p>' for note in notes)
    stability = ""
    if one.stability is not None:
        value, low, high = one.stability[0]
        stability = (
            f"<p class=note>Soft stability of the leading features: the class stays with probability {value:.2f} "
            f"({low:.2f} to {high:.2f}) when others are added.</p>"
        )
    return (
        f"<section><h2>{number + 1}. {_predicted(one)}</h2><div class=row>{_outputs(one)}{content}</div>"
        f"<div class=row>{charts}</div>{stability}{warnings}</section>"
    )


def _predicted(one: Surrogates) -> str:
    """Return the heading of an explanation."""
    if one.outputs is not None and one.seen is None and one.outputs.shape[1] > 1:
        best = int(one.outputs[0].argmax())
        return f"Predicted: {escape(one.class_name(best))}"
    return f"Answer: {float(one.prediction[0, 0]):.4g}"


def _title(one: Surrogates, t: int) -> str:
    """Return the heading of a class."""
    label = int(one.y[0, t])
    return f"output {one.class_name(label)}" if one.seen is not None else f"class {one.class_name(label)}"


def _fit(one: Surrogates, t: int) -> str:
    """Return how well the surrogate fits, as a sentence."""
    held, local, answer = (float(v[0, t]) for v in (one.r2_held_out, one.local_prediction, one.prediction))
    text = f"R2 {float(one.r2[0, t]):.2f}, held out {held:.2f}, {float(one.ess[0]):.0f} effective samples"
    if held < 0.5:
        text += "; <b>no linear surrogate fits well here</b>"
    gap = abs(local - answer)
    if gap > 0.01 * max(abs(answer), float(one.weights[0, t].abs().sum()) or 1.0):
        text += f"; intercept and weights sum to {local:.3g}, the answer is {answer:.3g}"
    return f"<p class=note>{text}.</p>"


def bars(one: Surrogates, t: int, top: int) -> str:
    """Draw the leading weights of a class as SVG bars around 0 with error bars."""
    order = one._ordered(t, top)
    if not order:
        return "<p class=note>There are no features.</p>"
    errors = [FACTOR * float(one.se[0, t, j]) for j, _ in order]
    reach = max((abs(w) + e for (_, w), e in zip(order, errors, strict=True)), default=0.0) or 1.0
    height, lines = 20 * len(order) + 4, []
    for k, ((j, w), e) in enumerate(zip(order, errors, strict=True)):
        y, x, tone = 20 * k + 3, 300 + 120 * min(0.0, w) / reach, "fooled" if w > 0 else "held"
        lines.append(
            f"<text x=170 y={y + 12} text-anchor=end>{escape(_short(one.names[0][j]))}</text>"
            f'<rect x={x:.1f} y={y} width={abs(w) / reach * 120:.1f} height=14 fill="var(--{tone})"/>'
        )
        if e > 0:
            low, high = 300 + 120 * (w - e) / reach, 300 + 120 * (w + e) / reach
            lines.append(f'<path d="M{low:.1f} {y + 7}H{high:.1f}" stroke="var(--ink)"/>')
        lines.append(f"<text x=430 y={y + 12}>{w:+.3g}</text>")
    axis = f'<path d="M300 0V{height}" stroke="var(--strong)"/>'
    words = ", ".join(f"{_short(one.names[0][j])} {w:+.2g}" for j, w in order[:3])
    return (
        f'<svg viewBox="0 0 490 {height}" width=490 role=img aria-label="{escape(words)}">{axis}{"".join(lines)}</svg>'
    )


def _short(name: str) -> str:
    """Shorten a name."""
    return name if len(name) <= SHOWN else name[: SHOWN - 1] + "\u2026"


def _outputs(one: Surrogates) -> str:
    """Draw the probabilities of the top classes, or a regression's value between the least and the largest seen."""
    if one.seen is not None:
        low, high = (float(v) for v in one.seen[0])
        value = float(one.prediction[0, 0])
        at = 10 + 180 * (value - low) / (high - low) if high > low else 100
        return (
            f"<div><h3>Answer</h3><svg viewBox='0 0 200 44' width=200><path d='M10 12H190' stroke='var(--strong)' "
            f"stroke-width=3 /><circle cx={at:.0f} cy=12 r=6 fill='var(--accent)'/><text x=10 y=38>{low:.3g}</text>"
            f"<text x=190 y=38 text-anchor=end>{high:.3g}</text><text x=100 y=38 text-anchor=middle>{value:.4g}</text>"
            "</svg></div>"
        )
    if one.outputs is None or one.outputs.shape[1] < 2:
        return ""
    p, lines = one.outputs[0], []
    leading = p.argsort(descending=True, stable=True)[:5].tolist()
    for k, label in enumerate(leading):
        share, y = min(1.0, max(0.0, float(p[label]))), 20 * k
        lines.append(
            f"<text x=86 y={y + 14} text-anchor=end>{escape(_short(one.class_name(label))[:12])}</text>"
            f'<rect x=92 y={y + 2} width={100 * share:.1f} height=14 fill="var(--accent)"/>'
            f"<text x={96 + 100 * share:.1f} y={y + 14}>{float(p[label]):.2f}</text>"
        )
    return f"<div><h3>Outputs</h3><svg viewBox='0 0 240 {20 * len(leading)}' width=240>{''.join(lines)}</svg></div>"


def _content(one: Surrogates) -> str:
    """Draw what was explained: an image with its map, a marked text, or a row as a table."""
    if isinstance(one.content, Tensor) and form_of(tuple(one.content.shape[1:])) == "image":
        return _picture(one)
    if one.spans is not None:
        return f"<div class=text>{_marked(one)}</div>"
    if one.kind.value == "table":
        cells = "".join(
            f"<tr><td>{escape(name)}</td><td>{float(w):+.3g}</td></tr>"
            for name, w in zip(one.names[0], one.weights[0, 0], strict=False)
        )
        return f"<table><tr><th>feature</th><th>weight</th></tr>{cells}</table>" if len(one.names[0]) <= 30 else ""
    return ""


def _picture(one: Surrogates) -> str:
    """Draw an image, its segments' weights, and the borders of the segments."""
    x = one.content[0].to(torch.float64).numpy()
    weights = displayed(one.heatmap()[0].numpy()) / (len(x) if x.ndim == 3 else 1)
    limit = float(np.abs(weights).max()) or 1.0
    assert one.segments is not None
    ids = one.segments[0].numpy()
    plates = [(photograph(x), "input"), (heat_map(weights, limit, signed=True), f"weights, \u00b1{limit:.3g}")]
    figures = []
    for plate, caption in plates:
        uri, _, _ = encode(plate, PICTURE)
        figures.append(f'<figure><img src="{uri}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    count = int(ids.max()) + 1
    note = f"<figcaption>{count} segments; red speaks for the class, blue against it</figcaption>"
    return f"<div><div class=row>{''.join(figures)}</div>{note}</div>"


def _marked(one: Surrogates) -> str:
    """Return a text with its features marked, stronger for larger weights."""
    assert one.spans is not None
    text, at, parts = str(one.content[0]), 0, []
    w = one.weights[0, 0]
    limit = float(w.abs().amax()) if len(w) else 0.0
    for start, end, feature in one.spans[0]:
        share = abs(float(w[feature])) / limit if limit else 0.0
        if share < 0.1 or start < at:
            continue
        tone = "fooled" if float(w[feature]) > 0 else "held"
        colour = f"color-mix(in srgb,var(--{tone}) {math.ceil(60 * share)}%,transparent)"
        parts.append(f'{escape(text[at:start])}<mark style="background:{colour}">{escape(text[start:end])}</mark>')
        at = end
    return "".join(parts) + escape(text[at:])


def figure(one: Surrogates, label: int | None, top: int) -> Any:
    """Return a matplotlib figure of one explanation: bars with error bars, and an image's signed map."""
    from matplotlib.figure import Figure

    t = one.column(label)[0]
    order = one._ordered(t, top)
    drawn = isinstance(one.content, Tensor) and form_of(tuple(one.content.shape[1:])) == "image"
    fig = Figure(figsize=(9 if drawn else 6, 0.6 + 0.35 * max(3, len(order))), layout="constrained")
    axes = fig.subplots(1, 2 if drawn else 1, squeeze=False)[0]
    places = range(len(order))[::-1]
    axes[0].barh(
        places,
        [w for _, w in order],
        xerr=[FACTOR * float(one.se[0, t, j]) for j, _ in order],
        color=[TOKENS["fooled"][0] if w > 0 else TOKENS["held"][0] for _, w in order],
        capsize=2,
    )
    reach = max((abs(w) + FACTOR * float(one.se[0, t, j]) for j, w in order), default=0.0) or 1.0
    axes[0].set(yticks=places, yticklabels=[_short(one.names[0][j]) for j, _ in order], xlim=(-reach, reach))
    axes[0].axvline(0, color=TOKENS["strong"][0], linewidth=0.8)
    axes[0].set_title(_title(one, t))
    if drawn:
        value = displayed(one.heatmap(label)[0].numpy())
        limit = float(np.abs(value).max()) or 1.0
        image = axes[1].imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit)
        fig.colorbar(image, ax=axes[1])
        axes[1].set_axis_off()
    return fig
