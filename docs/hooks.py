"""Completion of pages when the site is built, so that a new method needs no line there; used by mkdocs.yml."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLES = {"ATTACKS": "--attack", "EXPLANATIONS": "--method", "LOSSES": "--loss"}
"""Tables of the catalog, and the option that takes their names."""


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> str:
    """Return a page's text, completed; mkdocs calls this for every page."""
    return complete(page.file.src_uri, markdown)


def complete(uri: str, markdown: str) -> str:
    """Return a page's text with what it lacks.

    A reference page gets an entry for every module whose names its family exports, the page of the command line every
    name that the catalog knows.

    Args:
        uri: Path of the page below docs/.
        markdown: Its text.
    """
    folder, _, name = uri.removesuffix(".md").rpartition("/")
    if folder != "reference":
        return markdown
    if name == "command-line":
        return markdown + more_names(markdown)
    family = ROOT / "src" / "unfooled" / name / "__init__.py"
    listed = set(re.findall(r"^::: (\S+)$", markdown, re.MULTILINE))
    lines = [f"::: {module}\n" for module in exported_from(family) if module not in listed]
    return markdown + "".join(lines)


def exported_from(family: Path) -> list[str]:
    """Return the modules that a package's `__init__` imports names from, in order; none where there is no such file."""
    if not family.is_file():
        return []
    tree = ast.parse(family.read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return list(dict.fromkeys(module for module in modules if module.startswith("unfooled.")))


def more_names(markdown: str) -> str:
    """Return a paragraph of the catalog's names that a page lacks; empty where it has all."""
    (catalog,) = (ROOT / "src" / "unfooled").glob("*/catalog.py")
    tables = {}
    for node in ast.parse(catalog.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict):
            tables[node.targets[0].id] = [ast.literal_eval(key) for key in node.value.keys if key is not None]
    lines = []
    for table, option in TABLES.items():
        names = [f"`{name}`" for name in tables.get(table, []) if f"`{name}`" not in markdown]
        lines += [f"Also for `{option}`: {', '.join(names)}.\n"] if names else []
    return "\n" + "\n".join(lines) if lines else ""
