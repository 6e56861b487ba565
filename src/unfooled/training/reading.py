"""Networks as losses call them: each call gets a copy of its input, and what they return is unwrapped to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput, option
from unfooled.core.model.calls import habits_of, run, run_checked
from unfooled.core.model.modes import evaluating
from unfooled.core.model.outputs import logits_of
from unfooled.core.model.precision import HALF, name_of_kind, weight_kinds
from unfooled.training.batches import BatchSource

SAMPLES_TRIED = 2
"""Samples of the call that shows what a network returns and whether it writes into its input."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network and of its wrappers, in which the logits are identified once.

    Attributes:
        num_classes: Number of classes; it identifies the logits whatever the weights are.
    """

    num_classes: int


class LogitsOf(nn.Module):
    """A network that leaves its input unchanged and returns logits.

    Args:
        inner: Network that writes into its input, or returns something other than a tensor.
        outputs: Outputs that all wrappers of the network share.
    """

    def __init__(self, inner: nn.Module, outputs: Outputs) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""
        return logits_of(run(self.inner, x), self.outputs)


def reader_for(model: nn.Module, batches: BatchSource) -> Callable[[nn.Module], nn.Module]:
    """Return a function that wraps the network, or its wrapper, as losses need it; for most networks the identity.

    Args:
        model: Network to train; called once in eval mode (cost: 1 forward of 2 samples).
        batches: Training samples.

    Raises:
        BadInput: The network fails on the samples, has weights in half precision, or which of its outputs are the
            logits is not clear.
    """
    short = next((kind for kind in weight_kinds(model) if kind in HALF), None)
    if short is not None:
        raise BadInput(
            f"the network has {name_of_kind(short)} weights, too coarse for the small steps of training; train "
            f"model.float(), for speed with {option('precision', 'bf16-mixed')}, and convert it afterwards"
        )
    device = next(model.parameters()).device
    x, outputs = batches.x[:SAMPLES_TRIED].to(device), Outputs(int(batches.y.max()) + 1)
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        output = run_checked(model, x)
        habits = habits_of(model)
        if isinstance(output, Tensor) and not (habits is not None and habits.writes):
            return lambda network: network
        logits_of(output, outputs)
    return lambda network: LogitsOf(network, outputs)
