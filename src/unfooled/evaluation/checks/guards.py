"""Checks of a model behind a purifier: was it attacked in every required way, and do these ways agree?

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramer, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from enum import StrEnum

from unfooled.core.threats import Threat
from unfooled.evaluation.checks.table import YIELD, CheckId, Finding, Kind, above, finding


class Way(StrEnum):
    """Way to attack a model behind a purifier; the values are the names in records."""

    STATIC = "static"
    IDENTITY = "bpda"
    LOW_PASS = "bpda-low-pass"
    END_TO_END = "end-to-end"
    ASSIGNMENT = "assignment"
    LOW_FREQUENCY = "low-frequency"
    BLACK_BOX = "black-box"
    DRAWS = "eot"
    ESTIMATED = "estimated"


NAMES: Mapping[Way, str] = {
    Way.STATIC: "static: points of the bare model",
    Way.IDENTITY: "BPDA, identity",
    Way.LOW_PASS: "BPDA, low-pass",
    Way.END_TO_END: "end-to-end: the cascade",
    Way.ASSIGNMENT: "assignment, then margin",
    Way.LOW_FREQUENCY: "low frequencies",
    Way.BLACK_BOX: "black box: Square",
    Way.DRAWS: "EOT, fresh draws",
    Way.ESTIMATED: "estimated gradients",
}
"""Way -> name on the page."""
WITHOUT_GRADIENTS = (Way.STATIC, Way.BLACK_BOX)
"""Ways that need no gradient of the purifier: where they fool more samples, its gradient is not to be trusted."""


def required(threat: Threat, *, clusters: bool, random: bool) -> tuple[Way, ...]:
    """Return the attacks without which there is no robust accuracy.

    Args:
        threat: Threat model; in L0 there is no random search and no attack in low frequencies.
        clusters: True: the purifier assigns inputs to clusters of at least two classes.
        random: True: the answers behind the purifier change from call to call.
    """
    ways = [Way.STATIC, Way.IDENTITY, Way.LOW_PASS, Way.END_TO_END]
    ways += [Way.ASSIGNMENT] if clusters else []
    ways += [Way.LOW_FREQUENCY, Way.BLACK_BOX] if threat.norm != 0 else []
    return (*ways, Way.DRAWS) if random else tuple(ways)


def judged_in_every_way(missing: Collection[str]) -> Finding:
    """Check D29: was the purifier attacked in every way that its robust accuracy needs?

    Args:
        missing: Names of the attacks that are missing.
    """
    if not missing:
        return finding(CheckId.GUARDED, False, "the purifier faced every attack that is asked for", "", 0, 0)
    return finding(
        CheckId.GUARDED, True, f"the purifier was judged without: {', '.join(missing)}",
        "robust accuracy is not stated; audit with an effort of the cascade", len(missing), 0,
    )  # fmt: skip


def ways_agree(beyond: Mapping[Way, float], counted: Mapping[Way, int]) -> Finding:
    """Check D30: do other attacks fool samples that the end-to-end attack does not?

    Args:
        beyond: Number of samples that this way fools and the end-to-end attack does not, by way.
        counted: Number of samples that this way was tried on, by way.
    """
    if not beyond:
        return finding(CheckId.THROUGH, False, "no other way through the purifier was tried")
    every = max(counted.values())
    # One of the few samples that a costly way was tried on says little.
    shares = {
        way: count / max(counted[way], 1) if count >= 2 or counted[way] == every else 0.0
        for way, count in beyond.items()
    }
    first = max(shares, key=lambda way: (shares[way], way in WITHOUT_GRADIENTS))
    blind = max((shares.get(way, 0.0) for way in WITHOUT_GRADIENTS), default=0.0)
    return above(
        CheckId.THROUGH, shares[first],
        f"{NAMES[first]}: fooled {math.ceil(beyond[first])} that the gradient did not"
        + f", of the first {counted[first]:,}" * (counted[first] < every),
        "gradients are not trusted: attacks that need none follow" if blind > YIELD else "the attack goes on",
        kind=Kind.MASKING if blind > YIELD else Kind.EXTEND,
    )  # fmt: skip
