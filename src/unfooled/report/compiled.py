"""Compiled templates, kept beside the package's compiled modules: compiling them takes longer than filling a page."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

import jinja2
from jinja2 import FileSystemBytecodeCache
from jinja2.bccache import Bucket

from unfooled._version import __version__


def place_of(module: str) -> Path:
    """Return the folder of a module's compiled file, where Python writes it or would write it."""
    return Path(importlib.util.cache_from_source(module)).parent


class CompiledTemplates(FileSystemBytecodeCache):
    """Templates compiled by an engine; where the folder cannot be written, they are compiled each time.

    Jinja compares the source of each template. What else the code depends on is part of the names of the files.

    Args:
        module: File of the module that makes the engine.
    """

    def __init__(self, module: str) -> None:
        made_by = hashlib.sha256(Path(module).read_bytes() + f"{jinja2.__version__} {__version__}".encode())
        super().__init__(str(place_of(module)), f"template-{made_by.hexdigest()[:16]}-%s.cache")

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read a compiled template; one that cannot be read is compiled anew."""
        try:
            super().load_bytecode(bucket)
        except Exception:  # whatever the content of a damaged file leads to
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a compiled template, unless Python was told to write none."""
        if not sys.dont_write_bytecode:
            with suppress(OSError):
                Path(self.directory).mkdir(parents=True, exist_ok=True)
                super().dump_bytecode(bucket)
