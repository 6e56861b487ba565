"""Sources of loaded models, and answers of the same model, loaded anew in another process.

python -m unfooled.models.origins FOLDER      loads the model of FOLDER/source.json, and answers FOLDER/x.safetensors
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at

P, T = ParamSpec("P"), TypeVar("T")
_ORIGINS: dict[int, tuple[weakref.ref[Any], Mapping[str, Any]]] = {}
BATCH = 100
"""Points answered at once."""


def remembering(load: Callable[P, T]) -> Callable[P, T]:
    """Let the models that a loader returns be known with its arguments, where their source is a name."""
    signature = inspect.signature(load)

    @functools.wraps(load)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        model = load(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        if isinstance(given.get("source"), (str, Path)):
            key = id(model)
            _ORIGINS[key] = (weakref.ref(model, lambda _: _ORIGINS.pop(key, None)), given)
        return model

    return run


def origin_of(model: Any) -> Mapping[str, Any] | None:
    """Return the arguments by which `load_model` loads the model again; None where it came from no name."""
    entry = _ORIGINS.get(id(model))
    return entry[1] if entry is not None and entry[0]() is model else None


def answers_anew(origin: Mapping[str, Any], x: Tensor) -> Tensor:
    """Return the logits of a model that another process loads, (B, K), and that was asked nothing before.

    Args:
        origin: Arguments of `load_model`.
        x: Inputs, (B, *D).

    Raises:
        BadInput: The other process fails.
    """
    from safetensors.torch import load_file, save_file

    plain = {name: str(value) if isinstance(value, (Path, torch.device)) else value for name, value in origin.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source.json").write_text(json.dumps(plain))
        save_file({"x": x.detach().cpu().contiguous()}, folder / "x.safetensors")
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, "-m", __name__, name], env={**os.environ, "PYTHONPATH": paths}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if not (folder / "logits.safetensors").exists():
            last = (done.stderr.strip().splitlines() or ["it ended without an answer"])[-1]
            raise BadInput(f"{plain['source']} could not be loaded in another process: {last}")
        return load_file(folder / "logits.safetensors")["logits"].to(x.device)


def main(folder: Path) -> None:
    """Load the model that a folder describes, and write its logits."""
    from safetensors.torch import load_file, save_file

    from unfooled.models.load import load_model

    torch.set_num_threads(1)
    given = json.loads((folder / "source.json").read_text())
    model, x = load_model(**given), load_file(folder / "x.safetensors")["x"]
    with torch.no_grad():
        logits = logits_at(model, x.to(given.get("device", "cpu")), batch=BATCH)
    save_file({"logits": logits.cpu().contiguous()}, folder / "logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
