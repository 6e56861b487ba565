"""Attribution maps stored by other programs: `.npy`, `.npz`, `.safetensors`. Pickled objects are not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput, nearest
from unfooled.data.formats.npy import check_header
from unfooled.data.formats.npz import DAMAGED, archive
from unfooled.data.known import MAP_SUFFIXES, existing_maps


def read_maps(source: str) -> Tensor:
    """Read maps from a file, (N, H, W) or (N, C, H, W).

    Args:
        source: Path. For an archive of several arrays, add the name of one: `file.npz:name`. A single map, (H, W),
            becomes a batch of one.

    Returns:
        float32; float64 if the file holds float64 or integers.

    Raises:
        BadInput: There is no such file or array, or it holds Python objects, complex numbers, NaN or infinite
            values, another shape, or no values.
    """
    path, name = existing_maps(source)
    if path.suffix not in MAP_SUFFIXES:
        raise BadInput(f"{path} is no {', '.join(MAP_SUFFIXES)} file; save the maps with numpy.save")
    try:
        maps = _tensor(path, name) if path.suffix == ".safetensors" else _array(path, name)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"the maps of {path} do not fit into memory; save fewer of them in a file") from None
    except DAMAGED as e:
        raise BadInput(f"cannot read {path}: {(str(e).splitlines() or [type(e).__name__])[0]}") from e
    return _checked(maps, source)


def _pick(names: list[str], name: str | None, path: Path) -> str:
    """Return the requested name, or that of the only array."""
    if not names:
        raise BadInput(f"{path} holds no array")
    if name is None:
        if len(names) > 1:
            raise BadInput(f"{path} holds {', '.join(names)}; choose one: {path}:{names[0]}")
        return names[0]
    if name not in names:
        raise BadInput(f"{path} has no array {name!r}{nearest(name, names)}; it holds {', '.join(names)}")
    return name


def _array(path: Path, name: str | None) -> np.ndarray:
    """Read an array of a NumPy file."""
    with path.open("rb") as f:
        if not f.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise BadInput(f"cannot read {path}: it is no NumPy file, whatever its name; save the maps with numpy.save")
        f.seek(0)
        if f.read(2) != b"PK":
            if name is not None:
                raise BadInput(f"{path} is a single array; leave :{name} away")
            f.seek(0)
            check_header(f, path.stat().st_size, path)
            f.seek(0)
            return np.asarray(np.load(f, allow_pickle=False))
    with archive(path) as opened:
        return opened[_pick(opened.files, name, path)]


def _tensor(path: Path, name: str | None) -> Tensor:
    """Read a tensor of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            return f.get_tensor(_pick(sorted(f.keys()), name, path))
    except SafetensorError as e:
        raise BadInput(f"cannot read {path}: {e}") from e


def _checked(maps: np.ndarray | Tensor, source: str) -> Tensor:
    """Return maps as a floating point tensor; refuse other arrays."""
    kind = maps.dtype
    if isinstance(maps, np.ndarray):
        if maps.dtype.kind not in "fiub":
            raise BadInput(f"{source} holds {kind}; maps are real numbers")
        wide = np.float32 if maps.dtype.kind == "f" and maps.dtype.itemsize <= 4 else np.float64
        maps = torch.from_numpy(np.ascontiguousarray(maps, dtype=wide))
    elif maps.is_complex():
        raise BadInput(f"{source} holds {kind}; maps are real numbers")
    else:
        maps = maps.to(torch.float32 if maps.is_floating_point() and maps.itemsize <= 4 else torch.float64)
    if maps.ndim == 2:
        maps = maps[None]
    if maps.ndim not in (3, 4) or maps.numel() == 0:
        empty = ": there is nothing in it" if maps.numel() == 0 else ""
        raise BadInput(f"{source} has shape {tuple(maps.shape)}{empty}; maps are (H, W), (N, H, W) or (N, C, H, W)")
    if maps.ndim == 4 and maps.shape[3] in (1, 3, 4) and maps.shape[1] not in (1, 3, 4):
        raise BadInput(f"{source} has shape {tuple(maps.shape)}, channels last; save it as (N, C, H, W)")
    bad = (~maps.isfinite()).flatten(1).any(1).nonzero()[:, 0]
    if len(bad):
        raise BadInput(
            f"{source} holds NaN or infinite values in {len(bad)} of {len(maps)} maps, the first is map "
            f"{int(bad[0])}; leave those out of both files"
        )
    return maps
