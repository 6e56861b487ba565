"""Attention study: are samples with incomplete attention easier to fool, and does ARP training resist attacks?

For each data set and seed the networks are trained at equal compute, then

    analysis     of the standard and the PGD-trained network: see `analysis`
    comparison   of all networks: see `recipes`, `judging` and `training_results`

A user's own network, with the user's own data, is only analysed: no network is trained.

References:
    Wu et al., Attention rectification and preservation (ARP), 2018, arXiv:1811.09831. Results are not compared with
    the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unfooled.drawing.figures import Picture
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.attention.analysis_claims import analysis_claims
from unfooled.studies.attention.analysis_tables import (
    analysis_pictures,
    movement_table,
    regression_table,
    state_table,
)
from unfooled.studies.attention.notes import notes
from unfooled.studies.attention.own import OwnNetwork, analyse_own
from unfooled.studies.attention.records import Analysed, Results, joined
from unfooled.studies.attention.scale import SCALES, AttentionScale
from unfooled.studies.attention.training_results import (
    comparison_picture,
    comparison_table,
    compute_table,
    faithfulness_table,
    training_claims,
)
from unfooled.studies.attention.units import measure
from unfooled.studies.common.records import Claim, StudySummary, Table
from unfooled.studies.common.run import Findings, StudyRun, pick_data, seconds_of
from unfooled.studies.common.scale import pick_scale

NAME, TITLE = "attention", "Attention that an attack cannot shift"


def run_attention(
    scale: str | AttentionScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    own: OwnNetwork | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train, analyse and compare networks, or analyse a user's own network.

    Seeds are independent of each other; more can be added to a folder later.

    Args:
        scale: "small" (shapes), "medium" (shapes and GTSRB; two cores) or "full" (more data, radii and arms; a GPU); or
            your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds of weights, training and attacks.
        data: Data sets to look at; None: all of the scale's. With `own` the one source, as `load_dataset` reads it.
        own: A user's own network, which is analysed; no network is trained. None: the scale's networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, missing data, data that do not fit the model, options of `own` without
            its model, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, progress=progress, command=command)
    if own is not None:
        run = replace(run, seeds=seeds[:1])
        return run.finish(attention_findings(analyse_own(run, own, data, size.analysis), size, run.seeds))
    sources = pick_data([task.source for task in size.tasks], data)
    arms = [arm.settings(size.tasks[0].threat) for arm in size.arms]
    units = run.units({**size.settings(), "arms": arms}, n=size.judging.n)
    tasks = [task for task in size.tasks if task.source in sources]
    results = joined([measure(task, seed, size, run, units) for task in tasks for seed in seeds])
    return run.finish(attention_findings(results, size, seeds))


def attention_findings(results: Results, size: AttentionScale, seeds: Sequence[int]) -> Findings:
    """Make tables, claims, notes and pictures from the stored results."""
    tables: dict[str, Table] = {}
    claims: list[Claim] = []
    pictures: list[Picture] = []
    for data in dict.fromkeys(row.data for row in results.analysed):
        rows = [row for row in results.analysed if row.data == data]
        asked, tests = _analysis(rows)
        claims += [*asked, *training_claims(results, data)]
        tables |= _tables(results, rows, size, tests)
        eps = next((row.eps for row in results.judged if row.data == data), 0.0)
        picture = comparison_picture(results, data, eps)
        pictures += [*([] if picture is None else [picture]), *analysis_pictures(_by_arm(rows))]
    if results.trained:
        tables["Networks at equal compute"] = compute_table(results)
    seconds = seconds_of(results.trained, results.analysed, results.judged, results.faithful)
    return Findings(tables, claims, notes(claims, results, seeds), pictures, seconds)


def _by_arm(rows: Sequence[Analysed]) -> list[Analysed]:
    """Return the rows grouped by network."""
    return [row for arm in dict.fromkeys(row.arm for row in rows) for row in rows if row.arm == arm]


def _analysis(rows: Sequence[Analysed]) -> tuple[list[Claim], Table]:
    """Return claims and tests of every network that is analysed."""
    claims: list[Claim] = []
    tests: Table = []
    for arm in dict.fromkeys(row.arm for row in rows):
        decided, lines = analysis_claims([row for row in rows if row.arm == arm])
        claims += decided
        tests += lines
    return claims, tests


def _tables(results: Results, rows: Sequence[Analysed], size: AttentionScale, tests: Table) -> dict[str, Table]:
    """Make all tables of one data set."""
    data, rows = rows[0].data, _by_arm(rows)
    tables = {}
    if results.judged:
        tables[f"{data}: training compared"] = comparison_table(results, data)
    if results.faithful:
        tables[f"{data}: does attention say what the network uses"] = faithfulness_table(results, data)
    return {
        **tables,
        f"{data}: clean attention": state_table(rows, size.radii),
        f"{data}: how far attention moves": movement_table(rows),
        f"{data}: attention beside the margin": regression_table(rows, size.radii),
        f"{data}: tests of the analysis": tests,
    }
