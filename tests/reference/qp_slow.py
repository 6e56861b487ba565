"""The quadratic program of a targeted edit, solved in another way: an interior point, then equations on the active set.

    min ||x||^2 / 2   s.t.   G x >= h

Mehrotra's predictor and corrector on (x, s, u) with G x - s = h, x = G^T u, s u = 0. The constraints at which u exceeds
s are then met exactly by least squares. Infeasible problems are found by a linear program. Nothing of the package is
used.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog


def infeasible_by(g: np.ndarray, h: np.ndarray) -> float:
    """The least s >= 0 with G x >= h - s for some x."""
    n = g.shape[1]
    found = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=-np.hstack([g, np.ones((len(g), 1))]),
        b_ub=-h,
        bounds=[(None, None)] * n + [(0, None)],
        method="highs-ds",
    )
    assert found.status == 0
    return float(found.fun)


def smallest(g: np.ndarray, h: np.ndarray, steps: int = 100) -> np.ndarray | None:
    """The smallest x with G x >= h; None: there is none."""
    if (h <= 0).all():
        return np.zeros(g.shape[1])
    whole = g, h
    scale = np.sqrt((g**2).sum(1))
    g, h = g / scale[:, None], h / scale
    h, size = h / np.abs(h).max(), np.abs(h).max()
    gram = g @ g.T
    m = len(h)
    u = np.ones(m)
    s = np.maximum(gram @ u - h, 1.0)
    for _ in range(steps):
        primal = h + s - gram @ u  # with x = G^T u the other residual is 0
        gap = s @ u / m
        if gap < 1e-22 and np.abs(primal).max() < 1e-13:
            break
        try:
            du, ds = _step(gram, u, s, primal, -s * u)
        except np.linalg.LinAlgError:  # u has no bound: infeasible
            break
        far = _reach(u, du, s, ds)
        after = (u + far * du) @ (s + far * ds) / m
        du, ds = _step(gram, u, s, primal, -s * u - du * ds + gap * (after / gap) ** 3)
        far = 0.995 * _reach(u, du, s, ds)
        u, s = u + far * du, s + far * ds
        if u.min() <= 1e-150 or s.min() <= 1e-150:
            break
    active = u > s
    x = np.linalg.lstsq(g[active], h[active], rcond=None)[0]
    if (h - g @ x).max() > 1e-9 * max(1.0, np.abs(x).max()):
        assert infeasible_by(*whole) > 1e-7 * np.abs(whole[1]).max()
        return None
    return x * size


def _reach(u: np.ndarray, du: np.ndarray, s: np.ndarray, ds: np.ndarray) -> float:
    """The longest step, up to 1, that leaves both positive."""
    ratios = [-v[d < 0] / d[d < 0] for v, d in ((u, du), (s, ds))]
    return float(min(1.0, *(r.min(initial=np.inf) for r in ratios)))


def _step(
    gram: np.ndarray, u: np.ndarray, s: np.ndarray, primal: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The solution of gram du - ds = primal, u ds + s du = target."""
    du = np.linalg.solve(gram + np.diag(s / u), primal + target / u)
    return du, (target - s * du) / u
