"""Points at which a model gives no finite answer, noticed while an attack asks the model."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import answered
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat


class Unanswered:
    """An observer of a model's answers that stores each sample's nearest point without a finite answer.

    Such a point is neither right nor wrong, and attacks discard it, since it has no margin to compare. A point is
    assigned to the sample that is nearest to it, if it lies in that sample's threat.

    Attributes:
        distance: Distances of the points, inf where there is none, (B,).
        points: The points; x itself where there is none, (B, *D).
    """

    def __init__(self, x: Tensor, threat: Threat) -> None:
        self.x, self.threat, self.points = x, threat, x
        self.distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self.eps = torch.as_tensor(threat.eps, dtype=x.dtype, device=x.device).expand(len(x))

    @torch.no_grad()
    def __call__(self, z: Tensor, logits: Tensor) -> None:
        """Look at the logits of the points z."""
        if bool(torch.isfinite(logits).all()) or len(logits) != len(z):
            return
        low, high = self.threat.box.low - 1e-6, self.threat.box.high + 1e-6
        inside = ((flat(z) >= low) & (flat(z) <= high)).all(1)  # which a point of NaN is not
        for point in z.detach()[inside & ~torch.isfinite(flat(logits)).all(1)]:
            size = self.threat.size(point - self.x)
            i = int(size.argmin())
            if size[i] <= self.eps[i] + 1e-6 * self.eps[i].clamp(min=1) and size[i] < self.distance[i]:
                if self.points is self.x:
                    self.points = self.x.clone()
                self.points[i], self.distance[i] = point.clone(), size[i]

    @property
    def seen(self) -> Tensor:
        """Samples with a point that has no answer, (B,) bool."""
        return torch.isfinite(self.distance)

    def substitute(self, points: Tensor, fooled: Tensor) -> tuple[Tensor, Tensor]:
        """Put in the stored points of samples that are not fooled; return the points, and which were replaced."""
        rows = self.seen & ~fooled
        return (where_rows(rows, self.points, points) if bool(rows.any()) else points), rows


def check_answered(logits: Tensor, rows: Tensor | None = None, y: Tensor | None = None) -> None:
    """Refuse logits of clean samples that are no answer, see `goals.answered`.

    Args:
        logits: Logits, (B, K).
        rows: Positions of the samples, (B,), for the message. None: 0, 1, ...
        y: Labels, (B,). None: they may have a logit of -inf.

    Raises:
        BadInput: Some are; the message says how many and which is the first.
    """
    bad = (~answered(logits, y)).nonzero()[:, 0]
    if len(bad):
        first = int(bad[0] if rows is None else rows[bad[0]])
        if y is not None and bool(answered(logits[bad]).all()):
            raise BadInput(
                f"the model's logit of the label is -inf for {len(bad)} of {len(logits)} clean samples, the first is "
                f"sample {first}, of class {int(y[bad[0]])}; check the class order, or give the class a finite logit: "
                "model = lambda x: net(x).clamp(min=-100)"
            )
        raise BadInput(
            f"the model returns NaN or infinite logits for {len(bad)} of {len(logits)} clean samples, the first is "
            f"sample {first}; mend the model, since nothing can be concluded from an attack on it"
        )
