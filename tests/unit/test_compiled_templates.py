"""Templates are compiled once, and anew where anything that their code depends on has changed."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest
from jinja2 import Environment
from jinja2.bccache import bc_magic

from unfooled.report import compiled
from unfooled.report.compiled import CompiledTemplates
from unfooled.report.frame import TEMPLATES, environment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for compiled files, which may be written."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    environment.cache_clear()
    return tmp_path / "cache"


def compiled_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Load every template by a new engine, and return the names of those that it compiles."""
    names: list[str] = []
    original = Environment.compile

    def noted(self: Environment, source: str, name: str, *args: object, **kwargs: object) -> object:
        names.append(name)
        return original(self, source, name, *args, **kwargs)  # type: ignore[call-overload]

    environment.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "compile", noted)
        for path in TEMPLATES.glob("*.j2"):
            environment().get_template(path.name)
    environment.cache_clear()
    return names


def test_a_second_start_compiles_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled_names(monkeypatch)
    assert len(first) == len(list(TEMPLATES.glob("*.j2"))) == len(list(folder.rglob("template-*.cache")))
    assert compiled_names(monkeypatch) == []


def test_another_engine_compiles_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled_names(monkeypatch)
    monkeypatch.setattr(jinja2, "__version__", "0")
    assert sorted(compiled_names(monkeypatch)) == sorted(first)
    monkeypatch.undo()


@pytest.mark.parametrize("length", [0, 3, len(bc_magic), len(bc_magic) + 9, -9])
def test_damaged_files_are_compiled_anew(length: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled_names(monkeypatch)
    for path in folder.rglob("template-*.cache"):
        path.write_bytes(path.read_bytes()[:length])
    assert sorted(compiled_names(monkeypatch)) == sorted(first)


def test_nothing_is_written_where_that_is_unwanted_or_impossible(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = compiled_names(monkeypatch)
    assert sorted(compiled_names(monkeypatch)) == sorted(first)
    assert not folder.exists()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder.write_text("a file in the place of the folder")
    assert sorted(compiled_names(monkeypatch)) == sorted(first)


def test_the_folder_is_that_of_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", None)
    assert Path(CompiledTemplates(compiled.__file__).directory) == Path(compiled.__file__).parent / "__pycache__"
