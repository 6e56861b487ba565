"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import unfooled
from unfooled.core.threats import L0, L1, L2, Box, Linf

ROOT = Path(unfooled.__file__).parent
MODULES = sorted(
    ".".join(["unfooled", *p.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for p in ROOT.rglob("*.py")
    if ">>>" in p.read_text(encoding="utf-8")
)
NAMES = {"torch": torch, "Box": Box, "Linf": Linf, "L2": L2, "L1": L1, "L0": L0}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctest.testmod(importlib.import_module(name), extraglobs=dict(NAMES), optionflags=FLAGS)
    assert found.attempted > 0, "an example outside a docstring is never run"
    assert found.failed == 0, capsys.readouterr().out


def test_there_are_examples() -> None:
    assert {"unfooled.attacks.pgd", "unfooled.attacks.apgd", "unfooled.core.model.wrappers"} <= set(MODULES)
