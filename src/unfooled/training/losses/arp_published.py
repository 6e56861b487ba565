"""ARP as published, batch effects included: for comparison, not for use (see `Arp`).

With inputs in [-1, 1], K classes, A the features of a layer, (B, C, h, w), and the true label y for every map:

    G  = d[z_y / K] / dA;   G^ = G / (sqrt(mean over the batch, cells and channels of G^2) + 1e-5)
    S  = sum_k mean_ij(G^)_k A_k;   P = softmax over the cells of S;   M = P enlarged as TensorFlow 1 does
    m  = 1[M > mean of M over the batch and pixels];   x^m = (1 - m) x
    L_c = CE(z(x), y) + CE(z(x'), y) + L2;   L_r = - mean (p(x) - p(x^m))^2 - mean (p(x') - p(x'^m))^2
    L_p = sum over the batch and pixels of (M(x) - M(x'))^2;   L = 8 L_c + 4 L_r + L_p
    x' = clip(x - eps sign d CE_smooth.1(z(x), argmin_c z_c(x)) / dx)                             Step-LL, detached

z are the logits, p their softmax, x' the adversarial sample, CE_smooth.1 the cross-entropy with label smoothing .1.
Known defects, reproduced: the root mean square and the threshold mix the samples of a batch, the sum grows with the
batch, no gradient of L_r reaches the map, the map can be flattened by shrinking S, and single-step training at this
radius is the regime of catastrophic overfitting.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831; code: wscjxky/ARP, AAD_train.py. v1 calls L_r mask loss and L_p contrast
    loss; v5 calls them attention-preserving and attention rectification. Differs: inputs are in [0, 1] and eps in their
    unit (a removed pixel becomes 0.5, published 0); L2 is on the weights of all linear layers but the last, since the
    network's file is missing from the repository.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.checks import check_inputs, check_labels
from unfooled.core.errors import BadInput
from unfooled.core.model.modes import evaluating, frozen
from unfooled.explanations.gradients import differentiating, twice_differentiable
from unfooled.explanations.layers import find_spatial
from unfooled.explanations.layouts import Spatial
from unfooled.explanations.recording import output_of, recorded


@dataclass(frozen=True, eq=False)
class PublishedTerms:
    """Terms of the published loss, scalars, and the enlarged maps.

    Attributes:
        classification: L_c.
        rectification: L_r (v1's mask loss), in [-.4, 0] for ten classes.
        preservation: L_p (v1's contrast loss), a sum over the batch.
        maps: M of x, then of x', (2 B, H, W).
        scores: S of x, then of x', (2 B, h, w), in the graph.
        total: L.
    """

    classification: Tensor
    rectification: Tensor
    preservation: Tensor
    maps: Tensor
    scores: Tensor
    total: Tensor


@dataclass(frozen=True)
class ArpPublished:
    """The published loss on Step-LL samples. Cost: 5 forwards, 5 backwards, and 2 down to the layer, differentiated.

    Args:
        eps: Radius of Step-LL in the unit range (published .15 of [-1, 1]).
        classification: Weight of L_c.
        rectification: Weight of L_r.
        preservation: Weight of L_p.
        layer: Layer whose output is A. None: found (published: an 8x8 pooling layer).
        l2: Weight of half the squared weights of all linear layers but the last.
        smoothing: Label smoothing in Step-LL.
    """

    eps: float = 0.075
    classification: float = 8.0
    rectification: float = 4.0
    preservation: float = 1.0
    layer: str | None = None
    l2: float = 0.004
    smoothing: float = 0.1

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.terms(model, x, y).total

    def craft(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return Step-LL samples, (B, C, H, W), in the unit box; the model is in eval mode meanwhile."""
        check_inputs(x)
        with evaluating(model), frozen(model), torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = model(leaf)
            loss = F.cross_entropy(logits, logits.argmin(1), label_smoothing=self.smoothing, reduction="sum")
            (g,) = torch.autograd.grad(loss, leaf)
        return (x.detach() - self.eps * g.sign()).clamp(0, 1)

    def terms(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor | None = None) -> PublishedTerms:
        """Return the terms of the loss, on `x_adv` instead of Step-LL samples where given.

        Raises:
            BadInput: x is not a batch of images, x or x_adv lie outside [0, 1] (published: [-1, 1]), or labels do not
                fit them.
        """
        if x.ndim != 4:
            raise BadInput(f"x has shape {tuple(x.shape)}; ARP is for images, (B, C, H, W)")
        check_inputs(x, y)
        if x_adv is not None:
            check_inputs(x_adv, y)
        z = self.craft(model, x) if x_adv is None else x_adv
        layer = find_spatial(model, x[:1], layer=self.layer)
        classification, rectification, maps, scores = 0.0 * x.sum(), 0.0 * x.sum(), [], []
        for image in (x, z):
            logits, s = _scores(model, image, y, layer)
            m = enlarge(s.flatten(1).softmax(1).reshape(s.shape), (x.shape[2], x.shape[3]))
            hard = (m > m.mean()).to(x.dtype)[:, None]
            removed = (1 - hard) * image + 0.5 * hard
            rectification = rectification - (logits.softmax(1) - model(removed).softmax(1)).square().mean()
            classification = classification + F.cross_entropy(logits, y)
            maps.append(m)
            scores.append(s)
        linear = [part.weight for part in model.modules() if isinstance(part, nn.Linear)][:-1]
        for weight in linear:
            classification = classification + self.l2 / 2 * weight.square().sum()
        preservation = (maps[0] - maps[1]).square().sum()
        total = self.classification * classification + self.rectification * rectification
        total = total + self.preservation * preservation
        return PublishedTerms(classification, rectification, preservation, torch.cat(maps), torch.cat(scores), total)


def enlarge(p: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize like TensorFlow 1, (B, h, w) -> (B, H, W): source = i h / H, no half-pixel shift, edge repeated."""
    rows, columns = (_resize(a, b, p) for a, b in zip(p.shape[1:], size, strict=True))
    return rows @ p @ columns.T


def _resize(before: int, after: int, like: Tensor) -> Tensor:
    """Return the matrix that resizes along one side, (after, before); its columns have different sums."""
    at = torch.arange(after, device=like.device, dtype=like.dtype) * before / after
    low = at.floor().long()
    high = (low + 1).clamp_max(before - 1)
    share = (at - low)[:, None]
    return (1 - share) * F.one_hot(low, before).to(like.dtype) + share * F.one_hot(high, before).to(like.dtype)


def _scores(model: nn.Module, x: Tensor, y: Tensor, spatial: Spatial) -> tuple[Tensor, Tensor]:
    """Return the logits, (B, K), and S, (B, h, w), scaled by the batch's root mean square."""
    with differentiating(), recorded(model, spatial.layer) as calls, twice_differentiable():
        logits = model(x)
    check_labels(y, len(x), logits.shape[1])
    a = output_of(calls, spatial.layer, len(x))
    value = logits.gather(1, y[:, None]).sum() / logits.shape[1]
    (g,) = torch.autograd.grad(value, a, create_graph=True)
    g = g / (g.square().mean().sqrt() + 1e-5)
    return logits, (spatial.maps(g).mean((2, 3), keepdim=True) * spatial.maps(a)).sum(1)
