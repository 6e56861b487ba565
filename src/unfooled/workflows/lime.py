"""Local surrogates (LIME) of images, texts and rows, and the submodular pick: one page and one JSON file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.limits import Limits, allowing
from unfooled.core.unanswered import check_answered
from unfooled.data.formats.text import read_text, read_texts
from unfooled.explanations import lime as native
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.segments import segment
from unfooled.workflows import catalog
from unfooled.workflows.choices import made
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs
from unfooled.workflows.lime_options import ATTENTION, LimeOptions, TableOptions, TextOptions, classes_of, read_rows
from unfooled.workflows.lime_priors import of_explanation
from unfooled.workflows.lime_records import LimeRecord, Picked, explained, write
from unfooled.workflows.lime_sources import (
    BATCH,
    Labels,
    Source,
    TableRows,
    Texts,
    answering,
    check_choices,
    check_numbers,
    checked_texts,
    numbers_of,
    quiet,
)
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_folder
from unfooled.workflows.predicting import Predictor, opened
from unfooled.workflows.words import at_least, number

MAX_IMPORTANCES = 20  # features of a pick whose importance is recorded
CPU = Machine("cpu")
Model = str | Path | Callable[..., Any] | Any
"""Model of texts or rows; see `predicting.opened`."""


def lime_image(
    inputs: Inputs,
    *,
    index: str | int | Sequence[int] = 0,
    segments: str | Callable[..., Any] = "grid",
    baseline: str | Callable[..., Any] = "mean",
    score: str | Callable[..., Any] = "logit",
    options: LimeOptions = LimeOptions(),  # noqa: B008  (frozen)
    out: str | Path = "lime",
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
) -> LimeRecord:
    """Explain images by linear surrogates over their segments, and write lime.html and lime.json.

    Args:
        inputs: Model and data, as for `explain`; `n` is not used.
        index: Numbers of the samples, from 0: 3, [0, 3] or "0,3".
        segments: Name in `catalog.SEGMENTERS`, with options as in "grid:5" or "slic:80", or a segmenter.
        baseline: Values of hidden segments: a name in `catalog.BASELINES`, a number, or a function.
        score: Quantity that is explained: a name in `catalog.SCORES`, or a function of logits and labels.
        options: Options of all local surrogates.
        out: Folder for lime.html and lime.json.
        seed: Random seed.
        machine: The device.

    Returns:
        A `LimeRecord`.

    Raises:
        BadInput: options, model or data that cannot be used.
    """
    options.check()
    if options.link != "identity":
        raise BadOption("{link} is for texts and tables; for images give {score}")
    rows = numbers_of(index, "index")
    settings: dict[str, Any] = {
        "segments": made(catalog.SEGMENTERS, segments, "segments"),
        "baseline": made(catalog.BASELINES, _constant(baseline), "baseline"),
        "score": made(catalog.SCORES, score, "score"),
        "sampler": made(catalog.MASK_SAMPLERS, options.sampler or "paired", "sampler"),
    }
    inputs = replace(inputs, n=max(rows) + 1)
    inputs.check()
    folder, device = check_folder(out), machine.prepare(seed)
    loaded = inputs.load_unlabelled(device) or inputs.load(device, seed=seed)
    check_mode(loaded.model)
    check_numbers(rows, len(loaded.x), "index", "samples")
    x, y = loaded.x[rows], loaded.y[rows]
    with torch.no_grad():
        logits = read_logits(loaded.model, x, batch=BATCH)
    check_answered(logits)
    labels = classes_of(options, logits, loaded.classes, y.to(logits.device))
    settings |= {**options.given, "generator": torch.Generator().manual_seed(seed)}
    result = _of_images(loaded.model, x, labels, settings, options)
    result = replace(result, classes=tuple(loaded.classes))
    items = [f"sample {row}" for row in rows]
    about = {"model": inputs.model_name, "data": inputs.data_name, "warnings": list(loaded.warnings)}
    return _written(folder, result, options, items, about)


def lime_text(
    model: Model,
    text: str | Path | Sequence[str],
    *,
    text_options: TextOptions = TextOptions(),  # noqa: B008  (frozen)
    options: LimeOptions = LimeOptions(),  # noqa: B008  (frozen)
    labels: Labels = None,
    out: str | Path = "lime",
    limits: Limits | None = None,
    seed: int = 0,
) -> LimeRecord:
    """Explain a model's answer about a text by a linear surrogate of its words, and write lime.html and lime.json.

    Args:
        model: "file.py:name": a function from a list of texts to outputs (n, K), an object with `predict_proba` or
            `predict`, or a function that returns one; or the object itself.
        text: File, also compressed (.gz), "-" for standard input, or a list of texts.
        text_options: Options of splitting a text into pieces.
        options: Options of all local surrogates.
        labels: Names of the outputs: a file, or the names. None: the model's own `classes_`.
        out: Folder for lime.html and lime.json.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        seed: Random seed.

    Returns:
        A `LimeRecord`.

    Raises:
        BadInput: options, model or text that cannot be used.
    """
    options.check()
    text_options.made()
    check_choices(options, catalog.MASK_SAMPLERS, "balanced")
    folder, _ = check_folder(out), CPU.prepare(seed)
    with allowing(limits):
        texts = [read_text(text)] if isinstance(text, (str, Path)) else checked_texts(text)
    data = str(text) if isinstance(text, (str, Path)) else "texts"
    with opened(model) as predict:
        predict = predict.of_tokens() if text_options.hide == ATTENTION else predict
        source = Texts(predict, texts, data, text_options, options, labels, seed)
        at = range(len(texts))
        result = source.with_stability(source.explain(at), at)
    items = [source.name(i) for i in at]
    return _written(folder, result, options, items, {"model": predict.name, "data": data})


def lime_table(
    model: Model,
    train: str | Path,
    *,
    row: str | int | Sequence[int] = 0,
    table_options: TableOptions = TableOptions(),  # noqa: B008  (frozen)
    options: LimeOptions = LimeOptions(),  # noqa: B008  (frozen)
    labels: Labels = None,
    out: str | Path = "lime",
    limits: Limits | None = None,
    seed: int = 0,
) -> LimeRecord:
    """Explain a model's answers about rows of a table by linear surrogates, and write lime.html and lime.json.

    Args:
        model: "file.py:name": a function from a table to outputs (n, K), an object with `predict_proba` or `predict`,
            or a function that returns one; or the object itself. It gets an array, or a frame if it was fitted on one.
        train: Training table, a CSV file; bins, categories and hidden values come from it.
        row: Numbers of the rows, from 0: 3, [0, 3] or "0,3".
        table_options: Columns, and the file of the rows.
        options: Options of all local surrogates.
        labels: Names of the outputs: a file, or the names. None: the model's own `classes_`.
        out: Folder for lime.html and lime.json.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        seed: Random seed.

    Returns:
        A `LimeRecord`.

    Raises:
        BadInput: options, model or tables that cannot be used.
    """
    options.check()
    rows = numbers_of(row, "row")
    check_choices(options, catalog.TABLE_SAMPLERS, "bins")
    folder, _ = check_folder(out), CPU.prepare(seed)
    with opened(model) as predict:
        with allowing(limits):
            table = read_rows(train, table_options, frames=predict.frames, answers=answering(predict))
        source = TableRows(predict, table, options, labels, seed)
        check_numbers(rows, len(source), "row", "rows")
        result = source.with_stability(source.explain(rows), rows)
    about = {"model": predict.name, "data": source.data, "warnings": list(table.warnings)}
    return _written(folder, result, options, [source.name(k) for k in rows], about)


def lime_pick(
    model: Model,
    *,
    text: str | Path | Sequence[str] | None = None,
    train: str | Path | None = None,
    n: int = 100,
    budget: int = 5,
    cover: str | Callable[..., Any] = "any",
    inputs: TextOptions | TableOptions | None = None,
    options: LimeOptions = LimeOptions(),  # noqa: B008  (frozen)
    labels: Labels = None,
    out: str | Path = "lime",
    limits: Limits | None = None,
    seed: int = 0,
) -> LimeRecord:
    """Explain many texts or rows, pick a few that cover the features that matter, and write lime.html and lime.json.

    Args:
        model: As for `lime_text` and `lime_table`.
        text: File of texts, one per line or JSON lines with the field "text", "-", or a list of texts.
        train: Training table; give this or `text`.
        n: Number of inputs that are explained, drawn at random if there are more.
        budget: Number of explanations that are picked.
        cover: Coverage of a feature, a name in `catalog.COVERS`: "any": 1 where it occurs in an explanation that is
            picked; "soft": the largest weight that it has in one of these.
        inputs: Options of texts, or of tables.
        options: Options of all local surrogates.
        labels: Names of the outputs: a file, or the names. None: the model's own `classes_`.
        out: Folder for lime.html and lime.json.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        seed: Random seed.

    Returns:
        A `LimeRecord` of the explanations picked.

    Raises:
        BadInput: options, model or data that cannot be used.
    """
    options.check()
    at_least("n", n, 1)
    at_least("budget", budget, 1)
    coverage = made(catalog.COVERS, cover, "cover")
    if (text is None) == (train is None):
        raise BadOption("give {text} for texts or {train} for a table, one of them; images share no features")
    if isinstance(inputs, TextOptions):
        inputs.made()
    folder, _ = check_folder(out), CPU.prepare(seed)
    with opened(model) as predict:
        with allowing(limits):
            source = _source(predict, text, train, inputs, options, labels, seed)
        at, notes = _candidates(source, n, seed)
        result = source.explain(at.tolist())
        selection = native.submodular_pick(result, budget=budget, noise=result.se, coverage=coverage)
        index = [int(at[i]) for i in selection.index]
        best = source.with_stability(result[list(selection.index)], index)
    pick = Picked(
        index=index,
        gain=list(selection.gain),
        among=len(at),
        importance=_leading(result, selection.importance, MAX_IMPORTANCES),
        covered=selection.covered,
        by_chance=selection.by_chance,
    )
    about = {"model": predict.name, "data": source.data, "pick": pick, "warnings": notes}
    return _written(folder, best, options, [source.name(i) for i in index], about)


def _of_images(model: Any, x: Tensor, y: Tensor, settings: dict[str, Any], options: LimeOptions) -> Surrogates:
    """Return the explanations of images, with a prior and the soft stability where they are asked for."""
    with quiet():
        if options.prior is not None:
            settings["segments"] = segment(x, settings["segments"])
            plain = {name: value for name, value in settings.items() if name != "ridge"}
            settings["prior"] = of_explanation(
                options.prior,
                model,
                x,
                y,
                settings["segments"],
                lambda: native.lime_image(model, x, y, **plain).weights,
            )
        result = native.lime_image(model, x, y, **settings)
    if not options.stability:
        return result
    return native.with_stability(
        result, model, baseline=settings["baseline"], draws=options.stability, generator=settings["generator"]
    )


def _candidates(source: Source, n: int, seed: int) -> tuple[Any, list[str]]:
    """Return the numbers of at most n inputs that can be explained, drawn at random, and sentences on the others."""
    at, notes = np.array(source.usable()), list(source.warnings)
    if not len(at):
        raise BadInput(f"{source.data} has no row that can be explained: each lacks a number in a column of numbers")
    if len(at) < len(source):
        notes.append(f"{len(source) - len(at)} of {len(source)} rows cannot be explained, and are left out.")
    if len(at) > n:
        at = np.sort(np.random.default_rng(seed).permutation(at)[:n])
    return at, notes


def _source(
    predict: Predictor,
    text: str | Path | Sequence[str] | None,
    train: str | Path | None,
    inputs: TextOptions | TableOptions | None,
    options: LimeOptions,
    labels: Labels,
    seed: int,
) -> Source:
    """Open the texts or the table of a pick."""
    if text is None:
        assert train is not None
        check_choices(options, catalog.TABLE_SAMPLERS, "bins")
        table_options = inputs if isinstance(inputs, TableOptions) else TableOptions()
        rows = read_rows(train, table_options, frames=predict.frames, answers=answering(predict))
        return TableRows(predict, rows, options, labels, seed)
    check_choices(options, catalog.MASK_SAMPLERS, "balanced")
    texts = read_texts(text) if isinstance(text, (str, Path)) else checked_texts(text)
    data = str(text) if isinstance(text, (str, Path)) else "texts"
    text_options = inputs if isinstance(inputs, TextOptions) else TextOptions()
    predict = predict.of_tokens() if text_options.hide == ATTENTION else predict
    return Texts(predict, texts, data, text_options, options, labels, seed)


def _constant(baseline: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """Return a baseline; a number is the name of a constant one."""
    if not isinstance(baseline, str) or baseline.strip()[:1] not in tuple("0123456789.-+"):
        return baseline
    return f"constant:{number(baseline, '{baseline}')}"


def _leading(result: Surrogates, importance: dict[Any, float], most: int) -> dict[str, float]:
    """Return the importance of the leading features, by their names."""
    names: dict[Any, str] = {}
    keys = result.keys if result.keys is not None else result.names
    for row, own in zip(keys, result.names, strict=True):
        for key, name in zip(row, own, strict=True):
            names.setdefault(key, name)
    leading = sorted(importance.items(), key=lambda pair: -pair[1])[:most]
    return {names[key]: value for key, value in leading}


def _written(
    folder: Path, result: Surrogates, options: LimeOptions, items: Sequence[str], about: dict[str, Any]
) -> LimeRecord:
    """Write the page and the JSON; return the record."""
    record = LimeRecord(
        kind=result.kind.value,
        seed=result.seed,
        calls=result.calls.tolist(),
        explanations=explained(result, options.top, items),
        seconds=result.seconds,
        files=[str(folder / name) for name in ("lime.html", "lime.json")],
        **about,
    )
    pick, title, extra = record.pick, "", ""
    if pick is not None:
        word = "rows" if result.kind == native.Kind.TABLE else "texts"
        title = f"{len(items)} of {pick.among} {word} that cover what matters"
        extra = _importance_table(pick)
    extra += "".join(f"<p class=note>{escape(warning)}</p>" for warning in record.warnings)
    html = result.to_html(options.top, names=list(items), title=title, extra=extra)
    write(folder, result, html, record)
    return record


def _importance_table(pick: Picked) -> str:
    """Return the importance of the leading features as a table of the page."""
    rows = [("feature", "importance"), *((name, f"{value:.3g}") for name, value in pick.importance.items())][:11]
    lines = "".join(f"<tr><td>{escape(name[:60])}</td><td>{value}</td></tr>" for name, value in rows)
    note = f"<p class=note>{pick.sentence}</p>" if pick.sentence else ""
    return f"<section><h2>Features of all {pick.among}</h2><table>{lines}</table>{note}</section>"
