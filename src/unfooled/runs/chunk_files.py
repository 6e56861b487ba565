"""Chunks of one stage in the store of a run: one file each, whose name states its rows."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unfooled.runs.folder import Folder
from unfooled.runs.sealed import Rows
from unfooled.runs.spans import Cover, Span
from unfooled.runs.stored_rows import TensorLocation, locate_tensor, stored_rows

SPARING = 20
"""The folder is listed again, for each chunk, once this many times the duration of the last listing have passed."""
CHUNK = re.compile(r"(\d+)-(\d+)\.safetensors")


@dataclass
class StageChunks:
    """Known chunks of one stage; they may overlap after starts with different chunk sizes."""

    folder: Folder
    stage: str
    n: int
    large: Collection[str] = ()
    even: bool = False
    rows: dict[Span, Rows] = field(default_factory=dict)
    locations: dict[tuple[str, Span], TensorLocation] = field(default_factory=dict)
    facts: dict[Span, dict[str, Any]] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    due: float = 0.0
    cover: Cover = field(init=False)

    def __post_init__(self) -> None:
        self.cover = Cover(self.n)

    @property
    def prefix(self) -> str:
        """Start of the names of the stage's files."""
        return f"chunks/{self.stage}/"

    def file(self, a: int, b: int) -> str:
        """Return the name of a chunk's file."""
        return f"{self.prefix}{a}-{b}.safetensors"

    def lacks(self, span: Span) -> bool:
        """Return whether rows of a span are not known."""
        return any(a < span[1] and span[0] < b for a, b in self.cover.missing(self.n))

    def find(self, *, again: bool = False) -> bool:
        """Read the complete chunks in the folder; return whether there are new ones.

        Args:
            again: True: retry files that could not be read before.
        """
        if again:
            self.unusable.clear()
        before = len(self.rows)
        store, began = self.folder.store, time.monotonic()
        files = [] if store is None else store.list(f"chunks/{self.stage}")
        files = [file for file in files if file not in self.read]  # a stage may have very many
        self.due = time.monotonic() + SPARING * (time.monotonic() - began)
        for file in files:
            span = span_of(file)
            if not file.rpartition("/")[2].startswith(".") and (span is None or span[1] > self.n):
                self.folder.note_unusable(file)  # not a name that this library writes
        for (a, b), file in sorted((span, file) for file in files if (span := span_of(file)) is not None):
            if b > self.n or file in self.unusable or (a, b) in self.rows:
                continue
            stored = self.folder.read_rows(file, b - a)
            if stored is None:
                self.unusable.add(file)
            else:
                self._add((a, b), *stored)
        if len(self.rows) > before:
            self.cover.renew(self.rows)
        return len(self.rows) > before

    def arrived(self, span: Span) -> bool:
        """Read new chunks, and return whether there are any; those but the one of a span only now and then."""
        store = self.folder.store
        if store is not None and time.monotonic() < self.due and store.read(self.file(*span)) is None:
            return False
        return self.find(again=True)

    def store_chunk(self, span: Span, rows: Rows, facts: dict[str, Any]) -> None:
        """Store a computed chunk; that of a process which stored it first counts."""
        stored = self.folder.store_rows(self.file(*span), rows, facts, span[1] - span[0])
        self._add(span, *(stored or (rows, facts)))
        self.cover.add(span)

    def _add(self, span: Span, rows: Rows, facts: dict[str, Any]) -> None:
        """Add the rows of a chunk; for large results in a store, only where they are stored."""
        store, parts = self.folder.store, {}
        for name, value in rows.items():
            parts[name] = value
            if store is not None and name in self.large:
                self.locations[name, span] = locate_tensor(store, self.file(*span), name, value)
                parts[name] = value.new_empty((0, *value.shape[1:]))
        self.rows[span], self.facts[span] = parts, facts
        self.read.add(self.file(*span))

    def joined(self, name: str, spans: Sequence[Span]) -> Tensor:
        """Return the rows of consecutive spans, joined; streamed for large results in a store."""
        store, first = self.folder.store, self.rows[spans[0]][name]
        if store is None or (name, spans[0]) not in self.locations:
            return torch.cat([self.rows[span][name] for span in spans])
        return stored_rows(store, {span: self.locations[name, span] for span in spans}, first)

    def claimed(self) -> list[Span]:
        """Return the spans that other processes are computing."""
        spans = (span_of(name) for name in self.folder.claims.live() if name.startswith(self.prefix))
        return [span for span in spans if span is not None]


def span_of(file: str) -> Span | None:
    """Return the rows in a chunk's file name."""
    match = CHUNK.fullmatch(file.rpartition("/")[2])
    if match is None:
        return None
    a, b = int(match[1]), int(match[2])
    return (a, b) if a < b else None
