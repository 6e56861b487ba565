"""Reading of checkpoints without running code in them.

Files are `.safetensors`, or PyTorch's own `.pt`, `.pth`, `.ckpt`, read with `weights_only=True`. A training checkpoint
of this library is one of these, with the following entries (for safetensors: in the header, each value as JSON):

    model (the weights), arch, input_shape, num_classes, mean, std, classes

Class names are also read from the entries of other programs (`class_to_idx`, `id2label`, ...), in `class_lists`.

Common wrappers (`state_dict`, `model_state_dict`, `net`) and prefixes (`module.`, `model.`, `_orig_mod.`) are
removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.limits import check_classes, check_zip
from unfooled.models.names import strip
from unfooled.models.readers.class_lists import stated_names
from unfooled.models.readers.pickles import read_pickle

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
OTHER_ENTRIES = ("optimizer", "optimizer_states", "optimizers", "lr_schedulers", "scheduler", "callbacks", "loops")
MAX_DEPTH = 4  # largest number of nested mappings
MAX_CHANNELS = 4096  # largest number of channels of a normalisation
FACTS = ("arch", "input_shape", "num_classes", "mean", "std", "classes")
CONCEPTS = ("attributes", "left_out", "trained_on")
"""Entries about attributes; what other programs store under these names is passed over."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        state: Tensors by the name of the weight, without wrappers and prefixes.
        facts: Entries of `FACTS` and `CONCEPTS` in the file.
        module: The whole module, if one was pickled (and trusted). None: weights only.
    """

    state: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read a file into host memory.

    Args:
        path: File of safetensors or of `torch.save`.
        trust_pickle: True: allow a pickle to run arbitrary code; only for files from trusted authors.

    Raises:
        BadInput: The file is truncated or damaged, would run code, or holds no weights.
    """
    check_zip(path)
    if path.suffix == ".safetensors":
        content, facts = _read_safetensors(path)
    else:
        content = read_pickle(path, trust_pickle)
        wrapped = isinstance(content, Mapping) and any(key in content for key in WRAPPERS)
        facts = dict(content) if wrapped else {}
    weights = _weights_in(content)
    header = facts or content
    if isinstance(weights, nn.Module):
        return Checkpoint(weights.state_dict(), _parsed(facts, path) | _classes(header, weights, path), weights)
    if not weights:
        kind = type(content).__name__
        if isinstance(content, Mapping):
            kind = ", ".join(key[:40] for key in list(content)[:6] if isinstance(key, str))
        raise BadInput(f"{path} holds no weights (it holds {kind or 'nothing'})")
    _check_sizes(weights, path)
    names = [key for key in weights if key not in ("mean", "std")]
    if names and all(key.startswith("module.") for key in names):  # the whole state of a `Classifier`
        facts = {key: value for key, value in facts.items() if value is not None}
        facts = {key: weights[key] for key in ("mean", "std") if key in weights} | facts
        weights = {key: weights[key] for key in names}
    parsed = _parsed(facts, path)
    return Checkpoint(strip(weights), parsed | _classes(header, weights, path, parsed.get("num_classes")))


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights and the header of a safetensors file; its entries of `FACTS` and `CONCEPTS` are parsed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise BadInput(f"{path} is not a whole safetensors file ({error}); copy or save it again") from error
    facts: dict[str, Any] = dict(header)
    for key in (*FACTS, *CONCEPTS):
        if key in header:
            try:
                facts[key] = json.loads(header[key])
            except (ValueError, RecursionError):
                facts[key] = header[key]
    return state, facts


def _classes(
    content: Any, weights: Mapping[str, Tensor] | nn.Module, path: Path, stated: int | None = None
) -> dict[str, Any]:
    """Return the class names that a file states for the outputs of its model, as an entry; empty: it states none.

    The model's last layer usually comes last; where no list is of its length, lists that fit another layer are taken.
    """
    if not isinstance(content, Mapping):
        return {}
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    sizes = [value.shape[0] for value in tensors.values() if isinstance(value, Tensor) and value.ndim]
    for outputs in ([stated],) if stated is not None else (sizes[-1:], sizes):
        fitting = {2 if size == 1 else size for size in outputs}
        if names := stated_names(content, fitting, path):
            return {"classes": names}
    return {}


def _concepts_in(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries about attributes that have the form in which training stores them."""
    parsed: dict[str, Any] = {}
    for key in ("attributes", "left_out"):
        names = facts.get(key)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            parsed[key] = list(names)
    prints = facts.get("trained_on")
    if isinstance(prints, Tensor) and prints.dtype == torch.int64 and prints.ndim == 1:
        parsed["trained_on"] = prints
    return parsed


def _weights_in(content: Any) -> Mapping[str, Tensor] | nn.Module:
    """Return the state dict (or the whole module) inside a checkpoint's wrappers; empty if there is none."""
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), (Mapping, nn.Module)) and (inside := _weights_in(content[key])):
            return inside
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return own or _nested(content)


def _nested(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors of mappings in mappings, with their nested names joined by dots."""
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or key in OTHER_ENTRIES:
            continue
        if isinstance(value, Tensor):
            tensors[prefix + key] = value
        elif isinstance(value, nn.Module):
            tensors |= {f"{prefix}{key}.{name}": tensor for name, tensor in value.state_dict().items()}
        elif isinstance(value, Mapping) and depth < MAX_DEPTH:
            tensors |= _nested(value, f"{prefix}{key}.", depth + 1)
    return tensors


def _check_sizes(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors larger than their file, which repeat a few stored numbers by their strides.

    Raises:
        BadInput: A tensor is larger; a network of its size would need far more memory than the file takes.
    """
    own = path.stat().st_size
    for key, value in weights.items():
        size = value.numel() * value.element_size()
        if size > own and not value.is_contiguous():
            raise BadInput(
                f"{path} states {key[:80]} of shape {tuple(value.shape)}, {size:,} bytes, and has {own:,} itself; save "
                "the weights again with torch.save"
            )


def _numbers(value: Any) -> list[float]:
    """Return a tensor, a number or a flat list of numbers as a list."""
    values = value.reshape(-1).tolist() if isinstance(value, Tensor) else value
    values = values if isinstance(values, (list, tuple)) else [values]
    if len(values) > MAX_CHANNELS:
        raise ValueError(f"there are more than {MAX_CHANNELS} values")
    return torch.tensor([float(number) for number in values], dtype=torch.float32).tolist()


def _parsed(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Convert the entries of `FACTS` to their types, without those that are None."""
    parsed: dict[str, Any] = {}
    for key in FACTS:
        value = facts.get(key)
        try:
            if value is None:
                continue
            if key == "arch":
                parsed[key] = str(value)
            elif key in ("mean", "std"):
                parsed[key] = _numbers(value)
            elif key == "input_shape":
                parsed[key] = tuple(int(side) for side in value[:9])
            elif key == "num_classes" or isinstance(value, int):
                parsed["num_classes"] = int(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            shown = repr(value)[:80] if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
            raise BadInput(f"{path} states {key} = {shown}, which cannot be read: {error}") from error
    parsed |= _concepts_in(facts)
    check_classes(parsed.get("num_classes", 0), str(path))
    check_classes(len(parsed.get("attributes", ())), str(path))
    if parsed.get("mean") == [0.0] and parsed.get("std") == [1.0]:
        del parsed["mean"], parsed["std"]
    return parsed
