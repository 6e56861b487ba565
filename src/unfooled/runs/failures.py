"""Failed attempts at chunks, which the processes of one start try again, up to `MAX_TRIES` times.

An attempt fails when the chunk's function raises an error, which is noted in a file of its own, or when the process
dies, which leaves a claim. A chunk that has failed too often is left out; the others are computed, and then the run
stops with a sentence. The next start tries again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from unfooled.core.errors import BadInput, describe_error
from unfooled.core.model.calls import ModelFails
from unfooled.runs.claims import Claims
from unfooled.runs.store import Store

FOLDER = ".failures"
MAX_TRIES = 3
"""Attempts at a chunk in one start."""
DIED = "its process died"


@dataclass(frozen=True)
class Start:
    """The start that a process works for, where several processes share its work.

    Args:
        token: Identifier that the processes of the start share. Empty: the process works alone, and raises errors.
        helped: Function that says whether helpers are at work, who then try again what another one died of.
        check: Function of a helper that raises an error once nobody needs its help. None: the process is no helper.
    """

    token: str = ""
    helped: Callable[[], bool] = field(default=lambda: False)
    check: Callable[[], None] | None = None

    def retries(self, error: Exception) -> bool:
        """Return whether a chunk is tried again after an error; input that cannot be used is not."""
        return bool(self.token) and (isinstance(error, ModelFails) or not isinstance(error, BadInput))


ALONE = Start()


@dataclass(frozen=True)
class Failures:
    """The failed attempts of one start, by the names of chunks.

    Args:
        store: Store of the run. None: work in memory, whose errors are raised.
        claims: Claims of the run; those of processes that died are failed attempts.
        start: The start.
    """

    store: Store | None
    claims: Claims
    start: Start

    def note(self, name: str, error: Exception) -> None:
        """Note that an attempt at a chunk raised an error."""
        assert self.store is not None
        data = json.dumps({"name": name, "error": describe_error(error)}).encode()
        self.store.create_exclusive(f"{FOLDER}/{self.start.token}.{uuid.uuid4().hex}", data, durable=False)

    def of(self, prefix: str) -> dict[str, list[str]]:
        """Return what the attempts at chunks died of, for names with a prefix."""
        attempts: dict[str, list[str]] = {}
        if self.store is None or not self.start.token:
            return attempts
        for name in self.claims.deserted(self.start.token):
            attempts.setdefault(name, []).append(DIED)
        for file in self.store.list(FOLDER):
            if file.startswith(f"{FOLDER}/{self.start.token}."):
                try:
                    stored = json.loads(self.store.read(file) or b"")
                    attempts.setdefault(str(stored["name"]), []).append(str(stored["error"]))
                except (ValueError, KeyError, TypeError):
                    continue
        return {name: errors for name, errors in attempts.items() if name.startswith(prefix)}

    def clear(self) -> None:
        """Remove the notes of all starts, once nobody needs them."""
        for file in [] if self.store is None else self.store.list(FOLDER):
            self.store.remove(file)  # type: ignore[union-attr]


def died(attempts: Sequence[str]) -> bool:
    """Return whether a process died of a chunk."""
    return DIED in attempts


def too_often(stage: str, attempts: Iterable[tuple[tuple[int, int], list[str]]]) -> BadInput:
    """Return the error about chunks that have failed too often.

    Args:
        stage: Stage that the chunks belong to.
        attempts: Rows [a, b) of each, and what its attempts died of.
    """
    listed = list(attempts)
    parts = [f"rows {a} to {b - 1} ({errors[-1]})" for (a, b), errors in listed[:3]]
    more = f" and {len(listed) - 3} other parts" if len(listed) > 3 else ""
    return BadInput(
        f"{stage}: {', '.join(parts)}{more} failed {MAX_TRIES} times; everything else of this stage is stored, and the "
        "same command tries again"
    )
