"""unfooled: find out what fools your classifier, see why, and train it until it no longer is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unfooled._version import __version__

# Resolved on first use (PEP 562), so that `import unfooled` and the command line start without torch.
_NAMES = {
    "Box": "core.threats",
    "Linf": "core.threats",
    "L2": "core.threats",
    "L1": "core.threats",
    "L0": "core.threats",
    "Threat": "core.threats",
    "BadInput": "core.errors",
    "Classifier": "core.model.classifier",
    "ascend": "core.ascent",
    "counted": "core.model.modes",
    "frozen": "core.model.modes",
    "load_model": "models.load",
    "load_data": "data.load",
    "load_shapes": "data.made.shapes",
    "load_features": "data.formats.feature_sets",
    "verify": "evaluation.verify",
    "Verdict": "evaluation.verify",
    "audit": "evaluation.audit.audit",
    "cascade": "attacks.ensembles.cascade",
    "autoattack": "attacks.ensembles.autoattack",
    "envelope": "attacks.ensembles.envelope",
    "QUICK": "attacks.ensembles.cascade",
    "NORMAL": "attacks.ensembles.cascade",
    "THOROUGH": "attacks.ensembles.cascade",
}
_PACKAGES = (
    "attacks",
    "core",
    "data",
    "distances",
    "evaluation",
    "explanations",
    "features",
    "models",
    "report",
    "runs",
    "statistics",
    "studies",
    "testing",
    "training",
)

__all__ = ["__version__", *_NAMES, *_PACKAGES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"unfooled.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"unfooled.{name}")
    raise AttributeError(f"module 'unfooled' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from unfooled import (
        attacks,
        core,
        data,
        distances,
        evaluation,
        explanations,
        features,
        models,
        report,
        runs,
        statistics,
        studies,
        training,
    )
    from unfooled.attacks.ensembles.autoattack import autoattack
    from unfooled.attacks.ensembles.cascade import NORMAL, QUICK, THOROUGH, cascade
    from unfooled.attacks.ensembles.envelope import envelope
    from unfooled.core.ascent import ascend
    from unfooled.core.errors import BadInput
    from unfooled.core.model.classifier import Classifier
    from unfooled.core.model.modes import counted, frozen
    from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat
    from unfooled.data.formats.feature_sets import load_features
    from unfooled.data.load import load_data
    from unfooled.data.made.shapes import load_shapes
    from unfooled.evaluation.audit.audit import audit
    from unfooled.evaluation.verify import Verdict, verify
    from unfooled.models.load import load_model
