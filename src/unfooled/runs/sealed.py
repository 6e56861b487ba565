"""Sealed files: each holds the hash of its configuration, its name and the SHA-256 of its content.

A file that is truncated, corrupted, renamed or from a folder with other settings is not read, and its content is
computed again. Tensors are stored in a safetensors file with the seal in its header, records as JSON with the seal
beside the content, and a mapping for `torch.save` with the seal as one more entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unfooled.runs.hashes import content_hash

Rows = dict[str, Tensor]
"""Results by name, each with one entry per row."""

SEAL = "sha256"
"""Entry of a mapping that holds the SHA-256 of the others."""


@dataclass(frozen=True)
class Seal:
    """The configuration and the name that a sealed file belongs to.

    Args:
        config: Hash of the settings that it was computed with.
        name: Name of the file in its store.
    """

    config: str
    name: str

    def stamp(self, content: Any) -> dict[str, str]:
        """Return the stamp stored beside the content: configuration, name, and the SHA-256 of all three."""
        return {"config": self.config, "name": self.name, SEAL: content_hash([self.config, self.name, content])}

    def fits(self, stored: Mapping[str, Any], content: Any) -> bool:
        """Return whether a stored stamp matches this content."""
        stamp = self.stamp(content)
        return {key: stored.get(key) for key in stamp} == stamp


def seal_rows(rows: Rows, facts: Mapping[str, float], seal: Seal) -> bytes:
    """Return a safetensors file of rows, with metadata (JSON values) in its header."""
    from safetensors.torch import save

    return bytes(save(rows, {"chunk": json.dumps({**seal.stamp([rows, facts]), "facts": dict(facts)})}))


def open_rows(data: bytes, rows: int, seal: Seal) -> tuple[Rows, dict[str, Any]] | None:
    """Return the rows and the metadata of a sealed file; None where it is damaged or has another seal.

    Args:
        data: Content of the file.
        rows: Number of entries that each tensor must have.
        seal: Configuration and name that the file must have.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(data)
        # `load` does not return the header, which is JSON after its length.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["chunk"])
        facts = dict(about["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not seal.fits(about, [stored, facts]) or any(value.shape[:1] != (rows,) for value in stored.values()):
        return None
    return stored, facts


def seal_json(content: Any, seal: Seal) -> bytes:
    """Return a sealed JSON file; the content must consist of JSON values."""
    content = json.loads(json.dumps(content))
    return (json.dumps({**seal.stamp(content), "content": content}, indent=2) + "\n").encode()


def open_json(data: bytes, seal: Seal) -> Any:
    """Return the content of a sealed JSON file; None where it is damaged or has another seal."""
    try:
        about = json.loads(data)
        content = about["content"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if seal.fits(about, content) else None


def seal_mapping(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of tensors and plain values with its SHA-256 as one more entry."""
    return {**content, SEAL: content_hash(content)}


def unchanged(mapping: Mapping[str, Any]) -> bool:
    """Return whether a mapping from `seal_mapping` is unchanged."""
    content = {name: value for name, value in mapping.items() if name != SEAL}
    return mapping.get(SEAL) == content_hash(content)
