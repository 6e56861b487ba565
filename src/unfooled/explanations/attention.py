"""Attention: the location of a model's evidence for a class, as a twice differentiable probability map.

    w_k  = mean_ij d z_y / dA_k,ij                                      Grad-CAM's weights, per sample
    S_ij = sum_k w_k A_k,ij                                             score map; the ReLU is optional, by default off
    S^   = (S - mean S) / (std S + 1e-6 max|S| + 1e-12)                 per sample, over the h w cells
    P    = softmax_hw(S^ / tau)                                         sums to 1

Standardising makes P the same for S and c S + d, c > 0, up to 1e-6 max|S| / std S, so that a network cannot flatten its
map by shrinking S. Entropies at different tau or on different grids cannot be compared.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831 (P, without standardising).
    Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391 (w, S). Differs: the ReLU is off by default.
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
from unfooled.explanations.layers import Layer

MIN_CELLS = 16  # cells; with fewer, an attention map is too coarse to be useful


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """An attention map, with the scores and the layer that it was computed from.

    Attributes:
        p: Probability map, (B, h, w), sums to 1.
        score: Score map S, (B, h, w).
        layer: Name of the call whose output is A.
        flat: Samples whose S is constant, (B,) bool; P is uniform there and has no meaning.
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
    layer: Layer | None = None,
    grid: tuple[int, int] | None = None,
    tau: float = 1.0,
    relu: bool = False,
    standardise: bool = True,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> Tensor:
    """Return the attention map of a class.

    Args:
        model: A module, or a callable that uses modules, to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64: fixed (label or clean prediction) or predicted at x; report which.
        layer: Name of a call, or a module. None: found by `find_spatial_layer`, for a few more passes of one sample.
        grid: Height and width of the grid of cells. None: decided by shapes and by other sizes of the input.
        tau: Temperature of the softmax, above 0.
        relu: True: keep only evidence for the class.
        standardise: True: take the softmax of S^; False: of S.
        detach_weights: True: the graph of `create_graph` treats w as constant, which saves the double backward. Exact
            where w does not depend on x (convolutions, global average pooling, one linear layer).
        create_graph: True: keep the graph. In ReLU networks w has no gradient almost everywhere: see
            `smooth_relu`.
        score: Function `(logits, y) -> (B,)` to explain.

    Returns:
        Probability map P, (B, h, w). Cost: 1 forward, 1 backward down to the layer.

    Raises:
        BadInput: x, y or tau cannot be used, or the model has no spatial layer; the message names the cause.

    Warns:
        UserWarning: The map has fewer than 16 cells.

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
    layer: Layer | None = None,
    grid: tuple[int, int] | None = None,
    tau: float = 1.0,
    relu: bool = False,
    standardise: bool = True,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> AttentionMap:
    """Return the map with its scores, its layer and the flat samples; arguments, cost and errors as for `attention`."""
    if not tau > 0:
        raise BadInput(f"tau is {tau}; it must be above 0")
    cam = _cam(model, x, y, layer, grid, relu, score, detach_weights, create_graph)
    s = cam.map
    if s[0].numel() < MIN_CELLS:
        warnings.warn(
            f"layer {cam.layer!r} has {s.shape[1]} x {s.shape[2]} cells; with fewer than {MIN_CELLS} attention is "
            "hardly a map, name an earlier layer",
            stacklevel=2,
        )
    with differentiating():
        p, constant = probability(s, tau=tau, standardise=standardise)
        return AttentionMap(p if create_graph else p.detach(), s, cam.layer, constant)


def attention_scores(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: Layer | None = None,
    grid: tuple[int, int] | None = None,
    relu: bool = False,
    detach_weights: bool = False,
    create_graph: bool = False,
    score: Loss = true_logit,
) -> Tensor:
    """Return the score maps S, (B, h, w), in units of the score. Arguments, cost and errors as for `attention`."""
    return _cam(model, x, y, layer, grid, relu, score, detach_weights, create_graph).map


def attention_image(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return `attention` as an explanation of images: upsampled (bilinear, half-pixel) and repeated over channels.

    Args:
        model: A module, or a callable that uses modules, to logits, (B, C, H, W) -> (B, K). Not modified.
        x: Images, (B, C, H, W).
        y: Classes to explain, (B,) int64.
        create_graph: True: keep the graph, so that the attribution can be differentiated.

    Returns:
        Attribution, (B, C, H, W); each channel's mean is 1 / (h w) where H and W are multiples of the grid's sides.

    Raises:
        BadInput: x is not a batch of images, or for the causes given in `attention`.
    """
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; attention_image is for images, (B, C, H, W)")
    p = attention(model, x, y, create_graph=create_graph)
    with differentiating():
        large = F.interpolate(p[:, None], x.shape[2:], mode="bilinear", align_corners=False)
        return large.expand_as(x).contiguous()


def probability(s: Tensor, *, tau: float = 1.0, standardise: bool = True) -> tuple[Tensor, Tensor]:
    """Turn score maps into probability maps.

    Args:
        s: Score maps, (B, h, w).
        tau: Temperature of the softmax, above 0.
        standardise: True: standardise each map first.

    Returns:
        Probability maps, (B, h, w), and a mask of the constant score maps, (B,) bool.
    """
    rows = flat(s)
    middle = rows.mean(1, keepdim=True)
    variance = (rows - middle).square().mean(1)
    top = rows.abs().amax(1)
    constant = (variance.sqrt() <= 1e-6 * top).detach()
    # The root has no derivative at 0, so constant maps are replaced before it.
    deviation = torch.where(constant, 1.0, variance).sqrt()
    if standardise:
        rows = (rows - middle) / (deviation + 1e-6 * top + 1e-12)[:, None]
    rows = torch.where(constant[:, None], 0.0 * rows, rows)
    return (rows / tau).softmax(1).reshape(s.shape), constant


def _cam(
    model: Model,
    x: Tensor,
    y: Tensor,
    layer: Layer | None,
    grid: tuple[int, int] | None,
    relu: bool,
    score: Loss,
    detach_weights: bool,
    create_graph: bool,
) -> CamMap:
    """Return `grad_cam_map`, with a clearer error for an image without a batch dimension."""
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
        # For most models, three dimensions mean a missing batch dimension.
        cause = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"x has shape {tuple(x.shape)}, which the model does not take as a batch, (B, *D) ({cause}); a single "
            "image, (C, H, W), is x[None]"
        ) from error
