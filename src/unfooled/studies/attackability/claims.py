"""Claims of the study of attackability: those of the published project, and those of the measures in its place."""

from __future__ import annotations

import numpy as np

from unfooled.statistics.intervals import NO_SAMPLES, Interval
from unfooled.studies.attackability.bench import PLANTED
from unfooled.studies.attackability.carried import EDIT, PGD, RANDOM
from unfooled.studies.attackability.figures import (
    Results,
    arm_gap,
    arrays,
    auroc,
    carried_column,
    factor_order,
    mean,
    median,
    over_networks,
    planted_effects,
    published_column,
    ratio,
    share,
    spearman,
    spearman_within,
)
from unfooled.studies.attackability.published import CONTROL, GAMED, SINGULAR
from unfooled.studies.attackability.scale import ARMS
from unfooled.studies.common.claims import MIN_DIFFERENCE as ABOVE
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim

OWN, SEED = "unfooled", "Sridhar, SPECTRA, arXiv:2605.25304"
STANDARD, PGD_AT, TERM = "standard", "PGD-AT", "published term"
SEMANTIC = tuple(arm for arm in ARMS if arm not in (STANDARD, PGD_AT))


def claims(results: Results) -> list[Claim]:
    """Decide all claims on the shapes and on the published metric."""
    return [
        *_of_geometry(results), *_of_published(results), *_of_edits(results), *_of_effects(results),
        *_of_radii(results), *_of_training(results),
    ]  # fmt: skip


def _of_geometry(results: Results) -> list[Claim]:
    """Decide whether the exact distances are exact."""
    parts = [arrays(one.columns) for one in results.geometries]
    sides = [np.concatenate([one[name] for one in parts]) if parts else np.zeros(0) for name in ("above", "below")]
    text = "Labels change at 1.001 of the exact distance and not at .999; share of the scenes, at least .99."
    return [claim(text, OWN, share(sides[0] * (1 - sides[1])), 0.99)]


def _of_published(results: Results) -> list[Claim]:
    """Decide the published claim of minimal perturbations, and whether the score is gamed."""
    over = published_column(results, "overstated") if results.published else np.zeros(0)
    minimal = "The published perturbations are minimal: exact over published distance, random heads, at least .95."
    least = "Without bias, the published attackability is at least 1 whatever the weights; share, at least .95."
    made = [claim(minimal, SEED, median(1 / over), 0.95)]
    if not results.published:
        return made
    made.append(claim(least, OWN, share(published_column(results, "at least 1")), 0.95))
    for name, other, words in (
        (CONTROL, GAMED, "Training a head on the published term"),
        ("plain", SINGULAR, "Setting one singular value, without training,"),
    ):
        gain = ratio(*(published_column(results, f"{one}, published") for one in (name, other)))
        real = ratio(*(published_column(results, f"{one}, exact") for one in (other, name)))
        made.append(claim(f"{words} lowers the published attackability at least fivefold; ratio.", OWN, gain, 5.0))
        made.append(claim(f"{words} lengthens the exact distance at least fivefold; ratio.", SEED, real, 5.0))
    return made


def _of_edits(results: Results) -> list[Claim]:
    """Decide whether edits can be carried into pixels, and whether only the edited attribute then changes."""

    def column(kind: str, name: str) -> np.ndarray:
        return carried_column(results, f"{kind}, {name}")

    own, pgd = column(EDIT, "selectivity"), column(PGD, "selectivity")
    gap = column(EDIT, "valid") - column(RANDOM, "valid")
    return [
        claim("Edits of one attribute are valid in pixels; share, at least .95.", OWN,
              share(column(EDIT, "valid")), 0.95),
        claim("They are valid after rounding to 8 bits; share, at least .95.", OWN,
              share(column(EDIT, "valid_8bit")), 0.95),
        claim("Changes are localised: share of the squared change on the edited attribute, median, at least .8.", SEED,
              median(own), 0.8),
        claim("Edits are more selective than targeted PGD at the same budget; difference.", OWN,
              mean(own - pgd), ABOVE),
        claim("Edits are at least 5 times as selective as targeted PGD; ratio of the medians.", OWN,
              ratio(own, pgd) if len(own) else NO_SAMPLES, 5.0),
        claim("The label changes because of the edited attribute: valid more often than a random one; difference.",
              SEED, mean(gap), ABOVE),
    ]  # fmt: skip


def _of_effects(results: Results) -> list[Claim]:
    """Decide whether effects rank the factors as twins do, and whether the planted one stands out."""
    made = []
    for what, words in (("total", "total effect"), ("head", "effect through the head alone")):
        text = f"The {words} ranks the learnt factors as their twins do; Spearman, networks, at least .8."
        made.append(claim(text, OWN, factor_order(results.geometries, what), 0.8))
    free, planted = (results.alarm_at(rho) for rho in results.rhos[:2]) if len(results.rhos) > 1 else ([], [])
    for what, words in (("total", "in total"), ("head", "through the head")):
        own, others = planted_effects(planted, what)
        before, _ = planted_effects(free, what)
        for figure, against in ((auroc(own, others), "irrelevant factors"), (auroc(own, before), "itself unplanted")):
            text = f"The effect of the planted {PLANTED} {words} stands out against {against}; AUROC"
            made.append(claim(f"{text}, above chance.", OWN, figure, 0.5 + ABOVE))
            if what == "total":
                made.append(claim(f"{text}, at least .9.", OWN, figure, 0.9))
    return made


def _of_radii(results: Results) -> list[Claim]:
    """Decide whether the radius predicts distances in pixels."""
    first = [arrays(one.columns, one.seed) for one in results.near[:1]]
    every = [arrays(one.columns, k) for k, one in enumerate(results.near)]
    rows = over_networks(results)
    few = len(rows["id"]) < 4
    return [
        claim("The radius ranks the scenes of one network as their pixel distances do; Spearman, at least .8.", OWN,
              spearman(first, "radius", "distance"), 0.8),
        claim("It does so for every network; Spearman, mean of the networks, at least .6.", OWN,
              spearman(every, "radius", "distance"), 0.6),
        claim("Among scenes of one class it does so; Spearman, classes taken out, mean of the networks, at least .6.",
              OWN, spearman_within(every, "radius", "distance"), 0.6),
        claim("It ranks better than the plain margin does; difference of the means of Spearman.", OWN,
              _less(spearman(every, "radius", "distance"), spearman(every, "margin", "distance")), ABOVE),
        claim("The median radius ranks networks as their median pixel distance does; Spearman, at least .6.", OWN,
              NO_SAMPLES if few else spearman([rows], "radius", "distance"), 0.6),
    ]  # fmt: skip


def _less(a: Interval, b: Interval) -> Interval:
    """Return a difference; its interval takes both figures as independent, which makes it too wide."""
    if not (a.n and b.n):
        return NO_SAMPLES
    down, up = np.hypot(a.value - a.low, b.high - b.value), np.hypot(a.high - a.value, b.value - b.low)
    value = a.value - b.value
    return Interval(value, value - float(down), value + float(up), a.n)


def _of_training(results: Results) -> list[Claim]:
    """Decide whether semantic training improves the published score, the radius, pixel distances and robustness."""
    falls = "Attackability falls with training on the published term; standard less trained, published score."
    made = [
        claim(falls, SEED, arm_gap(results, "published", STANDARD, TERM, median), ABOVE),
        claim("The radius rises with training on the published term; trained less standard.", SEED,
              arm_gap(results, "radius", TERM, STANDARD, median), ABOVE),
        claim("Pixel distances rise with training on the published term; trained less standard.", SEED,
              arm_gap(results, "distance", TERM, STANDARD, median), ABOVE),
        claim("Training on the published term gives better stability: robust accuracy above plain training; "
              "difference.", SEED, arm_gap(results, "robust", TERM, STANDARD, mean), ABOVE),
    ]  # fmt: skip
    for arm in SEMANTIC:
        if not any(one.arm == arm for one in results.trained):
            continue
        text = f"Training by {arm} is more robust than PGD-AT at equal compute; difference."
        made.append(claim(text, OWN, arm_gap(results, "robust", arm, PGD_AT, mean), ABOVE))
        text = f"Training by {arm} is as accurate as PGD-AT on clean scenes; difference, at least -.01."
        made.append(claim(text, OWN, arm_gap(results, "clean", arm, PGD_AT, mean), -0.01))
    return made
