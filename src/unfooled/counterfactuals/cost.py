"""Permitted changes of an embedding, and their cost.

low <= e + delta <= high        bounds on the attributes' values
immutable                       attributes that stay as they are
sqrt(delta^T S^-1 delta)        the length under a covariance S (Mahalanobis), in place of l_2
groups                          exclusive attributes: one value of a group is exchanged for another, t (mu_b - mu_a)
weights                         cost of flipping a binary attribute, for `flip_attributes`
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.head import AffineHead, index_of, indices

SINGULAR = 1e-10
"""Smallest eigenvalue of a covariance, relative to the largest, below which it counts as singular."""


@dataclass(frozen=True, eq=False)
class Group:
    """Exclusive attributes, such as the colours of a wing.

    Attributes:
        members: Indices of the attributes in the embedding.
        means: Mean embedding given each value, (members, n) float64: an exchange of a for b moves along means[b] -
            means[a], see `score.group_means`. None: only binary attributes can be exchanged, by
            `flip_attributes`.
        name: Name for messages.

    Raises:
        BadInput: The group has no member, a member twice, or means of another shape.
    """

    members: Sequence[int]
    means: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        label = f"the group {self.name!r}" if self.name else "a group"
        members = indices(self.members, label)
        if not members:
            raise BadInput(f"{label} has no member; leave it out, or give the indices of its attributes")
        if len(set(members)) < len(members):
            raise BadInput(f"{label} has a member twice: {', '.join(map(str, members))}")
        object.__setattr__(self, "members", members)
        if self.means is None:
            return
        means = torch.as_tensor(self.means).detach().to("cpu", torch.float64)
        if means.ndim != 2 or len(means) != len(members) or not torch.isfinite(means).all():
            raise BadInput(
                f"{label} has {len(members)} members and means of shape {tuple(means.shape)}; the means must be "
                f"finite, ({len(members)}, n): a value that never occurs has none, leave it out"
            )
        object.__setattr__(self, "means", means)


@dataclass(frozen=True, eq=False)
class Cost:
    """Permitted changes and what they cost; a plain `Cost()` permits everything.

    Attributes:
        low: Smallest values of e + delta, a number, (n,) or (B, n). None: unbounded.
        high: Largest values of e + delta.
        immutable: Attributes that may not change: indices, names of the head's attributes, or a mask of n
            booleans, as a tensor, an array or a list.
        groups: Groups of exclusive attributes, or their members alone. Only exchanges within one group are permitted.
        covariance: S, (n, n), symmetric. A singular one is shrunk towards a multiple of the identity, with a warning.
        weights: Positive cost of flipping each binary attribute, (n,). None: 1.

    Raises:
        BadInput: A value contradicts itself or the others.
    """

    low: Tensor | float | None = None
    high: Tensor | float | None = None
    immutable: Sequence[int | str] | Sequence[bool] | Tensor = ()
    groups: Sequence[Group | Sequence[int]] = ()
    covariance: Tensor | None = None
    weights: Tensor | None = None
    shrunk: float = field(default=0.0, init=False)
    """Shrinkage intensity: weight of the multiple of the identity in the covariance; 0 if S was not singular."""

    def __post_init__(self) -> None:
        groups = tuple(g if isinstance(g, Group) else Group(g) for g in self.groups)
        members = [f for g in groups for f in g.members]
        if len(set(members)) < len(members):
            twice = next(f for f in members if members.count(f) > 1)
            raise BadInput(f"attribute {twice} is in two groups; exclusive groups must not overlap")
        object.__setattr__(self, "groups", groups)
        for name in ("low", "high"):
            if (value := getattr(self, name)) is not None:
                numbers = _floats(value, name)
                if torch.isnan(numbers).any():
                    raise BadInput(f"{name} holds NaN; write -inf or inf where there is no bound")
                object.__setattr__(self, name, numbers)
        if self.weights is not None:
            weights = _floats(self.weights, "weights")
            if weights.ndim != 1 or not torch.isfinite(weights).all() or not (weights > 0).all():
                raise BadInput(
                    "weights must be positive and finite, one per attribute, (n,); make an attribute immutable "
                    "in place of an infinite weight"
                )
            object.__setattr__(self, "weights", weights)
        if self.covariance is not None:
            matrix, share = _positive(self.covariance)
            object.__setattr__(self, "covariance", matrix)
            object.__setattr__(self, "shrunk", share)

    @property
    def bounded(self) -> bool:
        """True where values have a bound."""
        return self.low is not None or self.high is not None

    def free(self, head: AffineHead) -> np.ndarray:
        """Return which attributes may change, (n,) bool.

        Raises:
            BadInput: An attribute is unknown, or all of them are immutable.
        """
        free = np.ones(head.n, bool)
        mask = _mask(self.immutable)
        if mask is not None and mask.shape != (head.n,):
            raise BadInput(f"the mask of immutable attributes has shape {mask.shape}; it must be ({head.n},)")
        if mask is not None:
            free &= ~mask
        else:
            alone = isinstance(self.immutable, str) or not isinstance(self.immutable, Iterable)
            items: Sequence[Any] = [self.immutable] if alone else list(self.immutable)
            for item in items:
                named = isinstance(item, str)
                place = index_of(item, head.attributes, "attribute") if named else indices([item], "immutable")[0]
                _check_place(place, head.n)
                free[place] = False
        for group in self.groups:
            for place in group.members:  # type: ignore[union-attr]
                _check_place(place, head.n)
        if not free.any():
            raise BadInput(f"all {head.n} attributes are immutable; at least one must be allowed to change")
        return free

    def box(self, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest changes, (B, n) each.

        Raises:
            BadInput: A current value lies outside its bounds.
        """
        ends = []
        for name, value, open_end in (("low", self.low, -np.inf), ("high", self.high, np.inf)):
            if value is None:
                ends.append(np.full(e.shape, open_end))
                continue
            numbers = np.asarray(value)
            if numbers.shape not in ((), e.shape[1:], e.shape):
                raise BadInput(
                    f"{name} has shape {numbers.shape}; it must be a number, ({e.shape[1]},) or {e.shape}, like the "
                    "embeddings"
                )
            ends.append(np.broadcast_to(numbers, e.shape) - e)
        low, high = ends
        slack = 1e-9 * (1 + np.abs(e))
        outside = np.argwhere((low > slack) | (high < -slack))
        if len(outside):
            sample, f = (int(v) for v in outside[0])
            value = e[sample, f]
            side, end = ("low", value + low[sample, f]) if low[sample, f] > 0 else ("high", value + high[sample, f])
            raise BadInput(
                f"attribute {f} of sample {sample} is {value:.4g}, outside its bound {side} = {end:.4g}; bounds must "
                "contain the current values"
            )
        return np.minimum(low, 0.0), np.maximum(high, 0.0)

    def basis(self, head: AffineHead) -> np.ndarray:
        """Return L, (n, r), such that delta = L u costs ||u||_2: the axes of the free attributes, or S = L L^T.

        With immutable attributes L is the root of the conditional covariance given that these do not change.
        """
        free = self.free(head)
        basis = np.eye(head.n)[:, free]
        if self.covariance is None:
            return basis
        matrix = self.covariance.numpy()
        if matrix.shape != (head.n, head.n):
            raise BadInput(f"the covariance has shape {matrix.shape}; it must be ({head.n}, {head.n})")
        if not free.all():
            matrix = np.linalg.inv(np.linalg.inv(matrix)[np.ix_(free, free)])
        return np.asarray(basis @ np.linalg.cholesky((matrix + matrix.T) / 2))


def _mask(immutable: Any) -> np.ndarray | None:
    """Return a mask, (n,) bool; None for indices and names."""
    if isinstance(immutable, (Tensor, np.ndarray)):
        array = np.asarray(immutable.detach().cpu() if isinstance(immutable, Tensor) else immutable)
        return array if array.dtype == np.bool_ else None
    if isinstance(immutable, str) or not isinstance(immutable, Sequence) or not len(immutable):
        return None
    return np.array(immutable, bool) if all(isinstance(item, (bool, np.bool_)) for item in immutable) else None


def _floats(values: Any, what: str) -> Tensor:
    """Return numbers as float64 on the CPU; refuse a mask, and what is no number."""
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(f"{what} is {values!r}; give numbers, a tensor of them or one for all") from None
    if numbers.dtype == torch.bool:
        raise BadInput(f"{what} holds true and false; give numbers (a mask of attributes is for immutable)")
    return numbers.detach().to("cpu", torch.float64)


def _check_place(place: int, n: int) -> None:
    if not 0 <= place < n:
        raise BadInput(f"there is no attribute {place}; the embedding has {n}, 0 to {n - 1}")


def _positive(covariance: Any) -> tuple[Tensor, float]:
    """Return a positive definite covariance, and the shrinkage intensity that was needed for it; 0: none."""
    matrix = torch.as_tensor(covariance).detach().to("cpu", torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise BadInput(f"the covariance has shape {tuple(matrix.shape)}; it must be square, (n, n)")
    if not torch.isfinite(matrix).all():
        raise BadInput("the covariance holds NaN or infinite values; it needs at least two samples of a class")
    if not torch.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * float(matrix.abs().max())):
        raise BadInput("the covariance is not symmetric; give S itself, not a root of it")
    matrix = (matrix + matrix.T) / 2
    values = torch.linalg.eigvalsh(matrix)
    top, bottom = float(values[-1]), float(values[0])
    if not matrix.any():
        raise BadInput("the covariance is 0; a distance in its units needs embeddings that vary")
    if top <= 0 or bottom < -1e-6 * top:
        raise BadInput(f"the covariance has the negative eigenvalue {bottom:.3g}; it is not one of real data")
    if bottom > SINGULAR * top:
        return matrix, 0.0
    rank, share = int((values > SINGULAR * top).sum()), 1e-3
    warnings.warn(
        f"the covariance is singular, rank {rank} of {len(matrix)}; it is shrunk by {share:g} towards a multiple of "
        "the identity",
        stacklevel=4,
    )
    scale = float(torch.diagonal(matrix).mean())
    return (1 - share) * matrix + share * scale * torch.eye(len(matrix), dtype=torch.float64), share
