"""Resumable work: atomically written files, stored settings, chunks and units, claims, records."""

from unfooled.runs.chunks import Run
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import model_hash, network_hash, tensors_hash, weights_hash
from unfooled.runs.records import Config, Environment, Passes, Record, read_record, write_record
from unfooled.runs.spelling import spelled
from unfooled.runs.units import Units

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
