"""Networks of the attention study under attack.

Every network is judged by the cascade, by attacks that move attention along with the label, by ascent on the ARP
objective and by the points found on the other networks; a sample counts as robust where none of them fools it. The
figure under Step-LL is reported beside it and decides nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import Effort, cascade
from unfooled.attacks.explanations.attention_shift import attention_hold, attention_pgd
from unfooled.attacks.step_ll import step_ll
from unfooled.core.ascent import Decaying, ascend
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import Model
from unfooled.distances.maps.attention import above_mean, iou, js
from unfooled.evaluation.explanations.attention import attend, attention_records
from unfooled.evaluation.verify import verify
from unfooled.explanations.masks import fill_mean
from unfooled.studies.attention.measures import ATTACKED_ATTENTION, MOVED_BELOW_IOU, PLACES
from unfooled.studies.attention.records import Judged
from unfooled.studies.attention.samples import Samples
from unfooled.studies.common.records import bits, listed
from unfooled.training.losses.arp import Arp


@dataclass(frozen=True)
class Judging:
    """Effort of the judgement of a network.

    Attributes:
        n: Number of test images that are attacked.
        effort: Effort of the cascade.
        weights: Weights of the attention term of the attention-guided attacks.
        steps: Steps of each of these attacks, and of the ascent on the ARP objective.
        restarts: Restarts of the attention-guided attack, for each weight.
        hold: Steps of the attack that moves attention and keeps the label.
    """

    n: int
    effort: Effort
    weights: tuple[float, ...]
    steps: int
    restarts: int
    hold: int


def judge(
    model: nn.Module, samples: Samples, threat: Linf, size: Judging, *, data: str, arm: str, seed: int
) -> tuple[Judged, Tensor]:
    """Attack one network.

    Args:
        model: Network.
        samples: Test images, of which the first are attacked.
        threat: Set of allowed inputs.
        size: Effort of the attacks.
        data: Name of the data set, for the record.
        arm: Name of the network, for the record.
        seed: Random seed of the attacks.

    Returns:
        The record, and the cascade's points, (n, *D), for the other networks.
    """
    started = time.perf_counter()
    tested = samples.take(torch.arange(min(size.n, len(samples.x))))
    x, y = tested.x, tested.y
    generator = torch.Generator().manual_seed(seed)
    z = cascade(model, x, y, threat, effort=size.effort, seed=seed)
    stands = ~verify(model, x, y, z, threat).success
    standing = {"clean": ~verify(model, x, y, x, threat).success, "cascade": stands}
    standing["Step-LL"] = ~verify(model, x, y, step_ll(model, x, y, threat, generator=generator), threat).success
    left = stands.nonzero()[:, 0]
    guided, ascended = stands.clone(), stands.clone()
    if len(left):
        for weight in size.weights:
            points = attention_pgd(
                model, x[left], y[left], threat, attend=ATTACKED_ATTENTION, distance=js, weight=weight,
                steps=size.steps, restarts=size.restarts, generator=generator,
            )  # fmt: skip
            guided[left] &= ~verify(model, x[left], y[left], points, threat).success
        points = ascend_arp(model, x[left], y[left], threat, steps=size.steps, seed=seed)
        ascended[left] &= ~verify(model, x[left], y[left], points, threat).success
    standing |= {"attention-guided": guided, "ARP objective": ascended}
    columns = attention_columns(model, tested, standing["clean"], threat, size.hold, seed)
    return (
        Judged(
            data=data, arm=arm, seed=seed, eps=float(threat.eps), n=len(x),
            correct={name: bits(values) for name, values in standing.items()},
            columns={k: listed(v) for k, v in columns.items()},
            seconds=round(time.perf_counter() - started, 3),
        ),
        z,
    )  # fmt: skip


def attention_columns(
    model: nn.Module, samples: Samples, right: Tensor, threat: Linf, steps: int, seed: int
) -> dict[str, Tensor]:
    """Measure clean attention, and its movement under an attack that keeps the label.

    Args:
        model: Network.
        samples: Test images.
        right: Samples that are classified correctly, (n,) bool; results of the others are NaN.
        threat: Set of allowed inputs.
        steps: Steps of the attack.
        seed: Random seed of the attack and of the noise beside it.
    """
    analysed = samples.take(right.nonzero()[:, 0])
    names = [*PLACES, "entropy", "held: js", "held: moved", "noise: js"]
    columns = {name: torch.full((len(samples.x),), torch.nan, device=samples.x.device) for name in names}
    if not len(analysed.x):
        return columns
    measured = attention_records(model, analysed.x, analysed.y, mask=analysed.mask, parts=analysed.parts)
    clean = measured["p"]
    z = attention_hold(
        model, analysed.x, analysed.y, threat, attend=ATTACKED_ATTENTION, distance=js, steps=steps,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    attacked = (z != analysed.x).flatten(1).any(1)
    after = attend(model, z, analysed.y)
    measured["held: js"] = torch.where(attacked, js(clean, after), torch.nan)
    moved = (iou(above_mean(clean), above_mean(after)) < MOVED_BELOW_IOU).float()
    measured["held: moved"] = torch.where(attacked, moved, torch.nan)
    measured["noise: js"] = js(clean, attend(model, threat.corner(analysed.x, seed), analysed.y))
    for name in columns:
        if name in measured:
            columns[name][right] = measured[name].float()
    return columns


def ascend_arp(model: Model, x: Tensor, y: Tensor, threat: Threat, *, steps: int, seed: int = 0) -> Tensor:
    """Maximise the loss of `Arp`: cross-entropy, R and V together, (B, *D). Cost: 8 passes per step.

    Args:
        model: Any callable with a spatial layer.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Set of allowed inputs.
        steps: Gradient evaluations.
        seed: Random seed.
    """
    loss = Arp(lambda model, x, y: x, attend=ATTACKED_ATTENTION, fill=fill_mean)
    generator = torch.Generator().manual_seed(seed)
    with frozen(model):

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            t = loss.terms(model, x[at], z, y[at])  # type: ignore[arg-type]
            value = t.base + loss.beta * t.rectification + loss.gamma * t.preservation
            return value, torch.zeros_like(at) > 0

        start = threat.sample(x, generator)
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=start, generator=generator).z


def worst_case(row: Judged, crossed: str | None = None) -> np.ndarray:
    """Return 1 for samples that no attack fooled, else 0, (n,) float; Step-LL is not counted.

    Args:
        row: The network under attack.
        crossed: Samples that keep their label at the points of the others, see `Crossed.correct`; None: unknown.
    """
    texts = [text for name, text in row.correct.items() if name != "Step-LL"] + ([crossed] if crossed else [])
    return np.array([all(t[i] == "1" for t in texts) for i in range(row.n)], dtype=float)
