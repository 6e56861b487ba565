"""`unfooled doctor`: what is here, what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import json as lib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import typer

from unfooled._version import __version__
from unfooled.cli import options

EXTRAS = {"timm": "timm:NAME models", "transformers": "Hugging Face models", "captum": "peer in the tests"}
NEEDED = ("torch", "numpy", "scipy", "sklearn", "torchmetrics", "lightning_fabric", "safetensors", "pydantic", "PIL")


def examine() -> dict[str, Any]:
    """Versions, devices, memory, extras and data, as plain values."""
    import torch

    from unfooled.core.model.batching import free_bytes

    def version(name: str) -> str:
        try:
            module = importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as e:
            return f"unusable: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
        return str(getattr(module, "__version__", "present"))

    devices = {"cpu": f"{torch.get_num_threads()} threads, {free_bytes() / 2**30:.1f} GiB free"}
    for i in range(torch.cuda.device_count()):
        devices[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {free_bytes(f'cuda:{i}') / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
    return {
        "unfooled": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": {name: version(name) for name in NEEDED},
        "extras": {name: version(name) for name in EXTRAS},
        "devices": devices,
        "data": {"UNFOOLED_DATA": str(folder), "there": folder.is_dir()},
    }


def doctor(json: options.JsonOpt = False, quiet: options.QuietOpt = False) -> None:
    """Print versions, devices, free memory, and which extras are there. Exit 2 if something needed is unusable."""
    found = examine()
    bad = [name for name, v in found["libraries"].items() if v.startswith("unusable")]
    if json:
        typer.echo(lib.dumps(found, indent=2))
    elif not quiet:
        _show(found)
    if bad:
        typer.echo(f"unfooled: {', '.join(bad)} cannot be used; reinstall with pip install unfooled", err=True)
        sys.exit(2)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    from unfooled.cli import show

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("[bold]unfooled", found["unfooled"])
    table.add_row("Python", found["python"])
    for name, v in found["libraries"].items():
        table.add_row(name, f"[red]{v}" if v.startswith("unusable") else v)
    for name, v in found["extras"].items():
        missing = v.startswith("unusable")
        table.add_row(f"{name} [dim](optional)", f"[dim]not usable; for {EXTRAS[name]}" if missing else v)
    for name, v in found["devices"].items():
        table.add_row(f"device {name}", v)
    data = found["data"]
    table.add_row("UNFOOLED_DATA", data["UNFOOLED_DATA"] + ("" if data["there"] else " [dim](not there; optional)"))
    show.out.print(table)
