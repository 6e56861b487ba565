"""Per-sample arithmetic on tensors of any shape, and work cut into chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """Shape a float or a (B,) tensor so that it broadcasts against `like`, (B, *D)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


def flat(x: Tensor) -> Tensor:
    """View (B, *D) as (B, prod D); (B,) becomes (B, 1)."""
    return x.reshape(len(x), -1)


def where_rows(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose whole samples: `a[i]` where `mask[i]`, else `b[i]`."""
    return torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def chunked(fn: Callable[..., Tensor], batch: int) -> Callable[..., Tensor]:
    """Wrap `fn(*tensors) -> tensor` so that it sees at most `batch` samples at a time.

    Args:
        fn: a function of tensors that share their first dimension, returning one with the same first dimension.
        batch: samples per call, at least 1.

    Returns:
        A function with the same result, memory bounded by `batch` samples.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")

    def call(*tensors: Tensor) -> Tensor:
        if len(tensors[0]) <= batch:
            return fn(*tensors)
        return torch.cat([fn(*part) for part in zip(*(t.split(batch) for t in tensors), strict=True)])

    return call


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that can still be taken on `device`, in bytes (a safe guess where the system does not say)."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as f:  # noqa: PTH123  (a kernel file, not a path of ours)
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2 << 30
