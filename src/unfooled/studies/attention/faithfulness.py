"""Faithfulness of a network's attention: deletion, insertion and shuffled parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from unfooled.core.threats import Linf
from unfooled.evaluation.explanations.attention import attend
from unfooled.evaluation.explanations.faithfulness import parameter_randomisation, perturbation_curves
from unfooled.evaluation.verify import verify
from unfooled.studies.attention.measures import FAITHFUL
from unfooled.studies.attention.records import Faithful
from unfooled.studies.attention.samples import Samples
from unfooled.studies.common.records import listed


def measure_faithfulness(model: nn.Module, samples: Samples, n: int, *, data: str, arm: str, seed: int) -> Faithful:
    """Exchange pixels in the order of the attention, and shuffle the network's parameters layer by layer.

    Only samples that the network classifies correctly are used.

    Cost: 68 forwards per sample, an attention map, and one more for each layer that is shuffled.

    Args:
        model: Network.
        samples: Test images.
        n: Number of samples used, the first ones.
        data: Name of the data set, for the record.
        arm: Name of the network, for the record.
        seed: Random seed of the shuffled parameters.
    """
    started = time.perf_counter()
    first = samples.take(torch.arange(min(n, len(samples.x))))
    right = ~verify(model, first.x, first.y, first.x, Linf(0.0)).success
    columns = {name: torch.full((len(first.x),), torch.nan, device=first.x.device) for name in FAITHFUL}
    layers: Sequence[str] = ()
    means: list[float | None] = []
    compared: list[int] = []
    if bool(right.any()):
        x, y = first.x[right], first.y[right]
        p = attend(model, x, y)
        for ending, maps in (("", p), (", elsewhere", p.roll((p.shape[1] // 2, p.shape[2] // 2), (1, 2)))):
            curves = perturbation_curves(model, x, y, maps)
            columns[f"deletion{ending}"][right] = curves.deletion_area
            columns[f"insertion{ending}"][right] = curves.insertion_area
        randomised = parameter_randomisation(model, attend, x, y, seed=seed)
        layers, similar = randomised.layers, randomised.similarity
        compared = similar.isfinite().sum(1).tolist()
        means = [round(float(row.nanmean()), 5) if k else None for row, k in zip(similar, compared, strict=True)]
    return Faithful(
        data=data, arm=arm, seed=seed, n=len(first.x), columns={k: listed(v) for k, v in columns.items()},
        layers=list(layers), randomised=means, compared=compared, seconds=round(time.perf_counter() - started, 3),
    )  # fmt: skip
