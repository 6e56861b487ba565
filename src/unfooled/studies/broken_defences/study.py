"""Broken-defences study: does an audit tell 32 broken defences from nine honest networks?

Every defence is judged by `audit`, which does not know the defence. The true robust accuracy is found once by an attack
that knows it: the attack differentiates a twin without the obstacle, and `verify` judges its points on the defence
itself.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramèr, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.broken_defences.bench import DefenceBench
from unfooled.studies.broken_defences.cases import CASES, Case
from unfooled.studies.broken_defences.claims import claims, tables
from unfooled.studies.broken_defences.judging import Judge, Judgement, audited, passes_suite
from unfooled.studies.broken_defences.scale import SCALES, DefenceScale
from unfooled.studies.common.records import StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale

NAME, TITLE = "broken-defences", "Thirty-two broken defences and nine honest networks"


def run_broken_defences(
    scale: str | DefenceScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    judge: Judge | None = None,
    cases: Sequence[Case] = CASES,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Judge every case, find its true robust accuracy, and compare.

    Args:
        scale: "small" (digits), "medium" or "full" (MNIST, from the folder that UNFOOLED_DATA names); or your own
            sizes.
        out: Folder; a second start continues it. None: nothing is stored.
        seeds: Random seeds of networks and attacks; all cases are judged for each.
        judge: `(case, model, x, y, threat) -> judgement`; None: the audit.
        cases: Cases to be judged.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale, data that are not there, or a folder that holds other work.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, progress=progress, command=command)
    known = {case.key: case for case in cases}
    units = run.units({**size.settings(), "seeds": list(seeds), "cases": list(known)}, n=size.n)
    rows: list[Judgement] = []
    for seed in seeds:
        bench = DefenceBench(size, seed, folder=out, progress=progress)
        compute = partial(judge_case, bench, known, judge or partial(audited, seed=seed))
        stage = "defences" if len(seeds) == 1 else f"defences-seed-{seed}"
        rows += units.map(stage, Judgement, [f"seed-{seed}/{key}" for key in known], compute)
    return run.finish(defence_findings(rows, cases, several_seeds=len(seeds) > 1))


def judge_case(bench: DefenceBench, cases: Mapping[str, Case], judge: Judge, unit: str) -> Judgement:
    """Judge the case of a unit, "seed-0/KEY", and compare with the truth."""
    started, case = time.perf_counter(), cases[unit.partition("/")[2]]
    row = judge(case, *bench.subject(case))
    truth = None if case.kind == "refused" else bench.truth(case)
    done = {"seed": bench.seed, "truth": truth, "passed": passes_suite(row, case)}
    return row.model_copy(update=done | {"seconds": round(time.perf_counter() - started, 3)})


def defence_findings(rows: Sequence[Judgement], cases: Sequence[Case], *, several_seeds: bool) -> Findings:
    """Make tables and claims from the units alone."""
    notes = (
        f"{sum(r.passed for r in rows)} of {len(rows)} cases are judged as they should be.",
        "The truth is the robust accuracy under an attack that knows the defence, and so an upper bound, too.",
        "Intervals say how a share would vary with other defences of the same kind; the suite is a choice, not a "
        "sample.",
    )
    made = tables(rows, cases, several_seeds=several_seeds)
    return Findings(made, claims(rows, cases), notes, seconds=seconds_of(rows))
