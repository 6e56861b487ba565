"""What a result was made from, told by its bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import bound, modules_of


def tensors_hash(*tensors: Tensor) -> str:
    """SHA-256 of the shapes, dtypes and bytes of tensors, in their order."""
    held = hashlib.sha256()
    for t in tensors:
        held.update(f"{tuple(t.shape)} {t.dtype}".encode())
        held.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return held.hexdigest()


def weights_hash(model: Any) -> str:
    """SHA-256 of the state dicts of the modules behind a callable, names and bytes, in the order of the names.

    Empty for a callable that holds no modules: nothing tells it from another.
    """
    return _states(modules_of(model))


def network_hash(model: Any) -> str:
    """`weights_hash`, whether or not a `Classifier` is around the network; one that normalises counts."""
    return _states([_bare(root) for root in modules_of(model)])


def _bare(root: nn.Module) -> nn.Module:
    while isinstance(root, Classifier) and not root.normalises and isinstance(root.module, nn.Module):
        root = root.module
    return root


def _states(roots: Sequence[nn.Module]) -> str:
    if not roots:
        return ""
    held = hashlib.sha256()
    for root in roots:
        for name, value in sorted(root.state_dict().items()):
            held.update(name.encode())
            if isinstance(value, Tensor):
                held.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return held.hexdigest()


def model_hash(model: Any) -> str:
    """SHA-256 of what a model computes, as far as it can be told: weights, layers and their settings, code.

    Code is that of classes outside of torch and of functions, without comments; tensors that a function closes over or
    an object holds count too.
    """
    held, roots = hashlib.sha256(weights_hash(model).encode()), modules_of(model)
    for root in roots:
        held.update(_settled(repr(root)))
        kinds = {type(module) for module in root.modules() if not type(module).__module__.startswith("torch.")}
        for kind in sorted(kinds, key=lambda k: k.__qualname__):
            _add_kind(held, kind)
    if not isinstance(model, nn.Module):
        _add_kind(held, type(model))
        code = getattr(model, "__code__", None)
        if code is not None:
            _add_code(held, code)
        for part in (*bound(model), *getattr(model, "__dict__", {}).values()):
            if isinstance(part, Tensor):
                held.update(tensors_hash(part).encode())
            elif isinstance(part, (int, float, str, tuple)):
                held.update(_settled(repr(part)))
    return held.hexdigest()


def _settled(text: str) -> bytes:
    """A description without addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).encode()


def _add_kind(held: Any, kind: type) -> None:
    held.update(kind.__qualname__.encode())
    for name, member in sorted(vars(kind).items()):
        code = getattr(member, "__code__", None)
        if code is not None:
            held.update(name.encode())
            _add_code(held, code)


def _add_code(held: Any, code: CodeType) -> None:
    held.update(code.co_code)
    held.update(" ".join(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(held, constant)
        else:
            held.update(_settled(repr(constant)))
