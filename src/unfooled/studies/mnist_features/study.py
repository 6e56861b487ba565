"""MNIST features study: can networks be trained on images rebuilt from robust features? With added controls.

Table 1   a standard network, and one trained on each image's worst of five corruptions ("group"), under these five
Table 2   new networks, plainly trained on images rebuilt from the features of either of these

Beside them: the same recipe run until it converges; as many originals, plain and corrupted; images rebuilt from an
untrained network; shuffled labels; the class of the start image; parts of the sets; and every network under attack.

The published networks that see the rebuilt images are trained for 25 epochs on the one set and for 8 on the other. Here
all take equal updates; the published rule is run, too, its rate scaled so that rate x updates is the published product.

References:
    xziyue/robust_mnist_feature_py, 2019, revision 61c578e.
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175.
    Li et al., Adversarial examples are not real features, NeurIPS 2023, arXiv:2310.18936.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.runs.spelling import spelled
from unfooled.studies.common.feature_results import Accuracies, Alignments, AttackedAccuracies
from unfooled.studies.common.records import StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale
from unfooled.studies.mnist_features.bench import MnistBench
from unfooled.studies.mnist_features.claims import PAIRS, claims_of_attacks, claims_of_sets, claims_of_training
from unfooled.studies.mnist_features.pictures import pictures
from unfooled.studies.mnist_features.scale import SCALES, MnistScale
from unfooled.studies.mnist_features.tables import tables
from unfooled.studies.mnist_features.units import Results, measure

NAME, TITLE = "mnist-features", "Are robust features a data set?"


def run_mnist_features(
    scale: str | MnistScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train the encoders, rebuild images from them, train new networks on these, test and attack all.

    The encoders and the sets are made once, with seed 0. A folder may be given more seeds of the new networks later.

    Args:
        scale: "small" (digits), "medium" (MNIST, 11,200 images of each set; two cores) or "full" (all 60,000), MNIST
            from the folder that UNFOOLED_DATA names; or your own sizes.
        out: Folder; a second start continues it. None: nothing is stored.
        seeds: Random seeds of the networks that are trained on the sets, and of the attacks on them.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale, data that are not there, or a folder that holds other work.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    bench = MnistBench(size, out, progress=progress, device=device)  # first: missing data leave no folder
    settings = {**size.settings(), "retrainings": [spelled(one) for one in size.retrainings]}
    return run.finish(mnist_findings(measure(bench, run.units(settings, n=size.rebuilt), seeds), size))


def mnist_findings(results: Results, size: MnistScale) -> Findings:
    """Make tables, claims and pictures from the units alone."""
    accuracies, attacked, alignments = (
        Accuracies(results.tests),
        AttackedAccuracies(results.attacks),
        Alignments(results.alignments),
    )
    published = size.source == "mnist"
    made = tables(results, accuracies, attacked, size)
    if results.alignments:
        made["Alignment of gradients with images"] = alignments.table()
    claims = [
        *claims_of_training(accuracies, published=published), *claims_of_sets(accuracies), *claims_of_attacks(attacked),
        *alignments.claims(PAIRS, "Alignment"),
    ]  # fmt: skip
    return Findings(
        tables=made, claims=claims, notes=NOTES if published else [*NOTES, DIGITS],
        pictures=[*results.pictures, *pictures(accuracies, attacked, size, published=published)],
        seconds=seconds_of(results.tests, results.sets, results.attacks, results.alignments),
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
    "Encoders and sets have one seed, and seeds are those of the networks trained on sets: no interval covers the "
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
