"""Agreement of predictions with labels: exact tests against guessing, and what a relabelling would explain.

P(X >= hits | n, 1/K)          guessing among K classes, n samples
P(X >= common | margins)       always answering one class (Fisher's exact test)
max over matchings of sum C    the one-to-one relabelling that explains most predictions (C: confusion matrix)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unfooled.statistics.distributions import at_least, at_most, hypergeometric_at_least

SIGNIFICANCE = 0.02
"""Level of the tests against guessing."""
NEAR_CONSTANT = 0.9
"""Share of the samples from which on one answer for them makes predictions nearly constant."""
N_SHUFFLES = 100
"""Number of shuffles of the labels that a relabelling is compared with."""


class Guess(NamedTuple):
    """Comparison of predictions with guessing.

    Attributes:
        better: True if they are better than guessing.
        hits: Number of correct predictions.
        p: Probability of at least as many hits by guessing.
        chance: Expected share of hits by guessing.
        common: Class that the guesses always answer. None: they are drawn from all classes.
        constant: True if all predictions are this class.
        one_class: True if all labels are of one class, so that always answering it cannot be told from knowing it.
    """

    better: bool
    hits: int
    p: float
    chance: float
    common: int | None = None
    constant: bool = False
    one_class: bool = False


class Matching(NamedTuple):
    """One-to-one relabelling that explains the predictions best.

    Attributes:
        pairs: Label -> predicted class.
        hits: Number of predictions that it explains.
        real: True if it explains more predictions than for any shuffle of the labels.
    """

    pairs: dict[int, int]
    hits: int
    real: bool


def guessing(prediction: np.ndarray, y: np.ndarray, classes: int) -> Guess:
    """Test whether predictions are better than guessing, exactly.

    Guessing means drawing one of the classes or always answering the most predicted one. Predictions that are all the
    same are never better, and those that nearly are only if the others among them are right more often than by chance,
    where a test can tell. Where there are so few samples that even perfect predictions could be luck, predictions count
    as guessing only if their hits do not exceed the expected number. Labels of one class cannot be tested.

    Args:
        prediction: Predicted classes, (n,).
        y: Labels, (n,).
        classes: Number of classes of the model.
    """
    n, right, chance = len(y), prediction == y, 1 / classes
    hits = int(right.sum())
    p = at_least(hits, n, chance)
    testable = chance**n <= SIGNIFICANCE
    if p > SIGNIFICANCE and (testable or hits <= n * chance):
        return Guess(False, hits, p, chance)
    common = int(np.bincount(prediction).argmax())
    other = y != common
    if len(np.unique(y)) == 1:
        return Guess(False, hits, 1.0, 1.0, int(y[0]), one_class=True)
    if (prediction == common).all():
        return Guess(False, hits, 1.0, hits / n, common, constant=True)
    if (fisher := _near_constant(prediction, y, common)) > SIGNIFICANCE:
        return Guess(False, hits, fisher, 1 - other.sum() / n, common)
    n_other, other_hits = int(other.sum()), int((right & other).sum())
    missed = at_most(other_hits, n_other, 0.5) <= SIGNIFICANCE and at_least(other_hits, n_other, chance) > SIGNIFICANCE
    if n_other and missed and (fisher := _one_class(prediction == common, ~other)) > SIGNIFICANCE:
        return Guess(False, hits, fisher, 1 - n_other / n, common)
    return Guess(True, hits, p, chance)


def _near_constant(prediction: np.ndarray, y: np.ndarray, common: int) -> float:
    """Return the p-value of the few answers other than the common one; 0: they are not few.

    Where no test can tell, it is 0 if more samples are right than by always answering the common one, and else 1.
    """
    n, answered, true = len(y), prediction == common, y == common
    few = int((~answered).sum())
    if n - few < NEAR_CONSTANT * n or true.all():
        return 0.0
    most = min(few, int((~true).sum()))  # answers that can be right
    least = hypergeometric_at_least(most, n, int((~true).sum()), few)
    if least > SIGNIFICANCE:
        return 0.0 if (prediction == y).sum() > true.sum() else 1.0
    return _one_class(answered, true)


def _one_class(answered: np.ndarray, true: np.ndarray) -> float:
    """Return the probability of at least as many correct answers of one class if the answers were shuffled."""
    return hypergeometric_at_least(int((answered & true).sum()), len(true), int(true.sum()), int(answered.sum()))


def shift(prediction: np.ndarray, y: np.ndarray, classes: int) -> tuple[int, int]:
    """Return the k != 0 with prediction = y + k (mod classes) most often, and how often; (0, 0): it could be chance.

    Args:
        prediction: Predicted classes, (n,).
        y: Labels, (n,).
        classes: Number of classes of the model.
    """
    counts = np.bincount((prediction - y) % classes, minlength=classes)
    counts[0] = 0
    by = int(counts.argmax())
    hits = int(counts[by])
    p = at_least(hits, len(y), 1 / classes) * (classes - 1)
    return (by if by <= classes / 2 else by - classes, hits) if p <= SIGNIFICANCE else (0, 0)


def matching(prediction: np.ndarray, y: np.ndarray, *, seed: int = 0) -> Matching:
    """Match labels with predicted classes one to one, so that as many predictions as possible are explained.

    Args:
        prediction: Predicted classes, (n,).
        y: Labels, (n,).
        seed: Random seed of the shuffled labels.
    """
    labels, rows = np.unique(y, return_inverse=True)
    answers, columns = np.unique(prediction, return_inverse=True)
    pairs, hits = _matched(rows, columns, len(labels), len(answers))
    source = np.random.default_rng(seed)
    chance = max(_matched(source.permutation(rows), columns, len(labels), len(answers))[1] for _ in range(N_SHUFFLES))
    return Matching({int(labels[i]): int(answers[j]) for i, j in pairs}, hits, hits > chance)


def at_best(prediction: np.ndarray, y: np.ndarray) -> int:
    """Return a number of predictions that no one-to-one relabelling exceeds: the sum of each class's commonest label.

    Args:
        prediction: Predicted classes, (n,).
        y: Labels, (n,).
    """
    labels, rows = np.unique(y, return_inverse=True)
    answers, columns = np.unique(prediction, return_inverse=True)
    counts = np.zeros((len(labels), len(answers)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    return int(min(counts.max(0).sum(), counts.max(1).sum())) if counts.size else 0


def _matched(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> tuple[list[tuple[int, int]], int]:
    """Return the pairs of the best one-to-one matching that occur in the data, and the number of samples they cover."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((height, width), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    first, second = linear_sum_assignment(counts, maximize=True)
    covered = counts[first, second]
    pairs = [(int(i), int(j)) for i, j, count in zip(first, second, covered, strict=True) if count]
    return pairs, int(covered.sum())
