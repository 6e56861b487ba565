"""Reading of checkpoints without running code in them.

Files are `.safetensors`, or PyTorch's own `.pt`, `.pth`, `.ckpt`, read with `weights_only=True`. A training checkpoint
of this library is one of these, with the following entries (for safetensors: in the header, each value as JSON):

    model (the weights), arch, input_shape, num_classes, mean, std, classes

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
from unfooled.models.names import strip
from unfooled.models.readers.pickles import read_pickle

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
FACTS = ("arch", "input_shape", "num_classes", "mean", "std", "classes")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        state: Tensors by the name of the weight, without wrappers and prefixes.
        facts: Entries of `FACTS` in the file.
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
    """Return the weights and the entries of `FACTS` of a safetensors file."""
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
    """Return the state dict (or the whole module) inside a checkpoint's wrappers; empty if there is none."""
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), (Mapping, nn.Module)):
            return _weights_in(content[key])
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


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
