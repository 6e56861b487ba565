"""Text for a model card or a technical documentation, from the record of an audit; templates only.

Every sentence with a figure states its interval and number of samples. What an audit does not measure is listed, and
left to the author.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unfooled.core.access import Access
from unfooled.core.threat_text import parse_threat
from unfooled.evaluation.audit.records import Nearness, Summary
from unfooled.evaluation.checks.table import NEED_GRADIENTS
from unfooled.report.trust import Tone, tone
from unfooled.report.words import plural, threat_clause
from unfooled.statistics.distributions import light_beta_quantile
from unfooled.statistics.intervals import Estimate, Mean, share_of_hits

TO_FILL_IN = "*To be filled in by the author; an audit says nothing about it.*"
NORMS = {"linf": "the largest change of a value", "l2": "the Euclidean length", "l1": "the sum of changes",
         "l0": "the number of changed values"}  # fmt: skip
UNTOUCHED = (
    "Changes that no norm describes: rotation, scale, blur, weather, compression, patches, printed objects.",
    "Data that differ from those audited: another source, another time, other groups of people or things.",
    "Differences between groups; the figures are of all samples, and by class at most.",
    "Poisoned training data, backdoors, extraction of the model, and inference about its training data.",
    "The system around the model: how inputs reach it, what follows from its answers, and who checks them.",
)
"""What no audit tests."""


def evidence(summary: Summary, kind: str) -> str:
    """Return the text of a kind in `KINDS`, as Markdown."""
    return KINDS[kind](summary)


def model_card(s: Summary) -> str:
    """Return a model card: details and use to be filled in, the evaluation, its limits and its provenance."""
    return _joined(
        f"# Model card: {_plain(s.title)}",
        ("Model details", [f"Model: `{_plain(s.model)}`.", TO_FILL_IN]),
        ("Intended use", [TO_FILL_IN]),
        ("Evaluation data", [_data(s)]),
        ("Metrics", metrics(s)),
        ("Results", results(s)),
        ("Can the figures be believed?", belief(s)),
        ("Not tested", not_tested(s)),
        ("Ethical considerations", [TO_FILL_IN]),
        ("Provenance", provenance(s)),
    )


def annex_iv(s: Summary) -> str:
    """Return parts of a technical documentation, ordered as in Annex IV of Regulation (EU) 2024/1689."""
    return _joined(
        f"# Technical documentation, parts on accuracy and robustness: {_plain(s.title)}",
        ("Status of this text", [
            "Written from the record of an audit, in the order of Annex IV of Regulation (EU) 2024/1689. It covers the "
            "points below and no others, states what was measured, and makes no claim of conformity.",
        ]),
        ("1. General description of the system", [f"Model: `{_plain(s.model)}`.", TO_FILL_IN]),
        ("2 (a) to (f). Development, architecture, data, human oversight", [TO_FILL_IN]),
        ("2 (g). Validation and testing: data, metrics, results, test log",
         [_data(s), *metrics(s), *results(s), *provenance(s)]),
        ("2 (h). Cybersecurity measures: inputs made to mislead the model (Article 15(5))", [*belief(s), *_access(s)]),
        ("3. Capabilities and limits in performance, foreseeable sources of error", [*lowest_class(s), *not_tested(s)]),
        ("4. Appropriateness of the metrics", [
            "Robust accuracy is an upper bound of the share of samples that no allowed change could turn wrong; it "
            "falls with a stronger attack, and is only as good as the verdict beside it.",
            TO_FILL_IN,
        ]),
        ("5 to 9. Risk management, changes, standards, declaration, monitoring", [TO_FILL_IN]),
    )  # fmt: skip


KINDS: Mapping[str, Callable[[Summary], str]] = {"model-card": model_card, "annex-iv": annex_iv}
"""Name of a format -> its text."""


def metrics(s: Summary) -> list[str]:
    """Return what was measured, and how."""
    return [
        "Clean accuracy: share of the samples that are classified correctly.",
        "Robust accuracy: share that stays correct whatever an adversary does who may "
        f"{threat_clause(s.threat, 'sample')} (threat `{_plain(s.threat)}`), as far as could be told by the attack "
        f"{_plain(s.attack)}.",
        "Intervals are of 95 %, over another draw of as many samples from the same source.",
    ]


def results(s: Summary) -> list[str]:
    """Return the figures, one sentence each; robust accuracy is not stated where it cannot be believed."""
    sentences = [f"Clean accuracy is {figure(s.clean_accuracy)}."]
    if not s.trusted:
        verdict = s.verdict or "missing"
        return [
            *sentences, f"Robust accuracy is not stated, since the verdict on the attack is {verdict}.", *_proven(s)
        ]  # fmt: skip
    sentences += [f"Robust accuracy is at most {figure(s.robust_accuracy)}.", *_proven(s)]
    if s.robust_accuracy_8bit is not None:
        sentences.append(f"With the inputs rounded to 8 bits it is at most {figure(s.robust_accuracy_8bit)}.")
    points = [point for point in s.curve if point.eps > 0]
    sentences += [f"At a radius of {p.eps:.4g} accuracy is at most {figure(p.accuracy)}." for p in points]
    return [*sentences, *(_nearest(near) for near in s.nearest), *_explanations(s)]


def _proven(s: Summary) -> list[str]:
    """Return sentences on what is proven, of the model and of the smoothed classifier; none where no figure holds."""
    if tone(s) == Tone.VOID:
        return []
    sentences = []
    proven, m = s.certified_accuracy, s.smoothed
    if proven is not None and proven.value:
        sentences.append(f"By proof, it is at least {figure(proven)}.")
    if m is not None and m.certified_accuracy.value is not None:
        right = "classified as by the audited one" if s.labels_predicted else "right"
        sentences.append(
            f"The smoothed classifier, the majority under noise of size {m.size:g}, is another one: "
            f"{figure(m.certified_accuracy)} of the samples are {right} and proven, but for a probability of "
            f"{m.failure:g} each."
        )
    return sentences


def _nearest(near: Nearness) -> str:
    """Return a sentence on the distances of the nearest adversarial examples."""
    by = NORMS.get(near.norm, near.norm)
    found = f"Measured by {by}, an adversarial example was found for {figure(near.reached)}"
    low, median, high = ("none" if value is None else f"{value:.4g}" for value in near.quartiles)
    return f"{found}; the quartiles of its distance are {low}, {median} and {high} (n = {near.n:,})."


def _explanations(s: Summary) -> list[str]:
    """Return sentences on the explanations under attack."""
    point = None if s.reasons is None or s.reasons.skipped else s.reasons.at_eps()
    if s.reasons is None or point is None:
        return []
    text = f"Under an attack that keeps the label, {_plain(s.reasons.explanation)} maps keep a corrected LENS of "
    return [f"{text}{mean_figure(point.lens)}, where 1 is unmoved and 0 what an unrelated map scores."]


def lowest_class(s: Summary) -> list[str]:
    """Return a sentence on the class with the least accuracy under attack, among those with ten samples or more."""
    if not s.trusted or not s.confusion:
        return []
    rows = [(row[k], sum(row), k) for k, row in enumerate(s.confusion) if sum(row) >= 10]
    if not rows:
        return ["No class has ten samples, so that nothing is said by class."]
    right, n, k = min(rows, key=lambda row: row[0] / row[1])
    name = _plain(s.classes[k]) if k < len(s.classes) else str(k)
    lowest = share_of_hits(right, n, quantile=light_beta_quantile)
    return [f"Under attack the class with the lowest accuracy is {name}: at most {figure(lowest)}."]


def belief(s: Summary) -> list[str]:
    """Return the verdict, why, and what the checks found."""
    fired = [f for f in s.diagnostics if f.fired]
    sentences = [
        f"The verdict on the attack is {s.verdict or 'missing'}: {_plain(s.because) or 'no checks were made.'}"
    ]
    sentences.append(f"{len(fired)} of {plural(len(s.diagnostics), 'check')} found something.")
    then = {f.id: f" Then: {_plain(f.action)}." if f.action else "" for f in fired}
    return [*sentences, *(f"{f.id}: {_plain(f.detail)}.{then[f.id]}" for f in fired)]


def _access(s: Summary) -> list[str]:
    """Return a sentence on what the attack could use."""
    if s.access == Access.GRADIENTS:
        return ["The attack used the model's gradients, as an adversary does who has the model."]
    return [f"The attack used the model's {s.access} alone; an adversary who has the model itself may fool more."]


def not_tested(s: Summary) -> list[str]:
    """Return what was not tested, first what this audit left out, then what no audit tests."""
    norm = parse_threat(s.threat).norm
    others = [text for name, text in NORMS.items() if name != norm and name not in {near.norm for near in s.nearest}]
    sentences = [f"Other samples than these {s.n:,}, and other random numbers than those of seed {s.seed}."]
    largest = max((point.eps for point in s.curve), default=0.0)
    sentences.append(f"Changes beyond a radius of {largest:.4g}.")
    if others:
        sentences.append(f"Changes bounded by {'; '.join(others)}.")
    if s.access != Access.GRADIENTS:
        sentences.append("Attacks that use the model's gradients: they were not to be had.")
        sentences.append(f"Checks that need gradients: {', '.join(NEED_GRADIENTS)}.")
    if s.reasons is None or s.reasons.skipped:
        why = f" {_plain(s.reasons.skipped).capitalize()}." if s.reasons else ""
        sentences.append(f"Explanations under attack.{why}")
    sentences += [f"For want of time: {_plain(name)}." for name in s.left_out]
    return [*sentences, *UNTOUCHED]


def provenance(s: Summary) -> list[str]:
    """Return what the audit was made with."""
    e = s.environment
    made = f"Made on {_plain(s.created)} with unfooled {e.unfooled}, PyTorch {e.torch}, {e.platform}, on {e.device}."
    cost = f"The attack took {s.passes.forward:.1f} forward and {s.passes.backward:.1f} backward passes per sample."
    command = [f"Command: `{_plain(s.command)}`."] if s.command else []
    return [made, f"Seed {s.seed}. {cost}", *command]


def figure(e: Estimate) -> str:
    """Write a share with its interval and number of samples."""
    if e.value is None:
        return "not available (n = 0)"
    return f"{100 * e.value:.1f} % (95 % interval {100 * e.low:.1f} to {100 * e.high:.1f} %, n = {e.n:,})"


def mean_figure(m: Mean) -> str:
    """Write a mean with its interval and number of samples."""
    if m.value is None:
        return "not available (n = 0)"
    interval = "" if m.low is None or m.high is None else f"95 % interval {m.low:.2f} to {m.high:.2f}, "
    return f"{m.value:.2f} ({interval}n = {m.n:,})"


def _data(s: Summary) -> str:
    return f"{plural(s.n, 'sample')} of `{_plain(s.data)}`, {len(s.classes):,} classes."


def _plain(text: str) -> str:
    """Return text in which no Markdown takes effect."""
    return " ".join(text.split()).replace("`", "'").replace("<", "&lt;").replace("|", "/")


def _joined(title: str, *sections: tuple[str, list[str]]) -> str:
    """Join a title and sections, a list item per sentence."""
    parts = [title]
    for heading, sentences in sections:
        parts += [f"## {heading}", "\n".join(f"- {sentence}" for sentence in sentences or ["None."])]
    return "\n\n".join(parts) + "\n"
