"""Keys of the stages of an evaluation, and the ledger that counts their passes.

A key identifies a stage; its folder and its label are derived from the key, never parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.model.wrappers import Counted
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.progress import Progress
from unfooled.runs.records import Config, R
from unfooled.runs.stage_names import StageName


class Family(StrEnum):
    """Part of an evaluation whose passes are counted together. The values are names of folders."""

    CLEAN = "clean"
    CASCADE = "cascade"
    AUTOATTACK = "autoattack"
    NEAREST = "nearest"
    CHECKS = "diagnostics"
    JUDGE = "judge"
    EXPLAIN = "explain"
    EXPLANATIONS = "reasons"
    TWIN = "twin"
    PACE = "pace"
    """Time of the model's bare passes."""
    BARE = "bare"
    """Attack on the model without its purifier."""
    GUARD = "guard"
    """Attacks on a model behind a purifier, each by itself."""
    ABLATION = "ablation"
    """Attacks on a purifier's detectors, and on its choice of dictionaries."""
    SMOOTHED = "smoothed"
    """Majority of the model under noise."""


LEARNED = "learned"
"""End of the method of a stage in which a twin is learned; the other stages of its family are its parts."""
FIRST_PART = "clean"
"""End of the method of the first of these parts."""


@dataclass(frozen=True)
class StageKey:
    """Identity of a stage.

    Attributes:
        family: Part of the evaluation that the stage belongs to.
        method: Name of the method; empty if the family has one stage.
        number: Number of the stage, which is also the draw of its random numbers. None: it has no number.
        check: Id of the check that the stage belongs to; empty for none.
        part: Number of the part, for a stage that attacks its samples in several parts.
    """

    family: Family
    method: str = ""
    number: int | None = None
    check: str = ""
    part: int = 0

    @property
    def label(self) -> str:
        """Text in records and progress bars, such as "3-square"."""
        words = ("" if self.number is None else str(self.number), self.check, self.method, str(self.part or ""))
        return "-".join(word for word in words if word)

    @property
    def description(self) -> str:
        """Words for a progress bar, such as "attack, stage 4: square"."""
        work = replace(self, number=None, check="").label
        match self.family:
            case Family.CASCADE:
                number = self.number
                own = number is None or number in rng.Numbers.ATTACK
                stage = "" if number is None else f"stage {number + 1}: " if own else "continued: "
                return f"attack, {stage}{self.check}{'-' if self.check else ''}{work}"
            case Family.CHECKS:
                return f"check {self.check}: {work}" if self.check else f"checks, {work}"
            case Family.AUTOATTACK:
                return f"AutoAttack, {self.label}"
            case Family.BARE:
                return f"without the purifier, {work}"
            case Family.GUARD:
                return f"through the purifier, {work}"
            case Family.ABLATION:
                return f"parts of the purifier, {work}"
            case Family.NEAREST:
                return f"nearest points in {self.label}"
            case Family.EXPLANATIONS:
                return f"reasons under attack, {self.label}"
        return {
            Family.CLEAN: "clean samples", Family.JUDGE: "judging what was found", Family.EXPLAIN: "explanations",
            Family.SMOOTHED: "the smoothed classifier",
        }.get(self.family, f"{self.family} {self.label}".rstrip())  # fmt: skip

    @property
    def folder(self) -> StageName:
        """Name of the folder that holds the stage's chunks, such as "cascade-3-square", with the description."""
        return StageName("-".join(word for word in (self.family.value, self.label) if word), self.description)


@dataclass(frozen=True, eq=False)
class Ledger:
    """A run with the passes of each stage, shared by all stages of an evaluation.

    Attributes:
        run: Run that stores finished chunks.
        spent: Forwards and backwards of each stage, including those of earlier starts.
    """

    run: Run
    spent: dict[StageKey, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run | Ledger | None, n: int) -> Ledger:
        """Return a ledger of a run; None: of a run in memory with one chunk of `n` samples."""
        if isinstance(run, Ledger):
            return run
        config = Config(model="", data="", n=n, threat="", seed=0)
        return cls(run if run is not None else Run(None, config, chunk=max(n, 1)))

    def aside(self) -> Ledger:
        """Return a ledger with the same counts whose stages are kept in memory: a later start must not read them."""
        run = self.run
        return Ledger(Run(None, run.config, chunk=run.chunk, progress=run.progress), self.spent)

    def map(
        self,
        key: StageKey | str,
        fn: Callable[[Tensor], Rows],
        n: int,
        *,
        model: Counted | None = None,
        large: Collection[str] = (),
    ) -> Rows:
        """Compute a stage chunk by chunk, see `Run.map`; a string is the method of a cascade stage."""
        key = StageKey(Family.CASCADE, key) if isinstance(key, str) else key
        rows = self.run.map(key.folder, fn, n, model=model, large=large)
        self.spent[key] = self.run.passes[key.folder]
        return rows

    def once(self, key: StageKey, kind: type[R], fn: Callable[[], list[R]], *, model: Counted) -> list[R]:
        """Compute a few records, or read those of an earlier start, see `Run.once`."""
        records = self.run.once(key.folder, kind, fn, model=model)
        self.spent[key] = self.run.passes[key.folder]
        return records

    def part(self, key: StageKey, fn: Callable[[], Rows], *, model: Counted | None = None) -> Rows:
        """Compute some tensors, or read those of an earlier start, see `Run.part`."""
        rows, self.spent[key] = self.run.part(key.folder, fn, model=model)
        return rows

    def once_ahead(self, key: StageKey, kind: type[R], fn: Callable[[], list[R]], *, model: Counted) -> None:
        """Offer work for `once` to processes that would wait meanwhile, see `unfooled.runs.ahead`."""
        self.run.once_ahead(key.folder, kind, fn, model=model)

    def part_ahead(self, key: StageKey, fn: Callable[[], Rows], *, model: Counted | None = None) -> None:
        """Offer work for `part` to processes that would wait meanwhile."""
        self.run.part_ahead(key.folder, fn, model=model)

    def count_whole(self, key: StageKey, forwards: int) -> None:
        """Count the forwards of a finished stage whose parts were computed elsewhere, and are not read any more."""
        if replace(key, method=key.method.removesuffix(LEARNED) + FIRST_PART) not in self.spent:
            self.spent[key] = forwards, 0

    def passes(self, *families: Family) -> tuple[int, int]:
        """Return the total forwards and backwards of some families."""
        pairs = [pair for key, pair in self.spent.items() if key.family in families]
        return sum(f for f, _ in pairs), sum(b for _, b in pairs)

    def work(self, *families: Family) -> tuple[int, float]:
        """Return the total calls of the model, and seconds, of the stages of some families that are chunks."""
        names = [key.folder for key in self.spent if key.family in families]
        run = self.run
        return sum(run.calls.get(name, 0) for name in names), sum(run.seconds.get(name, 0.0) for name in names)

    def seconds(self, *families: Family) -> float:
        """Return the seconds of the stages of some families; all but the pace for none.

        The parts of a twin are part of the stage that it is learned in.
        """
        keys = (key for key in self.spent if key.family in families or (not families and key.family is not Family.PACE))
        whole = (key for key in keys if key.family is not Family.TWIN or key.method.endswith(LEARNED))
        return sum(self.run.seconds.get(key.folder, 0.0) for key in whole)

    def progress(self, key: StageKey, fooled: Tensor, *, taken: int = 0, closed: int = 0) -> Progress:
        """Return the progress after a stage.

        Args:
            key: Key of the stage; passes are its family's, and those of attacks through a purifier that go with it.
            fooled: Fooled samples, (n,) bool.
            taken: Number of samples that the stage attacked.
            closed: Number of samples that it fooled.
        """
        n = max(len(fooled), 1)
        forward, backward = self.passes(key.family, *([Family.GUARD] if key.family is Family.CASCADE else []))
        left = 1 - float(fooled.to(torch.float64).mean()) if len(fooled) else 0.0
        return Progress(
            stage=key.label, forward=forward / n, backward=backward / n, accuracy=left, taken=taken, closed=closed,
            method=key.method, check=key.check,
        )  # fmt: skip
