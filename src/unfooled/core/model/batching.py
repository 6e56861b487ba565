"""Batch sizes that fit in memory: estimated first, then measured on the first call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from unfooled.core.errors import BadInput, option
from unfooled.core.memory import free_memory, given_limit
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.calls import run, run_checked
from unfooled.core.types import Model

Result = TypeVar("Result")
Joined = TypeVar("Joined", bound=Tensor | tuple[Tensor, ...] | dict[str, Tensor])


class BatchBudget:
    """Number of samples per model call that keeps the autograd graph near a memory budget.

    Estimated from the input's size for the first call, then measured on that call (the tensors that autograd saves), so
    that measuring costs no extra pass. Small budgets are also faster on a CPU: activations stay in the cache, and the
    allocator does not return them to the system between calls.

    Args:
        model: Any callable to logits; its parameters are not counted, as they do not grow with the batch.
        x: Inputs, (B, *D).
        batch_bytes: Memory budget in bytes. None: 64 MiB on a CPU, 4 GiB elsewhere; at most a quarter of the
            free memory.
    """

    guess = 400  # bytes saved per byte of input: small CNNs need 100 to 400

    def __init__(self, model: Model, x: Tensor, batch_bytes: int | None = None) -> None:
        if batch_bytes is not None and batch_bytes < 1:
            raise BadInput(f"batch_bytes is {batch_bytes}; it must be at least 1")
        default = (1 << 26) if x.device.type == "cpu" else (1 << 32)
        free = free_bytes(x.device)
        if x.device.type == "cpu" and (given := given_limit()) is not None:
            free = min(free, given)
        self.budget = min(batch_bytes or default, free // 4)
        self.input_bytes = x[:1].numel() * x.element_size()
        self.sample_bytes = self.guess * self.input_bytes
        self.measured = False
        self.model = model

    @property
    def batch(self) -> int:
        """Number of samples that fit, at least 1."""
        return max(1, self.budget // self.sample_bytes)

    @contextmanager
    def measuring(self, batch: int) -> Iterator[None]:
        """Measure the memory that autograd saves for `batch` samples inside the context, at the first use only."""
        if self.measured:
            yield
            return
        sizes: dict[int, int] = {}

        def note(t: Tensor) -> Tensor:
            sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            yield
        weights = {p.data_ptr() for root in modules_of(self.model) for p in root.parameters()}
        saved = sum(size for at, size in sizes.items() if at not in weights)
        # Twice: in the backward pass each activation gets a gradient of the same size.
        self.sample_bytes = max(1, 2 * saved // batch + 8 * self.input_bytes)
        self.measured = True


def fitting_batch(model: Model, x: Tensor, *, ceiling: int = 256, batch_bytes: int | None = None) -> int:
    """Return a batch size whose forward and backward pass stay near a memory budget.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D); the first sample is used (cost: 1 forward of it).
        ceiling: Largest batch size; beyond it nothing gets faster on most devices.
        batch_bytes: Memory budget in bytes; see `BatchBudget`.

    Returns:
        A batch size between 1 and `ceiling`.
    """
    budget = BatchBudget(model, x, batch_bytes)
    try:
        with torch.enable_grad(), budget.measuring(1):
            run(model, x[:1].detach().clone().requires_grad_())
    except Exception:  # some models refuse inputs that require a gradient; any other error is raised again here
        with torch.no_grad():
            run_checked(model, x[:1])
    return min(ceiling, budget.batch)


def batched(
    fn: Callable[..., Joined], batch: int | None, *, progress: Callable[[int], None] | None = None
) -> Callable[..., Joined]:
    """Wrap `fn(*tensors)` so that it sees at most `batch` samples at a time.

    Args:
        fn: A function of tensors that share their first dimension, returning a tensor, or a tuple or dict of tensors,
            with the same first dimension. For samples that are no tensors, pass a function of their indices.
        batch: Samples computed at once, at least 1. None: all.
        progress: Called with the number of samples computed, at the beginning and after each part. None: none.

    Returns:
        A function with the same result, memory bounded by `batch` samples.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")

    def call(*tensors: Tensor) -> Joined:
        results, done = [], 0
        if progress is not None:
            progress(done)
        whole = batch is None or len(tensors[0]) <= batch
        for part in [tensors] if whole else zip(*(t.split(batch) for t in tensors), strict=True):
            results.append(fn(*part))
            done += len(part[0])
            if progress is not None:
                progress(done)
        return results[0] if whole else _joined(results)

    return call


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of the messages of errors that memory ran out: of CUDA, of torch on a CPU under Linux and Windows."""


def halving(fn: Callable[[slice], Result], rows: int, batch: int) -> tuple[list[Result], int]:
    """Call a function on parts of the rows, of equal size; where memory runs out, halve the parts and go on.

    Args:
        fn: Function of a part of the rows.
        rows: Number of rows.
        batch: Rows of a part at most, at least 1.

    Returns:
        The results in the order of the rows, and the largest part that memory was enough for.
    """
    results, low = [], 0
    while low < rows:
        number = -(-(rows - low) // max(1, batch))
        part = slice(low, low + -(-(rows - low) // number))
        try:
            results.append(fn(part))
        except Exception as error:
            if part.stop - low == 1 or not (out_of_memory(error) or out_of_memory(error.__cause__)):
                raise
            batch = (part.stop - low) // 2
            continue
        low = part.stop
    return results, batch


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error says that memory ran out, of a device or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OUT_OF_MEMORY)


def check_fits(size: int, what: str) -> None:
    """Refuse what needs more memory than is free on this machine.

    Args:
        size: Bytes that it needs.
        what: Name for the error.

    Raises:
        BadInput: It needs more.
    """
    free = free_bytes()
    if size > free:
        raise BadInput(
            f"{what} need {size / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; give fewer samples, "
            f"{option('n')}, or a smaller {option('size')}"
        )


def _joined(parts: list[Any]) -> Any:
    """Join the results of parts, which are tensors, tuples or dicts."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Return the free memory of `device` in bytes; 2 GiB where the system does not report it."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()
