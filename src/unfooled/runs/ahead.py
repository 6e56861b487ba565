"""Work that a process begins before its turn, when it would otherwise wait for other processes.

A stage ends when its last chunk is stored, and some work is one piece: the processes that have nothing to do then begin
pieces whose turn comes later, and whose result does not depend on the stage. A helper begins the first one at once, so
that a long piece, such as the training of a twin, lies beside the stages that the others compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Ahead:
    """Pieces of work that may be begun before their turn, by the names of their files.

    Attributes:
        pieces: Name -> function that computes and stores the piece, unless another process has begun it; it returns
            whether it did.
    """

    pieces: dict[str, Callable[[], bool]] = field(default_factory=dict)
    _busy: bool = field(default=False, init=False, repr=False)

    def offer(self, name: str, compute: Callable[[], bool]) -> None:
        """Add a piece."""
        self.pieces[name] = compute

    def take(self, name: str) -> None:
        """Remove a piece, whose turn it is."""
        self.pieces.pop(name, None)

    def clear(self) -> None:
        """Remove all pieces, which are not needed after all."""
        self.pieces.clear()

    def work(self) -> bool:
        """Compute the first piece that no other process has begun; return whether there was one."""
        while self.pieces and not self._busy:
            compute = self.pieces.pop(next(iter(self.pieces)))
            self._busy = True
            try:
                if compute():
                    return True
            finally:
                self._busy = False
        return False
