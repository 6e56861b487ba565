"""Thirty-two ways to look robust without being so: each wraps a trained network, and hides how easily it is fooled.

The truth is the same for all of them, robust accuracy near 0: the network inside has none. The first 27 break attacks
that follow gradients (or one loss), the last 5 break the evaluation itself.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramèr, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
    Xiao, Zhong, Zheng, Enhancing adversarial defense by k-winners-take-all, ICLR 2020, arXiv:1905.10510.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.studies.broken_defences.parts import (
    AlwaysDropout,
    Around,
    QueryDetector,
    Step,
    Vote,
    dct,
    one_hot,
    replaced,
    resize_and_pad,
    smoother,
    with_gradient,
)

# Rounded inputs


def eight_levels(base: nn.Module) -> nn.Module:
    """Rounds the input to 8 levels: the gradient of a staircase is 0."""
    return Around(base, before=lambda x: torch.round(x * 7) / 7)


def thermometer_code(base: nn.Module) -> nn.Module:
    """Encodes each pixel as 8 comparisons, which have no gradient; the network was trained on the code."""
    return base


def dct_rounding(base: nn.Module) -> nn.Module:
    """Rounds cosine coefficients as JPEG does: the gradient is 0 wherever there is one."""
    return Around(base, before=lambda x: dct(x, 0.2))


# Broken or false gradients


def zero_backward(base: nn.Module) -> nn.Module:
    """Returns 0 as its gradient; nothing else is changed."""
    return with_gradient(base, torch.zeros_like)


def detached(base: nn.Module) -> nn.Module:
    """Detaches the input from the graph: asked for a gradient, autograd raises."""
    return Around(base, before=torch.Tensor.detach)


def numpy_hop(base: nn.Module) -> nn.Module:
    """Prepares the input in NumPy, where autograd cannot follow."""

    def before(x: Tensor) -> Tensor:
        pixels = x.detach().cpu().numpy()
        return torch.from_numpy(pixels.clip(0.02, 0.98)).to(x)

    return Around(base, before=before)


def flipped_backward(base: nn.Module) -> nn.Module:
    """Flips the sign of the gradient: an attack that follows it makes the model surer."""
    return with_gradient(base, torch.neg)


def noise_backward(base: nn.Module) -> nn.Module:
    """Returns noise as its gradient: directions without any meaning."""
    return with_gradient(base, torch.randn_like)


def tiny_gradient(base: nn.Module) -> nn.Module:
    """Scales the gradient by 1e-20: its length underflows, attacks that divide by it stand still."""
    return with_gradient(base, lambda g: g * 1e-20)


# Scores that hide how sure the network is


def softmax(base: nn.Module) -> nn.Module:
    """Returns probabilities, on which the cross-entropy of a sure network is flat."""
    return Around(base, after=lambda z: z.softmax(1))


def softmax_twice(base: nn.Module) -> nn.Module:
    """Returns a softmax of probabilities: all scores between 0.08 and 0.23, whatever the input."""
    return Around(base, after=lambda z: z.softmax(1).softmax(1))


def large_logits(base: nn.Module) -> nn.Module:
    """Multiplies the logits by 1e4: the cross-entropy is exactly 0 in float32, and its gradient too."""
    return Around(base, after=lambda z: z * 1e4)


def distilled(base: nn.Module) -> nn.Module:
    """Distilled at temperature 100 and used at 1: the logits are 100 times too large for the cross-entropy."""
    return Around(base, after=lambda z: z * 100)


def tanh_logits(base: nn.Module) -> nn.Module:
    """Saturates the logits in a tanh around the midpoint of the best two: the gradient rounds to 0."""

    def after(z: Tensor) -> Tensor:
        middle = z.topk(2, dim=1).values.mean(1, keepdim=True)
        return torch.tanh(20 * (z - middle))

    return Around(base, after=after)


def rounded_scores(base: nn.Module) -> nn.Module:
    """Rounds the probabilities to one decimal: plateaus without a gradient."""
    return Around(base, after=lambda z: torch.round(z.softmax(1) * 10) / 10)


def labels_only(base: nn.Module) -> nn.Module:
    """Returns the label as a one-hot vector: no gradient, no score."""
    return Around(base, after=one_hot)


# Randomness


def random_resize(base: nn.Module) -> nn.Module:
    """Resizes and pads at random before every answer: no two gradients agree."""
    return Around(base, before=resize_and_pad)


def gaussian_noise(base: nn.Module) -> nn.Module:
    """Adds fresh noise to every input: one draw's gradient and one draw's verdict mean little."""
    return Around(base, before=lambda x: x + 0.1 * torch.randn_like(x))


def test_time_dropout(base: nn.Module) -> nn.Module:
    """Drops hidden units at random in use, too: every answer is another network's."""
    return replaced(base, nn.ReLU, AlwaysDropout, last=True)


test_time_dropout.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name says


def hashed_noise(base: nn.Module) -> nn.Module:
    """Adds noise seeded by the input's bytes: it repeats itself, and every step of an attack meets other noise."""

    def before(x: Tensor) -> Tensor:
        seeds = rng.seeds(x, stage=rng.Stream.HASHED_NOISE)
        return x + 0.1 * rng.normal(seeds, tuple(x.shape[1:]), dtype=x.dtype)

    return Around(base, before=before)


# Networks and purifiers that have no useful gradient


def plain(base: nn.Module) -> nn.Module:
    """Return the network itself."""
    return base


def k_winners(base: nn.Module) -> nn.Module:
    """Activations jump as the input moves, so that a gradient holds for no distance at all."""
    return base


def step_activation(base: nn.Module) -> nn.Module:
    """Steps instead of rectifiers: trained through a surrogate, used with the true gradient, 0."""
    return replaced(base, Step, lambda: Step(through=False))


def purifier(base: nn.Module) -> nn.Module:
    """Purifies the input in an inner loop under no_grad: autograd sees none of it."""
    return Around(base, before=smoother)


def argmax_vote(base: nn.Module) -> nn.Module:
    """Counts the votes of five copies: whole numbers, no gradient."""
    return Vote(base)


def flat_clamp(base: nn.Module) -> nn.Module:
    """Clamps the input to a narrow range that most pixels lie outside of: their gradient is 0."""
    return base


def duplicated(base: nn.Module) -> nn.Module:
    """Returns every logit twice: the margin to the best other class is always 0, and so is its gradient."""
    return Around(base, after=lambda z: torch.cat([z, z], 1))


def fgsm_overfitted(base: nn.Module) -> nn.Module:
    """Trained against one-step attacks, which it bends its loss surface for; more steps fool it."""
    return base


# Subjects that no attack should be asked to judge


def query_detector(base: nn.Module) -> nn.Module:
    """Remembers queries and stops answering those that look alike: what is measured depends on what was asked."""
    return QueryDetector(copy.deepcopy(base))


def training_mode(base: nn.Module) -> nn.Module:
    """Batch normalisation left in training mode: an answer depends on what else is in the batch."""
    return copy.deepcopy(base).train()


def nan_off_grid(base: nn.Module) -> nn.Module:
    """Returns NaN for inputs that are on no grid of 16 or 255 levels: nothing perturbed gets an answer."""

    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.train(base.training)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.detach().flatten(1)
            on_grid = [((rows * top).round() - rows * top).abs().amax(1) < 1e-3 for top in (16, 255)]
            return self.base(x).masked_fill(~(on_grid[0] | on_grid[1])[:, None], torch.nan)

    return Grid()


def eps_in_levels(base: nn.Module) -> nn.Module:
    """No fault of the network: it is asked with eps = 8 where 8/255 was meant, which allows anything."""
    return base


def undeclared_reject(base: nn.Module) -> nn.Module:
    """Has one class more than the labels know, for inputs that a little smoothing changes: it abstains unseen."""

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.train(base.training)

        def forward(self, x: Tensor) -> Tensor:
            smooth = 0.6 * x + 0.4 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
            z = self.base(x)
            apart = (z.softmax(1) - self.base(smooth).softmax(1)).abs().sum(1, keepdim=True)
            return torch.cat([z, z.amax(1, keepdim=True) + 20 * (apart - 0.5)], 1)

    return Squeezed()
