"""Report on the installation: versions, devices, memory, optional libraries and data."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path

import torch

from unfooled._version import __version__
from unfooled.core.model.batching import free_bytes
from unfooled.runs.records import Record

OPTIONAL_LIBRARIES = {
    "timm": "timm:NAME models",
    "transformers": "Hugging Face models",
    "pyarrow": "folders of datasets",
    "skimage": "superpixels of images",
    "captum": "peer in the tests",
}
REQUIRED_LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "lightning_fabric", "safetensors", "pydantic", "PIL")
UNUSABLE = "unusable: "


class Doctor(Record):
    """State of the installation.

    Attributes:
        unfooled, python: Versions.
        libraries: Version of each library that is needed, or why it is unusable.
        extras: Version of each optional library, or why it is unusable.
        devices: Devices and their free memory.
        data: Folder of the data sets, and whether it exists.
    """

    unfooled: str
    python: str
    libraries: dict[str, str]
    extras: dict[str, str]
    devices: dict[str, str]
    data: dict[str, str | bool]

    @property
    def unusable(self) -> list[str]:
        """The needed libraries that cannot be used."""
        return [name for name, version in self.libraries.items() if version.startswith(UNUSABLE)]


def doctor() -> Doctor:
    """Return versions, devices, free memory, and which optional libraries are installed."""
    devices = {"cpu": f"{torch.get_num_threads()} threads, {free_bytes() / 2**30:.1f} GiB free"}
    for i in range(torch.cuda.device_count()):
        devices[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {free_bytes(f'cuda:{i}') / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
    return Doctor(
        unfooled=__version__,
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        libraries={name: _version(name) for name in REQUIRED_LIBRARIES},
        extras={name: _version(name) for name in OPTIONAL_LIBRARIES},
        devices=devices,
        data={"UNFOOLED_DATA": str(folder), "there": folder.is_dir()},
    )


def _version(name: str) -> str:
    """Return a library's version, or why it cannot be used."""
    try:
        module = importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as e:
        return f"{UNUSABLE}{str(e).splitlines()[0] if str(e) else type(e).__name__}"
    return str(getattr(module, "__version__", "present"))
