"""Conversion of a model's outputs to logits, and of its exceptions to `ModelFails`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unfooled.core.errors import BadInput


def logits_of(output: Any) -> Tensor:
    """Return the logits in an output: a tensor, an object with `.logits`, a dict with "logits", or a tuple's first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "logits" in output:
        return output["logits"]
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise BadInput(f"the model returned a {type(output).__name__}; it must return logits, (B, K), or hold .logits")


class ModelFails(BadInput):
    """Error for an exception inside the model, which is kept as its cause."""


def answered(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Call the model; raise its exceptions as `ModelFails`.

    Raises:
        ModelFails: The model raised an exception; the message gives its first line. Out-of-memory errors are not
            converted.
    """
    try:
        return model(x)
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        if "out of memory" in str(error).lower():
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        shape, kind = tuple(x.shape[1:]), type(error).__name__
        raise ModelFails(f"the model fails on samples of shape {shape}, {x.dtype}, with {kind}: {reason}") from error
