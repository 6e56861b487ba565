"""Ensemble adversarial training: adversarial examples of other, fixed networks beside those of the one in training.

    z = attack(g, x, y),   g drawn in each step from {f, source 1, ..., source M}
    min_theta  mean [ CE(f(x), y) + CE(f(z), y) ] / 2

f is the network in training. Examples of a fixed network cannot become weaker as f learns to mask its own gradient,
which single-step training invites.

References:
    Tramer, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, Ensemble adversarial training: attacks and defenses,
    ICLR 2018, arXiv:1705.07204.
    Differs from the paper: any threat and any number of steps; with several steps the best iterate; the model is in
    eval mode while it is attacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.step_ll import step_ll
from unfooled.core.ascent import Constant
from unfooled.core.errors import BadInput
from unfooled.core.losses import cross_entropy
from unfooled.core.model.calls import run
from unfooled.core.model.modes import evaluating
from unfooled.core.model.outputs import logits_of
from unfooled.core.threats import Threat
from unfooled.runs.hashes import weights_hash
from unfooled.training.losses.inner import at_least, proposed, worst_points


@dataclass(frozen=True)
class Ensemble:
    """Clean loss and the loss at examples of a network drawn from several. Cost: 5 forwards, 3 backwards at one step.

    Args:
        threat: Constraint set of the adversary.
        sources: Trained networks of the same classes, at least one; their weights do not change.
        steps: Steps of the attack: 1 for a step towards the least likely class, more for PGD.
        content: Hash of the weights of the sources, by which a checkpoint is recognised.
    """

    threat: Threat
    sources: Sequence[nn.Module] = field(repr=False, compare=False)
    steps: int = 1
    content: str = field(init=False)

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        if not self.sources:
            raise BadInput("ensemble adversarial training needs another network; give sources, at least one")
        object.__setattr__(self, "content", " ".join(weights_hash(source)[:16] for source in self.sources))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar.

        Raises:
            BadInput: A source does not take the inputs, or has another number of classes.
        """
        logits = model(x)
        number = int(torch.randint(len(self.sources) + 1, ()))
        z = self.points(self.source(number - 1, x, logits.shape[1]) if number else model, x, y)
        return (F.cross_entropy(logits, y) + F.cross_entropy(model(z), y)) / 2

    def points(self, attacked: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the adversarial examples of a network, (B, *D)."""
        if self.steps == 1:
            return proposed(partial(step_ll, skip_wrong=False), attacked, x, y, self.threat)
        return worst_points(attacked, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=Constant(0.25))

    def source(self, number: int, x: Tensor, classes: int) -> nn.Module:
        """Return a source on the device of x; refuse one that does not answer for these inputs and classes."""
        source = self.sources[number].to(x.device)
        try:
            with torch.no_grad(), evaluating(source):
                answered = logits_of(run(source, x[:1]), source).shape[1]
        except RuntimeError as error:
            shape = tuple(x.shape[1:])
            raise BadInput(f"source {number} of the ensemble does not take inputs of shape {shape} ({error})") from None
        if answered != classes:
            raise BadInput(
                f"source {number} of the ensemble has {answered} classes, the network in training {classes}; give "
                "networks of the same classes"
            )
        return source
