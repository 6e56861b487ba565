"""Logits of a model that another process loads again, so that it has answered no query before.

python -m unfooled.models.anew FOLDER      loads the model of FOLDER/source.json, and answers FOLDER/x.safetensors
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.models.load import load_model

POINTS_AT_ONCE = 100
"""Points answered at once."""


def answers_anew(origin: Mapping[str, Any], x: Tensor) -> Tensor:
    """Return the logits, (B, K), of a model that another process loads, and that has answered no query before.

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

    torch.set_num_threads(1)
    given = json.loads((folder / "source.json").read_text())
    model, x = load_model(**given), load_file(folder / "x.safetensors")["x"]
    with torch.no_grad():
        logits = logits_at(model, x.to(given.get("device", "cpu")), batch=POINTS_AT_ONCE)
    save_file({"logits": logits.cpu().contiguous()}, folder / "logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
