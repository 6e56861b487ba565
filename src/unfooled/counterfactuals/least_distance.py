"""Least-distance programming: the smallest vector that satisfies linear inequalities, and the violation if none does.

    min ||x||_2   s.t.   G x >= h                dual:  max h . u - ||G^T u||^2 / 2,  u >= 0,  x = G^T u

`LeastDistance` solves the dual for many right-hand sides: an active set over the Gram matrix, started empty, to which
the most violated row is added (Lawson and Hanson on the normal equations). Its answer is refined on G itself and
accepted only if it satisfies the optimality conditions; else `scipy.optimize.nnls` solves the problem:

    E = [G^T; h^T], f = (0, ..., 0, 1):   u = nnls(E, f),  r = E u - f,  x = -r[:-1] / r[-1];   r = 0: infeasible

References:
    Lawson, Hanson, Solving least squares problems, 1974, chapter 23.
"""

from __future__ import annotations

import math

import numpy as np

from unfooled.core.errors import BadInput

EXACT = 1e-12
"""Violation, relative to the largest right-hand side of unit rows, up to which a solution is accepted."""
LOOSE = 1e-8
"""The same where `EXACT` is out of reach: solutions whose norm is much larger than the largest right-hand side."""

MET = 1e-7
"""Slack of a unit row, relative to the solution, up to which the row counts as active."""
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
"""Options of the linear programs: tolerances of HiGHS, the smallest that it takes."""


class LeastDistance:
    """Solver of min ||x||_2 with G x >= h, for one G and many h.

    Args:
        rows: G, (m, n).
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.size = np.sqrt((rows**2).sum(1))
        self.nonzero = _nonzero(self.size)
        self.unit = rows[self.nonzero] / self.size[self.nonzero, None]
        self.gram = self.unit @ self.unit.T

    def solve(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the smallest x, (n,), and the active rows, (m,) bool. None: there is no x."""
        if _unreachable(h, self.size, self.nonzero):
            return None
        active = np.zeros(len(h), bool)
        need = h[self.nonzero] / self.size[self.nonzero]
        scale = float(need.max(initial=0.0))
        if scale <= 0:
            return np.zeros(self.unit.shape[1]), active
        solution = self._active_set(need / scale)
        if solution is None:
            solution = _by_nnls(self.unit, need / scale)
        if solution is None:
            return None
        x, rows = solution
        active[np.flatnonzero(self.nonzero)[rows]] = True
        return x * scale, active

    def _active_set(self, need: np.ndarray) -> tuple[np.ndarray, list[int]] | None:
        """Solve the dual over the Gram matrix; None where that is not accurate enough."""
        rows: list[int] = []
        u = np.zeros(0)
        violation = need
        for _ in range(3 * len(need) + 10):
            k = int(violation.argmax())
            if violation[k] <= EXACT or k in rows:
                break
            rows.append(k)
            u = np.append(u, 0.0)
            while True:
                try:
                    s = np.linalg.solve(self.gram[np.ix_(rows, rows)], need[rows])
                except np.linalg.LinAlgError:
                    return None
                if (s > 0).all():
                    break
                down = s <= 0
                step = float((u[down] / np.maximum(u[down] - s[down], 1e-300)).min())
                u = u + step * (s - u)
                stay = (u > 1e-15 * u.max(initial=0.0)) & ~(down & (u <= 1e-14))
                if stay.all() or not stay.any():
                    return None
                rows, u = [r for r, keep in zip(rows, stay, strict=True) if keep], u[stay]
            u = s
            violation = need - self.gram[:, rows] @ u
        return _refined(self.unit, need, rows)


def _refined(unit: np.ndarray, need: np.ndarray, rows: list[int]) -> tuple[np.ndarray, list[int]] | None:
    """Return the smallest x that meets the active rows exactly; None where it is not the optimum."""
    if not 0 < len(rows) <= unit.shape[1]:
        return None
    g = unit[rows]
    q, r = np.linalg.qr(g.T)
    size = np.abs(np.diagonal(r))
    if size.min() < 1e-7:
        return None
    v = np.linalg.solve(r.T, need[rows])
    x, u = q @ v, np.linalg.solve(r, v)
    far = max(1.0, float(np.sqrt(x @ x)))
    if (u < -EXACT * far).any() or (need - unit @ x).max() > EXACT * far:
        return None
    return x, rows


def _by_nnls(unit: np.ndarray, need: np.ndarray) -> tuple[np.ndarray, list[int]] | None:
    """Solve by nonnegative least squares; None where there is no x."""
    from scipy.optimize import lsq_linear, nnls

    n = unit.shape[1]
    e, f = np.vstack([unit.T, need[None]]), np.r_[np.zeros(n), 1.0]
    try:
        u, _ = nnls(e, f, maxiter=max(300, 30 * len(need)))
    except RuntimeError:  # too many iterations
        u = lsq_linear(e, f, bounds=(0, np.inf), tol=1e-15).x
    r = e @ u - f
    if math.sqrt(r @ r) < LOOSE:
        return None
    rows = [int(k) for k in np.flatnonzero(u > 0)]
    better = _refined(unit, need, rows)
    if better is not None:
        return better
    x = -r[:-1] / r[-1]
    far = max(1.0, float(np.sqrt(x @ x)))
    if (need - unit @ x).max() > LOOSE * far:
        return None
    return x, rows


def smallest_by_lp(
    rows: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray, norm: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the smallest x in l_1 or l_inf with G x >= h in a box, and the active rows; None: there is none.

    Args:
        rows: G, (m, n).
        h: Right-hand side, (m,).
        low: Least values, (n,), at most 0.
        high: Largest values, (n,), at least 0.
        norm: 1 or inf.
    """
    n, size = rows.shape[1], np.sqrt((rows**2).sum(1))
    nonzero = _nonzero(size)
    if _unreachable(h, size, nonzero):
        return None
    unit, need = rows[nonzero] / size[nonzero, None], h[nonzero] / size[nonzero]
    if norm == 1:
        cost = np.ones(2 * n)
        a = np.hstack([unit, -unit])
        bounds = [(0.0, v) for v in high] + [(0.0, -v) for v in low]
        right = need
    else:
        cost = np.r_[np.zeros(n), 1.0]
        eye, one = np.eye(n), np.ones((n, 1))
        a = np.vstack([np.hstack([unit, np.zeros((len(unit), 1))]), np.hstack([-eye, one]), np.hstack([eye, one])])
        right = np.r_[need, np.zeros(2 * n)]
        bounds = [*zip(low, high, strict=True), (0.0, np.inf)]
    solution = _solve_lp(cost, a, right, bounds)
    if solution is None:
        return None
    x = solution[:n] - solution[n:] if norm == 1 else solution[:n]
    active = np.zeros(len(h), bool)
    active[nonzero] = unit @ x - need <= MET * max(float(np.abs(x).max(initial=0.0)), float(need.max(initial=0.0)))
    return x, active


def shortfall(rows: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the least s with G x >= h - s for some x in a box, at least 0."""
    n, unit = rows.shape[1], float(np.sqrt((rows**2).sum(1)).max(initial=0.0)) or 1.0
    a = np.hstack([rows / unit, np.ones((len(rows), 1))])
    solution = _solve_lp(np.r_[np.zeros(n), 1.0], a, h / unit, [*zip(low, high, strict=True), (0.0, np.inf)])
    return math.nan if solution is None else float(solution[-1]) * unit


def _nonzero(size: np.ndarray) -> np.ndarray:
    """Return which rows are not 0 up to rounding, (m,) bool, from their lengths."""
    return np.asarray(size > 1e-13 * max(float(size.max(initial=0.0)), 1e-300))


def _unreachable(h: np.ndarray, size: np.ndarray, nonzero: np.ndarray) -> bool:
    """Return whether a row that is 0 must be above 0, beyond rounding of the others."""
    unit = max(float(size.max(initial=0.0)), float(np.abs(h).max(initial=0.0)))
    return bool((h[~nonzero] > EXACT * unit).any())


def _solve_lp(
    cost: np.ndarray, a: np.ndarray, right: np.ndarray, bounds: list[tuple[float, float]]
) -> np.ndarray | None:
    """Solve min cost . x with a x >= right, whose rows have about the length 1; None: infeasible."""
    from scipy.optimize import linprog

    scale = max(float(np.abs(right).max(initial=0.0)), 1e-300)
    scaled = [(low / scale, high / scale) for low, high in bounds]
    solution = linprog(cost, A_ub=-a, b_ub=-right / scale, bounds=scaled, method="highs", options=TIGHT)
    if solution.status == 2:
        return None
    if solution.status != 0:
        raise BadInput(f"the linear program of the edit could not be solved: {solution.message}")
    return np.asarray(solution.x) * scale
