"""A module and its normalisation as one classifier of inputs in [0, 1], with access to its layers by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput, option
from unfooled.core.model.calls import enter
from unfooled.core.model.outputs import logits_of
from unfooled.core.model.precision import widened


class Classifier(nn.Module):
    """A classifier of inputs in [0, 1]: x -> module((x - mean) / std), with plain logits as output.

    Args:
        module: Any module, or callable, from normalised inputs to logits or to an output that holds `.logits`.
        mean: Mean of the training data in fractions of the input range; one number, or one per channel. None: 0.
        std: Standard deviation of the training data, likewise. None: 1.
        name: Name in reports. Empty: the class name of the module.
        classes: Class names in the order of the logits.
        input_shape: Shape of one sample, (C, H, W). None: not checked.
        attributes: Names of the attributes of a concept network, in the order of its attribute logits.
        left_out: Names of the attributes that were constant in its training, and have no logit.
        trained_on: Hash of each of its training images, rounded to 8 bits, (N,) int64. None: unknown.

    Raises:
        BadInput: std is not positive or, in a call, mean or std does not fit the number of channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module | Callable[[Tensor], Any],
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        name: str = "",
        classes: Sequence[str] | None = None,
        input_shape: Sequence[int] | None = None,
        attributes: Sequence[str] | None = None,
        left_out: Sequence[str] | None = None,
        trained_on: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.name = name or type(module).__name__
        self.classes = list(classes) if classes is not None else None
        self.input_shape = tuple(input_shape) if input_shape is not None else None
        self.attributes = list(attributes) if attributes is not None else None
        self.left_out = list(left_out or ())
        self.trained_on = trained_on
        self.register_buffer("mean", torch.as_tensor(0.0 if mean is None else mean, dtype=torch.float32).reshape(-1))
        self.register_buffer("std", torch.as_tensor(1.0 if std is None else std, dtype=torch.float32).reshape(-1))
        self.normalises = mean is not None or std is not None
        if bool((self.std <= 0).any()):
            raise BadInput(f"std is {self.std.tolist()}; it must be positive")

    def normalise(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std, per channel."""
        if not self.normalises:
            return x
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) not in (1, x.shape[1]):
                raise BadInput(f"{name} has {len(value)} values, the inputs have {x.shape[1]} channels")
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of inputs in [0, 1], (B, *D)."""
        if self.input_shape is not None and tuple(x.shape[1:]) != self.input_shape:
            other = x.ndim > 1 and x.ndim == len(self.input_shape) + 1 and x.shape[1] != self.input_shape[0]
            remedy = (
                f"convert them, {option('channels', self.input_shape[0])},"
                if other
                else f"resize them, {option('size')},"
            )
            raise BadInput(
                f"{self.name} takes samples of shape {self.input_shape}, these are {tuple(x.shape[1:])}; {remedy} or "
                "choose another model"
            )
        # normalised in the precision of x, whatever the module computes in
        return logits_of(enter(self.module, self.normalise(x)), self.module)

    def layers(self) -> list[str]:
        """Return the names of the layers whose output `features` can return."""
        return [name for name, _ in self.module.named_modules() if name] if isinstance(self.module, nn.Module) else []

    def features(self, x: Tensor, layer: str) -> Tensor:
        """Return the output of `layer` (its last call) for x, differentiable. Cost: one forward.

        If the next layer works in place (`nn.ReLU(inplace=True)`), it changes a copy of this output.

        Raises:
            BadInput: There is no such layer; the message suggests similar names.
        """
        if not isinstance(self.module, nn.Module):
            raise BadInput(f"{self.name} is a plain callable and has no layers")
        try:
            target = self.module.get_submodule(layer)
        except AttributeError:
            near = difflib.get_close_matches(layer, self.layers(), n=3, cutoff=0.3) or self.layers()[:8]
            raise BadInput(f"{self.name} has no layer {layer!r}; it has {', '.join(near)}") from None
        outputs: list[Tensor] = []

        def record(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            outputs.append(output)
            return output.clone() if isinstance(output, Tensor) else None

        handle = target.register_forward_hook(record)
        try:
            self(x.clone())  # some modules write into their input
        finally:
            handle.remove()
        if not outputs:
            raise BadInput(f"layer {layer!r} of {self.name} was not called in the forward pass")
        return widened(outputs[-1]) if isinstance(outputs[-1], Tensor) else outputs[-1]
