"""Thirty-two ways to look robust without being so: each wraps a trained network, and hides how easily it is fooled.

What they have in common is the truth, robust accuracy near 0: the network inside has none. The first 27 break attacks
that follow gradients (or one loss), the last 5 break the evaluation itself.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramèr, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
    Xiao, Zhong, Zheng, Enhancing adversarial defense by k-winners-take-all, ICLR 2020, arXiv:1905.10510.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core import rng

Change = Callable[[Tensor], Tensor]
LEVELS = 8  # of the thermometer code


class Around(nn.Module):
    """A network with something before it, on the input, and something after it, on the logits."""

    def __init__(self, base: nn.Module, before: Change | None = None, after: Change | None = None) -> None:
        super().__init__()
        self.base, self.before, self.after = base, before, after
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (B, K)."""
        z = self.base(x if self.before is None else self.before(x))
        return z if self.after is None else self.after(z)


class _Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grads[0]), None


def _with_gradient(base: nn.Module, change: Change) -> nn.Module:
    return Around(base, before=lambda x: _Backward.apply(x, change))


def replaced(
    base: nn.Module, kind: type[nn.Module], build: Callable[[], nn.Module], *, last: bool = False
) -> nn.Module:
    """A copy of a network in which every layer of one kind (or the last one alone) is another one."""
    net = copy.deepcopy(base)
    names = [name for name, module in net.named_modules() if isinstance(module, kind)]
    for name in names[-1:] if last else names:
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, build())
    return net.train(base.training)


# Rounded inputs


def eight_levels(base: nn.Module) -> nn.Module:
    """Rounds the input to 8 levels: the gradient of a staircase is 0."""
    return Around(base, before=lambda x: torch.round(x * 7) / 7)


def thermometer(x: Tensor, *, soft: bool = False) -> Tensor:
    """Channels that say whether x is above 1/16, 3/16, ...; `soft`: ramps instead of steps, (B, 8 C, H, W)."""
    at = (torch.arange(LEVELS, dtype=x.dtype, device=x.device) + 0.5)[:, None, None] / LEVELS
    code = ((x[:, :, None] - at) * LEVELS + 0.5).clamp(0, 1) if soft else (x[:, :, None] > at).to(x.dtype)
    return code.flatten(1, 2)


def thermometer_code(base: nn.Module) -> nn.Module:
    """Encodes each pixel as 8 comparisons, which have no gradient; the network was trained on the code."""
    return base


def dct(x: Tensor, step: float) -> Tensor:
    """Round the cosine coefficients of each 4 x 4 block to multiples of `step`."""
    i = torch.arange(4, dtype=x.dtype, device=x.device)
    basis = torch.cos(math.pi * (i[None] + 0.5) * i[:, None] / 4) * math.sqrt(0.5)
    basis[0] /= math.sqrt(2)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4)
    coefficients = torch.round(basis @ blocks @ basis.T / step) * step
    back = basis.T @ coefficients @ basis
    return back.transpose(3, 4).reshape(x.shape).clamp(0, 1)


def dct_rounding(base: nn.Module) -> nn.Module:
    """Rounds cosine coefficients as JPEG does: the gradient is 0 wherever there is one."""
    return Around(base, before=lambda x: dct(x, 0.2))


# Broken or false gradients


def zero_backward(base: nn.Module) -> nn.Module:
    """Returns 0 as its gradient; nothing else is changed."""
    return _with_gradient(base, torch.zeros_like)


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
    return _with_gradient(base, torch.neg)


def noise_backward(base: nn.Module) -> nn.Module:
    """Returns noise as its gradient: directions without any meaning."""
    return _with_gradient(base, torch.randn_like)


def tiny_gradient(base: nn.Module) -> nn.Module:
    """Scales the gradient by 1e-20: its length underflows, attacks that divide by it stand still."""
    return _with_gradient(base, lambda g: g * 1e-20)


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


def one_hot(z: Tensor) -> Tensor:
    """1 at the largest score, 0 elsewhere."""
    return F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)


def labels_only(base: nn.Module) -> nn.Module:
    """Returns the label as a one-hot vector: no gradient, no score."""
    return Around(base, after=one_hot)


# Randomness


def resize_and_pad(x: Tensor) -> Tensor:
    """Shrink each image by up to a sixth and put it at a random place, the rest 0; torch's global generator."""
    u = torch.rand(3, len(x), dtype=x.dtype).to(x.device)
    scale = 1 + 0.2 * u[0]
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = ((2 * u[1:] - 1) * (scale - 1)).T
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def random_resize(base: nn.Module) -> nn.Module:
    """Resizes and pads at random before every answer: no two gradients agree."""
    return Around(base, before=resize_and_pad)


def gaussian_noise(base: nn.Module) -> nn.Module:
    """Adds fresh noise to every input: one draw's gradient and one draw's verdict mean little."""
    return Around(base, before=lambda x: x + 0.1 * torch.randn_like(x))


class AlwaysDropout(nn.Module):
    """ReLU and dropout that does not ask whether the network is being trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Rectified activations, one in ten of them 0."""
        return F.dropout(F.relu(x), 0.1, training=True)


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


class Winners(nn.Module):
    """k winners take all: keep the largest fifth of a layer's activations, and nothing of the others."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, *) -> (B, *)."""
        rows = x.flatten(1)
        least = rows.topk(max(1, rows.shape[1] // 5), dim=1).values[:, -1:]
        return torch.where(rows >= least, rows, torch.zeros_like(rows)).reshape(x.shape)


class Step(nn.Module):
    """0 or 1 by the sign; `through` lets the gradient of a ramp pass, for training and for those who know."""

    def __init__(self, *, through: bool) -> None:
        super().__init__()
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        """(B, *) -> (B, *)."""
        hard = (torch.sign(x) + 1) / 2
        if not self.through:
            return hard
        ramp = ((x + 1) / 2).clamp(0, 1)
        return ramp + (hard - ramp).detach()


def plain(base: nn.Module) -> nn.Module:
    """The network itself."""
    return base


def k_winners(base: nn.Module) -> nn.Module:
    """Activations jump as the input moves, so that a gradient holds for no distance at all."""
    return base


def step_activation(base: nn.Module) -> nn.Module:
    """Steps instead of rectifiers: trained through a surrogate, used with the true gradient, 0."""
    return replaced(base, Step, lambda: Step(through=False))


def smoother(x: Tensor, steps: int = 5) -> Tensor:
    """Move each pixel towards the mean of its neighbours a few times, without a graph."""
    with torch.no_grad():
        for _ in range(steps):
            around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
            x = x + 0.1 * (around - x)
    return x


def purifier(base: nn.Module) -> nn.Module:
    """Purifies the input in an inner loop under no_grad: autograd sees none of it."""
    return Around(base, before=smoother)


class Vote(nn.Module):
    """Five copies see five shifts of the input, and each has one vote."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Votes, (B, K), whole numbers; the copy that sees x itself breaks ties."""
        shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        votes = [one_hot(self.base(torch.roll(x, shift, dims=(-2, -1)))) for shift in shifts]
        return torch.stack(votes).sum(0) + 0.5 * votes[0]


def argmax_vote(base: nn.Module) -> nn.Module:
    """Counts the votes of five copies: whole numbers, no gradient."""
    return Vote(base)


def ramp(x: Tensor) -> Tensor:
    """0 below 0.22, 1 above 0.27, and a line between."""
    return ((x - 0.22) * 20).clamp(0, 1)


def flat_clamp(base: nn.Module) -> nn.Module:
    """Clamps the input to a narrow range that most pixels lie outside of: their gradient is 0."""
    return base


def duplicated(base: nn.Module) -> nn.Module:
    """Returns every logit twice: the margin to the best other class is always 0, and so is its gradient."""
    return Around(base, after=lambda z: torch.cat([z, z], 1))


def fgsm_overfitted(base: nn.Module) -> nn.Module:
    """Trained against one-step attacks, which it bends its loss surface for; more steps fool it."""
    return base


# What no attack should be asked to judge


class QueryDetector(nn.Module):
    """Remembers what it was asked, and answers near-duplicates with nothing."""

    def __init__(self, base: nn.Module, *, radius: float = 0.3, most: int = 50, memory: int = 20_000) -> None:
        super().__init__()
        self.base, self.radius, self.most, self.memory = base, radius, most, memory
        self.seen: Tensor | None = None
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, K); all 0 once `most` queries were nearer than `radius`."""
        key = F.avg_pool2d(x.detach(), max(1, x.shape[-1] // 8)).flatten(1)
        before = key[:0] if self.seen is None else self.seen
        near = (torch.cdist(key, before) < self.radius).sum(1)
        self.seen = torch.cat([before, key])[-self.memory :]
        logits = self.base(x)
        return torch.where((near >= self.most)[:, None], torch.zeros_like(logits), logits)


def query_detector(base: nn.Module) -> nn.Module:
    """Remembers queries and stops answering those that look alike: what is measured depends on what was asked."""
    return QueryDetector(copy.deepcopy(base))


def training_mode(base: nn.Module) -> nn.Module:
    """Batch normalisation left in training mode: an answer depends on who else is in the batch."""
    return copy.deepcopy(base).train()


def nan_off_grid(base: nn.Module) -> nn.Module:
    """Returns NaN for inputs that are on no grid of 16 or 255 levels: nothing perturbed gets an answer."""

    class Grid(Around):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.detach().flatten(1)
            on = [((rows * top).round() - rows * top).abs().amax(1) < 1e-3 for top in (16, 255)]
            return self.base(x).masked_fill(~(on[0] | on[1])[:, None], torch.nan)

    return Grid(base)


def eps_in_levels(base: nn.Module) -> nn.Module:
    """No fault of the network: it is asked with eps = 8 where 8/255 was meant, which allows anything."""
    return base


def undeclared_reject(base: nn.Module) -> nn.Module:
    """Has one class more than the labels know, for inputs that a little smoothing changes: it abstains unseen."""

    class Squeezed(Around):
        def forward(self, x: Tensor) -> Tensor:
            smooth = 0.6 * x + 0.4 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
            z = self.base(x)
            apart = (z.softmax(1) - self.base(smooth).softmax(1)).abs().sum(1, keepdim=True)
            return torch.cat([z, z.amax(1, keepdim=True) + 20 * (apart - 0.5)], 1)

    return Squeezed(base)
