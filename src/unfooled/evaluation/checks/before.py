"""What a model is asked before it is attacked: are its answers steady, do its gradients exist and tell the truth?

Each probe returns a `Finding`; the letters are those of the table in the documentation of the diagnostics. All of them
together cost at most about 2,500 passes a run, whatever the number of samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core import losses, rng
from unfooled.core.ascent.nearest import decided
from unfooled.core.goals import fooled, read_logits
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model
from unfooled.evaluation.checks.table import Finding

NORMALISATIONS = {
    "mean .5, std .5": (0.5, 0.5),
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST's mean and std": (0.1307, 0.3081),
    "pixels from 0 to 255": (0.0, 1 / 255),
}


def finding(
    key: str, fired: bool, detail: str, action: str = "", value: float | None = None, threshold: float | None = None
) -> Finding:
    """A finding; an action belongs only to one that fired."""
    number = value if value is not None and math.isfinite(value) else None
    return Finding(
        id=key, fired=bool(fired), detail=detail, action=action if fired else "", value=number, threshold=threshold
    )


def gradient(model: Model, z: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor | None, str]:
    """Values (b,), gradient or None, and why there is none."""
    leaf = z.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = loss(read_logits(model, leaf), y)
            if not value.requires_grad:
                return value, None, "its output carries no gradient to its input"
            (g,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    except RuntimeError as e:
        with torch.no_grad():
            return loss(read_logits(model, z), y), None, f"its backward pass raises: {str(e).splitlines()[0]}"
    return value.detach(), g, "" if g is not None else "its output does not depend on its input"


def _values(model: Model, z: Tensor, y: Tensor, loss: Loss = losses.margin) -> Tensor:
    with torch.no_grad():
        return loss(read_logits(model, z), y)


def rounding(logits: Tensor) -> float:
    """How far equal logits may be apart by the order of sums alone; what is farther apart is another answer.

    Relative to the largest logit, whatever their scale: 1e-4, or 5e-3 where matrices are multiplied with some ten bits.
    """
    short = logits.dtype in (torch.float16, torch.bfloat16)
    if logits.is_cuda and logits.dtype == torch.float32:
        short = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    top = logits.detach().nan_to_num(0.0, 0.0, 0.0).abs().amax()
    return (5e-3 if short else 1e-4) * max(float(top), torch.finfo(logits.dtype).tiny)


def normalisation(model: Model, x: Tensor, y: Tensor) -> Finding:
    """D2: the model does better on inputs that are normalised once more, or worse than chance: they do not fit it."""
    from scipy.stats import binom

    few, label = x[:100], y[:100]
    with torch.no_grad():
        base = float((read_logits(model, few).argmax(1) == label).double().mean())
        best, name = -1.0, ""
        for key, (mean, std) in NORMALISATIONS.items():
            channels = few.shape[1] if few.ndim > 2 else 0
            if isinstance(mean, tuple) and channels != len(mean):
                continue
            m, s = (torch.as_tensor(v, dtype=few.dtype, device=few.device) for v in (mean, std))
            if m.ndim:
                m, s = (v.reshape(1, -1, *[1] * (few.ndim - 2)) for v in (m, s))
            right = float((read_logits(model, (few - m) / s).argmax(1) == label).double().mean())
            if right > best:
                best, name = right, key
        k = read_logits(model, few[:1]).shape[1]
    gain = best - base
    slack = max(0.05, 2 / len(few))
    unlucky = float(binom.cdf(round(base * len(few)), len(few), 1 / k))
    if best < 0.5 and unlucky < 1e-3:
        return finding(
            "D2", True, f"{base:.0%} of {len(few)} samples are right, fewer than chance would give of {k} classes",
            "no verdict: labels and outputs seem to be in another order; give the model's own (--labels)", base, 1 / k,
        )  # fmt: skip
    return finding(
        "D2", gain > slack, f"accuracy {base:.0%} on the inputs as given, {best:.0%} after {name}",
        "no verdict: the preprocessing seems wrong; give the model's own mean and std", gain, slack,
    )  # fmt: skip


def answers(model: Model, x: Tensor) -> tuple[Finding, Finding]:
    """D3: probabilities, few values, NaN; D4: answers that change with repetition, batch or order."""
    few = x[:32]
    with torch.no_grad():
        logits, again = read_logits(model, few), read_logits(model, few)
        ones = torch.cat([read_logits(model, row[None]) for row in few[:8]])
        turned = read_logits(model, few.flip(0)).flip(0)
    scale = rounding(logits)
    apart = [float((logits[: len(b)] - b).abs().amax()) for b in (again, ones, turned)]
    values = len(torch.unique(logits))
    odd = bool((~torch.isfinite(logits)).any())
    summed = bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())
    coarse = values <= 32 and values < logits.numel()
    parts = [p for p, on in [("NaN or infinite", odd), ("probabilities", summed), (f"{values} values", coarse)] if on]
    said = f"outputs of {len(few)} samples are {', '.join(parts) or 'plain logits'}"
    action = "their logarithm is attacked" if summed else "the checks of the gradient decide what is attacked"
    if constant(model, few, logits):
        said = f"the logits of {len(few)} samples and of as many random inputs are all the same"
        action = "no verdict: the model decides nothing, so nothing could change its decision"
    d3 = finding("D3", bool(parts), said, action, float(values), 32)
    random = apart[0] > scale
    what = "the same input gives other outputs" if random else "outputs change with the rest of the batch"
    d4 = finding(
        "D4", max(apart) > scale, f"largest change of a logit: {apart[0]:.2g} repeated, {apart[1]:.2g} alone, "
        f"{apart[2]:.2g} in another order" + (f": {what}" if max(apart) > scale else ""),
        "gradients are averaged over draws; fresh draws decide" if random else "no verdict: rows depend on each other",
        max(apart), scale,
    )  # fmt: skip
    return d3, d4


def constant(model: Model, x: Tensor, logits: Tensor) -> bool:
    """Whether samples of several values and uniform noise all get one answer, digit for digit."""
    if len(x) < 8 or not bool((logits == logits[:1]).all()) or bool((x == x[:1]).all()):
        return False
    noise = rng.uniform(rng.seeds(x, 0, stage=405), tuple(x.shape[1:]), dtype=x.dtype)
    with torch.no_grad():
        return bool((read_logits(model, noise) == logits[:1]).all())


def dead(model: Model, z: Tensor, y: Tensor, where: str) -> tuple[Finding, Finding, Finding]:
    """D6: gradients that vanish under the margin; D8: that do not exist; D19's part: under the cross-entropy alone."""
    _, g, why = gradient(model, z, y, losses.margin)
    d8 = finding(
        "D8", g is None, why or "the backward pass returns a gradient", "gradients of a distilled twin are used"
    )
    if g is None:
        none = finding("D6", False, "there is no gradient to look at")
        return none, d8, finding("D19", False, "there is no gradient to look at")
    vanish = flat(g.nan_to_num()).abs().sum(1) <= 1e-12 * g[0].numel()
    _, ce, _ = gradient(model, z, y, losses.cross_entropy)
    sure = torch.zeros_like(vanish) if ce is None else flat(ce.nan_to_num()).abs().sum(1) <= 1e-12 * g[0].numel()
    share, alone = float(vanish.double().mean()), float((sure & ~vanish).double().mean())
    d6 = finding(
        "D6", share > 0.05, f"the margin's gradient is zero on {share:.0%} of {len(z)} points {where}",
        "gradients of a distilled twin, random search, labels alone", share, 0.05,
    )  # fmt: skip
    d19 = finding(
        "D19", alone > 0.05, f"the cross-entropy's gradient vanishes on {alone:.0%} of {len(z)} points where the "
        "margin's does not", "the margin is attacked", alone, 0.05,
    )  # fmt: skip
    return d6, d8, d19


def jumps(model: Model, z: Tensor, y: Tensor, seed: int) -> Finding:
    """D5: a step of 1e-6 changes the loss by far more than the gradient says, as noise seeded by the input does."""
    value, g, _ = gradient(model, z, y, losses.margin)
    g = torch.zeros_like(z) if g is None else g.nan_to_num()
    step = 1e-6 * rng.normal(rng.seeds(z, seed, stage=401), tuple(z.shape[1:]), dtype=z.dtype).sign()
    with torch.no_grad():
        logits = read_logits(model, z + step)
        change = (losses.margin(logits, y) - value).abs()
    said = 1e-6 * flat(g).abs().sum(1)
    jumped = change > torch.maximum(10 * said, 1e-3 * (1 + logits.abs().amax(1)))
    share = float(jumped.double().mean())
    return finding(
        "D5", share > 0.05, f"a change of 1e-6 moves the loss far more than its gradient says on {share:.0%} of "
        f"{len(z)} points", "gradients are averaged over jittered inputs; random search, labels alone", share, 0.05,
    )  # fmt: skip


def lies(model: Model, z: Tensor, y: Tensor, seed: int) -> Finding:
    """D7: finite differences along the gradient and 8 directions near it against what the gradient says."""
    _, g, why = gradient(model, z, y, losses.margin)
    if g is None:
        return finding("D7", False, why)
    g = g.nan_to_num()
    length = flat(g).norm(dim=1)
    live = length > 1e-12
    if not bool(live.any()):
        return finding("D7", False, "the gradient is zero")
    z, y, g, length = z[live], y[live], g[live], length[live]
    unit = g / per_sample(length, g)
    seeds, wrong, h = rng.seeds(z, seed, stage=402), [], 1e-3
    for k in range(9):
        u = unit
        if k:
            noise = rng.normal(seeds, tuple(z.shape[1:]), draw=k, dtype=z.dtype)
            u = unit + noise / per_sample(flat(noise).norm(dim=1), noise)
            u = u / per_sample(flat(u).norm(dim=1), u)
        up, down = _values(model, z + h * u, y), _values(model, z - h * u, y)
        said = (flat(g) * flat(u)).sum(1)
        rough = 2e-6 * torch.maximum(up.abs(), down.abs()) / h  # rounding of the difference
        wrong.append(((up - down) / (2 * h) - said).abs() > 0.1 * length + rough)
    share = float(torch.stack(wrong).double().mean())
    return finding(
        "D7", share > 0.1, f"finite differences contradict the gradient in {share:.0%} of {9 * len(z)} directions",
        "gradients of a distilled twin, random search, labels alone", share, 0.1,
    )  # fmt: skip


def rough(model: Model, z: Tensor, y: Tensor, threat: Threat, seed: int) -> Finding:
    """D9: the loss jumps about within a tenth of eps."""
    value = _values(model, z, y)
    with torch.no_grad():
        spread = read_logits(model, z).std(1)
    near = threat.scaled(0.1)
    change = torch.stack([(_values(model, near.sample(z, seed, draw=k, stage=403), y) - value).abs() for k in range(8)])
    relative = float((change.mean(0) / torch.maximum(value.abs(), spread).clamp_min(1e-12)).mean())
    return finding(
        "D9", relative > 0.1, f"within a tenth of eps the loss changes by {relative:.1%} on average",
        "gradients are averaged over 16 neighbours", relative, 0.1,
    )  # fmt: skip


def remembers(model: Model, one: Tensor, first: Tensor, threat: Threat, seed: int) -> Finding:
    """D20: the answer to the same input changes after 500 queries near it; `first` is the answer before all probes."""
    with torch.no_grad():
        many = one.expand(100, *one.shape[1:]).contiguous()
        for k in range(5):
            noise = rng.uniform(rng.seeds(one, seed, stage=404), tuple(many.shape), draw=k, dtype=one.dtype)[0]
            near = threat.box.clamp(many + 0.02 * (2 * noise - 1))
            read_logits(model, near)
        after = read_logits(model, one)
    change = float((first - after).nan_to_num(torch.inf, torch.inf, torch.inf).abs().amax())
    limit = rounding(first)
    return finding(
        "D20", change > limit, f"the logits of a sample change by {change:.2g} after 500 queries near it",
        "refused: the model remembers queries; judge it without that state", change, limit,
    )  # fmt: skip


def replayed(copy: Model, model: Model, z: Tensor, y: Tensor) -> Finding:
    """D20 after the attack: a copy that was never asked anything is fooled where the model itself is not.

    Cost: 1 forward of the model, of at most 500 points.
    """
    z, y = z[:500], y[:500]
    with torch.no_grad():
        fresh, own = read_logits(copy, z), read_logits(model, z)
    lost = int((decided(fresh, y) & ~fooled(own, y)).sum())
    return finding(
        "D20", lost > max(1, 0.02 * len(z)), f"a copy that was asked nothing before is fooled at {lost} of "
        f"{len(z)} points at which the model is not", "no verdict: the model remembers what it was asked; judge it "
        "without that state", lost / max(len(z), 1), 0.02,
    )  # fmt: skip


def ties(model: Model, x: Tensor) -> Finding:
    """D21: too few or tied logits for the DLR loss."""
    with torch.no_grad():
        logits = read_logits(model, x[:32])
    k = logits.shape[1]
    if k < 4:
        return finding("D21", True, f"{k} classes", "the margin is attacked, towards all other classes", float(k), 4)
    top = logits.topk(3, dim=1).values
    gap = float((top[:, 0] - top[:, 2]).abs().amin())
    second = float(((top[:, 1] - top[:, 2]).abs() <= 1e-6).double().mean())
    tied = gap < 1e-6 or second > 0.5
    return finding(
        "D21", tied, f"the second and third logit are equal on {second:.0%} of the samples", "the margin is attacked",
        gap, 1e-6,
    )  # fmt: skip


def undefined(model: Model, z: Tensor) -> Finding:
    """D22: no answer at perturbed inputs, which is no decision."""
    with torch.no_grad():
        share = float((~torch.isfinite(read_logits(model, z))).any(1).double().mean())
    return finding(
        "D22", share > 0.01, f"logits are NaN or infinite at {share:.0%} of {len(z)} random points of the threat",
        "no verdict: a model that returns no answer has not withstood", share, 0.01,
    )  # fmt: skip


def before(model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0) -> list[Finding]:
    """Check a model before it is attacked.

    Args:
        model: any callable to logits.
        x: clean samples, (B, *D); the first 100 and fewer are used.
        y: labels, (B,).
        threat: what will be allowed.
        seed: of the probes.

    Returns:
        Findings D2 to D9 and D19 to D22. Cost: at most about 2,500 passes in all.
    """
    with torch.no_grad():
        first = read_logits(model, x[:1])
    d3, d4 = answers(model, x)
    with torch.no_grad():
        right = read_logits(model, x[:100]).argmax(1) == y[:100]
    few = (right.nonzero()[:, 0] if bool(right.any()) else torch.arange(len(right), device=x.device))[:32]
    a, b, near = x[few], y[few], threat.take(few).bounded(x)
    z = near.sample(a, seed, stage=400)
    nan = undefined(model, z)
    result = [normalisation(model, x, y), d3, d4, nan, ties(model, x)]
    if d4.fired:  # noise would drown what follows
        d6, d8, d19 = dead(model, z, b, "at the start")
        skipped = [
            finding(key, False, "not tried: the answers change by themselves") for key in ("D5", "D7", "D9", "D20")
        ]
        return [*result, d6, d8, d19, *skipped]
    d6, d8, d19 = dead(model, torch.cat([a, z]), torch.cat([b, b]), "at the start")
    result += [d6, d8, d19, jumps(model, z, b, seed), lies(model, z[:16], b[:16], seed)]
    return [
        *result,
        rough(model, a[:16], b[:16], near.take(torch.arange(len(a))[:16]), seed),
        remembers(model, x[:1], first, threat, seed),
    ]
