"""Loading of models from common formats, as a `Classifier` of inputs in [0, 1]."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unfooled.core.errors import BadInput, missing_file, nearest, option
from unfooled.core.limits import Limits, allowing, regular
from unfooled.core.model.classifier import Classifier
from unfooled.models.architectures import ARCHITECTURES
from unfooled.models.black_boxes.box import BlackBox
from unfooled.models.black_boxes.endpoint import Endpoint
from unfooled.models.black_boxes.estimators import is_estimator
from unfooled.models.black_boxes.given import as_model, no_model
from unfooled.models.known import CHECKPOINTS, KERAS, KINDS, KNOWN, OF_KERAS, kind_of
from unfooled.models.origins import record_origin
from unfooled.models.readers.checkpoints import CONCEPTS
from unfooled.models.readers.estimators import from_estimator_file
from unfooled.models.readers.exported import from_exported
from unfooled.models.readers.factory import from_factory
from unfooled.models.readers.fitting import from_checkpoint
from unfooled.models.readers.huggingface import from_folder
from unfooled.models.readers.loaded import Loaded, Statistic
from unfooled.models.readers.onnx_files import from_onnx
from unfooled.models.readers.timm_models import from_timm

__all__ = ["ARCHITECTURES", "load_model"]


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
    model_kind: str | None = None,
    trust_pickle: bool = False,
    limits: Limits | None = None,
) -> Classifier:
    """Load a classifier, in evaluation mode, on `device`.

    Args:
        source: One of
            a checkpoint, `.pt`, `.pth`, `.ckpt` or `.safetensors`, of the architecture `arch` or one stored in it;
            `package.module:factory` or `path/to/file.py:factory`, called without arguments, or a module instance;
            an exported program, `.pt2`, or an ONNX file, `.onnx` (judged by onnxruntime);
            `timm:NAME`, with its published weights;
            a folder of a Hugging Face image classifier;
            an address, `http://127.0.0.1:8000/predict`, of a service that answers with scores or labels, see
            `Endpoint`;
            a fitted classifier of scikit-learn or XGBoost, or a file of one: `.skops`, or `.joblib` with
            `trust_pickle`;
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
        model_kind: Kind of the source, one of `KINDS`, where its name suggests another one. None: by the name.
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
                num_classes=num_classes, name=name, model_kind=model_kind, trust_pickle=trust_pickle,
            )  # fmt: skip
    if isinstance(source, Classifier):
        return _unchanged(source, mean, std)
    place = torch.device(device)
    if isinstance(source, (str, Path)):
        with torch.random.fork_rng(devices=[]):  # fresh weights draw random numbers, and are then replaced
            loaded = _from_name(
                str(source), arch, place, model_kind, trust_pickle=trust_pickle, input_shape=input_shape,
                num_classes=num_classes,
            )  # fmt: skip
    elif is_estimator(source) or callable(source):
        loaded = Loaded(_ready(as_model(source), place), getattr(source, "__name__", ""))
    else:
        raise no_model(source)
    if isinstance(loaded.module, Classifier):
        return _unchanged(loaded.module, mean, std).to(place).eval()
    given: dict[str, Any] = {"mean": mean, "std": std, "classes": classes, "input_shape": input_shape, "name": name}
    loaded = replace(loaded, **{key: value for key, value in given.items() if value is not None})
    if loaded.classes is not None and num_classes is not None and len(loaded.classes) != num_classes:
        raise BadInput(f"there are {len(loaded.classes)} class names for {num_classes} classes")
    if isinstance(loaded.module, BlackBox):
        box = loaded.module
        loaded = replace(loaded, classes=loaded.classes or box.classes, name=loaded.name or box.name)
    facts: dict[str, Any] = {key: getattr(loaded, key) for key in (*given, *CONCEPTS)}
    return Classifier(loaded.module, **facts).to(place).eval()


def _from_name(
    source: str, arch: str | None, device: torch.device, kind: str | None, *, trust_pickle: bool, **sizes: Any
) -> Loaded:
    """Load a model by path or name, of the given kind, or of the one that the form of the name suggests."""
    if kind is not None and kind not in KINDS:
        raise BadInput(f"{option('model_kind')} is {kind!r}{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    if kind == "service" or (kind is None and source.startswith(("http://", "https://"))):
        return _service(source, arch, sizes["num_classes"])
    path = regular(Path(source))
    kind = kind or kind_of(source, path, arch)
    if arch is not None and kind != "checkpoint" and (path.exists() or ":" in source):
        raise BadInput(
            f"{option('arch')} {arch!r} goes with a checkpoint ({', '.join(CHECKPOINTS)}); {source} brings its own"
        )
    if kind in ("factory", "timm"):
        return Loaded(from_factory(source), source) if kind == "factory" else from_timm(source.removeprefix("timm:"))
    if not path.exists():
        raise _not_there(source, path)
    readers: dict[str, Callable[[], Loaded]] = {
        "checkpoint": lambda: from_checkpoint(path, arch, trust_pickle=trust_pickle, **sizes),
        "exported": lambda: from_exported(path, device, trust_pickle=trust_pickle),
        "onnx": lambda: from_onnx(path),
        "estimator": lambda: from_estimator_file(path, trust_pickle=trust_pickle),
        "hugging-face": lambda: from_folder(path),
    }
    if kind not in readers:
        remedies = {".py": f"name its factory: {source}:factory", **dict.fromkeys(KERAS, OF_KERAS)}
        remedy = remedies.get(path.suffix.lower(), f"known are {', '.join(KNOWN)}")
        raise BadInput(f"{source} is not a model file; {remedy}")
    if path.is_dir() != (kind == "hugging-face"):
        raise BadInput(f"{source} is a {'folder' if path.is_dir() else 'file'}, and no {option('model_kind', kind)}")
    return readers[kind]()


def _service(source: str, arch: str | None, classes: int | None) -> Loaded:
    """Return the black box behind an address."""
    if arch is not None:
        raise BadInput(f"{option('arch')} {arch!r} goes with a checkpoint; {source} is a service")
    service = Endpoint.of(source)
    box = BlackBox(service, classes=classes or service.classes, name=service.url, identity=service.url)
    return Loaded(box, service.url)


def _not_there(source: str, path: Path) -> BadInput:
    """Return the error for a name that is no file."""
    if source in ARCHITECTURES:
        return BadInput(
            f"{source} is an architecture, which has no weights; give a checkpoint as the source and "
            f"{option('arch', source)}"
        )
    return missing_file(path, KNOWN)


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
