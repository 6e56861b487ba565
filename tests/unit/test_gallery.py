"""The gallery of the site: a page for each example, with what this version of it printed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_an_example_printed_is_that_of_its_present_text(path: Path) -> None:
    gallery: Any = module("gallery")
    assert gallery.stored(path) == gallery.content(path), "run `make gallery`"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_page_has_the_text_the_code_and_the_output(path: Path) -> None:
    page: str = module("hooks").example(path)
    shown = path.read_text(encoding="utf-8").partition('"""\n\n')[2].strip()
    assert page.startswith("# ")
    assert f"python examples/{path.name}" in page
    assert shown in page
    assert page.count("```") in (6, 8)  # command, output, script, and a table in the text
    output = (ROOT / "docs" / "gallery" / f"{path.stem}.txt").read_text(encoding="utf-8").splitlines()
    assert len(output) > 1
    assert "\n".join(output[1:]).strip() in page
    assert output[0] not in page


def test_every_example_is_listed_and_in_the_navigation() -> None:
    hooks: Any = module("hooks")
    listed = hooks.gallery()
    config = SimpleNamespace(nav=[{"Home": "index.md"}] * 6)
    (entry,) = [part["Gallery"] for part in hooks.on_config(config).nav if "Gallery" in part]
    pages = [next(iter(part.values())) for part in entry]
    assert pages == ["gallery/index.md", *(f"gallery/{path.stem}.md" for path in SCRIPTS)]
    assert all(f"]({path.stem}.md)" in listed for path in SCRIPTS)
