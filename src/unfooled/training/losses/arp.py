"""ARP, recommended form: attention that is complete and hard to shift, added to any adversarial loss.

    L = mean base(f(x), f(x'), y) + beta mean [R(x) + R(x')] / 2 + gamma mean V(P(x), P(x'))

R, rectification: without the attended region, x^m = (1 - m) x + m b, nothing can be read from the rest.
V, preservation: the maps of clean and adversarial sample agree. Both maps explain the label y. Each term is computed
per sample, then averaged.

    soft_mask      m = sigmoid((h w P - 1) / s)                      uniform_gap    KL(U || q),  q = softmax f(x^m)
    top_mask       the top share of the cells, straight through      squared_gap    - ||p - q||^2
    fill_mixed     b: own mean colour, blur or noise, per step       label_hinge    max(0, q_y - 1/K)

A mask of the whole image minimises every R but is no attention: watch `area` in the notes, or use `top_mask`.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831. Differs from its code (`ArpPublished`): a mask with a gradient, standardised
    maps, no batch statistics, means instead of sums, any attack instead of Step-LL.
    Boopathy et al., Proper network interpretability helps adversarial robustness, ICML 2020, arXiv:2006.14748
    (`two_class`: a discrepancy that cannot vanish when the label flips).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.errors import BadInput
from unfooled.core.losses import cross_entropy
from unfooled.core.model.batching import batched
from unfooled.core.model.modes import evaluating, frozen, unrecorded
from unfooled.core.model.outputs import logits_from, logits_of
from unfooled.core.model.wrappers import Tapped
from unfooled.core.threats import Threat
from unfooled.distances.maps.attention import entropy, js
from unfooled.explanations.attention import attention
from unfooled.explanations.masks import fill_mixed, soft_mask
from unfooled.runs.spelling import spelled
from unfooled.training.losses.inner import worst_points
from unfooled.training.losses.trades import divergent_points
from unfooled.training.progress import Notes

Base = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, logits_adv, y) -> (B,)."""


def adversarial_base(_logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
    """Return CE(f(x'), y), (B,): with it, `Arp` builds on PGD adversarial training."""
    return cross_entropy(logits_adv, y)


def trades_base(logits: Tensor, logits_adv: Tensor, y: Tensor, *, beta: float = 6.0) -> Tensor:
    """Return CE(f(x), y) + beta KL(p(x) || p(x')), (B,): with it, `Arp` builds on TRADES."""
    apart = F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
    return cross_entropy(logits, y) + beta * apart


def uniform_gap(_logits: Tensor, removed: Tensor, _y: Tensor) -> Tensor:
    """Return KL(U || q) = -log K - mean_c log q_c, (B,): 0 for a uniform prediction, and it does not saturate."""
    return -math.log(removed.shape[1]) - removed.log_softmax(1).mean(1)


def squared_gap(logits: Tensor, removed: Tensor, _y: Tensor) -> Tensor:
    """Return -||p - q||^2, (B,), the published gap: lower where the prediction changed more."""
    return -(logits.softmax(1) - removed.softmax(1)).square().sum(1)


def label_hinge(_logits: Tensor, removed: Tensor, y: Tensor) -> Tensor:
    """Return max(0, q_y - 1/K), (B,)."""
    return (removed.softmax(1).gather(1, y[:, None])[:, 0] - 1 / removed.shape[1]).clamp_min(0)


def two_class(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y - z_t, t the strongest other class of the *clean* half of a batch [x, x'], (2 B,).

    As the score of attention: `compare=partial(attention_scores, score=two_class, detach_weights=True)`.
    """
    if len(logits) % 2:
        raise BadInput(f"two_class is a score of pairs [x, x'], and got {len(logits)} samples; use it in Arp's compare")
    half = len(logits) // 2
    t = logits[:half].scatter(1, y[:half, None], -torch.inf).argmax(1).repeat(2)
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, t[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class ArpTerms:
    """Terms of the loss, per sample, (B,).

    Attributes:
        base: The adversarial loss.
        rectification: [R(x) + R(x')] / 2; 0 where beta is 0.
        preservation: V; 0 where gamma is 0.
        area: Mean of the masks over the pixels of both images; NaN without a mask.
        entropy: Entropy of the maps over that of the uniform map; NaN without maps.
        maps: P of x, then of x', (2 B, h, w), in the graph. None: beta and gamma are 0.
    """

    base: Tensor
    rectification: Tensor
    preservation: Tensor
    area: Tensor
    entropy: Tensor
    maps: Tensor | None


@dataclass(frozen=True, repr=False)
class Arp:
    """Rectification and preservation on top of an adversarial loss.

    Cost: the attack's, 4 forwards and 4 backwards, and 2 backwards down to the layer (PGD-AT has 1 and 1).

    Args:
        attack: `(model, x, y) -> x_adv`, or `(model, x, y, threat)` with a threat; the model is in eval mode meanwhile.
        base: Adversarial loss, `(logits, logits_adv, y) -> (B,)`.
        beta: Weight of R; the default is a starting point for tuning.
        gamma: Weight of V; the default is a starting point for tuning.
        rectify: Measure R, `(logits, logits_removed, y) -> (B,)`, lower is better.
        preserve: Distance V of two batches of maps.
        attend: Attention, `(model, x, y, *, create_graph) -> (B, h, w)`, run on x and x' in one pass.
        mask: Mask of the attended region, `(maps, (H, W)) -> (B, 1, H, W)`.
        fill: Content of the masked pixels, `x -> b`; the same for x and x'.
        compare: Function like `attend` whose results V compares (cost: 2 more forwards). None: the maps.
        joint: True: pass x and x' through the network as one batch; False: as two. Batch normalisation differs.
        threat: Constraint set passed to the attack; needed for `Ramp` and for the monitor. None: it is bound to the
            attack.
        notes: Means that the training loop reads after each epoch.
    """

    attack: Callable[..., Tensor]
    base: Base = adversarial_base
    beta: float = 0.5
    gamma: float = 1.0
    rectify: Callable[[Tensor, Tensor, Tensor], Tensor] = uniform_gap
    preserve: Callable[[Tensor, Tensor], Tensor] = js
    attend: Callable[..., Tensor] = partial(attention, detach_weights=True)  # noqa: RUF009
    mask: Callable[[Tensor, tuple[int, int]], Tensor] = soft_mask
    fill: Callable[[Tensor], Tensor] = fill_mixed
    compare: Callable[..., Tensor] | None = None
    joint: bool = True
    threat: Threat | None = field(default=None, kw_only=True)
    notes: Notes = field(default_factory=Notes, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and self.gamma >= 0):
            raise ValueError(f"beta is {self.beta} and gamma is {self.gamma}; they must be at least 0")

    __repr__ = spelled

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.on(model, x, self.adversarial(model, x, y), y)

    def adversarial(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the adversarial samples, (B, *D), detached."""
        with evaluating(model), frozen(model):
            return self.attack(model, x, y, *([self.threat] if self.threat is not None else [])).detach()

    def on(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        """Return the loss on given adversarial samples, a scalar."""
        t = self.terms(model, x, x_adv, y)
        self.notes.add(
            base=t.base, rectification=t.rectification, preservation=t.preservation, mask_area=t.area,
            attention_entropy=t.entropy,
        )  # fmt: skip
        return t.base.mean() + self.beta * t.rectification.mean() + self.gamma * t.preservation.mean()

    def terms(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> ArpTerms:
        """Return the terms of the loss."""
        if x.ndim != 4:
            raise BadInput(f"x has shape {tuple(x.shape)}; Arp is for images, (B, C, H, W)")
        n, both, labels = len(x), torch.cat([x, x_adv]), y.repeat(2)
        nothing = torch.zeros(n, dtype=x.dtype, device=x.device)
        if not (self.beta or self.gamma):
            logits = self._run(model, both)
            return ArpTerms(self.base(logits[:n], logits[n:], y), nothing, nothing, nothing / 0, nothing / 0, None)
        p, logits = self._attended(model, both, labels)
        v = self.preserve(p[:n], p[n:]) if self.gamma else nothing
        if self.gamma and self.compare is not None:
            compared = self.compare(model, both, labels, create_graph=True)
            v = self.preserve(compared[:n], compared[n:])
        r, area = nothing, nothing / 0
        if self.beta:
            m = self.mask(p, (x.shape[2], x.shape[3]))
            with unrecorded(model):  # masked images must not change batch statistics
                removed = self._run(model, both * (1 - m) + self.fill(x).repeat(2, 1, 1, 1) * m)
            r = self.rectify(logits, removed, labels).reshape(2, n).mean(0)
            area = m.detach().mean((1, 2, 3)).reshape(2, n).mean(0)
        map_entropy = entropy(p.detach()).reshape(2, n).mean(0)
        return ArpTerms(self.base(logits[:n], logits[n:], y), r, v, area, map_entropy, p)

    def _batch(self, both: Tensor) -> int:
        """Return the number of samples that batch normalisation sees together."""
        return len(both) if self.joint else len(both) // 2

    def _run(self, model: nn.Module, both: Tensor) -> Tensor:
        """Return the logits, (2 B, K)."""
        return batched(lambda z: logits_from(model, z), self._batch(both))(both)

    def _attended(self, model: nn.Module, both: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps and logits of one pass."""

        def attended(part: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            tap = Tapped(model, part)
            return self.attend(tap, part, label, create_graph=True), logits_of(tap.output(), tap)

        return batched(attended, self._batch(both))(both, labels)


def arp(
    threat: Threat,
    *,
    base: str = "madry",
    steps: int | None = None,
    rule: Rule = Constant(0.25),  # noqa: B008  (frozen)
    beta: float = 6.0,
    rectify: float = 0.5,
    preserve: float = 1.0,
) -> Arp:
    """Build `Arp` on PGD adversarial training or on TRADES, with their inner attacks.

    Args:
        threat: Constraint set of the adversary.
        base: "madry" or "trades".
        steps: Steps of the inner attack. None: 7 for madry, 10 for trades.
        rule: Step sizes of the inner attack, relative to eps.
        beta: Trade-off weight of TRADES.
        rectify: Weight of R.
        preserve: Weight of V.

    Raises:
        ValueError: Another base.
    """
    if base == "madry":
        inner = partial(worst_points, loss=cross_entropy, steps=7 if steps is None else steps, rule=rule)
        return Arp(inner, adversarial_base, rectify, preserve, threat=threat)
    if base == "trades":
        inner = partial(divergent_points, steps=10 if steps is None else steps, rule=rule)
        return Arp(inner, partial(trades_base, beta=beta), rectify, preserve, threat=threat)
    raise ValueError(f'base is {base!r}; it must be "madry" or "trades"')
