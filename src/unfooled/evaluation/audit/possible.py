"""Rules of what an audit's record may say: verdicts that follow from the checks, and texts that can be read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from unfooled.core.threat_text import Norm, parse_threat
from unfooled.evaluation.checks.table import Finding, Kind
from unfooled.evaluation.checks.verdict import LOW_ROBUST_ACCURACY, Trust, of_kind


def check_threat_text(threat: str) -> None:
    """Refuse a radius that is no number of at least 0, or a whole number for a count; other norms are a user's own.

    Raises:
        ValueError: The text is no threat.
    """
    parts = parse_threat(threat)
    if parts.norm not in (*Norm, "l0-pixel") or parts.eps == "per-sample":
        return
    radius = parts.radius
    if radius is None or not math.isfinite(radius) or radius < 0:
        raise ValueError(f"the threat is {threat!r}; a radius is a number, at least 0")


def check_class_names(classes: Sequence[str]) -> None:
    """Refuse class names of which more than 1 % are duplicates, as an audit does.

    Raises:
        ValueError: They are.
    """
    counts = Counter(classes)
    twice = len(classes) - len(counts)
    if twice > len(classes) // 100:  # long lists, such as ImageNet's, have a few
        name = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{twice + 1} or more of {len(classes)} classes share a name, such as {name!r}")


def check_verdict(verdict: str, findings: Sequence[Finding], clean: float | None, robust: float | None) -> None:
    """Refuse a verdict that does not follow from the checks that fired, see `conclude`.

    Args:
        verdict: One of `Trust`.
        findings: One finding per check.
        clean: Clean accuracy. None: not stated.
        robust: Robust accuracy. None: not stated.

    Raises:
        ValueError: It cannot be the verdict of such an audit.
    """
    trusted = Trust(verdict).trusted
    stop, masking = of_kind(findings, Kind.STOP), of_kind(findings, Kind.MASKING)
    if trusted and stop:
        raise ValueError(f"the verdict is {verdict}, although {', '.join(stop)} fired, after which no figure counts")
    late = [*masking, *of_kind(findings, Kind.ABSENT)]
    if robust is None or robust > LOW_ROBUST_ACCURACY:
        late += of_kind(findings, Kind.EXTEND)
    if verdict == Trust.SOUND and late:
        raise ValueError(f"the verdict is SOUND, although {', '.join(late)} fired")
    if trusted and clean == 0:
        raise ValueError(f"the verdict is {verdict}, although no clean sample is right")
