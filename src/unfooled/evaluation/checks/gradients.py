"""Gradients that an attack follows, selected by the checks of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.estimated import Estimated
from unfooled.attacks.gradients.jittered import Jittered
from unfooled.attacks.gradients.relabelled import Recorded, relabelled
from unfooled.attacks.gradients.straight_through import StraightThrough
from unfooled.attacks.gradients.twins import distil, transfer, untrained
from unfooled.attacks.gradients.unrounded import Unrounded
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Box, Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.table import CheckId, Finding, Kind
from unfooled.evaluation.checks.verdict import fired
from unfooled.models.black_boxes.box import Access, access_of
from unfooled.runs.chunks import Rows

MAX_TWIN_SAMPLES = 200
"""Samples at which a twin learns the model's answers, at most."""
ESTIMATE_SIGMA, MAX_ESTIMATE_DRAWS = 0.02, 1024
"""Half the step, and directions at most, from which the gradient of a black box is estimated."""
JITTER_SIGMA, JITTER_DRAWS = 1e-3, 16
"""Noise over which gradients are averaged, and its draws."""
CHECKS_FOLLOWED_BY_TWIN = (CheckId.VANISHING, CheckId.LYING, CheckId.MISSING, CheckId.DECOY)
"""Checks after which the attack follows a twin's gradients."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Models that stand in for the attacked one where its own gradient is of no use.

    Attributes:
        model: The attacked model, which counts its passes.
        findings: Findings of the checks before the attack.
        draws: Model evaluations averaged, for a random model.
        seed: Random seed.
        twin: Network that learned the model's answers. None: no check has asked for it.
        labels: Network that learned only its labels; the twin where that has them. None: no check has asked for it.
        forwards: Forward passes that the twin's training took.
        ledger: Ledger that stores the twin. None: it is not stored.
    """

    model: Counted
    findings: Sequence[Finding]
    draws: int = 1
    seed: int = 0
    twin: nn.Module | None = None
    labels: nn.Module | None = None
    forwards: int = 0
    ledger: Ledger | None = None

    @property
    def missing(self) -> bool:
        """True where the gradient vanishes or does not exist, so that nothing can be explained by it."""
        return self._hides(CheckId.VANISHING, CheckId.MISSING)

    @property
    def absent(self) -> bool:
        """True where there is no gradient at all."""
        return self._hides(CheckId.MISSING)

    @property
    def unavailable(self) -> bool:
        """True for a black box, of which no gradient is to be had."""
        return any(f.fired and f.kind == Kind.ABSENT for f in self.findings)

    @property
    def rounded(self) -> bool:
        """True where rounding alone hides the gradient, and is passed straight through."""
        relevant = (f for f in self.findings if f.id in (CheckId.VANISHING, CheckId.MISSING))
        return any(f.fired and f.kind == Kind.MEND for f in relevant)

    @property
    def own(self) -> Model:
        """The model with its own gradient, rounding passed straight through where that alone hides it."""
        return Unrounded(self.model) if self.rounded else self.model

    def _hides(self, *ids: CheckId) -> bool:
        """Return whether one of these checks fired without a remedy."""
        return any(f.fired and f.kind != Kind.MEND for f in self.findings if f.id in ids)

    def with_twin(self, x: Tensor, threat: Threat) -> Self:
        """Return these gradients with a twin, distilled where there is none. Cost: 13 F for each of 200 samples."""
        if self.twin is not None:
            return self
        few, ledger = (
            torch.arange(min(len(x), MAX_TWIN_SAMPLES), device=x.device),
            self.ledger or Ledger.of(None, len(x)),
        )

        def keep(name: str, compute: Callable[[], Rows]) -> Rows:
            return ledger.part(StageKey(Family.TWIN, name), compute, model=self.model)

        def learn() -> Rows:
            recorded = Recorded(self.averaged)
            twin = distil(self.averaged, x[few], threat.take(few), seed=self.seed, keep=keep, observe=recorded.record)
            labels = relabelled(twin.requires_grad_(False), recorded, seed=self.seed, keep=keep)
            numbers = {"classes": len(twin(x[:1])[0]), "forwards": ledger.passes(Family.TWIN)[0]}
            rows = {name: torch.tensor(number) for name, number in numbers.items()}
            nets = {"scores": twin} | ({} if labels is twin else {"labels": labels})
            return rows | {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}

        # Its parts count the passes, and are read only until it is finished.
        rows = ledger.part(StageKey(Family.TWIN, "learned"), learn)

        def learned(name: str) -> nn.Module:
            net = untrained(x[:1], int(rows["classes"]), seed=self.seed).to(x.device, x.dtype)
            net.load_state_dict({k.removeprefix(f"{name}."): v for k, v in rows.items() if k.startswith(f"{name}.")})
            return net.eval().requires_grad_(False)

        twin = learned("scores")
        labels = learned("labels") if any(k.startswith("labels.") for k in rows) else twin
        return replace(self, twin=twin, labels=labels, forwards=int(rows["forwards"]))

    def ready(self, x: Tensor, threat: Threat) -> Self:
        """Return these gradients, with a twin where the attack follows the twin's."""
        follows_twin = self._hides(*CHECKS_FOLLOWED_BY_TWIN) and not fired(self.findings, CheckId.JUMPS)
        return self.with_twin(x, threat) if follows_twin else self

    @property
    def averaged(self) -> Model:
        """The model, or its mean where it is random."""
        return self.own if self.draws == 1 else Averaged(self.own, self.draws)

    @property
    def through_twin(self) -> Model:
        """The model's values with the twin's gradients; those of the labels' twin where scores and labels differ."""
        return StraightThrough(
            self.averaged, self._of_labels if fired(self.findings, CheckId.DECOY) else self._distilled
        )

    def estimated(self, x: Tensor, box: Box) -> Estimated | None:
        """Return a black box of scores with gradients estimated from its values; None for any other model.

        As many directions as a sample has values span them all; more than `MAX_ESTIMATE_DRAWS` are not asked for.
        """
        if not self.unavailable or access_of(self.model) is not Access.SCORES:
            return None
        draws = min(MAX_ESTIMATE_DRAWS, 1 << (x[0].numel() - 1).bit_length())
        return Estimated(self.averaged, draws=draws, sigma=ESTIMATE_SIGMA, seed=self.seed, box=box)

    @property
    def jittered(self) -> Model:
        """The model's values with the mean gradient of its neighbours."""
        return Jittered(self.averaged, JITTER_SIGMA, JITTER_DRAWS, self.seed)

    @property
    def attacked(self) -> Model:
        """The model whose gradients the attack follows, as the findings ask."""
        if fired(self.findings, CheckId.JUMPS):
            return self.jittered
        return self.through_twin if self._hides(*CHECKS_FOLLOWED_BY_TWIN) else self.averaged

    @property
    def followed(self) -> tuple[Model, ...]:
        """The models whose gradients are followed to the nearest points: also its own, whatever the checks say."""
        other = self._hides(*CHECKS_FOLLOWED_BY_TWIN) or fired(self.findings, CheckId.JUMPS)
        return (self.attacked, self.averaged) if other and not self.absent else (self.attacked,)

    def transferred(self, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """Return the twin's own adversarial examples, (B, *D)."""
        return transfer(self._distilled)(self.averaged, x, y, threat, generator=generator)

    def transferred_labels(self, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """Return adversarial examples of the twin of the labels, (B, *D)."""
        return transfer(self._of_labels)(self.averaged, x, y, threat, generator=generator)

    @property
    def _distilled(self) -> nn.Module:
        return _required(self.twin)

    @property
    def _of_labels(self) -> nn.Module:
        return _required(self.labels)


def _required(twin: nn.Module | None) -> nn.Module:
    """Return a twin that has been distilled."""
    if twin is None:
        raise RuntimeError("there is no twin; ask for one with `with_twin`")
    return twin
