"""Loading of checkpoints into their modules, with an error message for weights that do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from unfooled.core.errors import BadInput, option
from unfooled.models.architectures import ARCHITECTURES, architectures_of, build_like, builder_of, without_weights
from unfooled.models.names import under_one_prefix
from unfooled.models.readers.checkpoints import CONCEPTS, Checkpoint, read_checkpoint
from unfooled.models.readers.factory import from_factory
from unfooled.models.readers.loaded import Loaded
from unfooled.models.readers.timm_models import from_timm


def from_checkpoint(
    path: Path,
    arch: str | None,
    *,
    input_shape: Sequence[int] | None,
    num_classes: int | None,
    trust_pickle: bool,
) -> Loaded:
    """Build the architecture of a checkpoint, and load its weights.

    Args:
        path: File of a checkpoint.
        arch: Key of `ARCHITECTURES`, `timm:NAME` or a factory. None: the one stored in the checkpoint.
        input_shape: Shape of one sample, (C, H, W). None: inferred from the checkpoint or its weights.
        num_classes: Number of classes. None: inferred from the checkpoint or its weights.
        trust_pickle: True: allow the file to run arbitrary code.

    Raises:
        BadInput: The checkpoint cannot be read, its architecture is unknown, or its weights do not fit.
    """
    if arch is not None and ":" not in arch:
        builder_of(arch)  # an unknown name is reported before a large file is read
    checkpoint = read_checkpoint(path, trust_pickle=trust_pickle)
    facts = checkpoint.facts
    statistics = {key: facts.get(key) for key in ("mean", "std", "classes", *CONCEPTS)}
    shape = input_shape if input_shape is not None else facts.get("input_shape")
    if checkpoint.module is not None:
        return Loaded(checkpoint.module, path.stem, input_shape=shape, **statistics)
    classes = num_classes if num_classes is not None else facts.get("num_classes")
    arch = arch or _stated(path, checkpoint)
    if arch.startswith("timm:"):
        timm_model = from_timm(arch.removeprefix("timm:"), checkpoint.state, num_classes=classes)
        statistics["mean"] = statistics["mean"] or timm_model.mean
        statistics["std"] = statistics["std"] or timm_model.std
        module, shape = timm_model.module, shape or timm_model.input_shape
    elif ":" in arch:
        module = from_factory(arch)
    else:
        _check_sizes(path, arch, checkpoint.state, shape, classes)
        module = build_like(arch, checkpoint.state, input_shape=shape, classes=classes)
        if shape is None and getattr(module, "fixed_size", True):
            shape = module.input_shape
    if not isinstance(module, nn.Module):
        raise BadInput(f"{arch} returned a {type(module).__name__}, which has no weights to load {path} into")
    fit(module, checkpoint.state, arch=arch, path=path)
    return Loaded(module, path.stem, input_shape=shape, **statistics)


def _check_sizes(
    path: Path, arch: str, state: Mapping[str, Tensor], shape: Sequence[int] | None, classes: int | None
) -> None:
    """Refuse a network of other sizes than its weights before memory is taken for it."""
    try:
        with without_weights():
            module = build_like(arch, state, input_shape=shape, classes=classes)
    except BadInput:
        raise
    except (RuntimeError, ValueError, TypeError, OverflowError, IndexError, ZeroDivisionError) as error:
        raise BadInput(
            f"{path} states sizes that {arch} cannot have, input_shape {shape} and num_classes "
            f"{classes}: {str(error).splitlines()[0][:120]}"
        ) from error
    _check_fit(module.state_dict(), under_one_prefix(state, set(module.state_dict())), arch, path)


def _stated(path: Path, checkpoint: Checkpoint) -> str:
    """Return the architecture stored in a checkpoint; factories are refused, since a file must not run code."""
    arch = checkpoint.facts.get("arch", "")
    if arch in ARCHITECTURES or re.fullmatch(r"timm:[\w.]+", arch):  # other names of timm's are places to load from
        return arch
    fits = architectures_of(checkpoint.state)
    stated = f"states the architecture {arch!r}, which is not known here" if arch else "does not say its architecture"
    remedy = f"its weights have the names of {' or '.join(fits)}" if fits else f"known are {', '.join(ARCHITECTURES)}"
    raise BadInput(f"{path} {stated}; give {option('arch')}: {remedy}, timm:NAME or package.module:factory")


def fit(module: nn.Module, state: Mapping[str, Tensor], *, arch: str, path: Path) -> None:
    """Load `state` into `module`; every weight of the module must be in it.

    Args:
        module: Module to load into; changed in place.
        state: Tensors by the name of the weight.
        arch: Name of the module's architecture, for the error message.
        path: File of the weights, for the error message.

    Raises:
        BadInput: Weights are missing, unexpected or of another shape; the message counts them, gives the first of each,
            and the architectures that would fit.
    """
    wanted = module.state_dict()
    state = under_one_prefix(state, set(wanted))
    _check_fit(wanted, state, arch, path)
    module.load_state_dict(state, strict=False)


def _check_fit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], arch: str, path: Path) -> None:
    # Files from before PyTorch 0.4.1 lack the counters of batches, which no evaluation reads.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    shapes = [
        f"{key}, {tuple(state[key].shape)} in the file and {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    if any(faults.values()):
        counts = ", ".join(f"{len(v)} {kind} (the first: {v[0]})" for kind, v in faults.items() if v)
        raise BadInput(f"the weights in {path} do not fit {arch}: {counts}{_remedy(state, arch, faults)}")


def _remedy(state: Mapping[str, Tensor], arch: str, faults: Mapping[str, list[str]]) -> str:
    """Return a remedy for weights that do not fit; empty if none is known."""
    others = [name for name in architectures_of(state) if name != arch]
    if others:
        return f"; they have the names of {' or '.join(others)}"
    if not faults["missing"] and not faults["unexpected"]:
        return "; give the input_shape and num_classes that it was trained with"
    return ""
