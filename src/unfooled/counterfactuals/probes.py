"""Attribute directions of a network that was trained without attributes: linear probes of a layer's features.

    z = (e - mean) / std,     a_f ~ v_f . z + b_f      ridge regression, or logistic with the same penalty
    held out: AUC and R^2 by five-fold cross-validation; below an AUC of .8 no claim is made about the attribute

If the layer feeds the head through an affine map, the geometry of `head` applies with the direction v_f as attribute f.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.score import finite

USABLE = 0.8
"""Held-out AUC below which no claim about an attribute is made."""
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Probe:
    """Linear probes of attributes, in the units of the features.

    Attributes:
        weight: Directions, (p, n) float64; 0 for attributes that are left out.
        bias: (p,).
        auc: Held-out area under the ROC curve, (p,); NaN where an attribute is left out.
        r2: Held-out share of variance explained, (p,).
        left_out: Attributes that are constant, or have fewer than five samples of one value.
    """

    weight: Tensor
    bias: Tensor
    auc: Tensor
    r2: Tensor
    left_out: tuple[int, ...]

    @property
    def usable(self) -> Tensor:
        """Attributes that claims may be made about, (p,) bool: held-out AUC of at least .8."""
        return self.auc >= USABLE

    @property
    def directions(self) -> Tensor:
        """Directions of length 1, (p, n)."""
        return self.weight / self.weight.norm(dim=1, keepdim=True).clamp(min=1e-300)

    def logits(self, features: Tensor) -> Tensor:
        """Compute the attributes' scores, (B, p) float64."""
        return features.to(torch.float64) @ self.weight.to(features.device).T + self.bias.to(features.device)


def fit_probe(features: Tensor, attributes: Tensor, *, ridge: float = 1.0, logistic: bool = False) -> Probe:
    """Fit a linear probe of each attribute.

    Args:
        features: Features of a layer, (N, n).
        attributes: Attributes, 0 or 1, (N, p); NaN where unknown.
        ridge: Penalty on the squared length of a direction, in units of standardised features.
        logistic: Logistic regression instead of ridge regression on 0 and 1.

    Returns:
        A `Probe`; constant attributes are left out and listed.

    Raises:
        BadInput: Features and attributes do not pair up, or a value is neither 0, 1 nor NaN.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> features = torch.randn(100, 3, generator=g)
        >>> fit_probe(features, (features[:, :1] > 0).float()).auc > 0.9
        tensor([True])
    """
    values, truth = finite(features, "features"), torch.as_tensor(attributes).detach().cpu().double().numpy()
    if truth.ndim != 2 or len(truth) != len(values):
        raise BadInput(
            f"there are {len(values)} rows of features and attributes of shape {truth.shape}; they must pair up, (N, p)"
        )
    odd = np.argwhere(~np.isnan(truth) & (truth != 0) & (truth != 1))
    if len(odd):
        s, f = (int(v) for v in odd[0])
        raise BadInput(f"attribute {f} of sample {s} is {truth[s, f]:.4g}; attributes are 0, 1 or NaN (unknown)")
    if not ridge > 0:
        raise BadInput(f"ridge is {ridge!r}; it must be positive")
    n, p = values.shape[1], truth.shape[1]
    weight, bias, left_out = np.zeros((p, n)), np.zeros(p), []
    auc, r2 = np.full(p, np.nan), np.full(p, np.nan)
    for f in range(p):
        known = ~np.isnan(truth[:, f])
        x, a = values[known], truth[known, f]
        if min((a == 1).sum(), (a == 0).sum()) < FOLDS:
            left_out.append(f)
            continue
        auc[f], r2[f] = _held_out(x, a, ridge, logistic)
        weight[f], bias[f] = _fitted(x, a, ridge, logistic)
    directions, offsets, areas, explained = (torch.from_numpy(v) for v in (weight, bias, auc, r2))
    return Probe(directions, offsets, areas, explained, tuple(left_out))


def _fitted(x: np.ndarray, a: np.ndarray, ridge: float, logistic: bool) -> tuple[np.ndarray, float]:
    """Return a direction and its bias in the units of the features."""
    mean, std = x.mean(0), x.std(0)
    scale = np.where(std > 1e-12 * (np.abs(mean) + 1e-300), std, np.inf)
    z = (x - mean) / scale
    if logistic:
        from sklearn.linear_model import LogisticRegression

        fit = LogisticRegression(C=1 / ridge, max_iter=1000).fit(z, a)
        v, b = fit.coef_[0], float(fit.intercept_[0])
    else:
        v, b = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (a - a.mean())), float(a.mean())
    v = v / scale
    return v, b - float(v @ mean)


def _held_out(x: np.ndarray, a: np.ndarray, ridge: float, logistic: bool) -> tuple[float, float]:
    """Return AUC and R^2 of predictions by stratified cross-validation."""
    from sklearn.metrics import roc_auc_score

    order = np.argsort(a + np.random.default_rng(0).random(len(a)) / 2)
    fold = np.empty(len(a), np.int64)
    fold[order] = np.arange(len(a)) % FOLDS
    score = np.zeros(len(a))
    for k in range(FOLDS):
        v, b = _fitted(x[fold != k], a[fold != k], ridge, logistic)
        score[fold == k] = x[fold == k] @ v + b
    guess = 1 / (1 + np.exp(-np.clip(score, -500, 500))) if logistic else score
    return float(roc_auc_score(a, score)), 1 - float(((a - guess) ** 2).mean() / a.var())
