"""Report on the installation: versions, devices, memory, optional libraries and data."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

from pydantic import Field

from unfooled._version import __version__
from unfooled.core.memory import free_memory
from unfooled.runs.executors import cores, worker_environments
from unfooled.runs.records import Environment, Record

OPTIONAL_LIBRARIES = {
    "timm": "timm:NAME models",
    "transformers": "Hugging Face models",
    "pyarrow": "folders of datasets",
    "skimage": "superpixels of images",
    "onnxruntime": "ONNX files",
    "skops": "files of estimators",
    "captum": "peer in the tests",
}
REQUIRED_LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "lightning_fabric", "safetensors", "pydantic", "PIL")
DISTRIBUTIONS = {
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "lightning_fabric": "lightning-fabric",
    "timm": "timm",
    "transformers": "transformers",
    "pyarrow": "pyarrow",
    "skimage": "scikit-image",
    "onnxruntime": "onnxruntime",
    "skops": "skops",
    "captum": "captum",
}
"""Library whose import takes long -> its distribution, whose metadata are read instead."""
UNUSABLE = "unusable: "
DIFFERENT = "other versions: "
COMPARED = ("unfooled", "torch", "numpy", "python")
"""Versions in which helping processes must not differ, as their figures might."""


class Doctor(Record):
    """State of the installation.

    Attributes:
        unfooled, python: Versions.
        libraries: Version of each library that is needed, or why it is unusable.
        extras: Version of each optional library, or why it is unusable.
        devices: Devices and their free memory.
        data: Folder of the data sets, and whether it exists.
        workers: Versions of each worker of a scheduler, and in what they differ from these. Empty: none was asked for.
        unfit: The workers that differ, or could not be asked.
    """

    unfooled: str
    python: str
    libraries: dict[str, str]
    extras: dict[str, str]
    devices: dict[str, str]
    data: dict[str, str | bool]
    workers: dict[str, str] = Field(default_factory=dict)
    unfit: list[str] = Field(default_factory=list)

    @property
    def unusable(self) -> list[str]:
        """The needed libraries that cannot be used."""
        return [name for name, version in self.libraries.items() if version.startswith(UNUSABLE)]


def doctor(scheduler: str | None = None) -> Doctor:
    """Return versions, devices, free memory, and which optional libraries are installed.

    Args:
        scheduler: Address of a Dask scheduler, whose workers are asked for their versions. None: none.

    Raises:
        BadInput: Dask is not installed, there is no scheduler at the address, or it has no workers.
    """
    workers, unfit = ({}, []) if scheduler is None else _asked(scheduler)
    torch_version = _torch_without_import() or _version("torch")
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
    return Doctor(
        unfooled=__version__,
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        libraries={"torch": torch_version} | {name: _version(name) for name in REQUIRED_LIBRARIES[1:]},
        extras={name: _version(name) for name in OPTIONAL_LIBRARIES},
        devices=_devices(),
        data={"UNFOOLED_DATA": str(folder), "there": folder.is_dir()},
        workers=workers,
        unfit=unfit,
    )


def _asked(scheduler: str) -> tuple[dict[str, str], list[str]]:
    """Return the versions of the workers of a scheduler, and those that differ from this process in one."""
    here, workers, unfit = Environment.here("cpu"), dict[str, str](), list[str]()
    for worker, there in worker_environments(scheduler).items():
        if isinstance(there, str):
            workers[worker] = f"{UNUSABLE}{there}"
            unfit.append(worker)
            continue
        apart = [
            f"{name} {getattr(there, name)}, here {getattr(here, name)}"
            for name in COMPARED
            if getattr(there, name) != getattr(here, name)
        ]
        workers[worker] = (
            f"{DIFFERENT}{'; '.join(apart)}" if apart else f"unfooled {there.unfooled}, torch {there.torch}"
        )
        unfit += [worker] if apart else []
    return workers, unfit


def _torch_without_import() -> str:
    """Return torch's version where its library can be loaded and has no other device than the CPU; else nothing.

    Its import takes longer than everything else here, and is needed where there may be a GPU.
    """
    spec = None if "torch" in sys.modules or sys.platform != "linux" else importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return ""
    folder = Path(spec.submodule_search_locations[0])
    try:
        build = runpy.run_path(str(folder / "version.py"))  # imports nothing
        if (build.get("cuda") and _loads("libcuda.so.1")) or build.get("hip") or build.get("xpu"):
            return ""
        return str(build["__version__"]) if _loads(str(folder / "lib" / "libtorch_cpu.so")) else ""
    except (OSError, KeyError, SyntaxError):
        return ""


def _loads(library: str) -> bool:
    """Return whether a shared library can be loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _devices() -> dict[str, str]:
    """Return the devices with their free memory; GPUs where torch has been imported."""
    devices = {"cpu": f"{cores()} cores, {free_memory() / 2**30:.1f} GiB free"}
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return devices
    for i in range(torch.cuda.device_count()):
        free = torch.cuda.mem_get_info(i)[0]
        devices[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _version(name: str) -> str:
    """Return a library's version, or why it cannot be used; those whose import takes seconds are only looked up."""
    try:
        if name not in DISTRIBUTIONS:
            return str(getattr(importlib.import_module(name), "__version__", "present"))
        if importlib.util.find_spec(name) is None:
            return f"{UNUSABLE}No module named {name!r}"
        missing = _missing_requirements(DISTRIBUTIONS[name])
        return f"{UNUSABLE}it needs {', '.join(missing)}" if missing else metadata.version(DISTRIBUTIONS[name])
    except metadata.PackageNotFoundError:
        return "present"
    except (ImportError, RuntimeError, OSError, ValueError) as e:
        return f"{UNUSABLE}{str(e).splitlines()[0] if str(e) else type(e).__name__}"


def _missing_requirements(distribution: str) -> list[str]:
    """Return the names of the distributions that another one needs here, and that are not installed."""
    missing = []
    for requirement in metadata.requires(distribution) or []:
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        if ";" in requirement:  # belongs to an extra, or to another platform or version of Python
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing
