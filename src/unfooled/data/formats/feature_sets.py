"""Rebuilt data sets on disk: an `.npz` with a JSON manifest beside it, or a folder of images.

    NAME.npz    x uint8 (round(255 x)), y, source, start int64, residual float16, classes
    NAME.json   the manifest: settings, and the hashes of the content of NAME.npz and of itself

    NAME/CLASS/ROW.png   NAME/rows.npz (all but x)   NAME/manifest.json

`load_data` reads both as any other archive or image folder; `load_features` also reads the other arrays and the
manifest, and refuses data that do not match the manifest. Nothing is pickled.
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
from unfooled.runs.hashes import network_hash, tensors_hash
from unfooled.runs.opening import FilePlace, open_file
from unfooled.runs.store import StoredFile

MAX_BYTES = 1 << 26  # bytes of a manifest
ROWS = {"y": torch.int64, "source": torch.int64, "start": torch.int64, "residual": torch.float16}


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """A data set derived from another one, sample by sample.

    Attributes:
        x: Images, (N, *D) float32, multiples of 1/255.
        y: Labels, (N,) int64.
        source: Row of each sample's source in the source data, (N,) int64.
        start: Row of the starting image of each search, (N,) int64; -1 for noise, -2 for grey.
        residual: Distance of the stored image's features from the source's, relative to their norm, (N,) float16; for
            the sets D_rand and D_det the margin of the logits over the target, negative where the target is predicted.
        classes: Class names in the order of the labels.
        manifest: Settings of the set, and figures about it.
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
    """Convert values in [0, 1] to the stored form, uint8."""
    return (x * 255).round().to(torch.uint8)


def _hash(data: FeatureSet) -> str:
    """Return the SHA-256 of samples, rows and class names."""
    rows = tensors_hash(to_bytes(data.x), *(getattr(data, name).to(kind) for name, kind in ROWS.items()))
    return hashlib.sha256(json.dumps([rows, data.classes]).encode()).hexdigest()


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without this hash."""
    content = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_features(path: FilePlace, data: FeatureSet, manifest: Mapping[str, Any] | None = None) -> FeatureSet:
    """Write a set: to `path` ending in .npz with a manifest beside it, else to the folder `path`, as images.

    Args:
        path: Path or, of an .npz, URL of the set. An existing set is replaced with all its images; until the new one is
            complete, `stored` is False. Other files in the folder are kept.
        data: Set to write.
        manifest: Entries to add to `data.manifest`, JSON values. None: none.

    Returns:
        The stored set, with the written manifest: `n`, `sha256` (of samples, rows and class names),
        `manifest_sha256` (of the rest of the manifest) and the given entries.

    Raises:
        BadInput: Values lie outside [0, 1], samples are not images (for a folder), or the path cannot be written or
            holds other files.
    """
    check_place(path)
    folder = _folder(path)
    if len(data.x) and not (float(data.x.min()) >= 0 and float(data.x.max()) <= 1):
        raise BadInput(f"x lies in [{float(data.x.min()):.4g}, {float(data.x.max()):.4g}]; bytes can only hold [0, 1]")
    if folder is not None and (data.x.ndim != 4 or data.x.shape[1] not in (1, 3)):
        raise BadInput(f"samples have shape {tuple(data.x.shape[1:])}; images are (1, H, W) or (3, H, W), or use .npz")
    result = replace(
        data,
        classes=data.classes or [str(k) for k in range(int(data.y.max()) + 1 if len(data) else 0)],
        x=to_bytes(data.x).to(torch.float32) / 255,
        **{name: getattr(data, name).to(kind) for name, kind in ROWS.items()},
    )
    about = {**data.manifest, **(manifest or {}), "n": len(result), "sha256": _hash(result)}
    about = json.loads(json.dumps(about))
    result = replace(result, manifest={**about, "manifest_sha256": _manifest_hash(about)})
    rows = {name: getattr(result, name).cpu().numpy() for name in ROWS}
    rows["classes"] = np.array(result.classes, dtype=np.str_)
    # The manifest is removed first and written last: with it the set is complete.
    with suppress(OSError):  # none there; a place that cannot be written is reported below
        manifest_of(path).remove()
    if folder is None:
        rows = {"x": to_bytes(result.x).cpu().numpy(), **rows}
    else:
        _clear(folder)
    # Before the images, which it lists: after a kill they are recognised.
    _rows_of(path).write(_archive(rows))
    if folder is not None:
        _images(folder, result)
    manifest_of(path).write(json.dumps(result.manifest, indent=2).encode())
    return result


def _folder(path: FilePlace) -> Path | None:
    """Return the folder of a set of images; None for an .npz."""
    name = Path(str(path))
    return None if name.suffix.lower() == ".npz" else name


def _rows_of(path: FilePlace) -> StoredFile:
    """Return the archive of a set: all of it, or all but the images."""
    folder = _folder(path)
    return open_file(path if folder is None else folder / "rows.npz", write=False)


def manifest_of(path: FilePlace) -> StoredFile:
    """Return the file of a set's manifest."""
    rows = _rows_of(path)
    return rows.beside("manifest.json" if _folder(path) is not None else f"{rows.last[: -len('.npz')]}.json")


def stored(path: FilePlace) -> bool:
    """Return whether a complete set exists, data and manifest; False after an interrupted `save_features`."""
    return _rows_of(path).exists() and manifest_of(path).exists()


def check_place(path: FilePlace) -> None:
    """Refuse a path where a set would replace other files, or where other images would be read as part of it.

    Raises:
        BadInput: There is such a file; the message names it.
    """
    file, folder = manifest_of(path), _folder(path)
    try:
        data = file.read(most=MAX_BYTES)
        ours = data is None or "sha256" in json.loads(data)
    except (ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise BadInput(f"{file} is there and is no manifest, which would take its place; choose another name")
    if folder is not None and folder.is_dir():
        images = set(_images_and_folders(folder)[0])
        for other in folder.glob("*/**/*"):
            hidden = any(part.startswith(".") for part in other.relative_to(folder).parts)
            if other.suffix.lower() in SUFFIXES and other not in images and not hidden:
                raise BadInput(f"{other} belongs to no set, and would be read as part of one; choose another folder")


def _images_and_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the images of the set in a folder, and their folders; empty where there is no set."""
    try:
        with archive(path / "rows.npz") as rows:
            y, names = rows["y"], [str(name) for name in rows["classes"]]
        return _files(path, y.tolist(), names), [path / name for name in _folders(names)]
    except (BadInput, IndexError, TypeError):
        return [], []


def _clear(path: Path) -> None:
    """Remove the images of the set in a folder, and the folders that become empty."""
    files, folders = _images_and_folders(path)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        with suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _images(path: Path, data: FeatureSet) -> None:
    """Write one folder per class, with names that sort like the labels, and one file per row."""
    from PIL import Image

    for name in _folders(data.classes):
        (path / name).mkdir(exist_ok=True)
    files = _files(path, data.y.tolist(), data.classes)
    for image, file in zip(to_bytes(data.x).cpu().numpy(), files, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
        file.write_bytes(buffer.getvalue())


def _files(path: Path, labels: Sequence[int], names: Sequence[str]) -> list[Path]:
    """Return the path of each row's image."""
    folders = _folders(names)
    return [path / folders[label] / f"{i:07}.png" for i, label in enumerate(labels)]


def _folders(names: Sequence[str]) -> list[str]:
    """Return folder names that sort like the labels: the class names if they do, else prefixed by the label."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") or "class" for name in names]
    width = len(str(max(len(names) - 1, 0)))
    if plain == sorted(set(plain)):
        return plain
    return [f"{k:0{width}}" if name == str(k) else f"{k:0{width}}_{name}" for k, name in enumerate(plain)]


def load_features(path: FilePlace, *, encoder: Any = None) -> FeatureSet:
    """Read a set written by `save_features`.

    Args:
        path: The set's `.npz`, which may be a URL or an open file, or its folder.
        encoder: Model or `Encoder` that the set must have been made with; the hash of its weights, and its layer, must
            match the manifest. A `Classifier` around it that does not normalise is ignored. None: not checked.

    Raises:
        BadInput: The set or its manifest does not exist, the manifest was changed or lacks its hash, the data or class
            names do not match it, or the set is of another encoder.
    """
    file, rows_file, folder = manifest_of(path), _rows_of(path), _folder(path)
    there = rows_file.exists() if folder is None else folder.exists()
    content = file.read(most=MAX_BYTES) if there and file.exists() else None
    if content is None:
        what = f"has no manifest, {file.last}" if there else "is not there"
        raise BadInput(f"{path} {what}; a set is written by save_features, or by unfooled features")
    try:
        manifest = json.loads(content)
        stated = str(manifest["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{file} cannot be read as a manifest: {error}") from error
    if manifest.get("manifest_sha256") != _manifest_hash(manifest):
        raise BadInput(f"{file} does not say what was written there; rebuild the set or copy it again")
    if encoder is not None and not network_hash(encoder):
        raise BadInput(f"the encoder is a {type(encoder).__name__} without weights, which cannot be identified")
    layer = getattr(encoder, "layer", None)
    if layer is not None and manifest.get("layer") is not None and layer != manifest["layer"]:
        raise BadInput(f"{path} was made of layer {manifest['layer']!r}, the encoder gives {layer!r}")
    if encoder is not None and manifest.get("encoder") != network_hash(encoder):
        raise BadInput(
            f"{path} was made with the encoder {str(manifest.get('encoder'))[:12]}, this one is "
            f"{network_hash(encoder)[:12]}; give the model that made it, or rebuild the set"
        )
    with rows_file.on_disk() as place:
        try:
            with archive(place) as opened:
                wanted = [*ROWS, "classes", *(["x"] if folder is None else [])]
                if missing := [name for name in wanted if name not in opened.files]:
                    raise BadInput(f"{path} lacks {', '.join(missing)}; it is no set of save_features")
                arrays = {name: opened[name] for name in wanted}
        except BadInput as error:  # a copy of what lies behind a URL is named by the URL
            raise BadInput(str(error).replace(str(place), str(rows_file))) from error
    names = [str(name) for name in arrays.pop("classes")]
    x = torch.from_numpy(arrays.pop("x")) if folder is None else _read_images(folder, arrays["y"], names)
    rows = {name: torch.from_numpy(arrays[name]) for name in ROWS}
    data = FeatureSet(x.to(torch.float32) / 255, classes=names, manifest=manifest, **rows)
    if _hash(data) != stated:
        raise BadInput(
            f"{path} does not hold what {file.last} says (SHA-256 {stated[:12]}); rebuild it or copy it again"
        )
    return data


def _read_images(path: Path, y: np.ndarray, names: list[str]) -> Tensor:
    """Read the images of a folder by row, uint8."""
    return to_bytes(torch.from_numpy(decode(_files(path, y.tolist(), names), None, None)))
