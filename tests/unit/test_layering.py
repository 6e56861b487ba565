"""Imports go down the numbers of the design only, and the light doors stay light."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import unfooled
from unfooled.core import threats
from unfooled.evaluation.checks.table import CHECKS, CheckId
from unfooled.evaluation.explanations.records import How
from unfooled.evaluation.explanations.survival import Derivative
from unfooled.report.trust import Tone

ROOT = Path(unfooled.__file__).parent
LEVELS = [
    ("core",),
    ("runs", "statistics", "drawing"),
    ("distances", "explanations", "data", "models"),
    ("attacks",),
    ("training", "purification", "features", "counterfactuals", "certification"),
    ("evaluation",),
    ("studies", "report", "compat", "testing"),
    ("workflows",),
    ("cli",),
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FORBIDDEN = {"torchvision", "pickle", "cPickle", "dill", "cloudpickle"}


@cache
def imports(source: str, inside: str, *, for_types: bool = True) -> frozenset[str]:
    """Dotted names that a module imports, anywhere in it, under TYPE_CHECKING too if asked; `inside`: its package."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and not for_types and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = inside.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def faults(source: str, inside: str) -> list[str]:
    """Imports that go up, sideways, or where none may go."""
    bad, own = [], inside.split(".")[1]
    for name in imports(source, inside):
        first, *rest = name.split(".")
        if first in FORBIDDEN:
            bad.append(name)
        if first != "unfooled" or not rest or rest[0] in (own, "__version__", "_version"):
            continue
        package = unfooled._NAMES.get(rest[0], rest[0]).split(".")[0]
        if package not in LEVEL or LEVEL[package] >= LEVEL[own]:
            bad.append(name)
    return sorted(bad)


FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py") if len(p.relative_to(ROOT).parts) > 1)


def test_imports_go_down_the_levels() -> None:
    assert {p.parts[0] for p in FILES} <= set(LEVEL), "a new package needs a level"
    inside = {p: ".".join(["unfooled", *p.parts[:-1]]) for p in FILES}
    found = {str(p): faults((ROOT / p).read_text(encoding="utf-8"), inside[p]) for p in FILES}
    assert {p: bad for p, bad in found.items() if bad} == {}
    assert len(FILES) > 10


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("from unfooled.core.rng import mix", []),
        ("from unfooled.attacks.fgsm import fgsm", []),
        ("import unfooled", []),
        ("from unfooled import __version__", []),
        ("from unfooled._version import __version__", []),
        ("from . import fgsm", []),
        ("from unfooled.core.threats import Linf", []),
        ("from unfooled import Linf", []),
        ("from unfooled.evaluation.verify import verify", ["unfooled.evaluation.verify.verify"]),
        ("def f():\n    from unfooled import verify", ["unfooled.verify"]),
        ("from ..training import madry", ["unfooled.training.madry"]),
        ("import unfooled.cli.app as app", ["unfooled.cli.app"]),
        ("from unfooled.nowhere import x", ["unfooled.nowhere.x"]),
        ("def f():\n    import torchvision.models", ["torchvision.models"]),
        ("from pickle import loads", ["pickle.loads"]),
    ],
)
def test_the_rule_itself(line: str, bad: list[str]) -> None:
    assert faults(line, "unfooled.attacks") == bad


def files_imported(source: str, inside: str, files: set[str]) -> set[str]:
    """Modules of the package that a module imports, anywhere in it but under TYPE_CHECKING; each is a file."""

    def file_of(name: str) -> str:
        parts = name.split(".")
        return next((stem for k in range(len(parts), 0, -1) if (stem := ".".join(parts[:k])) in files), "")

    return {file_of(name) for name in imports(source, inside, for_types=False)} - {""}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of modules, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, set())):
            if found := visit(other, [*path, node]):
                return found
        done.add(node)
        return []

    for node in sorted(graph):
        if found := visit(node, []):
            return found
    return []


def module_graph(root: Path) -> dict[str, set[str]]:
    """Return the files that each file imports."""
    sources = {}
    for path in root.rglob("*.py"):
        parts = ("unfooled", *path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
        sources[name] = (inside, path.read_text(encoding="utf-8"))
    files = set(sources)
    graph = {name: files_imported(source, inside, files) - {name} for name, (inside, source) in sources.items()}
    # The package's own `__init__` is lazy: it imports nothing but the version.
    return {name: used - {"unfooled"} for name, used in graph.items()}


def test_no_file_is_part_of_a_circle() -> None:
    graph = module_graph(ROOT)
    assert len(graph) > 200
    assert circle(graph) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "unfooled"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    planted = copy / "core" / "rng.py"
    planted.write_text(planted.read_text() + "\n\ndef late():\n    from unfooled.core import shapes\n")
    shapes = copy / "core" / "shapes.py"
    shapes.write_text(shapes.read_text() + "\nfrom unfooled.core.threats import Linf\n")
    found = circle(module_graph(copy))
    assert found[0] == found[-1]
    assert "unfooled.core.shapes" in found


def test_siblings_do_not_know_each_other() -> None:
    assert faults("from unfooled.data import load", "unfooled.models") == ["unfooled.data.load"]
    assert faults("from unfooled.distances import norms", "unfooled.explanations.lime") != []
    assert faults("from ..cams import grad_cam", "unfooled.explanations.lime") == []


LIGHT = ["unfooled", "unfooled.cli"] + (["unfooled.cli.app"] if (ROOT / "cli" / "app.py").exists() else [])


@pytest.mark.parametrize("module", LIGHT)
def test_light_doors_do_not_load_torch(module: str) -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'lightning_fabric'}"
    code = f"import {module}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_flat_names_are_the_modules_own() -> None:
    assert unfooled.Linf is threats.Linf
    assert unfooled.core.threats is threats
    assert {"Linf", "attacks", "__version__"} <= set(dir(unfooled))
    with pytest.raises(AttributeError, match=r"module 'unfooled' has no attribute 'nothing'"):
        _ = unfooled.nothing


def test_a_name_wins_against_the_module_of_that_name() -> None:
    """Whichever of them is imported first."""
    lines = (
        "import unfooled.evaluation.verify, unfooled.evaluation.audit.audit",
        "import unfooled as uf",
        "assert callable(uf.evaluation.verify) and callable(uf.verify) and uf.evaluation.verify is uf.verify",
        "assert callable(uf.audit) and uf.audit is uf.evaluation.audit.audit",
        "from unfooled.evaluation import verify",
        "from unfooled.evaluation.audit import audit",
        "assert verify is uf.verify and audit is uf.audit",
    )
    for order in (lines, (*lines[1:], lines[0], *lines[2:])):
        done = subprocess.run([sys.executable, "-c", "\n".join(order)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(unfooled._NAMES))
def test_every_flat_name_exists(name: str) -> None:
    value = getattr(unfooled, name)
    assert getattr(value, "__name__", None) == name or getattr(value, "name", "").upper() == name


def decisions_by_text(source: str) -> list[int]:
    """Lines that ask for a certain check, or a certain tone of a figure, by text instead of by its enum."""
    lines = []
    for node in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.expr)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fired":
            parts = node.args[1:]
        words = [item for part in parts for item in (part.elts if isinstance(part, (ast.Tuple, ast.Set)) else [part])]
        texts = {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}
        if any(text in CHECKS or text in (*How, *Derivative, *filter(None, Tone)) for text in texts):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("package", ["evaluation", "report"])
def test_no_decision_depends_on_a_text(package: str) -> None:
    assert decisions_by_text('f.id == "D4"; fired(found, "D9"); x in ("void", 1); y == "best of N"') == [1, 1, 1, 1]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := decisions_by_text(file.read_text()))} == {}


def test_every_check_has_an_id_by_name() -> None:
    assert list(CHECKS) == list(CheckId)
