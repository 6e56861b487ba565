"""Grad-CAM: the location of the evidence for a class in the last feature maps.

    w_k  = mean_ij d s(f(x), y) / dA_k,ij         weights of the channels of a layer's output A, (B, C, h, w)
    S_ij = relu( sum_k w_k A_k,ij )               the ReLU is optional

By default the layer is the last one with a spatial output: see `layers`. A is brought into this order of axes where
the network has another (channels last, tokens): see `layouts`. In a patch transformer A holds the patch tokens without
the class token.

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
from unfooled.explanations.gradients import differentiating, entry, marked, prepared, scored, twice_differentiable
from unfooled.explanations.layers import Layer, find_spatial, place_of
from unfooled.explanations.layouts import Spatial
from unfooled.explanations.recording import name_of, output_of, recorded


@dataclass(frozen=True, eq=False)
class CamMap:
    """A class activation map at the layer's own resolution.

    Attributes:
        map: Activation map, (B, h, w).
        layer: Name of the call whose output was weighted.
        spatial: That call, its grid and its order of axes; may be given as `layer` for inputs of the same size.
    """

    map: Tensor
    layer: str
    spatial: Spatial


def grad_cam(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: Layer | None = None,
    grid: tuple[int, int] | None = None,
    relu: bool = True,
    score: Loss = true_logit,
    create_graph: bool = False,
) -> Tensor:
    """Return Grad-CAM, upsampled to the input (bilinear, half-pixel) and repeated over its channels.

    Args:
        model: A module, or a callable that uses modules, to logits, (B, C, H, W) -> (B, K). Not modified.
        x: Images, (B, C, H, W).
        y: Classes to explain, (B,) int64.
        layer: Name of a call, or a module. None: found by `find_spatial_layer`, for a few more passes of one sample.
        grid: Height and width of the grid of cells. None: decided by shapes and by other sizes of the input.
        relu: True: keep only evidence for the class.
        score: Function `(logits, y) -> (B,)` that is explained.
        create_graph: True: keep the graph, so that the attribution can be differentiated.

    Returns:
        Attribution, (B, C, H, W), the same for each channel. Cost: 1 forward, 1 backward down to the layer.

    Raises:
        BadInput: x is not a batch of images, or the model has no such layer.
    """
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; Grad-CAM explains images, (B, C, H, W)")
    small = grad_cam_map(model, x, y, layer=layer, grid=grid, relu=relu, score=score, create_graph=create_graph).map
    with differentiating():
        large = F.interpolate(small[:, None], x.shape[2:], mode="bilinear", align_corners=False)
        return large.expand_as(x).contiguous()


def grad_cam_map(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    layer: Layer | None = None,
    grid: tuple[int, int] | None = None,
    relu: bool = True,
    score: Loss = true_logit,
    detach_weights: bool = False,
    create_graph: bool = False,
) -> CamMap:
    """Return Grad-CAM at the layer's own resolution.

    Args:
        model: A module, or a callable that uses modules, to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        layer: Name of a call, or a module. None: found by `find_spatial_layer`, for a few more passes of one sample.
        grid: Height and width of the grid of cells. None: decided by shapes and by other sizes of the input.
        relu: True: keep only evidence for the class.
        score: Function `(logits, y) -> (B,)` that is explained.
        detach_weights: True: the graph of `create_graph` treats w as constant, which saves the double backward. Exact
            where w does not depend on x (convolutions, global average pooling, one linear layer).
        create_graph: True: keep the graph, so that the map can be differentiated.

    Returns:
        A `CamMap`. Cost: 1 forward, 1 backward down to the layer.

    Raises:
        BadInput: x or y cannot be used, or the model has no such layer.
    """
    twice = create_graph and not detach_weights
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        if layer is None or isinstance(layer, Spatial):
            spatial = find_spatial(model, x[:1], layer=layer, grid=grid)
            name = spatial.layer
        else:
            spatial, name = None, name_of(model, layer)
        z = entry(x, create_graph)
        with recorded(model, name) as calls, twice_differentiable(twice):
            value = scored(model, z, y, score)
        a = output_of(calls, name, len(x))
        spatial = spatial or place_of(model, x, name, a, grid, alone=len(calls) == 1)
        check_differentiable(value)
        (g,) = torch.autograd.grad(value.sum(), a, create_graph=twice, retain_graph=create_graph, allow_unused=True)
        if g is None:
            raise BadInput(f"layer {name!r} does not reach the logits; choose another, or none to have it found")
        maps, slopes = (spatial.maps(t).to(value.dtype) for t in (a, g))  # sums in 16 bits lose small terms
        s = (slopes.mean((2, 3), keepdim=True) * maps).sum(1)
        s = marked(s.clamp_min(0) if relu else s, value)
        return CamMap(s if create_graph else s.detach(), name, spatial)
