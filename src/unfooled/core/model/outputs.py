"""What a model returned, as logits; what it raised, as its own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unfooled.core.errors import BadInput


def logits_of(output: Any) -> Tensor:
    """Unwrap what models return: a tensor, an object with `.logits`, a dict with "logits", or a tuple led by it."""
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
    """The model itself raised an error, which is the cause of this one."""


def answered(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the model returns; what it raises is told as its own.

    Raises:
        ModelFails: with the model's error in one line. Memory that has run out stays what it is.
    """
    try:
        return model(x)
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        if "out of memory" in str(error).lower():
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        raise ModelFails(
            f"the model fails on samples of shape {tuple(x.shape[1:])}, {x.dtype}, with {type(error).__name__}: {said}"
        ) from error
