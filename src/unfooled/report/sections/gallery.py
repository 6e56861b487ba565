"""The gallery: each example's input, adversarial input, difference and explanations, in the order of the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unfooled.drawing.pictures import ENCODINGS, Encoding, Plate, css_gradient, encode
from unfooled.drawing.plates import Plates, draw_plates
from unfooled.evaluation.audit.records import Example
from unfooled.evaluation.explanations.records import ReasonExample
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.words import percent

MAX_PIXELATED_EDGE = 64  # pictures up to this edge are enlarged without smoothing
Texts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """An image element."""

    caption: str
    alt: str
    src: str
    width: int
    height: int
    pixelated: bool


@dataclass(frozen=True)
class Row:
    """One example: its numbers, the names of its classes, its pictures."""

    example: Example
    label: str
    clean: str
    adversarial: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Rows of the gallery, with what is needed to read them.

    Attributes:
        form: "image" or "bars"; None where samples of this shape cannot be drawn.
        rows: The examples.
        factor: Amplification of the differences.
        scale: "diverging" or "sequential".
        gradient: The scale as a CSS gradient.
        notes: Sentences on the limits of the pictures.
    """

    form: str | None
    rows: list[Row]
    factor: int
    scale: str
    gradient: str
    notes: list[str]


@dataclass(frozen=True)
class ReasonRow:
    """One case of an attack on explanations: its numbers, the name of its class, its pictures."""

    example: ReasonExample
    label: str
    pictures: list[Picture]


@dataclass(frozen=True)
class ReasonGallery:
    """Worst attacks on explanations of one run; attributes as in `Gallery`."""

    form: str | None
    rows: list[ReasonRow]
    factor: int
    scale: str
    gradient: str


AnyRow = TypeVar("AnyRow", Row, ReasonRow)
AnyExample = TypeVar("AnyExample", Example, ReasonExample)


def encoded(plate: Plate, caption: str, alt: str, how: Encoding) -> Picture:
    """Encode a plate as an image element."""
    src, width, height = encode(plate, how)
    return Picture(caption, alt, src, width, height, max(width, height) <= MAX_PIXELATED_EDGE)


def _encoded_row(plates: Sequence[Plate], texts: Texts, how: Encoding) -> list[Picture]:
    return [encoded(plate, caption, alt, how) for plate, (caption, alt) in zip(plates, texts, strict=True)]


def _texts(run: Run, e: Example, factor: int) -> Texts:
    """Return caption and alternative text of each of the five pictures."""
    classes, why = run.summary.classes, run.summary.explanation
    label, clean, adv = (class_name(classes, k) for k in (e.label, e.clean, e.adversarial))
    at = f"sample {e.index}"
    return [
        ("Input", f"Input of {at}: {label}, classified {clean} ({percent(e.clean_confidence)})"),
        ("Adversarial", f"Adversarial input of {at}: classified {adv} ({percent(e.adversarial_confidence)})"),
        (f"Difference \u00d7 {factor}", f"Difference of the two inputs of {at}, amplified {factor} times around grey"),
        ("Why, before", f"Explanation ({why}) of {at} before the attack"),
        ("Why, after", f"Explanation ({why}) of {at} after the attack, on the colour scale of before"),
    ]


def _row(run: Run, e: Example, plates: Sequence[Plate], factor: int, how: Encoding) -> Row:
    pictures = _encoded_row(plates, _texts(run, e, factor) if plates else [], how)
    label, clean, adv = (class_name(run.summary.classes, k) for k in (e.label, e.clean, e.adversarial))
    return Row(e, label, clean, adv, pictures)


def _notes(run: Run, drawn: Plates, shown: int, how: Encoding) -> list[str]:
    notes = []
    total = len(run.summary.gallery)
    if drawn.form is None:
        shape = tuple(run.pictures["x"].shape[1:]) if run.pictures else ()
        return [f"Samples of shape {shape} cannot be drawn, so only their numbers are shown."] if total else []
    if shown < total:
        notes.append(f"The first {shown} of {total} examples are shown, to keep this page small.")
    shape = run.pictures["x"].shape[1:]
    if len(shape) == 3 and shape[0] not in (1, 3):
        notes.append(f"Inputs have {shape[0]} channels; their mean is drawn.")
    if len(shape) == 3 and shape[0] > 1:
        notes.append("Explanations are summed over channels.")
    if drawn.form == "image" and max(shape[-2:]) > how.edge:
        notes.append(f"Pictures are reduced from {max(shape[-2:])} to {how.edge} pixels, which hides fine noise.")
    if drawn.form == "image" and how.lossy:
        notes.append("Inputs are compressed with loss for this page; the run folder has them exactly.")
    broken = sum(int((~np.isfinite(v)).sum()) for v in run.pictures.values())
    if broken:
        notes.append(f"{broken:,} values of the pictures are not finite; they are drawn as if they were neutral.")
    return notes


def first_fooled(gallery: Gallery) -> Row | None:
    """Return the first example with pictures that was fooled, which stands beside the verdict; None without one."""
    return next((row for row in gallery.rows if row.pictures and row.example.fooled), None)


def _length(rows: Sequence[Sequence[AnyRow]]) -> int:
    """Return the number of characters that the pictures of all runs take."""
    return sum(len(p.src) for run in rows for row in run for p in row.pictures)


def _pairs(rows: Sequence[Sequence[Row]]) -> int:
    """Return the number of characters of the pictures that stand a second time, beside the verdict."""
    firsts = (next((row for row in run if row.example.fooled), None) for run in rows)
    return sum(len(p.src) for row in firsts if row is not None for p in row.pictures[:2])


def _scale(drawn: Plates) -> str:
    return "diverging" if drawn.signed else "sequential"


def galleries(runs: Sequence[Run], budget: int) -> list[Gallery]:
    """Return the galleries of all runs, encoded alike, in the best quality that fits into `budget` characters.

    Where even the smallest pictures do not fit, the last examples of each run are left out, and a note says so.
    """
    drawn = [draw_plates(run.pictures) for run in runs]
    for how in ENCODINGS:
        rows = [
            [_row(r, e, p, d.factor, how) for e, p in zip(r.summary.gallery, d.rows, strict=False)]
            for r, d in zip(runs, drawn, strict=True)
        ]
        if _length(rows) + _pairs(rows) <= budget:
            break
    while _length(rows) + _pairs(rows) > budget and any(len(r) > 1 for r in rows):
        longest = max(map(len, rows))
        rows = [r[: longest - 1] for r in rows]
    results = []
    for run, d, shown in zip(runs, drawn, rows, strict=True):
        notes = _notes(run, d, len(shown), how)
        if d.form is None:
            shown = [_row(run, e, [], d.factor, how) for e in run.summary.gallery]
        results.append(Gallery(d.form, shown, d.factor, _scale(d), css_gradient(_scale(d)), notes))
    return results


def nearest_galleries(runs: Sequence[Run], budget: int) -> list[Gallery]:
    """Return the nearest adversarial examples of all runs, in the best quality that fits into `budget` characters.

    Where none fits, only the nearest of each run is shown.
    """
    drawn = [draw_plates(run.nearest) for run in runs]
    examples = [run.summary.nearest_gallery for run in runs]
    rows = _in_best_quality(runs, drawn, examples, _row, budget)
    return [
        Gallery(d.form, shown, d.factor, _scale(d), css_gradient(_scale(d)), [])
        for d, shown in zip(drawn, rows, strict=True)
    ]


def reason_galleries(runs: Sequence[Run], budget: int) -> list[ReasonGallery]:
    """Return the worst attacks on explanations of all runs, in the best quality that fits into `budget` characters.

    Where none fits, only the first of each run is shown.
    """
    drawn = [draw_plates(run.reasons) for run in runs]
    worst = [run.summary.reasons.gallery if run.summary.reasons is not None else [] for run in runs]
    rows = _in_best_quality(runs, drawn, worst, _reason_row, budget)
    return [
        ReasonGallery(d.form, examples, d.factor, _scale(d), css_gradient(_scale(d)))
        for d, examples in zip(drawn, rows, strict=True)
    ]


def _in_best_quality(
    runs: Sequence[Run],
    drawn: Sequence[Plates],
    examples: Sequence[Sequence[AnyExample]],
    row: Callable[[Run, AnyExample, Sequence[Plate], int, Encoding], AnyRow],
    budget: int,
) -> list[list[AnyRow]]:
    """Return the rows of all runs in the best quality that fits; in the worst one, the first row of each run."""
    for how in ENCODINGS:
        rows = [
            [row(r, e, p, d.factor, how) for e, p in zip(some, d.rows, strict=False)]
            for r, some, d in zip(runs, examples, drawn, strict=True)
        ]
        if _length(rows) <= budget:
            return rows
    return [run[:1] for run in rows]


def _reason_row(run: Run, e: ReasonExample, plates: Sequence[Plate], factor: int, how: Encoding) -> ReasonRow:
    label = class_name(run.summary.classes, e.label)
    why = run.summary.reasons.explanation if run.summary.reasons is not None else ""
    at = f"sample {e.index}"
    texts = [
        ("Input", f"Input of {at}: {label}"),
        ("Attacked", f"Attacked input of {at}: still classified {label}"),
        (f"Difference \u00d7 {factor}", f"Difference of the two inputs of {at}, amplified {factor} times around grey"),
        ("Why, before", f"Explanation ({why}) of {at} before the attack on it"),
        ("Why, attacked", f"Explanation ({why}) of {at} under attack, on the colour scale of before"),
    ]
    return ReasonRow(e, label, _encoded_row(plates, texts, how))
