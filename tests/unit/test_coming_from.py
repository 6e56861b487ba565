"""Our lines in the table for users of other libraries name functions that there are, and options that they take."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import unfooled as uf

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "uf." in line]
OURS = sorted({code for row in ROWS for code in re.findall(r"`(uf\.[^`]+)`", row)})


def resolved(node: ast.expr) -> Any:
    """The object that a dotted name stands for."""
    if isinstance(node, ast.Attribute):
        return getattr(resolved(node.value), node.attr)
    assert isinstance(node, ast.Name)
    assert node.id == "uf"
    return uf


@pytest.mark.parametrize("code", OURS)
def test_a_line_of_ours_can_be_called(code: str) -> None:
    node = ast.parse(code, mode="eval").body
    if not isinstance(node, ast.Call):
        assert callable(resolved(node))
        return
    keywords = {k.arg: None for k in node.keywords if k.arg}
    inspect.signature(resolved(node.func)).bind(*node.args, **keywords)


def test_there_are_such_lines() -> None:
    assert len(ROWS) >= 15
    assert len(OURS) >= 14
