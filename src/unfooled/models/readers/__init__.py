"""Readers of models: checkpoints, exported programs, model libraries, factories.

Each returns a `Loaded`: a module, and what its source states about it.
"""

from unfooled.models.readers.checkpoints import Checkpoint, read_checkpoint
from unfooled.models.readers.exported import from_exported
from unfooled.models.readers.factory import from_factory
from unfooled.models.readers.fitting import fit, from_checkpoint
from unfooled.models.readers.huggingface import from_folder
from unfooled.models.readers.loaded import Loaded
from unfooled.models.readers.timm_models import from_timm

__all__ = [
    "Checkpoint",
    "Loaded",
    "fit",
    "from_checkpoint",
    "from_exported",
    "from_factory",
    "from_folder",
    "from_timm",
    "read_checkpoint",
]
