"""Hashes of stored content stay what they were: files of an earlier start are found by them."""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unfooled.runs.hashes import content_hash, tensors_hash


class Name(StrEnum):
    ONE = "one"


VALUES: dict[str, tuple[Any, str]] = {
    "text": ('a\u00e4\u2028"\\\n', '21 "a\\u00e4\\u2028\\"\\\\\\n"'),
    "whole": (-12, "3 -12"),
    "real": (0.1, "3 0.1"),
    "one": (1.0, "3 1.0"),
    "endless": (math.inf, "8 Infinity"),
    "none": (None, "4 null"),
    "true": (True, "4 true"),
    "enum": (Name.ONE, '5 "one"'),
    "numpy": (np.float64(0.5), "3 0.5"),
    "other": (1j, "2 1j"),
    "list": ([1, "a"], 'list of 2 1 13 "a"'),
    "mapping": ({"b": 1, "a": 2}, 'mapping of 2 3 "a"1 23 "b"1 1'),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_adds_its_bytes(name: str) -> None:
    value, text = VALUES[name]
    assert content_hash(value) == hashlib.sha256(text.encode()).hexdigest()


def test_kinds_differ() -> None:
    values: list[Any] = [1, 1.0, True, "1", [1], {1: 1}, None, "null", torch.ones(1), torch.ones(1, 1)]
    assert len({content_hash(value) for value in values}) == len(values)


def test_tensors_add_their_bytes() -> None:
    x: Tensor = torch.arange(3)
    assert content_hash(x) != tensors_hash(x)
    assert content_hash(x) == content_hash(x.clone())
    assert json.dumps(content_hash([x, x])) != json.dumps(content_hash([x]))
