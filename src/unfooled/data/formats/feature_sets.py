"""Rebuilt data sets on disk: an `.npz` with a JSON manifest beside it, or a folder of images.

    NAME.npz    x uint8 (round(255 x)), y, source, start int64, residual float16, classes
    NAME.json   how it was made, and the hashes of what is in NAME.npz and of itself

    NAME/CLASS/ROW.png   NAME/rows.npz (all but x)   NAME/manifest.json

Both are read by `load_data` as any other archive or image folder; `load_features` reads what else is in them, and
refuses data that are not those of the manifest. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.data.formats.folders import SUFFIXES, decode
from unfooled.data.formats.npz import archive
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import network_hash, tensors_hash

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
    """Of samples, rows and class names."""
    rows = tensors_hash(to_bytes(found.x), *(getattr(found, name).to(kind) for name, kind in ROWS.items()))
    return hashlib.sha256(json.dumps([rows, found.classes]).encode()).hexdigest()


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Of all that a manifest says beside this hash."""
    said = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def save_features(path: str | Path, found: FeatureSet, manifest: Mapping[str, Any] | None = None) -> FeatureSet:
    """Write a set: to `path` ending in .npz with a manifest beside it, else to the folder `path`, as images.

    Args:
        path: where to. A set that is there is replaced, its images and folders with it; between the two there is none,
            as `stored` says. What others put there stays.
        found: what to write.
        manifest: added to `found.manifest`; JSON values.

    Returns:
        The set as it is stored, with the manifest as it is written: `n`, `sha256` (of samples, rows and class names),
        `manifest_sha256` (of the rest of the manifest) and what was given.

    Raises:
        BadInput: values outside [0, 1], samples that are no images (for a folder), a place that cannot be written, or
            where something lies that is no set.
    """
    path = Path(path)
    check_place(path)
    if len(found.x) and not (float(found.x.min()) >= 0 and float(found.x.max()) <= 1):
        raise BadInput(f"x lies in [{float(found.x.min()):.4g}, {float(found.x.max()):.4g}]; bytes hold [0, 1] alone")
    if path.suffix != ".npz" and (found.x.ndim != 4 or found.x.shape[1] not in (1, 3)):
        raise BadInput(f"samples have shape {tuple(found.x.shape[1:])}; images are (1, H, W) or (3, H, W), or use .npz")
    kept = replace(
        found,
        classes=found.classes or [str(k) for k in range(int(found.y.max()) + 1 if len(found) else 0)],
        x=to_bytes(found.x).to(torch.float32) / 255,
        **{name: getattr(found, name).to(kind) for name, kind in ROWS.items()},
    )
    about = {**found.manifest, **(manifest or {}), "n": len(kept), "sha256": _hash(kept)}
    about = json.loads(json.dumps(about))
    kept = replace(kept, manifest={**about, "manifest_sha256": _manifest_hash(about)})
    rows = {name: getattr(kept, name).cpu().numpy() for name in ROWS}
    rows["classes"] = np.array(kept.classes, dtype=np.str_)
    # The manifest goes first and comes last: with it the set is complete.
    with suppress(OSError):  # none there; a place that cannot be written is told below
        manifest_of(path).unlink()
    if path.suffix == ".npz":
        write_whole(path, _archive({"x": to_bytes(kept.x).cpu().numpy(), **rows}))
    else:
        _clear(path)
        write_whole(path / "rows.npz", _archive(rows))  # before the images: whose they are, should there be a kill
        _images(path, kept)
    write_whole(manifest_of(path), json.dumps(kept.manifest, indent=2).encode())
    return kept


def manifest_of(path: str | Path) -> Path:
    """Where the manifest of a set is."""
    path = Path(path)
    return path.with_suffix(".json") if path.suffix == ".npz" else path / "manifest.json"


def stored(path: str | Path) -> bool:
    """Whether a set is there, its data and its manifest; not so after a kill in the midst of `save_features`."""
    path = Path(path)
    return (path if path.suffix == ".npz" else path / "rows.npz").is_file() and manifest_of(path).is_file()


def check_place(path: str | Path) -> None:
    """Refuse a place where a set would take that of another's file, or another's images would count as the set's.

    Raises:
        BadInput: names the file.
    """
    path, file = Path(path), manifest_of(path)
    if file.exists():
        try:
            ours = "sha256" in json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise BadInput(f"{file} is there and is no manifest, which would take its place; choose another name")
    if path.suffix != ".npz" and path.is_dir():
        own = set(_held(path)[0])
        for other in path.glob("*/**/*"):
            hidden = any(part.startswith(".") for part in other.relative_to(path).parts)
            if other.suffix.lower() in SUFFIXES and other not in own and not hidden:
                raise BadInput(f"{other} belongs to no set, and would be read as part of one; choose another folder")


def _held(path: Path) -> tuple[list[Path], list[Path]]:
    """The images of the set in a folder, and their folders, by its rows; none where there is no set."""
    try:
        with archive(path / "rows.npz") as held:
            y, names = held["y"], [str(name) for name in held["classes"]]
        return _files(path, y.tolist(), names), [path / name for name in _folders(names)]
    except (BadInput, IndexError, TypeError):
        return [], []


def _clear(path: Path) -> None:
    """Remove the images of the set in a folder, and what folders that leaves empty."""
    files, folders = _held(path)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        with suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _images(path: Path, found: FeatureSet) -> None:
    """One folder a class, whose names stand in the order of the labels as text; one file a row."""
    from PIL import Image

    for name in _folders(found.classes):
        (path / name).mkdir(exist_ok=True)
    files = _files(path, found.y.tolist(), found.classes)
    for image, file in zip(to_bytes(found.x).cpu().numpy(), files, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
        file.write_bytes(buffer.getvalue())


def _files(path: Path, labels: Sequence[int], names: Sequence[str]) -> list[Path]:
    """Where the image of each row is."""
    folders = _folders(names)
    return [path / folders[label] / f"{i:07}.png" for i, label in enumerate(labels)]


def _folders(names: Sequence[str]) -> list[str]:
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
        encoder: the model that the set should have been made with, with or without a `Classifier` around it that does
            not normalise, or the `Encoder`; the hash of its weights and its layer must be the manifest's.

    Raises:
        BadInput: no such set, no manifest, a manifest that was changed or lacks its hash, data or class names that are
            not the manifest's, or another encoder's.
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
    if manifest.get("manifest_sha256") != _manifest_hash(manifest):
        raise BadInput(f"{file} does not say what was written there; rebuild the set or copy it again")
    if encoder is not None and not network_hash(encoder):
        raise BadInput(f"the encoder is a {type(encoder).__name__} without weights, which cannot be told from another")
    layer = getattr(encoder, "layer", None)
    if layer is not None and manifest.get("layer") is not None and layer != manifest["layer"]:
        raise BadInput(f"{path} was made of layer {manifest['layer']!r}, the encoder gives {layer!r}")
    if encoder is not None and manifest.get("encoder") != network_hash(encoder):
        raise BadInput(
            f"{path} was made with the encoder {str(manifest.get('encoder'))[:12]}, this one is "
            f"{network_hash(encoder)[:12]}; give the model that made it, or rebuild the set"
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
    return to_bytes(torch.from_numpy(decode(_files(path, y.tolist(), names), None, None)))
