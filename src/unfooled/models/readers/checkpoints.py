"""Weights from files, read without running what is in them.

Files are `.safetensors`, or PyTorch's own `.pt`, `.pth`, `.ckpt`, read with `weights_only=True`. A training checkpoint
of this library is either, with these entries (for safetensors: in its header, each value as JSON):

    model (the weights), arch, input_shape, num_classes, mean, std, classes

Other people's wrappers (`state_dict`, `model_state_dict`, `net`) and prefixes (`module.`, `model.`, `_orig_mod.`) are
stripped.
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
from unfooled.models.names import strip
from unfooled.models.readers.pickles import read_pickle

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
FACTS = ("arch", "input_shape", "num_classes", "mean", "std", "classes")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        state: Name of a weight -> tensor, without wrappers and prefixes.
        facts: The entries of `FACTS` that the file states.
        module: The whole module, where one was pickled (and trusted).
    """

    state: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def read_checkpoint(path: Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read a file into host memory.

    Args:
        path: File of safetensors or of `torch.save`.
        trust_pickle: Whether to run the code that a pickle asks for. Only for files whose author you trust as your own
            shell.

    Raises:
        BadInput: The file is cut off or damaged, would run code, or holds no weights.
    """
    if path.suffix == ".safetensors":
        content, facts = _read_safetensors(path)
    else:
        content = read_pickle(path, trust_pickle)
        wrapped = isinstance(content, Mapping) and any(key in content for key in WRAPPERS)
        facts = dict(content) if wrapped else {}
    weights = _weights_in(content)
    if isinstance(weights, nn.Module):
        return Checkpoint(weights.state_dict(), _parsed(facts, path), weights)
    if not weights:
        kind = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
        raise BadInput(f"{path} holds no weights (it holds {kind or 'nothing'})")
    names = [key for key in weights if key not in ("mean", "std")]
    if names and all(key.startswith("module.") for key in names):  # the whole state of a `Classifier`
        facts = {key: value for key, value in facts.items() if value is not None}
        facts = {key: weights[key] for key in ("mean", "std") if key in weights} | facts
        weights = {key: weights[key] for key in names}
    return Checkpoint(strip(weights), _parsed(facts, path))


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights and the facts of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file ({error}); copy or save it again") from error
    facts = {}
    for key in FACTS:
        if key in header:
            try:
                facts[key] = json.loads(header[key])
            except ValueError:
                facts[key] = header[key]
    return state, facts


def _weights_in(content: Any) -> Mapping[str, Tensor] | nn.Module:
    """Return the state dict (or the whole module) inside a checkpoint's wrappers; empty where there is none."""
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), (Mapping, nn.Module)):
            return _weights_in(content[key])
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _parsed(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return facts in their types, without those that are None."""
    parsed: dict[str, Any] = {}
    for key in FACTS:
        value = facts.get(key)
        try:
            if value is None:
                continue
            if key == "arch":
                parsed[key] = str(value)
            elif key in ("mean", "std"):
                parsed[key] = torch.as_tensor(value, dtype=torch.float32).reshape(-1).tolist()
            elif key == "input_shape":
                parsed[key] = tuple(int(side) for side in value)
            elif key == "num_classes" or isinstance(value, int):
                parsed["num_classes"] = int(value)
            else:
                parsed[key] = [str(name) for name in value]
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(f"{path} states {key} = {value!r}, which cannot be read: {error}") from error
    if parsed.get("mean") == [0.0] and parsed.get("std") == [1.0]:
        del parsed["mean"], parsed["std"]
    return parsed
