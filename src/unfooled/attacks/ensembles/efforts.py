"""Efforts of the cascade: sequences of stages, from a quick one to a thorough one."""

from __future__ import annotations

from dataclasses import dataclass

from unfooled.attacks.ensembles.stages import Ascents, Searches, Stage, TargetedAscents, Waves
from unfooled.core import rng
from unfooled.core.errors import BadInput


@dataclass(frozen=True)
class Effort:
    """Effort of the cascade: its stages.

    Attributes:
        name: Name in records.
        stages: Stages in order, at most 40; each attacks the survivors, or those nearest to the boundary.
    """

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        most = rng.Numbers.ATTACK[-1]
        if len(self.stages) > most:
            raise BadInput(
                f"effort {self.name!r} has {len(self.stages)} stages; at most {most} have random numbers of their own"
            )


QUICK = Effort("quick", (Ascents(20, soft=True), Ascents(40)))
NORMAL = Effort(
    "normal",
    (
        Ascents(20, soft=True),
        Ascents(40, 0.2, least=16),
        TargetedAscents(2, 25, 0.3, least=64),
        Searches(300, 0.08, patience=3),
        Waves(25, 0.15),
        Ascents(100, 0.05, soft=True),
        TargetedAscents(9, 30, 0.06, together=3),
        Searches(1000, 0.08, patience=3, near=0.03),
        Waves(25, 0.1),
        Searches(2000, 0.03, patience=3, near=0.03),
        Searches(2000, 0.02, patience=3, near=0.03),
    ),
)
"""The default. Samples that fall late were near the boundary before, so that a stage begins with few of them, and goes
on with the next while it succeeds (see `Cascade.stage`). The shares were set on test images 2,000 to 2,799 of four
networks, a hardened one and a natural one on MNIST and two natural ones on CIFAR-10, and on training digits; when a
search gives up, on images 2,000 to 3,499 of the hardened one: of seven samples that its searches fooled none was
lost."""
THOROUGH = Effort(
    "thorough",
    (
        Ascents(20, soft=True),
        Ascents(40),
        Ascents(100, 0.5, soft=True),
        TargetedAscents(9, 20, 0.5),
        TargetedAscents(9, 60, 0.15),
        *(Waves(25, 0.5) for _ in range(4)),
        Searches(1000, 0.3),
        Searches(5000, 0.1),
        Ascents(200, 0.2),
        *(Waves(25, 0.2) for _ in range(2)),
        Searches(5000, 0.05),
        TargetedAscents(9, 100, 0.05),
        Searches(5000, 0.05),
    ),
)
EFFORTS = {effort.name: effort for effort in (QUICK, NORMAL, THOROUGH)}
