"""Resumable work: atomically written files, stored settings, chunks and units, claims, records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "Config": "records",
    "Environment": "records",
    "Passes": "records",
    "Record": "records",
    "Run": "chunks",
    "Units": "units",
    "model_hash": "hashes",
    "network_hash": "hashes",
    "read_record": "records",
    "spelled": "spelling",
    "tensors_hash": "hashes",
    "weights_hash": "hashes",
    "write_record": "records",
    "write_whole": "files",
}

__all__ = [
    "Config",
    "Environment",
    "Passes",
    "Record",
    "Run",
    "Units",
    "model_hash",
    "network_hash",
    "read_record",
    "spelled",
    "tensors_hash",
    "weights_hash",
    "write_record",
    "write_whole",
]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.runs.chunks import Run
    from unfooled.runs.files import write_whole
    from unfooled.runs.hashes import model_hash, network_hash, tensors_hash, weights_hash
    from unfooled.runs.records import Config, Environment, Passes, Record, read_record, write_record
    from unfooled.runs.spelling import spelled
    from unfooled.runs.units import Units
