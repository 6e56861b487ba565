"""Contract of the attacks on explanations, and of their judge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.conftest import linear, points, source, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks import (
    Differences,
    Search,
    attack_explanation,
    best_of_random,
    cosine,
    into,
    kendall_surrogate,
    mass_center,
    out_of_lens,
    out_of_top_k,
    random_point,
    random_walk,
    square_explain,
)
from unfooled.attacks.explanations.objectives import MapObjective, normalised
from unfooled.core.errors import BadInput
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.distances import as_maps, dilate, diverse_top_k, kendall, top_k_intersection
from unfooled.distances.maps.attention import centroid
from unfooled.evaluation.explanations.judge import (
    ATTACKED,
    FAILED,
    SKIPPED,
    STATUSES,
    UNDEFINED,
    Score,
    judge_explanation,
)
from unfooled.evaluation.explanations.robustness import explanation_robustness
from unfooled.explanations import grad_cam, input_x_gradient, integrated_gradients, saliency, smooth_grad

Explanation = Callable[..., Tensor]
EXPLANATIONS: dict[str, Explanation] = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "smooth_grad": partial(smooth_grad, samples=4, noise_seed=3),
    "integrated_gradients": partial(integrated_gradients, steps=4),
    "grad_cam": partial(grad_cam, layer="4", relu=False),
}
by_name = pytest.mark.parametrize("explain", EXPLANATIONS.values(), ids=EXPLANATIONS.keys())
K = 10
SCORES: dict[str, Score] = {"top": partial(top_k_intersection, k=K), "tau": kendall}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    "A small ReLU network trained on digits, and samples that it has not seen."
    from unfooled.data import load_data

    x, y = load_data("digits", "train", n=800)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1)]
        net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    x, y = load_data("digits", "test", n=16)
    assert (net(x).argmax(1) == y).float().mean() > 0.8
    return net.eval(), x, y


def right(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    "The samples that are right when clean."
    keep = net(x).argmax(1) == y
    return x[keep], y[keep]


def gain(objective: MapObjective, explain: Explanation, net: Any, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    "Return the increase of the objective on the true maps."
    value = objective(normalised(as_maps(explain(net, x, y))))
    everyone = torch.arange(len(x))
    now, before = (value(normalised(as_maps(explain(net, p, y))), everyone) for p in (z, x))
    return now - before


# The attack


@by_name
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=str)
def test_points_are_inside_keep_the_label_and_move_the_map(
    explain: Explanation, threat: Threat, digits: tuple[nn.Module, Tensor, Tensor]
) -> None:
    net, x, y = digits
    objective = out_of_top_k(K)
    z = attack_explanation(net, x, y, threat, explain, objective=objective, search=Search(8, restarts=1, every=4))
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    assert not z.requires_grad
    assert (threat.size(z - x) <= threat.eps + 1e-6).all()
    assert z.min() >= 0
    assert z.max() <= 1
    moved = (z != x).flatten(1).any(1)
    clean = net(x).argmax(1) == y
    assert (net(z).argmax(1) == y)[moved].all()
    assert torch.equal(z[~clean], x[~clean])
    assert moved[clean].float().mean() > 0.9
    assert (gain(objective, explain, net, x, y, z)[moved] > 0).all()


def test_other_norms_and_radii_per_sample(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    for threat in (L1(3.0), L0(6), Linf(torch.linspace(0, 0.2, len(x)))):
        z = attack_explanation(net, x, y, threat, saliency, objective=cosine(), search=Search(5, restarts=1))
        assert (threat.size(z - x) <= torch.as_tensor(threat.eps) + 1e-5).all()
        assert (z != x).any()
        assert (net(z).argmax(1) == y)[(z != x).flatten(1).any(1)].all()
    assert torch.equal(z[0], x[0])


def test_nothing_is_mutated_and_seeds_decide(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    before, kept, state = {k: v.clone() for k, v in net.state_dict().items()}, x.clone(), torch.get_rng_state()
    search = Search(5, restarts=1)
    run = partial(attack_explanation, net, x, y, Linf(0.1), saliency, objective=out_of_lens(K), search=search)
    first = run()
    assert torch.equal(first, run())
    assert not torch.equal(first, run(generator=source(1)))
    assert torch.equal(x, kept)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("differences", [None, Differences(draws=2)], ids=["gradients", "differences"])
def test_the_batch_does_not_matter(differences: Differences | None) -> None:
    net = tiny_net(dtype=torch.float64)
    x, y = points(7, (1, 6, 5), dtype=torch.float64), net(points(7, (1, 6, 5), dtype=torch.float64)).argmax(1)
    run = partial(
        attack_explanation,
        net,
        threat=Linf(0.1),
        explain=saliency,
        objective=kendall_surrogate(64),
        search=Search(6, restarts=2, differences=differences),
    )
    whole = run(x, y)
    assert (whole != x).any()
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    for other in (
        run(x[order], y[order])[order.argsort()],
        run(x, y, batch=2),
        torch.cat([run(x[i : i + 1], y[i : i + 1]) for i in range(7)]),
    ):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-9)


OBJECTIVES: dict[str, MapObjective] = {
    "out_of_top_k": out_of_top_k(K),
    "out_of_lens": out_of_lens(K, 1),
    "out_of_diverse": out_of_lens(K, 1, diverse=True),
    "mass_center": mass_center(),
    "into": into(F.pad(torch.ones(3, 3), (0, 5, 0, 5))),
    "cosine": cosine(),
    "kendall": kendall_surrogate(256),
    "own": lambda clean: lambda maps, at: (maps - clean[at]).abs().sum((1, 2)),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_every_objective_beats_chance_at_the_same_cost(
    objective: MapObjective, digits: tuple[nn.Module, Tensor, Tensor]
) -> None:
    net, x, y = digits
    x, y = right(net, x, y)
    search = Search(12, restarts=1)
    z = attack_explanation(net, x, y, Linf(0.2), saliency, objective=objective, search=search)
    noise = best_of_random(net, x, y, Linf(0.2), saliency, objective=objective, n=search.explanations)
    by_attack, by_noise = (gain(objective, saliency, net, x, y, p) for p in (z, noise))
    assert (by_attack >= 0).all()
    assert by_attack.mean() > 1.1 * by_noise.mean() > 0


def test_objectives_move_what_their_names_say(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    x, y = right(net, x, y)
    a = as_maps(saliency(net, x, y))

    def after(objective: MapObjective) -> Tensor:
        z = attack_explanation(net, x, y, Linf(0.2), saliency, objective=objective, search=Search(15, restarts=1))
        return as_maps(saliency(net, z, y))

    assert top_k_intersection(a, after(out_of_top_k(K)), k=K).mean() < 0.6
    assert kendall(a, after(kendall_surrogate())).mean() < 0.35
    assert (centroid(after(mass_center())) - centroid(a)).norm(dim=1).mean() > 0.06
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    share = [(m * corner).sum((1, 2)) / m.sum((1, 2)) for m in (after(into(corner)), a)]
    assert share[0].mean() > share[1].mean() + 0.1
    around = dilate(diverse_top_k(a, K, 1), 1)
    wide, narrow = ((after(o) * around).sum((1, 2)).mean() for o in (out_of_lens(K, 1, diverse=True), out_of_top_k(K)))
    assert wide < 0.97 * narrow
    with pytest.raises(BadInput, match=r"mask is a list; give a tensor"):
        into([[1.0]])  # type: ignore[arg-type]


def test_smoothing_gives_a_relu_network_its_curvature(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    x, y = right(net, x, y)
    run = partial(attack_explanation, net, x, y, Linf(0.2), saliency, objective=out_of_top_k(K))
    searches = Search(12, restarts=1), Search(12, restarts=1, betas=())
    smooth, plain = (gain(out_of_top_k(K), saliency, net, x, y, run(search=search)).mean() for search in searches)
    assert smooth > 1.3 * plain


def test_the_label_is_held() -> None:
    net = tiny_net()
    x = points(20, (1, 6, 5))
    y = net(x).argmax(1)
    kept = []
    for hold in (0.0, 10.0):
        seen: list[int] = []

        def note(_z: Tensor, at: Tensor, _maps: Tensor, seen: list[int] = seen) -> None:
            seen.append(len(at))

        search = Search(20, hold=hold, every=1)
        attack_explanation(net, x, y, Linf(0.3), input_x_gradient, objective=cosine(), search=search, observe=note)
        kept.append(sum(seen))
    assert kept[1] > 1.1 * kept[0]


def test_observers_see_allowed_points_alone(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    looked = 0

    def note(z: Tensor, at: Tensor, maps: Tensor) -> None:
        nonlocal looked
        looked += len(z)
        assert (net(z).argmax(1) == y[at]).all()
        assert (Linf(0.3).size(z - x[at]) <= 0.3 + 1e-6).all()
        torch.testing.assert_close(maps, as_maps(saliency(net, z, y[at])))

    run = {"observe": note, "objective": cosine()}
    attack_explanation(net, x, y, Linf(0.3), saliency, search=Search(6, every=2), **run)  # type: ignore[arg-type]
    best_of_random(net, x, y, Linf(0.3), saliency, n=5, **run)  # type: ignore[arg-type]
    random_walk(net, x, y, Linf(0.3), saliency, steps=5, **run)  # type: ignore[arg-type]
    assert looked > 50


def test_vectors() -> None:
    net = tiny_net()[3]

    def model(x: Tensor) -> Tensor:
        return net(x.repeat(1, 20).square())

    x = points(5, (6,))
    y = model(x).argmax(1)
    options: dict[str, Any] = {"objective": out_of_top_k(2)}
    for run in (
        partial(attack_explanation, search=Search(4), **options),
        partial(attack_explanation, search=Search(4, differences=Differences(draws=4)), **options),
        partial(best_of_random, n=4, **options),
        partial(random_walk, steps=4, **options),
        partial(square_explain, steps=20, **options),
    ):
        z = run(model, x, y, Linf(0.1), saliency)
        assert z.shape == x.shape
        assert (z != x).any()
        assert (gain(out_of_top_k(2), saliency, model, x, y, z)[(z != x).any(1)] > 0).all()


def test_where_nothing_is_right_nothing_is_done() -> None:
    net, x = tiny_net(), points(4, (1, 6, 5))
    y = (net(x).argmax(1) + 1) % 3
    for attack in (attack_explanation, best_of_random, random_walk, square_explain):
        assert torch.equal(attack(net, x, y, Linf(0.1), saliency, objective=cosine()), x)
    found = explanation_robustness(
        net, x, y, Linf(0.1), saliency, scores=SCORES_OF_SMALL, objectives=[cosine()], search=Search(2)
    )
    assert found.attack.counts["top"]["skipped"] == 4
    assert found.best_of_n.scores["top"].isnan().all()


def test_batch_normalisation_in_eval_mode() -> None:
    torch_layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(*torch_layers)
        for p in net.parameters():
            p.data.uniform_(-1, 1)
    x = points(6, (1, 6, 5))
    with pytest.raises(BadInput, match="training mode"):
        attack_explanation(net, x, torch.zeros(6, dtype=torch.int64), Linf(0.1), saliency, objective=cosine())
    net.eval()
    y, before = net(x).argmax(1), net[1].running_mean.clone()  # type: ignore[operator]
    for explain in (saliency, partial(integrated_gradients, steps=3)):
        z = attack_explanation(net, x, y, Linf(0.1), explain, objective=cosine(), search=Search(5))
        assert (z != x).flatten(1).any(1).all()
        assert torch.equal(net(z).argmax(1), y)
    assert torch.equal(net[1].running_mean, before)  # type: ignore[arg-type]


# Without gradients


def numpy_saliency(model: Any, x: Tensor, y: Tensor) -> Tensor:
    "An explanation that autograd cannot follow, written as people write them."
    z = x.clone().requires_grad_()
    model(z).gather(1, y[:, None]).sum().backward()
    assert z.grad is not None
    return torch.from_numpy(z.grad.numpy().copy())


class Once(torch.autograd.Function):
    "The identity, by an operation that has no derivative."

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return a.clone()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        raise NotImplementedError("derivative for this operation is not implemented")


def test_explanations_without_gradients_are_attacked_too(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    x, y = right(net, x, y)
    objective = out_of_top_k(K)
    one = gain(objective, saliency, net, x, y, best_of_random(net, x, y, Linf(0.1), saliency, objective=objective, n=1))
    run = partial(attack_explanation, net, x, y, Linf(0.1), objective=objective, search=Search(10, restarts=1))
    z = run(explain=numpy_saliency)
    # Detected, and the same as asking for differences.
    assert torch.equal(z, run(explain=saliency, search=Search(10, restarts=1, differences=Differences())))
    found = square_explain(net, x, y, Linf(0.1), numpy_saliency, objective=objective, steps=150)
    for points_ in (z, found):
        assert (Linf(0.1).size(points_ - x) <= 0.1 + 1e-6).all()
        assert torch.equal(net(points_).argmax(1), y)
        assert gain(objective, saliency, net, x, y, points_).mean() > 1.5 * one.mean()

    def detached(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        return saliency(model, x, y)

    def handed_on(model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        return numpy_saliency(model, torch.from_numpy(x.numpy()), y, **options)

    def in_numpy(model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        return numpy_saliency(model, torch.from_numpy(x.numpy()), y)

    def half_way(model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        return Once.apply(saliency(model, x, y, **options))

    for explain in (detached, handed_on, in_numpy, half_way):
        assert torch.equal(z, run(explain=explain))


# Chance


def test_random_points() -> None:
    x = points(5, (1, 6, 5))
    corner = random_point(x, Linf(0.2))
    at_bound = ((corner - x).abs() - 0.2).abs() < 1e-6
    assert (at_bound | (corner == 0) | (corner == 1)).all()
    assert not torch.equal(corner, random_point(x, Linf(0.2), draw=1))
    torch.testing.assert_close(random_point(x[2:], Linf(0.2)), corner[2:])
    length = L2(0.7).size(random_point(x, L2(0.7)) - x)
    assert (length <= 0.7 + 1e-6).all()
    assert (length > 0.1).all()


def test_more_noise_is_no_worse(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    objective = cosine()
    run = partial(best_of_random, net, x, y, Linf(0.2), saliency, objective=objective)
    few, more = (gain(objective, saliency, net, x, y, run(n=n)) for n in (1, 20))
    assert (more >= few - 1e-6).all()
    assert more.mean() > few.mean() + 0.01
    single, noise = run(n=1), random_point(x, Linf(0.2))
    kept = (single != x).flatten(1).any(1)
    assert kept.sum() > 8
    assert torch.equal(single[kept], noise[kept])
    torch.testing.assert_close(run(n=5, batch=3), run(n=5))


def test_the_walk_leaves_x_step_by_step(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    for threat in (Linf(0.1), L2(0.5)):
        one = random_walk(net, x, y, threat, saliency, objective=cosine(), steps=1, step=0.25)
        size = threat.size(one - x)
        assert (size <= 0.25 * threat.eps + 1e-6).all()
        assert (size > 0.05 * threat.eps).sum() > 8
        far = random_walk(net, x, y, threat, saliency, objective=cosine(), steps=30)
        assert (threat.size(far - x) <= threat.eps + 1e-6).all()
        gains = [gain(cosine(), saliency, net, x, y, z).mean() for z in (one, far)]
        assert gains[1] > gains[0] > 0


# The judge


def test_the_map_of_a_linear_model_cannot_be_moved() -> None:
    model, x = linear(3, (1, 6, 5)), points(6, (1, 6, 5))
    y = model(x).argmax(1)
    for explain in (saliency, partial(smooth_grad, samples=3)):
        for objective in OBJECTIVES.values():
            if objective is OBJECTIVES["into"]:
                continue
            z = attack_explanation(model, x, y, Linf(0.2), explain, objective=objective, search=Search(4, restarts=1))
            assert torch.equal(z, x)
            verdict = judge_explanation(model, x, y, z, Linf(0.2), explain, SCORES_OF_SMALL)
            assert verdict.counts == {"attacked": 0, "failed": 6, "undefined": 0, "skipped": 0}
        # Nor by chance: the point differs, its map does not.
        z = random_point(x, Linf(0.01))
        verdict = judge_explanation(model, x, y, z, Linf(0.2), explain, SCORES_OF_SMALL)
        assert verdict.counts["failed"] == 6
        assert verdict.scores["top"].isnan().all()


SCORES_OF_SMALL: dict[str, Score] = {"top": partial(top_k_intersection, k=4)}


def test_every_status_by_hand(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    x, y = right(net, x, y)
    threat = Linf(0.1)
    good = attack_explanation(net, x, y, threat, saliency, objective=cosine(), search=Search(6))
    z = good.clone()
    z[1] = x[1]  # nothing done
    z[2] = (x[2] + 0.3).clamp(0, 1)  # outside
    z[3] = torch.nan
    wrong, lost = y.clone(), z.clone()
    wrong[4] = (y[4] + 1) % 10  # wrong when clean
    lost[5] = (x[5] + 3 * (good[5] - x[5])).clamp(0, 1)
    verdict = judge_explanation(net, x, wrong, z, threat, saliency, SCORES)
    assert verdict.status[:6].tolist() == [ATTACKED, FAILED, FAILED, FAILED, SKIPPED, ATTACKED]
    assert verdict.inside[:6].tolist() == [True, True, False, False, True, True]
    assert [STATUSES[s] for s in (ATTACKED, FAILED, UNDEFINED, SKIPPED)] == list(verdict.counts)
    assert sum(verdict.counts.values()) == len(x)
    maps = [as_maps(saliency(net, p, y)) for p in (x, good)]
    for name, score in SCORES.items():
        assert torch.equal(verdict.scores[name].isnan(), ~verdict.attacked)
        torch.testing.assert_close(verdict.scores[name][verdict.attacked], score(*maps)[verdict.attacked])
    change = (net(good) - net(x)).gather(1, y[:, None])[:, 0].abs().detach()
    torch.testing.assert_close(verdict.output_change[[0, 5]], change[[0, 5]])
    assert verdict.output_change[2].isnan()
    # A point that loses its label has moved nothing that counts.
    far = Linf(1.0)
    x_lost = x[y.roll(1).argsort()]  # other images
    other = net(x_lost).argmax(1) != y
    assert other.any()
    assert (judge_explanation(net, x, y, x_lost, far, saliency, SCORES).status[other] == FAILED).all()


def test_maps_of_zeros_are_undefined() -> None:
    def model(x: Tensor) -> Tensor:
        on = F.relu(x.flatten(1)[:, :1] - 0.5)  # dead below a half
        return torch.cat([1 + on * x.flatten(1).sum(1, keepdim=True), 0 * on], 1)

    x = torch.full((3, 1, 4, 4), 0.2)
    x[1:, 0, 0, 0] = torch.tensor([0.8, 0.55])
    y = torch.zeros(3, dtype=torch.int64)
    z = attack_explanation(model, x, y, Linf(0.1), saliency, objective=out_of_top_k(1), search=Search(5))
    assert torch.equal(z[0], x[0])
    # A map that dies, as that of the last sample does at half of the corners, would score best; it is no candidate.
    noise = best_of_random(model, x, y, Linf(0.1), saliency, objective=out_of_top_k(1), n=10)
    for found in (z, noise):
        assert (saliency(model, found[1:], y[1:]) != 0).flatten(1).any(1).all()
    dead = x - 0.1
    verdict = judge_explanation(model, x, y, dead, Linf(0.1), saliency, SCORES_OF_SMALL)
    assert verdict.status.tolist() == [UNDEFINED, ATTACKED, UNDEFINED]
    assert verdict.scores["top"].isnan().tolist() == [True, False, True]


def test_robustness_is_the_worst_case_of_every_score(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    options: dict[str, Any] = {
        "scores": SCORES,
        "objectives": (out_of_top_k(K), kendall_surrogate(128)),
        "search": Search(8, restarts=1),
    }
    run: Callable[..., Any] = partial(explanation_robustness, net, threat=Linf(0.2), explain=saliency, **options)
    found = run(x, y)
    assert found.n == 2 * Search(8, restarts=1).explanations
    clean = net(x).argmax(1) == y
    for arm in (found.attack, found.best_of_n, found.random):
        for name, score in SCORES.items():
            verdict = judge_explanation(net, x, y, arm.x_adv[name], Linf(0.2), saliency, {name: score})
            torch.testing.assert_close(arm.scores[name], verdict.scores[name], equal_nan=True)
            assert torch.equal(arm.status[name], verdict.status)
            assert torch.equal(arm.status[name] == SKIPPED, ~clean)
        assert arm.seconds > 0
        assert arm.forwards > 0
    assert found.random.explanations < found.best_of_n.explanations <= len(x) * (found.n + 1)
    for name in SCORES:
        attack, best, one = (a.scores[name] for a in (found.attack, found.best_of_n, found.random))
        both = ~one.isnan() & ~best.isnan()
        assert (best <= one)[both].all()
        assert attack.nanmean() < best.nanmean() - 0.05 < one.nanmean()
    # No attack with one objective gets lower anywhere.
    z = attack_explanation(net, x, y, Linf(0.2), saliency, objective=out_of_top_k(K), search=Search(8, restarts=1))
    alone = judge_explanation(net, x, y, z, Linf(0.2), saliency, SCORES).scores["top"]
    fit = ~alone.isnan()
    assert (found.attack.scores["top"] <= alone)[fit].all()
    parts = [run(part, label) for part, label in zip(x.split(5), y.split(5), strict=True)]
    chunks = torch.cat([p.attack.scores["top"] for p in parts])
    assert chunks.isnan().equal(found.attack.scores["top"].isnan())
    # Signs of gradients turn on their last bit, and with them single pixels.
    assert (chunks - found.attack.scores["top"]).nanmean().abs() < 0.05
    torch.testing.assert_close(
        torch.cat([p.best_of_n.scores["top"] for p in parts]), found.best_of_n.scores["top"], equal_nan=True
    )


# Bad input


def test_bad_input_is_named() -> None:
    net = tiny_net()
    x = points(3, (1, 6, 5))
    y = net(x).argmax(1)
    run: Callable[..., Any] = partial(attack_explanation, net, x, y, Linf(0.1), saliency, objective=cosine())
    for options, message in (
        ({"search": Search(betas=(-5,))}, "beta is -5"),
        ({"objective": out_of_top_k(31)}, "k is 31"),
        ({"objective": into(torch.ones(2, 2))}, r"mask has shape \(2, 2\)"),
        ({"objective": None}, "objective is None; give what to maximise"),
        ({"reduce": lambda e: e}, r"reduce returned shape \(3, 1, 6, 5\)"),
    ):
        with pytest.raises(BadInput, match=message):
            run(**options)
    for wrong, message in (
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"every": 0}, "every is 0"),
        ({"hold": -1.0}, "hold is -1"),
    ):
        with pytest.raises(BadInput, match=message):
            Search(**wrong)
    for explain, shape in ((lambda model, x, y: x[:1], "1, 1, 6, 5"), (lambda model, x, y: x.sum(), "")):
        with pytest.raises(BadInput, match=rf"the explanation returned shape \({shape}\) for 3 samples"):
            attack_explanation(net, x, y, Linf(0.1), explain, objective=cosine())
    with pytest.raises(BadInput, match="labels lie in"):
        attack_explanation(net, x, y + 3, Linf(0.1), saliency, objective=cosine())
    with pytest.raises(BadInput, match="outside"):
        attack_explanation(net, 2 * x, y, Linf(0.1), saliency, objective=cosine())
    with pytest.raises(BadInput, match="threat is a float"):
        attack_explanation(net, x, y, 0.1, saliency, objective=cosine())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="n is 0"):
        best_of_random(net, x, y, Linf(0.1), saliency, objective=cosine(), n=0)
    with pytest.raises(BadInput, match="steps is 0"):
        random_walk(net, x, y, Linf(0.1), saliency, objective=cosine(), steps=0)
    with pytest.raises(BadInput, match="square supports"):
        square_explain(net, x, y, L0(3), saliency, objective=cosine())
    with pytest.raises(BadInput, match="w is -1"):
        out_of_lens(3, -1)
    with pytest.raises(BadInput, match="pairs is 0"):
        kendall_surrogate(0)
    with pytest.raises(BadInput, match="cannot be used"):
        Differences(sigma=0.7)
    with pytest.raises(BadInput, match="score 'mean' returned shape"):
        judge_explanation(net, x, y, x, Linf(0.1), saliency, {"mean": lambda a, b: a.mean()})
    with pytest.raises(BadInput, match="no scores"):
        explanation_robustness(net, x, y, Linf(0.1), saliency, scores={}, objectives=[cosine()])
