"""Least margin of a certified sample: what the model's own rounding may change is not certified.

A bound is one of the network in exact arithmetic; the model computes in float32. Its rounding errors are measured at
points of each region, at the same places in every region, so that a later check of the certificate asks for the same
margin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.certification.crown import in_parts, samples_at_once
from unfooled.certification.network import Head, Network
from unfooled.certification.region import Region
from unfooled.core.model.batching import batched

ROUNDING = 1e-5
"""Least margin of a certified sample, relative to its largest logit: the model itself computes in float32, and logits
that are nearer may change their order by rounding."""
POINTS_SEEN = 2
TIMES_SEEN = 8.0
"""Least margin of a certified sample, relative to the rounding errors of float32 that are seen at points of its
region: a network that adds a large number and takes it away again rounds its inputs."""


def least_by_size(network: Network, logits: Tensor) -> Tensor:
    """Return the least margin by the size of the logits, (B,).

    Args:
        network: The network.
        logits: Its logits at the samples, (B, K).
    """
    size = logits.abs().amax(1).double().cpu()
    if network.head is not Head.NONE:  # its results are rounded too, however close the logits are
        size = size + 1 + math.log(network.classes)
    return ROUNDING * size


def least_margins(network: Network, exact: Network, region: Region, rows: Tensor) -> Tensor:
    """Return the least margin of some samples, by the size of their logits and by the rounding seen, (R,).

    Args:
        network: The network in the type of the samples.
        exact: The network in float64.
        region: Regions of all samples, in the type of the samples.
        rows: Samples, (R,).
    """
    share = torch.rand(
        POINTS_SEEN, *region.x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    result = torch.zeros(len(rows), dtype=torch.float64)
    for part in in_parts(torch.arange(len(rows)), samples_at_once(exact)):
        own = region.take(rows[part].to(region.x.device))
        result[part] = least_by_size(network, batched(network.logits, len(part))(own.x))
        for some in share:
            points = own.low + some.to(own.x) * (own.high - own.low)
            seen = (network.logits(points) - exact.logits(points)).abs().amax(1).double().cpu()
            result[part] = torch.maximum(result[part], TIMES_SEEN * seen)
    return result
