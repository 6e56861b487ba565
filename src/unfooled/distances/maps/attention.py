"""Attention metrics: overlap of a map with the object, its displacement, its spread.

P, P' are probability maps, (B, h, w), at least 0, that sum to 1; T, T' sets of cells, (B, h, w) bool; G a mask or box
of the object, (B, H, W), bool or shares in [0, 1], averaged to the grid of P; u a cell's position, each coordinate in
[0, 1]; s the logit of the class explained.

    coverage        sum P G                                     chance: share of the area that G takes
    recall          #(T and G) / #G                             chance: share of the cells in T
    iou             #(T and T') / #(T or T')                    chance for shares s, t: about st / (s + t - st)
    iou_matched     iou of G with the #G top cells of P         chance: about a / (2 - a), a the area of G
    pointing        the largest cell of P is in G               chance: a
    part_recall     least recall over the object's parts        chance: below the share of the cells in T
    completeness    (s - s_removed) / (s - s_baseline)          chance: the value of a random region of equal area
    centroid_shift  |sum u P - sum u P'| / diagonal             0 for equal maps
    js              mean KL of P and P' to their mean           0 for equal maps, at most log 2
    cosine          1 - cos(P, P')                              0 for equal maps, at most 1
    entropy         H(P) / log hw                               1 for the uniform map, 0 for one cell
    spread          tr Cov_P(u) / diagonal^2                    1/12 (1 - (1/h^2 + 1/w^2)/2) for the uniform map
    components      4-connected parts of T                      1 for one piece

The temperature of a map P is `tau` of `explanations.attention`, which computes P by a softmax.

Undefined values are NaN. Average with nanmean, and report the number of NaN.

References:
    Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016, arXiv:1608.00507 (the pointing game).
    Wu et al., ARP, 2018, arXiv:1811.09831. Differs: what its code prints as IoU is `recall`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat, top_cells
from unfooled.distances.norms import check_pair


def on_grid(g: Tensor, size: tuple[int, int]) -> Tensor:
    """Average masks or boxes to a grid: (B, H, W) -> (B, h, w), the share of each cell that G takes.

    Raises:
        BadInput: The masks have another shape, or values outside [0, 1].
    """
    if g.ndim != 3:
        raise BadInput(f"the mask has shape {tuple(g.shape)}; masks are (B, H, W)")
    if g.numel() and g.dtype != torch.bool:
        low, high = (float(v) for v in torch.aminmax(g.detach()))
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # NaN is neither
            raise BadInput(f"the mask lies in [{low:.4g}, {high:.4g}]; give shares in [0, 1], or bool: mask > 0")
    g = g if g.is_floating_point() else g.float()
    return g if g.shape[1:] == size else F.adaptive_avg_pool2d(g[:, None], size)[:, 0]


def above_mean(p: Tensor) -> Tensor:
    """Mark the cells above the average, P > 1 / hw for probabilities, (B, h, w) bool; none in a uniform map."""
    rows = flat(p.detach())
    # A uniform map's cells are its mean up to rounding.
    least = rows.mean(1, keepdim=True) * (1 + 8 * torch.finfo(p.dtype).eps)
    return (rows > least).reshape(p.shape)


def coverage(p: Tensor, g: Tensor) -> Tensor:
    """Return the share of attention on the object, (B,) in [0, 1]; 0 without one. Differentiable. Chance: G's area."""
    g = _mask_for(p, g)
    return flat(p * g.to(p.dtype)).sum(1)


def recall(t: Tensor, g: Tensor) -> Tensor:
    """Return the share of the object inside the region, (B,); NaN without an object. Chance: the share of T."""
    g = _mask_for(t, g)
    return _ratio(flat(t.to(g.dtype) * g).sum(1), flat(g).sum(1))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of two regions, (B,); NaN where both are empty."""
    if a.shape != b.shape or a.dtype != torch.bool or b.dtype != torch.bool:
        given = f"{tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        raise BadInput(f"iou compares regions of cells, two bool tensors of one shape, not {given}; see top_share")
    return _ratio(flat(a & b).sum(1).float(), flat(a | b).sum(1).float())


def iou_matched(p: Tensor, g: Tensor) -> Tensor:
    """Return the IoU of the object's cells with an equal number of top cells, (B,); NaN where there is no object.

    G's cells are the round(sum G), at least one, in which it has the largest shares; ties go to the lower index.
    Chance about a / (2 - a) for an object of area a.
    """
    cells = _cells(p, g)
    return torch.where(_has_object(g), iou(top_cells(p, flat(cells).sum(1)), cells), torch.nan)


def pointing(p: Tensor, g: Tensor) -> Tensor:
    """Return 1 where the largest cell is one of the object's, else 0, (B,); NaN without an object. Chance: its area."""
    hit = flat(top_cells(p, 1) & _cells(p, g)).any(1)
    return torch.where(_has_object(g), hit.float(), torch.nan)


def part_recall(t: Tensor, parts: Tensor) -> Tensor:
    """Return the least recall over the object's visible parts, (B,); NaN without any. Parts are (B, parts, H, W)."""
    if parts.ndim != 4 or len(parts) != len(t):
        raise BadInput(f"parts have shape {tuple(parts.shape)}; for {len(t)} maps they are (B, parts, H, W)")
    each = torch.stack([recall(t, part) for part in parts.unbind(1)], 1)
    least = each.nan_to_num(torch.inf).amin(1)
    return torch.where(least.isinf(), torch.nan, least)


def completeness(score: Tensor, removed: Tensor, baseline: Tensor) -> Tensor:
    """Return the share of the evidence for a class that lies in a region, from logits with and without the region.

    Args:
        score: Logit of the class explained, s(x), (B,).
        removed: Logit of x without the region, (B,).
        baseline: Logit of an image that consists only of the fill value, (B,).

    Returns:
        (B,); NaN, undefined, where s(x) is not above the baseline's. May leave [0, 1].
    """
    whole = score - baseline
    return torch.where(whole > 0, (score - removed) / torch.where(whole > 0, whole, 1), torch.nan)


def centroid(a: Tensor) -> Tensor:
    """Return the centre of mass of maps in units of their size, (B, H, W) -> (B, 2) in [0, 1]; NaN where all zero."""
    a = a.clamp_min(0)
    rows = (torch.arange(a.shape[1], device=a.device, dtype=a.dtype) + 0.5) / a.shape[1]
    columns = (torch.arange(a.shape[2], device=a.device, dtype=a.dtype) + 0.5) / a.shape[2]
    total = a.sum((1, 2))
    centre = torch.stack([(a.sum(2) * rows).sum(1), (a.sum(1) * columns).sum(1)], 1)
    return centre / torch.where(total > 0, total, torch.nan)[:, None]


def centroid_shift(a: Tensor, b: Tensor) -> Tensor:
    """Return the shift of the centre of mass, as a share of the diagonal, (B,) in [0, 1]; NaN for an all-zero map."""
    check_pair(a, b)
    return (centroid(a) - centroid(b)).norm(dim=1) / 2**0.5


def js(a: Tensor, b: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two probability maps in nats, (B,) in [0, log 2]; 0 for equal ones.

    Differentiable; the gradient vanishes where the maps agree.
    """
    check_pair(a, b)
    a, b = flat(a), flat(b)
    tiny = torch.finfo(a.dtype).tiny
    middle = ((a + b) / 2).clamp_min(tiny).log()
    value = ((a * (a.clamp_min(tiny).log() - middle)) + (b * (b.clamp_min(tiny).log() - middle))).sum(1) / 2
    return value - value.detach().clamp_max(0)  # rounding below 0; the gradient stays


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return one minus the cosine of two maps, (B,) in [0, 2], [0, 1] for maps of one sign; NaN for an all-zero map."""
    check_pair(a, b)
    a, b = flat(a), flat(b)
    size = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return 1 - (a * b).sum(1) / torch.where(size > 0, size, torch.nan)


def entropy(p: Tensor) -> Tensor:
    """Return the entropy of a map over that of a uniform map, (B,) in [0, 1].

    Only maps of one grid and one temperature can be compared.
    """
    rows = flat(p)
    return -(rows * rows.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(1) / math.log(max(rows.shape[1], 2))


def spread(p: Tensor) -> Tensor:
    """Return the variance of the position under the map, divided by the squared diagonal, (B,) in [0, 1/4]."""
    centre = centroid(p)
    mass = p.clamp_min(0)
    total = mass.sum((1, 2))
    out = torch.zeros_like(total)
    for axis, side in ((0, p.shape[1]), (1, p.shape[2])):
        place = (torch.arange(side, device=p.device, dtype=p.dtype) + 0.5) / side
        along = mass.sum(2 - axis) / total[:, None]
        out = out + (along * (place - centre[:, axis, None]).square()).sum(1)
    return out / 2


def components(t: Tensor) -> Tensor:
    """Count the 4-connected parts of a region, (B,) int64; 0 for an empty one."""
    if t.ndim != 3 or t.dtype != torch.bool:
        raise BadInput(f"components counts the parts of regions, (B, h, w) bool, not {tuple(t.shape)} {t.dtype}")
    number = torch.arange(1, t[0].numel() + 1, device=t.device).reshape(t.shape[1:]) * t
    label = number
    while True:
        # The largest cell number of a part spreads over the part; only the cell with that number is counted.
        padded = F.pad(label, (1, 1, 1, 1))
        around = [padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]]
        largest = torch.stack([label, *around]).amax(0) * t
        if bool((largest == label).all()):
            return flat((label == number) & t).sum(1)
        label = largest


def _mask_for(p: Tensor, g: Tensor) -> Tensor:
    """Return the mask on the grid of the maps."""
    if p.ndim != 3 or len(p) != len(g):
        raise BadInput(
            f"maps of shape {tuple(p.shape)} and masks of shape {tuple(g.shape)}; they are (B, h, w), (B, H, W)"
        )
    return on_grid(g, (p.shape[1], p.shape[2]))


def _has_object(g: Tensor) -> Tensor:
    """Mark the samples that have an object, (B,) bool."""
    return flat(g).amax(1) > 0


def _cells(p: Tensor, g: Tensor) -> Tensor:
    """Return the cells of the object, (B, h, w) bool; their number is G's area in cells, rounded, at least 1."""
    g = _mask_for(p, g)
    return top_cells(g, flat(g).sum(1).round().clamp_min(1).long())


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Divide; NaN where the divisor is not above 0."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), torch.nan)
