"""Completion of pages when the site is built, so that a new method or example needs no line there; used by mkdocs.yml.

The gallery has a page for each script in examples/: its text, its code, and what it printed when `make gallery` ran it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLES = {"ATTACKS": "--attack", "EXPLANATIONS": "--method", "LOSSES": "--loss"}
"""Tables of the catalog, and the option that takes their names."""


EXAMPLES, PRINTED = ROOT / "examples", ROOT / "docs" / "gallery"


def on_config(config: Any) -> Any:
    """Add the gallery to the navigation; mkdocs calls this first."""
    pages = [{"Gallery": "gallery/index.md"}, *({title(path): f"gallery/{path.stem}.md"} for path in examples())]
    config.nav.insert(5, {"Gallery": pages})
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages of the gallery, which are no files; mkdocs calls this when it has listed the others."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "gallery/index.md", content=gallery()))
    for path in examples():
        files.append(File.generated(config, f"gallery/{path.stem}.md", content=example(path)))
    return files


def examples() -> list[Path]:
    """Return the scripts of the gallery, by name."""
    return sorted(EXAMPLES.glob("*.py"))


def title(path: Path) -> str:
    """Return the name of a script as words."""
    return path.stem.replace("_", " ").capitalize().replace("Lime", "LIME")


def text_of(path: Path) -> str:
    """Return the docstring of a script."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def gallery() -> str:
    """Return the list of all scripts."""
    rows = [f"- [{title(path)}]({path.stem}.md): {text_of(path).splitlines()[0]}" for path in examples()]
    return "# Gallery\n\nScripts that run as they stand, with what they print.\n\n" + "\n".join(rows) + "\n"


def example(path: Path) -> str:
    """Return the page of a script: its text, its code, and what it printed."""
    text, code = text_of(path), path.read_text(encoding="utf-8")
    shown = code.partition('"""\n\n')[2]
    paragraphs = [part for part in text.split("\n\n") if not part.startswith("python examples/")]
    words = [f"```text\n{part.rstrip()}\n```" if part.startswith(" ") else part for part in paragraphs]
    command = f"```sh\npython examples/{path.name}\n```"
    parts = [f"# {title(path)}", "\n\n".join(words).strip(), command]
    printed = PRINTED / f"{path.stem}.txt"
    if printed.is_file():
        parts.append(f"It prints\n\n```text\n{printed.read_text(encoding='utf-8').partition(chr(10))[2].strip()}\n```")
    parts.append(f"## The script\n\n```python\n{shown.strip()}\n```")
    return "\n\n".join(parts) + "\n"


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
