"""Tools of the contract checks: a snapshot of the state that a method must not change, and failure messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def name_of(method: Any) -> str:
    """Return the name of a method's function or class, for error messages."""
    while isinstance(method, partial):
        method = method.func
    return getattr(method, "__name__", type(method).__name__)


def run_checks(promises: Mapping[str, Callable[[], None]], only: Iterable[str] | None, method: Any) -> None:
    """Run the checks of the promises in turn.

    Args:
        promises: Checks by name; each raises AssertionError where the promise is broken.
        only: Names of the promises to check. None: all.
        method: Method that is checked, for the error sentence.

    Raises:
        AssertionError: One sentence that names the broken promise and the setting.
        ValueError: `only` names no promise.
    """
    wanted = list(promises) if only is None else list(only)
    unknown = [name for name in wanted if name not in promises]
    if unknown:
        raise ValueError(f"there is no promise {unknown[0]!r}; there are {', '.join(promises)}")
    for name in wanted:
        try:
            promises[name]()
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{name_of(method)} fails while its promise {name!r} is checked, with {type(error).__name__}: {error}"
            ) from error


def require(holds: bool | Tensor, sentence: str) -> None:
    """Raise an AssertionError with this sentence unless the condition holds."""
    if not holds:
        raise AssertionError(sentence)


def close(a: Tensor, b: Tensor, *, rtol: float | None = None, atol: float | None = None) -> bool:
    """Tell whether two tensors agree up to rounding (NaN equals NaN)."""
    try:
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)
    except AssertionError:
        return False
    return True


def differs_by(a: Tensor, b: Tensor) -> str:
    """Return the largest difference of two tensors of one shape, as text."""
    return f"{float((a - b).detach().abs().max()):.3g}"


def require_refusal(call: Callable[[], Any], method: Any, what: str) -> None:
    """Demand that a call with bad input raises ValueError.

    Args:
        call: Call with bad input.
        method: Method that is called, for the error sentence.
        what: Description of the bad input, for the error sentence.
    """
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"{name_of(method)} answers bad input ({what}) with {type(error).__name__} instead of a ValueError: {error}"
        ) from error
    raise AssertionError(f"{name_of(method)} accepts bad input ({what}) instead of raising a ValueError")


class Snapshot:
    """Snapshot of a model, of tensors and of the global random generators.

    Args:
        model: Model that must be left as it is. None: there is none.
        tensors: Tensors that must be left as they are, by their name in the error sentence.
    """

    def __init__(self, model: nn.Module | None = None, **tensors: Tensor) -> None:
        self.model, self.tensors = model, tensors
        self.before = self._state()

    def _state(self) -> dict[str, Any]:
        """Return the state to compare: error text for a change -> value."""
        state: dict[str, Any] = {}
        for name, t in self.tensors.items():
            state[f"changes {name} in place"] = t.detach().clone()
            state[f"changes requires_grad of {name}"] = t.requires_grad
            state[f"leaves a gradient in {name}.grad"] = _gradient(t)
        if self.model is not None:
            modules, parameters = list(self.model.modules()), list(self.model.parameters())
            state["leaves the model in another mode (train or eval)"] = [module.training for module in modules]
            state["changes requires_grad of the model's parameters"] = [p.requires_grad for p in parameters]
            state["leaves gradients in the model's parameters"] = [_gradient(p) for p in parameters]
            state["changes the model's parameters"] = [p.detach().clone() for p in parameters]
            state["changes the model's buffers"] = [b.detach().clone() for b in self.model.buffers()]
            state["leaves hooks on the model"] = [
                len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
                for module in modules
            ]
        state["uses torch's global random generator"] = torch.get_rng_state()
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002  (the global generator is what is checked)
        state["uses numpy's global random generator"] = [torch.from_numpy(np.array(keys, dtype=np.int64)), position]
        state["uses Python's global random generator"] = random.getstate()
        return state

    def require_unchanged(self, method: Any, setting: str) -> None:
        """Demand that nothing has changed since the snapshot was made.

        Args:
            method: Method that was called since, for the error sentence.
            setting: Description of the setting, for the error sentence.
        """
        now = self._state()
        for sentence, before in self.before.items():
            require(_equal(before, now[sentence]), f"{name_of(method)} {sentence} ({setting})")


def _gradient(t: Tensor) -> Tensor | None:
    """Return a copy of a tensor's stored gradient."""
    return t.grad.detach().clone() if t.is_leaf and t.grad is not None else None


def _equal(a: Any, b: Any) -> bool:
    """Compare values that may hold tensors, bit by bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(p, q) for p, q in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
