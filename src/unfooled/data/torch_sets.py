"""Samples of a torch `Dataset` or `DataLoader`, read when they are needed.

A data set that can be indexed is read by index; one that can only be iterated is written to a temporary file once. Of a
loader the rows of its sampler or batch sampler are read, drawn once if they are random, through its `collate_fn`.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from unfooled.core.class_names import few_names
from unfooled.core.errors import BadInput
from unfooled.core.memory import max_bytes_in_memory
from unfooled.core.model.precision import widened
from unfooled.core.samples import Streamed, raw
from unfooled.data.formats.arrays import one_hot, single, targets
from unfooled.data.loader_rows import rows_of, seeded

IMAGES = ("image", "img", "pixel_values", "x", "input", "inputs", "data")
LABELS = ("label", "labels", "y", "target", "targets", "fine_label", "class")
SAMPLES_READ_TWICE = 8
"""Samples that are read twice, to notice random ones."""


def from_torch(source: Dataset[Any] | DataLoader[Any], *, seed: int = 0) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the samples, (N, *D) in [0, 1], streamed where they are large, the labels, and warnings.

    Labels are (N,); where samples have several, (N, L) of 0 and 1.

    Args:
        source: Data set or loader; of a loader the rows of its sampler or batch sampler are read.
        seed: Random seed of a loader's random order, and of an iterable that draws random numbers.

    Raises:
        BadInput: The items are no pairs of a sample and a label, cannot be read, or change from one reading to the
            next; or all labels look one-hot.
    """
    x, y, notes = _found(source, seed)
    if one_hot(y):
        raise BadInput(
            f"the label of item 0 of the data set has shape {tuple(y.shape[1:])}; labels are one number per sample; "
            "they look one-hot, give y.argmax(1), or where samples do have several labels, tensors and uf.multi_label"
        )
    return x, y, notes


def _found(source: Dataset[Any] | DataLoader[Any], seed: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return samples, labels of any form, and warnings."""
    loader = source if isinstance(source, DataLoader) else None
    data: Any = source if loader is None else loader.dataset
    if isinstance(data, TensorDataset) and len(data.tensors) == 2 and loader is None:
        return data.tensors[0], data.tensors[1], ()
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        with seeded(seed):
            x, y = _spooled(source)
        return x, y, ()
    if not len(data):
        raise BadInput("the data set is empty")
    keys, note = (None, "") if loader is None else rows_of(loader, seed)
    collate = None if loader is None or loader.batch_sampler is None else loader.collate_fn
    return *_read(_Items(data, range(len(data)) if keys is None else keys, collate)), (note,) if note else ()


def _read(items: _Items) -> tuple[Tensor, Tensor]:
    """Return samples, streamed where they are large, and labels."""
    n = len(items.keys)
    first, _ = items(range(min(SAMPLES_READ_TWICE, n)))
    if not torch.equal(first, items(range(len(first)))[0]):
        raise BadInput(
            "the data set returns another sample each time it is read; leave random transforms out of an evaluation"
        )
    size = max(1, max_bytes_in_memory() // 4 // max(1, first[:1].nbytes))
    kept, labels = [], []
    large = n * first[:1].nbytes > max_bytes_in_memory()
    for start in range(0, n, size):
        x, y = items(range(start, min(start + size, n)))
        labels.append(y)
        if not large:
            kept.append(x)
    if not large:
        return torch.cat(kept), torch.cat(labels)
    return Streamed(lambda rows: items(rows.tolist())[0], (n, *first.shape[1:]), first.dtype), torch.cat(labels)


class _Items:
    """Function of positions that reads samples (b, *D) and labels (b,)."""

    def __init__(self, data: Any, keys: Sequence[Any], collate: Callable[[list[Any]], Any] | None) -> None:
        self.data, self.keys, self.collate = data, keys, collate

    def __call__(self, rows: Iterable[int]) -> tuple[Tensor, Tensor]:
        keys = [self.keys[row] for row in rows]
        items = [self._item(key) for key in keys]
        pairs = [] if self._own() else [_pair(item) for item in items]
        labels = [_labels([y], [key]) for (_, y), key in zip(pairs, keys, strict=False)]
        if self.collate is not None:
            try:
                batch = self.collate(items)
                return batch_of(batch, keys) if self._own() else (_inputs(_pair(batch)[0]), torch.cat(labels))
            except BadInput:
                raise
            except Exception as error:
                if self._own():
                    what = f"the loader's collate_fn fails on the items {few_names([*map(str, keys)])}"
                    raise _unreadable(what, error) from error  # of torch's own the reason follows
        samples = [_sample(x, key) for (x, _), key in zip(pairs, keys, strict=True)]
        if len({x.shape for x in samples}) > 1:
            shapes = sorted({tuple(x.shape) for x in samples})[:2]
            raise BadInput(f"the data set has samples of shapes {shapes[0]} and {shapes[1]}; resize them to one")
        return torch.stack(samples), torch.cat(labels)

    def _own(self) -> bool:
        """Return whether the user's own function makes batches of items."""
        return self.collate not in (None, default_collate)

    def _item(self, key: Any) -> Any:
        """Return one item of the data set."""
        try:
            return self.data[int(key) if isinstance(key, (Tensor, np.integer)) else key]
        except BadInput:
            raise
        except Exception as error:
            raise _unreadable(f"item {key} of the data set cannot be read", error) from error


def _unreadable(what: str, error: Exception) -> BadInput:
    """Return the error of reading foreign data, as one sentence."""
    reason = next(iter(str(error).splitlines()), "")[:200]
    return BadInput(f"{what}: {type(error).__name__}{': ' * bool(reason)}{reason}")


def _sample(x: Any, key: Any) -> Tensor:
    """Return the sample of an item."""
    try:
        return single(x)
    except BadInput:
        raise
    except Exception as error:
        raise _unreadable(f"the sample of item {key} of the data set cannot be read", error) from error


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


def _labels(y: Any, keys: Sequence[Any]) -> Tensor:
    """Return labels as (b,) int64, or as (b, L) of 0 and 1 where samples have several.

    Raises:
        BadInput: They are text, fractions or negative; the first such item is named.
    """
    try:
        values: Any = (
            y.detach().cpu() if isinstance(y, Tensor) else [v.tolist() if isinstance(v, Tensor) else v for v in y]
        )
        values = values.float().numpy() if isinstance(values, Tensor) and values.dtype is torch.bfloat16 else values
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray([str(type(value).__name__) for value in y])
    if array.ndim == 0 or len(array) != len(keys):
        raise BadInput(f"a batch has labels of shape {array.shape} for {len(keys)} samples; labels are one per sample")
    try:
        if array.dtype.kind in "iufb":
            return torch.from_numpy(targets(array, "the data set")[0])
    except BadInput:
        if array.ndim > 2:
            raise
    for key, label in zip(keys, array, strict=True):
        own, name = np.asarray(label)[None], f"the label of item {key} of the data set"
        if own.dtype.kind not in "iufb":
            raise BadInput(
                f"{name} is {str(label)[:80]!r}; labels are 0, 1, 2, ..., in the order of the model's outputs"
            )
        targets(own, name)
    return torch.from_numpy(targets(array, "the data set")[0])


def batch_of(item: Any, keys: Sequence[Any] | None = None, *, by_label: bool = False) -> tuple[Tensor, Tensor]:
    """Return the samples and labels of a collated batch.

    Args:
        item: Batch of a loader.
        keys: Names of its items in messages. None: 0, 1, 2, ...
        by_label: True: torch made the batch, which turns lists of labels into one tensor for each label. False: such a
            sequence is known by its length, which is not the number of samples.
    """
    x, y = _pair(item)
    x = _inputs(x)
    y = y.reshape(-1) if isinstance(y, Tensor) and not y.ndim else y if hasattr(y, "__len__") else [y]
    y = torch.stack([*y], 1) if _one_for_each_label(y, len(x)) and (by_label or len(y) != len(x)) else y
    return x, _labels(y, range(len(x)) if keys is None else keys)


def _inputs(x: Any) -> Tensor:
    """Return the samples of a collated batch."""
    return widened(x if isinstance(x, Tensor) and x.is_floating_point() else torch.stack([single(one) for one in x]))


def _one_for_each_label(y: Any, n: int) -> bool:
    """Return whether labels of n samples are a sequence of tensors of n entries each."""
    return (
        isinstance(y, (list, tuple)) and len(y) > 0 and all(isinstance(one, Tensor) and one.shape == (n,) for one in y)
    )


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
    batched = isinstance(source, DataLoader) and source.batch_size is not None
    spool, labels, n = _Spool(), list[Tensor](), 0
    items = iter(_iterated(source))
    for item in items:
        pair = _pair(item)
        if batched:
            count = len(pair[0])
            x, y = batch_of(item, range(n, n + count), by_label=source.collate_fn is default_collate)
        else:
            x, y = _sample(pair[0], n)[None], _labels([pair[1]], [n])
        n += len(x)
        spool.append(x)
        labels.append(y)
    if spool.shape is None:
        raise BadInput("the data set is empty")
    y = torch.cat(labels)
    return Streamed(spool, (len(y), *spool.shape), spool.dtype), y


def _iterated(source: Any) -> Iterator[Any]:
    """Yield the items of an iterable, or its batches; its errors become one sentence."""
    n, what = 0, "batch" if isinstance(source, DataLoader) and source.batch_size is not None else "item"
    try:
        for item in source:
            yield item
            n += 1
    except BadInput:
        raise
    except Exception as error:
        raise _unreadable(f"{what} {n} of the data set cannot be read", error) from error
