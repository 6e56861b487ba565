"""Attribution-robustness study: do explanations survive attacks, under scores corrected for chance?

For each data set and seed every network is trained, and its explanations of the first test images that all networks
classify correctly are attacked. Baselines are the best of as many random points as the attack took explanations, a
single random point, and the map of another image. All are judged on the true network and the true explanation. What
decides the claims is fixed in `claims`.

References:
    Kamath, Mittal, Kumar, Balasubramanian, Rethinking robustness of model attributions, AAAI 2024, arXiv:2312.10534.
    Chen et al., Robust attribution regularization, NeurIPS 2019, arXiv:1905.09957.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.core.threat_text import eps_text
from unfooled.drawing.figures import Picture
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.attribution_robustness.claims import claims_of_noise, claims_of_training
from unfooled.studies.attribution_robustness.looks import LOOKS_AT, shown_scores
from unfooled.studies.attribution_robustness.pictures import bars, curves
from unfooled.studies.attribution_robustness.records import HOW, OTHER, Network, Pool, Scores
from unfooled.studies.attribution_robustness.scale import SCALES, AttributionScale, MapTask
from unfooled.studies.attribution_robustness.tables import networks_table, scores_table
from unfooled.studies.attribution_robustness.units import at_whole_radius, measure
from unfooled.studies.common.records import Claim, StudySummary, Table
from unfooled.studies.common.run import Findings, StudyRun, pick_data, seconds_of
from unfooled.studies.common.scale import pick_scale

NAME, TITLE = "attribution-robustness", "Do the reasons survive?"


def run_attribution_robustness(
    scale: str | AttributionScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train every network, attack its explanations, and compare.

    Seeds are independent of each other: a folder may be given more of them later, and two starts may work on different
    ones at the same time.

    Args:
        scale: "small" (digits), "medium" (MNIST, Fashion-MNIST and GTSRB, from the folder that UNFOOLED_DATA names; two
            cores) or "full" (the same at published sizes; a GPU); or your own sizes.
        out: Folder; a second start continues it. None: nothing is stored.
        seeds: Random seeds of weights, training and attacks; arms marked "once" are trained only for seed 0.
        data: Data sets to look at; None: all of the scale's.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder that holds other work.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, progress=progress, command=command)
    known = {task.source: task for task in size.tasks}
    tasks = [known[source] for source in pick_data(list(known), data)]
    arms = [arm.settings(size.tasks[0].threat) for arm in size.arms]
    units = run.units({**size.settings(), "arms": arms}, n=size.n)
    networks: list[Network] = []
    rows: list[Scores] = []
    for task in tasks:
        for seed in seeds:
            trained, scores = measure(task, seed, size, run, units)
            networks += trained
            rows += scores
    return run.finish(attribution_findings(networks, rows, tasks, seeds))


def attribution_findings(
    networks: Sequence[Network], rows: Sequence[Scores], tasks: Sequence[MapTask], seeds: Sequence[int]
) -> Findings:
    """Make tables, claims and pictures from the units alone."""
    tables: dict[str, Table] = {"Networks": networks_table(networks)}
    claims: list[Claim] = []
    pictures: list[Picture] = []
    for task in tasks:
        for look in LOOKS_AT:
            pool = Pool(task, look, at_whole_radius(rows, task, look))
            if not pool.rows:
                continue
            for how in (*HOW, OTHER):
                tables[f"{task.source}, {look}, eps {eps_text(task.eps)}: {how}"] = scores_table(pool, how)
            claims += claims_of_noise(pool) + claims_of_training(pool, networks)
            pictures += [bars(pool, shown_scores(task))]
            against = curves(task, rows, shown_scores(task), look)
            pictures += [] if against is None else [against]
            worst = [r.picture for (_, seed), r in pool.rows.items() if seed == seeds[0]]
            pictures += [picture for picture in worst if picture is not None]
    return Findings(tables, claims, NOTES, pictures, seconds_of(rows, networks))


NOTES = (
    "A score is 1 where nothing moved. Corrected, 0 is what an unrelated map of scattered pixels scores; raw LENS has "
    "another floor for every map, so raw values of two networks cannot be compared.",
    "Corrected scores are 0 for scattered pixels; maps of one network resemble each other more than that, so the level "
    "to which an attack could bring them is that of another image.",
    "Means are over the images whose explanation was attacked; an attack that found nothing is counted as failed and "
    "is never a 1. All networks of a seed are judged on the same images, the first that all of them classify rightly.",
    "Attack and random points are ranked by one score of each kind, at the largest k and smallest w: top-k, diverse "
    "top-k, LENS, diverse LENS, tau. Other scores are read at the point that the one of their kind chose.",
    "A network's gain is at the worst point that attack or random points found: an attack that chance beats shows no "
    "robustness.",
    "Intervals are bootstraps over images, those of differences paired by image; an image looked at on several seeds "
    "is drawn with all of them and counts once in n. The spread between seeds is to be read off the rows: three seeds "
    "carry no interval.",
    "Networks, budgets and steps are smaller than published: no row here reproduces a row of the sources' tables.",
)
