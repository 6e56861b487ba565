"""Samples that are read when they are indexed, so that memory does not grow with their number.

`Streamed` is a tensor without storage: it has a shape, a dtype and a device, and `x[rows]` reads these rows as an
ordinary tensor. Everything that indexes its samples works on both kinds; an operation on all samples at once raises.

    blocks(x)                      parts of moderate size, in order; an ordinary tensor is one part
    facts(x)                       range, hashes and bytes of all samples, in one pass
    replaced(x, rows, part)        samples with some rows replaced, read from where they are
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.memory import block_bytes, max_bytes_in_memory
from unfooled.core.shapes import where_rows

Read = Callable[[Tensor], Tensor]
"""(rows (b,) int64 on the CPU) -> samples (b, *D) on the CPU."""

_SAME = {"clone", "detach", "contiguous"}
_ATTRIBUTES = {"__get__", "dim", "size", "numel", "element_size", "is_floating_point", "is_complex", "__len__"}


class Streamed(Tensor):
    """Samples that a function reads, (N, *D): a tensor that can be indexed by rows, and nothing else.

    Args:
        read: Function that reads some rows.
        shape: Shape of all samples.
        dtype: Type of the samples.
        device: Device on which the rows are returned.
    """

    read: Read
    _facts: Facts | None

    @staticmethod
    def __new__(
        cls: type[Streamed],
        read: Read,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Streamed:
        """Return the samples; nothing is read."""
        made: Streamed = Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=dtype, device=torch.device(device))
        made.read, made._facts = read, None
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Read rows, return attributes, and refuse everything else."""
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        if name in _ATTRIBUTES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        own = args[0] if args else None
        if isinstance(own, Streamed):
            if name == "__getitem__":
                return own._rows(args[1])
            if name in _SAME:
                return own
            if name == "cpu":
                return own._on("cpu")
            if name == "to" and len(args) == 2 and isinstance(args[1], (str, torch.device)):
                return own._on(args[1])
            if name == "__repr__":
                return f"Streamed({tuple(own.shape)}, {own.dtype})"
        raise RuntimeError(f"{name} needs all samples at once, but they are read in parts; index them by rows")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse operations; see `__torch_function__`."""
        raise RuntimeError(f"{func} needs all samples at once, but they are read in parts; index them by rows")

    def _rows(self, rows: Any) -> Tensor:
        """Return the rows of an index, a slice or a mask, as an ordinary tensor."""
        if isinstance(rows, int):
            return self._rows(slice(rows, rows + 1 or None))[0]
        if isinstance(rows, slice):
            at = torch.arange(*rows.indices(self.shape[0]))
        else:
            at = torch.as_tensor(rows).cpu()
            at = at.nonzero()[:, 0] if at.dtype == torch.bool else at
        if not len(at):
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype, device=self.device)
        return self.read(torch.where(at < 0, at + self.shape[0], at)).to(self.device)

    def _on(self, device: torch.device | str) -> Streamed:
        if torch.device(device) == self.device:
            return self
        moved = Streamed(self.read, tuple(self.shape), self.dtype, device)
        moved._facts = self._facts
        return moved


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts about all samples.

    Attributes:
        low: Smallest value; NaN where there is one.
        high: Largest value; NaN where there is one.
        bad: Samples with NaN or infinite values.
        grid: True if all values are multiples of 1/255, as those of 8-bit images.
        keys: Hash of each sample, (n,), see `rng.sample_keys`.
        digest: SHA-256 of shape, dtype and bytes.
    """

    low: float
    high: float
    bad: Tensor
    grid: bool
    keys: Tensor
    digest: Any


def streamed(x: Tensor) -> Tensor:
    """Return samples that are read in parts, where all of them take much memory; small ones in memory."""
    size = x.numel() * x.element_size()
    if isinstance(x, Streamed):
        return x[:] if size <= max_bytes_in_memory() else x
    if size <= max_bytes_in_memory():
        return x
    return Streamed(lambda rows: x[rows.to(x.device)], tuple(x.shape), x.dtype, x.device)


def _rows_at_once(x: Tensor) -> int:
    return max(1, block_bytes() // max(1, x.element_size() * x.shape[1:].numel()))


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield all samples in order, in parts of moderate size; an ordinary tensor as it is."""
    if not isinstance(x, Streamed):
        yield x
        return
    size = _rows_at_once(x)
    for start in range(0, len(x), size):
        yield x[start : start + size]


def per_block(fn: Callable[[Tensor], Tensor], rows: Tensor, x: Tensor) -> Tensor:
    """Compute `fn(rows) -> (b, ...)` for blocks of rows whose samples in x have a moderate size; all rows at once where
    x is an ordinary tensor.
    """
    if not isinstance(x, Streamed) or not len(rows):
        return fn(rows)
    size = _rows_at_once(x)
    return torch.cat([fn(rows[start : start + size]) for start in range(0, len(rows), size)])


def facts(x: Tensor) -> Facts:
    """Return facts about all samples: one pass over streamed samples, whose result is stored with them."""
    known = x._facts if isinstance(x, Streamed) else None
    if known is not None:
        return known
    digest, grid, start = hashlib.sha256(header(x)), True, 0
    # Filled in place: small tensors that stay between large ones that go would keep the heap from shrinking.
    keys, bad = torch.empty(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.bool)
    low, high = math.inf, -math.inf
    for part in blocks(x):
        end = start + len(part)
        digest.update(raw(part))
        keys[start:end] = rng.sample_keys(part)
        bad[start:end] = ~torch.isfinite(part.detach()).flatten(1).all(1)
        ends = torch.stack(torch.aminmax(part.detach())).tolist()
        low, high = (math.nan, math.nan) if math.isnan(sum(ends)) else (min(low, ends[0]), max(high, ends[1]))
        grid = grid and on_grid(part)
        start = end
    facts = Facts(low, high, bad.nonzero()[:, 0], grid, keys, digest)
    if isinstance(x, Streamed):
        x._facts = facts
    return facts


def extent(x: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN where there is one."""
    if isinstance(x, Streamed):
        return facts(x).low, facts(x).high
    low, high = torch.aminmax(x.detach())
    return float(low), float(high)


def non_finite_rows(x: Tensor) -> Tensor:
    """Return the rows with NaN or infinite values."""
    if isinstance(x, Streamed):
        return facts(x).bad
    return (~torch.isfinite(x.detach())).flatten(1).any(1).nonzero()[:, 0]


def on_grid(x: Tensor) -> bool:
    """Return whether all values are multiples of 1/255, as those of 8-bit images."""
    if isinstance(x, Streamed):
        return facts(x).grid
    return bool(((x * 255 - (x * 255).round()).abs() < 1e-3).all())


def keys_of(x: Tensor) -> Tensor:
    """Return the hash of each sample, (n,), see `rng.sample_keys`."""
    return facts(x).keys.to(x.device) if isinstance(x, Streamed) else rng.sample_keys(x)


def header(x: Tensor) -> bytes:
    """Return shape and dtype, as hashes of tensors begin."""
    return f"{tuple(x.shape)} {x.dtype}".encode()


def raw(x: Tensor) -> memoryview:
    """Return the bytes of a tensor, row by row."""
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def replaced(x: Tensor, rows: Tensor, part: Tensor, where: Tensor | None = None) -> Tensor:
    """Return samples with some rows replaced; ordinary tensors are copied, streamed ones are read from where they are.

    Args:
        x: Samples, (n, *D).
        rows: Rows to be replaced, (m,).
        part: Their replacements, (m, *D).
        where: Mask of those that are replaced, (m,) bool. None: all.
    """
    if not isinstance(x, Streamed) and not isinstance(part, Streamed):
        part = part if where is None else where_rows(where, part, x[rows])
        return x.index_copy(0, rows, part)
    at = torch.arange(len(rows)) if where is None else where.cpu().nonzero()[:, 0]
    if not len(at):
        return x
    before = x.read if isinstance(x, Streamed) else x
    old = before if isinstance(before, _Patched) else _Patched((x,), torch.zeros(len(x), dtype=torch.int32), _all(x))
    source, row = old.source.clone(), old.row.clone()
    source[rows.cpu()[at]], row[rows.cpu()[at]] = len(old.parts), at
    return Streamed(_Patched((*old.parts, part), source, row), tuple(x.shape), x.dtype, x.device)


def selected(x: Tensor, rows: Tensor) -> Tensor:
    """Return some rows, streamed where x is."""
    if not isinstance(x, Streamed):
        return x[rows]
    at, read = rows.cpu(), x.read
    return Streamed(lambda part: read(at[part]), (len(at), *x.shape[1:]), x.dtype, x.device)


def first_channels(x: Tensor, count: int) -> Tensor:
    """Return the first entries of dimension 1, (n, count, ...), streamed where x is."""
    if not isinstance(x, Streamed):
        return x[:, :count]
    read = x.read
    return Streamed(lambda rows: read(rows)[:, :count], (len(x), count, *x.shape[2:]), x.dtype, x.device)


def _all(x: Tensor) -> Tensor:
    return torch.arange(len(x))


@dataclass(frozen=True, eq=False)
class _Patched:
    """Rows of several tensors: row i is row `row[i]` of `parts[source[i]]`."""

    parts: tuple[Tensor, ...]
    source: Tensor
    row: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        source, row, first = self.source[rows], self.row[rows], self.parts[0]
        out = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        for k in source.unique().tolist():
            here = source == k
            part = self.parts[k]
            out[here] = part[row[here].to(part.device)].to("cpu", out.dtype)
        return out
