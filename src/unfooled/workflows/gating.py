"""Gates: bounds on an audit's figures, a baseline, and what became of them as rulings, JUnit and SARIF files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unfooled.certification.smoothed import NAME as SMOOTHING
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.runs.opening import Place
from unfooled.workflows.auditing import AuditOptions, audit
from unfooled.workflows.baselines import compared, read_baseline, write_baseline
from unfooled.workflows.bounds import Bound, read_bound
from unfooled.workflows.errors import BadOption, BelowBound
from unfooled.workflows.gate_files import junit, sarif
from unfooled.workflows.inputs import Inputs
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_file, open_out


class Ruling(NamedTuple):
    """What a gate says to one question."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Gate:
    """Conditions that an audit must meet, and files that say whether it did.

    Args:
        fail_under: Bounds, such as "robust_accuracy=0.4" or "robust_accuracy.low=0.4".
        baseline: Run folder or file that this run may not be worse than, by an exact paired test. None: none.
        write_baseline: JSON file to which the run is written as a baseline. None: none.
        junit: JUnit file, XML. None: none.
        sarif: SARIF file, JSON. None: none.
    """

    fail_under: Sequence[str] = ()
    baseline: Place | None = None
    write_baseline: str | Path | None = None
    junit: str | Path | None = None
    sarif: str | Path | None = None

    def check(self, out: Place | None, certify: str | None = None) -> list[Bound]:
        """Refuse conditions that cannot be judged, before anything is computed; return the bounds.

        Args:
            out: Run folder, its URL or open store. None: none.
            certify: Effort of the proofs of the audit, see `AuditOptions`. None: not known.

        Raises:
            BadInput: A bound, a baseline or a file that cannot be used.
        """
        bounds = [read_bound(text) for text in self.fail_under]
        proofless = certify == "off" or (certify or "").startswith(SMOOTHING)
        if proofless and any(bound.figure == "certified_accuracy" for bound in bounds):
            raise BadOption(
                "{certify:{0}} proves nothing of the model itself, so that no bound on certified_accuracy can hold; "
                "give {certify:quick} or more, or leave the bound out", certify,
            )  # fmt: skip
        if out is None and (self.baseline is not None or self.write_baseline is not None):
            raise BadOption("a baseline is of single samples, which the run folder holds; give {out:DIR}")
        if self.baseline is not None:
            read_baseline(self.baseline)
        files = {name: getattr(self, name) for name in ("write_baseline", "junit", "sarif")}
        places = {name: check_file(file, option=name).absolute() for name, file in files.items() if file is not None}
        for name, place in places.items():
            if other := next((o for o, p in places.items() if o != name and p == place), None):
                raise BadOption("{" + name + "} and {" + other + "} are both {0}; give each a file of its own", place)
        return bounds


def gate(summary: Summary, conditions: Gate, *, out: Place | None = None) -> list[Ruling]:
    """Judge an audit, and write the files that the gate asks for.

    Args:
        summary: Record of the audit.
        conditions: Conditions, and names of files.
        out: Run folder, its URL or open store; needed for a baseline.

    Returns:
        The rulings: on the verdict, on each bound, and on the baseline.

    Raises:
        BadInput: A condition that cannot be judged, such as a baseline of another threat.
    """
    rulings = [_on_verdict(summary)]
    rulings += [_on_bound(summary, bound) for bound in conditions.check(out)]
    if conditions.baseline is not None and out is not None and summary.trusted:
        passed, sentence = compared(read_baseline(out), read_baseline(conditions.baseline))
        rulings.append(Ruling("baseline", passed, sentence))
    if conditions.write_baseline is not None and out is not None:
        write_baseline(out, conditions.write_baseline)
    for option, file, text in (("junit", conditions.junit, junit), ("sarif", conditions.sarif, sarif)):
        if file is not None:
            path = check_file(file, option=option)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(summary, rulings), encoding="utf-8")
    return rulings


def enforce(rulings: Sequence[Ruling], conditions: Gate) -> None:
    """Refuse an audit that does not pass, if it was asked to pass anything.

    Raises:
        BelowBound: The first ruling that is not passed, in one sentence.
    """
    if not conditions.fail_under and conditions.baseline is None:
        return
    for ruling in rulings:
        if not ruling.passed:
            raise BelowBound(ruling.sentence)


def _on_verdict(summary: Summary) -> Ruling:
    """Judge the verdict: nothing passes that cannot be believed."""
    stands = "" if summary.trusted else ", so no figure passes"
    sentence = f"the verdict is {summary.verdict or 'not known'}{stands}. {summary.because}".rstrip()
    return Ruling("verdict", summary.trusted, sentence)


def _on_bound(summary: Summary, bound: Bound) -> Ruling:
    """Judge one bound."""
    name, value = f"{bound.figure}.{bound.end}", getattr(getattr(summary, bound.figure), bound.end, None)
    if value is None or value < bound.least:
        text = "not available" if value is None else f"{value:.4f}"
        return Ruling(f"{name} >= {bound.least:g}", False, f"{name} is {text}, below {bound.least:g}")
    return Ruling(f"{name} >= {bound.least:g}", True, f"{name} is {value:.4f}, at least {bound.least:g}")


def assert_robust(
    model: Any,
    data: Any,
    threat: str | Threat,
    at_least: float = 0.4,
    *,
    n: int | None = 100,
    end: str = "value",
    effort: str = "normal",
    options: AuditOptions | Plan | None = None,
    baseline: Place | None = None,
    seed: int = 0,
    out: Place | None = None,
) -> Summary:
    """Audit a model, and raise an AssertionError where its robust accuracy is too low or cannot be believed.

    Args:
        model: Model, or a source as `load_model` reads it.
        data: Samples and labels, (x, y), or a source as `load_data` reads it.
        threat: Constraint set, or text such as "linf:8/255".
        at_least: Lower bound of robust accuracy, in [0, 1].
        n: Number of samples; None: all.
        end: "value", or "low" for the lower end of the 95 % interval.
        effort: Name of an effort, such as "quick".
        options: Choices of the audit, or a `Plan`; they replace `effort`. None: no attack on explanations.
        baseline: Run folder or file that this run may not be worse than. None: none.
        seed: Random seed.
        out: Run folder or URL, with the page. None: none is kept.

    Returns:
        The `Summary`.

    Raises:
        AssertionError: The verdict is not trusted, a figure is too low, or worse than the baseline: one sentence.
        BadInput: Inputs that cannot be used.
    """
    conditions = Gate((f"robust_accuracy.{end}={at_least}",), baseline)
    chosen = options or AuditOptions(effort=effort, reasons="none")
    with tempfile.TemporaryDirectory(prefix="unfooled-") as place:
        run = open_out(Path(place) / "run" if out is None else out)
        assert run is not None
        conditions.check(run)
        summary = audit(Inputs(model, data, n=n), threat, options=chosen, out=run, seed=seed, machine=Machine("auto"))
        rulings = gate(summary, conditions, out=run)
    page = "" if out is None else f" (page: {run.place('report.html')})"
    try:
        enforce(rulings, conditions)
    except BelowBound as error:
        raise AssertionError(f"{error}{page}") from None
    return summary
