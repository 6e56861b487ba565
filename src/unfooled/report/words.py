"""Numbers and verdicts as text for the report."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple

from unfooled.core.threat_text import Norm, parse_threat
from unfooled.evaluation.audit.guard_fields import Guard
from unfooled.evaluation.audit.records import OF_THE_VERDICT, Summary
from unfooled.report.trust import Tone, tone
from unfooled.statistics.intervals import Estimate, Mean

NOT_AVAILABLE = "not available"
MINUS = "\u2212"
THIN_SPACE = "\u202f"  # narrow space that does not break, between a number and its unit
EPSILON = "\u03b5"


def finite(*values: float | None) -> bool:
    """Return whether all values are given and finite."""
    return all(v is not None and math.isfinite(v) for v in values)


def plural(n: int, noun: str) -> str:
    """Count a noun: 1 image, 1,000 images."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def decimals(value: float, digits: int = 3) -> int:
    """Return the number of decimals, 0 to 6, that shows `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def number(value: float | None, places: int | None = None) -> str:
    """Write a number with three significant digits, or with `places` decimals."""
    if value is None or math.isnan(value):
        return NOT_AVAILABLE
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    places = decimals(value) if places is None else places
    text = f"{abs(value):,.{places}f}"
    return f"{MINUS}{text}" if value < 0 and float(text.replace(",", "")) else text


def signed(value: float, places: int) -> str:
    """Write a number with its sign, for differences."""
    text = number(value, places)
    return text if text.startswith(MINUS) or not value else f"+{text}"


def _places(n: int) -> int:
    return 2 if n >= 10_000 else 1


def percent(value: float | None, n: int = 0) -> str:
    """Write a share in percent; two decimals from ten thousand samples on."""
    return f"{number(value * 100, _places(n))}{THIN_SPACE}%" if value is not None and finite(value) else NOT_AVAILABLE


def between(low: float | None, high: float | None, places: int, unit: str = "") -> str:
    """Write an interval, "90.0 to 93.4 %"; empty where there is none."""
    if low is None or high is None or not finite(low, high):
        return ""
    return f"{number(low, places)} to {number(high, places)}{THIN_SPACE + unit if unit else ''}"


def estimate_interval(e: Estimate) -> str:
    """Write the 95 % interval of a share, in percent; empty where nothing was measured."""
    return between(e.low * 100, e.high * 100, _places(e.n), "%") if finite(e.value) else ""


def share_text(e: Estimate) -> str:
    """Write a share with its interval, "60.1 % [57.0 to 63.2 %]"."""
    interval = estimate_interval(e)
    return percent(e.value, e.n) + (f" [{interval}]" if interval else "")


def mean_text(m: Mean) -> str:
    """Write a mean with three significant digits."""
    return number(m.value)


def mean_interval(m: Mean) -> str:
    """Write the 95 % interval of a mean, with the decimals of the mean."""
    return between(m.low, m.high, decimals(m.value)) if m.value is not None and finite(m.value) else ""


def duration_text(seconds: float) -> str:
    """Write a duration: 42 s, 3 min 20 s, 2 h 5 min."""
    if not finite(seconds):
        return NOT_AVAILABLE
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def threshold_text(value: float | None, threshold: float | None) -> str:
    """Write the figure that decides a check, with its threshold; empty where there is none."""
    if value is None or not finite(value):
        return ""
    text = f"{value:.3g}".replace("-", MINUS)
    return f"{text}, limit {threshold:.3g}" if threshold is not None and finite(threshold) else text


def date_text(created: str) -> str:
    """Write an ISO time as "2026-05-03 14:22 UTC"; anything else as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if when.tzinfo else f"{when:%Y-%m-%d %H:%M}"


def threat_clause(threat: str, noun: str) -> str:
    """Return what the adversary may do, as a clause that follows "an adversary who may"."""
    parts = parse_threat(threat)
    of = "pixel" if noun == "image" else "value"
    article = "an" if noun[0] in "aeiou" else "a"
    if parts.radius is None:
        return f"act within the threat {threat}"
    clauses: dict[str, str] = {
        Norm.LINF: f"change every {of} by up to {parts.eps} of its range",
        Norm.L2: f"move {article} {noun} by a Euclidean length of up to {parts.eps}",
        Norm.L1: f"change the values of {article} {noun} by up to {parts.eps} in total",
        Norm.L0: f"replace up to {parts.eps} of the values of {article} {noun}",
        "l0-pixel": f"replace up to {parts.eps} of the pixels of {article} {noun}",
    }
    return clauses.get(parts.norm, f"act within the threat {threat}")


def change_phrase(threat: str, noun: str) -> str:
    """Return how much may be changed, as a phrase: "changes of at most 0.15 a pixel"."""
    parts = parse_threat(threat)
    if parts.radius is None:
        return f"changes within the threat {threat}"
    of = "pixel" if noun == "image" else "value"
    phrases: dict[str, str] = {
        Norm.LINF: f"changes of at most {parts.eps} a {of}",
        Norm.L2: f"changes of a Euclidean length of at most {parts.eps}",
        Norm.L1: f"changes of at most {parts.eps} in total",
        Norm.L0: f"changes of at most {parts.eps} {'value' if parts.radius == 1 else 'values'}",
        "l0-pixel": f"changes of at most {parts.eps} {'pixel' if parts.radius == 1 else 'pixels'}",
    }
    return phrases.get(parts.norm, f"changes within the threat {threat}")


EXACT = 1e-9  # points between both ends, below which they are one


class TwoSided(NamedTuple):
    """Robust accuracy from both sides: shares in percent, and words."""

    proven: float
    open: float
    label: str
    sentence: str
    meaning: str


def two_sided(s: Summary) -> TwoSided | None:
    """Return robust accuracy from certified to attacked; None if nothing was certified, or no figure holds."""
    certified, robust = s.certified_accuracy, s.robust_accuracy
    if certified is None or certified.value is None or robust.value is None or tone(s) == Tone.VOID:
        return None
    least, most = percent(certified.value, certified.n), percent(robust.value, s.n)
    proven, left = 100 * certified.value, 100 * (robust.value - certified.value)
    label = f"Robust accuracy from {least} (proven) to {most} (not broken)"
    ends = f"95 % interval {estimate_interval(certified)}, n = {certified.n:,}"
    if left < EXACT:
        sentence = f"Robust accuracy is {least} on these samples: every sample is either proven or broken ({ends})."
        meaning = "No attack can lower this figure, and no proof can raise it."
    else:
        sentence = f"Robust accuracy lies between {least}, proven ({ends}), and {most}, not broken."
        meaning = (
            f"The {left:.1f} points between them are open: no attack broke these samples, and no proof covers them. "
            "A stronger attack may lower the upper end, a longer certification may raise the lower end."
        )
        if proven < 1 and left > 10:
            meaning += " Nearly nothing is proven here, which is usual for networks that were not trained for proofs."
    if s.proofs_tried is not None and left >= EXACT:
        sentence = "Nothing is proven, which is usual for networks that were not trained for proofs."
        meaning = f"Little effort was made, on {s.proofs_tried} samples, in vain; --certify normal tries all."
    return TwoSided(proven, left, label, sentence, meaning)


class Outcomes(NamedTuple):
    """Numbers of samples: right under attack, fooled, without an answer under attack, wrong when clean."""

    right: int
    fooled: int
    unanswered: int
    wrong: int


def outcomes(s: Summary) -> Outcomes | None:
    """Return the numbers of samples by what the attack did to them; None where nothing was judged."""
    clean, robust = 1.0 if s.labels_predicted else s.clean_accuracy.value, s.robust_accuracy.value
    if clean is None or robust is None or not finite(clean, robust) or not s.n:
        return None
    right, unfooled = round(clean * s.n), round(robust * s.n)
    unanswered = round((s.no_answer.value or 0.0) * s.n) if s.no_answer is not None else 0
    return Outcomes(unfooled, max(0, right - unfooled - unanswered), unanswered, s.n - right)


def headline(s: Summary, noun: str) -> str:
    """Return the answer of an audit in one sentence on the model, the first that a reader sees."""
    counted, how = outcomes(s), tone(s)
    if how == Tone.VOID or counted is None or s.n == counted.wrong or (s.guard is not None and s.guard.missing):
        return verdict_sentences(s, noun)[0]
    if s.guard is not None and (first := _purifier_headline(s.guard, doubted=how == Tone.OVERSTATED)):
        return first
    right, changes = s.n - counted.wrong, change_phrase(s.threat, noun)
    among = plural(right, noun)
    if not counted.fooled:
        return f"Fooled on none of {among} by {changes}."
    least, more = ("at least ", ", and probably on more") if how == Tone.OVERSTATED else ("", "")
    share = f"all {among}" if counted.fooled == right > 1 else f"{counted.fooled:,} of {among}"
    return f"Fooled on {least}{share} by {changes}{more}."


def _purifier_headline(guard: Guard, *, doubted: bool) -> str:
    """Return what a purifier adds under the worst attack in one sentence; empty where it is not known.

    Args:
        guard: Record of the purifier.
        doubted: True: a stronger attack probably breaks more than was broken.
    """
    adds, worst, bare = guard.adds, guard.worst, guard.bare_robust
    if adds is None or worst is None or bare is None or None in (adds.value, adds.low, adds.high):
        return ""
    value, low, high = (100 * (v or 0.0) for v in (adds.value, adds.low, adds.high))
    ends = f"{percent(worst.value, worst.n)} against {percent(bare.value, bare.n)} without it"
    if guard.static is not None and guard.static.value is not None:
        ends += f"; points that do not know it leave {percent(guard.static.value, guard.static.n)}"
    if low > 0:
        most = "at most " if doubted else ""
        return f"The purifier adds {most}{value:.1f} points [{low:.1f} to {high:.1f}] under the worst attack: {ends}."
    if high < 0:
        least = "at least " if doubted else ""
        return (
            f"The purifier takes {least}{-value:.1f} points [{-high:.1f} to {-low:.1f}] under the worst attack: {ends}."
        )
    return (
        f"Whether the purifier helps or harms is undecided: {value:+.1f} points [{low:+.1f} to {high:+.1f}] under the "
        f"worst attack, {ends}."
    )


def verdict_sentences(s: Summary, noun: str) -> tuple[str, str]:
    """Return a sentence with the result and one with its limits; the wording depends on what the checks found."""
    counted, how = outcomes(s), tone(s)
    if s.guard is not None and s.guard.missing:
        return (
            f"Robust accuracy is {s.guard.not_stated}.",
            "Run the attacks that are missing, and audit again.",
        )
    if counted is None:
        return "Nothing was judged, so there is no verdict.", ""
    unfooled, fooled, unanswered, wrong = counted
    right = s.n - wrong
    bound = percent(s.robust_accuracy.value, s.n)
    if how == Tone.VOID:
        answers = (
            f"Of {plural(right, noun)} classified correctly, {unfooled:,} stayed right under attack, {fooled:,} became "
            f"wrong, and on {unanswered:,} the model gave no answer. "
        )
        return "There is no robust accuracy to report.", (answers if unanswered else "") + (
            f"The attack did not fool {unfooled:,} of {plural(s.n, noun)}. That count is struck out: a check found "
            "that it does not mean what it seems to mean. Remove the cause that is named above, and audit again."
        )
    if right == 0:
        return f"None of {plural(s.n, noun)} is classified correctly, so there was nothing to attack.", ""
    verb = "is" if right == 1 else "are"
    share = "none" if fooled == 0 else "all" if fooled == right else f"{fooled:,}"
    cut = [name for name in OF_THE_VERDICT if name in s.left_out]
    least = "at least " if how == Tone.OVERSTATED and fooled else ""
    opening = f"Of {plural(s.n, noun)}, {right:,} {verb} classified correctly"
    adversary = f"an adversary who may {threat_clause(s.threat, noun)}"
    if cut and unfooled:
        seconds = "" if s.budget is None else f", {duration_text(s.budget)},"
        before = cut[0] if len(cut) == 1 else f"{', '.join(cut[:-1])} and {cut[-1]}"
        return f"{opening}; when the time was over, {share} of those had been fooled by {adversary}.", (
            f"{bound} is not this model\u2019s robust accuracy: the time{seconds} was over before {before}. Do not "
            "quote it."
        )
    sentence = f"{opening}; {adversary} fools {least}{share} of those."
    if unfooled == 0:
        return sentence, "Every one of those examples was checked: inside the threat, and classified wrongly."
    if how == Tone.OVERSTATED:
        return sentence, (
            f"{bound} is not this model\u2019s robust accuracy: it is what an attack that the checks call too weak has "
            "left. Do not quote it."
        )
    both = two_sided(s)
    if both is not None and both.open < EXACT:
        return sentence, f"All others are proven: {bound} is exact for these {noun}s, and no attack can lower it."
    return sentence, (
        f"An attack that failed is no proof of robustness: {bound} is an upper bound, a stronger attack may lower it."
    )
