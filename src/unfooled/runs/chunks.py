"""Work divided into chunks of samples, one sealed file each, which a restarted run reads again.

A stage is a function of a range of rows. Its result for rows [a, b) is the file `chunks/<stage>/<a>-<b>.safetensors`,
which holds the hash of the configuration, its name and its own SHA-256 (see `unfooled.runs.sealed`). A restarted run
reads the existing chunks, whatever their size, and computes the missing rows; several processes in one folder share
them. Decisions that depend on several samples are made between stages, on the whole result, so that no verdict depends
on the chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.memory import trim_heap
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import OutOfTime
from unfooled.runs.ahead import Ahead
from unfooled.runs.chunk_files import StageChunks, span_of
from unfooled.runs.clock import Clock
from unfooled.runs.failures import ALONE, MAX_TRIES, Failures, Start, died, too_often
from unfooled.runs.folder import Folder, open_folder
from unfooled.runs.opening import Place
from unfooled.runs.pace import Pace
from unfooled.runs.sealed import Rows
from unfooled.runs.settings import Settings
from unfooled.runs.share_records import Share
from unfooled.runs.shares import Waiting
from unfooled.runs.spans import Span, even_end, even_rows
from unfooled.runs.stage_names import stage_name

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""(stage, done, total): called at the start of a stage with the stored count, then after each chunk, unit or epoch."""

ComputeOnce = Callable[[str, Callable[[], Rows]], Rows]
"""(name, compute) -> tensors: those that an earlier start stored under the name, or computed and stored."""


class StageCut(OutOfTime):
    """Sign that the time is over before a stage was, with the chunks that are done.

    Attributes:
        positions: Rows that are done, in order, (m,).
        rows: Their results; empty where none is. Of results that are streamed, those before the first missing row.
        leading: Number of rows before the first missing one.
    """

    def __init__(self, chunks: StageChunks) -> None:
        super().__init__()
        spans, self.leading = list(chunks.cover.spans), 0
        for a, b in spans:
            self.leading = b if a == self.leading else self.leading
        if chunks.locations:
            spans = [span for span in spans if span[1] <= self.leading]
        self.positions = torch.cat([torch.arange(0), *(torch.arange(a, b) for a, b in spans)])
        self.rows = {name: chunks.joined(name, spans) for name in (chunks.rows[spans[0]] if spans else {})}


@dataclass
class Run:
    """A run in a folder or another store, or in memory.

    Args:
        path: Folder, created if missing; URL or open store. None: in memory.
        config: All settings that affect a result; a folder with other settings raises `BadInput`.
        chunk: Largest number of rows per file; files of a slow model have fewer, see `unfooled.runs.pace`. An
            interrupted run loses at most the current one.
        progress: Callback, see `Progress`. None: none.
        start: Start that this process works for, where several share its work: a chunk that fails is tried again.
        even: True: parts of equal size, see `unfooled.runs.spans.even_rows`, so that processes share small stages too.
        share: Share of the samples to compute; a stage that lacks others then raises `Waiting`. None: all.

    Attributes:
        seconds: Seconds per stage, including those of earlier starts.
        passes: Forward and backward passes per stage, likewise.
        calls: Calls of the model per stage, likewise; without those of chunks of version 0.1.
        folder: The open folder, for other files stored there.
        clock: Wall time over all starts.
        pace: Pace of the stages, which limits the parts of a slow model in a folder.
        failures: Failed attempts at chunks in this start.
        ahead: Work that is begun before its turn while this process waits for others.

    Raises:
        BadInput: The folder holds other work or cannot be written, or `chunk` is below 1.
    """

    path: Place | None
    config: Settings
    chunk: int = 100
    progress: Progress | None = None
    start: Start = ALONE
    even: bool = False
    share: Share | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    folder: Folder = field(init=False, repr=False, compare=False)
    clock: Clock = field(init=False, repr=False, compare=False)
    pace: Pace = field(default_factory=Pace, init=False, repr=False, compare=False)
    failures: Failures = field(init=False, repr=False, compare=False)
    ahead: Ahead = field(default_factory=Ahead, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise BadInput(f"chunk is {self.chunk}; it must be at least 1")
        self.folder = open_folder(self.path, self.config)
        self.clock = Clock(self.folder.store)
        self.folder.claims.start, self.folder.claims.instead = self.start.token, self._instead
        self.failures = Failures(self.folder.store, self.folder.claims, self.start)

    def map(
        self,
        stage: str,
        fn: Callable[[Tensor], Rows],
        n: int,
        *,
        model: Counted | None = None,
        large: Collection[str] = (),
        even: bool = False,
    ) -> Rows:
        """Compute a stage for rows 0 to n, chunk by chunk, and store each chunk.

        Args:
            stage: Name of the stage and of its folder.
            fn: `(rows (b,) int64) -> {name: (b, ...)}`; a row's result must not depend on the other rows.
            n: Number of rows.
            model: Model whose passes are counted; the counts are stored with the chunks for resumed runs.
            large: Names of results that are left in the folder and streamed (`core.samples.Streamed`).
            even: True: parts of equal size, as for a run that is `even`.

        Returns:
            The results of all rows, in order, on the CPU; their names in any order, since files do not keep one.

        Raises:
            StageCut: The time is over; it holds the chunks that are done, by whichever process or start.
        """
        chunks = StageChunks(self.folder, stage, n, large, even=self.even or even)
        if self.share is not None:
            chunks.cover.restrict(self.share.span(stage, n, even_rows(n, self.chunk) if chunks.even else self.chunk))
        chunks.find()
        for (a, b), known in chunks.facts.items():
            self.pace.record(stage, b - a, known)
        self._report(chunks)
        if chunks.cover.incomplete:
            try:
                with self.folder.claims.present():
                    while chunks.cover.incomplete:
                        if self._advance(chunks, fn, model):
                            self._report(chunks)
                        if large:
                            trim_heap()
            except OutOfTime:
                raise StageCut(chunks) from None
        chunks.cover.restrict((0, n))
        if chunks.cover.incomplete:
            raise Waiting(stage_name(stage).description)
        spans = chunks.cover.spans
        facts = [chunks.facts[span] for span in spans]
        for (a, b), known in zip(spans, facts, strict=True):
            self.pace.record(stage, b - a, known)
        self.passes[stage] = sum(f["forwards"] for f in facts), sum(f["backwards"] for f in facts)
        self.seconds[stage] = sum((f["seconds"] for f in facts), 0.0)
        self.calls[stage] = sum(f.get("calls", 0) for f in facts)
        names = list(chunks.rows[spans[0]]) if spans else []
        return {name: chunks.joined(name, spans) for name in names}

    def once(self, name: str, kind: type[R], fn: Callable[[], list[R]], *, model: Counted) -> list[R]:
        """Compute a few records, or read those of an earlier start, so that they are computed only once.

        Args:
            name: Name of the work and of its file.
            kind: Type of the records.
            fn: Function that computes them.
            model: Model whose passes are counted; the counts are stored with the records.
        """
        piece = self._few(name, kind, fn, model)
        self.ahead.take(piece.file)
        stored = piece.read()
        self._report_whole(name, int(stored is not None))
        if stored is None:
            stored = self._stored(piece)
            self._report_whole(name, 1)
        records, self.passes[name], self.seconds[name] = stored
        return records

    def part(self, name: str, fn: Callable[[], Rows], *, model: Counted | None = None) -> tuple[Rows, tuple[int, int]]:
        """Compute some tensors, or read those of an earlier start; for work that is not a function of rows.

        Args:
            name: Name of the work and of its file.
            fn: Function that computes them.
            model: Model whose passes are counted; the counts are stored with the tensors.

        Returns:
            The tensors, on the CPU, and the forwards and backwards that they took.
        """
        piece = self._tensors(name, fn, model)
        self.ahead.take(piece.file)
        rows, facts = piece.read() or self._stored(piece)
        self.seconds[name] = facts["seconds"]
        self.passes[name] = facts["forwards"], facts["backwards"]
        return rows, self.passes[name]

    def once_ahead(self, name: str, kind: type[R], fn: Callable[[], list[R]], *, model: Counted) -> None:
        """Offer work for `once` to processes that would wait meanwhile, see `unfooled.runs.ahead`."""
        self._offer(self._few(name, kind, fn, model))

    def part_ahead(self, name: str, fn: Callable[[], Rows], *, model: Counted | None = None) -> None:
        """Offer work for `part` to processes that would wait meanwhile."""
        self._offer(self._tensors(name, fn, model))

    def _offer(self, piece: _Piece[Any]) -> None:
        """Offer a piece that is not stored yet; a helper begins it at once."""
        if self.folder.store is not None and piece.read() is None:
            self.ahead.offer(piece.file, lambda: self._computed(piece) is not None)
            if self.start.check is not None:
                self.ahead.work()

    def _stored(self, piece: _Piece[T]) -> T:
        """Compute a piece, or wait for the process that computes it, and return what is stored."""
        while True:
            if (stored := self._computed(piece)) is not None or (stored := piece.read()) is not None:
                return stored
            self.folder.claims.pause()

    def _computed(self, piece: _Piece[T]) -> T | None:
        """Compute and store a piece; None where another process has it, or has begun it."""
        with self.folder.claims.claimed(piece.file) as mine:
            if not mine or piece.read() is not None:  # another process may have stored it meanwhile
                return None
            stored = piece.compute()
            self.clock.note_progress()
            return stored

    def _few(
        self, name: str, kind: type[R], fn: Callable[[], list[R]], model: Counted
    ) -> _Piece[tuple[list[R], tuple[int, int], float]]:
        """Return the piece of work that computes a few records."""
        file = f"chunks/{name}.json"

        def compute() -> tuple[list[R], tuple[int, int], float]:
            before, began = (model.forwards, model.backwards), time.perf_counter()
            records = fn()
            spent = model.forwards - before[0], model.backwards - before[1]
            rows = [record.model_dump(mode="json") for record in records]
            facts = {"forwards": spent[0], "backwards": spent[1], "seconds": time.perf_counter() - began}
            self.folder.store_json(file, {"records": rows, **facts})
            return records, spent, facts["seconds"]

        return _Piece(file, lambda: self._records(file, kind), compute)

    def _tensors(self, name: str, fn: Callable[[], Rows], model: Counted | None) -> _Piece[tuple[Rows, dict[str, Any]]]:
        """Return the piece of work that computes some tensors."""
        file = f"chunks/{name}.safetensors"

        def compute() -> tuple[Rows, dict[str, Any]]:
            timed = self._timed(fn, model)
            return self.folder.store_rows(file, *timed) or timed

        return _Piece(file, lambda: self.folder.read_rows(file, None), compute)

    def _timed(self, fn: Callable[[], Rows], model: Counted | None) -> tuple[Rows, dict[str, Any]]:
        """Compute tensors, and return them on the CPU with the passes and seconds that they took."""
        started, before = time.perf_counter(), _counts(model)
        # Clones: a stage may return one tensor under two names, which the file format refuses.
        rows = {k: v.detach().cpu().contiguous().clone() for k, v in fn().items()}
        forwards, backwards, calls = (now - then for now, then in zip(_counts(model), before, strict=True))
        seconds = time.perf_counter() - started
        return rows, {"forwards": forwards, "backwards": backwards, "calls": calls, "seconds": seconds}

    def _records(self, file: str, kind: type[R]) -> tuple[list[R], tuple[int, int], float] | None:
        """Read the records of an earlier start, and the passes and seconds that they took (0: not recorded)."""
        content = self.folder.read_json(file)
        try:
            records = [kind.model_validate(row) for row in content["records"]]
            passes = int(content["forwards"]), int(content["backwards"])
            return records, passes, float(content.get("seconds", 0.0))
        except (TypeError, KeyError, ValueError):
            return None

    def _advance(self, chunks: StageChunks, fn: Callable[[Tensor], Rows], model: Counted | None) -> bool:
        """Compute one unclaimed chunk, or wait for other processes; return whether there are new chunks."""
        rows = self.chunk if self.folder.store is None else self.pace.rows(chunks.stage, self.chunk)
        free = self._free(chunks, rows)
        if not free:
            self.folder.claims.pause()
            return chunks.find(again=True)
        a, b = free[0]
        if chunks.even:
            b = min(b, even_end(a, chunks.n, self.chunk, rows))
        with self.folder.claims.claimed(chunks.file(a, b)) as mine:
            if not mine:
                return False
            if chunks.arrived((a, b)):  # another process may have stored it meanwhile
                return True
            try:
                result, facts = self._timed(lambda: fn(torch.arange(a, b)), model)
            except Exception as error:
                if not self.start.retries(error):
                    raise
                self.failures.note(chunks.file(a, b), error)
                return False
            for name, value in result.items():
                if len(value) != b - a:
                    raise RuntimeError(f"stage {chunks.stage} returned {len(value)} rows of {name} for {b - a}")
            self.pace.record(chunks.stage, b - a, facts)
            chunks.store_chunk((a, b), result, facts)
            self.clock.note_progress()
        return True

    def _instead(self) -> bool:
        """Begin other work instead of waiting; a helper that nobody needs any more ends."""
        if self.start.check is not None:
            self.start.check()
        return self.ahead.work()

    def _free(self, chunks: StageChunks, rows: int) -> list[Span]:
        """Return the next part that may be computed now, and then the chunks that failed.

        Raises:
            BadInput: All that is missing has failed too often.
        """
        failed = self.failures.of(chunks.prefix)
        attempts = {span: errors for file, errors in failed.items() if (span := span_of(file)) is not None}
        claimed = chunks.claimed()
        free = list(islice(chunks.cover.missing(rows, claimed=[*claimed, *attempts]), 1))
        missing = [span for span in attempts if chunks.lacks(span)]
        careful = self.start.helped()  # a helper tries again what another one died of
        again = [
            (a, b)
            for a, b in missing
            if len(attempts[a, b]) < MAX_TRIES
            and not (careful and died(attempts[a, b]))
            and not any(a < high and low < b for low, high in claimed)
        ]
        if missing and not (free or claimed or again) and all(len(attempts[span]) >= MAX_TRIES for span in missing):
            raise too_often(stage_name(chunks.stage).description, [(span, attempts[span]) for span in missing])
        return [*free, *again]

    def _report_whole(self, name: str, done: int) -> None:
        if self.progress is not None:
            self.progress(name, done, 1)

    def _report(self, chunks: StageChunks) -> None:
        if self.progress is not None:
            self.progress(chunks.stage, chunks.cover.done, chunks.n)


def _counts(model: Counted | None) -> tuple[int, int, int]:
    """Return the forwards, backwards and calls of a model so far; 0 for none."""
    return (0, 0, 0) if model is None else (model.forwards, model.backwards, model.calls)


@dataclass(frozen=True)
class _Piece(Generic[T]):
    """Work that is one file: how it is read, None where it is missing, and how it is computed and stored."""

    file: str
    read: Callable[[], T | None]
    compute: Callable[[], T]
