"""Faithfulness of maps: do they depend on the pixels and parameters that the model uses? No ground truth is needed.

    deletion      p_y as pixels are removed, most important first; its mean: lower is better
    insertion     p_y as pixels are restored in a blurred image, most important first; its mean: higher is better
    randomised    Spearman's rho of the map and that of the same network with shuffled parameters, from the last layer
                  down: near 0 where the map depends on the learned parameters
    alignment     |<x, g>| / (||x|| ||g||), g the gradient of z_y - max_{j != y} z_j: is it aligned with the image?

Compare deletion and insertion with those of an uninformative map, such as the same map rolled by half: networks differ
in how much any removed region lowers p_y.

References:
    Petsiuk, Das, Saenko, RISE, BMVC 2018, arXiv:1806.07421 (deletion, insertion).
    Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292 (randomised parameters).
    Etmann et al., On the connection between adversarial robustness and saliency map interpretability, ICML 2019,
    arXiv:1905.04172 (alignment).
    Differs: a layer is randomised by shuffling the entries of its parameters, which keeps their scale and works for
    every layer; alignment is divided by ||x||, so that images of different brightness compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.checks import check_inputs, check_labels, check_mode, check_run, input_gradient
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.losses import margin
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.model.calls import copied
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat
from unfooled.core.types import Model
from unfooled.distances.rank import spearman
from unfooled.explanations.masks import fill_blur, fill_mean

Fill = Callable[[Tensor], Tensor]
"""`x -> b`: pixels that replace those of the images."""


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """Probability of y while pixels are replaced; the share replaced goes from 0 to 1 in equal steps.

    Attributes:
        deletion: Probability while pixels are removed, (B, steps + 1). NaN for maps that are constant or not finite:
            they do not rank the pixels.
        insertion: Probability while pixels are restored, (B, steps + 1); NaN likewise.
    """

    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under the curve of deletion, (B,) in [0, 1]; lower is better."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> Tensor:
        """Area under the curve of insertion, (B,) in [0, 1]; higher is better."""
        return _area(self.insertion)


def _area(curve: Tensor) -> Tensor:
    return (curve[:, 1:] + curve[:, :-1]).mean(1) / 2


@torch.no_grad()
def perturbation_curves(
    model: Model,
    x: Tensor,
    y: Tensor,
    maps: Tensor,
    *,
    steps: int = 16,
    removed: Fill = fill_mean,
    base: Fill = fill_blur,
    batch: int | None = None,
) -> PerturbationCurves:
    """Compute deletion and insertion curves of images, pixels in the order of a map.

    Args:
        model: Any callable to logits, in eval mode. Not modified.
        x: Images, (B, C, H, W).
        y: Class explained, (B,).
        maps: Maps, (B, h, w), larger is more important; enlarged to (H, W) where smaller. Ties are taken in
            reading order.
        steps: Number of steps; each replaces an equal number of pixels.
        removed: Function `x -> b`; its pixels replace the deleted ones.
        base: Function `x -> b`; its image is the start of insertion.
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).

    Returns:
        `PerturbationCurves`. Cost: 2 steps + 2 forwards per sample.

    Raises:
        BadInput: The samples are not images, the maps do not fit them, or steps is below 1.
    """
    check_inputs(x, y)
    check_mode(model)
    if x.ndim != 4:
        raise BadInput(f"x has shape {tuple(x.shape)}; pixels are exchanged in images, (B, C, H, W)")
    if maps.ndim != 3 or len(maps) != len(x):
        raise BadInput(f"maps have shape {tuple(maps.shape)}; there must be one per sample, ({len(x)}, h, w)")
    if steps < 1:
        raise BadInput(f"steps is {steps}; it must be at least 1")
    batch = batch or fitting_batch(model, x)
    reader = checked_once(model, y)
    curves = partial(_curves, reader, steps=steps, removed=removed, base=base)
    lines = batched(curves, batch)(x, y, maps)
    defined = torch.isfinite(flat(maps)).all(1) & (flat(maps) != flat(maps)[:, :1]).any(1)
    return PerturbationCurves(*(line.where(defined[:, None], torch.nan) for line in lines))


def _curves(
    model: Model, x: Tensor, y: Tensor, maps: Tensor, steps: int, removed: Fill, base: Fill
) -> tuple[Tensor, Tensor]:
    """Return deletion and insertion of a few samples, (B, steps + 1) each."""
    size = (x.shape[2], x.shape[3])
    if maps.shape[1:] != size:
        maps = F.interpolate(maps[:, None].to(x.dtype), size, mode="bilinear", align_corners=False)[:, 0]
    order = flat(maps).nan_to_num().argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=x.device).expand_as(order))
    place = place.view(-1, 1, *size)
    gone, blurred, pixels = removed(x), base(x), order.shape[1]

    def probability(z: Tensor) -> Tensor:
        return model(z).softmax(1).gather(1, y[:, None])[:, 0]

    shares = [place < round(pixels * k / steps) for k in range(steps + 1)]
    deleted = torch.stack([probability(torch.where(first, gone, x)) for first in shares], 1)
    return deleted, torch.stack([probability(torch.where(first, x, blurred)) for first in shares], 1)


@dataclass(frozen=True, eq=False)
class Randomised:
    """Similarity of a map to that of the same network with layers shuffled one after the other.

    Attributes:
        layers: Names of the layers, in the order in which they were shuffled; earlier layers stay shuffled.
        similarity: Spearman's rho of the maps before and after, (layers, B); NaN where a map is constant.
    """

    layers: tuple[str, ...]
    similarity: Tensor


def parameter_randomisation(
    model: nn.Module, explain: Callable[[nn.Module, Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, seed: int = 0
) -> Randomised:
    """Shuffle a copy's parameters layer by layer, the last one first, and compare its maps with the network's own.

    Args:
        model: Network in eval mode. Not modified; a copy is shuffled.
        explain: Explanation `(model, x, y) -> (B, *M)`, maps or attributions.
        x: Samples, (B, *D).
        y: Class explained, (B,).
        seed: Random seed of the shuffling.

    Returns:
        `Randomised`. Layers are modules with parameters of their own, in reverse order of registration; a parameter
        whose entries are all equal stays as it is. Cost: 1 explanation per sample, and 1 more per layer.

    Raises:
        BadInput: No module, or one without parameters.
    """
    check_inputs(x, y)
    check_mode(model)
    check_run(seed)
    if not isinstance(model, nn.Module):
        raise BadInput(f"the model is a {type(model).__name__}; give a torch module, whose parameters can be shuffled")
    before, other = explain(model, x, y).detach(), copied(model)
    layers = [(name, own) for name, m in other.named_modules() if (own := list(m.parameters(recurse=False)))]
    if not layers:
        raise BadInput("the model has no parameters to shuffle; give a trained module")
    source, similarity = torch.Generator().manual_seed(seed), []
    for _, own in reversed(layers):
        with torch.no_grad():
            for p in own:
                p.copy_(p.flatten()[torch.randperm(p.numel(), generator=source).to(p.device)].view_as(p))
        similarity.append(spearman(before, explain(other, x, y).detach()))
    return Randomised(tuple(name for name, _ in reversed(layers)), torch.stack(similarity))


def gradient_alignment(model: Model, x: Tensor, y: Tensor, *, batch: int | None = None) -> Tensor:
    """Return the absolute cosine between each image and the gradient of its margin.

    Args:
        model: Any callable to logits, in eval mode. Not modified.
        x: Samples, (B, *D), in units in which 0 is black.
        y: Labels, (B,).
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).

    Returns:
        (B,) in [0, 1]; NaN where the gradient or the image is 0. Cost: 1 forward, 1 backward.

    Raises:
        BadInput: The model's output has no gradient.
    """
    check_inputs(x, y)
    check_labels(y, len(x))
    check_mode(model)
    reader = checked_once(model, y)

    def alignment(x: Tensor, y: Tensor) -> Tensor:
        at = x.detach().requires_grad_()
        with torch.enable_grad():
            g = input_gradient(-margin(reader(at), y), at)
        a, b = flat(x).double(), flat(g).double()
        return ((a * b).sum(1).abs() / (a.norm(dim=1) * b.norm(dim=1))).to(x.dtype)

    with frozen(model):
        return batched(alignment, batch or fitting_batch(model, x))(x, y)
