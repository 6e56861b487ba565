"""Rebuilt data sets on disk: an `.npz` with a JSON manifest beside it, or a folder of images.

    NAME.npz    x uint8 (round(255 x)), y, source, start int64, residual float16, classes
    NAME.json   how it was made, and the hash of what is in NAME.npz

    NAME/CLASS/ROW.png   NAME/rows.npz (all but x)   NAME/manifest.json

Both are read by `load_data` as any other archive or image folder; `load_features` reads what else is in them, and
refuses data that are not those of the manifest. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import BadInput
from unfooled.core.files import write_whole
from unfooled.core.hashes import tensors_hash, weights_hash
from unfooled.data.npz import archive

ROWS = {"y": torch.int64, "source": torch.int64, "start": torch.int64, "residual": torch.float16}


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """A data set made from another, sample by sample.

    Attributes:
        x: (N, *D) float32, multiples of 1/255, as they are stored.
        y: (N,) int64 labels.
        source: (N,) int64, the row of the source data that each was made from.
        start: (N,) int64, the row that the search began at; -1 noise, -2 grey.
        residual: (N,) float16, of x as stored: how far its features are from the source's, relative to their length;
            for D_rand and D_det the margin in logits over the target, negative where the target is predicted.
        classes: names in the order of the labels.
        manifest: how it was made.
    """

    x: Tensor
    y: Tensor
    source: Tensor
    start: Tensor
    residual: Tensor
    classes: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)


def to_bytes(x: Tensor) -> Tensor:
    """Values in [0, 1] as they are stored, uint8."""
    return (x * 255).round().to(torch.uint8)


def _hash(found: FeatureSet) -> str:
    return tensors_hash(to_bytes(found.x), *(getattr(found, name).to(kind) for name, kind in ROWS.items()))


def save_features(path: str | Path, found: FeatureSet, manifest: Mapping[str, Any] | None = None) -> FeatureSet:
    """Write a set: to `path` ending in .npz with a manifest beside it, else to the folder `path`, as images.

    Args:
        path: where to. What is there is replaced; a file that is read finds the old or the new one, whole.
        found: what to write.
        manifest: added to `found.manifest`; JSON values.

    Returns:
        The set as it is stored, with the manifest as it is written: `n`, `sha256` and what was given.

    Raises:
        BadInput: values outside [0, 1], samples that are no images (for a folder), a place that cannot be written.
    """
    path = Path(path)
    if len(found.x) and not (float(found.x.min()) >= 0 and float(found.x.max()) <= 1):
        raise BadInput(f"x lies in [{float(found.x.min()):.4g}, {float(found.x.max()):.4g}]; bytes hold [0, 1] alone")
    kept = replace(
        found,
        x=to_bytes(found.x).to(torch.float32) / 255,
        **{name: getattr(found, name).to(kind) for name, kind in ROWS.items()},
    )
    about = {**found.manifest, **(manifest or {}), "n": len(kept), "sha256": _hash(kept)}
    kept = replace(kept, manifest=json.loads(json.dumps(about)))
    rows = {name: getattr(kept, name).cpu().numpy() for name in ROWS}
    names = kept.classes or [str(k) for k in range(int(kept.y.max()) + 1 if len(kept) else 0)]
    rows["classes"] = np.array(names, dtype=np.str_)
    # The manifest last: with it the set is complete.
    if path.suffix == ".npz":
        write_whole(path, _archive({"x": to_bytes(kept.x).cpu().numpy(), **rows}))
    else:
        _images(path, kept, names)
        write_whole(path / "rows.npz", _archive(rows))
    write_whole(manifest_of(path), json.dumps(kept.manifest, indent=2).encode())
    return kept


def manifest_of(path: str | Path) -> Path:
    """Where the manifest of a set is."""
    path = Path(path)
    return path.with_suffix(".json") if path.suffix == ".npz" else path / "manifest.json"


def _archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _images(path: Path, found: FeatureSet, names: list[str]) -> None:
    """One folder a class, whose names stand in the order of the labels as text; one file a row."""
    from PIL import Image

    if found.x.ndim != 4 or found.x.shape[1] not in (1, 3):
        raise BadInput(f"samples have shape {tuple(found.x.shape[1:])}; images are (1, H, W) or (3, H, W), or use .npz")
    folders = [path / name for name in _folders(names)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.png"):
            stale.unlink()
    for i, (image, label) in enumerate(zip(to_bytes(found.x).cpu().numpy(), found.y.tolist(), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
        (folders[label] / f"{i:07}.png").write_bytes(buffer.getvalue())


def _folders(names: list[str]) -> list[str]:
    """Folder names that sort as the labels do: the names themselves where they do, else led by the label."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") or "class" for name in names]
    width = len(str(max(len(names) - 1, 0)))
    if plain == sorted(set(plain)):
        return plain
    return [f"{k:0{width}}" if name == str(k) else f"{k:0{width}}_{name}" for k, name in enumerate(plain)]


def load_features(path: str | Path, *, encoder: Any = None) -> FeatureSet:
    """Read a set that `save_features` wrote.

    Args:
        path: its `.npz`, or its folder.
        encoder: the model that the set should have been made with; its weights' hash must be the manifest's.

    Raises:
        BadInput: no such set, no manifest, data that are not the manifest's, or another encoder's.
    """
    path = Path(path)
    file = manifest_of(path)
    if not path.exists() or not file.is_file():
        what = "is not there" if not path.exists() else f"has no manifest, {file.name}"
        raise BadInput(f"{path} {what}; a set is written by save_features, or by unfooled features")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        stated = str(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read as a manifest: {error}") from error
    if encoder is not None and manifest.get("encoder") != weights_hash(encoder):
        raise BadInput(
            f"{path} was made with the encoder {str(manifest.get('encoder'))[:12]}, this one is "
            f"{weights_hash(encoder)[:12]}; give the model that made it, or rebuild the set"
        )
    with archive(path if path.suffix == ".npz" else path / "rows.npz") as held:
        wanted = [*ROWS, "classes", *(["x"] if path.suffix == ".npz" else [])]
        if missing := [name for name in wanted if name not in held.files]:
            raise BadInput(f"{path} lacks {', '.join(missing)}; it is no set of save_features")
        arrays = {name: held[name] for name in wanted}
    names = [str(name) for name in arrays.pop("classes")]
    x = torch.from_numpy(arrays.pop("x")) if "x" in arrays else _read_images(path, arrays["y"], names)
    rows = {name: torch.from_numpy(arrays[name]) for name in ROWS}
    found = FeatureSet(x.to(torch.float32) / 255, classes=names, manifest=manifest, **rows)
    if _hash(found) != stated:
        raise BadInput(
            f"{path} does not hold what {file.name} says (SHA-256 {stated[:12]}); rebuild it or copy it again"
        )
    return found


def _read_images(path: Path, y: np.ndarray, names: list[str]) -> Tensor:
    """The images of a folder by row, uint8."""
    from unfooled.data.folders import decode

    folders = _folders(names)
    files = [path / folders[label] / f"{i:07}.png" for i, label in enumerate(y.tolist())]
    return to_bytes(torch.from_numpy(decode(files, None, None)))
