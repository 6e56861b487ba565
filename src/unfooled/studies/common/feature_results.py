"""Figures of the studies of features, over seeds; with three seeds or more, intervals cover these as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from unfooled.statistics.bootstrap import discrete_mean
from unfooled.statistics.intervals import Interval, over_seeds, share
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim
from unfooled.studies.common.feature_records import Aligned, Attacked, Measured
from unfooled.studies.common.records import Claim, Table, array


class Accuracies:
    """Accuracies of networks by name.

    Args:
        tests: Tested networks of all seeds.

    Attributes:
        rows: Name -> the networks of that name, one per seed.
    """

    def __init__(self, tests: Sequence[Measured]) -> None:
        self.rows: dict[str, list[Measured]] = {}
        for test in tests:
            self.rows.setdefault(test.name, []).append(test)
        self._correct = {name: np.mean([test.correct() for test in rows], 0) for name, rows in self.rows.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def correct(self, name: str) -> np.ndarray:
        """Return the share of the seeds on which each image is right, (n, columns)."""
        return self._correct[name]

    def accuracy(self, name: str) -> list[Interval]:
        """Return the accuracy in each column: exact intervals for one network, bootstraps over images for several."""
        if len(self.rows[name]) > 1:
            each = np.stack([one.correct().mean(0) for one in self.rows[name]])
            return [
                over_seeds(by_seed.tolist(), discrete_mean(column))
                for by_seed, column in zip(each.T, self.correct(name).T, strict=True)
            ]
        shares = [share(torch.from_numpy(column)) for column in self.correct(name).T]
        return [Interval(one.value or 0.0, one.low, one.high, one.n) for one in shares]

    def gap(self, first: str, second: str, which: Sequence[int]) -> Interval:
        """Return the first network's accuracy minus the second's, paired by image: the mean over columns `which`."""
        gap = self.correct(first)[:, which].mean(1) - self.correct(second)[:, which].mean(1)
        a, b = ({one.seed: one.correct()[:, which].mean() for one in self.rows[name]} for name in (first, second))
        return over_seeds([a[seed] - b[seed] for seed in a if seed in b], discrete_mean(gap.round(9)))


class AttackedAccuracies:
    """Accuracies under the cascade, by norm, network and radius.

    Args:
        attacks: Attacked networks of all seeds.

    Attributes:
        radii: Norm -> radii in increasing order.
        rows: Norm -> name -> how many radii each image survived, one array per seed.
    """

    def __init__(self, attacks: Sequence[Attacked]) -> None:
        self.radii = {attack.norm: attack.radii for attack in attacks}
        self.rows: dict[str, dict[str, list[np.ndarray]]] = {norm: {} for norm in self.radii}
        for attack in attacks:
            self.rows[attack.norm].setdefault(attack.name, []).append(np.array(attack.survived))

    def right(self, norm: str, name: str, k: int) -> np.ndarray:
        """Return the share of the seeds on which each image is right at the k-th radius, (n,); k = -1: when clean."""
        return np.mean([survived > k for survived in self.rows[norm][name]], 0)

    def accuracy(self, norm: str, name: str, k: int) -> Interval:
        """Return the accuracy at the k-th radius: an exact interval for one network, a bootstrap for several."""
        values, rows = self.right(norm, name, k), self.rows[norm][name]
        if len(rows) > 1:
            return over_seeds([float((survived > k).mean()) for survived in rows], discrete_mean(values))
        return share(torch.from_numpy(values)).interval()

    def gap(self, norm: str, first: str, second: str, k: int) -> Interval:
        """Return the first network's accuracy minus the second's at the k-th radius, paired by image."""
        a, b = (self.rows[norm][name] for name in (first, second))
        gap = discrete_mean((self.right(norm, first, k) - self.right(norm, second, k)).round(9))
        return over_seeds([float((p > k).mean() - (q > k).mean()) for p, q in zip(a, b, strict=False)], gap)

    def curves(self) -> dict[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]:
        """Return norm -> network -> (radii, accuracy when clean and at each radius), for pictures."""
        return {
            norm: {
                name: (radii, [self.accuracy(norm, name, k).value for k in range(-1, len(radii))])
                for name in self.rows[norm]
            }
            for norm, radii in self.radii.items()
            if self.rows[norm]
        }


class Alignments:
    """Likeness of gradients to images, by network.

    Args:
        rows: Alignments of all seeds.

    Attributes:
        mean: Name -> mean over the seeds of each image's alignment.
    """

    def __init__(self, rows: Sequence[Aligned]) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}
        for row in rows:
            self._rows.setdefault(row.name, []).append(array(row.values))
        self.mean = {name: np.mean(values, 0) for name, values in self._rows.items()}

    def gap(self, first: str, second: str) -> Interval:
        """Return the first network's alignment minus the second's, paired by image."""
        each = [float(np.nanmean(a - b)) for a, b in zip(self._rows[first], self._rows[second], strict=False)]
        return over_seeds(each, discrete_mean((self.mean[first] - self.mean[second]).round(9)))

    def claims(self, pairs: Sequence[tuple[str, str, str]], where: str) -> list[Claim]:
        """Decide whether the first network's gradients look more like the images than the second's.

        Args:
            pairs: `(first, second, source)`; pairs of which one network is missing are left out.
            where: Text before each claim.
        """
        return [
            claim(
                f"{where}: gradients of {first} look more like the images than those of {second}; difference of the "
                "cosine.", source, self.gap(first, second), MIN_DIFFERENCE,
            )
            for first, second, source in pairs
            if first in self.mean and second in self.mean
        ]  # fmt: skip

    def table(self) -> Table:
        """Return one row per network."""
        rows = []
        for name, values in self.mean.items():
            each = [float(np.nanmean(one)) for one in self._rows[name]]
            rows.append(
                {"network, or set it was trained on": name, "networks": len(each),
                 "cosine of image and gradient": over_seeds(each, discrete_mean(values)).text(),
                 "images": int(np.isfinite(values).sum())}
            )  # fmt: skip
        return rows
