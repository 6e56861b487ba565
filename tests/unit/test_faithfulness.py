"""Deletion, insertion, randomised parameters and alignment, against loops and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.evaluation.explanations.faithfulness import (
    gradient_alignment,
    parameter_randomisation,
    perturbation_curves,
)
from unfooled.explanations.masks import fill_blur


class Weighted(nn.Module):
    """z = (w . x, 0)."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1) * self.w.flatten()).sum(1, keepdim=True)
        return torch.cat([z, 0 * z], 1)


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)]
        return nn.Sequential(*layers).eval()


def images(n: int = 5, side: int = 6) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(model(x).gather(1, y[:, None]).sum(), x)
    return g


def zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@torch.no_grad()
def test_curves_are_those_of_a_loop_pixel_by_pixel() -> None:
    x, model, y = images(3), net(), torch.tensor([0, 1, 2])
    maps = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(2))
    found = perturbation_curves(model, x, y, maps, steps=36, batch=2)
    for i in range(3):
        left, come = x[i].clone(), fill_blur(x[i : i + 1])[0].clone()
        mean = x[i].mean()
        for k in range(37):
            assert found.deletion[i, k] == pytest.approx(float(model(left[None]).softmax(1)[0, y[i]]), abs=1e-6)
            assert found.insertion[i, k] == pytest.approx(float(model(come[None]).softmax(1)[0, y[i]]), abs=1e-6)
            if k < 36:
                at = divmod(int(maps[i].flatten().argsort(descending=True)[k]), 6)
                left[0, at[0], at[1]], come[0, at[0], at[1]] = mean, x[i, 0, at[0], at[1]]


def test_the_true_order_is_best_and_the_reverse_is_worst() -> None:
    w = torch.linspace(0.2, 2, 36).view(1, 6, 6)
    x, y = torch.ones(1, 1, 6, 6), torch.tensor([0])
    rolled = w.flatten().roll(18).view(1, 6, 6)
    areas = [perturbation_curves(Weighted(w), x, y, m, removed=zero, base=zero) for m in (w, rolled, -w)]
    deleted, inserted = [float(a.deletion_area) for a in areas], [float(a.insertion_area) for a in areas]
    assert deleted == sorted(deleted) and deleted[0] < deleted[1] < deleted[2]
    assert inserted[0] > inserted[1] > inserted[2]


def test_the_area_of_a_step_is_the_trapezium() -> None:
    x, y = torch.ones(1, 1, 2, 2), torch.tensor([0])
    found = perturbation_curves(
        Weighted(torch.ones(1, 2, 2)), x, y, torch.arange(4.0).view(1, 2, 2), steps=2, removed=zero
    )
    p = torch.tensor([4.0, 2.0, 0.0]).sigmoid()
    assert found.deletion[0].tolist() == pytest.approx(p.tolist())
    assert float(found.deletion_area) == pytest.approx(float(p[0] / 4 + p[1] / 2 + p[2] / 4))


def test_coarse_maps_are_enlarged_and_constant_ones_have_no_order() -> None:
    x, y, model = images(3), torch.tensor([0, 1, 2]), net()
    coarse = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(3))
    fine = torch.nn.functional.interpolate(coarse[:, None], (6, 6), mode="bilinear", align_corners=False)[:, 0]
    coarse[1] = 0.5
    found, same = (perturbation_curves(model, x, y, m) for m in (coarse, fine))
    assert torch.equal(found.deletion[[0, 2]], same.deletion[[0, 2]])
    assert bool(found.deletion[1].isnan().all()) and bool(found.insertion_area[1].isnan())
    assert not same.deletion[1].isnan().any()


def test_a_map_that_ignores_the_network_survives_its_forgetting_and_a_gradient_does_not() -> None:
    x, y, model = images(40), torch.zeros(40, dtype=torch.long), net()
    kept = copy.deepcopy(model.state_dict())
    blind = parameter_randomisation(model, lambda m, x, y: x, x, y)
    seen = parameter_randomisation(model, gradient, x, y, seed=3)
    assert blind.layers == seen.layers == ("5", "3", "0")
    assert bool((blind.similarity == 1).all())
    assert seen.similarity.shape == (3, 40)
    assert float(seen.similarity[-1].abs().nanmean()) < 0.3
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    again = parameter_randomisation(model, gradient, x, y, seed=3)
    assert torch.equal(seen.similarity.nan_to_num(), again.similarity.nan_to_num())
    other = parameter_randomisation(model, gradient, x, y, seed=4)
    assert not torch.equal(seen.similarity.nan_to_num(), other.similarity.nan_to_num())


def test_layers_are_forgotten_one_after_the_other() -> None:
    x, y, model = images(4), torch.zeros(4, dtype=torch.long), net()
    states: list[dict[str, Tensor]] = []

    def explain(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        states.append({k: v.detach().clone() for k, v in m.state_dict().items()})
        return gradient(m, x, y)

    parameter_randomisation(model, explain, x, y)
    same = [{k.partition(".")[0] for k, v in s.items() if torch.equal(v, states[0][k])} for s in states]
    assert same == [{"0", "3", "5"}, {"0", "3"}, {"0"}, set()]
    for k, v in states[-1].items():  # the same entries elsewhere
        assert torch.equal(v.flatten().sort().values, states[0][k].flatten().sort().values)


def test_alignment_is_the_cosine() -> None:
    w = torch.zeros(1, 2, 2)
    w[0, 0, 0] = 2.0
    x = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).view(4, 1, 2, 2)
    found = gradient_alignment(Weighted(w), x, torch.tensor([0, 0, 1, 0]), batch=3)
    assert found[:3].tolist() == pytest.approx([1, 0, 2**-0.5])
    assert bool(found[3].isnan())
    model, x = net(), images()
    assert torch.equal(
        gradient_alignment(model, x, torch.zeros(5, dtype=torch.long), batch=1).isnan().any(), torch.tensor(False)
    )
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_named() -> None:
    x, y = images(), torch.zeros(5, dtype=torch.long)
    with pytest.raises(BadInput, match="one per sample"):
        perturbation_curves(net(), x, y, torch.rand(4, 6, 6))
    with pytest.raises(BadInput, match="images"):
        perturbation_curves(net(), x.flatten(1), y, torch.rand(5, 6, 6))
    with pytest.raises(BadInput, match="at least 1"):
        perturbation_curves(net(), x, y, torch.rand(5, 6, 6), steps=0)
    with pytest.raises(BadInput, match="labels"):
        perturbation_curves(net(), x, y + 3, torch.rand(5, 6, 6))
    with pytest.raises(BadInput, match="training mode"):
        gradient_alignment(nn.Sequential(nn.Dropout(), net()).train(), x, y)
    with pytest.raises(BadInput, match="torch module"):
        parameter_randomisation(lambda x: x, gradient, x, y)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no parameters"):
        parameter_randomisation(nn.Flatten().eval(), lambda m, x, y: x, x, y)
    with pytest.raises(BadInput, match="no gradient"):
        gradient_alignment(lambda x: net()(x).detach(), x, y)
