"""Are there features that predict and are not robust? Four sets of what networks see, and networks trained on each.

    robust set       (x_r, y), x_r looks to a hardened network as x does, and was rebuilt from an unrelated image
    non-robust set   the same of a natural network
    D_rand           (x_adv, t), moved until a natural network says t, which is drawn at random
    D_det            the same, t the class after the image's own: robust features mislead

A fresh network is trained plainly on each, equally long; beside it stand one on as many originals, one that is hardened
on these, one on images rebuilt from an untrained network, and one on shuffled labels. Each is tested on the original
test images, clean and, but for the last, under the cascade at four radii.

Networks are hardened in L2, the norm in which features are inverted and images are moved, as at the source: at 1.5 for
MNIST, .75 for Fashion-MNIST, .75 for digits. Claims on robustness are decided at half of that, the published share (.25
of .5 for CIFAR-10); every radius is in the tables.

References:
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175.
    Li et al., Adversarial examples are not real features, NeurIPS 2023, arXiv:2310.18936.
    Differs: smaller images and networks; residuals below 5 % end an inversion; D_rand and D_det at the smallest radius
    in which 95 % of the targets are reached; controls, intervals, and the cascade in place of PGD.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unfooled.attacks.ensembles.cascade import EFFORTS
from unfooled.core.errors import BadInput
from unfooled.data.load import load_dataset
from unfooled.drawing.figures import Picture
from unfooled.runs.chunks import Progress
from unfooled.runs.records import Config, Environment, write_record
from unfooled.runs.units import Units, chosen, filed, named
from unfooled.statistics import intervals
from unfooled.studies.common.features_pictures import digits, under_attack
from unfooled.studies.common.features_records import (
    ALIGNED,
    Aligned,
    Alignments,
    Attacked,
    Drawn,
    Left,
    Measured,
    Reach,
    Rebuilt,
    Results,
    aligned,
    columns,
)
from unfooled.studies.common.figures import Figures, claim, mean, over_seeds, text
from unfooled.studies.common.radii import survived
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.robust_features.sets import (
    D_DET,
    D_RAND,
    HARDENED,
    HARDENED_TOO,
    NATURAL,
    NON_ROBUST,
    ORIGINALS,
    RANDOM,
    REACHED,
    ROBUST,
    SCALES,
    SEEN,
    SETS,
    SHUFFLED,
    TRAINED_ON,
    Bench,
    Scale,
    Task,
)

NAME, TITLE = "robust-features", "Are there features that predict and are not robust?"
ILYAS, REAL = "Ilyas et al. 2019, arXiv:1905.02175", "Li et al. 2023, arXiv:2310.18936"
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the radius that one network is hardened at: where all are attacked."""
HALF, WHOLE = SHARES.index(0.5), SHARES.index(1.0)
LOST = 0.10
"""What the non-robust set may cost in clean accuracy (published: 8 points, against all originals)."""
SAME = 0.02
"""How much more robust accuracy is none."""
FAR = 0.10
"""How much less robust accuracy than that of a hardened network is far from it."""
LARGELY = 0.9
"""Share of images that a network is wrong on under attack that is largely not robust."""
PART = 1000
"""Images that are attacked at a time."""
ABOVE = 1e-9
"""What a difference must be for a claim that says more: not nothing."""
ENCODERS = (NATURAL, HARDENED)
LOOKS = ((HARDENED, NATURAL, "Etmann et al. 2019, arXiv:1905.04172"), (ROBUST, ORIGINALS, "unfooled"))
"""Of which networks gradients are compared."""
ATTACKED = (*ENCODERS, *(name for name in TRAINED_ON if name != SHUFFLED))


class Found:
    """What was measured of one data set, over all seeds."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.chance = 0.0
        self.tests: list[Measured] = []
        self.reach: dict[int, Reach] = {}
        self.sets: dict[int, list[Rebuilt]] = {}
        self.attacks: list[Attacked] = []
        self.looks: list[Aligned] = []
        self.pictures: list[Picture] = []


def study(
    scale: str,
    *,
    out: Path | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    size: Scale | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train a natural and a hardened network, make the sets, train on each, test and attack all.

    Seeds are independent of each other, encoders and sets included: a folder may be given more of them later.

    Args:
        scale: "small" (digits), "medium" (MNIST and Fashion-MNIST, 10,000 images of each set, from the folder that
            UNFOOLED_DATA names) or "full" (59,000 images, and all test images under attack).
        out: the study's folder; a second start continues it.
        seeds: of everything.
        data: data sets to look at; all of the scale's where None.
        size: other sizes than the scale's.
        device: where networks are.
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
    config = Config(
        model=f"study {NAME}", data="the scale's", n=size.rebuilt, threat="each data set's", seed=0,
        options={"scale": scale, "size": size.told()},
    )  # fmt: skip
    some = chosen(list(known), data)
    for source in some:  # data that are not there leave no folder
        load_dataset(source, "test", n=1)
    units = Units(out, config, progress)
    found = []
    for source in some:
        one = Found(known[source])
        for seed in seeds:
            _one(one, Bench(one.task, size, seed, folder=out, device=device, progress=progress), units)
        found.append(one)
    summary = summarise(found, size, scale=scale, seeds=seeds, device=device, command=command)
    if out is not None:
        write_record(out / "summary.json", summary)
    return summary


def _one(found: Found, bench: Bench, units: Units) -> None:
    """One data set and seed: train, make the sets, train on them, attack."""
    stage = f"{bench.task.source}, seed {bench.seed}"
    # What a network reads rightly that always says the same class.
    found.chance = float(bench.test[1].bincount().max()) / len(bench.test[1])
    tested, attacked = partial(_tested, bench), partial(_attacked, bench)
    found.tests += units.map(f"{stage}, encoders", Measured, *named(ENCODERS, tested))
    (reach,) = units.map(f"{stage}, radius", Reach, ["radius"], lambda _: bench.reach())
    bench.eps, found.reach[bench.seed] = reach.eps, reach
    found.sets[bench.seed] = units.map(f"{stage}, sets", Rebuilt, *named(SETS, partial(_set, bench)))
    if not found.pictures:
        drawn = units.map(f"{stage}, pictures", Drawn, ["images"], lambda _: Drawn(pictures=[_images(bench)]))
        found.pictures = drawn[0].pictures
    found.tests += units.map(f"{stage}, trained on sets", Measured, *named(TRAINED_ON, tested))
    parts = {filed(f"{name}, {a}") if a else filed(name): (name, a) for name in ATTACKED for a in _parts(bench)}
    kept = units.map(f"{stage}, attacks", Attacked, list(parts), lambda unit: attacked(*parts[unit]))
    found.attacks += _joined(kept)
    found.looks += units.map(f"{stage}, alignment", Aligned, *named(ATTACKED, partial(_aligned, bench)))


def _tested(bench: Bench, name: str) -> Measured:
    net, own = bench.network(name), None
    x = bench.train[0]
    if name in TRAINED_ON:
        (x, _), held = bench.samples(name)
        own = intervals.share(bench.labels(net, held[0]) == held[1])
    labels, (test, truth) = bench.labels(net, bench.test[0]), bench.test
    updates = {NATURAL: bench.task.natural, HARDENED: bench.task.hardened}.get(name, bench.task.fresh)
    right = torch.stack([labels == truth, labels == (truth + 1) % len(bench.classes)], 1)
    return Measured(
        name=name, seed=bench.seed, loss=str(bench.loss(name)), updates=updates, samples=len(x), right=columns(right),
        n=len(test), own=own, seconds=round(bench.seconds[name], 1),
    )  # fmt: skip


def _aligned(bench: Bench, name: str) -> Aligned:
    x, y = (part[:ALIGNED].to(bench.device) for part in bench.test)
    return aligned(bench.network(name), x, y, name=name, seed=bench.seed)


def _set(bench: Bench, name: str) -> Rebuilt:
    made, about = bench.made(name), bench.made(name).manifest
    to_start = None
    if name in SEEN:
        to_start = float((made.x - bench.train[0][made.start]).flatten(1).norm(dim=1).median())
    return Rebuilt(
        origin=name, n=len(made), residual=about["residual"]["stored"], reached=about["reached"],
        vanished=about.get("vanished"), gradients=about.get("gradients"), to_start=to_start,
        to_source=float((made.x - bench.sources()[0]).flatten(1).norm(dim=1).median()),
        seconds=round(about["seconds"], 1),
    )  # fmt: skip


def _images(bench: Bench) -> Picture:
    """The first image of each class, ten classes at most."""
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
    return digits(lines, names, title=f"{bench.task.source}: images of each set", caption=caption)


def _parts(bench: Bench) -> range:
    """First rows of what is attacked at a time: a kill loses no more."""
    return range(0, min(bench.size.robust_n, len(bench.test[1])), PART)


def _joined(parts: Sequence[Attacked]) -> list[Attacked]:
    """Parts of the same network, which follow each other, as one."""
    whole: list[Attacked] = []
    for part in parts:
        if whole and whole[-1].name == part.name:
            last = whole.pop()
            more = {"survived": last.survived + part.survived, "seconds": round(last.seconds + part.seconds, 1)}
            part = part.model_copy(update=more)
        whole.append(part)
    return whole


def _attacked(bench: Bench, name: str, first: int) -> Attacked:
    net, started = bench.network(name), time.perf_counter()
    rows = slice(first, min(first + PART, bench.size.robust_n))
    x, y = (part[rows].to(bench.device) for part in bench.test)
    threats = [bench.task.threat.scaled(share) for share in SHARES]
    kept = survived(net, x, y, threats, seed=bench.seed, effort=EFFORTS[bench.size.effort])
    return Attacked(
        name=name, seed=bench.seed, norm=f"l{bench.task.threat.norm:g}", radii=[float(t.eps) for t in threats],
        survived=kept.tolist(), seconds=round(time.perf_counter() - started, 1),
    )  # fmt: skip


def claims(found: Found) -> list[Claim]:
    """What is asked of one data set."""
    tests, left, where = Results(found.tests), Left(found.attacks), found.task.source
    ((norm, radii),) = left.radii.items()
    half, whole = f"{norm} {radii[HALF]:g}", f"{norm} {radii[WHOLE]:g}"

    def kept(first: str, second: str, k: int = HALF) -> Figures:
        return left.gap(norm, first, second, k)

    value, low, high, n = left.accuracy(norm, ROBUST, WHOLE)
    true, following = tests.correct(D_DET).T
    each = [one.correct() for one in tests.rows[D_DET]]
    return [
        claim(
            f"{where}, {half}: plain training on the robust set gives more robust accuracy than on as many originals; "
            "difference.", ILYAS, kept(ROBUST, ORIGINALS), ABOVE,
        ),
        claim(
            f"{where}, {half}: the robust set gives more than images rebuilt from an untrained network; difference.",
            "unfooled", kept(ROBUST, RANDOM), ABOVE,
        ),
        claim(
            f"{where}, {half}: the robust set gives more than the non-robust set; difference.", ILYAS,
            kept(ROBUST, NON_ROBUST), ABOVE,
        ),
        claim(
            f"{where}: the non-robust set costs at most {100 * LOST:.0f} points of clean accuracy against as many "
            "originals; difference.", ILYAS, tests.gap(NON_ROBUST, ORIGINALS, [0]), -LOST,
        ),
        claim(
            f"{where}: the non-robust set gives more clean accuracy than images rebuilt from an untrained network; "
            "difference.",
            "unfooled", tests.gap(NON_ROBUST, RANDOM, [0]), ABOVE,
        ),
        claim(
            f"{where}, {half}: the non-robust set gives no more robust accuracy than originals, to {100 * SAME:.0f} "
            "points; originals minus it.", ILYAS, kept(ORIGINALS, NON_ROBUST), -SAME,
        ),
        *(
            claim(
                f"{where}: what {name} teaches holds on the originals; clean accuracy, more than the largest "
                f"class's share ({found.chance:.3f}).", ILYAS, tests.accuracy(name)[0], found.chance + ABOVE,
            )
            for name in (D_RAND, D_DET)
        ),
        claim(
            f"{where}: trained on D_det, a network says an image's class more often than the next one, by which such "
            "images were labelled; difference.", "unfooled",
            over_seeds([float((c[:, 0] - c[:, 1]).mean()) for c in each], mean(true - following)), ABOVE,
        ),
        claim(
            f"{where}, {whole}: the network trained on the robust set is largely not robust; share of images that it "
            f"is wrong on, at least {LARGELY:g}.", REAL, (1 - value, 1 - high, 1 - low, n), LARGELY,
        ),
        claim(
            f"{where}, {half}: plain training on the robust set is far from hardening on as many originals, by "
            f"{100 * FAR:.0f} points or more; hardened minus it.", REAL, kept(HARDENED_TOO, ROBUST), FAR,
        ),
        *Alignments(found.looks).claims(LOOKS, where),
    ]  # fmt: skip


def tables(found: Found, size: Scale) -> dict[str, list[dict[str, Any]]]:
    """Clean and robust accuracies, their differences, and the sets."""
    tests, left, where = Results(found.tests), Left(found.attacks), found.task.source
    ((norm, radii),) = left.radii.items()
    at = [f"{norm} {eps:g}" for eps in radii]
    first = [
        {
            "network, or set it was trained on": name, "clean": text(tests.accuracy(name)[0]),
            "says the next class": text(tests.accuracy(name)[1]),
            **{column: text(left.accuracy(norm, name, k)) if name in left.rows[norm] else ""
               for k, column in enumerate(at)},
        }
        for name in (*ENCODERS, *TRAINED_ON)
    ]  # fmt: skip
    minus = [
        {
            "difference": f"{a} minus {b}", "clean": text(tests.gap(a, b, [0])),
            **{column: text(left.gap(norm, a, b, k))
               for k, column in enumerate(at)},
        }
        for a, b in (
            (ROBUST, NON_ROBUST), *((a, b) for a in SETS for b in (ORIGINALS, RANDOM) if a != b), (HARDENED_TOO, ROBUST)
        )
    ]  # fmt: skip
    made = [(seed, row) for seed, rows in found.sets.items() for row in rows]
    rebuilt = [
        {
            "set": row.origin, "seed": seed, "images": row.n, "residual, median": row.residual["0.5"],
            "95 %": row.residual["0.95"], "done early": row.reached, "no gradient": row.vanished,
            "gradients": row.gradients, "l2 to the source": row.to_source, "to the start": row.to_start,
            "seconds": row.seconds,
        }
        for seed, row in made if row.origin in SEEN
    ]  # fmt: skip
    moved = [
        {
            "set": row.origin, "seed": seed, "images": row.n, "radius": found.reach[seed].eps,
            "targets reached": row.reached, "margin over the target, median": row.residual["0.5"],
            "95 %": row.residual["0.95"], "l2 to the source": row.to_source, "seconds": row.seconds,
        }
        for seed, row in made if row.origin not in SEEN
    ]  # fmt: skip
    reach = [
        {"seed": seed, "radius": eps, "targets reached": share, "choice": "taken" if eps == one.eps else ""}
        for seed, one in found.reach.items()
        for eps, share in zip(one.tried, one.share, strict=True)
    ]
    networks = [
        {"network": t.name, "seed": t.seed, "images": t.samples, "updates": t.updates,
         "clean accuracy": float(t.correct()[:, 0].mean()),
         "held out of its set": f"{t.own.value:.3f}" if t.own is not None and t.own.value is not None else "",
         "seconds of training": t.seconds, "loss": t.loss} for t in found.tests
    ]  # fmt: skip
    return {
        f"{where}: clean accuracy, and what the cascade ({size.effort}) leaves": first,
        f"{where}: differences, paired by image": minus,
        f"{where}: sets of rebuilt images": rebuilt,
        f"{where}: sets of moved images": moved,
        f"{where}: radii of these, on images held out of training": reach,
        f"{where}: alignment of gradients with images": Alignments(found.looks).table(),
        f"{where}: networks": networks,
    }


def summarise(
    found: Sequence[Found], size: Scale, *, scale: str, seeds: Sequence[int], device: str, command: str
) -> StudySummary:
    """Tables, claims and pictures from the units alone."""
    pictures: list[Picture] = []
    notes, spent = list(NOTES), 0.0
    for one in found:
        left = Left(one.attacks)
        curves = {
            norm: {name: (radii, [left.accuracy(norm, name, k)[0] for k in range(-1, len(radii))]) for name in rows}
            for norm, radii in left.radii.items()
            if (rows := left.rows[norm])
        }
        short = [seed for seed, reach in one.reach.items() if reach.share[-1] < REACHED]
        if short:
            notes.append(
                f"{one.task.source}: in no radius were {100 * REACHED:.0f} % of the targets reached (seed "
                f"{', '.join(map(str, short))}); D_rand and D_det are made in the last one."
            )
        pictures += [*one.pictures, under_attack(curves, f"{one.task.source}: under attack")]
        spent += sum(row.seconds for rows in (one.tests, one.attacks, one.looks) for row in rows)
        spent += sum(row.seconds for rows in one.sets.values() for row in rows)
    return StudySummary(
        study=NAME, title=TITLE, scale=scale, seeds=list(seeds), seconds=round(spent, 1),
        environment=Environment.here(device),
        tables={title: rows for one in found for title, rows in tables(one, size).items()},
        claims=[line for one in found for line in claims(one)], notes=notes, pictures=pictures,
        command=command, created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


NOTES = (
    "Clean accuracy is over all test images, robust accuracy over the first of them: images are bisected over the "
    "radii, and one that survives a radius counts for all smaller ones. Accuracy of one network has an exact interval; "
    "over several seeds, intervals are bootstraps over images, and from three seeds on reach over these as well, "
    "whichever is farther; with fewer, what holds or fails does so of these networks. Differences are paired by image.",
    "Every fresh network takes the same updates on the same number of images, nine tenths of its set; the encoders see "
    "all training images, but for those on which the radius of D_rand and D_det is chosen.",
    "What a set does is its difference to as many originals, and to images rebuilt from an untrained network, whose "
    "features carry pixels, too.",
    "In D_rand robust features say nothing of the label, in D_det they say another one. A large radius moves what an "
    "eye sees as well: whether D_rand holds such features alone is to be judged from its images and its radius.",
    "Robust is what the cascade leaves, an upper bound. That a set makes a network more robust than originals do does "
    "not make it robust: both claims stand here.",
)
