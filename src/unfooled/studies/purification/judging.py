"""Attacks on a network behind a purifier, each verified on the purifier as it is used.

clean            no attack
static           points of an attack on the bare network
BPDA             attack through the purifier with the identity's gradient; also with the low band's
end to end       the purifier's own gradient, then a soft choice of the cluster in place of the hard one
assignment       wrong cluster first, then the margin
low frequency    changes that the split leaves in the low band
black box        square, and points of an attack on another undefended network
worst            right under every one of these
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from unfooled.attacks import Averaged, assignment, bpda, low_frequency, pgd, square
from unfooled.attacks.gradients import identity
from unfooled.attacks.pgd import pgd_from
from unfooled.core.losses import margin
from unfooled.core.low_pass import low_pass
from unfooled.core.threats import Threat
from unfooled.core.types import Model, Purify
from unfooled.evaluation.verify import verify
from unfooled.purification import SemanticPurifier, guard, is_differentiable, jpeg, low_band

CLEAN, STATIC, BPDA, END, ASSIGN, LOW, BLACK = (
    "clean", "static", "BPDA", "end to end", "assignment", "low frequency", "black box",
)  # fmt: skip
WORST = "worst"
CARRIED = "worst, carried over"
"""Share under the worst attack of this radius and smaller ones, of random purifiers alone."""
ATTACKS = (CLEAN, STATIC, BPDA, END, ASSIGN, LOW, BLACK)
ADAPTIVE = (BPDA, END, ASSIGN, LOW, BLACK)
TRANSFER = f"{BLACK} transfer"
TEMPERATURES = (10.0, 1.0, 0.1)
Points = Mapping[str, Tensor]
"""Name of each attack -> points, (B, C, H, W)."""
Attack = Callable[..., Tensor]
"""`(x, y, threat, generator=) -> points`."""


@dataclass(frozen=True, eq=False)
class Defence:
    """Network behind a purifier, with the sizes of the attacks on it.

    Attributes:
        model: The bare network.
        purify: The purifier.
        random: True: the purifier draws random numbers.
        steps: Steps of each attack.
        queries: Queries of the black-box attack; 0: none.
        few: Number of the first samples, which the black-box attack is run on.
        draws: Draws that a random purifier's gradient is averaged over.
        submissions: Times that each point is submitted to a random purifier when it is scored.
        seed: Random seed.
        twin: Another undefended network, whose adversarial examples are tried; None: none.
    """

    model: Model
    purify: Purify
    random: bool = False
    steps: int = 20
    queries: int = 0
    few: int = 0
    draws: int = 20
    submissions: int = 10
    seed: int = 0
    twin: Model | None = None

    @cached_property
    def guarded(self) -> Model:
        """The network behind the purifier, as it is used; one module, whose purifier is checked once."""
        return guard(self.model, self.purify, stochastic=self.random)

    @property
    def bare(self) -> bool:
        """True where there is no purifier."""
        return self.purify is identity

    def source(self) -> torch.Generator:
        """Return a fresh base seed."""
        return torch.Generator().manual_seed(self.seed)

    def right(self, x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> Tensor:
        """Return the share of submissions in which each point is classified correctly, (B,)."""
        tried = self.submissions if self.random else 1
        wins = [~verify(self.guarded, x, y, z, threat).success for _ in range(tried)]
        return torch.stack(wins).double().mean(0)

    def in_turn(
        self, attacks: Mapping[str, Attack], x: Tensor, y: Tensor, threat: Threat, before: Points | None = None
    ) -> dict[str, Tensor]:
        """Run attacks of one kind, each on the samples that those before it did not fool.

        Args:
            attacks: Name -> `(x, y, threat, generator=) -> points`.
            x: Inputs, (B, C, H, W).
            y: Labels, (B,).
            threat: Threat.
            before: Points of attacks of the same kind that ran before. None: there are none.

        Returns:
            Name -> points, (B, C, H, W); those of the attack before where a sample was fooled. A random purifier is
            attacked anew by each, since no sample is fooled for good.
        """
        points: dict[str, Tensor] = {}
        z = None if before is None or self.random else next(iter(before.values()), None)
        for name, attack in attacks.items():
            if z is None:
                made = attack(x, y, threat, generator=self.source())
            else:
                rows = (self.right(x, y, z, threat) > 0).nonzero()[:, 0]
                made = z.clone()
                if len(rows):
                    made[rows] = attack(x[rows], y[rows], threat.take(rows), generator=self.source())
            points[name] = made
            z = None if self.random else made
        return points


def without_purifier(defence: Defence, x: Tensor, y: Tensor, threat: Threat) -> dict[str, Tensor]:
    """Return the points of the attacks that do not depend on the purifier, (B, C, H, W): static and transfer.

    Args:
        defence: Network, with any purifier.
        x: Inputs, (B, C, H, W).
        y: Labels, (B,).
        threat: Threat.
    """
    climb = partial(pgd, loss=margin, steps=defence.steps)
    points = {STATIC: climb(defence.model, x, y, threat, generator=defence.source())}
    if defence.twin is not None and (few := defence.few):
        moved = climb(defence.twin, x[:few], y[:few], threat, stop=False)
        points[TRANSFER] = torch.cat([moved, x[few:]])
    return points


def attacked(defence: Defence, x: Tensor, y: Tensor, threat: Threat, shared: Points | None = None) -> dict[str, Tensor]:
    """Attack a defence in every way that applies, and return the points of each attack, (B, C, H, W).

    Of several attacks of one kind, each is run on the samples that those before it left; they count together.

    Args:
        defence: Network and purifier.
        x: Inputs, (B, C, H, W).
        y: Labels, (B,).
        threat: Threat.
        shared: Result of `without_purifier`. None: computed.

    Returns:
        Name and number of each attack -> points; the black box moves only the first `few`.
    """
    guarded, model, purify = defence.guarded, defence.model, defence.purify
    shared = without_purifier(defence, x, y, threat) if shared is None else shared
    points = {CLEAN: x, STATIC: shared[STATIC]}
    soft = _differentiable(defence, x)
    soft = Averaged(soft, defence.draws) if defence.random else soft
    climb: Attack = partial(pgd, loss=margin, steps=defence.steps)
    low: Attack = partial(low_frequency, soft, steps=defence.steps)
    points |= defence.in_turn(
        {f"{LOW} {mu:g}": partial(low, low=partial(low_pass, smooth=mu)) for mu in (5.0, 1.0)}, x, y, threat
    )
    ends: dict[str, Attack] = {}
    if not defence.bare:
        if not defence.random:
            stand_in = bpda(purify, model, partial(low_band, smooth=1.0))
            both = {f"{BPDA} identity": partial(climb, bpda(purify, model)), f"{BPDA} low": partial(climb, stand_in)}
            points |= defence.in_turn(both, x, y, threat)
        ends[END] = partial(climb, soft)
    if isinstance(purify, SemanticPurifier) and len(purify.label.unique()) > 1:
        ends[f"{END} soft"] = partial(_annealed, defence)
        points[ASSIGN] = assignment(
            guarded, x, y, threat, distance=purify.distance, label=purify.label, steps=defence.steps,
            generator=defence.source(),
        )  # fmt: skip
    points |= defence.in_turn(ends, x, y, threat)
    return points | _black_box(defence, x, y, threat, shared)


def _differentiable(defence: Defence, x: Tensor) -> Model:
    """Return the guarded network with a gradient: the purifier's own, or that of a stand-in with nearly its values."""
    purify = defence.purify
    if defence.random or is_differentiable(purify, x[:2]):
        return defence.guarded
    function = getattr(purify, "func", None)
    stand_in: Purify = partial(jpeg, **{**purify.keywords, "soft": True}) if function is jpeg else identity  # type: ignore[attr-defined]
    return bpda(purify, defence.model, stand_in)


def _annealed(defence: Defence, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None) -> Tensor:
    """Attack the values of the hard choice with gradients of softer ones, whose temperature falls."""
    purify = defence.purify
    assert isinstance(purify, SemanticPurifier)
    z = threat.sample(x, generator)
    for temperature in TEMPERATURES:
        soft = replace(purify, temperature=temperature)
        model = _with_gradients_of(guard(defence.model, soft), defence.guarded)
        z = pgd_from(z, model, x, y, threat, loss=margin, steps=max(1, defence.steps // len(TEMPERATURES)))
    return z


def _with_gradients_of(gradients: Model, values: Model) -> Model:
    """Return a model with the gradients of one model and the values of another."""

    def model(x: Tensor) -> Tensor:
        near = gradients(x)
        with torch.no_grad():
            shift = values(x) - near
        return near + shift

    return model


def _black_box(defence: Defence, x: Tensor, y: Tensor, threat: Threat, shared: Points) -> dict[str, Tensor]:
    """Return the points of attacks that use no gradient of the defence: transfer, then random search on the rest."""
    if not defence.queries:
        return {}
    points = {TRANSFER: shared[TRANSFER]} if TRANSFER in shared else {}
    if defence.random:
        return points
    few = defence.few
    first = {name: z[:few] for name, z in points.items()}
    search: Attack = partial(square, defence.guarded, steps=defence.queries)
    made = defence.in_turn({f"{BLACK} square": search}, x[:few], y[:few], threat, first)
    return points | {name: torch.cat([z, x[few:]]) for name, z in made.items()}


def judged(
    defence: Defence, x: Tensor, y: Tensor, threat: Threat, points: Points, right: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    """Return for each kind of attack, and for all, the share of submissions in which a sample is right, (B,).

    Of several points of a sample in front of a random purifier, the one that is right in the fewest submissions is
    chosen, and submitted anew: the least of several noisy shares would be too small. A choice by noisy shares may miss
    the worst point, so that the figure is at most that of each attack by itself.

    Args:
        defence: Network and purifier.
        x: Inputs.
        y: Labels.
        threat: Threat.
        points: Points of each attack, see `attacked`.
        right: `(x, y, z, threat) -> (B,)`; None: that of the defence.
    """
    return worst_points(defence, x, y, threat, points, right)[0]


def worst_points(
    defence: Defence, x: Tensor, y: Tensor, threat: Threat, points: Points, right: Callable[..., Tensor] | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what `judged` does, and the worst point of each sample, (B, C, H, W)."""
    right = defence.right if right is None else right
    shares = {name: right(x, y, z, threat) for name, z in points.items()}
    kinds: dict[str, list[str]] = {}
    for name in points:
        kinds.setdefault(next(attack for attack in ATTACKS if name.startswith(attack)), []).append(name)
    columns: dict[str, Tensor] = {}
    worst = x
    for kind, names in [*kinds.items(), (WORST, list(points))]:
        names = names[::-1]  # of equal ones the last, which is rarely the clean sample
        values, place = torch.stack([shares[name] for name in names]).min(0)
        if kind == WORST or (defence.random and len(names) > 1):
            every = torch.stack([points[name] for name in names])
            worst = every[place.to(every.device), torch.arange(len(x), device=every.device)]
        if defence.random and len(names) > 1:
            values = lowest([right(x, y, worst, threat), *(shares[name] for name in names)])
        columns[kind] = values
    return columns, worst


def lowest(columns: Sequence[Tensor]) -> Tensor:
    """Return the column of the lowest mean."""
    return min(columns, key=lambda column: float(column.mean()))
