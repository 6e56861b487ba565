"""Outputs of a model as logits, and its exceptions as errors of the model."""

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
    """An error that the model itself raised, which is the cause of this one."""


def answered(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Call the model, and report an exception of its own as such.

    Raises:
        ModelFails: with the model's error in one line. Exhausted memory is raised as it is.
    """
    try:
        return model(x)
    except (BadInput, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if "out of memory" in str(error).lower():
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        shape, kind = tuple(x.shape[1:]), type(error).__name__
        raise ModelFails(f"the model fails on samples of shape {shape}, {x.dtype}, with {kind}: {reason}") from error
