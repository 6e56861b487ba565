"""Kinds of model, recognised by the form of a name; a missing file is refused without torch."""

from __future__ import annotations

from pathlib import Path

from unfooled.core.errors import missing_file
from unfooled.core.limits import regular

PICKLES, SKOPS = (".joblib", ".pkl", ".pickle"), ".skops"
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")
SUFFIXES = {
    **dict.fromkeys(CHECKPOINTS, "checkpoint"), ".pt2": "exported", ".onnx": "onnx", SKOPS: "estimator",
    **dict.fromkeys(PICKLES, "estimator"),
}  # fmt: skip
"""Suffix of a file -> kind of model."""
KNOWN = tuple(SUFFIXES)
KERAS = (".keras", ".h5", ".hdf5")
OF_KERAS = "name a function that loads it by Keras 3 with KERAS_BACKEND=torch, file.py:build"
KINDS = ("checkpoint", "exported", "onnx", "estimator", "hugging-face", "timm", "factory", "service")
"""Kinds of sources, which the form of a name suggests."""


def kind_of(source: str, path: Path, arch: str | None) -> str:
    """Return the kind of a source from the form of its name; empty where it has none."""
    suffix = path.suffix.lower()
    if source.startswith("timm:"):
        return "timm"
    if path.is_dir():
        return "hugging-face"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if path.is_file():
        return "checkpoint" if arch is not None and suffix != ".py" else ""
    return "factory" if ":" in source else ""


def check_there(source: str, kind: str | None = None) -> None:
    """Refuse the path of a model file that does not exist, as loading it would; other names are not looked at.

    Args:
        source: Path or name of a model.
        kind: Kind of the source, one of `KINDS`. None: by the name.

    Raises:
        BadInput: There is no such file.
    """
    path = Path(source)
    of_file = kind in (None, *SUFFIXES.values()) and path.suffix.lower() in SUFFIXES and "://" not in source
    if of_file and not regular(path).exists():
        raise missing_file(path, KNOWN)
