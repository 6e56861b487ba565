"""Attention: where a model finds its evidence for a class, as a probability map that can be differentiated twice.

    w_k  = mean_ij d z_y / dA_k,ij                                      Grad-CAM's weights, per sample
    S_ij = sum_k w_k A_k,ij                                             score map; the ReLU is optional, and off
    S^   = (S - mean S) / (std S + 1e-6 max|S| + 1e-12)                 per sample, over the h w cells
    P    = softmax_hw(S^ / tau)                                         sums to 1

Standardising makes P the same for S and c S + d, c > 0, up to 1e-6 max|S| / std S, so that a network cannot flatten its
map by shrinking S. Entropies of different tau or grids cannot be compared.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831 (P, without standardising).
    Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391 (w, S). Differs: no ReLU unless asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.shapes import flat
from unfooled.core.types import Loss, Model
from unfooled.explanations.cams import CamMap, grad_cam_map
from unfooled.explanations.gradients import differentiating

FEW = 16
"""Fewer cells than this are no map to speak of."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention, and what it was made from.

    Attributes:
        p: probability map, (B, h, w), sums to 1.
        score: S, (B, h, w).
        layer: the call that A is the output of.
        flat: (B,) bool, where S is constant: P is uniform there and says nothing.
    """

    p: Tensor
    score: Tensor
    layer: str
    flat: Tensor


def attention(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    tau: float = 1.0,
    relu: bool = False,
    standardise: bool = True,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> Tensor:
    """The attention map of a class.

    Args:
        model: modules, or a callable that holds some, to logits, (B, *D) -> (B, K). Not modified.
        x: inputs, (B, *D).
        y: the class explained, (B,) int64: fixed (label or clean prediction) or predicted at x; say which.
        layer: name of a call; found by `find_spatial_layer` where None, for 1 more forward and backward of one sample.
        grid: (h, w) of patch tokens, where it is not that of the convolution that cuts the patches.
        tau: temperature, above 0.
        relu: keep only evidence for the class.
        standardise: S^ instead of S in the softmax.
        detach_weights: with `create_graph`, hold w constant: no double backward. Exact for gradients in x where w does
            not depend on x (conv - GAP - linear).
        create_graph: keep the graph. On ReLU networks w has no gradient almost everywhere: see `smooth_relu`.
        score: `(logits, y) -> (B,)`, what S is evidence for.

    Returns:
        P, (B, h, w). Cost: 1 forward, 1 backward down to the layer.

    Raises:
        BadInput: x, y or tau cannot be used, or the model has no spatial layer; the message names the offender.

    Warns:
        UserWarning: the map has fewer than 16 cells.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5), torch.nn.Flatten(), torch.nn.Linear(32, 3))
        >>> p = attention(net, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
        >>> p.shape, p.sum((1, 2)).round(decimals=4).tolist()
        (torch.Size([2, 4, 4]), [1.0, 1.0])
    """
    return attention_map(
        model, x, y, layer=layer, grid=grid, tau=tau, relu=relu, standardise=standardise,
        detach_weights=detach_weights, create_graph=create_graph, score=score,
    ).p  # fmt: skip


def attention_map(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    tau: float = 1.0,
    relu: bool = False,
    standardise: bool = True,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> AttentionMap:
    """`attention` with the scores, the layer and the flat samples. Arguments, cost and errors as there."""
    if not tau > 0:
        raise BadInput(f"tau is {tau}; it must be above 0")
    found = _scored(model, x, y, layer, grid, relu, score, detach_weights, create_graph)
    s = found.map
    if s[0].numel() < FEW:
        warnings.warn(
            f"layer {found.layer!r} has {s.shape[1]} x {s.shape[2]} cells; with fewer than {FEW} attention is hardly a "
            "map, name an earlier layer",
            stacklevel=2,
        )
    with differentiating():
        p, still = probability(s, tau=tau, standardise=standardise)
        return AttentionMap(p if create_graph else p.detach(), s, found.layer, still)


def attention_scores(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    relu: bool = False,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> Tensor:
    """S, (B, h, w), in units of the score. Arguments, cost and errors as for `attention`."""
    return _scored(model, x, y, layer, grid, relu, score, detach_weights, create_graph).map


def attention_image(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """`attention` as an explanation of images: upsampled (bilinear, half-pixel) and repeated over channels.

    Args:
        model: as for `attention`.
        x: images, (B, C, H, W).
        y: the class explained, (B,).
        create_graph: keep the graph.

    Returns:
        (B, C, H, W); each channel's mean is 1 / (h w) where H and W are multiples of the grid's sides.

    Raises:
        BadInput: x are no images, or as for `attention`.
    """
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; attention_image is for images, (B, C, H, W)")
    p = attention(model, x, y, create_graph=create_graph)
    with differentiating():
        large = F.interpolate(p[:, None], x.shape[2:], mode="bilinear", align_corners=False)
        return large.expand_as(x).contiguous()


def probability(s: Tensor, *, tau: float = 1.0, standardise: bool = True) -> tuple[Tensor, Tensor]:
    """Turn score maps, (B, h, w), into P, (B, h, w), and say which of them are flat, (B,) bool."""
    rows = flat(s)
    middle = rows.mean(1, keepdim=True)
    variance = (rows - middle).square().mean(1)
    top = rows.abs().amax(1)
    still = (variance.sqrt() <= 1e-6 * top).detach()
    # The root has no derivative at 0: flat rows leave before it is taken.
    deviation = torch.where(still, 1.0, variance).sqrt()
    if standardise:
        rows = (rows - middle) / (deviation + 1e-6 * top + 1e-12)[:, None]
    rows = torch.where(still[:, None], 0.0 * rows, rows)
    return (rows / tau).softmax(1).reshape(s.shape), still


def _scored(
    model: Model,
    x: Tensor,
    y: Tensor,
    layer: str | None,
    grid: tuple[int, int] | None,
    relu: bool,
    score: Loss,
    detach_weights: bool,
    create_graph: bool,
) -> CamMap:
    try:
        return grad_cam_map(
            model, x, y, layer=layer, grid=grid, relu=relu, score=score, detach_weights=detach_weights,
            create_graph=create_graph,
        )  # fmt: skip
    except (RuntimeError, ValueError, IndexError) as error:
        if not isinstance(x, Tensor) or x.ndim != 3 or "out of memory" in str(error).lower():
            raise
        if isinstance(error, BadInput) and getattr(y, "shape", None) == x.shape[:1]:
            raise
        # Three dimensions are a batch to few models, and a forgotten one to most.
        said = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"x has shape {tuple(x.shape)}, which the model does not take as a batch, (B, *D) ({said}); a single "
            "image, (C, H, W), is x[None]"
        ) from error
