"""Single-step adversarial training: one gradient per sample, from a random point.

    eta ~ noise T(x),   z = P( x + eta + step eps steepest(grad CE(f(x + eta), y)) ),   min_theta  mean CE(f(z), y)

P projects onto the threat T(x); N-FGSM takes more noise and projects only onto the box. GradAlign adds

    align mean (1 - cos(grad_x l(x), grad_x l(x + eta))),   eta ~ T(x)

which keeps the loss nearly linear inside the threat, so that a single step remains a strong attack.

References:
    Wong, Rice, Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020, arXiv:2001.03994.
    de Jorge et al., Make some noise: reliable and efficient single-step adversarial training, NeurIPS 2022,
    arXiv:2202.01181 (N-FGSM).
    Andriushchenko, Flammarion, Understanding and improving fast adversarial training, NeurIPS 2020, arXiv:2007.02617
    (GradAlign).
    Differs from the papers: any threat with a steepest step, and the model is in eval mode while it is attacked and
    while gradients are aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import evaluating, frozen
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threats import Threat
from unfooled.explanations.gradients import twice_differentiable


@dataclass(frozen=True)
class Fast:
    """FGSM from a random start. Cost: 2 forwards, 2 backwards; `align` adds 2 forwards, 4 backwards.

    A single-step attack can suddenly lose its strength in training (catastrophic overfitting): use a `Monitor`.

    Args:
        threat: Constraint set of the adversary.
        step: Length of the step, relative to eps.
        noise: Radius of the random start, relative to eps; 0 starts at x, where catastrophic overfitting comes soonest.
        clip: True: project the points onto the threat; False: only onto its box.
        align: Weight of GradAlign (the paper uses 0.2 to 2 for Linf up to 16/255); 0: no GradAlign.
    """

    threat: Threat
    step: float = 1.25
    noise: float = 1.0
    clip: bool = True
    align: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        threat = self.threat.bounded(x)
        seed = int(torch.randint(1 << 62, ()))
        with evaluating(model), frozen(model):
            start = threat.scaled(self.noise).sample(x, seed)
            (g,) = _gradients(model, y, start, create_graph=False)
            z = start + self.step * per_sample(threat.eps, x) * threat.steepest(g)
            z = threat.project(z, x) if self.clip else threat.box.clamp(z)
        loss = F.cross_entropy(model(z), y)
        return loss + self.align * self._misaligned(model, x, y, threat, seed) if self.align else loss

    def _misaligned(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
        """Return the mean of one minus the cosine between the gradients at x and at a random point, a scalar."""
        with evaluating(model):
            a, b = _gradients(model, y, x, threat.sample(x, seed, draw=1), create_graph=True)
        return (1 - F.cosine_similarity(flat(a), flat(b))).mean()


def n_fgsm(threat: Threat, *, step: float = 1.0, noise: float = 2.0, align: float = 0.0) -> Fast:
    """Build N-FGSM: twice the noise, a step of eps, no projection onto the ball. Cost: 2 forwards, 2 backwards.

    Args:
        threat: Constraint set of the adversary; the points trained on may leave it, up to `noise + step` times eps.
        step: Length of the step, relative to eps.
        noise: Radius of the random start, relative to eps.
        align: Weight of GradAlign.

    Returns:
        A `Fast` with these options.

    References:
        de Jorge et al., NeurIPS 2022, arXiv:2202.01181, algorithm 1. Differs: the noise stays inside the box.
    """
    return Fast(threat, step=step, noise=noise, clip=False, align=align)


def _gradients(model: nn.Module, y: Tensor, *at: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
    """Return the gradients of the cross-entropy at each of the points, per sample."""
    leaves = [z.detach().requires_grad_() for z in at]
    with torch.enable_grad(), twice_differentiable(create_graph):
        # A sum, not a mean, so that a sample's gradient does not depend on the batch size.
        total = sum((cross_entropy(model(z).to(z.dtype), y).sum() for z in leaves), torch.zeros((), device=y.device))
        return torch.autograd.grad(total, leaves, create_graph=create_graph)
