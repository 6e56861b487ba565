"""Training checkpoints: the state after an epoch, to resume from, in a file that `load_model` reads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.runs.opening import FilePlace, open_file
from unfooled.runs.sealed import seal_mapping, unchanged
from unfooled.runs.settings import LAYOUT, OTHER_FILE, plain, refuse_changed
from unfooled.training.averaging import Average
from unfooled.training.progress import Memory


@dataclass(frozen=True)
class Checkpoint:
    """A file that training is saved to after every epoch, and resumed from.

    It is written by `torch.save` and can be read with `weights_only=True`. Beside the weights it holds the settings,
    the version of its layout (see `unfooled.runs.settings`) and the SHA-256 of everything else.

    Args:
        path: File to write, `.pt`, which `load_model` reads; or the URL or open file of one.
        about: Facts for a loader, stored beside the weights: arch, input_shape, num_classes, mean, std, classes.
        settings: Settings that must agree for a run to be resumed: loss, data, batch size, seed, ...
    """

    path: FilePlace
    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        history: list[dict[str, Any]],
        memory: Memory | None = None,
        average: Average | None = None,
    ) -> None:
        """Write the state after the epochs in `history`, atomically.

        Raises:
            BadInput: The file cannot be written.
        """
        buffer = io.BytesIO()
        state = {"model": _network(model).state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        if memory is not None:
            state["memory"] = memory.state()
        if average is not None:
            state["average"] = average.state()
        torch.save(seal_mapping({**self.about, **state, "layout": LAYOUT, "settings": plain(self.settings)}), buffer)
        open_file(self.path).write(buffer.getvalue())

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        memory: Memory | None = None,
        average: Average | None = None,
    ) -> list[dict[str, Any]]:
        """Restore model, optimiser, memory and average.

        Returns:
            The epochs already trained; an empty list where there is no file.

        Raises:
            BadInput: The file was made with other settings or by version 0.1, is damaged, or is no checkpoint.
        """
        data = open_file(self.path).read()
        if data is None:
            return []
        try:
            state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
            layout, before = state.get("layout"), state["settings"]
            refuse_changed(str(self.path), before, self.settings, layout=layout, kind="training", remedy=OTHER_FILE)
            if not unchanged(state):
                raise ValueError("it does not hold what was written there")
            _network(model).load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if memory is not None:
                memory.restore(state.get("memory", {}))
            if average is not None:
                average.restore(state.get("average", {}))
        except BadInput:
            raise
        except Exception as error:  # a damaged file makes the unpickler raise nearly anything
            raise BadInput(
                f"{self.path} is no checkpoint to resume from ({str(error) or type(error).__name__}); {OTHER_FILE}"
            ) from error
        return list(state["history"])

    def history(self) -> list[dict[str, Any]]:
        """Return the epochs already trained; an empty list where there is no file."""
        data = open_file(self.path).read()
        if data is None:
            return []
        return list(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["history"])


def _network(model: nn.Module) -> nn.Module:
    """Return the network without its normalisation, which the checkpoint stores in `about`."""
    return model.module if isinstance(model, Classifier) and isinstance(model.module, nn.Module) else model
