"""Ensembles of attacks: the cascade, AutoAttack, nearest points in several norms."""

from unfooled.attacks.ensembles.autoattack import autoattack
from unfooled.attacks.ensembles.cascade import NORMAL, QUICK, THOROUGH, Effort, cascade
from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.ensembles.stages import (
    Ascents,
    Searches,
    Sparse,
    Stage,
    TargetedAscents,
    TransferPoints,
    UserAttack,
    Waves,
)

__all__ = [
    "NORMAL",
    "QUICK",
    "THOROUGH",
    "Ascents",
    "Effort",
    "Searches",
    "Sparse",
    "Stage",
    "TargetedAscents",
    "TransferPoints",
    "UserAttack",
    "Waves",
    "autoattack",
    "cascade",
    "envelope",
]
