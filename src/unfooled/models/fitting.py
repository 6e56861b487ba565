"""Weights into a module, or one sentence on why they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from unfooled.core.checks import BadInput
from unfooled.models.architectures import fitting
from unfooled.models.checkpoints import within


def fit(module: nn.Module, state: Mapping[str, Tensor], *, arch: str, path: Path) -> None:
    """Load `state` into `module`, every weight of which must be there.

    Raises:
        BadInput: weights are missing, unexpected or of another shape; counts and the first of each are given, and the
            architectures that would fit.
    """
    wanted = module.state_dict()
    state = within(state, set(wanted))
    # Counters of batches, which files from before PyTorch 0.4.1 lack and no evaluation reads.
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
        raise BadInput(f"the weights in {path} do not fit {arch}: {counts}{_mend(state, arch, faults)}")
    module.load_state_dict(state, strict=False)


def _mend(state: Mapping[str, Tensor], arch: str, faults: Mapping[str, list[str]]) -> str:
    others = [name for name in fitting(state) if name != arch]
    if others:
        return f"; they have the names of {' or '.join(others)}"
    if not faults["missing"] and not faults["unexpected"]:
        return "; give the input_shape and num_classes that it was trained with"
    return ""
