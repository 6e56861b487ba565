"""unfooled: find out what fools your classifier, see why, and train it until it no longer is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Resolved on first use (PEP 562), so that `import unfooled` and the command line start without torch.
_NAMES = {
    "Box": "core.threats",
    "Linf": "core.threats",
    "L2": "core.threats",
    "L1": "core.threats",
    "L0": "core.threats",
    "Threat": "core.threats",
    "BadInput": "core.checks",
    "Classifier": "core.classifier",
    "ascend": "core.ascent",
    "counted": "core.modes",
    "frozen": "core.modes",
    "load_model": "models.load",
    "load_data": "data.load",
    "load_shapes": "data.shapes",
    "load_features": "data.store",
    "verify": "evaluation.verify",
    "Verdict": "evaluation.verify",
    "audit": "evaluation.audit",
    "cascade": "evaluation.cascade",
    "standard": "evaluation.standard",
    "envelope": "evaluation.envelope",
    "QUICK": "evaluation.cascade",
    "NORMAL": "evaluation.cascade",
    "THOROUGH": "evaluation.cascade",
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
    from unfooled import attacks, core, data, distances, evaluation, explanations, features, models, report, training
    from unfooled.core.ascent import ascend
    from unfooled.core.checks import BadInput
    from unfooled.core.classifier import Classifier
    from unfooled.core.modes import counted, frozen
    from unfooled.core.threats import L0, L1, L2, Box, Linf, Threat
    from unfooled.data.load import load_data
    from unfooled.data.shapes import load_shapes
    from unfooled.data.store import load_features
    from unfooled.evaluation.audit import audit
    from unfooled.evaluation.cascade import NORMAL, QUICK, THOROUGH, cascade
    from unfooled.evaluation.envelope import envelope
    from unfooled.evaluation.standard import standard
    from unfooled.evaluation.verify import Verdict, verify
    from unfooled.models.load import load_model
