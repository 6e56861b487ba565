"""Units of the MNIST features study: tested networks, sets of rebuilt images, attacks, alignment, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from unfooled.attacks.ensembles.cascade import EFFORTS
from unfooled.core.threats import L2, Linf, Threat
from unfooled.drawing.figures import Picture
from unfooled.features import open_mask
from unfooled.runs.units import Units
from unfooled.statistics.intervals import share
from unfooled.studies.common.feature_pictures import image_rows
from unfooled.studies.common.feature_records import Aligned, Attacked, Drawn, Measured, Rebuilt, columns
from unfooled.studies.common.feature_units import align, attack, describe_set
from unfooled.studies.common.run import map_jobs, map_names
from unfooled.studies.mnist_features.bench import MnistBench
from unfooled.studies.mnist_features.scale import SETS, Recipe, Retraining

Networks = Mapping[str, Callable[[], nn.Module]]
"""Name -> function that returns the network."""


@dataclass(frozen=True)
class Results:
    """Records of all units.

    Attributes:
        tests: Tested encoders and retrained networks.
        sets: Sets of images rebuilt from features.
        attacks: Networks under attack.
        alignments: Alignment of gradients with images.
        pictures: Rebuilt images.
    """

    tests: Sequence[Measured]
    sets: Sequence[Rebuilt]
    attacks: Sequence[Attacked]
    alignments: Sequence[Aligned]
    pictures: Sequence[Picture]


def measure(bench: MnistBench, units: Units, seeds: Sequence[int]) -> Results:
    """Compute all units, or read those of an earlier run: encoders and sets once, all else for each seed."""
    size = bench.size
    recipes = {recipe.name: recipe for recipe in size.recipes}
    tests = map_jobs(units, "encoders", Measured, recipes, partial(measure_encoder, bench))
    sets = map_names(units, "rebuilt sets", Rebuilt, SETS, partial(measure_set, bench))
    drawn = map_names(units, "pictures", Drawn, ["digits"], lambda _: Drawn(pictures=[first_images(bench)]))
    encoders = {name: partial(bench.network, name) for name in recipes}
    alignments = aligned(units, bench, "alignment of encoders", 0, encoders)
    attacks: list[Attacked] = []
    for seed in seeds:
        retrainings = {one.name: one for one in size.retrainings if seed == 0 or not one.once}
        tests += map_jobs(
            units, f"retrained, seed {seed}", Measured, retrainings, partial(measure_retrained, bench, seed=seed)
        )
        nets = {name: partial(bench.retrained, one, seed) for name, one in retrainings.items() if one.attacked}
        attacks += attacked(units, bench, f"attacks on retrained, seed {seed}", seed, nets)
        alignments += aligned(units, bench, f"alignment of retrained, seed {seed}", seed, nets)
    inverted = {name: encoders[name] for name, recipe in recipes.items() if recipe.arm == "faithful"}
    attacks = [*attacked(units, bench, "attacks on encoders", 0, inverted), *attacks]
    return Results(tests, sets, attacks, alignments, [picture for one in drawn for picture in one.pictures])


def attacked(units: Units, bench: MnistBench, stage: str, seed: int, nets: Networks) -> list[Attacked]:
    """Attack every network with the cascade (`attacks.ensembles.cascade`) in both norms."""
    size = bench.size
    norms: dict[str, list[Threat]] = {"linf": [Linf(eps) for eps in size.linf], "l2": [L2(eps) for eps in size.l2]}
    jobs = {f"{name}, {norm}": (name, norm) for name in nets for norm in norms}
    x, y = (part[: size.robust_n].to(bench.device) for part in bench.test)

    def compute(job: tuple[str, str]) -> Attacked:
        name, norm = job
        return attack(nets[name](), (x, y), norms[norm], name=name, seed=seed, effort=EFFORTS[size.effort])

    return map_jobs(units, stage, Attacked, jobs, compute)


def aligned(units: Units, bench: MnistBench, stage: str, seed: int, nets: Networks) -> list[Aligned]:
    """Measure the alignment of every network's gradients with the images."""

    def compute(name: str) -> Aligned:
        return align(nets[name](), bench.test, device=bench.device, name=name, seed=seed)

    return map_names(units, stage, Aligned, nets, compute)


def measure_encoder(bench: MnistBench, recipe: Recipe) -> Measured:
    """Test an encoder under the five corruptions."""
    net, n = bench.network(recipe.name), len(bench.train[0])
    return Measured(
        name=recipe.name, seed=0, loss=str(recipe.loss), updates=-(-n // recipe.batch) * recipe.epochs, samples=n,
        right=columns(bench.right(net)), n=len(bench.test[1]), seconds=round(bench.seconds[recipe.name], 1),
    )  # fmt: skip


def measure_retrained(bench: MnistBench, retraining: Retraining, *, seed: int) -> Measured:
    """Test a network that is trained on a set, under the five corruptions and on held-out samples of the set."""
    net = bench.retrained(retraining, seed)
    (x, _), held_out = bench.samples(retraining)
    own = bench.labels(net, held_out[0], batch=1000) == held_out[1]
    return Measured(
        name=retraining.name, seed=seed, loss=str(retraining.loss), updates=bench.updates(retraining, len(x)),
        samples=len(x), right=columns(bench.right(net)), n=len(bench.test[1]), own=share(own),
        seconds=round(bench.seconds[f"{retraining.name}, seed {seed}"], 1),
    )  # fmt: skip


def measure_set(bench: MnistBench, origin: str) -> Rebuilt:
    """Rebuild a set and describe it."""
    made = bench.rebuilt(origin)
    return describe_set(origin, made, bench.sources(), bench.train[0][made.start])


def first_images(bench: MnistBench) -> Picture:
    """Draw the first image of each class, and the images rebuilt from it."""
    y = bench.train[1][: bench.size.rebuilt]
    rows = torch.tensor([int((y == k).nonzero()[0]) for k in y.unique().tolist()])
    group, standard, random = (bench.rebuilt(origin) for origin in SETS)
    lines = {
        "original": bench.sources()[rows],
        "start": bench.train[0][group.start[rows]],
        "group set": group.x[rows],
        "non-robust set": standard.x[rows],
        "group set, cleaned": open_mask(group.x[rows]),
        "non-robust, cleaned": open_mask(standard.x[rows]),
        "untrained set": random.x[rows],
    }
    caption = (
        "The first image of each class, not chosen otherwise, and what was rebuilt from 100 features of it. The start "
        "is the image that all searches began at: what a network does not see of the digit is left as it was there. "
        "The source calls the group set robust."
    )
    names = [bench.classes[int(k)] for k in y[rows]]
    return image_rows(lines, names, title="Originals, and what two networks see of them", caption=caption)
