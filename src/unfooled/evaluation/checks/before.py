"""Checks before an attack: are the model's outputs deterministic, do its gradients exist, and are they correct?

Each check returns a `Finding`. All of them together cost about 3,000 passes per run, whatever the number of samples,
and at most about 3,500 more where the gradient vanishes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from unfooled.core import losses, rng
from unfooled.core.ascent.nearest import clearly_fooled
from unfooled.core.goals import fooled, logits_at, read_logits
from unfooled.core.model.calls import half_of
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model
from unfooled.evaluation.checks.agreement import agreement
from unfooled.evaluation.checks.black_box import no_gradients
from unfooled.evaluation.checks.borders import borders, pairs
from unfooled.evaluation.checks.normalised import normalisation
from unfooled.evaluation.checks.rounded import passed_through
from unfooled.evaluation.checks.slopes import direction, inner, large_steps, small_steps
from unfooled.evaluation.checks.table import CHECKS, Finding, Kind, above, finding

REPEATS = 8
"""Repetitions that tell a random model from one whose rows depend on each other."""
STAND_INS = "gradients of a distilled twin, random search, label-only attacks"


def before(
    model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0, prediction: Tensor | None = None
) -> list[Finding]:
    """Check a model before it is attacked.

    Args:
        model: Any callable to logits.
        x: Clean samples, (B, *D); at most the first 100 are used.
        y: Labels, (B,).
        threat: Constraint set of the attack to come.
        seed: Random seed.
        prediction: Classes predicted for all samples, (B,), compared with the labels. None: the model is asked for
            those of the first 500, and of the first 100.

    Returns:
        Findings D2 to D9, D19 to D22, D26 and D27. Cost: about 3,000 passes in all; at most 6,500 where the
        gradient vanishes.
    """
    with torch.no_grad():
        first = read_logits(model, x[:1])
    d3, d4 = answers(model, x)
    if prediction is None:
        with torch.no_grad():
            some = _some(y)
            prediction, y_some = logits_at(model, x[some], batch=100).argmax(1), y[some]
        label = _logits(model, x[:100]).argmax(1)
    else:
        y_some = y[: len(prediction)]
        label = prediction[:100].to(x.device)
    right = label == y[:100]
    few = (right.nonzero()[:, 0] if bool(right.any()) else torch.arange(len(right), device=x.device))[:32]
    a, b, near = x[few], y[few], threat.take(few).bounded(x)
    z = near.sample(a, seed, stage=rng.Stream.CHECK_START)
    refusals = undefined(model, z)
    known = agreement(prediction, y_some, first.shape[1])
    preprocessed = normalisation(model, x, y, random=d4.fired and d4.kind == Kind.MEND, right=right)
    result = [preprocessed, known, d3, d4, refusals, ties(model, x)]
    if absent := no_gradients(model):
        return [*result, *absent, *([] if d4.fired else [remembers(model, x[:1], first, threat, seed)])]
    if d4.fired:  # noise would drown what follows
        why, keys = "not tried: the answers change by themselves", ("D5", "D7", "D9", "D20", "D27")
        skipped = [finding(key, False, why) for key in keys]
        return [*result, *vanishing(model, z, b, "at the start"), *skipped]
    points, labels = torch.cat([a, z]), torch.cat([b, b])
    own = vanishing(model, points, labels, "at the start")
    hidden = own[0].fired or own[1].fired
    result += passed_through(model, points, labels, own, vanishing, seed=seed) if hidden else own
    one, other = pairs(x[:100], label)
    ends = threat.restore_fixed(x[other], x[one])
    if threat.free is not None and len(one):  # with entries held, the label may stay
        changed = _logits(model, ends).argmax(1) != label[one]
        one, ends = one[changed], ends[changed]
    apart = borders(model, x[one], ends, "on the way between samples", seed=seed)
    result += [jumps(model, z, b, seed), lies(model, z[:16], b[:16], seed), apart]
    return [
        *result,
        rough(model, a[:16], b[:16], near.take(torch.arange(len(a))[:16]), seed),
        remembers(model, x[:1], first, threat, seed),
    ]


def _some(y: Tensor, n: int = 500) -> Tensor:
    """Return the first rows, or rows all over the samples where the first ones are of one class."""
    rows = torch.arange(min(n, len(y)), device=y.device)
    if len(y) > n and bool((y[rows] == y[0]).all()):
        rows = torch.linspace(0, len(y) - 1, n, device=y.device).long()
    return rows


def _logits(model: Model, x: Tensor, batch: int | None = None) -> Tensor:
    with torch.no_grad():
        return logits_at(model, x, batch=batch)


def _margins(model: Model, z: Tensor, y: Tensor) -> Tensor:
    return losses.margin(_logits(model, z), y)


def gradient(model: Model, z: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor | None, str]:
    """Return values (b,), the gradient or None, and the reason where there is none."""
    leaf = z.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = loss(logits_at(model, leaf), y)
            if not value.requires_grad:
                return value, None, "its output carries no gradient to its input"
            (g,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    except RuntimeError as e:
        return loss(_logits(model, z), y), None, f"its backward pass raises: {str(e).splitlines()[0]}"
    return value.detach(), g, "" if g is not None else "its output does not depend on its input"


def rounding(logits: Tensor, model: Model) -> float:
    """Return the largest difference of a model's logits that the order of summation alone may cause.

    Relative to the largest logit, whatever their scale: 1e-4; 5e-3 where numbers have some ten bits, as in float16, and
    3e-2 where they have seven, as in bfloat16.
    """
    part = {torch.float16: 5e-3, torch.bfloat16: 3e-2}.get(half_of(model) or logits.dtype, 1e-4)
    if part < 5e-3 and logits.is_cuda and logits.dtype == torch.float32:
        short = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        part = 5e-3 if short else part
    top = logits.detach().nan_to_num(0.0, 0.0, 0.0).abs().amax()
    return part * max(float(top), torch.finfo(logits.dtype).tiny)


def answers(model: Model, x: Tensor) -> tuple[Finding, Finding]:
    """D3: probabilities, few values, NaN. D4: answers that change with repetition, batch or order."""
    few = x[:32]
    logits, again = _logits(model, few), _logits(model, few)
    ones = _logits(model, few[:8], batch=1)
    turned = _logits(model, few.flip(0)).flip(0)
    apart = [float((logits[: len(b)] - b).abs().amax()) for b in (again, ones, turned)]
    scale = rounding(logits, model)
    if apart[0] <= scale < max(apart):  # by chance, two draws of a random model may be equal
        apart[0] = max(float((logits - _logits(model, few)).abs().amax()) for _ in range(REPEATS))
    return _form(model, few, logits), _steady(apart, scale)


def _form(model: Model, few: Tensor, logits: Tensor) -> Finding:
    """D3, from the logits of a few samples."""
    limit = CHECKS["D3"].limit
    values = len(torch.unique(logits))
    odd = bool((~torch.isfinite(logits)).any())
    summed = bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())
    coarse = values <= limit and values < logits.numel()
    parts = [p for p, on in [("NaN or infinite", odd), ("probabilities", summed), (f"{values} values", coarse)] if on]
    if constant(model, few, logits):
        return finding(
            "D3", bool(parts), f"the logits of {len(few)} samples and of as many random inputs are all the same",
            "no verdict: the model decides nothing, so nothing could change its decision", float(values), limit,
            kind=Kind.STOP,
        )  # fmt: skip
    return finding(
        "D3", bool(parts), f"outputs of {len(few)} samples are {', '.join(parts) or 'plain logits'}",
        "their logarithm is attacked" if summed else "the checks of the gradient decide what is attacked",
        float(values), limit,
    )  # fmt: skip


def _steady(apart: list[float], scale: float) -> Finding:
    """D4, from the largest changes of a logit when repeated, alone and in another order."""
    random, changes = apart[0] > scale, max(apart) > scale
    what = "the same input gives other outputs" if random else "outputs change with the rest of the batch"
    return above(
        "D4", max(apart), f"largest change of a logit: {apart[0]:.2g} repeated, {apart[1]:.2g} alone, "
        f"{apart[2]:.2g} in another order" + (f": {what}" if changes else ""),
        "gradients are averaged over draws; fresh draws decide" if random else "no verdict: rows depend on each other",
        limit=scale, kind=Kind.STOP if changes and not random else None,
    )  # fmt: skip


def constant(model: Model, x: Tensor, logits: Tensor) -> bool:
    """Return whether samples of several values and uniform noise all get one answer, digit for digit."""
    if len(x) < 8 or not bool((logits == logits[:1]).all()) or bool((x == x[:1]).all()):
        return False
    seeds = rng.seeds(x, 0, stage=rng.Stream.CHECK_CONSTANT)
    noise = rng.uniform(seeds, tuple(x.shape[1:]), dtype=x.dtype)
    return bool((_logits(model, noise) == logits[:1]).all())


def vanishing(model: Model, z: Tensor, y: Tensor, where: str) -> tuple[Finding, Finding, Finding]:
    """D6: gradients of the margin that vanish. D8: gradients that do not exist. D19: only the cross-entropy's vanish.

    Args:
        model: Any callable to logits.
        z: Points, (b, *D).
        y: Labels, (b,).
        where: Name of the points in the findings.
    """
    _, g, why = gradient(model, z, y, losses.margin)
    d8 = finding(
        "D8", g is None, why or "the backward pass returns a gradient", "gradients of a distilled twin are used"
    )
    if g is None:
        none = "there is no gradient to look at"
        return finding("D6", False, none), d8, finding("D19", False, none)
    zero = _zero(g)
    _, ce, _ = gradient(model, z, y, losses.cross_entropy)
    sure = torch.zeros_like(zero) if ce is None else _zero(ce)
    share, alone = float(zero.double().mean()), float((sure & ~zero).double().mean())
    d6 = above("D6", share, f"the margin's gradient is zero on {share:.0%} of {len(z)} points {where}", STAND_INS)
    d19 = above(
        "D19", alone, f"the cross-entropy's gradient vanishes on {alone:.0%} of {len(z)} points where the "
        "margin's does not", "the margin is attacked",
    )  # fmt: skip
    return d6, d8, d19


def _zero(g: Tensor) -> Tensor:
    """Return a mask of the gradients that are zero or undefined, (b,) bool."""
    return flat(g.nan_to_num()).abs().sum(1) <= 1e-12 * g[0].numel()


def jumps(model: Model, z: Tensor, y: Tensor, seed: int) -> Finding:
    """D5: a step of 1e-6 changes the loss by far more than the gradient says, as noise seeded by the input does.

    So do steps of a rounded input, on which pixels stand; these are left by a random change before it fires.
    """
    share = _jumped(model, z, y, seed)
    if share > CHECKS["D5"].limit:
        noise = rng.uniform(rng.seeds(z, seed, stage=rng.Stream.CHECK_JUMPS), tuple(z.shape[1:]), draw=1, dtype=z.dtype)
        share = min(share, _jumped(model, z + (inner(z) - z) * (0.01 + 0.01 * noise), y, seed))
    return above(
        "D5", share, f"a change of 1e-6 moves the loss far more than its gradient says on {share:.0%} of "
        f"{len(z)} points", "gradients are averaged over jittered inputs; random search and label-only attacks follow",
    )  # fmt: skip


def _jumped(model: Model, z: Tensor, y: Tensor, seed: int) -> float:
    """Return the share of points at which a step of 1e-6 changes the loss by far more than the gradient says."""
    value, g, _ = gradient(model, z, y, losses.margin)
    g = torch.zeros_like(z) if g is None else g.nan_to_num()
    seeds = rng.seeds(z, seed, stage=rng.Stream.CHECK_JUMPS)
    step = 1e-6 * rng.normal(seeds, tuple(z.shape[1:]), dtype=z.dtype).sign()
    logits = _logits(model, z + step)
    change = (losses.margin(logits, y) - value).abs()
    expected = 1e-6 * flat(g).abs().sum(1)
    jumped = change > torch.maximum(10 * expected, 1e-3 * (1 + logits.abs().amax(1)))
    return float(jumped.double().mean())


def lies(model: Model, z: Tensor, y: Tensor, seed: int) -> Finding:
    """D7: finite differences along the gradient and 8 directions near it contradict the gradient, at every step."""
    _, g, why = gradient(model, z, y, losses.margin)
    if g is None:
        return finding("D7", False, why)
    g = g.nan_to_num()
    length = flat(g).norm(dim=1)
    live = length > 1e-12
    if not bool(live.any()):
        return finding("D7", False, "the gradient is zero")
    z, y, g, length = z[live], y[live], g[live], length[live]
    wrong, h = [], 1e-3
    for k in range(9):
        u = direction(z, g, seed, k)
        up, down = _margins(model, z + h * u, y), _margins(model, z - h * u, y)
        expected = (flat(g) * flat(u)).sum(1)
        slack = 2e-6 * torch.maximum(up.abs(), down.abs()) / h  # rounding of the difference
        wrong.append(((up - down) / (2 * h) - expected).abs() > 0.1 * length + slack)
    share, steps = float(torch.stack(wrong).double().mean()), "steps of 0.001"
    if share > CHECKS["D7"].limit:  # kinks and rounding do that too: other steps decide
        others = {
            "steps of 0.00001 in float64": partial(small_steps, model, z, y, g, seed),
            "any step": partial(large_steps, model, z, y, g, seed),
            "any step inside the box": partial(_inside, model, z, y, seed),
        }
        for name, contradicted in others.items():
            if share > CHECKS["D7"].limit:
                share, steps = min((share, steps), (contradicted(), name))
    tried = f"{9 * len(z)} directions, {steps}"
    return above("D7", share, f"finite differences contradict the gradient in {share:.0%} of {tried}", STAND_INS)


def _inside(model: Model, z: Tensor, y: Tensor, seed: int) -> float:
    """Return the share of samples that large steps contradict from points in the middle of the box."""
    z = inner(z)
    _, g, _ = gradient(model, z, y, losses.margin)
    live = torch.zeros(len(z), dtype=torch.bool) if g is None else flat(g.nan_to_num()).norm(dim=1) > 1e-12
    if g is None or not bool(live.any()):
        return 1.0
    return large_steps(model, z[live], y[live], g.nan_to_num()[live], seed)


def rough(model: Model, z: Tensor, y: Tensor, threat: Threat, seed: int) -> Finding:
    """D9: the loss jumps about within a tenth of eps."""
    value = _margins(model, z, y)
    spread = _logits(model, z).std(1)
    near = threat.scaled(0.1)
    points = (near.sample(z, seed, draw=k, stage=rng.Stream.CHECK_ROUGHNESS) for k in range(8))
    change = torch.stack([(_margins(model, point, y) - value).abs() for point in points])
    relative = float((change.mean(0) / torch.maximum(value.abs(), spread).clamp_min(1e-12)).mean())
    return above(
        "D9", relative, f"within a tenth of eps the loss changes by {relative:.1%} on average",
        "gradients are averaged over 16 neighbours",
    )  # fmt: skip


def remembers(model: Model, one: Tensor, first: Tensor, threat: Threat, seed: int) -> Finding:
    """D20: the answer to the same input changes after 500 queries near it; `first` is the answer before all checks."""
    many = one.expand(100, *one.shape[1:]).contiguous()
    seeds = rng.seeds(one, seed, stage=rng.Stream.CHECK_MEMORY)
    for k in range(5):
        noise = rng.uniform(seeds, tuple(many.shape), draw=k, dtype=one.dtype)[0]
        _logits(model, threat.box.clamp(many + 0.02 * (2 * noise - 1)))
    after = _logits(model, one)
    change = float((first - after).nan_to_num(torch.inf, torch.inf, torch.inf).abs().amax())
    return above(
        "D20", change, f"the logits of a sample change by {change:.2g} after 500 queries near it",
        "refused: the model remembers queries; judge it without that state", limit=rounding(first, model),
    )  # fmt: skip


def replayed(copy: Model, model: Model, z: Tensor, y: Tensor) -> Finding:
    """D20 after the attack: a copy that was never asked anything is fooled where the model itself is not.

    Args:
        copy: The copy.
        model: The model that was attacked.
        z: Final points of the attack, (b, *D).
        y: Labels, (b,).

    Cost: 1 forward of the model, of at most 500 points.
    """
    z, y = z[:500], y[:500]
    fresh, own = _logits(copy, z), _logits(model, z)
    lost, limit = int((clearly_fooled(fresh, y) & ~fooled(own, y)).sum()), CHECKS["D20"].limit
    return finding(
        "D20", lost > max(1, limit * len(z)), f"a copy that was asked nothing before is fooled at {lost} of "
        f"{len(z)} points at which the model is not", "no verdict: the model remembers what it was asked; judge it "
        "without that state", lost / max(len(z), 1), limit,
    )  # fmt: skip


def ties(model: Model, x: Tensor) -> Finding:
    """D21: too few or tied logits for the DLR loss."""
    logits, limit = _logits(model, x[:32]), CHECKS["D21"].limit
    k = logits.shape[1]
    if k < 4:
        return finding("D21", True, f"{k} classes", "the margin is attacked, towards all other classes", float(k), 4)
    spread = float((logits.amax(1) - logits.amin(1)).nan_to_num(0.0).median())
    top = logits.topk(3, dim=1).values / (spread if 0 < spread < 1 else 1)  # small logits are not tied
    gap = float((top[:, 0] - top[:, 2]).abs().amin())
    second = float(((top[:, 1] - top[:, 2]).abs() <= limit).double().mean())
    return finding(
        "D21", gap < limit or second > 0.5, f"the second and third logit are equal on {second:.0%} of the samples",
        "the margin is attacked", gap, limit,
    )  # fmt: skip


def undefined(model: Model, z: Tensor) -> Finding:
    """D22: the model gives no finite output at perturbed inputs."""
    share = float((~torch.isfinite(_logits(model, z))).any(1).double().mean())
    return above(
        "D22", share, f"logits are NaN or infinite at {share:.0%} of {len(z)} random points of the threat",
        "no verdict: a model that returns no answer has not withstood",
    )  # fmt: skip
