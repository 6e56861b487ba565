"""Sizes of the study of attackability."""

from __future__ import annotations

from dataclasses import dataclass

from unfooled.attacks.ensembles.cascade import NORMAL, QUICK, Effort
from unfooled.core.threats import L2, Threat
from unfooled.studies.common.scale import Scale

SHAPES, TABLE, TEN, BIRDS = "shapes", "cub-table", "cub-ten", "cub"
ARMS = (
    "standard", "concept margin", "concept ball", "PGD-AT", "PGD-AT, joint loss", "margin + PGD-AT", "published term",
)  # fmt: skip
"""Semantic trainings, in the order of the table."""
ALONE = tuple(arm for arm in ARMS if arm != "margin + PGD-AT")
"""Trainings without the one that combines two others."""

WIDE, NARROW = L2(3.0), L2(0.5)


@dataclass(frozen=True)
class Recipe:
    """Training of the concept networks.

    Attributes:
        width: Channels of the first convolution.
        scenes: Training scenes.
        updates: Updates of the joint loss.
        batch: Scenes per update.
        rate: Largest learning rate.
    """

    width: int = 16
    scenes: int = 8000
    updates: int = 1500
    batch: int = 64
    rate: float = 4e-3


@dataclass(frozen=True)
class Editing:
    """Edits that are carried into pixels.

    Attributes:
        n: Number of scenes: the first that are classified correctly.
        threat: Set of allowed inputs.
        steps: Steps for each kappa, and of targeted PGD.
        kappa: Weights of the label.
    """

    n: int = 100
    threat: Threat = WIDE
    steps: int = 200
    kappa: tuple[float, ...] = (1.0, 5.0, 30.0)


@dataclass(frozen=True)
class Semantic:
    """Semantic training at equal compute.

    Attributes:
        arms: Trainings, of `ARMS`.
        budget: Passes over a batch (a forward and a backward each) of every training.
        scenes: Training scenes.
        width: Channels of the first convolution.
        steps: Steps of the inner attack.
        threat: Threat of the inner attack and of the judgement.
        n: Test scenes that are attacked.
        effort: Effort of the cascade.
        seeds: Trainings of every kind, each on the scenes and the seed of one of the first networks.
    """

    arms: tuple[str, ...] = ARMS
    budget: int = 4000
    scenes: int = 2000
    width: int = 8
    steps: int = 7
    threat: Threat = NARROW
    n: int = 200
    effort: Effort = NORMAL
    seeds: int = 3


@dataclass(frozen=True)
class Alarm:
    """Small networks for the alarm alone, whose AUROC counts networks.

    Attributes:
        networks: Networks at each of the first two correlations; 0: the alarm counts the other networks.
        recipe: Training of these networks.
        n: Test scenes, and as many held-out ones for effects.
        twins: Test scenes of each network on which effects are measured.
    """

    networks: int = 0
    recipe: Recipe = Recipe(width=6, scenes=2000, updates=320, batch=32, rate=8e-3)
    n: int = 300
    twins: int = 100


@dataclass(frozen=True)
class AttackabilityScale(Scale):
    """Sizes of the study.

    Attributes:
        data: Parts of the study: "shapes", "cub-table" (class table and simulated images), "cub-ten" (ten classes of
            images), "cub" (the user's folder of CUB-200-2011).
        rhos: Correlations of the planted background with the label; the first is independence, and
            the claims are about the second.
        networks: Networks at each rho.
        recipe: Training of these networks.
        n: Test scenes, and as many held-out ones for units and effects.
        twins: Test scenes of each network whose twins are rendered.
        near: Scenes of the first network whose nearest adversarial example is sought.
        near_few: Scenes of every other network.
        near_steps: Steps of each minimal-norm attack.
        editing: Edits carried into pixels.
        semantic: Semantic training.
        simulated: Simulated birds that are judged; None: all test images.
        alarm: Small networks for the alarm.
    """

    data: tuple[str, ...] = (SHAPES,)
    rhos: tuple[float, ...] = (0.25, 0.9)
    networks: int = 5
    recipe: Recipe = Recipe()
    n: int = 1000
    twins: int = 300
    near: int = 200
    near_few: int = 50
    near_steps: int = 200
    editing: Editing = Editing()
    semantic: Semantic = Semantic()
    simulated: int | None = None
    alarm: Alarm = Alarm()


SCALES = {
    "small": AttackabilityScale(
        recipe=Recipe(width=6, scenes=3000, updates=320, batch=32, rate=8e-3), n=300, twins=120, near=50, near_few=12,
        near_steps=30, editing=Editing(n=20, steps=40),
        semantic=Semantic(budget=200, scenes=1000, width=6, steps=3, n=32, effort=QUICK, seeds=1),
    ),
    "medium": AttackabilityScale(
        data=(SHAPES, TABLE, TEN), rhos=(0.25, 0.9, 1.0), n=600, twins=200, near_few=30, near_steps=60,
        recipe=Recipe(width=10, scenes=6000, updates=1200, batch=32, rate=6e-3), editing=Editing(n=200, steps=60),
        semantic=Semantic(arms=ALONE, budget=1500, steps=3, n=64), alarm=Alarm(networks=30),
    ),
    "full": AttackabilityScale(
        data=(SHAPES, TABLE, TEN, BIRDS), rhos=(0.25, 0.9, 1.0), networks=10,
        recipe=Recipe(width=32, updates=4000), n=2000, twins=1000, near=500, near_few=200, near_steps=500,
        editing=Editing(n=500), semantic=Semantic(budget=40_000, scenes=8000, width=32, n=1000),
        alarm=Alarm(networks=60),
    ),
}  # fmt: skip
