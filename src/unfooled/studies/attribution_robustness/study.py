"""Do the reasons survive? Attribution robustness of networks trained for it, under scores corrected for chance.

For each data set and seed every network is trained; the first test images that all of them classify rightly are
explained by each, and attacked; beside the attack stand the best of as many random points as it took explanations, a
single random point, and the map of another image. Judged on the true network and the true explanation.

What is asked of the sources, in figures that are fixed here:

    looks    share of the attack's drop that one random point reaches, (1 - mean random) / (1 - mean attack)
    mends    that share is smaller under a score with locality or diversity than under top-k
    gains    mean score of a network under attack minus the plain network's

References:
    Kamath, Mittal, Kumar, Balasubramanian, Rethinking robustness of model attributions, AAAI 2024, arXiv:2312.10534.
    Chen et al., Robust attribution regularization, NeurIPS 2019, arXiv:1905.09957.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.attacks import Search, kendall_surrogate, out_of_lens, out_of_top_k
from unfooled.attacks.ensembles.cascade import cascade
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.core.errors import BadInput
from unfooled.core.types import Explain
from unfooled.distances import (
    as_maps,
    chance,
    corrected,
    diverse_intersection,
    either_nonzero,
    kendall,
    lens_kendall,
    lens_recall,
    top_k_intersection,
    zero_share,
)
from unfooled.drawing.figures import Picture
from unfooled.evaluation.explanations.judge import (
    STATUSES,
    ExplanationVerdict,
    explanation_robustness,
    judge_explanation,
)
from unfooled.evaluation.verify import verify
from unfooled.explanations import integrated_gradients, integrated_gradients_with_gap, saliency
from unfooled.runs.chunks import Progress
from unfooled.runs.records import Config, Environment, write_record
from unfooled.runs.units import Units, chosen, filed
from unfooled.statistics import intervals
from unfooled.studies.attribution_robustness.figures import Pair, average, drop_share, paired, share_gap, text
from unfooled.studies.attribution_robustness.networks import SCALES, Bench, Scale, Task
from unfooled.studies.attribution_robustness.pictures import bars, curves, gallery
from unfooled.studies.attribution_robustness.records import Network, Pool, Scores
from unfooled.studies.common.figures import claim
from unfooled.studies.common.records import Claim, StudySummary, array, listed

NAME, TITLE = "attribution-robustness", "Do the reasons survive?"
LENS, RAR = "Kamath et al. 2024, arXiv:2312.10534", "Chen et al. 2019, arXiv:1905.09957"
PLAIN = "natural"
HOW = ("attack", "best of N", "random")
OTHER = "another image"
"""Beside the perturbations: the clean map of the next image. Maps of one network resemble each other."""
LOOKS = 0.5
"""From this share of the attack's drop on, a random point looks like a strong attack."""
ACCURACY, TAU, CORRECTED = 0.02, 0.2, 0.15
"""What a network may lose in clean accuracy, and must gain in Kendall's tau or in corrected LENS."""


@dataclass(frozen=True)
class Look:
    """An explanation, how it is attacked and how it is judged.

    Attributes:
        name: what tables call it.
        judged: the true explanation.
        attacked: the one that is differentiated and that ranks candidates; cheaper, where it may be.
        restarts: of each objective.
    """

    name: str
    judged: Explain
    attacked: Explain
    restarts: int = 1


LOOKS_AT = {
    "saliency": Look("saliency", saliency, saliency),
    "integrated gradients": Look(
        "integrated gradients", partial(integrated_gradients, steps=50), partial(integrated_gradients, steps=8)
    ),
}


def objectives(task: Task) -> tuple[MapObjective, ...]:
    """What the attack maximises, one after the other: one for each kind of score."""
    k, w = task.ks[-1], task.ws[0]
    return out_of_top_k(k), out_of_lens(k, w), out_of_lens(k, w, diverse=True), kendall_surrogate()


Score = Callable[[Tensor, Tensor], Tensor]


def scores_of(task: Task) -> dict[str, Score]:
    """The scores of a data set's maps, (clean, now) -> (B,), by name."""

    def raised(score: Score, level: Callable[[Tensor], Tensor]) -> Score:
        return lambda a, b: corrected(score(a, b), level(a))

    found: dict[str, Score] = {}
    for k in task.ks:
        found[f"top-{k}"] = top = partial(top_k_intersection, k=k)
        found[f"top-{k}, corrected"] = raised(top, partial(chance, k=k, w=0))
        for w in task.ws:
            for diverse in (False, True):
                name = f"LENS {w}@{k}" + ("-div" if diverse else "")
                found[name] = lens = partial(lens_recall, k=k, w=w, diverse=diverse)
                found[f"{name}, corrected"] = raised(lens, partial(chance, k=k, w=w, diverse=diverse))
            found[f"top-{k}-div {w}"] = partial(diverse_intersection, k=k, w=w)
    found["tau"] = kendall
    found["tau, support"] = lambda a, b: kendall(a, b, support=either_nonzero(a, b))
    for w in task.ws:
        found[f"LENS-Kendall {w}"] = partial(lens_kendall, w=w)
    return found


def main_lens(task: Task) -> str:
    """The score that gains are judged by: LENS at the largest k and the smallest w."""
    return f"LENS {task.ws[0]}@{task.ks[-1]}"


def study(
    scale: str,
    *,
    out: Path | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    size: Scale | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train every network, attack its explanations, and compare.

    Seeds are independent of each other: a folder may be given more of them later, and two starts may work on different
    ones at the same time.

    Args:
        scale: "small" (digits), "medium" (MNIST, Fashion-MNIST and GTSRB, from the folder that UNFOOLED_DATA names; two
            cores) or "full" (the same at published sizes; a GPU).
        out: the study's folder; a second start continues it.
        seeds: of weights, training and attacks; arms marked "once" are trained for seed 0 alone.
        data: data sets to look at; all of the scale's where None.
        size: other sizes than the scale's.
        progress: told what is done.
        command: what reproduces it.

    Returns:
        The `StudySummary`, also written to `out/summary.json`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder that holds other work.
    """
    if size is None and scale not in SCALES:
        raise BadInput(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    size = size or SCALES[scale]
    known = {task.source: task for task in size.tasks}
    tasks = [known[name] for name in chosen(list(known), data)]
    config = Config(
        model=f"study {NAME}", data="the scale's", n=size.n, threat="each data set's", seed=0,
        options={"scale": scale, "size": size.told()},
    )  # fmt: skip
    units = Units(out, config, progress)
    networks: list[Network] = []
    rows: list[Scores] = []
    for task in tasks:
        for seed in seeds:
            found = _one(task, seed, size, units, out)
            networks += found[0]
            rows += found[1]
    summary = summarise(networks, rows, tasks, scale=scale, seeds=seeds, command=command)
    if out is not None:
        write_record(out / "summary.json", summary)
    return summary


def _one(task: Task, seed: int, size: Scale, units: Units, out: Path | None) -> tuple[list[Network], list[Scores]]:
    """One data set and seed: train all, agree on the images, attack each."""
    arms = [arm for arm in size.arms if not arm.once or seed == 0]
    folder = None if out is None else out / "networks" / f"{task.source}-{seed}"
    bench = Bench(task, arms, seed, train_n=size.train_n, folder=folder)
    pool = min(size.pool, len(bench.test[0]))

    def trained(name: str) -> Network:
        arm = next(arm for arm in arms if name == _unit(task, seed, arm.name))
        net = bench.network(arm.name)
        x, y = bench.test
        with torch.inference_mode():
            right = torch.cat([net(part).argmax(1) for part in x.split(500)]) == y
        few = slice(0, min(size.robust_n, len(x)))
        z = cascade(net, x[few], y[few], task.threat, seed=seed)
        kept = ~verify(net, x[few], y[few], z, task.threat).success
        return Network(
            data=task.source, arm=arm.name, seed=seed, clean=intervals.share(right), robust=intervals.share(kept),
            correct="".join(str(int(r)) for r in right[:pool]), loss=str(arm.loss(task.threat)),
            seconds=round(bench.seconds[arm.name], 1),
        )  # fmt: skip

    stage = f"{task.source}, seed {seed}"
    networks = units.map(f"{stage}: networks", Network, [_unit(task, seed, arm.name) for arm in arms], trained)
    common = torch.tensor([all(n.correct[i] == "1" for n in networks) for i in range(pool)]).nonzero()[:, 0]
    jobs = {
        _unit(task, seed, f"{arm.name}-{name}-{share:g}"): (arm.name, LOOKS_AT[name], n, share)
        for arm in arms
        for name, share, first, later in size.looks
        if (n := later if seed else first)
    }

    def attacked(unit: str) -> Scores:
        arm, look, n, share = jobs[unit]
        return measure(bench.network(arm), bench, common[:n], look, share * task.eps, size, arm)

    return networks, units.map(f"{stage}: explanations", Scores, list(jobs), attacked)


def _unit(task: Task, seed: int, name: str) -> str:
    return filed(f"{task.source}-{seed}-{name}")


def measure(model: nn.Module, bench: Bench, rows: Tensor, look: Look, eps: float, size: Scale, arm: str) -> Scores:
    """Attack one network's explanations at one radius, and judge.

    Candidates are ranked by one score of each kind, `leaders`; every other score is taken at the point that the leader
    of its kind chose.
    """
    started, task = time.perf_counter(), bench.task
    x, y = bench.test[0][rows], bench.test[1][rows]
    threat = task.threat.with_eps(eps)
    every = scores_of(task)
    ranked = {name: every[name] for name in leaders(task)}
    found = explanation_robustness(
        model, x, y, threat, look.attacked, scores=ranked, objectives=objectives(task),
        search=Search(size.attack_steps, restarts=look.restarts), generator=torch.Generator().manual_seed(bench.seed),
    )  # fmt: skip
    clean = as_maps(look.judged(model, x, y))
    values: dict[str, dict[str, list[float | None]]] = {}
    judged = {}
    for how, way in zip(HOW, (found.attack, found.best_of_n, found.random), strict=True):
        values[how] = {}
        for by in ranked:
            kind = {name: score for name, score in every.items() if _kind(name) == _kind(by)}
            judged[how, by] = judge_explanation(model, x, y, way.x_adv[by], threat, look.judged, kind, clean=clean)
            values[how] |= {name: listed(v) for name, v in judged[how, by].scores.items()}
    values[OTHER] = {name: listed(score(clean, clean.roll(1, 0))) for name, score in every.items()}
    lens = main_lens(task)
    worst = judged["attack", lens]
    gap = None
    if look.name == "integrated gradients":
        gap = float(integrated_gradients_with_gap(model, x, y, steps=50).relative_gap.median())
    return Scores(
        data=task.source, arm=arm, seed=bench.seed, look=look.name, eps=eps, n_random=found.n, indices=rows.tolist(),
        status={how: [STATUSES[code] for code in judged[how, lens].status.tolist()] for how in HOW}, values=values,
        zero_share=listed(zero_share(clean, k=task.ks[-1])), output_change=listed(worst.output_change), gap=gap,
        forwards=found.attack.forwards / len(x), backwards=found.attack.backwards / len(x),
        explanations=found.attack.explanations / len(x), attack_seconds=round(found.attack.seconds, 3),
        seconds=round(time.perf_counter() - started, 3),
        picture=_worst(model, bench, rows, found.attack.x_adv[lens], look, worst, arm),
    )  # fmt: skip


def leaders(task: Task) -> list[str]:
    """The scores that candidates are ranked by, one of each kind."""
    k, w, lens = task.ks[-1], task.ws[0], main_lens(task)
    return [f"top-{k}", f"top-{k}-div {w}", lens, f"{lens}-div", "tau"]


def _kind(score: str) -> tuple[str, bool]:
    """Which of the leaders a score goes with."""
    if "tau" in score or "Kendall" in score:
        return "tau", False
    return score[:3], "-div" in score


def _worst(
    model: nn.Module, bench: Bench, rows: Tensor, z: Tensor, look: Look, verdict: ExplanationVerdict, arm: str
) -> Picture | None:
    """The eight images whose corrected LENS fell most."""
    score = verdict.scores[f"{main_lens(bench.task)}, corrected"].nan_to_num(nan=torch.inf)
    order = score.argsort(stable=True)[: min(8, int(score.isfinite().sum()))]
    if not len(order):
        return None
    x, y = bench.test[0][rows][order], bench.test[1][rows][order]
    before, after = look.judged(model, x, y), look.judged(model, z[order], y)
    says = [f"{bench.classes[int(k)]}: {float(s):.2f}" for k, s in zip(y, score[order], strict=True)]
    title = f"{bench.task.source}, {arm}: the worst cases of {look.name}, corrected {main_lens(bench.task)}"
    return gallery(x, z[order], before, after, says, bench.task.ks[-1], title)


def claims_of_noise(pool: Pool) -> list[Claim]:
    """Does a random point look like a strong attack on the plain network, and do locality and diversity mend it?"""
    task, where, images = pool.task, f"{pool.task.source}, {pool.look}", pool.images(PLAIN)
    k, w, lens = task.ks[-1], task.ws[0], main_lens(task)

    def pair(score: str) -> Pair:
        return pool.together(PLAIN, "random", score), pool.together(PLAIN, "attack", score)

    top = pair(f"top-{k}")
    found = [
        claim(
            f"{where}: under top-{k} one random point looks like a strong attack; share of the attack's drop that it "
            f"reaches, at least {LOOKS:g}.", LENS, drop_share(top, images), LOOKS,
        ),
    ]  # fmt: skip
    for what, score in (
        (f"locality (LENS, w = {w}, raw)", lens),
        (f"locality (LENS, w = {w}, corrected)", f"{lens}, corrected"),
        ("diversity (diverse top-k)", f"top-{k}-div {w}"),
        ("both (diverse LENS, corrected)", f"{lens}-div, corrected"),
    ):
        says = f"{where}: {what} mends this; how much smaller that share is."
        found.append(claim(says, LENS, share_gap(top, pair(score), images), 0.0))
    for what, a, b in (
        ("raw", lens, f"top-{k}"),
        ("corrected for chance, both", f"{lens}, corrected", f"top-{k}, corrected"),
    ):
        says = f"{where}: a random point leaves more of the reason under LENS than under top-{k}, {what}; difference."
        figures = paired(pool.together(PLAIN, "random", a), pool.together(PLAIN, "random", b), images)
        found.append(claim(says, LENS, figures, 0.0))
    for score in (f"{lens}, corrected", f"{lens}-div, corrected", "tau"):
        says = f"{where}: the attack goes below the best of as many random points, in {score}; difference."
        figures = paired(pool.together(PLAIN, "best of N", score), pool.together(PLAIN, "attack", score), images)
        found.append(claim(says, "unfooled", figures, 0.0))
    return found


def lowest(pool: Pool, arm: str, score: str, seeds: Sequence[int]) -> np.ndarray:
    """The worst that attack and random points found: an attack that chance beats shows no robustness."""
    return np.fmin(pool.together(arm, "attack", score, seeds), pool.together(arm, "best of N", score, seeds))


def claims_of_training(pool: Pool, networks: Sequence[Network]) -> list[Claim]:
    """What each network gains over the plain one at the worst point found, on the seeds that both have."""
    task, where = pool.task, f"{pool.task.source}, {pool.look}"
    clean = {(n.arm, n.seed): n.clean.value or 0.0 for n in networks if n.data == task.source}
    found = []
    for arm in pool.arms:
        seeds = [s for s in pool.seeds(arm) if s in pool.seeds(PLAIN)]
        if arm == PLAIN or not seeds:
            continue
        lost = float(np.mean([clean[PLAIN, s] - clean[arm, s] for s in seeds]))
        for score, bound in (("tau", TAU), (f"{main_lens(task)}, corrected", CORRECTED)):
            own, plain = (lowest(pool, a, score, seeds) for a in (arm, PLAIN))
            gain = paired(own, plain, pool.images(arm, seeds))
            says = (
                f"{where}: {arm} gains at least {bound:g} in {score} under attack over {PLAIN}, for at most "
                f"{100 * ACCURACY:.0f} points of accuracy (it lost {100 * lost:.1f}); seeds: {listing(seeds)}."
            )
            one = claim(says, RAR, gain, bound)
            found.append(one if lost <= ACCURACY or one.value is None else one.model_copy(update={"verdict": "fails"}))
    return found


def listing(seeds: Sequence[int]) -> str:
    """0, 1, 2."""
    return ", ".join(map(str, seeds))


def shown(task: Task) -> list[tuple[str, str]]:
    """The scores of the pictures, with their titles."""
    k, lens = task.ks[-1], main_lens(task)
    return [(f"top-{k}", f"top-{k}"), (f"{lens}, corrected", f"{lens}, corrected"), ("tau", "Kendall's tau")]


def columns(task: Task) -> list[str]:
    """The scores of the tables: every k and w, raw and corrected."""
    found = []
    for k in task.ks:
        found += [f"top-{k}", f"top-{k}, corrected"]
        for w in task.ws:
            lens = f"LENS {w}@{k}"
            found += [lens, f"{lens}, corrected", f"top-{k}-div {w}", f"{lens}-div, corrected"]
    return [*found, "tau", "tau, support", *(f"LENS-Kendall {w}" for w in task.ws)]


def lines(pool: Pool, how: str) -> list[dict[str, Any]]:
    """A table: one row a network and seed, what each score says under the attack or a baseline."""
    found = []
    for (arm, seed), row in pool.rows.items():
        line: dict[str, Any] = {"network": arm, "seed": seed}
        if how in row.status:
            line |= {s: row.status[how].count(s) for s in STATUSES if s != "skipped"}
        for score in columns(pool.task):
            line[score] = text(average(array(row.values[how][score]), np.array(row.indices)))
        if how == "attack":
            line["change of the logit"] = text(average(array(row.output_change), np.array(row.indices)))
            line["attack, seconds an image"] = round(row.attack_seconds / max(len(row.indices), 1), 3)
        if how == OTHER:
            line["zero share"] = text(average(array(row.zero_share), np.array(row.indices)))
            line |= {} if row.gap is None else {"completeness gap": round(row.gap, 4)}
        found.append(line)
    return found


def summarise(
    networks: Sequence[Network], rows: Sequence[Scores], tasks: Sequence[Task], *, scale: str, seeds: Sequence[int],
    command: str,
) -> StudySummary:  # fmt: skip
    """Tables, claims and pictures from the units alone."""
    tables: dict[str, list[dict[str, Any]]] = {
        "Networks": [
            {
                "data": n.data, "network": n.arm, "seed": n.seed, "clean accuracy": n.clean.value, "of": n.clean.n,
                "robust accuracy": n.robust.value, "lowest": n.robust.low, "highest": n.robust.high,
                "of these": n.robust.n, "seconds of training": round(n.seconds, 1), "loss": n.loss,
            }
            for n in networks
        ]
    }  # fmt: skip
    asked: list[Claim] = []
    pictures: list[Picture] = []
    for task in tasks:
        for look in LOOKS_AT:
            whole = {(r.arm, r.seed): r for r in rows if r.data == task.source and r.look == look and r.eps == task.eps}
            if not whole:
                continue
            pool = Pool(task, look, whole)
            for how in (*HOW, OTHER):
                tables[f"{task.source}, {look}, eps {task.eps:g}: {how}"] = lines(pool, how)
            asked += claims_of_noise(pool) + claims_of_training(pool, networks)
            drawn = shown(task)
            pictures.append(bars(pool, drawn))
            against = curves(task, rows, drawn[:3], look)
            pictures += [] if against is None else [against]
            pictures += [r.picture for (_, seed), r in whole.items() if r.picture is not None and seed == seeds[0]]
    return StudySummary(
        study=NAME, title=TITLE, scale=scale, seeds=list(seeds),
        seconds=round(sum(r.seconds for r in rows) + sum(n.seconds for n in networks), 1),
        environment=Environment.here("cpu"), tables=tables, claims=asked, notes=list(NOTES), pictures=pictures,
        command=command, created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


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
