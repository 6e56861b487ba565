"""Units of the study of robust features: tested networks, sets, networks under attack, alignment, images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from unfooled.attacks.ensembles.cascade import EFFORTS
from unfooled.drawing.figures import Picture
from unfooled.runs.units import Units
from unfooled.statistics.intervals import share
from unfooled.studies.common.feature_pictures import image_rows
from unfooled.studies.common.feature_records import Aligned, Attacked, Drawn, Measured, Reach, Rebuilt, columns
from unfooled.studies.common.feature_units import align, attack, describe_set
from unfooled.studies.common.run import map_jobs, map_names
from unfooled.studies.robust_features.bench import FeatureBench
from unfooled.studies.robust_features.scale import (
    ATTACKED,
    D_RAND,
    ENCODER_OF_SET,
    ENCODERS,
    ROBUST,
    SETS,
    SHARES,
    TRAINED_ON,
    FeatureTask,
)

IMAGES_PER_UNIT = 1000
"""Number of images that are attacked in one unit, so that a kill loses no more."""


@dataclass(frozen=True)
class Results:
    """Records of one data set, over all seeds.

    Attributes:
        task: The data set.
        chance: Share of the largest class of the test images, the accuracy of a network that always says that class.
        tests: Tested networks.
        attacks: Networks under attack.
        alignments: Alignment of gradients with images.
        reach: Seed -> radius in which images must be moved.
        sets: Seed -> records of the sets.
        pictures: Images of the first seed.
    """

    task: FeatureTask
    chance: float
    tests: Sequence[Measured]
    attacks: Sequence[Attacked]
    alignments: Sequence[Aligned] = ()
    reach: Mapping[int, Reach] = field(default_factory=dict)
    sets: Mapping[int, Sequence[Rebuilt]] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()


def measure(task: FeatureTask, benches: Iterable[FeatureBench], units: Units) -> Results:
    """Compute all units of one data set, or read those of an earlier start.

    Args:
        task: The data set.
        benches: A bench for each seed; one at a time is in memory.
        units: The study's folder.
    """
    chance = 0.0
    tests: list[Measured] = []
    attacks: list[Attacked] = []
    alignments: list[Aligned] = []
    reach: dict[int, Reach] = {}
    sets: dict[int, Sequence[Rebuilt]] = {}
    pictures: list[Picture] = []
    for bench in benches:
        stage = f"{task.source}, seed {bench.seed}"
        tests += map_names(units, f"{stage}, encoders", Measured, ENCODERS, partial(measure_network, bench))
        (radius,) = map_jobs(units, f"{stage}, radius", Reach, {"radius": bench}, FeatureBench.reach)
        bench.eps, reach[bench.seed] = radius.eps, radius
        sets[bench.seed] = map_names(units, f"{stage}, sets", Rebuilt, SETS, partial(measure_set, bench))
        if not pictures:
            (drawn,) = map_jobs(units, f"{stage}, pictures", Drawn, {"images": bench}, draw)
            pictures = drawn.pictures
        tests += map_names(units, f"{stage}, trained on sets", Measured, TRAINED_ON, partial(measure_network, bench))
        parts = map_jobs(units, f"{stage}, attacks", Attacked, attack_parts(bench), partial(attack_part, bench))
        attacks += joined(parts)
        alignments += map_names(units, f"{stage}, alignment", Aligned, ATTACKED, partial(align_network, bench))
        chance = float(bench.test[1].bincount().max()) / len(bench.test[1])
    return Results(task, chance, tests, attacks, alignments, reach, sets, pictures)


def measure_network(bench: FeatureBench, name: str) -> Measured:
    """Test a network on the original test images, and on what was held out of its set."""
    net, own = bench.network(name), None
    x = bench.train[0]
    if name in TRAINED_ON:
        (x, _), held_out = bench.samples(name)
        own = share(bench.labels(net, held_out[0]) == held_out[1])
    labels, (test, truth) = bench.labels(net, bench.test[0]), bench.test
    right = torch.stack([labels == truth, labels == (truth + 1) % len(bench.classes)], 1)
    return Measured(
        name=name, seed=bench.seed, loss=str(bench.loss(name)), updates=bench.task.updates(name), samples=len(x),
        right=columns(right), n=len(test), own=own, seconds=round(bench.seconds[name], 1),
    )  # fmt: skip


def measure_set(bench: FeatureBench, name: str) -> Rebuilt:
    """Make a set and describe it."""
    made = bench.made(name)
    return describe_set(name, made, bench.sources()[0], bench.train[0][made.start] if name in ENCODER_OF_SET else None)


def align_network(bench: FeatureBench, name: str) -> Aligned:
    """Measure the alignment of a network's gradients with the test images."""
    return align(bench.network(name), bench.test, device=bench.device, name=name, seed=bench.seed)


def attack_parts(bench: FeatureBench) -> dict[str, tuple[str, int]]:
    """Return unit name -> (network, first image) of everything that is attacked."""
    firsts = range(0, min(bench.size.robust_n, len(bench.test[1])), IMAGES_PER_UNIT)
    return {f"{name}, {first}" if first else name: (name, first) for name in ATTACKED for first in firsts}


def attack_part(bench: FeatureBench, part: tuple[str, int]) -> Attacked:
    """Attack a network on one part of the test images, at all shares of the radius."""
    name, first = part
    rows = slice(first, min(first + IMAGES_PER_UNIT, bench.size.robust_n))
    x, y = (samples[rows].to(bench.device) for samples in bench.test)
    threats = [bench.task.threat.scaled(share) for share in SHARES]
    effort = EFFORTS[bench.size.effort]
    return attack(bench.network(name), (x, y), threats, name=name, seed=bench.seed, effort=effort)


def joined(parts: Sequence[Attacked]) -> list[Attacked]:
    """Join parts of the same network, which follow each other."""
    whole: list[Attacked] = []
    for part in parts:
        if whole and whole[-1].name == part.name:
            last = whole.pop()
            more = {"survived": last.survived + part.survived, "seconds": round(last.seconds + part.seconds, 1)}
            part = part.model_copy(update=more)
        whole.append(part)
    return whole


def draw(bench: FeatureBench) -> Drawn:
    """Draw the first image of each class, ten classes at most, in every set."""
    x, y = bench.sources()
    rows = torch.tensor([int((y == k).nonzero()[0]) for k in y.unique().tolist()[:10]])
    made = {name: bench.made(name) for name in SETS}
    lines = {"original": x[rows], "start": bench.train[0][made[ROBUST].start[rows]]}
    lines |= {name: one.x[rows] for name, one in made.items()}
    caption = (
        "The first image of each class, not chosen otherwise. The start is the image that the three searches began at; "
        "D_rand and D_det carry another label than what is seen, "
        + ", ".join(f"{bench.classes[int(t)]}" for t in made[D_RAND].y[rows])
        + " in D_rand, the next class in D_det."
    )
    names = [bench.classes[int(k)] for k in y[rows]]
    picture = image_rows(lines, names, title=f"{bench.task.source}: images of each set", caption=caption)
    return Drawn(pictures=[picture])
