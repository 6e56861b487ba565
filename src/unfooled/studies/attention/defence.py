"""Does training that rectifies and preserves attention resist? The training comparison of the attention study.

    standard                CE(f(x), y)
    Step-LL                 [CE(f(x), y) + CE(f(x'), y)] / 2, x' one step towards the least likely class
    PGD-AT                  CE(f(x'), y)
    PGD-AT + ARP            + beta R + gamma V(P(x), P(x'))
    shuffled maps           V(P(x_i), P(x'_j)), j another sample of the batch: a control, no attention is preserved
    logit pairing           CE(f(x'), y) + mean of (z(x) - z(x'))^2: a control, no maps

Equal compute: an arm takes steps in inverse proportion to its passes a step. Every network is judged by the cascade, by
attacks that move attention along with the label, by ascent on the ARP objective and by what was found on the other
networks; the number is the worst of all, point by point. Step-LL's own figure stands beside it and decides nothing.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831.
    Kannan, Kurakin, Goodfellow, Adversarial logit pairing, 2018, arXiv:1803.06373.
    Kurakin, Goodfellow, Bengio, Adversarial machine learning at scale, ICLR 2017, arXiv:1611.01236 (Step-LL).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.ensembles.cascade import Effort, cascade
from unfooled.attacks.explanations.attention_shift import attention_hold, attention_pgd
from unfooled.attacks.step_ll import step_ll
from unfooled.core.ascent import Constant, Decaying, ascend
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import per_sample
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import Model, TrainingLoss
from unfooled.distances.maps.attention import above_mean, iou, js
from unfooled.evaluation.explanations.attention import attend, attention_records
from unfooled.evaluation.explanations.faithfulness import parameter_randomisation, perturbation_curves
from unfooled.evaluation.verify import verify
from unfooled.explanations.attention import attention
from unfooled.explanations.masks import fill_mean, soft_mask
from unfooled.studies.attention.records import Faithful, Judged
from unfooled.studies.attention.vulnerability import KEY, PLACES, Samples
from unfooled.studies.attribution_robustness.networks import Arm
from unfooled.studies.common.records import listed
from unfooled.training import ArpPublished, Madry, Standard, Trades, arp, n_fgsm
from unfooled.training.losses.arp import Arp
from unfooled.training.losses.inner import proposed, worst_points

FAITHFUL = ("deletion", "insertion", "deletion, elsewhere", "insertion, elsewhere")
HELD = partial(attention, detach_weights=True)
"""Attention as it is attacked: on ReLU networks the weights have no gradient."""


def shuffled_js(a: Tensor, b: Tensor) -> Tensor:
    """`js` of each map and that of the next sample in the batch, (B,): preserves nothing."""
    return js(a, b.roll(1, 0))


def rolled_mask(p: Tensor, size: tuple[int, int]) -> Tensor:
    """`soft_mask` of the map shifted by half its sides, without a gradient: a region of that area, elsewhere."""
    return soft_mask(p.detach().roll((p.shape[1] // 2, p.shape[2] // 2), (1, 2)), size)


@dataclass(frozen=True)
class StepLl:
    """Half the loss on clean samples, half after one step towards the least likely class.

    Args:
        threat: of the step.

    References:
        Kurakin et al. 2017, arXiv:1611.01236.
    """

    threat: Threat

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the batch, a scalar."""
        z = proposed(partial(step_ll, skip_wrong=False), model, x, y, self.threat)
        return (F.cross_entropy(model(x), y) + F.cross_entropy(model(z), y)) / 2


@dataclass(frozen=True)
class LogitPairing:
    """PGD adversarial training whose clean and adversarial logits are drawn together.

    Args:
        threat: what the adversary may do.
        steps: of the inner attack.
        weight: of the mean squared difference of logits.

    References:
        Kannan et al. 2018, arXiv:1803.06373. Differs: the cross-entropy is on adversarial samples alone, as in the arms
        that it is compared with.
    """

    threat: Threat
    steps: int = 7
    weight: float = 0.5

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the batch, a scalar."""
        z = worst_points(model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=Constant(0.25))
        clean, adversarial = model(torch.cat([x, z])).chunk(2)
        return F.cross_entropy(adversarial, y) + self.weight * (clean - adversarial).square().mean()


def _arp(threat: Threat, steps: int, *, base: str = "madry", r: float = 0.5, v: float = 1.0, **options: Any) -> Arp:
    """`arp` with the weights and parts of an arm."""
    return replace(arp(threat, base=base, steps=steps, rectify=r, preserve=v), **options)


def n_fgsm_points(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The points of `n_fgsm`: noise of twice eps, one step of eps, the box alone. Cost: 1 forward, 1 backward."""
    near = threat.bounded(x)
    z = near.scaled(2.0).sample(x, int(torch.randint(1 << 62, ()))).requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
    return near.box.clamp(z.detach() + per_sample(near.eps, x) * near.steepest(g))


def _on_fast(threat: Threat, r: float, v: float) -> Arp:
    """`Arp` on the points of N-FGSM."""
    return Arp(n_fgsm_points, beta=r, gamma=v, threat=threat)


Recipe = tuple[Callable[[Threat, int], TrainingLoss], Callable[[int], int]]
"""`(threat, inner steps) -> loss`, and `inner steps -> passes`, forwards and backwards a sample and step; backwards
that end at the attended layer cost next to nothing and are left out."""

PLAIN, BASE, ARP, SHUFFLED, PAIRED = (
    "standard",
    "PGD-AT",
    "PGD-AT + ARP",
    "PGD-AT + shuffled maps",
    "PGD-AT + logit pairing",
)
SIX: dict[str, Recipe] = {
    PLAIN: (lambda t, s: Standard(), lambda s: 2),
    "Step-LL": (lambda t, s: StepLl(t), lambda s: 7),
    BASE: (lambda t, s: Madry(t, steps=s), lambda s: 2 * s + 3),
    ARP: (_arp, lambda s: 2 * s + 9),
    SHUFFLED: (lambda t, s: _arp(t, s, preserve=shuffled_js), lambda s: 2 * s + 9),
    PAIRED: (LogitPairing, lambda s: 2 * s + 5),
}
"""The arms of every scale."""
MORE: dict[str, Recipe] = {
    "PGD-AT + R": (lambda t, s: _arp(t, s, v=0.0), lambda s: 2 * s + 9),
    "PGD-AT + V": (lambda t, s: _arp(t, s, r=0.0), lambda s: 2 * s + 5),
    "PGD-AT + rolled mask": (lambda t, s: _arp(t, s, mask=rolled_mask), lambda s: 2 * s + 9),
    "TRADES": (lambda t, s: Trades(t, steps=s), lambda s: 2 * s + 6),
    "TRADES + R": (lambda t, s: _arp(t, s, base="trades", v=0.0), lambda s: 2 * s + 10),
    "TRADES + V": (lambda t, s: _arp(t, s, base="trades", r=0.0), lambda s: 2 * s + 6),
    "TRADES + ARP": (lambda t, s: _arp(t, s, base="trades"), lambda s: 2 * s + 10),
    "N-FGSM": (lambda t, s: n_fgsm(t), lambda s: 4),
    "N-FGSM + R": (lambda t, s: _on_fast(t, 0.5, 0.0), lambda s: 10),
    "N-FGSM + V": (lambda t, s: _on_fast(t, 0.0, 1.0), lambda s: 6),
    "N-FGSM + ARP": (lambda t, s: _on_fast(t, 0.5, 1.0), lambda s: 10),
    "ARP as published": (lambda t, s: ArpPublished(), lambda s: 10),
}
"""The further arms of the full scale."""


def arms(recipes: dict[str, Recipe], steps: int, *, ramp: float = 0.4) -> tuple[Arm, ...]:
    """Arms of equal compute: the steps of `PGD-AT + ARP` are the task's, an arm of half its passes takes twice as many.

    Args:
        recipes: by name.
        steps: of the inner attack.
        ramp: share of training in which eps grows from 0, where there is an eps.
    """
    whole = SIX[ARP][1](steps)
    found = []
    for name, (loss, passes) in recipes.items():
        grows = ramp if name not in (PLAIN, "ARP as published") else 0.0
        found.append(Arm(name, partial(_of, loss, steps), share=whole / passes(steps), ramp=grows))
    return tuple(found)


def _of(loss: Callable[[Threat, int], TrainingLoss], steps: int, threat: Threat) -> TrainingLoss:
    return loss(threat, steps)


@dataclass(frozen=True)
class Judging:
    """How much is done to judge a network.

    Attributes:
        n: test images. effort: of the cascade.
        weights: of the attention term. steps, restarts: of the attention-guided attack, each weight.
        hold: steps of the attack on attention alone.
    """

    n: int
    effort: Effort
    weights: tuple[float, ...]
    steps: int
    restarts: int
    hold: int

    def told(self) -> dict[str, Any]:
        """As plain values."""
        kept = {k: v for k, v in vars(self).items() if k != "effort"}
        return {**kept, "weights": list(self.weights), "effort": self.effort.name}


def judge(
    model: nn.Module, samples: Samples, threat: Linf, size: Judging, *, data: str, arm: str, seed: int
) -> tuple[Judged, Tensor]:
    """Attack one network.

    Returns:
        The record, and the cascade's points, (n, *D), for the other networks.
    """
    started = time.perf_counter()
    some = samples.take(torch.arange(min(size.n, len(samples.x))))
    x, y = some.x, some.y
    source = torch.Generator().manual_seed(seed)
    z = cascade(model, x, y, threat, effort=size.effort, seed=seed)
    stands = ~verify(model, x, y, z, threat).success
    kept = {"clean": ~verify(model, x, y, x, threat).success, "cascade": stands}
    kept["Step-LL"] = ~verify(model, x, y, step_ll(model, x, y, threat, generator=source), threat).success
    left = stands.nonzero()[:, 0]
    guided, ascended = stands.clone(), stands.clone()
    if len(left):
        for weight in size.weights:
            found = attention_pgd(
                model, x[left], y[left], threat, attend=HELD, distance=js, weight=weight, steps=size.steps,
                restarts=size.restarts, generator=source,
            )  # fmt: skip
            guided[left] &= ~verify(model, x[left], y[left], found, threat).success
        found = on_objective(model, x[left], y[left], threat, steps=size.steps, seed=seed)
        ascended[left] &= ~verify(model, x[left], y[left], found, threat).success
    kept |= {"attention-guided": guided, "ARP objective": ascended}
    return (
        Judged(
            data=data, arm=arm, seed=seed, eps=float(threat.eps), n=len(x),
            kept={name: "".join(str(int(v)) for v in values) for name, values in kept.items()},
            columns={k: listed(v) for k, v in _reasons(model, some, kept["clean"], threat, size, seed).items()},
            seconds=round(time.perf_counter() - started, 3),
        ),
        z,
    )  # fmt: skip


def _reasons(
    model: nn.Module, some: Samples, right: Tensor, threat: Linf, size: Judging, seed: int
) -> dict[str, Tensor]:
    """Clean attention of samples that are right, and how far an attack that keeps the label moves it; NaN elsewhere."""
    part = some.take(right.nonzero()[:, 0])
    names = [*PLACES, "entropy", "held: js", "held: moved", "noise: js"]
    columns = {name: torch.full((len(some.x),), torch.nan, device=some.x.device) for name in names}
    if not len(part.x):
        return columns
    found = attention_records(model, part.x, part.y, mask=part.mask, parts=part.parts)
    clean = found["p"]
    z = attention_hold(
        model, part.x, part.y, threat, attend=HELD, distance=js, steps=size.hold,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    attacked = (z != part.x).flatten(1).any(1)
    after = attend(model, z, part.y)
    found["held: js"] = torch.where(attacked, js(clean, after), torch.nan)
    gone = (iou(above_mean(clean), above_mean(after)) < KEY).float()
    found["held: moved"] = torch.where(attacked, gone, torch.nan)
    found["noise: js"] = js(clean, attend(model, threat.corner(part.x, seed), part.y))
    for name in columns:
        if name in found:
            columns[name][right] = found[name].float()
    return columns


def faithful(model: nn.Module, samples: Samples, n: int, *, data: str, arm: str, seed: int) -> Faithful:
    """Exchange pixels in the order of the attention, and let the network forget, on what it classifies rightly.

    Cost: 68 forwards a sample, and an attention for the network and each of its layers.
    """
    started = time.perf_counter()
    some = samples.take(torch.arange(min(n, len(samples.x))))
    right = ~verify(model, some.x, some.y, some.x, Linf(0.0)).success
    columns = {name: torch.full((len(some.x),), torch.nan, device=some.x.device) for name in FAITHFUL}
    layers: Sequence[str] = ()
    means: list[float | None] = []
    compared: list[int] = []
    if bool(right.any()):
        x, y = some.x[right], some.y[right]
        p = attend(model, x, y)
        for ending, maps in (("", p), (", elsewhere", p.roll((p.shape[1] // 2, p.shape[2] // 2), (1, 2)))):
            curves = perturbation_curves(model, x, y, maps)
            columns[f"deletion{ending}"][right] = curves.deletion_area
            columns[f"insertion{ending}"][right] = curves.insertion_area
        forgets = parameter_randomisation(model, attend, x, y, seed=seed)
        layers, similar = forgets.layers, forgets.similarity
        compared = similar.isfinite().sum(1).tolist()
        means = [round(float(row.nanmean()), 5) if k else None for row, k in zip(similar, compared, strict=True)]
    return Faithful(
        data=data, arm=arm, seed=seed, n=len(some.x), columns={k: listed(v) for k, v in columns.items()},
        layers=list(layers), randomised=means, compared=compared, seconds=round(time.perf_counter() - started, 3),
    )  # fmt: skip


def on_objective(model: Model, x: Tensor, y: Tensor, threat: Threat, *, steps: int, seed: int = 0) -> Tensor:
    """Ascent on what `Arp` descends, cross-entropy, R and V together, (B, *D). Cost: 8 passes a step."""
    loss = Arp(lambda model, x, y: x, attend=HELD, fill=fill_mean)
    source = torch.Generator().manual_seed(seed)
    with frozen(model):

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            t = loss.terms(model, x[at], z, y[at])  # type: ignore[arg-type]
            value = t.base + loss.beta * t.rectification + loss.gamma * t.preservation
            return value, torch.zeros_like(at) > 0

        start = threat.sample(x, source)
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=start, generator=source).z


def worst(row: Judged, crossed: str | None = None) -> np.ndarray:
    """Which samples nothing fooled, (n,) float."""
    texts = [text for name, text in row.kept.items() if name != "Step-LL"] + ([crossed] if crossed else [])
    return np.array([all(t[i] == "1" for t in texts) for i in range(row.n)], dtype=float)
