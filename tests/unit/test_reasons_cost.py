"""Cost of the audit's attack on explanations: blocks of samples, shared points, no pass taken twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.test_audit import PLAN, subject
from tests.unit.test_reasons import EPS, reasons_of

from unfooled.attacks import Search, best_of_random, cosine, out_of_lens
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Linf
from unfooled.distances import kendall, lens_precision, lens_recall, lens_scores, top_k_intersection
from unfooled.distances.maps.locality import SetScore, TopSets
from unfooled.evaluation.audit import attacked_maps, audit
from unfooled.evaluation.explanations.records import How
from unfooled.evaluation.explanations.robustness import ExplanationRobustness, robustness_by_radius
from unfooled.explanations import integrated_gradients, saliency

SCORES: dict[str, Any] = {"lens": SetScore(partial(TopSets.recall, w=1), 3), "tau": kendall}


def found(threats: tuple[Linf, ...], model: Any, n: int = 5) -> list[ExplanationRobustness]:
    net, x, y = subject()
    return robustness_by_radius(
        model(net), x, y, threats, saliency, scores=SCORES, objectives=(out_of_lens(3, 1),),
        search=Search(3, restarts=1), n=n, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def test_points_at_a_smaller_radius_count_at_a_larger_one() -> None:
    small, large = found((Linf(0.05), Linf(0.1)), lambda net: net)
    (alone,) = found((Linf(0.1),), lambda net: net)
    assert (small.n, alone.n, large.n) == (2, 5, 5)
    for name in SCORES:
        for arm in ("attack", "best_of_n"):
            before, by_itself, both = (getattr(r, arm).scores[name] for r in (small, alone, large))
            defined = ~before.isnan() & ~both.isnan()
            assert bool(defined.any())
            assert bool((both <= before)[defined].all())
            if arm == "attack":
                assert torch.equal(both.nan_to_num(9), torch.fmin(before, by_itself).nan_to_num(9))
    assert torch.equal(large.random.scores["lens"].nan_to_num(9), alone.random.scores["lens"].nan_to_num(9))
    with pytest.raises(BadInput, match="n is 1"):
        found((Linf(0.05), Linf(0.1)), lambda net: net, n=1)


def test_no_pass_is_taken_twice() -> None:
    model, x, y = subject()
    x, y = x[:6], model(x[:6]).argmax(1)
    run = partial(best_of_random, x=x, y=y, threat=Linf(0.01), objective=cosine(), n=4, batch=6)
    counted = Counted(model)
    z = run(counted, explain=saliency)
    assert counted.forwards == 2 * 6 + 4 * 6  # the clean samples' labels and maps, then one pass for both
    whole = Counted(model)
    assert not torch.equal(run(whole, explain=partial(integrated_gradients, steps=3)), z)
    assert whole.forwards > 4 * 6 + 4 * 6 * 3  # a path does not begin at the point: the label takes a pass of its own
    clean = Counted(model)
    (result,) = found((Linf(0.01),), lambda _: clean, n=1)
    points = sum(len(arm.x_adv) for arm in (result.attack, result.best_of_n, result.random))
    judged = clean.forwards - sum(arm.forwards for arm in (result.attack, result.random))
    assert judged < 20 * (3 * points - 3)  # points that arms and scores have in common are judged once


def test_the_gradient_of_an_explanation_is_counted() -> None:
    from unfooled.attacks import attack_explanation

    model, x, y = subject()
    right = (model(x).argmax(1) == y).nonzero()[:, 0][:4]
    counted = Counted(model)
    attack_explanation(
        counted, x[right], y[right], Linf(0.01), saliency, objective=cosine(), search=Search(2, restarts=1, every=9)
    )
    maps_alone = Counted(model)
    saliency(maps_alone, x[:1], y[:1])
    assert maps_alone.backwards == 1
    # Two steps: a map (1) and its gradient (2); the clean maps, and the iterates at the start and at the end.
    assert counted.backwards >= 4 * (2 * 3 + 3)


def test_sets_are_selected_once_and_scores_stay_the_same() -> None:
    source = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 7, 8, generator=source).mul(4).round() for _ in range(2))
    b[1] = 0
    scores = lens_scores(a, b, k=6, w=(0, 1, 2))
    for w in (0, 1, 2):
        for name, score in (("recall", lens_recall), ("precision", lens_precision)):
            torch.testing.assert_close(scores[name, w], score(a, b, k=6, w=w), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(scores["intersection", 0], top_k_intersection(a, b, k=6), rtol=0, atol=0, equal_nan=True)
    diverse = lens_scores(a, b, k=6, w=1, diverse=True)["recall", 1]
    torch.testing.assert_close(diverse, lens_recall(a, b, k=6, w=1, diverse=True), rtol=0, atol=0, equal_nan=True)
    with pytest.raises(BadInput, match="give one number"):
        lens_scores(a, b, k=6, w=(0, 1), diverse=True)


def test_blocks_end_where_the_figure_is_precise_or_expensive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacked_maps, "BLOCK", 3)
    model, x, y = subject()
    everything: dict[str, Any] = {"reasons_n": 9, "reasons_half_width": 0.0, "reasons_share": 1.0}
    whole = reasons_of(audit(model, x, y, Linf(EPS), plan=PLAN.with_options(**everything)))
    assert whole.n == 9
    cheap = audit(model, x, y, Linf(EPS), plan=PLAN.with_options(**everything | {"reasons_share": 0.01}))
    assert reasons_of(cheap).n == 3
    precise = reasons_of(
        audit(model, x, y, Linf(EPS), plan=PLAN.with_options(**everything | {"reasons_half_width": 1}))
    )
    assert 3 <= precise.n < 9
    at_eps = precise.at_eps()
    assert at_eps is not None and at_eps.lens.low is not None and at_eps.lens.high is not None
    points = [p.random_points for p in whole.curve if p.how == How.BEST_OF_N]
    assert points == [3, 7, 11]
    assert {p.random_points for p in whole.curve if p.how != How.BEST_OF_N} == {0}
    for change, text in (
        ({"reasons_share": 0.0}, "reasons_share is 0"),
        ({"reasons_half_width": -1}, "half_width is -1"),
    ):
        with pytest.raises(BadInput, match=text):
            PLAN.with_options(**change)


def test_a_kill_between_two_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacked_maps, "BLOCK", 2)
    model, x, y = subject()
    plan = PLAN.with_options(reasons_half_width=0.0, reasons_share=1.0)
    whole = reasons_of(audit(model, x, y, Linf(EPS), plan=plan, chunk=1))

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "reasons-samples 3-4" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(model, x, y, Linf(EPS), plan=plan, out=tmp_path, chunk=1, progress=stop)
    again = audit(model, x, y, Linf(EPS), plan=plan, out=tmp_path, chunk=1)
    assert reasons_of(again) == whole
    assert not again.warnings


def test_windows_are_whole_numbers_of_any_type() -> None:
    a, b = torch.rand(2, 2, 6, 6)
    for w in (np.int64(1), [np.int32(1)], (1,), np.array([1]), np.array(1), torch.tensor(1)):
        assert lens_scores(a, b, k=4, w=w).keys() == lens_scores(a, b, k=4, w=1).keys()  # type: ignore[arg-type]
    for bad in (1.5, None, "x", "", (0, -1), True):
        with pytest.raises(BadInput, match="the reach of a window is a whole number"):
            lens_scores(a, b, k=4, w=bad)  # type: ignore[arg-type]
