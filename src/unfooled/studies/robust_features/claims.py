"""Claims of the study of robust features."""

from __future__ import annotations

from unfooled.statistics.bootstrap import discrete_mean
from unfooled.statistics.intervals import Interval, over_seeds
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim
from unfooled.studies.common.feature_results import Accuracies, Alignments, AttackedAccuracies
from unfooled.studies.common.records import Claim
from unfooled.studies.robust_features.scale import (
    D_DET,
    D_RAND,
    HALF,
    HARDENED,
    HARDENED_TOO,
    NATURAL,
    NON_ROBUST,
    ORIGINALS,
    RANDOM,
    ROBUST,
    WHOLE,
)
from unfooled.studies.robust_features.units import Results

ILYAS, REAL = "Ilyas et al. 2019, arXiv:1905.02175", "Li et al. 2023, arXiv:2310.18936"
MAX_ACCURACY_LOSS = 0.10
"""Clean accuracy that the non-robust set may cost (published: 8 points, against all originals)."""
MAX_EQUAL_GAIN = 0.02
"""Gain in robust accuracy up to which two networks count as equally robust."""
MIN_FAR_LOSS = 0.10
"""Loss of robust accuracy from which a network counts as far below a hardened one."""
MIN_FOOLED_SHARE = 0.9
"""Share of images misclassified under attack from which a network counts as largely not robust."""
PAIRS = ((HARDENED, NATURAL, "Etmann et al. 2019, arXiv:1905.04172"), (ROBUST, ORIGINALS, "unfooled"))
"""Networks whose gradients are compared, and the source of the claim."""


def claims(results: Results) -> list[Claim]:
    """Decide all claims on one data set."""
    tests, attacked, where = Accuracies(results.tests), AttackedAccuracies(results.attacks), results.task.source
    return [
        *_of_the_robust_set(attacked, where),
        *_of_the_non_robust_set(tests, attacked, where),
        *_of_moved_images(tests, where, results.chance),
        *_of_real_robustness(attacked, where),
        *Alignments(results.alignments).claims(PAIRS, where),
    ]


def _at(attacked: AttackedAccuracies, k: int) -> tuple[str, str]:
    """Return the norm, and the name of the k-th radius in a claim."""
    ((norm, radii),) = attacked.radii.items()
    return norm, f"{norm} {radii[k]:g}"


def _of_the_robust_set(attacked: AttackedAccuracies, where: str) -> list[Claim]:
    """Decide whether plain training on the robust set gives robust accuracy."""
    norm, half = _at(attacked, HALF)
    return [
        claim(f"{where}, {half}: {text}; difference.", source, attacked.gap(norm, ROBUST, other, HALF), MIN_DIFFERENCE)
        for other, source, text in (
            (ORIGINALS, ILYAS, "plain training on the robust set gives more robust accuracy than on as many originals"),
            (RANDOM, "unfooled", "the robust set gives more than images rebuilt from an untrained network"),
            (NON_ROBUST, ILYAS, "the robust set gives more than the non-robust set"),
        )
    ]


def _of_the_non_robust_set(tests: Accuracies, attacked: AttackedAccuracies, where: str) -> list[Claim]:
    """Decide whether plain training on the non-robust set gives accuracy without robustness."""
    norm, half = _at(attacked, HALF)
    return [
        claim(
            f"{where}: the non-robust set costs at most {100 * MAX_ACCURACY_LOSS:.0f} points of clean accuracy against "
            "as many originals; difference.", ILYAS, tests.gap(NON_ROBUST, ORIGINALS, [0]), -MAX_ACCURACY_LOSS,
        ),
        claim(
            f"{where}: the non-robust set gives more clean accuracy than images rebuilt from an untrained network; "
            "difference.", "unfooled", tests.gap(NON_ROBUST, RANDOM, [0]), MIN_DIFFERENCE,
        ),
        claim(
            f"{where}, {half}: the non-robust set gives no more robust accuracy than originals, to "
            f"{100 * MAX_EQUAL_GAIN:.0f} points; originals minus it.", ILYAS,
            attacked.gap(norm, ORIGINALS, NON_ROBUST, HALF), -MAX_EQUAL_GAIN,
        ),
    ]  # fmt: skip


def _of_moved_images(tests: Accuracies, where: str, chance: float) -> list[Claim]:
    """Decide whether networks trained on D_rand and D_det are accurate on the originals."""
    true, following = tests.correct(D_DET).T
    by_seed = [one.correct() for one in tests.rows[D_DET]]
    gap: Interval = over_seeds([float((c[:, 0] - c[:, 1]).mean()) for c in by_seed], discrete_mean(true - following))
    return [
        *(
            claim(
                f"{where}: what {name} teaches holds on the originals; clean accuracy, more than the largest "
                f"class's share ({chance:.3f}).", ILYAS, tests.accuracy(name)[0], chance + MIN_DIFFERENCE,
            )
            for name in (D_RAND, D_DET)
        ),
        claim(
            f"{where}: trained on D_det, a network says an image's class more often than the next one, by which such "
            "images were labelled; difference.", "unfooled", gap, MIN_DIFFERENCE,
        ),
    ]  # fmt: skip


def _of_real_robustness(attacked: AttackedAccuracies, where: str) -> list[Claim]:
    """Decide whether a network that is trained on the robust set is robust."""
    (norm, half), (_, whole) = _at(attacked, HALF), _at(attacked, WHOLE)
    return [
        claim(
            f"{where}, {whole}: the network trained on the robust set is largely not robust; share of images that it "
            f"is wrong on, at least {MIN_FOOLED_SHARE:g}.", REAL, attacked.accuracy(norm, ROBUST, WHOLE).complement(),
            MIN_FOOLED_SHARE,
        ),
        claim(
            f"{where}, {half}: plain training on the robust set is far from hardening on as many originals, by "
            f"{100 * MIN_FAR_LOSS:.0f} points or more; hardened minus it.", REAL,
            attacked.gap(norm, HARDENED_TOO, ROBUST, HALF), MIN_FAR_LOSS,
        ),
    ]  # fmt: skip
