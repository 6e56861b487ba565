"""Loading of models from common formats, as a `Classifier` of inputs in [0, 1]."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unfooled.core.errors import BadInput, missing_file, option
from unfooled.core.limits import Limits, allowing, regular
from unfooled.core.model.classifier import Classifier
from unfooled.models.architectures import ARCHITECTURES
from unfooled.models.origins import record_origin
from unfooled.models.readers.exported import from_exported
from unfooled.models.readers.factory import from_factory
from unfooled.models.readers.fitting import from_checkpoint
from unfooled.models.readers.huggingface import from_folder
from unfooled.models.readers.loaded import Loaded, Statistic
from unfooled.models.readers.timm_models import from_timm

__all__ = ["ARCHITECTURES", "load_model"]

CHECKPOINTS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")


@record_origin
def load_model(
    source: str | Path | nn.Module | Callable[..., Any],
    arch: str | None = None,
    device: str | torch.device = "cpu",
    *,
    mean: Statistic = None,
    std: Statistic = None,
    classes: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    name: str | None = None,
    trust_pickle: bool = False,
    limits: Limits | None = None,
) -> Classifier:
    """Load a classifier, in evaluation mode, on `device`.

    Args:
        source: One of
            a checkpoint, `.pt`, `.pth`, `.ckpt` or `.safetensors`, of the architecture `arch` or one stored in it;
            `package.module:factory` or `path/to/file.py:factory`, called without arguments, or a module instance;
            an exported program, `.pt2`;
            `timm:NAME`, with its published weights;
            a folder of a Hugging Face image classifier;
            a module or callable (wrapped; copied first if it is in training mode or on another device), or a
            `Classifier` (returned as it is).
        arch: Architecture of a checkpoint: a key of `ARCHITECTURES`, `timm:NAME`, or a factory as above. None: the
            one stored in the checkpoint.
        device: Device of the model.
        mean: Mean of the training data, in fractions of the input range, one number or one per channel. This and
            the following three take precedence over values stored in the source. None: those of the source.
        std: Standard deviation of the training data, likewise.
        classes: Class names in the order of the logits.
        input_shape: Shape of one sample, (C, H, W).
        num_classes: Number of classes, K. None: inferred from the weights.
        name: Name in reports. None: the name of the file.
        trust_pickle: True: allow a file to run arbitrary code when it is loaded; only for files from trusted authors.
        limits: Sizes beyond which a file is refused. None: those in force.

    Raises:
        BadInput: A missing or damaged file, a pickle that would run code, an unknown architecture, weights that do not
            fit, a factory that fails, or an optional dependency that is not installed; the message gives the remedy.
    """
    if limits is not None:
        with allowing(limits):
            return load_model(
                source, arch, device, mean=mean, std=std, classes=classes, input_shape=input_shape,
                num_classes=num_classes, name=name, trust_pickle=trust_pickle,
            )  # fmt: skip
    if isinstance(source, Classifier):
        return _unchanged(source, mean, std)
    place = torch.device(device)
    if isinstance(source, (str, Path)):
        with torch.random.fork_rng(devices=[]):  # fresh weights draw random numbers, and are then replaced
            loaded = _from_name(
                str(source), arch, place, input_shape=input_shape, num_classes=num_classes, trust_pickle=trust_pickle
            )
    elif callable(source):
        loaded = Loaded(_ready(source, place), getattr(source, "__name__", ""))
    else:
        raise BadInput(f"the model is a {type(source).__name__}; give a path, a name, a module or a callable")
    if isinstance(loaded.module, Classifier):
        return _unchanged(loaded.module, mean, std).to(place).eval()
    given: dict[str, Any] = {"mean": mean, "std": std, "classes": classes, "input_shape": input_shape, "name": name}
    loaded = replace(loaded, **{key: value for key, value in given.items() if value is not None})
    if loaded.classes is not None and num_classes is not None and len(loaded.classes) != num_classes:
        raise BadInput(f"there are {len(loaded.classes)} class names for {num_classes} classes")
    facts: dict[str, Any] = {key: getattr(loaded, key) for key in given}
    return Classifier(loaded.module, **facts).to(place).eval()


def _from_name(source: str, arch: str | None, device: torch.device, *, trust_pickle: bool, **sizes: Any) -> Loaded:
    """Load a model by path or name; the form of the name determines the kind of source."""
    path = regular(Path(source))
    kind = "folder" if path.is_dir() else path.suffix.lower()
    known = kind in CHECKPOINTS or (arch is not None and kind not in (".pt2", ".py"))  # with arch, it is a checkpoint
    checkpoint = known and path.is_file()
    if arch is not None and not checkpoint and (path.exists() or ":" in source):
        raise BadInput(
            f"{option('arch')} {arch!r} goes with a checkpoint ({', '.join(CHECKPOINTS)}); {source} brings its own"
        )
    if source.startswith("timm:"):
        return from_timm(source.removeprefix("timm:"))
    if kind == "folder":
        return from_folder(path)
    if path.is_file():
        if kind == ".pt2":
            return from_exported(path, device, trust_pickle=trust_pickle)
        if checkpoint:
            return from_checkpoint(path, arch, trust_pickle=trust_pickle, **sizes)
        remedy = f"name its factory: {source}:factory" if kind == ".py" else f"known are {', '.join(CHECKPOINTS)}, .pt2"
        raise BadInput(f"{source} is not a model file; {remedy}")
    if ":" in source and path.suffix.lower() not in (*CHECKPOINTS, ".pt2"):
        return Loaded(from_factory(source), source)
    if source in ARCHITECTURES:
        raise BadInput(
            f"{source} is an architecture, which has no weights; give a checkpoint as the source and "
            f"{option('arch', source)}"
        )
    raise missing_file(path, (*CHECKPOINTS, ".pt2"))


def _ready(model: nn.Module | Callable[..., Any], device: torch.device) -> nn.Module | Callable[..., Any]:
    """Return the given model, or a copy if its mode or device has to be changed."""
    if not isinstance(model, nn.Module):
        return model
    wanted = (device.type, device.index or 0)
    elsewhere = any((w.device.type, w.device.index or 0) != wanted for w in [*model.parameters(), *model.buffers()])
    trains = any(module.training for module in model.modules())
    return copy.deepcopy(model) if elsewhere or trains else model


def _unchanged(model: Classifier, mean: Statistic, std: Statistic) -> Classifier:
    """Return a classifier unchanged; refuse `mean` and `std`, which would have no effect."""
    if mean is not None or std is not None:
        raise BadInput(f"{model.name} is a Classifier with a normalisation of its own; leave mean and std out")
    return model
