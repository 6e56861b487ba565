"""Core types: threat models, losses, attack goals, the ascent kernel and wrappers of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "Ascent": "ascent",
    "Auto": "ascent",
    "BadInput": "errors",
    "Box": "threats",
    "Classifier": "model.classifier",
    "Constant": "ascent",
    "Decaying": "ascent",
    "L0": "threats",
    "L1": "threats",
    "L2": "threats",
    "Linf": "threats",
    "Polyak": "ascent",
    "Threat": "threats",
    "ascend": "ascent",
    "counted": "model.wrappers",
    "cross_entropy": "losses",
    "dlr": "losses",
    "fooled": "goals",
    "frozen": "model.modes",
    "margin": "losses",
    "read_logits": "goals",
}

__all__ = [
    "L0",
    "L1",
    "L2",
    "Ascent",
    "Auto",
    "BadInput",
    "Box",
    "Classifier",
    "Constant",
    "Decaying",
    "Linf",
    "Polyak",
    "Threat",
    "ascend",
    "counted",
    "cross_entropy",
    "dlr",
    "fooled",
    "frozen",
    "margin",
    "read_logits",
]


__getattr__ = importer(__name__, _NAMES)  # the command line reads `core.errors` without torch


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.core.ascent import Ascent, Auto, Constant, Decaying, Polyak, ascend
    from unfooled.core.errors import BadInput
    from unfooled.core.goals import fooled, read_logits
    from unfooled.core.losses import cross_entropy, dlr, margin
    from unfooled.core.model.classifier import Classifier
    from unfooled.core.model.modes import frozen
    from unfooled.core.model.wrappers import counted
    from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat
