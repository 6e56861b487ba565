"""Intervals, bootstraps, associations, paired comparisons, and small fits.

intervals      shares and means with 95 % intervals; `Interval`, the figure that everything else returns
bootstrap      resampling of images, one resample for every statistic
association    correlations, regressions and differences as statistics, permutation tests, Holm's correction
paired         two attacks, or two measures, of the same images
agreement      predictions against guessing, and the relabelling that explains them best
attributes     which attributes vary; means where an attribute is present and where it is absent
softmax        multinomial logistic regression, with or without sparse weights
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "Cases": "bootstrap",
    "Estimate": "intervals",
    "Interval": "intervals",
    "Mean": "intervals",
    "auc": "association",
    "discrete_mean": "bootstrap",
    "group_difference": "association",
    "holm": "association",
    "logistic": "association",
    "mcnemar": "paired",
    "mean": "intervals",
    "mean_difference": "paired",
    "mean_of": "association",
    "mean_of_shares": "intervals",
    "mean_where": "association",
    "over_images": "bootstrap",
    "over_seeds": "intervals",
    "p_difference": "association",
    "p_partial_spearman": "association",
    "partial_spearman": "association",
    "quantile_of": "association",
    "roc_area": "association",
    "share": "intervals",
    "share_lost": "intervals",
}

__all__ = [
    "Cases",
    "Estimate",
    "Interval",
    "Mean",
    "auc",
    "discrete_mean",
    "group_difference",
    "holm",
    "logistic",
    "mcnemar",
    "mean",
    "mean_difference",
    "mean_of",
    "mean_of_shares",
    "mean_where",
    "over_images",
    "over_seeds",
    "p_difference",
    "p_partial_spearman",
    "partial_spearman",
    "quantile_of",
    "roc_area",
    "share",
    "share_lost",
]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.statistics.association import (
        auc,
        group_difference,
        holm,
        logistic,
        mean_of,
        mean_where,
        p_difference,
        p_partial_spearman,
        partial_spearman,
        quantile_of,
        roc_area,
    )
    from unfooled.statistics.bootstrap import Cases, discrete_mean, over_images
    from unfooled.statistics.intervals import (
        Estimate,
        Interval,
        Mean,
        mean,
        mean_of_shares,
        over_seeds,
        share,
        share_lost,
    )
    from unfooled.statistics.paired import mcnemar, mean_difference
