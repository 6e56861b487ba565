"""Imports go down the numbers of the design only, and the light doors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unfooled
from unfooled.core import threats

ROOT = Path(unfooled.__file__).parent
LEVELS = [
    ("core",),
    ("distances", "explanations", "data", "models"),
    ("attacks",),
    ("training", "purification", "features", "counterfactuals"),
    ("evaluation",),
    ("studies", "report", "compat"),
    ("cli",),
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FORBIDDEN = {"torchvision", "pickle", "cPickle", "dill", "cloudpickle"}


def imports(source: str, inside: str) -> set[str]:
    """Dotted names that a module imports, anywhere in it; `inside` is its package, for relative imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = inside.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def faults(source: str, inside: str) -> list[str]:
    """Imports that go up, sideways, or where none may go."""
    bad, own = [], inside.split(".")[1]
    for name in imports(source, inside):
        first, *rest = name.split(".")
        if first in FORBIDDEN:
            bad.append(name)
        if first != "unfooled" or not rest or rest[0] in (own, "__version__"):
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


@pytest.mark.parametrize("name", sorted(unfooled._NAMES))
def test_every_flat_name_exists(name: str) -> None:
    value = getattr(unfooled, name)
    assert getattr(value, "__name__", None) == name or getattr(value, "name", "").upper() == name
