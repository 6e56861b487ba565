"""Robust features study: are there features that predict but are not robust? Four sets, and networks trained on each.

    robust set       (x_r, y), x_r was optimised from an unrelated image to have a hardened network's features of x
    non-robust set   the same with a natural network
    D_rand           (x_adv, t), x perturbed until a natural network predicts t, a class drawn at random
    D_det            the same with t = y + 1: robust features point to the wrong class

A hardened network is adversarially trained, a natural one is not. A new network is trained without attacks on each set,
for the same number of updates. For comparison, others are trained on as many originals, hardened on these, and trained
on images rebuilt from an untrained network and on shuffled labels. Each is tested on the original test images, clean
and (all but the one with shuffled labels) under the cascade at four radii.

Networks are hardened in L2, the norm in which features are inverted and images are moved, as in the paper: at 1.5 for
MNIST, .75 for Fashion-MNIST, .75 for digits. Claims on robustness are decided at half of that, the paper's ratio (.25
of .5 for CIFAR-10); every radius is in the tables.

References:
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175.
    Li et al., Adversarial examples are not real features, NeurIPS 2023, arXiv:2310.18936.
    Differs: smaller images and networks; residuals below 5 % end an inversion; D_rand and D_det at the smallest radius
    in which 95 % of the targets are reached; controls, intervals, and the cascade in place of PGD.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.common.feature_pictures import under_attack
from unfooled.studies.common.feature_results import AttackedAccuracies
from unfooled.studies.common.records import StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale
from unfooled.studies.robust_features.bench import FeatureBench
from unfooled.studies.robust_features.claims import claims
from unfooled.studies.robust_features.scale import MIN_REACHED, SCALES, FeatureScale
from unfooled.studies.robust_features.tables import tables
from unfooled.studies.robust_features.units import Results, measure

NAME, TITLE = "robust-features", "Are there features that predict and are not robust?"


def run_robust_features(
    scale: str | FeatureScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train a natural and a hardened network, make the sets, train on each, test and attack all.

    Every seed has its own encoders and sets; more seeds can be added to a folder later.

    Args:
        scale: "small" (digits), "medium" (MNIST and Fashion-MNIST, 10,000 images of each set, from the folder that
            UNFOOLED_DATA names) or "full" (59,000 images, and all test images under attack); or your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds; each repeats everything.
        data: Data sets to look at; None: all of the scale's.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    results, _ = run.task_results(size, data, measure, FeatureBench, n=size.rebuilt)
    return run.finish(feature_findings(results, size))


def feature_findings(results: Sequence[Results], size: FeatureScale) -> Findings:
    """Make tables, claims and pictures from the stored results."""
    pictures, notes, seconds = [], list(NOTES), 0.0
    for result in results:
        curves = AttackedAccuracies(result.attacks).curves()
        pictures += [*result.pictures, under_attack(curves, f"{result.task.source}: under attack")]
        notes += short_of_targets(result)
        seconds += seconds_of(result.tests, result.attacks, result.alignments, *result.sets.values())
    made = {title: rows for result in results for title, rows in tables(result, size).items()}
    return Findings(made, [claim for result in results for claim in claims(result)], notes, pictures, seconds)


def short_of_targets(results: Results) -> list[str]:
    """Return a note where no radius was large enough for D_rand and D_det."""
    short = [seed for seed, reach in results.reach.items() if reach.share[-1] < MIN_REACHED]
    if not short:
        return []
    return [
        f"{results.task.source}: in no radius were {100 * MIN_REACHED:.0f} % of the targets reached (seed "
        f"{', '.join(map(str, short))}); D_rand and D_det are made in the last one."
    ]


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
