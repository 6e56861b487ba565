"""Statistics of weights against peers, and one resampling for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from unfooled.statistics import (
    Cases,
    Interval,
    auc,
    group_difference,
    holm,
    logistic,
    mean_difference,
    mean_of,
    over_images,
    over_seeds,
    p_difference,
    p_partial_spearman,
    partial_spearman,
)
from unfooled.statistics.association import design_matrix, fit_logistic


def columns(n: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    """Ability decides margin and distance; attention follows ability (a), or nothing (b)."""
    draw = np.random.default_rng(seed)
    ability = draw.standard_normal(n)
    distance = ability + 0.3 * draw.standard_normal(n)
    return {
        "id": np.arange(n, dtype=float), "class": (np.arange(n) % 3).astype(float), "lead": ability,
        "distance": distance,
        "a": ability + 0.5 * draw.standard_normal(n), "b": draw.standard_normal(n), "ties": np.round(ability),
        "falls": (distance < 0).astype(float),
    }  # fmt: skip


def test_ranks_correlations_and_areas_agree_with_scipy_and_scikit_learn() -> None:
    from scipy.stats import spearmanr
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    c, one = columns(), np.ones((1, 300))
    for name in ("a", "b", "ties"):
        peer_value = spearmanr(c[name], c["distance"]).statistic
        assert partial_spearman(name, "distance")(c, one)[0] == pytest.approx(peer_value)
    x, prior = design_matrix(c, ("a", "lead"))
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x[:, 1:], c["falls"])
    assert fit_logistic(x, c["falls"], one, prior)[0, 1:] == pytest.approx(
        peer.coef_[0], rel=1e-2, abs=5e-3
    )  # a weak prior
    area = roc_auc_score(c["falls"], -c["lead"])
    assert auc(["lead"], "falls")(c, one)[0] == pytest.approx(area)


def test_weights_are_repetitions() -> None:
    c = columns(60)
    w = np.random.default_rng(1).integers(0, 3, size=(1, 60)).astype(float)
    rows = np.repeat(np.arange(60), w[0].astype(int))
    again = {name: values[rows] for name, values in c.items()}
    one = np.ones((1, len(rows)))
    for statistic in (partial_spearman("a", "distance", ["lead"]), group_difference("a", "falls"), mean_of("b"),
                 partial_spearman("ties", "distance")):  # fmt: skip
        assert statistic(c, w)[0] == pytest.approx(statistic(again, one)[0], abs=1e-9)


def test_what_the_margin_explains_is_taken_out() -> None:
    of = Cases((columns(),))
    alone = of.interval(partial_spearman("a", "distance"), ("a", "distance"))
    beside = of.interval(partial_spearman("a", "distance", ["lead"]), ("a", "distance", "lead"))
    assert alone[1] > 0.5
    assert abs(beside[0]) < 0.2
    assert beside[1] < 0 < beside[2]
    assert p_partial_spearman(of, "a", "distance") < 0.01 < p_partial_spearman(of, "a", "distance", ["lead"])
    coefficient = of.interval(logistic("a", "falls"), ("a", "falls"))
    assert coefficient[2] < 0
    held = of.interval(logistic("a", "falls", ["lead"], "class"), ("a", "falls", "lead"))
    assert held[1] < 0 < held[2]
    assert of.interval(auc(["lead", "b"], "falls", ["lead"]), ("b", "falls", "lead"))[0] == pytest.approx(0, abs=0.01)


def test_an_image_counts_once_however_many_seeds_saw_it() -> None:
    c = columns()
    once, thrice = Cases((c,)), Cases((c, c, c))
    stat = group_difference("a", "falls")
    assert thrice.interval(stat, ("a", "falls"))[:3] == pytest.approx(once.interval(stat, ("a", "falls"))[:3])
    assert thrice.interval(stat, ("a", "falls"))[3] == 900
    rest = {**c, "a": np.where(c["id"] < 295, np.nan, c["a"])}
    assert np.isnan(Cases((rest,)).interval(stat, ("a", "falls"))[0])  # too few, not a figure
    assert np.isnan(Cases(({**c, "falls": 0 * c["falls"]},)).interval(stat, ("a", "falls"))[0])


def test_permutations_and_holm() -> None:
    of = Cases((columns(), columns(seed=1)))
    assert p_difference(of, "a", "falls") < 0.001 < p_difference(of, "b", "falls")
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_three_seeds_widen_an_interval_and_two_do_not() -> None:
    interval = Interval(0.1, 0.0, 0.2, 9)
    assert over_seeds([-0.2, 0.4], interval) == interval
    wide = over_seeds([-0.2, 0.1, 0.4], interval)
    assert wide.low < -0.5 < 0.6 < wide.high
    assert (wide.value, wide.n) == (0.1, 9)
    nothing = Interval(np.nan, np.nan, np.nan, 9)
    assert over_seeds([-0.2, 0.1, 0.4], nothing) is nothing


def test_an_interval_is_written_and_turned_around() -> None:
    assert Interval(0.25, 0.125, 0.5, 8).text() == "0.250 [0.125, 0.500]"
    assert Interval(0.25, 0.125, 0.5, 8).text(2) == "0.25 [0.12, 0.50]"
    assert Interval(np.nan, np.nan, np.nan, 8).text() == ""
    assert Interval(0.25, 0.125, 0.5, 8).complement() == Interval(0.75, 0.5, 0.875, 8)


def test_a_paired_difference_is_narrower_than_the_spread_of_either() -> None:
    draw = np.random.default_rng(0)
    base = draw.standard_normal(200)
    columns = {"id": np.arange(200), "a": base + 0.5, "b": base + 0.01 * draw.standard_normal(200)}
    value, low, high, n = over_images(mean_difference("a", "b"), columns)
    assert value == pytest.approx(0.5, abs=0.01)
    assert high - low == pytest.approx(0, abs=0.01)
    assert n == 200
    alone = over_images(mean_of("a"), columns)
    assert alone.high - alone.low > 0.2
    half = {**columns, "b": np.where(columns["id"] < 100, columns["b"], np.nan)}
    assert over_images(mean_difference("a", "b"), half).n == 100
    assert over_images(mean_of("a"), {"id": np.zeros(0), "a": np.zeros(0)}).n == 0
