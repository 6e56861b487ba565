"""Exponential moving averages of the weights, which generalise better than the last ones.

    avg <- d avg + (1 - d) theta   after every step t,   d = min(decay, (1 + t) / (10 + t))

The short memory at first keeps the average from remembering the initial weights. Buffers such as running means are
averaged too; integers are copied.

References:
    Polyak, Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 1992.
    Gowal et al., Uncovering the limits of adversarial training against norm-bounded adversarial examples, 2020,
    arXiv:2010.03593 (decay 0.995 to 0.999; averaging also lessens robust overfitting).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """The moving average of a model's weights, with the weights themselves while the model shows the average.

    Args:
        model: The network in training.
        decay: Share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"average is {decay}; it must lie between 0 and 1, such as 0.995")
        self.model, self.decay, self.steps = model, decay, 0
        self.mean = _copied(model.state_dict())
        self.last: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in self.model.state_dict().items():
            mean = self.mean[name]
            mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)

    def show(self) -> None:
        """Put the average into the model, and keep the weights themselves."""
        self.last = _copied(self.model.state_dict())
        self.model.load_state_dict(self.mean)

    def hide(self) -> None:
        """Put the weights themselves back, to train on."""
        if self.last:
            self.model.load_state_dict(self.last)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside the average, which the model shows: weights and number of steps."""
        return {"steps": torch.tensor(self.steps), **{f"last.{name}": value for name, value in self.last.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, with the average in the model."""
        if not state:
            return
        self.steps = int(state["steps"])
        self.mean = _copied(self.model.state_dict())
        self.last = {name.removeprefix("last."): v for name, v in state.items() if name.startswith("last.")}


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict."""
    return {name: value.detach().clone() for name, value in state.items()}
