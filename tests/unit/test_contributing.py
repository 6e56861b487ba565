"""The steps of CONTRIBUTING.md lead somewhere: each is followed, block by block, on a copy of the package."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("Add an attack", "Add an explanation", "Add a distance", "Add a training loss")
FENCE = re.compile(r"^( *)```\w*\n\1# (?P<file>[\w./]+\.py)(?:, in (?P<table>\w+))?\n(?P<text>.*?)^\1```$", re.M | re.S)
OWN = """
import torch
from unfooled.models import SmallCnn

def net():
    torch.manual_seed(0)
    return SmallCnn(width=4).eval()

def data():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 10
"""
"""A network and samples, as a user's own file."""


@dataclass(frozen=True)
class Block:
    """A step: the text of a new file, a line for an existing one, or a row for a table in it (or a list)."""

    file: str
    table: str | None
    text: str


def section(title: str) -> str:
    """The text of a section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def blocks(title: str) -> list[Block]:
    """The steps of a section, in their order."""
    return [
        Block(found["file"], found["table"], textwrap.dedent(found["text"])) for found in FENCE.finditer(section(title))
    ]


def apply(block: Block, root: Path) -> None:
    """Follow one step in a copy."""
    path = root / block.file
    if block.table is not None:
        opening = re.compile(rf"^{block.table}\b[^\n]*= [\[{{]\n", re.M)
        text, n = opening.subn(
            lambda found: found[0] + textwrap.indent(block.text, "    "), path.read_text(encoding="utf-8")
        )
        assert n == 1, f"{block.file} has no table {block.table}"
        path.write_text(text, encoding="utf-8")
    elif path.exists():
        imports = path.read_text(encoding="utf-8").partition("\n__all__")
        path.write_text(imports[0].rstrip() + "\n" + block.text + "\n" + imports[1] + imports[2], encoding="utf-8")
    else:
        path.write_text(block.text, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and the contract tests, with all toys added, and a network as a file."""
    root = tmp_path_factory.mktemp("contributing")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignore)
    shutil.copytree(ROOT / "tests", root / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    for title in SECTIONS:
        for block in blocks(title):
            apply(block, root)
    (root / "own.py").write_text(OWN)
    return root


def run(root: Path, command: str) -> str:
    """Run `python COMMAND` in the copy, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("title", SECTIONS)
def test_a_method_touches_five_files(title: str) -> None:
    steps = blocks(title)
    new = [block.file for block in steps if not (ROOT / block.file).exists()]
    assert len(new) == 1
    assert len(steps) == 4
    prose = re.sub(r"```.*?```", "", section(title), flags=re.S)
    numbered = re.findall(r"^\d\. ", prose, re.M)
    pages = re.findall(r"^4\. .*`(docs/methods/[\w-]+\.md)`", prose, re.M)
    assert len(numbered) == 5
    assert len(pages) == 1
    assert (ROOT / pages[0]).is_file()
    assert len({block.file for block in steps} | {pages[0], "CHANGELOG.md"}) == 5


def test_every_block_is_a_step_of_a_section() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    assert len(found) == sum(len(blocks(title)) for title in SECTIONS) == 16
    with pytest.raises(AssertionError, match="has no table NOTHING"):
        apply(Block("pyproject.toml", "NOTHING", "x"), ROOT)


def test_the_contracts_are_checked_as_soon_as_a_method_is_exported(copy: Path) -> None:
    files = ["test_attacks.py", "test_explanations.py", "test_distances.py", "test_training_losses.py"]
    tests = " ".join(f"tests/contract/{name}" for name in files)
    output = run(copy, f"-m pytest -p no:cacheprovider -v -k 'toy or Toy' {tests}")
    for name in ("toy-inf", "toy-0", "toy", "Toy-linf:0.05"):
        assert f"test_contract[{name}] PASSED" in output, output


def test_the_attack_runs_from_the_command_line(copy: Path) -> None:
    output = run(
        copy,
        "-m unfooled attack --model own.py:net --data own.py:data --threat linf:0.1 --attack toy --out toy.npz",
    )
    assert "robust accuracy" in output
    assert (copy / "toy.npz").is_file()


def test_the_explanation_runs_from_the_command_line(copy: Path) -> None:
    run(copy, "-m unfooled explain --model own.py:net --data own.py:data --n 4 --method toy")
    assert (copy / "explanations" / "maps.npz").is_file()


@pytest.mark.slow
def test_the_loss_trains_from_the_command_line(copy: Path) -> None:
    run(
        copy,
        "-m unfooled train --arch small-cnn --data own.py:data --loss toy --threat linf:0.1 --epochs 1 --watch 0 "
        "--out trained.pt",
    )
    assert (copy / "trained.pt").is_file()
