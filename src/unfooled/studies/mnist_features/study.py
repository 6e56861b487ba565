"""Are robust features a data set? The MNIST study of five corruptions, with the controls that it lacks.

Table 1   a standard network, and one trained on each image's worst of five corruptions ("group"), under these five
Table 2   new networks, plainly trained on images rebuilt from what either sees

Beside them: the same recipe run until it converges; as many originals, plain and corrupted; images rebuilt from an
untrained network; shuffled labels; the class of the start image; parts of the sets; and every network under attack.

The published networks that see the rebuilt images are trained for 25 epochs on the one set and for 8 on the other. Ours
take equal updates; that rule stands beside it, its rate scaled so that rate x updates is the published product.

References:
    xziyue/robust_mnist_feature_py, 2019, revision 61c578e.
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175.
    Li et al., Adversarial examples are not real features, NeurIPS 2023, arXiv:2310.18936.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unfooled.attacks.ensembles.cascade import EFFORTS
from unfooled.core.errors import BadInput
from unfooled.core.threats import L2, Linf, Threat
from unfooled.drawing.figures import Picture
from unfooled.features import open_mask
from unfooled.runs.chunks import Progress
from unfooled.runs.records import Config, Environment, write_record
from unfooled.runs.units import Units, filed, named
from unfooled.statistics import intervals
from unfooled.studies.common.features_pictures import by_size, digits, levels, under_attack
from unfooled.studies.common.features_records import (
    ALIGNED,
    Aligned,
    Alignments,
    Attacked,
    Drawn,
    Left,
    Measured,
    Rebuilt,
    Results,
    aligned,
    columns,
)
from unfooled.studies.common.figures import Figures, claim, figures_of, mean, text
from unfooled.studies.common.radii import survived
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.mnist_features.networks import AS_TABLED, PIECES, SCALES, UNTRAINED, Bench, Retraining, Scale

NAME, TITLE = "mnist-features", "Are robust features a data set?"
SOURCE, ILYAS = "xziyue/robust_mnist_feature_py 2019", "Ilyas et al. 2019, arXiv:1905.02175"
REAL = "Li et al. 2023, arXiv:2310.18936"
FIVE = ("vertical lines", "horizontal lines", "noise", "removal", "none")
TABLE_1 = {"standard": (0.829, 0.549, 0.808, 0.727, 0.977), "group": (0.968, 0.967, 0.969, 0.950, 0.972)}
TABLE_2 = {"group set": (0.792, 0.822, 0.908, 0.876, 0.960), "non-robust set": (0.856, 0.434, 0.865, 0.657, 0.954)}
"""The published accuracies, in the order of `FIVE`. What we call group is called robust there."""
UPDATES = (25 * 1688, 8 * 1688)
"""What the published networks of table 2 took."""
WITHIN = 0.03
"""How far below the published figure an accuracy may be."""
ABOVE = 1e-9
"""What a difference must be for a claim that says more: not nothing."""
SETS = ("group", "standard", UNTRAINED)
LOOKS = (
    *((f"group, {arm}", f"standard, {arm}", "unfooled") for arm in ("faithful", "converged")),
    *((f"{name} set", "originals", "unfooled") for name in ("group", "non-robust")),
)
"""Of which networks gradients are compared."""
PUBLISHED = ", published rule"


def study(
    scale: str,
    *,
    out: Path | None = None,
    seeds: Sequence[int] = (0,),
    size: Scale | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train the encoders, rebuild images from them, train new networks on these, test and attack all.

    The encoders and the sets are made once, with seed 0. A folder may be given more seeds of the new networks later.

    Args:
        scale: "small" (digits), "medium" (MNIST, 11,200 images of each set; two cores) or "full" (all 60,000); MNIST
            from the folder that UNFOOLED_DATA names.
        out: the study's folder; a second start continues it.
        seeds: of the networks that are trained on the sets, and of the attacks on them.
        size: other sizes than the scale's.
        device: where networks are.
        progress: told what is done.
        command: what reproduces it.

    Returns:
        The `StudySummary`, also written to `out/summary.json`.

    Raises:
        BadInput: no such scale, data that are not there, or a folder that holds other work.
    """
    if size is None and scale not in SCALES:
        raise BadInput(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    size = size or SCALES[scale]
    config = Config(
        model=f"study {NAME}", data=size.source, n=size.rebuilt, threat="none", seed=0,
        options={"scale": scale, "size": size.told()},
    )  # fmt: skip
    bench = Bench(size, out, progress, device)  # first: data that are not there leave no folder
    units = Units(out, config, progress)
    tests = units.map("encoders", Measured, *named([r.name for r in size.recipes], partial(_encoder, bench)))
    sets = units.map("rebuilt sets", Rebuilt, *named(SETS, partial(_rebuilt, bench)))
    drawn = units.map("pictures", Drawn, *named(["digits"], lambda _: Drawn(pictures=[_digits(bench)])))
    attacks: list[Attacked] = []
    looks = units.map(
        "alignment of encoders", Aligned, *named([r.name for r in size.recipes], partial(_aligned, bench))
    )
    for seed in seeds:
        arms = {one.name: one for one in size.retrainings if seed == 0 or not one.once}
        jobs = named(list(arms), partial(_retrained, bench, arms, seed))
        tests += units.map(f"retrained, seed {seed}", Measured, *jobs)
        nets = {name: partial(bench.retrained, one, seed) for name, one in arms.items() if one.attacked}
        attacks += _attacks(units, bench, f"attacks on retrained, seed {seed}", seed, nets)
        look = partial(_aligned, bench, nets=nets, seed=seed)
        looks += units.map(f"alignment of retrained, seed {seed}", Aligned, *named(list(nets), look))
    inverted = [recipe.name for recipe in size.recipes if recipe.arm == "faithful"]
    encoders = {name: partial(bench.encoder, name) for name in inverted}
    attacks = [*_attacks(units, bench, "attacks on encoders", 0, encoders), *attacks]
    pictures = [one for page in drawn for one in page.pictures]
    summary = summarise(
        tests, sets, attacks, looks, pictures, size, scale=scale, seeds=seeds, device=device,
        command=command,
    )  # fmt: skip
    if out is not None:
        write_record(out / "summary.json", summary)
    return summary


def _attacks(
    units: Units, bench: Bench, stage: str, seed: int, nets: Mapping[str, Callable[[], nn.Module]]
) -> list[Attacked]:
    """Every network under the cascade in both norms."""
    size = bench.size
    norms: dict[str, list[Threat]] = {"linf": [Linf(eps) for eps in size.linf], "l2": [L2(eps) for eps in size.l2]}
    jobs = {filed(f"{name}, {norm}"): (name, norm) for name in nets for norm in norms}
    x, y = (part[: size.robust_n].to(bench.device) for part in bench.test)

    def attacked(unit: str) -> Attacked:
        name, norm = jobs[unit]
        net, started = nets[name](), time.perf_counter()
        kept = survived(net, x, y, norms[norm], seed=seed, effort=EFFORTS[size.effort])
        return Attacked(
            name=name, seed=seed, norm=norm, radii=list(size.linf if norm == "linf" else size.l2),
            survived=kept.tolist(), seconds=round(time.perf_counter() - started, 1),
        )  # fmt: skip

    return units.map(stage, Attacked, list(jobs), attacked)


def _aligned(
    bench: Bench, name: str, *, nets: Mapping[str, Callable[[], nn.Module]] | None = None, seed: int = 0
) -> Aligned:
    net = bench.encoder(name) if nets is None else nets[name]()
    x, y = (part[:ALIGNED].to(bench.device) for part in bench.test)
    return aligned(net, x, y, name=name, seed=seed)


def _encoder(bench: Bench, name: str) -> Measured:
    recipe = next(r for r in bench.size.recipes if r.name == name)
    net, n = bench.encoder(name), len(bench.train[0])
    return Measured(
        name=name, seed=0, loss=str(recipe.loss), updates=-(-n // recipe.batch) * recipe.epochs, samples=n,
        right=columns(bench.right(net)), n=len(bench.test[1]), seconds=round(bench.seconds[name], 1),
    )  # fmt: skip


def _retrained(bench: Bench, arms: Mapping[str, Retraining], seed: int, name: str) -> Measured:
    one = arms[name]
    net = bench.retrained(one, seed)
    (x, _), held = bench.samples(one)
    own = bench.labels(net, held[0]) == held[1]
    updates = max(1, round(bench.size.updates * one.share) // PIECES) * PIECES
    if one.epochs is not None:
        updates = -(-len(x) // 32) * one.epochs
    return Measured(
        name=one.name, seed=seed, loss="Augmented(random_group)" if one.corrupted else "Standard", updates=updates,
        samples=len(x), right=columns(bench.right(net)), n=len(bench.test[1]), own=intervals.share(own),
        seconds=round(bench.seconds[f"{one.name}, seed {seed}"], 1),
    )  # fmt: skip


def _rebuilt(bench: Bench, origin: str) -> Rebuilt:
    found = bench.rebuilt(origin)
    about = found.manifest
    return Rebuilt(
        origin=origin, n=len(found), residual=about["residual"]["stored"], reached=about["reached"],
        vanished=about["vanished"], gradients=about["gradients"],
        to_source=float((found.x - bench.sources()).flatten(1).norm(dim=1).median()),
        to_start=float((found.x - bench.train[0][found.start]).flatten(1).norm(dim=1).median()),
        seconds=round(about["seconds"], 1),
    )  # fmt: skip


def _digits(bench: Bench) -> Picture:
    """The first image of each class that was rebuilt."""
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
    return digits(lines, names, title="Originals, and what two networks see of them", caption=caption)


CORRUPTED = (0, 1, 2, 3)


def lowest(figures: Sequence[Figures]) -> Figures:
    """The least value, and the least of either end: whether all figures reach a bound, whichever is the lowest."""
    value, low, high, n = (min(f[k] for f in figures) for k in range(4))
    return value, low, high, int(n)


def claims_of_training(found: Results, *, published: bool) -> list[Claim]:
    """Table 1: the ten figures, and their order. `published`: whether the data are the source's."""
    asked = []
    for arm in ("faithful", AS_TABLED, "converged"):
        names = {network: f"{network}, {arm}" for network in TABLE_1 if f"{network}, {arm}" in found}
        shifted = []
        for network, name in names.items():
            for group, was, figures in zip(FIVE, TABLE_1[network], found.accuracy(name), strict=True):
                says = f"Table 1, {name}, {group}: accuracy within 3 points of the published {was:.3f}, or better."
                if published and arm != "converged":
                    asked.append(claim(says, SOURCE, figures, was - WITHIN))
                shifted.append((figures[0] - was, figures[1] - was, figures[2] - was, figures[3]))
        if published and arm == "converged" and shifted:
            says = f"Table 1, {arm}: each of the ten figures is so; the least difference to the published one."
            asked.append(claim(says, SOURCE, lowest(shifted), -WITHIN))
        if len(names) < 2:
            continue
        gaps = [found.gap(names["group"], names["standard"], [k]) for k in CORRUPTED]
        says = f"Table 1, {arm}: training on the worst of five helps under each corruption; the least gain."
        asked.append(claim(says, SOURCE, lowest(gaps), ABOVE))
        order = sorted(range(5), key=lambda k: -TABLE_1["standard"][k])
        right = found.correct(names["standard"])
        steps = [mean(right[:, a] - right[:, b]) for a, b in pairwise(order)]
        says = f"Table 1, {arm}: the standard network's order is {', '.join(FIVE[k] for k in order)}; the least step."
        asked.append(claim(says, SOURCE, lowest(steps), ABOVE))
    return asked


def claims_of_sets(found: Results) -> list[Claim]:
    """Table 2: the published pattern, at equal updates and by the published rule, and what the controls say."""
    asked = []
    for rule, ending in (("equal updates", ""), ("published rule", PUBLISHED)):
        a, b = (f"{name}{ending}" for name in TABLE_2)
        if a not in found or b not in found:
            continue
        for k, group in enumerate(FIVE):
            was = TABLE_2["group set"][k] - TABLE_2["non-robust set"][k]
            first, second = (a, b) if was > 0 else (b, a)
            says = f"Table 2, {rule}, {group}: {first} before {second} (published {abs(was):.3f}); difference."
            asked.append(claim(says, SOURCE, found.gap(first, second, [k]), ABOVE))
    for first, second, says, source in (
        ("group set", "originals", "the group set makes a network more invariant than as many originals do", ILYAS),
        ("group set", "untrained set", "it does so more than a set rebuilt from an untrained network", "unfooled"),
        ("originals, corrupted", "group set", "corrupting the originals would have done better", "unfooled"),
        ("originals", "non-robust set", "the non-robust set makes a network less invariant than originals", ILYAS),
        (
            "group set, cleaned",
            "originals, cleaned",
            "so does the cleaned group set, beside cleaned originals",
            "unfooled",
        ),
        ("group set, cleaned", "untrained set, cleaned", "and beside the cleaned set of an untrained one", "unfooled"),
    ):
        if first in found and second in found:
            line = f"Table 2, controls: {says}; {first} minus {second}, mean of the four corruptions."
            asked.append(claim(line, source, found.gap(first, second, CORRUPTED), ABOVE))
    for name in ("group set", "non-robust set"):
        for one in found.rows.get(f"{name}, class of the start", []):
            says = f"Table 2, controls: the class of the start can be read off the {name}; accuracy at least .2."
            asked.append(claim(says, "unfooled", figures_of(one.own), 0.2))
    return asked


def claims_of_attacks(left: Left) -> list[Claim]:
    """What was never measured: are these networks robust?"""
    asked = []
    for norm, radii in left.radii.items():
        k, rows = len(radii) // 2, left.rows[norm]
        at = f"{norm} {radii[k]:g}"
        if "group, faithful" in rows:
            says = f"Under attack, {at}: the network trained on the worst of five keeps half of its images."
            asked.append(claim(says, SOURCE, left.accuracy(norm, "group, faithful", k), 0.5))
        for name, source in (("group set", ILYAS), ("non-robust set", "unfooled")):
            if name in rows and "originals" in rows:
                gap = left.gap(norm, name, "originals", k)
                says = f"Under attack, {at}: the {name} makes a network more robust than originals do; difference."
                asked.append(claim(says, source, gap, ABOVE))
        if "group set" in rows:
            value, low, high, n = left.accuracy(norm, "group set", k)
            says = f"Under attack, {at}: the network trained on the group set is wrong on at least nine tenths."
            asked.append(claim(says, REAL, (1 - value, 1 - high, 1 - low, n), 0.9))
    return asked


def _tables(
    found: Results, sets: Sequence[Rebuilt], left: Left, size: Scale, tests: Sequence[Measured]
) -> dict[str, list[dict[str, Any]]]:
    def line(name: str) -> dict[str, Any]:
        return {group: text(f) for group, f in zip(FIVE, found.accuracy(name), strict=True)}

    def quoted(values: Sequence[float]) -> dict[str, Any]:
        return {group: f"{value:.3f}" for group, value in zip(FIVE, values, strict=True)}

    known = size.source == "mnist"
    first = [{"network": f"{name}, published", **quoted(row)} for name, row in TABLE_1.items() if known]
    first += [{"network": r.name, **line(r.name)} for r in size.recipes if r.name in found]
    second = [
        {"trained on": f"{name}, published", "networks": 1, "updates": updates, "its own, held out": "", **quoted(row)}
        for (name, row), updates in zip(TABLE_2.items(), UPDATES, strict=True)
        if known
    ]
    curve: list[dict[str, Any]] = []
    for one in size.retrainings:
        rows = found.rows.get(one.name, [])
        if not rows:
            continue
        if one.sources is not None:
            curve.append({"trained on": one.name, "images": rows[0].samples, **line(one.name)})
            continue
        held = [figures_of(row.own) for row in rows]
        own = text(held[0]) if len(held) == 1 else f"{np.mean([f[0] for f in held]):.3f}"
        about = {"networks": len(rows), "updates": rows[0].updates, "its own, held out": own}
        second.append({"trained on": one.name, **about, **line(one.name)})
    beside = ("originals", "untrained set")
    pairs = [
        *((a, b) for a in TABLE_2 for b in (*beside, "originals, corrupted", "non-robust set") if a != b),
        *((f"{a}, cleaned", f"{b}, cleaned") for a in TABLE_2 for b in beside),
    ]
    minus = [
        {"difference": f"{a} minus {b}", **{g: text(found.gap(a, b, [k])) for k, g in enumerate(FIVE)},
         "mean of four": text(found.gap(a, b, CORRUPTED))}
        for a, b in pairs if a in found and b in found
    ]  # fmt: skip
    under = [
        {"network": name, "clean": text(left.accuracy(norm, name, -1)),
         **{f"{norm} {eps:g}": text(left.accuracy(norm, name, k)) for k, eps in enumerate(left.radii[norm])}}
        for norm in left.rows for name in left.rows[norm]
    ]  # fmt: skip
    tables = {
        "Table 1: accuracy under five corruptions": first,
        "Table 2: networks trained on rebuilt images": second,
        "Table 2: differences, paired by image": minus,
        "Table 2: parts of the sets": curve,
    }
    tables |= {f"Under attack, {norm} (cascade, {size.effort})": [row for row in under if f"{norm} {radii[0]:g}" in row]
               for norm, radii in left.radii.items()}  # fmt: skip
    tables["Rebuilt sets"] = [
        {"set": one.origin, "n": one.n, "residual, median": one.residual["0.5"], "95 %": one.residual["0.95"],
         "reached": one.reached, "no gradient": one.vanished, "gradients an image": one.gradients,
         "l2 to the source": one.to_source, "l2 to the start": one.to_start, "seconds": one.seconds}
        for one in sets
    ]  # fmt: skip
    tables["Networks"] = [
        {"network": t.name, "seed": t.seed, "loss": t.loss, "images": t.samples, "updates": t.updates,
         "seconds of training": t.seconds} for t in tests
    ]  # fmt: skip
    return {name: rows for name, rows in tables.items() if rows}


def _pictures(found: Results, left: Left, size: Scale, *, published: bool) -> list[Picture]:
    """All but the images: drawn from the records."""
    first = {r.name: found.accuracy(r.name) for r in size.recipes if r.name in found}
    whole = [one for one in size.retrainings if one.sources is None and one.labels == "own" and one.name in found]
    second = {one.name: found.accuracy(one.name) for one in whole}
    known = {
        f"{network}, {arm}": row for network, row in TABLE_1.items() for arm in ("faithful", AS_TABLED, "converged")
    }
    known |= {f"{name}{ending}": row for name, row in TABLE_2.items() for ending in ("", PUBLISHED)}
    known = known if published else {}
    pictures = [levels(first, known, FIVE, "Table 1"), levels(second, known, FIVE, "Table 2")]
    curves = {
        norm: {name: (radii, [left.accuracy(norm, name, k)[0] for k in range(-1, len(radii))]) for name in rows}
        for norm, radii in left.radii.items()
        if (rows := left.rows[norm])
    }
    if curves:
        pictures.append(under_attack(curves))
    lines: dict[str, dict[int, Sequence[Figures]]] = {}
    for one in size.retrainings:
        name = one.name.partition(",")[0]
        if one.name in found and (one.sources is not None or one.name == name):
            lines.setdefault(name, {})[found.rows[one.name][0].samples] = found.accuracy(one.name)
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    return [*pictures, by_size(lines, FIVE)] if lines else pictures


def summarise(
    tests: Sequence[Measured], sets: Sequence[Rebuilt], attacks: Sequence[Attacked], looks: Sequence[Aligned],
    pictures: Sequence[Picture], size: Scale, *, scale: str, seeds: Sequence[int], device: str, command: str,
) -> StudySummary:  # fmt: skip
    """Tables, claims and pictures from the units alone."""
    found, left, published, looked = Results(tests), Left(attacks), size.source == "mnist", Alignments(looks)
    asked = [
        *claims_of_training(found, published=published), *claims_of_sets(found), *claims_of_attacks(left),
        *looked.claims(LOOKS, "Alignment"),
    ]  # fmt: skip
    tables = _tables(found, sets, left, size, tests)
    if looks:
        tables["Alignment of gradients with images"] = looked.table()
    spent = sum(one.seconds for rows in (tests, sets, attacks, looks) for one in rows)
    return StudySummary(
        study=NAME, title=TITLE, scale=scale, seeds=list(seeds), seconds=round(spent, 1),
        environment=Environment.here(device), tables=tables, claims=asked,
        notes=[*NOTES, *([] if published else [DIGITS])],
        pictures=[*pictures, *_pictures(found, left, size, published=published)], command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


NOTES = (
    "What the source calls robust is called group here: trained on the worst of five corruptions, which are also the "
    "test. Robustness to attacks is another matter, and is in the tables under attack.",
    "The source's first table is of August 2019, when the standard network was trained for 6 epochs; from November on, "
    "when the second one was written, for 15. Both stand here, and the later one is inverted.",
    "Both networks that are inverted are the faithful ones. Inverted are the 100 features before their ReLU, until the "
    "distance is 5 % of their length; the source inverts them after it, in 100 steps of which the last counts.",
    "Networks on sets take equal updates, one rate and one cycle, and see nine tenths of a set. By the published rule "
    "the sets are cleaned, the rate is constant and the one set is seen 25 times, the other 8 times.",
    "The source does not say whether its table 2 was made with cleaned images; both stand here. Which strokes cleaning "
    "leaves is no feature of a network.",
    "Encoders and sets have one seed, and seeds are those of the networks trained on sets: no interval knows of the "
    "spread between encoders. With fewer than three seeds intervals are over the test images, and what holds or fails "
    "does so of these networks; from three on they reach over the seeds, too. Networks by the published rule, of parts "
    "of the sets, of shuffled labels and of the start's class are trained once, whatever the number of seeds.",
    "Differences are paired by image. What exceeds neither the originals nor the set of the untrained network is no "
    "learned feature.",
    "Under attack, images are bisected over the radii: one that survives a radius counts for all smaller ones. "
    "Networks on parts of the sets, shuffled labels and the start's class are not attacked.",
    "The class of the start is judged on images whose start was not among those trained on.",
)
DIGITS = (
    "This scale takes digits of 8 x 8 pixels, of which the lines cover most, and 100 features hold all 64 of them: it "
    "shows that all works, and tells nothing about features. Published figures are of MNIST."
)
