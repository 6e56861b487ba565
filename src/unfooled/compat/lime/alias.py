"""Imports of the original's modules, answered by this package."""

from __future__ import annotations

import importlib
import sys

from unfooled.core.errors import BadInput

HERE = __name__.rpartition(".")[0]
MODULES = (
    "lime_base",
    "lime_image",
    "lime_text",
    "lime_tabular",
    "discretize",
    "explanation",
    "submodular_pick",
    "exceptions",
    "utils",
    "utils.generic_utils",
    "wrappers",
    "wrappers.scikit_image",
)
"""The original's public modules."""


def install() -> None:
    """Let `import lime` and `import lime.lime_text` find the modules of this package, in this process.

    An installed lime is left as it is, and is out of reach until the process ends. A second call changes nothing.

    Raises:
        BadInput: the original was imported before; its classes would go on to be used beside these.
    """
    ours = importlib.import_module(HERE)
    before = sys.modules.get("lime")
    if before is not None and before is not ours:
        raise BadInput("lime itself was imported before; call unfooled.compat.lime.install() first")
    sys.modules["lime"] = ours
    for name in MODULES:
        sys.modules[f"lime.{name}"] = importlib.import_module(f"{HERE}.{name}")
