"""Cost of an audit's checks and explanations: few samples, shared calls, a small twin, and nothing computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.restarts import Restarts
from unfooled.attacks.ensembles.stages import Ascents, Decisions, Noise, Searches
from unfooled.attacks.gradients.twins import untrained
from unfooled.core.model.wrappers import Counted, counted
from unfooled.core.threats import L2, Linf, Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks.after import MIN_BUDGET, WORDS, labels_only_trials, trials
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.normalised import normalisation
from unfooled.evaluation.explanations.movement import map_scores
from unfooled.explanations import saliency
from unfooled.models import SmallCnn
from unfooled.statistics.agreement import at_best, matching
from unfooled.workflows import AuditOptions

SHAPE = (1, 6, 5)


def subject(n: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = tiny_net(4, SHAPE), points(n, SHAPE, seed=8)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.1)], ids=str)
def test_restarts_are_ascents_that_share_their_calls(threat: Threat) -> None:
    model, x, y = subject()
    asked = Counted(model)
    problem, frontier = Problem(asked, x, y, threat, asked, seed=3), Frontier.start(x)
    ends = [Ascents(6).propose(problem, frontier, number).points for number in (20, 21, 22)]
    margins = torch.stack([problem.evaluate(end)[0] for end in ends])
    before = asked.calls
    z = Restarts(3, 6).propose(problem, frontier, 20).points
    assert asked.calls - before <= 6 + 2, "three ascents take the calls of one"
    torch.testing.assert_close(problem.evaluate(z)[0], margins.amax(0))
    assert bool((margins.argmax(0) > 0).any()), "another start is the best one somewhere"


def test_every_check_has_a_trial_however_small_the_budget() -> None:
    twin: Any = Gradients(Counted(lambda z: z), [])
    least, whole = ({(key, s.name): s for key, s in trials(scale)} for scale in (0.0, 1.0))
    assert {key for key, _ in least} == set(WORDS) - {"D15", "D28"}
    for name, stage in least.items():
        assert stage.most is not None
        assert 2 <= stage.most < (whole[name].most or 0)
    cost = {Noise: lambda s: s.draws, Searches: lambda s: s.queries, Restarts: lambda s: s.times * (2 * s.steps + 2)}
    assert sum(cost.get(type(s), lambda s: 0)(s) * s.most for s in least.values()) <= 2400
    (_, labels), *_ = labels_only_trials(twin, 8, 0.0)
    assert isinstance(labels, Decisions)
    assert labels.most == 2


def test_a_twin_for_a_trial_is_small_and_asks_few_questions() -> None:
    x = torch.rand(80, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = SmallCnn((1, 16, 16), 3, 4)
    asked = Counted(model)
    twin = Gradients(asked, []).with_twin(x, Linf(0.1), brief=True)
    assert asked.forwards == twin.forwards == 64 * 9 + 1
    brief, whole = untrained(x, 3, brief=True), untrained(x, 3)
    assert twin.twin is not None
    assert {k: v.shape for k, v in twin.twin.state_dict().items()} == {
        k: v.shape for k, v in brief.state_dict().items()
    }

    def products(net: nn.Module) -> int:
        """Multiplications of the convolutions for one sample."""
        count = [0]

        def seen(layer: Any, _: Any, out: Tensor) -> None:
            count[0] += layer.weight[0].numel() * out[0].numel()

        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(seen)
        net(x[:1])
        return count[0]

    assert products(brief) < products(whole) / 2
    assert isinstance(untrained(points(2, SHAPE), 3, brief=True), SmallCnn), "images that are small already"


def test_an_input_that_has_not_moved_is_explained_once() -> None:
    model, x, y = subject(6)
    z = x.clone()
    z[2:4] = (z[2:4] + 0.05).clamp(0, 1)
    seen: list[int] = []

    def explain(*arguments: Any, **options: Any) -> Tensor:
        seen.append(len(arguments[1]))
        return saliency(*arguments, **options)

    scores = map_scores(model, x, y, z, explain)
    assert seen == [6, 2]
    whole = map_scores(model, x, y, z, explain, steady=False)
    assert seen == [6, 2, 6, 6]
    assert scores.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(scores[name], value, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert bool((scores["top_k"][[0, 1, 4, 5]] == 1).all())


def test_samples_that_are_explained_are_not_explained_again_beside_their_nearest_points() -> None:
    model, x, y = subject(5)
    seen: list[int] = []

    def explain(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        seen.append(len(x))
        return saliency(model, x, y, create_graph=create_graph)

    plan = Plan(
        explain=explain, explain_name="mine", explain_n=5, gallery=5, nearest_n=5, nearest_budget=100, reasons=None,
        floor=1,
    )  # fmt: skip
    summary = audit(model, x, y, Linf(0.3), plan=plan)
    assert len(summary.nearest_gallery) == 5
    assert sum(seen) <= 3 * 5  # before, after, and at the nearest points


def test_the_clean_samples_are_not_asked_again_for_the_preprocessing() -> None:
    model, x, y = subject(10)
    with counted(model) as all_asked:
        own = normalisation(all_asked, x, y)
    with counted(model) as asked:
        known = normalisation(asked, x, y, right=model(x).argmax(1) == y)
    assert asked.forwards == all_asked.forwards - 10
    assert own == known


def test_no_relabelling_explains_more_than_the_commonest_labels() -> None:
    source = np.random.default_rng(0)
    for _ in range(20):
        y, prediction = source.integers(0, 5, 60), source.integers(0, 4, 60)
        assert matching(prediction, y).hits <= at_best(prediction, y)
    order = source.permutation(5)
    assert at_best(order[y], y) == matching(order[y], y).hits == 60
    assert at_best(np.array([], dtype=int), np.array([], dtype=int)) == 0


def test_quick_spends_less_on_what_does_not_guard_the_verdict() -> None:
    quick, normal = (AuditOptions(effort=effort).plan(Linf(0.1)) for effort in ("quick", "normal"))
    assert quick.label_attack.floor < normal.label_attack.floor == MIN_BUDGET
    assert quick.nearest.budget < normal.nearest.budget
    assert quick.explaining.n < normal.explaining.n
    assert quick.explanation_attack is not None
    assert quick.explanation_attack.radii == (1.0,)
    plan = AuditOptions(effort="quick", reasons="none").plan(Linf(0.1))
    assert plan.explanation_attack is None, "an attack that was left out stays out"
