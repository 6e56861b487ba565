"""An audit's gate as JUnit XML and as SARIF 2.1.0, for what shows tests and findings beside code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

from unfooled._version import __version__
from unfooled.core.errors import printable
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import CHECKS, Kind

LEVELS = {Kind.STOP: "error", Kind.MASKING: "warning"}
"""Kind of a check -> level of its finding in SARIF; the others are notes."""
GATE = "gate"
"""Id of the rule of what a gate refuses."""


def junit(summary: Summary, rulings: Iterable[tuple[str, bool, str]]) -> str:
    """Return a JUnit test suite: one test for each ruling, a failure where it is not passed.

    Args:
        summary: Record of the audit.
        rulings: (name, passed, sentence) of each.
    """
    rulings = list(rulings)
    failures = str(sum(not passed for _, passed, _ in rulings))
    suite = ElementTree.Element(
        "testsuite", name=printable(f"unfooled {summary.title}"), tests=str(len(rulings)), failures=failures,
        errors="0", time=f"{summary.seconds:.3f}", timestamp=summary.created.partition("+")[0],
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts(summary).items():
        ElementTree.SubElement(properties, "property", name=name, value=printable(str(value)))
    for name, passed, sentence in rulings:
        case = ElementTree.SubElement(suite, "testcase", classname=printable(f"unfooled.{summary.title}"), name=name)
        if not passed:
            ElementTree.SubElement(case, "failure", message=printable(sentence))
        ElementTree.SubElement(case, "system-out").text = printable(sentence)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def sarif(summary: Summary, rulings: Iterable[tuple[str, bool, str]]) -> str:
    """Return a SARIF log: the checks that fired, and the rulings that were not passed.

    Args:
        summary: Record of the audit.
        rulings: (name, passed, sentence) of each.
    """
    fired = [f for f in summary.diagnostics if f.fired]
    results = [
        _result(f.id, LEVELS.get(f.kind, "note"), f"{f.detail}; {f.action}".rstrip("; "), summary) for f in fired
    ]
    refused = [(name, sentence) for name, passed, sentence in rulings if not passed]
    results += [_result(GATE, "error", f"{name}: {sentence}", summary) for name, sentence in refused]
    ids = [*dict.fromkeys(f.id for f in fired), *([GATE] if refused else [])]
    driver = {"name": "unfooled", "version": __version__, "rules": [_rule(id_) for id_ in ids]}
    run = {"tool": {"driver": driver}, "results": results, "properties": facts(summary)}
    log = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1) + "\n"


def facts(summary: Summary) -> dict[str, Any]:
    """Return what an audit measured, by name."""
    robust, clean = summary.robust_accuracy, summary.clean_accuracy
    return {
        "model": summary.model, "data": summary.data, "n": summary.n, "threat": summary.threat, "seed": summary.seed,
        "attack": summary.attack, "access": summary.access, "verdict": summary.verdict,
        "clean_accuracy": clean.value, "robust_accuracy": robust.value, "robust_accuracy.low": robust.low,
        "robust_accuracy.high": robust.high,
        "certified_accuracy": None if summary.certified_accuracy is None else summary.certified_accuracy.value,
    }  # fmt: skip


def _rule(id_: str) -> dict[str, Any]:
    title = CHECKS[id_].title if id_ in CHECKS else "robustness gate"
    return {"id": id_, "name": title, "shortDescription": {"text": title}}


def _result(rule: str, level: str, text: str, summary: Summary) -> dict[str, Any]:
    location = {"physicalLocation": {"artifactLocation": {"uri": _place(summary.model)}}}
    return {
        "ruleId": rule, "level": level, "message": {"text": f"{summary.title}: {text}"}, "locations": [location],
        "partialFingerprints": {"model/rule": f"{summary.model}/{summary.threat}/{rule}"},
    }  # fmt: skip


def _place(model: str) -> str:
    """Return the file of a model, relative to the current directory; "unfooled" where it is none."""
    name = model.rpartition(":")[0] if ".py:" in model else model
    path = PurePath(name)
    if path.is_absolute():
        try:
            path = path.relative_to(Path.cwd())
        except ValueError:
            return "unfooled"
    return path.as_posix() if Path(path).is_file() else "unfooled"
