"""Grad-CAM: where in the last feature maps the evidence for a class lies.

    w_k  = mean_ij d s(f(x), y) / dA_k,ij         weights of the channels of a layer's output A, (B, C, h, w)
    S_ij = relu( sum_k w_k A_k,ij )               the ReLU is optional

The layer is the last one with a spatial output where none is named: see `layers`. Of a patch transformer A are the
patch tokens, (B, C, h, w), and the class token is left out.

References:
    Selvaraju et al., Grad-CAM: visual explanations via gradient-based localization, ICCV 2017, arXiv:1610.02391.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.checks import check_differentiable
from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.types import Loss, Model
from unfooled.explanations.gradients import differentiating, entry, prepared, scored, twice_differentiable
from unfooled.explanations.layers import Spatial, find_spatial, output_of, recorded


@dataclass(frozen=True, eq=False)
class CamMap:
    """A class activation map at the layer's own resolution.

    Attributes:
        map: (B, h, w).
        layer: the call it was taken from.
    """

    map: Tensor
    layer: str


def grad_cam(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: str | None = None,
    relu: bool = True,
    score: Loss = true_logit,
    create_graph: bool = False,
) -> Tensor:
    """Grad-CAM upsampled to the input (bilinear, half-pixel) and repeated over its channels.

    Args:
        model: modules, or a callable that holds some, to logits, (B, C, H, W) -> (B, K). Not modified.
        x: images, (B, C, H, W).
        y: the class to explain, (B,) int64.
        layer: name of a call; found by `find_spatial_layer` where None, for 1 more forward and backward of one sample.
        relu: keep only evidence for the class.
        score: `(logits, y) -> (B,)`.
        create_graph: keep the graph, so that the map can be differentiated.

    Returns:
        Relevances, (B, C, H, W), the same for each channel. Cost: 1 forward, 1 backward down to the layer.

    Raises:
        BadInput: x are no images, or the model has no such layer.
    """
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; Grad-CAM explains images, (B, C, H, W)")
    small = grad_cam_map(model, x, y, layer=layer, relu=relu, score=score, create_graph=create_graph).map
    with differentiating():
        large = F.interpolate(small[:, None], x.shape[2:], mode="bilinear", align_corners=False)
        return large.expand_as(x).contiguous()


def grad_cam_map(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    relu: bool = True,
    score: Loss = true_logit,
    detach_weights: bool = False,
    create_graph: bool = False,
) -> CamMap:
    """Grad-CAM at the layer's own resolution. Arguments and errors as for `grad_cam`, and:

    Args:
        model: modules, or a callable that holds some.
        x: inputs, (B, *D).
        y: the class to explain, (B,).
        layer: name of a call.
        grid: (h, w) of patch tokens, where it is not that of the convolution that cuts the patches.
        relu: keep only evidence for the class.
        score: `(logits, y) -> (B,)`.
        detach_weights: with `create_graph`, hold w constant: no double backward. Exact where w does not depend on x
            (conv - GAP - linear).
        create_graph: keep the graph.

    Returns:
        A `CamMap`.
    """
    twice = create_graph and not detach_weights
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        found = find_spatial(model, x[:1], grid=grid) if layer is None else None
        name = found.layer if found else str(layer)
        z = entry(x, create_graph)
        with recorded(model, name) as calls, twice_differentiable(twice):
            value = scored(model, z, y, score)
        a = output_of(calls, name, len(x))
        if found is None:
            known = Spatial(name, (a.shape[-2], a.shape[-1]), tokens=False)
            found = known if a.ndim == 4 else find_spatial(model, x[:1], layer=name, grid=grid)
        check_differentiable(value)
        (g,) = torch.autograd.grad(value.sum(), a, create_graph=twice, retain_graph=create_graph, allow_unused=True)
        if g is None:
            raise BadInput(f"layer {name!r} does not reach the logits; choose another, or none to have it found")
        s = (found.maps(g).mean((2, 3), keepdim=True) * found.maps(a)).sum(1)
        s = s.clamp_min(0) if relu else s
        return CamMap(s if create_graph else s.detach(), name)
