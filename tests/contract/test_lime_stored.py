"""Stored explanations: a damaged field, or one of another version, is refused by its name."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251  (round trips of the own results)
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from unfooled import BadInput
from unfooled.explanations import TabularSpace, lime_image, lime_parts, lime_tabular, lime_text
from unfooled.explanations.lime import Surrogates, image_part, row_part, text_part, with_text_stability

TABLE = np.random.default_rng(0).normal(size=(30, 3)).round(2)
SPACE = TabularSpace.learn(TABLE, names=["a", "b", "c"])
IMAGE = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
FOUR = torch.arange(36).reshape(6, 6) // 9
KEPT: dict[str, Any] = {"keep_samples": True, "samples": 60, "ridge": 0.01}


def two(inputs: Any) -> list[list[float]]:
    return [[0.3, 0.7]] * len(inputs)


def image() -> Surrogates:
    return lime_image(
        lambda z: z.flatten(1)[:, :3], IMAGE, [[0, 1], [1, 2]], segments=FOUR, prior=torch.zeros(4), **KEPT
    )


def text() -> Surrogates:
    found = with_text_stability(lime_text(two, ["not so bad", "good"], **KEPT), two)
    return found.with_classes(["ham", "spam"])


def table() -> Surrogates:
    return lime_tabular(lambda rows: rows[:, 0], TABLE[:2], space=SPACE, **KEPT)


def parts() -> Surrogates:
    own: list[Any] = [
        text_part("a bad b"),
        row_part(SPACE, TABLE[0]),
        image_part(IMAGE[0], segments=torch.arange(36).reshape(6, 6) // 12),
    ]
    return lime_parts(lambda t, r, i: two(t), own, **KEPT)


KINDS = {"image": image, "text": text, "table": table, "parts": parts}
REPLACED: list[Any] = [
    None,
    "word",
    -1,
    7.5,
    True,
    [],
    [[]],
    [["x"]],
    {},
    {"tensor": "float64", "shape": [1], "values": [1.0]},
]

DRAWN = ("kind", "content", "segments", "spans", "cells", "stability", "names", "outputs", "seen", "classes", "flags")


def wrong(value: Any) -> Iterator[Any]:
    "A field in its damaged forms."
    yield from REPLACED
    if isinstance(value, dict):
        for key in value:
            yield {name: item for name, item in value.items() if name != key}
            for other in (None, "word", -1, [[1]], ["x"], 1e30):
                yield value | {key: other}
        yield value | {"values": value["values"][:-1]}
        yield value | {"values": [*value["values"], 0.0]}
        yield value | {"values": ["AAAA" for _ in value["values"]]}
        for dtype in ("int64", "float32", "bool", "complex64", "load", "nn"):
            yield value | {"tensor": dtype}
        yield value | {"shape": [*value["shape"], 1]}
        yield value | {"shape": value["shape"][::-1]}
        yield value | {"values": [9e9 for _ in value["values"]]}
        yield value | {"values": ["nan" for _ in value["values"]]}
    if isinstance(value, list):
        yield value[:-1]
        yield [*value, *value[:1]]
        for other in REPLACED:
            yield [other, *value[1:]]
        if value and isinstance(value[0], (list, dict)):
            for item in wrong(value[0]):
                yield [item, *value[1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_fields_are_refused_by_name(kind: str) -> None:
    found = KINDS[kind]()
    record = json.loads(found.to_json())
    read = Surrogates.from_json(json.dumps(record))
    assert read.to_html() == found.to_html()
    assert read.to_json() == found.to_json()
    refused = accepted = 0
    for name in [name for name in record if name != "version"]:
        damaged = [{key: value for key, value in record.items() if key != name}]
        damaged += [record | {name: item} for item in wrong(record[name])]
        for one in damaged:
            try:
                result = Surrogates.from_json(json.dumps(one))
            except BadInput as error:
                refused += 1
                assert "\n" not in str(error)
                assert "damaged" in str(error)
                if name not in ("names", "weights", "outputs", "content", "y", "masks"):  # others are judged by these
                    assert f"field {name!r}" in str(error), (name, str(one[name])[:80])
                continue
            accepted += 1
            if name in DRAWN:
                result.to_html()
            assert [own.as_list(top=1) for own in result]
            result.to_json()
    assert refused > 5 * accepted
    assert refused > 500


REQUIRED = ("weights", "se", "names", "y", "flags", "kind", "seconds", "seed", "content", "sampler", "calls", "ess")


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_and_empty_fields(name: str) -> None:
    record = json.loads(text().to_json())
    for one in ({k: v for k, v in record.items() if k != name}, record | {name: None}):
        with pytest.raises(BadInput, match=f"field '{name}' is missing"):
            Surrogates.from_json(json.dumps(one))
    state = text().__getstate__()
    del state[name]
    with pytest.raises(BadInput, match=f"field '{name}' is missing"):
        Surrogates.__new__(Surrogates).__setstate__(state)


@pytest.mark.parametrize("version", [None, 0, 2, "1", True, [1]])
def test_another_version(version: Any) -> None:
    record = json.loads(text().to_json()) | {"version": version}
    with pytest.raises(BadInput, match=r"has version .*; this release reads version 1"):
        Surrogates.from_json(json.dumps(record))
    state = text().__getstate__() | {"version": version}
    other: list[Any] = [state, None, [], "word"]
    for one in other:
        with pytest.raises(BadInput, match=r"has version .*; this release reads version 1"):
            Surrogates.__new__(Surrogates).__setstate__(one)


@pytest.mark.parametrize("words", ["", "{", "[" * 100_000, "3", "null", "[]", '"word"', b"\xff", None])
def test_what_is_no_record(words: Any) -> None:
    with pytest.raises(BadInput, match=r"this is no JSON|has version None"):
        Surrogates.from_json(words)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pickles(kind: str) -> None:
    found = KINDS[kind]()
    state = found.__getstate__()
    for name in ("weights", "names", "y", "flags", "content", "prediction"):
        for value in ("word", 3, (), torch.zeros(7), None):
            with pytest.raises(BadInput, match="damaged"):
                Surrogates.__new__(Surrogates).__setstate__(state | {name: value})
    old = copy.copy(state)
    for name in ("masks", "answers", "sd", "stability"):
        del old[name]
    again = Surrogates.__new__(Surrogates)
    again.__setstate__(old)
    assert again.masks is None
    assert pickle.loads(pickle.dumps(found)).to_html() == found.to_html()
