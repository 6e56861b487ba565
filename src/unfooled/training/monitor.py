"""Monitor of catastrophic overfitting: accuracy under one step stays, under several steps it collapses.

    collapse  <=>  r <= fall r*  and  (s - r) >= (s* - r*) + gap,      or  s - r >= wide

s and r are the accuracies under FGSM and under PGD with `steps` steps at the end of the epoch, s* and r* those of the
earlier epoch with the largest r. The first clause is a fall of the robust accuracy that FGSM does not see (where both
fall together the gap stays: a bad epoch, no collapse); the second needs no earlier epoch.

References:
    Wong, Rice, Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020, arXiv:2001.03994,
    section 5.4.
    Differs from the paper: the paper uses only the PGD accuracy, on training batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.attacks import fgsm, pgd
from unfooled.core.goals import answered
from unfooled.core.model.modes import evaluating
from unfooled.core.threats import Threat


@dataclass(frozen=True, eq=False)
class Monitor:
    """A monitor for `train`, which checks after every epoch whether robustness has collapsed.

    Cost of an epoch: steps + 5 forwards, steps + 1 backwards per sample, less once it is fooled.

    Args:
        threat: Threat at its full radius, even while a `Ramp` trains on a smaller one.
        x: Samples that are not trained on, (N, *D); 256 are enough.
        y: Labels, (N,).
        steps: Steps of PGD.
        fall: Share of the best PGD accuracy at or below which PGD accuracy counts as collapsed.
        gap: Growth of FGSM's lead over PGD that a collapse needs at the same time.
        wide: Lead of FGSM over PGD that is a collapse by itself.
        behind: Function that puts a purifier in front of the network, see `Through`. None: the network is attacked as
            it is.
    """

    threat: Threat
    x: Tensor
    y: Tensor
    steps: int = 10
    fall: float = 0.5
    gap: float = 0.2
    wide: float = 0.5
    behind: Callable[[nn.Module], nn.Module] | None = None

    def look(self, model: nn.Module, device: torch.device) -> tuple[float, float]:
        """Measure the accuracies under FGSM and under PGD."""
        x, y = self.x.to(device), self.y.to(device)
        model = model if self.behind is None else self.behind(model)
        with evaluating(model):
            points = fgsm(model, x, y, self.threat), pgd(model, x, y, self.threat, steps=self.steps)
            with torch.no_grad():
                logits = [model(z) for z in points]
        right = [(z.argmax(1) == y) & answered(z, y) for z in logits]  # no answer is not right
        return float(right[0].double().mean()), float(right[1].double().mean())

    def judge(self, now: tuple[float, float], before: Sequence[tuple[float, float]]) -> str | None:
        """Return one sentence if the epoch with accuracies `now`, (FGSM, PGD), collapsed after `before`; else None."""
        s, r = now
        best_s, best_r = max(before, key=lambda pair: pair[1], default=now)
        collapsed = r <= self.fall * best_r and (s - r) >= (best_s - best_r) + self.gap
        if not collapsed and s - r < self.wide:
            return None
        best = f" (at best {100 * best_r:.0f} %)" if before else ""
        return (
            f"catastrophic overfitting: {100 * s:.0f} % resist one step and {100 * r:.0f} % resist {self.steps}{best}"
        )
