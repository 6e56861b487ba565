"""SHA-256 of tensors, models and stored results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from unfooled.core.model.anatomy import Anatomy, anatomy_of, bound, modules_of
from unfooled.core.model.classifier import Classifier
from unfooled.core.samples import Streamed, facts, header, raw
from unfooled.core.used_files import hashes_of


def tensors_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of the shapes, dtypes and bytes of tensors, in their order."""
    first, *others = tensors
    total = facts(first).digest.copy() if isinstance(first, Streamed) else hashlib.sha256(header(first))
    if not isinstance(first, Streamed):
        total.update(raw(first))
    for t in others:
        _add_tensor(total, t)
    return str(total.hexdigest())


def content_hash(value: Any) -> str:
    """Return the SHA-256 of nested mappings, lists, plain values and tensors; the order of keys does not matter.

    Example:
        >>> a, b = {"x": torch.zeros(2), "n": 1}, {"n": 1, "x": torch.zeros(2)}
        >>> content_hash(a) == content_hash(b) != content_hash({"n": 1, "x": torch.zeros(1)})
        True
    """
    total = hashlib.sha256()
    _add_content(total, value)
    return total.hexdigest()


def weights_hash(model: Any) -> str:
    """Return the SHA-256 of the state dicts of the modules behind a callable: names and bytes, sorted by name.

    Empty for a callable without modules.
    """
    return _states_hash(modules_of(model))


def network_hash(model: Any) -> str:
    """Return `weights_hash` of the network itself, without a `Classifier` around it that does not normalise."""
    return _states_hash([_bare(root) for root in modules_of(model)])


def _bare(root: nn.Module) -> nn.Module:
    while isinstance(root, Classifier) and not root.normalises and isinstance(root.module, nn.Module):
        root = root.module
    return root


def _states_hash(roots: Sequence[nn.Module]) -> str:
    if not roots:
        return ""
    total = hashlib.sha256()
    for root in roots:
        for name, value in sorted(root.state_dict().items()):
            total.update(name.encode())
            if isinstance(value, Tensor):
                total.update(raw(value))
    return total.hexdigest()


def model_hash(model: Any) -> str:
    """Return the SHA-256 of a model: its weights, its layers with their settings, and its code.

    The code is that of functions and of classes outside of torch, without comments. Tensors in a closure or in an
    object's attributes count too.
    """
    return anatomy_hash(anatomy_of(model))


def anatomy_hash(anatomy: Anatomy) -> str:
    """Return the `model_hash` of a model from its anatomy."""
    model, total = anatomy.model, hashlib.sha256(_states_hash(anatomy.modules).encode())
    for root in anatomy.modules:
        total.update(_stable_text(repr(root)))
        kinds = {type(module) for module in root.modules() if not type(module).__module__.startswith("torch.")}
        for kind in sorted(kinds, key=lambda k: k.__qualname__):
            _add_kind(total, kind)
    if not isinstance(model, nn.Module):
        _add_kind(total, type(model))
        code = getattr(model, "__code__", None)
        if code is not None:
            _add_code(total, code)
        for part in anatomy.parts:
            if isinstance(part, Tensor):
                total.update(tensors_hash(part).encode())
            elif isinstance(part, (int, float, str, tuple)):
                total.update(_stable_text(repr(part)))
    return total.hexdigest()


def fingerprint(model: Any, x: Tensor, y: Tensor) -> dict[str, str]:
    """Return hashes of the model, its code and weights, of the files that its code uses, and of the data."""
    return {"model": anatomy_hash(anatomy_of(model))[:16], "data": tensors_hash(x, y)[:16], **code_hashes(model)}


def code_hashes(model: Any) -> dict[str, str]:
    """Return the hashes of the files that the user's code of a model depends on, by name; see `core.used_files`.

    Empty for a model that was not loaded by the name of a file or module, as "file.py:name" is.
    """
    anatomy = anatomy_of(model)
    modules = [module for root in anatomy.modules for module in root.modules()]
    owned = [value for module in modules for value in vars(module).values()]
    return hashes_of([model, *anatomy.parts, *modules, *owned])


def has_shared_name(value: Any) -> bool:
    """Return whether a value is a lambda or a function defined inside of a function, whose name others may have."""
    return isinstance(value, FunctionType) and "<" in value.__qualname__


def function_hash(function: FunctionType) -> str:
    """Return the SHA-256 of a function: its code, its defaults and what it captures.

    Comments and the place in the file do not matter; the version of Python does, since the code is compiled.
    """
    total = hashlib.sha256()
    _add_function(total, function, set())
    return total.hexdigest()


def _add_function(total: Any, function: FunctionType, visited: set[int]) -> None:
    visited.add(id(function))
    _add_code(total, function.__code__)
    used = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *bound(function)]
    while used:
        value = used.pop(0)
        if isinstance(value, Tensor):
            total.update(tensors_hash(value).encode())
        elif isinstance(value, nn.Module):
            total.update(weights_hash(value).encode())
        elif isinstance(value, partial):
            used = [value.func, *value.args, *value.keywords.items(), *used]
        elif isinstance(value, (tuple, list)):
            used = [*value, *used]
        elif has_shared_name(value) and id(value) not in visited:
            _add_function(total, value, visited)
        elif callable(value):
            total.update(str(getattr(value, "__qualname__", type(value).__qualname__)).encode())
        elif value is None or isinstance(value, (bool, int, float, str)):
            total.update(f"{value!r} ".encode())


def _stable_text(text: str) -> bytes:
    """Return a repr without memory addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).encode()


def _add_kind(total: Any, kind: type) -> None:
    total.update(kind.__qualname__.encode())
    for name, member in sorted(vars(kind).items()):
        code = getattr(member, "__code__", None)
        if code is not None:
            total.update(name.encode())
            _add_code(total, code)


def _add_code(total: Any, code: CodeType) -> None:
    total.update(code.co_code)
    total.update(" ".join(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(total, constant)
        elif isinstance(constant, frozenset):  # its order differs between processes
            total.update(" ".join(sorted(_stable_text(repr(one)).decode() for one in constant)).encode())
        else:
            total.update(_stable_text(repr(constant)))


def _add_tensor(total: Any, value: Tensor) -> None:
    total.update(header(value))
    total.update(raw(value))


def _add_content(total: Any, value: Any) -> None:
    """Add a value to a hash; different values add different bytes."""
    if isinstance(value, Tensor):
        total.update(b"tensor ")
        _add_tensor(total, value)
    elif isinstance(value, Mapping):
        total.update(f"mapping of {len(value)} ".encode())
        for key in sorted(value, key=repr):
            _add_content(total, key)
            _add_content(total, value[key])
    elif isinstance(value, (list, tuple)):
        total.update(f"list of {len(value)} ".encode())
        for item in value:
            _add_content(total, item)
    else:
        text = json.dumps(value) if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
        total.update(f"{len(text)} {text}".encode())
