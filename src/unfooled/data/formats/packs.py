"""JPEG images in one NumPy archive, decoded on demand.

headed: jpeg_header, {train,test}_payload, {train,test}_len, y_{train,test}; image k is header + payload + FF D9
whole:  jpeg, length, y, optionally is_train, filename; image k is a complete file
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import SPLITS, Source, no_splits, select_split
from unfooled.data.formats import arrays
from unfooled.data.formats.pictures import opened, upright
from unfooled.data.formats.stored import AnyArray, Opened, member


class Pack(Opened, Protocol):
    """An open archive that knows its arrays."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, name: object) -> bool: ...


def _decoded(
    payload: AnyArray, start: np.ndarray, length: np.ndarray, header: bytes, end: bytes, path: Path
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that decodes the images of given rows."""

    def read(rows: np.ndarray) -> np.ndarray:
        images = []
        for row in rows.tolist():
            coded = header + payload[np.arange(start[row], start[row] + length[row])].tobytes() + end
            with opened(coded, f"image {row} of {path}") as image:
                images.append(np.asarray(upright(image).convert("RGB")))
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise BadInput(f"{path} holds images of {len(sizes)} sizes; unpack it to a folder and give size")
        return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)

    return read


def _places(length: np.ndarray, payload: AnyArray, labels: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the length of each image; refuse a truncated pack."""
    length = length.astype(np.int64)
    if length.sum() != len(payload) or len(length) != labels:
        counts = f"{len(length)} lengths (of {length.sum()} bytes in all) for {len(payload)} bytes and {labels} labels"
        raise BadInput(f"{path} is no whole pack: {counts}")
    return np.cumsum(length) - length, length


def headed(path: Path, pack: Pack, split: str) -> Source:
    """Open a pack whose images share one header."""
    available = [name for name in SPLITS if {f"{name}_payload", f"{name}_len", f"y_{name}"} <= set(pack)]
    wanted = select_split(split, available, path)
    payload = member(path, pack, f"{wanted}_payload")
    y, _ = arrays.labels(pack[f"y_{wanted}"], f"y_{wanted} of {path}")
    start, length = _places(pack[f"{wanted}_len"], payload, len(y), path)
    header = pack["jpeg_header"].tobytes()
    read = _decoded(payload, start, length, header, b"\xff\xd9", path)
    return Source(path.stem, wanted, y, arrays.numbered(y), read)


def whole(path: Path, pack: Pack, split: str) -> Source:
    """Open a pack of complete files; `is_train` defines the splits, the folders in `filename` are the class names."""
    payload = member(path, pack, "jpeg")
    y, _ = arrays.labels(pack["y"], f"y of {path}")
    start, length = _places(pack["length"], payload, len(y), path)
    classes = arrays.numbered(y)
    if "filename" in pack:
        folders = [PurePosixPath(str(name)).parent.name for name in pack["filename"]]
        name_of = dict(zip(y.tolist(), folders, strict=True))
        if all(name_of[k] == folder for k, folder in zip(y.tolist(), folders, strict=True)):
            classes = [name_of.get(k, name) or name for k, name in enumerate(classes)]
    if "is_train" not in pack:
        read = _decoded(payload, start, length, b"", b"", path)
        return Source(path.stem, "all", y, classes, read, (no_splits(split, path.name),))
    wanted = select_split(split, ("train", "test"), path)
    rows = np.flatnonzero(np.asarray(pack["is_train"], bool) == (wanted == "train"))
    read = _decoded(payload, start[rows], length[rows], b"", b"", path)
    return Source(path.stem, wanted, y[rows], classes, read)
