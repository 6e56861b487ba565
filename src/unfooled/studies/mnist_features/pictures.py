"""Pictures of the MNIST features study that are drawn from the records."""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.drawing.figures import Picture
from unfooled.statistics.intervals import Interval
from unfooled.studies.common.feature_pictures import accuracy_by_column, accuracy_by_size, under_attack
from unfooled.studies.common.feature_results import Accuracies, AttackedAccuracies
from unfooled.studies.mnist_features.claims import ARMS, TABLE_1, TABLE_2
from unfooled.studies.mnist_features.scale import FIVE, PUBLISHED, MnistScale


def pictures(
    accuracies: Accuracies, attacked: AttackedAccuracies, size: MnistScale, *, published: bool
) -> list[Picture]:
    """Draw both tables, the curves under attack, and accuracy by the size of the set; images are drawn elsewhere."""
    first = {r.name: accuracies.accuracy(r.name) for r in size.recipes if r.name in accuracies}
    whole = [one for one in size.retrainings if one.sources is None and one.labels == "own" and one.name in accuracies]
    second = {one.name: accuracies.accuracy(one.name) for one in whole}
    known = {f"{network}, {arm}": row for network, row in TABLE_1.items() for arm in ARMS}
    known |= {f"{name}{ending}": row for name, row in TABLE_2.items() for ending in ("", PUBLISHED)}
    known = known if published else {}
    drawn = [accuracy_by_column(rows, known, FIVE, f"Table {k}") for k, rows in ((1, first), (2, second))]
    if curves := attacked.curves():
        drawn.append(under_attack(curves))
    if lines := _by_size(accuracies, size):
        drawn.append(accuracy_by_size(lines, FIVE))
    return drawn


def _by_size(accuracies: Accuracies, size: MnistScale) -> dict[str, dict[int, Sequence[Interval]]]:
    """Return set -> number of images -> accuracies, for sets that are trained on in several sizes."""
    lines: dict[str, dict[int, Sequence[Interval]]] = {}
    for retraining in size.retrainings:
        name = retraining.name.partition(",")[0]
        if retraining.name in accuracies and (retraining.sources is not None or retraining.name == name):
            lines.setdefault(name, {})[accuracies.rows[retraining.name][0].samples] = accuracies.accuracy(
                retraining.name
            )
    return {name: points for name, points in lines.items() if len(points) > 1}
