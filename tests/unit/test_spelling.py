"""Text and JSON of values in records: what differs is spelled differently, in every process alike."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_net

from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.evaluation.audit import Plan
from unfooled.runs.chunks import Run
from unfooled.runs.hashes import model_hash
from unfooled.runs.spelling import as_json, spelled

twice = lambda x: 2 * x  # noqa: E731
thrice = lambda x: 3 * x  # noqa: E731


def power(k: Any) -> Callable[..., Any]:
    """Two functions of one name, which differ in what they capture."""

    def local(x: Any) -> Any:
        return x**k

    return local


def nested(k: Any) -> Callable[[Any], Any]:
    inner = power(k)
    return lambda x: inner(x)  # noqa: PLW0108


@dataclass(frozen=True)
class Scale:
    k: float

    def of(self, x: Any) -> Any:
        return x * self.k


PAIRS = {
    "methods": (Scale(1.0).of, Scale(2.0).of),
    "two lambdas": (twice, thrice),
    "defaults": (lambda x, k=1: x * k, lambda x, k=2: x * k),
    "keyword defaults": (lambda x, *, k=1: x * k, lambda x, *, k=2: x * k),
    "captured numbers": (power(1), power(2)),
    "captured tensors": (power(torch.ones(1)), power(torch.zeros(1))),
    "captured lists": (power([1]), power([2])),
    "captured networks": (power(tiny_net(3, (1, 4, 4), seed=0)), power(tiny_net(3, (1, 4, 4), seed=1))),
    "captured functions": (nested(1), nested(2)),
    "captured calls": (power(partial(twice, 1)), power(partial(twice, 2))),
    "bound": (partial(power(1), x=1), partial(power(2), x=1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_functions_that_differ_are_spelled_differently(name: str) -> None:
    one, two = PAIRS[name]
    assert spelled(one) != spelled(two)
    assert (spelled(one), spelled(two)) == (spelled(one), spelled(two))


def test_the_same_function_is_spelled_alike_wherever_it_is_made() -> None:
    assert spelled(power(3)) == spelled(power(3))
    assert spelled(nested(3)) == spelled(nested(3))
    assert spelled(twice).startswith("tests.unit.test_spelling.<lambda> ")
    assert spelled(torch.nn.functional.relu) == "relu"

    def again(x: Any, n: int) -> Any:
        return again(x, n - 1) if n else x

    assert spelled(again) == spelled(again)


def test_another_lambda_is_another_run(tmp_path: Path) -> None:
    Run(tmp_path, {"plan": Plan(certify=power(1)).record()})
    Run(tmp_path, {"plan": Plan(certify=power(1)).record()})
    with pytest.raises(BadInput, match=r"label_attack: certify was 'tests.unit.test_spelling.power.<locals>.local "):
        Run(tmp_path, {"plan": Plan(certify=power(2)).record()})


def test_hashes_are_those_of_every_process() -> None:
    """A set of names has another order in each."""
    code = (
        "from unfooled.runs.hashes import model_hash; from unfooled.runs.spelling import spelled; "
        "f = lambda x: x in {'a', 'b', 'c', 'd', 'e', 'f', 'g'}; print(spelled(f), model_hash(f))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"}, text=True, check=True,
            capture_output=True, cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
    assert model_hash(lambda x: x in {"a", "b"}) != model_hash(lambda x: x in {"a", "c"})


class Shade(Enum):
    DARK = "dark"


@dataclass(frozen=True)
class Pair:
    first: Any
    second: Any


def test_values_become_json() -> None:
    pair = Pair(Pair(1, -math.inf), [Shade.DARK, (None, True), {2: Linf(0.1)}])
    assert as_json(pair) == spelled(pair)
    assert as_json(pair, depth=1) == {
        "first": "Pair(first=1, second=-inf)", "second": ["dark", [None, True], {"2": spelled(Linf(0.1))}]
    }  # fmt: skip
    assert as_json(pair, depth=2)["first"] == {"first": 1, "second": "-inf"}
    assert as_json([math.nan, 0.5, "a"]) == ["nan", 0.5, "a"]
