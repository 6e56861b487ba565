"""Attack on explanations at radii below those at which the label is lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.threats import Threat
from unfooled.distances import corrected
from unfooled.runs.chunks import Rows

MOVED_BELOW = 0.5
"""Corrected LENS below which an explanation counts as moved."""
RADIUS_SHARE = 0.99
"""Radius of the attack below the nearest adversarial example, as a share of its distance."""


def below_the_label(
    samples: Tensor, nearest: Tensor, eps: Tensor, smallest: Threat, norm: float
) -> tuple[Tensor, Tensor]:
    """Return which samples lose their label within the smallest audited radius, and a radius below that of the label.

    Args:
        samples: Samples whose explanations are attacked, (n,).
        nearest: Distances of the nearest adversarial examples of the first samples of all, inf for none, (k,).
        eps: Eps of the samples, (n,).
        smallest: Threat at the smallest audited radius.
        norm: Norm of the threat; in L0 the radius is a whole number of changes.

    Returns:
        Positions in `samples`, (m,), and radii, (m,); no sample whose radius would be 0.
    """
    label = torch.full(samples.shape, torch.inf, dtype=torch.float64)
    searched = samples < len(nearest)
    label[searched] = nearest.double()[samples[searched]]
    smallest_eps = torch.as_tensor(smallest.eps, dtype=torch.float64).cpu().expand(len(samples))
    below = label.ceil() - 1 if norm == 0 else RADIUS_SHARE * label
    close = ((label <= smallest_eps * (1 + 1e-6)) & (below > 0)).nonzero()[:, 0]
    return close, below[close]


@dataclass(frozen=True, eq=False)
class BelowLabel:
    """Attack on explanations at radii below the nearest adversarial examples.

    Attributes:
        at: Positions in the samples that were attacked, (m,).
        radius: Radii in multiples of eps, (m,).
        rows: Rows of `attack_explanations`.
    """

    at: Tensor
    radius: Tensor
    rows: Rows

    @property
    def moved(self) -> Tensor:
        """Explanations that moved, (m,) bool."""
        lens = (corrected(self.rows[f"{how}: lens"], self.rows["chance"]) for how in ("attack", "best of N"))
        return torch.fmin(*lens) < MOVED_BELOW
