"""Table of the checks: subject, consequence and threshold of each.

    before   the model's answers and gradients on a few samples: D2 to D9, D19 to D22, D27; the labels of all: D26
    after    samples that other attacks still fool: D6, D11 to D16, D18, D19, D28; the points found: D27
    guards   a model behind a purifier: D29, D30
    points   properties of the points themselves: D3, D10, D17, D20, D22 to D24
    verdict  SOUND, EXTENDED, OVERSTATED or NOT EVALUABLE (D25)

A new check takes a row here, a function in `before` or `after`, and a row in the documentation of the checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import model_validator

from unfooled.runs.records import Record

NEED_GRADIENTS = ("D5", "D6", "D7", "D9", "D19", "D27")
"""Checks that compare answers with gradients, or decide which gradients are followed; left out for black boxes."""


class Kind(StrEnum):
    """Kind of a check: the consequence when it fires."""

    MEND = "mend"
    """A remedy is known and was applied."""
    EXTEND = "extend"
    """The attack was too short, and goes on."""
    MASKING = "masking"
    """Gradients are hidden or wrong; attacks that need none follow."""
    ABSENT = "absent"
    """No gradient is to be had of a black box; attacks that need none follow."""
    STOP = "stop"
    """No figure can be believed."""


@dataclass(frozen=True)
class Check:
    """A row of the table.

    Attributes:
        kind: Consequence when it fires, unless a finding states another.
        title: Subject of the check.
        limit: Threshold above which it fires. NaN: it has none, or one that depends on the run.
        hides: True if it shows that the model's own gradient is of no use.
    """

    kind: Kind
    title: str
    limit: float = math.nan
    hides: bool = False


class CheckId(StrEnum):
    """Ids of the checks, for code that asks for a certain one."""

    MODE = "D1"
    PREPROCESSING = "D2"
    OUTPUTS = "D3"
    STEADY = "D4"
    JUMPS = "D5"
    VANISHING = "D6"
    LYING = "D7"
    MISSING = "D8"
    ROUGH = "D9"
    TWICE = "D10"
    STEPS = "D11"
    RESTARTS = "D12"
    ONE_STEP = "D13"
    SEARCH = "D14"
    TWIN = "D15"
    RANDOM = "D16"
    NEAREST = "D17"
    WHOLE_BOX = "D18"
    SATURATED = "D19"
    MEMORY = "D20"
    TIES = "D21"
    REFUSALS = "D22"
    EIGHT_BIT = "D23"
    CERTIFICATES = "D24"
    AGREEMENT = "D26"
    DECOY = "D27"
    LABELS = "D28"
    GUARDED = "D29"
    THROUGH = "D30"


YIELD = 0.002
"""Share of all samples that a further attack may fool without a finding."""
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        CheckId.MODE: Check(Kind.STOP, "mode and types"),
        CheckId.PREPROCESSING: Check(Kind.STOP, "preprocessing", 0.05),
        CheckId.OUTPUTS: Check(Kind.MEND, "form of the outputs", 32),
        CheckId.STEADY: Check(Kind.MEND, "steady answers"),
        CheckId.JUMPS: Check(Kind.MASKING, "jumps of the loss", 0.05, hides=True),
        CheckId.VANISHING: Check(Kind.MASKING, "vanishing gradients", 0.05, hides=True),
        CheckId.LYING: Check(Kind.MASKING, "gradients that lie", 0.1, hides=True),
        CheckId.MISSING: Check(Kind.MASKING, "missing gradients", hides=True),
        CheckId.ROUGH: Check(Kind.EXTEND, "rough loss", 0.1),
        CheckId.TWICE: Check(Kind.STOP, "same answer twice", YIELD),
        CheckId.STEPS: Check(Kind.EXTEND, "more steps", YIELD),
        CheckId.RESTARTS: Check(Kind.EXTEND, "more restarts", YIELD),
        CheckId.ONE_STEP: Check(Kind.MASKING, "one step, or noise", YIELD),
        CheckId.SEARCH: Check(Kind.EXTEND, "search without gradients", YIELD),
        CheckId.TWIN: Check(Kind.MASKING, "points made on a twin", YIELD),
        CheckId.RANDOM: Check(Kind.MASKING, "random points", YIELD),
        CheckId.NEAREST: Check(Kind.EXTEND, "nearest points", YIELD),
        CheckId.WHOLE_BOX: Check(Kind.MASKING, "anything allowed", 0.1),
        CheckId.SATURATED: Check(Kind.MEND, "saturated loss", 0.05),
        CheckId.MEMORY: Check(Kind.STOP, "memory of queries", 0.02),
        CheckId.TIES: Check(Kind.MEND, "few or tied logits", 1e-6),
        CheckId.REFUSALS: Check(Kind.STOP, "refusals", 0.0),
        CheckId.EIGHT_BIT: Check(Kind.MEND, "8-bit images", 0.01),
        CheckId.CERTIFICATES: Check(Kind.STOP, "certificates", 0),
        CheckId.AGREEMENT: Check(Kind.STOP, "agreement with the labels", 0.02),
        CheckId.DECOY: Check(Kind.MASKING, "labels and scores", 0.08, hides=True),
        CheckId.LABELS: Check(Kind.MASKING, "labels only", YIELD),
        CheckId.GUARDED: Check(Kind.STOP, "attacks through the purifier", 0),
        CheckId.THROUGH: Check(Kind.MASKING, "stand-ins for the purifier", YIELD),
    }
)
"""Id -> check."""


class Finding(Record):
    """Result of a check.

    Attributes:
        id: Id of the check, D1 to D24 and D26 to D30.
        kind: Consequence where it fired. Not given, as in records of version 0.1: that of the table.
        fired: True if something was found.
        detail: Observation, in words.
        action: Remedy that was applied; empty where nothing fired.
        value: Figure that decides. None: there is none.
        threshold: Threshold of that figure. None: there is none.
    """

    id: str
    kind: Kind = Kind.MEND
    fired: bool
    detail: str
    action: str
    value: float | None = None
    threshold: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_kind(cls, fields: Any) -> Any:
        """Add the kind from the table, where none is given."""
        if not isinstance(fields, dict) or "kind" in fields:
            return fields
        check = CHECKS.get(str(fields.get("id")))
        return {**fields, "kind": check.kind if check is not None else Kind.MEND}


def finding(
    check: str,
    fired: bool,
    detail: str,
    action: str = "",
    value: float | None = None,
    threshold: float | None = None,
    *,
    kind: Kind | None = None,
) -> Finding:
    """Return a finding; an action belongs only to one that fired.

    Args:
        check: Id of the check.
        fired: True if something was found.
        detail: Observation, in words.
        action: Remedy that is applied.
        value: Figure that decides. None: there is none, like a value that is not finite.
        threshold: Threshold of that figure. None: there is none.
        kind: Consequence. None: that of the table.
    """
    return Finding(
        id=check,
        kind=CHECKS[check].kind if kind is None else kind,
        fired=bool(fired),
        detail=detail,
        action=action if fired else "",
        value=value if value is not None and math.isfinite(value) else None,
        threshold=threshold,
    )


def above(
    check: str, value: float, detail: str, action: str, *, limit: float | None = None, kind: Kind | None = None
) -> Finding:
    """Return the finding of a check that fires where a figure is above its threshold.

    Args:
        check: Id of the check.
        value: Figure that decides.
        detail: Observation, in words.
        action: Remedy that is applied.
        limit: Threshold. None: that of the table.
        kind: Consequence. None: that of the table.
    """
    limit = CHECKS[check].limit if limit is None else limit
    return finding(check, value > limit, detail, action, value, limit, kind=kind)
