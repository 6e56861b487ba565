"""Work that survives a kill: cut into chunks of samples, one whole file each, found again by the next start.

A stage is a function of a range of rows. Its result for rows [a, b) is the file `chunks/<stage>/<a>-<b>.safetensors`;
a second start reads what is there, whatever the chunk size was, and computes the rows that are missing. Decisions that
look at several samples are made between stages, on the whole result, so no verdict depends on the chunking.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.runs.files import write_whole
from unfooled.core.model.modes import Counted
from unfooled.runs.records import Config, R, read_record, write_record

Rows = dict[str, Tensor]
"""Results by name, each with one entry a row."""

Progress = Callable[[str, int, int], None]
"""(stage, rows done, rows in all); called at the start of a stage with what was found, then after each chunk."""


@dataclass
class Run:
    """A run folder, or a run in memory where `path` is None.

    Args:
        path: the folder; created if need be.
        config: what was asked; a folder that holds another configuration is refused.
        chunk: rows a file; a kill loses at most the chunk under way.
        progress: told what is done.
    """

    path: Path | None
    config: Config
    chunk: int = 100
    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise BadInput(f"chunk is {self.chunk}; it must be at least 1")
        if self.path is None:
            return
        file = self.path / "config.json"
        if file.exists():
            self._same(read_record(file, Config))
        else:
            write_record(file, self.config)

    def _same(self, before: Config) -> None:
        old, new = (
            before.model_dump(mode="json"),
            Config.model_validate_json(self.config.model_dump_json()).model_dump(),
        )
        for group in ("options", "fingerprint"):
            old |= {f"{group}: {k}": v for k, v in old.pop(group).items()}
            new |= {f"{group}: {k}": v for k, v in new.pop(group).items()}
        changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if changed:
            k = changed[0]
            more = f" (and {len(changed) - 1} more: {', '.join(changed[1:4])})" if len(changed) > 1 else ""
            raise BadInput(
                f"{self.path} holds another run: {k} was {old.get(k)!r}, now it is {new.get(k)!r}{more}; "
                "choose another --out, or remove that folder"
            )

    def map(self, stage: str, fn: Callable[[Tensor], Rows], n: int, *, model: Counted | None = None) -> Rows:
        """Compute a stage for rows 0 to n, chunk by chunk, keeping each.

        Args:
            stage: its name, also its folder's.
            fn: `(rows (b,) int64) -> {name: (b, ...)}`; must not depend on which rows come together.
            n: how many rows there are.
            model: counts the passes that the stage takes; kept with the chunks, so that a resumed run knows them all.

        Returns:
            The results of all rows, in order, on the CPU.
        """
        parts = dict(self._found(stage, n))
        done = sum(b - a for a, b in parts)
        if self.progress:
            self.progress(stage, done, n)
        for a, b in list(self._missing(sorted(parts), n)):
            started = time.perf_counter()
            before = (model.forwards, model.backwards) if model else (0, 0)
            # Clones: a stage may return one tensor under two names, which the file format refuses.
            result = {k: v.detach().cpu().contiguous().clone() for k, v in fn(torch.arange(a, b)).items()}
            for name, value in result.items():
                if len(value) != b - a:
                    raise RuntimeError(f"stage {stage} returned {len(value)} rows of {name} for {b - a}")
            spent = (model.forwards - before[0], model.backwards - before[1]) if model else (0, 0)
            result["_cost"] = torch.tensor([*spent, time.perf_counter() - started], dtype=torch.float64)
            self._keep(stage, a, b, result)
            parts[a, b] = result
            done += b - a
            if self.progress:
                self.progress(stage, done, n)
        ordered = [parts[key] for key in sorted(parts)]
        cost = torch.stack([p["_cost"] for p in ordered]).sum(0) if ordered else torch.zeros(3)
        self.passes[stage] = (int(cost[0]), int(cost[1]))
        self.seconds[stage] = float(cost[2])
        names = [k for k in ordered[0] if k != "_cost"] if ordered else []
        return {k: torch.cat([p[k] for p in ordered]) for k in names}

    def once(self, name: str, kind: type[R], fn: Callable[[], list[R]], *, model: Counted) -> list[R]:
        """Compute a few records, or find those of an earlier start: what was decided once is not decided again.

        The passes that the model took for them are kept with them.
        """
        file = self.path / "chunks" / f"{name}.json" if self.path is not None else None
        if file is not None and file.exists():
            kept = json.loads(file.read_text())
            self.passes[name] = (kept["forwards"], kept["backwards"])
            return [kind.model_validate(row) for row in kept["records"]]
        before = (model.forwards, model.backwards)
        found = fn()
        spent = self.passes[name] = (model.forwards - before[0], model.backwards - before[1])
        if file is not None:
            whole = {"records": [r.model_dump() for r in found], "forwards": spent[0], "backwards": spent[1]}
            write_whole(file, json.dumps(whole).encode())
        return found

    def _keep(self, stage: str, a: int, b: int, result: Rows) -> None:
        if self.path is not None:
            from safetensors.torch import save

            write_whole(self.path / "chunks" / stage / f"{a}-{b}.safetensors", save(result))

    def _found(self, stage: str, n: int) -> Iterator[tuple[tuple[int, int], Rows]]:
        """Chunks on disk that are whole and do not overlap."""
        if self.path is None:
            return
        from safetensors import SafetensorError
        from safetensors.torch import load

        end = 0
        files = sorted((self.path / "chunks" / stage).glob("*-*.safetensors"), key=lambda f: int(f.stem.split("-")[0]))
        for file in files:
            a, b = (int(part) for part in file.stem.split("-"))
            if a < end or b > n:
                continue
            try:
                result = load(file.read_bytes())
            except (OSError, SafetensorError):
                continue  # damaged: computed again
            end = b
            yield (a, b), result

    def _missing(self, have: list[tuple[int, int]], n: int) -> Iterator[tuple[int, int]]:
        start = 0
        for a, b in [*have, (n, n)]:
            for low in range(start, a, self.chunk):
                yield low, min(low + self.chunk, a)
            start = b
