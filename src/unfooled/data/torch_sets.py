"""Samples of a torch `Dataset` or `DataLoader`, read when they are needed.

A data set that can be indexed is read by index; one that can only be iterated is written to a temporary file once. The
data set of a loader is read in its own order, whatever the loader's, and the loader's `collate_fn` is applied.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data.sampler import SequentialSampler

from unfooled.core.errors import BadInput
from unfooled.core.memory import max_bytes_in_memory
from unfooled.core.model.precision import widened
from unfooled.core.samples import Streamed, raw
from unfooled.data.formats.arrays import single

IMAGES = ("image", "img", "pixel_values", "x", "input", "inputs", "data")
LABELS = ("label", "labels", "y", "target", "targets", "fine_label", "class")
SAMPLES_READ_TWICE = 8
"""Samples that are read twice, to notice random ones."""


def from_torch(source: Dataset[Any] | DataLoader[Any]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the samples, (N, *D) in [0, 1], streamed where they are large, the labels, (N,), and warnings.

    Raises:
        BadInput: The items are no pairs of a sample and a label, or change from one reading to the next.
    """
    loader = source if isinstance(source, DataLoader) else None
    data: Any = source if loader is None else loader.dataset
    if isinstance(data, TensorDataset) and len(data.tensors) == 2 and loader is None:
        return data.tensors[0], data.tensors[1], ()
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        x, y = _spooled(source)
        return x, y, ()
    notes: tuple[str, ...] = ()
    if loader is not None and not isinstance(loader.sampler, SequentialSampler):
        notes = ("The loader's order is not the data set's own, in which the samples were read.",)
    collate = None if loader is None else loader.collate_fn
    items = _Items(data, collate if loader is not None and loader.batch_size is not None else None)
    if not len(data):
        raise BadInput("the data set is empty")
    first, _ = items(range(min(SAMPLES_READ_TWICE, len(data))))
    if not torch.equal(first, items(range(len(first)))[0]):
        raise BadInput(
            "the data set returns another sample each time it is read; leave random transforms out of an evaluation"
        )
    size = max(1, max_bytes_in_memory() // 4 // max(1, first[:1].nbytes))
    kept, labels = [], []
    large = len(data) * first[:1].nbytes > max_bytes_in_memory()
    for start in range(0, len(data), size):
        x, y = items(range(start, min(start + size, len(data))))
        labels.append(y)
        if not large:
            kept.append(x)
    if not large:
        return torch.cat(kept), torch.cat(labels), notes
    shape = (len(data), *first.shape[1:])
    return Streamed(lambda rows: items(rows.tolist())[0], shape, first.dtype), torch.cat(labels), notes


class _Items:
    """Function of indices that reads samples (b, *D) and labels (b,)."""

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any] | None) -> None:
        self.data, self.collate = data, collate

    def __call__(self, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        items = [self.data[int(row)] for row in rows]
        if self.collate is not None:
            return batch_of(self.collate(items))
        pairs = [_pair(item) for item in items]
        samples = [single(x) for x, _ in pairs]
        if len({x.shape for x in samples}) > 1:
            shapes = sorted({tuple(x.shape) for x in samples})[:2]
            raise BadInput(f"the data set has samples of shapes {shapes[0]} and {shapes[1]}; resize them to one")
        return torch.stack(samples), torch.tensor([int(y) for _, y in pairs])


def _pair(item: Any) -> tuple[Any, Any]:
    """Return the sample and the label of an item."""
    if isinstance(item, Mapping):
        x = next((name for name in IMAGES if name in item), None)
        y = next((name for name in LABELS if name in item), None)
        if x is not None and y is not None:
            return item[x], item[y]
        raise BadInput(f"the data set's items have {', '.join(map(str, item))}; they must have an image and a label")
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    raise BadInput(f"the data set's items are {type(item).__name__}; they must be pairs (sample, label)")


def batch_of(item: Any) -> tuple[Tensor, Tensor]:
    """Return the samples and labels of a collated batch."""
    x, y = _pair(item)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        x = torch.stack([single(one) for one in x])
    return widened(x), torch.as_tensor(y).long().reshape(len(x))


class _Spool:
    """Rows in a temporary file, which is closed, and so removed, when nothing refers to it."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="unfooled-")  # noqa: SIM115
        self.shape: torch.Size | None = None
        self.dtype = torch.float32
        weakref.finalize(self, self.file.close)

    def append(self, x: Tensor) -> None:
        """Write rows, (b, *D)."""
        if self.shape is not None and x.shape[1:] != self.shape:
            shapes = f"{tuple(self.shape)} and {tuple(x.shape[1:])}"
            raise BadInput(f"the data set has samples of shapes {shapes}; resize them to one")
        self.shape, self.dtype = x.shape[1:], x.dtype
        self.file.write(raw(x))

    def __call__(self, rows: Tensor) -> Tensor:
        """Read rows."""
        assert self.shape is not None
        size, parts = self.shape.numel() * self.dtype.itemsize, []
        for row in rows.tolist():
            self.file.seek(row * size)
            parts.append(self.file.read(size))
        return torch.frombuffer(bytearray().join(parts), dtype=self.dtype).reshape(len(rows), *self.shape)


def _spooled(source: Any) -> tuple[Tensor, Tensor]:
    """Write the samples of an iterable to a temporary file, which is removed with them."""
    batches: Iterable[tuple[Tensor, Tensor]] = (
        (single(x)[None], torch.tensor([int(y)])) for x, y in map(_pair, source)
    )
    if isinstance(source, DataLoader) and source.batch_size is not None:
        batches = map(batch_of, source)
    spool, labels = _Spool(), []
    for x, y in batches:
        spool.append(x)
        labels.append(y)
    if spool.shape is None:
        raise BadInput("the data set is empty")
    y = torch.cat(labels)
    return Streamed(spool, (len(y), *spool.shape), spool.dtype), y
