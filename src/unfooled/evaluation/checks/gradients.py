"""Gradients that an attack follows, selected by the checks of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.keys import LEARNED, Family, Ledger, StageKey
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.estimated import Estimated
from unfooled.attacks.gradients.jittered import Jittered
from unfooled.attacks.gradients.prepared import Prepared
from unfooled.attacks.gradients.relabelled import Recorded, relabelled
from unfooled.attacks.gradients.straight_through import StraightThrough
from unfooled.attacks.gradients.twins import distil, transfer, untrained
from unfooled.attacks.gradients.unrounded import Unrounded
from unfooled.core.access import Access
from unfooled.core.goals import logits_at
from unfooled.core.model.calls import bare
from unfooled.core.model.modes import channels_last
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Box, Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.table import CheckId, Finding, Kind
from unfooled.evaluation.checks.verdict import fired
from unfooled.models.black_boxes.box import access_of
from unfooled.runs.chunks import ComputeOnce, Rows

MAX_TWIN_SAMPLES = 200
"""Samples at which a twin learns the model's answers, at most."""
ESTIMATE_SIGMA, MAX_ESTIMATE_DRAWS = 0.02, 1024
"""Half the step, and directions at most, from which the gradient of a black box is estimated."""
PROBED, STEADY = 3, 0.8
"""Samples at which slopes along coordinates are tried with two lengths, and their least cosine."""
JITTER_SIGMA, JITTER_DRAWS = 1e-3, 16
"""Noise over which gradients are averaged, and its draws."""
EPOCHS, BATCH = 10, 64
"""Epochs and samples per step of a twin whose gradients are followed."""
BRIEF_EPOCHS, BRIEF_BATCH, BRIEF_ROUNDS, MAX_BRIEF_SAMPLES = 5, 32, 2, 64
"""The same for a trial, with its rounds of queries and samples: a smaller network learns in a tenth of the time, and of
the points made on it as many fool a network."""
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
        brief: True if the twin was trained for a trial alone.
        forwards: Forward passes that the training of twins took.
        ledger: Ledger that stores the twin. None: it is not stored.
        faster: Copy of the model that answers alike, to rounding, in less time. None: there is none.
    """

    model: Counted
    findings: Sequence[Finding]
    draws: int = 1
    seed: int = 0
    twin: nn.Module | None = None
    labels: nn.Module | None = None
    brief: bool = False
    forwards: int = 0
    ledger: Ledger | None = None
    faster: Prepared | None = None

    def with_copy(self, x: Tensor, *, compiled: bool = False) -> Self:
        """Return these gradients with a faster copy of the model, where no check has found anything against it.

        Args:
            x: A few samples, (b, *D).
            compiled: True: the copy is compiled by torch.compile.
        """
        seen = any(f.fired and f.kind in (Kind.MASKING, Kind.STOP) for f in self.findings)
        if self.draws > 1 or seen or self.rounded or not isinstance(bare(self.model), nn.Module):
            return self
        return replace(self, faster=Prepared(self.model, x, compiled=compiled))

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

    def with_twin(self, x: Tensor, threat: Threat, *, brief: bool = False) -> Self:
        """Return these gradients with a twin, distilled where there is none that is good enough.

        Args:
            x: Samples, (n, *D).
            threat: Constraint set.
            brief: True: a twin that was trained for a trial alone will do. Cost: 13 F for each of 200 samples; of a
                brief one 9 F for each of 64.
        """
        if self._has_twin(brief):
            return self
        ledger = self.ledger or Ledger.of(None, len(x))
        key, learn = self._twin_work(x, threat, ledger, brief)
        rows = ledger.part(key, learn)
        ledger.count_whole(key, int(rows["forwards"]))

        def learned(name: str) -> nn.Module:
            net = untrained(x[:1], int(rows["classes"]), seed=self.seed, brief=brief).to(x.device, x.dtype)
            net.load_state_dict({k.removeprefix(f"{name}."): v for k, v in rows.items() if k.startswith(f"{name}.")})
            return channels_last(net).eval().requires_grad_(False)

        twin, forwards = learned("scores"), self.forwards + int(rows["forwards"])
        labels = learned("labels") if any(k.startswith("labels.") for k in rows) else twin
        return replace(self, twin=twin, labels=labels, brief=brief, forwards=forwards)

    def with_twin_ahead(self, x: Tensor, threat: Threat, *, brief: bool = False) -> None:
        """Offer the work of `with_twin` to processes that would wait meanwhile; its result is stored."""
        if self.ledger is not None and not self._has_twin(brief):
            self.ledger.part_ahead(*self._twin_work(x, threat, self.ledger, brief))

    def _has_twin(self, brief: bool) -> bool:
        """Return whether there is a twin that is good enough."""
        return self.twin is not None and (brief or not self.brief)

    def _twin_work(self, x: Tensor, threat: Threat, ledger: Ledger, brief: bool) -> tuple[StageKey, Callable[[], Rows]]:
        """Return the key of the stage in which the twin is learned, and the work."""
        trial = "trial-" if brief else ""

        def keep(name: str, compute: Callable[[], Rows]) -> Rows:
            return ledger.part(StageKey(Family.TWIN, trial + name), compute, model=self.model)

        def learn() -> Rows:
            # Its parts count the passes, and are read only until it is finished.
            before = ledger.passes(Family.TWIN)[0]
            rows = self._learn(x, threat, keep, brief)
            return rows | {"forwards": torch.tensor(ledger.passes(Family.TWIN)[0] - before)}

        return StageKey(Family.TWIN, trial + LEARNED), learn

    def _learn(self, x: Tensor, threat: Threat, keep: ComputeOnce, brief: bool) -> Rows:
        """Distil the twins, and return their weights and the number of classes."""
        few = torch.arange(min(len(x), MAX_BRIEF_SAMPLES if brief else MAX_TWIN_SAMPLES), device=x.device)
        recorded, (epochs, batch) = Recorded(self.averaged), (BRIEF_EPOCHS, BRIEF_BATCH) if brief else (EPOCHS, BATCH)
        small: dict[str, Any] = {}
        if brief:
            classes = keep("classes", self._answered(x[:1]))["logits"].shape[1]
            small = {"rounds": BRIEF_ROUNDS, "module": untrained(x[:1], classes, seed=self.seed, brief=True)}
        twin = distil(
            self.averaged, x[few], threat.take(few), epochs=epochs, batch=batch, seed=self.seed, keep=keep,
            observe=recorded.record, **small,
        )  # fmt: skip
        twin.requires_grad_(False)
        labels = relabelled(twin, recorded, epochs=epochs, batch=batch, seed=self.seed, keep=keep)
        rows = {"classes": torch.tensor(len(twin(x[:1])[0]))}
        nets = {"scores": twin} | ({} if labels is twin else {"labels": labels})
        return rows | {f"{name}.{k}": v for name, net in nets.items() for k, v in net.state_dict().items()}

    def _answered(self, x: Tensor) -> Callable[[], Rows]:
        """Return a function that returns the model's logits at points."""

        def answer() -> Rows:
            with torch.no_grad():
                return {"logits": logits_at(self.averaged, x)}

        return answer

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

        As many directions as a sample has values span them all; more than `MAX_ESTIMATE_DRAWS` are not asked for. Where
        so many are enough, and slopes of two lengths agree, each value of a sample is moved by itself, which asks for
        less than half.
        """
        if not self.unavailable or access_of(self.model) is not Access.SCORES:
            return None
        draws = min(MAX_ESTIMATE_DRAWS, 1 << (x[0].numel() - 1).bit_length())
        signs = Estimated(self.averaged, draws=draws, sigma=ESTIMATE_SIGMA, seed=self.seed, box=box)
        alone = replace(signs, coordinates=True)
        return alone if x[0].numel() <= MAX_ESTIMATE_DRAWS and _steady(alone, x[:PROBED]) else signs

    @property
    def jittered(self) -> Model:
        """The model's values with the mean gradient of its neighbours."""
        return Jittered(self.averaged, JITTER_SIGMA, JITTER_DRAWS, self.seed)

    @property
    def attacked(self) -> Model:
        """The model whose gradients the attack follows, as the findings ask."""
        if fired(self.findings, CheckId.JUMPS):
            return self.jittered
        return self.through_twin if self._hides(*CHECKS_FOLLOWED_BY_TWIN) else self.faster or self.averaged

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


def _steady(estimated: Estimated, x: Tensor) -> bool:
    """Return whether slopes along coordinates are alike for steps of two lengths, as those of rounded scores are not.

    Cost: 2 gradients of each sample.
    """

    def slopes(model: Model) -> Tensor:
        z = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = logits_at(model, z)
            top = logits.detach().topk(2, dim=1).indices
            gap = logits.gather(1, top) @ logits.new_tensor([1.0, -1.0])
            (g,) = torch.autograd.grad(gap.sum(), z)
        return g.flatten(1)

    alike = torch.nn.functional.cosine_similarity(
        slopes(estimated), slopes(replace(estimated, sigma=ESTIMATE_SIGMA / 4))
    )
    return bool(alike.median() > STEADY)


def _required(twin: nn.Module | None) -> nn.Module:
    """Return a twin that has been distilled."""
    if twin is None:
        raise RuntimeError("there is no twin; ask for one with `with_twin`")
    return twin
