"""Initial weights with which bounds by intervals neither grow nor vanish from layer to layer.

    W ~ N(0, 2 pi / n^2),  b = 0      n: inputs of one output;  E sum_j |W_j| r = 2 r, which the ReLU halves

References:
    Shi et al., Fast certified robust training with short warmup, NeurIPS 2021, arXiv:2103.17268, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def initialise_for_intervals(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of all linear and convolutional layers anew, in place; biases become 0.

    Args:
        model: Network.
        generator: Random generator on the device of the weights. None: the global one.

    Example:
        >>> layer = nn.Linear(400, 400)
        >>> initialise_for_intervals(layer, torch.Generator().manual_seed(0))
        >>> round(float(layer.weight.detach().abs().sum(1).mean()), 1)
        2.0
    """
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            inputs = layer.weight[0].numel()
            layer.weight.normal_(0, math.sqrt(2 * math.pi) / inputs, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
