"""Functions have few parameters; those with more are listed, and their keywords are those that users were promised."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import unfooled
from unfooled.explanations import lime_image, lime_map

ROOT = Path(unfooled.__file__).parent
MOST = 12
LONG = {"audit", "lime_image", "lime_map", "lime_parts", "lime_tabular", "lime_text"}
"""Functions with more parameters: `uf.audit`, and the explanations of LIME; each keyword means one thing."""


def test_functions_have_at_most_twelve_parameters() -> None:
    found = set()
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("cli", "compat"):  # options of commands; signatures of others
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                a = node.args
                names = [one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs) if one.arg not in ("self", "cls")]
                found |= {node.name} if len(names) > MOST else set()
    assert found == LONG


def test_lime_has_its_keywords() -> None:
    names = list(inspect.signature(lime_image).parameters)
    assert names == [
        "model", "x", "y", "segments", "sampler", "samples", "kernel", "baseline", "score", "ridge", "prior", "until",
        "independent", "keep_samples", "batch", "generator",
    ]  # fmt: skip
    own = list(inspect.signature(lime_map).parameters)
    assert own[:4] == ["model", "x", "y", "segments"]
    assert own[-1] == "create_graph"
