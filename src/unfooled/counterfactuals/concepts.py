"""Methods related to the exact edits: TCAV's scores of concepts, and counterfactual explanations in concept space.

    TCAV: v_C = linear classifier of a concept against random features; score = share of samples, grad h_k . v_C > 0;
          at least 20 random sets, t-test against directions between random sets, Bonferroni
          smooth score: mean tanh(alpha s), s = grad h_k . v_C over its mean size; the share's variance does not vanish
          with the number of samples
    CCE:  min_w CE(h(e + w V), y) + .1 ||w||_1 / p + .01 ||w||_2 / p,  w in a box; SGD .01, momentum .9, 100 steps

References:
    Kim et al., Interpretability beyond feature attribution: TCAV, ICML 2018, arXiv:1711.11279.
    Abid, Yuksekgonul, Zou, Meaningfully debugging model mistakes using conceptual counterfactual explanations, ICML
    2022, arXiv:2106.12723. Differs from its code: success is judged on the result, not on the unchanged features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_labels, input_gradient
from unfooled.core.errors import BadInput
from unfooled.counterfactuals.probes import fit_probe
from unfooled.counterfactuals.score import finite

FromFeatures = Callable[[Tensor], Tensor]
"""The rest of a network: features of a layer, (B, n), to logits, (B, c)."""
LEVEL = 0.05
"""Level of significance of the t-test."""


@dataclass(frozen=True, eq=False)
class Tcav:
    """Sensitivity of a class to a concept.

    Attributes:
        score: Mean share of samples with a positive derivative along the concept's direction, over the random sets.
        smooth: Mean of tanh(alpha s) in [-1, 1], over samples and random sets.
        scores: Share for each random set, (sets,).
        random: Share for directions between two random sets, (sets,).
        p: Two-sided p-value of Welch's t-test of `scores` against `random`, times the number of tests, at most 1.
        significant: True where p is below .05.
        direction: Mean direction of the concept, of length 1, (n,).
    """

    score: float
    smooth: float
    scores: Tensor
    random: Tensor
    p: float
    significant: bool
    direction: Tensor


def tcav(
    logits: FromFeatures,
    features: Tensor,
    target: int,
    concept: Tensor,
    others: Tensor,
    *,
    sets: int = 20,
    tests: int = 1,
    alpha: float = 1.0,
    ridge: float = 1.0,
    seed: int = 0,
) -> Tcav:
    """Test whether a class is sensitive to a concept.

    Args:
        logits: The rest of the network, from the features to logits.
        features: Features of samples of the class, (B, n).
        target: The class.
        concept: Features of samples that show the concept, (M, n).
        others: Features of random samples, (R, n), from which the random sets are drawn.
        sets: Number of random sets, at least 20.
        tests: Number of concepts that are tested, for Bonferroni's correction.
        alpha: Steepness of the smooth score.
        ridge: Penalty of the classifiers.
        seed: Random seed of the random sets.

    Raises:
        BadInput: There are too few random samples or sets, or the class does not exist.
    """
    shown, pool, points = finite(concept, "concept"), finite(others, "others"), torch.as_tensor(features).detach()
    size = min(len(shown), len(pool) // 2)
    if sets < 20 or size < 5:
        raise BadInput(
            f"{sets} random sets of {size} samples; TCAV needs at least 20 sets, 5 samples of the concept and twice as "
            "many random ones"
        )
    leaf = points.clone().requires_grad_()
    scores = logits(leaf)
    if not 0 <= target < scores.shape[1]:
        raise BadInput(f"there is no class {target}; the model has {scores.shape[1]} classes")
    slope = input_gradient(scores[:, target], leaf).double().cpu().numpy()
    draw = np.random.default_rng(seed)
    shares, smooth, random, directions = [], [], [], []
    for _ in range(sets):
        first, second = np.split(draw.permutation(len(pool))[: 2 * size], 2)
        v = _direction(shown, pool[first], ridge)
        s = slope @ v
        shares.append(float((s > 0).mean()))
        smooth.append(float(np.tanh(alpha * s / max(float(np.abs(slope).mean()), 1e-300)).mean()))
        random.append(float((slope @ _direction(pool[second], pool[first], ridge) > 0).mean()))
        directions.append(v)
    p, mean = min(1.0, tests * _welch(np.array(shares), np.array(random))), np.mean(directions, 0)
    return Tcav(
        float(np.mean(shares)),
        float(np.mean(smooth)),
        torch.tensor(shares, dtype=torch.float64),
        torch.tensor(random, dtype=torch.float64),
        p,
        p < LEVEL,
        torch.from_numpy(mean / max(float(np.linalg.norm(mean)), 1e-300)),
    )


def _direction(concept: np.ndarray, others: np.ndarray, ridge: float) -> np.ndarray:
    """Return the direction of length 1 of a linear classifier of two sets."""
    labels = np.r_[np.ones(len(concept)), np.zeros(len(others))][:, None]
    probe = fit_probe(torch.from_numpy(np.vstack([concept, others])), torch.from_numpy(labels), ridge=ridge)
    return np.asarray(probe.directions[0].numpy())


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of Welch's t-test; 1 or 0 where neither set has spread."""
    from scipy.stats import ttest_ind_from_stats

    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return float(a[0] == b[0])
    each = (float(v) for x in (a, b) for v in (x.mean(), x.std(ddof=1), len(x)))
    return float(ttest_ind_from_stats(*each, equal_var=False).pvalue)


@dataclass(frozen=True, eq=False)
class ConceptEdit:
    """Counterfactual explanation in concept space.

    Attributes:
        weights: w, (B, p): how far each concept is added or removed.
        delta: Change of the features, w V, (B, n).
        success: True where the *result* is predicted as the wanted class, (B,).
        before: True where the unchanged features were already predicted as it, (B,).
    """

    weights: Tensor
    delta: Tensor
    success: Tensor
    before: Tensor


def concept_counterfactual(
    logits: FromFeatures,
    features: Tensor,
    y: Tensor,
    directions: Tensor,
    *,
    low: Tensor | float = -10.0,
    high: Tensor | float = 10.0,
    steps: int = 100,
    rate: float = 0.01,
    momentum: float = 0.9,
    l1: float = 0.1,
    l2: float = 0.01,
) -> ConceptEdit:
    """Search for the concepts to add or remove so that a class is predicted.

    Args:
        logits: The rest of the network, from the features to logits.
        features: Features, (B, n).
        y: Class wanted, (B,) int64.
        directions: V, (p, n).
        low: Least weights, a number or (p,), at most 0.
        high: Largest weights, a number or (p,), at least 0.
        steps: Gradients; cost: steps + 2 forwards, steps backwards of the rest of the network.
        rate: Step size.
        momentum: Momentum of the steps.
        l1: Weight of ||w||_1 / p.
        l2: Weight of ||w||_2 / p.

    Raises:
        BadInput: Labels, directions or bounds do not fit.
    """
    e, v = features.detach(), directions.detach().to(features)
    check_labels(y, len(e))
    if v.ndim != 2 or v.shape[1] != e.shape[1] or not len(v):
        raise BadInput(f"the directions have shape {tuple(v.shape)}; they must be (p, {e.shape[1]})")
    bottom, top = (torch.as_tensor(b).to(e).expand(len(v)) for b in (low, high))
    if not ((bottom <= 0) & (top >= 0)).all():
        raise BadInput("the bounds of the weights must hold 0, the present state: low at most 0, high at least 0")
    w = e.new_zeros(len(e), len(v))
    speed = torch.zeros_like(w)
    with torch.no_grad():
        before = logits(e).argmax(1) == y
    for _ in range(steps):
        leaf = w.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits(e + leaf @ v), y, reduction="none")
        size = l1 * leaf.abs().sum(1) + l2 * (leaf.square().sum(1) + 1e-24).sqrt()
        speed = momentum * speed + input_gradient(loss + size / len(v), leaf)
        w = torch.minimum(torch.maximum(w - rate * speed, bottom), top)
    with torch.no_grad():
        success = logits(e + w @ v).argmax(1) == y
    return ConceptEdit(w, w @ v, success, before)
