"""Units of the attribution-robustness study: trained networks, and their explanations under attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unfooled.attacks import Search
from unfooled.attacks.ensembles.cascade import cascade
from unfooled.distances import as_maps, zero_share
from unfooled.drawing.figures import Picture
from unfooled.evaluation.explanations.judge import STATUSES, ExplanationVerdict, judge_explanation
from unfooled.evaluation.explanations.robustness import explanation_robustness
from unfooled.evaluation.verify import verify
from unfooled.explanations import integrated_gradients_with_gap
from unfooled.runs.units import Units
from unfooled.statistics.intervals import share
from unfooled.studies.attribution_robustness.looks import (
    LOOKS_AT,
    Look,
    kind_of,
    leaders,
    main_lens,
    objectives,
    scores_of,
)
from unfooled.studies.attribution_robustness.pictures import gallery
from unfooled.studies.attribution_robustness.records import HOW, OTHER, Network, Scores
from unfooled.studies.attribution_robustness.scale import AttributionScale, MapTask
from unfooled.studies.common.arms import ArmBench
from unfooled.studies.common.records import bits, listed
from unfooled.studies.common.run import StudyRun, map_jobs

Job = tuple[str, Look, float, int]
"""Network, explanation, share of the radius, number of images."""


def measure(
    task: MapTask, seed: int, size: AttributionScale, run: StudyRun, units: Units
) -> tuple[list[Network], list[Scores]]:
    """Compute all units of one data set and seed: train all networks, select the images, attack each network."""
    arms = [arm for arm in size.arms if not arm.once or seed == 0]
    place = f"{task.source}-{seed}"
    bench = ArmBench(
        task.training, arms, seed, train_n=size.train_n, folder=run.out, place=place, progress=run.progress
    )
    stage = f"{task.source}, seed {seed}"
    networks = map_jobs(
        units, f"{stage}: networks", Network, {f"{place}-{arm.name}": arm.name for arm in arms},
        partial(measure_network, bench, size),
    )  # fmt: skip
    marks = zip(*(n.correct for n in networks), strict=True)
    common = torch.tensor([all(mark == "1" for mark in image) for image in marks])
    jobs: dict[str, Job] = {
        f"{place}-{arm.name}-{name}-{fraction:g}": (arm.name, LOOKS_AT[name], fraction, n)
        for arm in arms
        for name, fraction, first, later in size.looks
        if (n := later if seed else first)
    }
    attack = partial(measure_scores, bench, task, size, common.nonzero()[:, 0])
    return networks, map_jobs(units, f"{stage}: explanations", Scores, jobs, attack)


def measure_network(bench: ArmBench, size: AttributionScale, name: str) -> Network:
    """Train a network, and measure its clean and robust accuracy."""
    net, threat = bench.network(name), bench.task.threat
    x, y = bench.test
    right = bench.labels(net, x) == y
    first = slice(0, min(size.robust_n, len(x)))
    z = cascade(net, x[first], y[first], threat, seed=bench.seed)
    stands = ~verify(net, x[first], y[first], z, threat).success
    return Network(
        data=bench.task.source, arm=name, seed=bench.seed, clean=share(right), robust=share(stands),
        correct=bits(right[: size.pool]), loss=str(bench.arms[name].loss(threat)),
        seconds=round(bench.seconds[name], 1),
    )  # fmt: skip


def measure_scores(bench: ArmBench, task: MapTask, size: AttributionScale, common: Tensor, job: Job) -> Scores:
    """Attack one network's explanations at one radius, and judge them.

    Candidates are ranked by one score of each kind, `leaders`; the other scores of a kind are computed at the
    point that its leader selects.

    Args:
        bench: Networks of one data set and seed.
        task: Data set of the bench.
        size: Sizes of the study.
        common: Positions of the test images that all networks classify correctly.
        job: Network, explanation, share of the radius, and number of images.
    """
    started = time.perf_counter()
    arm, look, fraction, n = job
    model, rows, threat = bench.network(arm), common[:n], task.threat.with_eps(fraction * task.eps)
    x, y = bench.test[0][rows], bench.test[1][rows]
    all_scores, lens = scores_of(task), main_lens(task)
    ranked = {name: all_scores[name] for name in leaders(task)}
    attacks = explanation_robustness(
        model, x, y, threat, look.attacked, scores=ranked, objectives=objectives(task),
        search=Search(size.attack_steps, restarts=look.restarts), generator=torch.Generator().manual_seed(bench.seed),
    )  # fmt: skip
    clean = as_maps(look.judged(model, x, y))
    values: dict[str, dict[str, list[float | None]]] = {}
    judged: dict[tuple[str, str], ExplanationVerdict] = {}
    for how, candidates in zip(HOW, (attacks.attack, attacks.best_of_n, attacks.random), strict=True):
        values[how] = {}
        for leader in ranked:
            kind = {name: score for name, score in all_scores.items() if kind_of(name) == kind_of(leader)}
            judged[how, leader] = judge_explanation(
                model, x, y, candidates.x_adv[leader], threat, look.judged, kind, clean=clean
            )
            values[how] |= {name: listed(v) for name, v in judged[how, leader].scores.items()}
    values[OTHER] = {name: listed(score(clean, clean.roll(1, 0))) for name, score in all_scores.items()}
    worst = judged["attack", lens]
    return Scores(
        data=task.source, arm=arm, seed=bench.seed, look=look.name, eps=float(threat.eps), n_random=attacks.n,
        indices=rows.tolist(), values=values, zero_share=listed(zero_share(clean, k=task.ks[-1])),
        status={how: [STATUSES[code] for code in judged[how, lens].status.tolist()] for how in HOW},
        output_change=listed(worst.output_change), gap=completeness_gap(model, x, y, look),
        forwards=attacks.attack.forwards / len(x), backwards=attacks.attack.backwards / len(x),
        explanations=attacks.attack.explanations / len(x), attack_seconds=round(attacks.attack.seconds, 3),
        seconds=round(time.perf_counter() - started, 3),
        picture=worst_cases(bench, task, rows, attacks.attack.x_adv[lens], look, worst, arm),
    )  # fmt: skip


def completeness_gap(model: nn.Module, x: Tensor, y: Tensor, look: Look) -> float | None:
    """Return the median relative completeness gap of the clean maps; None: the explanation is no path integral."""
    if look.name != "integrated gradients":
        return None
    return float(integrated_gradients_with_gap(model, x, y, steps=50).relative_gap.median())


def worst_cases(
    bench: ArmBench, task: MapTask, rows: Tensor, z: Tensor, look: Look, verdict: ExplanationVerdict, arm: str
) -> Picture | None:
    """Draw the eight images whose corrected LENS fell most; None: no image has one."""
    score = verdict.scores[f"{main_lens(task)}, corrected"].nan_to_num(nan=torch.inf)
    order = score.argsort(stable=True)[: min(8, int(score.isfinite().sum()))]
    if not len(order):
        return None
    model, x, y = bench.network(arm), bench.test[0][rows][order], bench.test[1][rows][order]
    maps = look.judged(model, x, y), look.judged(model, z[order], y)
    captions = [f"{bench.classes[int(k)]}: {float(s):.2f}" for k, s in zip(y, score[order], strict=True)]
    title = f"{task.source}, {arm}: the worst cases of {look.name}, corrected {main_lens(task)}"
    return gallery((x, z[order]), maps, captions, task.ks[-1], title)


def at_whole_radius(rows: Sequence[Scores], task: MapTask, look: str) -> dict[tuple[str, int], Scores]:
    """Return the rows of one data set and explanation at its whole radius, by network and seed."""
    return {(r.arm, r.seed): r for r in rows if r.data == task.source and r.look == look and r.eps == task.eps}
