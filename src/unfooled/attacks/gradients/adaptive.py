"""Models whose gradients lie or do not exist, behind wrappers that are models themselves.

    Averaged         mean_k f_k(x)                              a random model, as the mean of its draws (EOT)
    StraightThrough  f(x), with the gradient of another model   parts that have none (BPDA)
    Jittered         f(x), with mean_k f'(x + sigma n_k)        gradients that are noise or change within a hair
    Estimated        f(x), with differences along signs         scores alone (SPSA, NES)

Each is a callable x -> logits, so every gradient attack takes it. Hand the wrapper to the attack and the model itself
to `verify`: what a wrapper returns is no verdict.

References:
    Athalye, Engstrom, Ilyas, Kwok, Synthesizing robust adversarial examples, ICML 2018, arXiv:1707.07397 (EOT).
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420 (BPDA).
    Uesato et al., Adversarial risk and the dangers of evaluating against weak attacks, ICML 2018, arXiv:1802.05666
    (SPSA).
    Ilyas, Engstrom, Athalye, Lin, Black-box adversarial attacks with limited queries and information, ICML 2018,
    arXiv:1804.08598 (NES).
    Choromanski et al., Structured evolution with compact architectures for scalable policy optimization, ICML 2018,
    arXiv:1804.02395 (orthogonal directions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.model.outputs import logits_of
from unfooled.core.shapes import flat
from unfooled.core.threats import UNIT, Box
from unfooled.core.types import Model, Purify

Pull = Callable[[Tensor, Tensor], Tensor]
"""(x (B, *D), g (B, K)) -> (B, *D): a gradient at the logits, carried back to the input."""


class _Pulled(torch.autograd.Function):
    """The values of a model, and a gradient that someone else computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Model, pull: Pull) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pull = pull
        with torch.no_grad():
            return logits_of(model(x.detach())).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.pull(x, g), None, None


def pulled(x: Tensor, model: Model, pull: Pull) -> Tensor:
    """The values of `model` at x, (B, K), whose gradient is what `pull` says."""
    logits: Tensor = _Pulled.apply(x, model, pull)
    return logits


def identity(x: Tensor) -> Tensor:
    """The input itself: what stands in for a defence that returns nearly what it was given."""
    return x


@dataclass(frozen=True)
class Averaged:
    """A random model as the mean of the logits over fresh draws: its gradient is the expected one.

    Args:
        model: any callable to logits, another draw at every call.
        draws: how many, at least 1. Cost: `draws` F a forward, `draws` B a backward.

    References:
        arXiv:1707.07397, eq. 2. Differs from it: the expectation is over the model, not over changes of the scene.
    """

    model: Model
    draws: int = 20

    def __post_init__(self) -> None:
        _at_least_one(self.draws)

    def __call__(self, x: Tensor) -> Tensor:
        """Mean logits, (B, K)."""
        total = logits_of(self.model(x))
        for _ in range(self.draws - 1):
            total = total + logits_of(self.model(x))
        return total / self.draws


@dataclass(frozen=True)
class StraightThrough:
    """The values of one model with the gradient of another.

        f(x) + g(x) - constant(g(x))

    Args:
        model: where the values come from; never asked for a gradient, so it may go through numpy or raise in backward.
        backward: where the gradient comes from: a smooth approximation, an undefended or a distilled twin.

    Cost: 1 F of `model`; where a gradient is wanted, also 1 F and 1 B of `backward`.

    References:
        arXiv:1802.00420, section 4.1.
    """

    model: Model
    backward: Model

    @property
    def module(self) -> Model:
        """The second model, under a name where `frozen` looks for modules."""
        return self.backward

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of `model`, (B, K)."""
        with torch.no_grad():
            value = logits_of(self.model(x.detach()))
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        soft = logits_of(self.backward(x))
        if soft.shape != value.shape:
            raise BadInput(
                f"the two return shapes {tuple(value.shape)} and {tuple(soft.shape)}; a gradient can be borrowed only "
                "from what has the same output"
            )
        return value + (soft - soft.detach())


@dataclass(frozen=True)
class Defended:
    """A model behind a defence: x -> model(defence(x)).

    Args:
        defence: x (B, *D) -> x (B, *D), a purifier, a rounding, a code.
        model: any callable to logits. Cost: 1 F of each, 1 B of each.
    """

    defence: Purify
    model: Model

    @property
    def module(self) -> Purify:
        """The defence, under a name where `frozen` looks for modules."""
        return self.defence

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, (B, K)."""
        return logits_of(self.model(self.defence(x)))


def bpda(defence: Purify, model: Model, approx: Purify = identity) -> Model:
    """Put a defence in front of a model that is differentiated as if it were `approx`.

        f(d(x)) forwards,   f'(d(x)) a'(x) backwards

    Args:
        defence: what the defended system does to its input; may go through numpy, may raise in backward.
        model: any callable to logits; differentiated at d(x).
        approx: a differentiable stand-in with the same output shape; the identity where None is better known.

    Returns:
        A model. Cost: 1 F of the defence and of the model; 1 B of the model, 1 F and 1 B of `approx`.

    References:
        Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420,
        section 4.1.

    Example:
        >>> model = bpda(lambda x: (x * 7).round() / 7, lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1))
        >>> x = torch.tensor([[0.3, 0.2]], requires_grad=True)
        >>> torch.autograd.grad(model(x)[:, 0].sum(), x)[0]
        tensor([[1., 1.]])
    """
    return Defended(StraightThrough(defence, approx), model)


@dataclass(frozen=True)
class Jittered:
    """A model whose gradient is averaged over noise around the input; its values stay those at the input.

        f(x),   1/m sum_k f'(x + sigma n_k),   n_k standard normal

    Args:
        model: any differentiable callable to logits.
        sigma: of the noise, a fraction of the input range; points that leave the box are brought back.
        draws: m, at least 1. Cost: 1 F a forward; `draws` F and B a backward, one draw in memory at a time.
        seed: of the noise, which is a function of it and of each sample's bytes.
        box: bounds of the inputs.
    """

    model: Model
    sigma: float
    draws: int = 16
    seed: int = 0
    box: Box = UNIT

    def __post_init__(self) -> None:
        _at_least_one(self.draws)
        _positive(self.sigma)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits at x, (B, K)."""
        return pulled(x, self.model, self._pull)

    def _pull(self, x: Tensor, g: Tensor) -> Tensor:
        key, total = rng.seeds(x, self.seed, stage=rng.Stream.JITTER), torch.zeros_like(x)
        for k in range(self.draws):
            noise = rng.normal(key, tuple(x.shape[1:]), draw=k, dtype=x.dtype)
            z = self.box.clamp(x + self.sigma * noise).requires_grad_()
            with torch.enable_grad():
                (part,) = torch.autograd.grad(logits_of(self.model(z)), z, g)
            total += part
        return total / self.draws


@dataclass(frozen=True)
class Estimated:
    """A model whose gradient is estimated from its values, by central differences along random signs.

        f'(x) ~ 1/m sum_k (f(c + sigma u_k) - f(c - sigma u_k)) / (2 sigma) u_k

    The u_k are rows of a Hadamard matrix with random signs: orthogonal, so that m draws span m directions and as many
    as there are coordinates (the next power of two) give every one. c is x, moved inwards by at most sigma where it is
    nearer than that to the box. Rows of one-hot labels are flat almost everywhere and need sigma near the boundary's
    distance.

    Args:
        model: any callable to logits; only its values are used, so it may be numpy or another process.
        draws: m, at least 1. Cost: 1 F a forward; 2 `draws` F and no B a backward.
        sigma: half the step, a fraction of the input range: above the steps of a rounding, below the scale on which the
            scores bend.
        seed: of the signs, which are a function of it and of each sample's bytes.
        rows: samples per call of the model, so that memory is bounded.
        box: bounds of the inputs.

    References:
        arXiv:1802.05666 (signs), arXiv:1804.08598 (antithetic pairs), arXiv:1804.02395 (orthogonal).
        Differs from the first two: the directions are orthogonal, and the estimate is the whole gradient, not a step of
        Adam.
    """

    model: Model
    draws: int = 32
    sigma: float = 0.01
    seed: int = 0
    rows: int = 512
    box: Box = UNIT

    def __post_init__(self) -> None:
        _at_least_one(self.draws)
        _at_least_one(self.rows, "rows")
        _positive(self.sigma)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits at x, (B, K)."""
        return pulled(x, self.model, self._pull)

    def _pull(self, x: Tensor, g: Tensor) -> Tensor:
        key = rng.seeds(x, self.seed, stage=rng.Stream.SIGNS)

        def values(z: Tensor, _at: Tensor) -> Tensor:
            return logits_of(self.model(z))

        return estimated_gradient(values, x, g, key, draws=self.draws, sigma=self.sigma, rows=self.rows, box=self.box)


@torch.no_grad()
def estimated_gradient(
    values: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    g: Tensor,
    key: Tensor,
    *,
    draws: int,
    sigma: float,
    rows: int,
    box: Box,
) -> Tensor:
    """The gradient of <values, g> at x by differences along orthogonal random signs; see `Estimated`.

    Args:
        values: `(points (n, *D), at (n,) positions in x) -> (n, K)`.
        x: where, (B, *D).
        g: gradient at the values, (B, K).
        key: seeds of the signs, one a sample, (B,).
        draws: pairs of points a sample.
        sigma: half the step.
        rows: points per call of `values`.
        box: bounds of the inputs.

    Returns:
        The estimate, (B, *D).
    """
    total = torch.zeros_like(flat(x))
    centre = flat(x.clamp(box.low + sigma, box.high - sigma))
    sample = torch.arange(len(x), device=x.device)
    some = max(rows // 2, 1)
    for pairs in range(0, len(x) * draws, some):
        pair = torch.arange(pairs, min(pairs + some, len(x) * draws), device=x.device)
        at, draw = sample[pair // draws], pair % draws
        u = _signs(key[at], centre.shape[1], draw).to(x.dtype)
        ends = torch.cat([centre[at] + sigma * u, centre[at] - sigma * u])
        up, down = values(ends.reshape(-1, *x.shape[1:]), torch.cat([at, at])).chunk(2)
        slope = ((up - down).to(g.dtype) * g[at]).sum(1) / (2 * sigma)
        total.index_add_(0, at, slope[:, None].to(x.dtype) * u)
    return (total / draws).reshape(x.shape)


def _signs(key: Tensor, size: int, draw: Tensor) -> Tensor:
    """Row `draw` of each sample's own Hadamard matrix of signs, (b, size); orthogonal while draw < 2^k >= size."""
    full = 1 << max(size - 1, 0).bit_length()
    odd = rng.bits(key, 1, draw=1) | 1  # an odd factor visits every row once
    row = (odd[:, 0] * draw) & (full - 1)
    parity = row[:, None] & torch.arange(size, device=key.device)
    for shift in (32, 16, 8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    # A new set of signs each time that the rows have been used up.
    flip = rng.bits(key, size, draw=2 + draw // full)
    return 1 - 2 * ((parity ^ flip) & 1)


def _at_least_one(number: int, name: str = "draws") -> None:
    if number < 1:
        raise BadInput(f"{name} is {number}; it must be at least 1")


def _positive(sigma: float) -> None:
    if not 0 < sigma < 0.5:
        raise BadInput(f"sigma is {sigma}; it must be above 0 and below 1/2, a fraction of the input range")
