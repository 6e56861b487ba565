"""Runs are not continued with other code: files that a user's code imports or reads, and the model's answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.core.used_files import CODE, FILE
from unfooled.evaluation.checks.subject import inspect_model
from unfooled.features.making import identity
from unfooled.runs.answers import answers_differ, answers_text
from unfooled.runs.chunks import Run
from unfooled.runs.hashes import code_hashes
from unfooled.runs.records import Config
from unfooled.runs.settings import ANSWERS, PRINTS, difference, parse
from unfooled.workflows.guarding import guarded_by
from unfooled.workflows.purified_losses import through

NET = """
import torch
from torch import nn
{imports}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        {lazy}
        return self.linear(x.flatten(1)) * {factor}

def make():
    {loading}
    return Net()
"""


def write(folder: Path, imports: str = "", lazy: str = "pass", factor: str = "1.0", loading: str = "pass") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET.format(imports=imports, lazy=lazy, factor=factor, loading=loading))
    return f"{folder / 'net.py'}:make"


def prints(source: str) -> dict[str, str]:
    """Return the hashes of the used files in another process, which has imported none of them."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        sys.path.insert(0, str(Path(source).parent))  # what is imported in a call needs it
        text = "{}"
        try:
            model = uf.load_model(source)
            model(torch.zeros(1, 1, 8, 8))
            text = json.dumps(code_hashes(model))
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    return dict(found)


DEPENDENCIES: dict[str, tuple[dict[str, str], str]] = {
    "constant": ({"imports": "from helper import FACTOR", "factor": "FACTOR"}, "helper.py"),
    "module": ({"imports": "import helper", "factor": "helper.FACTOR"}, "helper.py"),
    "package": ({"imports": "from pack.inner import FACTOR", "factor": "FACTOR"}, "pack/inner.py"),
    "relative": ({"imports": "import pack", "factor": "pack.FACTOR"}, "pack/inner.py"),
    "in a function": ({"lazy": "import helper", "factor": "helper.FACTOR"}, "helper.py"),
    "at another time": ({"lazy": "if x.sum() < -1: import helper"}, "helper.py"),
    "importlib": (
        {"lazy": "import importlib; helper = importlib.import_module('hel' + 'per')", "factor": "helper.FACTOR"},
        "helper.py",
    ),
    "path": (
        {
            "imports": "import sys, os.path\nsys.path.insert(0, os.path.dirname(__file__) + '/lib')\nimport far",
            "factor": "far.FACTOR",
        },
        "lib/far.py",
    ),
    "json": (
        {
            "imports": "import json, pathlib",
            "loading": "global F; F = json.loads((pathlib.Path(__file__).parent / 'c.json').read_text())",
            "factor": "F",
        },
        "c.json",
    ),
    "executed": ({"imports": "exec(open(__file__[:-6] + 'helper.py').read())", "factor": "FACTOR"}, "helper.py"),
}


def project(folder: Path, how: str) -> tuple[str, Path]:
    """Write a model that depends on another file, and return its source and that file."""
    for name in ("helper.py", "pack/inner.py", "lib/far.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("FACTOR = 2.0  # of the logits\n")
    (folder / "pack/__init__.py").write_text("from .inner import FACTOR\n")
    (folder / "c.json").write_text("2.0")
    texts, file = DEPENDENCIES[how]
    return write(folder, **texts), folder / file


@pytest.mark.parametrize("how", DEPENDENCIES)
def test_files_that_a_model_uses_are_hashed(how: str, tmp_path: Path) -> None:
    source, file = project(tmp_path / "one", how)
    other, _ = project(tmp_path / "two", how)
    before = prints(source)
    name = file.relative_to(tmp_path / "one").as_posix()
    assert {CODE + "net.py", (FILE if name.endswith("json") else CODE) + name} <= set(before)
    assert prints(other) == before  # wherever it lies
    file.write_text(file.read_text().replace("2.0", "3.0"))
    now = prints(source)
    changed = difference({"fingerprint": before}, {"fingerprint": now})
    assert name in changed
    assert "net.py" not in changed
    assert "has changed" in changed


def test_comments_and_installed_packages_are_no_change(tmp_path: Path) -> None:
    source, file = project(tmp_path, "module")
    before = prints(source)
    assert set(before) == {CODE + "net.py", CODE + "helper.py"}
    file.write_text('"""Factors."""\n\nFACTOR = 2.0\n')
    assert prints(source) == before


def test_a_second_load_in_one_process_has_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source, _ = project(tmp_path, "importlib")
    one, two = uf.load_model(source), uf.load_model(source)
    for model in (one, two):
        model(torch.zeros(1, 1, 8, 8))
    assert code_hashes(one) == code_hashes(two)
    assert CODE + "helper.py" in code_hashes(one)
    del sys.modules["helper"]


def test_a_cache_that_the_first_start_wrote_is_no_change() -> None:
    before, now = {"code: net.py": "1"}, {"code: net.py": "1", "file: cache.npz": "2"}
    assert difference({"fingerprint": before}, {"fingerprint": now}) == ""
    assert "cache.npz" in difference({"fingerprint": now}, {"fingerprint": before})
    assert "cache.npz" in difference({"fingerprint": now}, {"fingerprint": {**now, "file: cache.npz": "3"}})
    moved = {**before, "file: elsewhere.npz": "2"}
    assert difference({"fingerprint": now}, {"fingerprint": moved}) == ""


def samples() -> tuple[Tensor, Tensor]:
    x, y = uf.load_data("digits", n=16)
    return x, y


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.scale = nn.Linear(64, 10), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) * torch.linspace(1, self.scale, 10)


def begin(model: Callable[[Tensor], Tensor], folder: Path) -> list[str]:
    """Start an audit up to its first chunk, and return the files that could not be used."""
    x, y = samples()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uf.audit(model, x, y, Linf(0.05), out=folder, progress=stop)
    config = Config.model_validate(parse((folder / "config.json").read_bytes())[1])
    stage = Run(folder, config)
    stage.map("test", lambda rows: {"rows": rows}, len(x))
    return list(stage.folder.damaged)


def test_a_model_that_answers_otherwise_is_not_continued(tmp_path: Path) -> None:
    begin(Scaled(1.0).eval(), tmp_path)  # the factor is in no weight, no layer's text and no code
    assert begin(Scaled(1.0).eval(), tmp_path) == []
    x, y = samples()
    with pytest.raises(BadInput, match="answers otherwise"):
        uf.audit(Scaled(1.5).eval(), x, y, Linf(0.05), out=tmp_path)
    (tmp_path / "config.json").unlink()
    assert "chunks/test/" in begin(Scaled(1.5).eval(), tmp_path)[0]  # which is computed again


class Noisy(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn(len(x), 10)


class OwnNoise(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
        return super().forward(x) + 0.1 * torch.randn(len(x), 10, generator=generator)


@pytest.mark.parametrize("kind", [Noisy, OwnNoise])
def test_a_random_model_is_continued(kind: type[Scaled], tmp_path: Path) -> None:
    x, y = samples()
    assert ANSWERS not in inspect_model(kind(1.0).eval(), x, y).fingerprint
    for seed in range(2):
        torch.manual_seed(seed)
        assert begin(kind(1.0).eval(), tmp_path) == []


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_rounding_is_no_other_answer(noise: float, size: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(16, 10) * size
    model = Scaled(1.0)
    before = answers_text(model, logits)
    assert not answers_differ(before, answers_text(model, logits + noise * size * torch.randn(16, 10)))
    assert not answers_differ(before, answers_text(model, torch.cat([logits[:1] + size * torch.randn(10), logits[1:]])))
    for other in (logits * 1.01, logits + size * torch.randn(16, 10), logits.flip(1), 2 * logits, logits[:8]):
        assert answers_differ(before, answers_text(model, other))
    assert answers_text(model, logits / 0) == ""
    assert not answers_differ(before, answers_text(model, (logits * 1.005).half()))


def test_a_purifier_of_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / "strength.py").write_text("BITS = 8\n")
    (tmp_path / "clean.py").write_text(
        "from strength import BITS\ndef squeeze(x):\n    return (x * (2**BITS - 1)).round() / (2**BITS - 1)\n"
    )
    x, _ = samples()
    try:
        guarded = guarded_by(Scaled(1.0).eval(), f"{tmp_path}/clean.py:squeeze", x)
        assert set(code_hashes(guarded)) == {CODE + "clean.py", CODE + "strength.py"}
        loss = through(torch.nn.functional.cross_entropy, f"{tmp_path}/clean.py:squeeze")  # type: ignore[arg-type]
        assert str(code_hashes(loss.behind.purify)) == str(code_hashes(guarded))  # type: ignore[attr-defined]
    finally:
        sys.modules.pop("strength", None)


def test_rebuilt_sets_store_the_code_of_their_network(tmp_path: Path) -> None:
    source, _ = project(tmp_path, "constant")
    try:
        x, y = samples()
        stored = identity("robust", uf.load_model(source), x, y, torch.arange(2), 0)
        assert set(stored[PRINTS]) == {CODE + "net.py", CODE + "helper.py"}
        assert PRINTS not in identity("robust", Scaled(1.0), x, y, torch.arange(2), 0)
    finally:
        sys.modules.pop("helper", None)
