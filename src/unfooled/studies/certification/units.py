"""Units of the study of certification: each network and radius, judged from both sides."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from unfooled.attacks.ensembles.cascade import QUICK, cascade
from unfooled.certification.certify import proven
from unfooled.core.threats import Linf
from unfooled.evaluation.verify import verify
from unfooled.runs.records import Record
from unfooled.runs.units import Units
from unfooled.studies.certification.bench import CertificationBench
from unfooled.studies.certification.scale import CertificationTask
from unfooled.studies.common.records import bits
from unfooled.studies.common.run import map_jobs


class Judged(Record):
    """Both ends of one network at one radius, image by image; "1" is true.

    Attributes:
        network: Name of the network.
        eps: Radius in Linf.
        seed: Random seed.
        images: Numbers of the test images.
        right: Images that are classified correctly.
        by_intervals: Images that intervals alone prove.
        proven: Images that are proven.
        resists: Images that are right and that the attack does not fool.
        seconds: Seconds of training and judging.
    """

    network: str
    eps: float
    seed: int
    images: list[int]
    right: str
    by_intervals: str
    proven: str
    resists: str
    seconds: float


@dataclass(frozen=True)
class Results:
    """Records of one data set, over all seeds."""

    task: CertificationTask
    judged: Sequence[Judged]


def measure(task: CertificationTask, benches: Iterable[CertificationBench], units: Units) -> Results:
    """Compute all units of one data set, or read those of an earlier start."""
    judged: list[Judged] = []
    for bench in benches:
        jobs = {f"{name} at {eps:g}": (name, eps) for name, eps in bench.subjects()}
        judged += map_jobs(units, f"{task.source}, seed {bench.seed}", Judged, jobs, partial(judge, bench))
    return Results(task, judged)


def judge(bench: CertificationBench, subject: tuple[str, float]) -> Judged:
    """Prove and attack the images of one network at one radius."""
    began = time.perf_counter()
    name, eps = subject
    net, (x, y, images), threat = bench.subject(name, eps).eval(), bench.samples(name), Linf(eps)
    right = (bench.labels(net, x) == y.cpu()).to(y.device)
    certain = {effort: proven(net, x, y, threat, effort=effort) for effort in ("intervals", bench.size.effort)}
    points = cascade(net, x, y, threat, effort=QUICK, seed=bench.seed)
    resists = right & ~verify(net, x, y, points, threat).success.to(y.device)
    return Judged(
        network=name, eps=eps, seed=bench.seed, images=images, right=bits(right),
        by_intervals=bits(certain["intervals"]), proven=bits(certain[bench.size.effort]), resists=bits(resists),
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip
