"""Training on single steps of varied length and on the examples of other networks, and averages of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.test_training import THREAT, fresh, problem
from torch import nn
from torch.nn import functional as F

from unfooled import workflows
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.models.load import load_model
from unfooled.testing.losses import fit
from unfooled.training import Batches, Checkpoint, Ensemble, Standard, StepLl, Stepping, train
from unfooled.training.losses.step_ll import half_normal
from unfooled.workflows import LossOptions, Recipe
from unfooled.workflows.losses import make_loss


def test_lengths_of_steps_are_half_normal_and_at_most_eps() -> None:
    torch.manual_seed(0)
    drawn = half_normal(torch.zeros(20_000, 1, dtype=torch.float64))
    assert drawn.dtype == torch.float64
    assert 0 <= drawn.min() < 0.001
    assert 0.99 < drawn.max() <= 1
    # The mean of |N(0, 1/4)| within two deviations: sqrt(2 / pi) (1 - exp(-2)) / (2 erf(sqrt 2)).
    assert drawn.mean().item() == pytest.approx(0.3614, abs=0.004)


def test_step_ll_is_the_formula() -> None:
    model: Any = fresh().double().eval()
    x, y = (part[:8] for part in problem())
    x = x.double().requires_grad_()
    logits = model(x)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmin(1), reduction="sum"), x)
    x = x.detach()
    z = (x - 0.05 * g.sign()).clamp(0, 1)
    want = (F.cross_entropy(model(x), y) + 0.3 * F.cross_entropy(model(z), y)) / 1.3
    got = StepLl(THREAT, varied=False)(model, x, y)
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    assert StepLl(THREAT)(model, x, y).item() != got.item()


class Asked(nn.Module):
    """A network that counts the gradients that are asked of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += int(x.requires_grad)
        out: torch.Tensor = self.inner(x)
        return out


def test_an_ensemble_trains_on_the_examples_of_every_network() -> None:
    x, y = problem(40)
    model, sources = Asked(fresh(2)), [Asked(fresh(seed)) for seed in (0, 1)]
    before = [p.clone() for p in sources[0].parameters()]
    torch.manual_seed(1)
    loss = Ensemble(Linf(0.1), sources)
    for _ in range(12):
        loss(model, x, y).backward()
    asked = [net.asked for net in (model, *sources)]
    assert min(asked) > 0
    assert sum(asked) == 12
    assert all(torch.equal(a, b) for a, b in zip(before, sources[0].parameters(), strict=True))
    assert all(p.grad is None for p in sources[0].parameters())


@pytest.mark.parametrize("steps", [1, 5])
def test_points_of_an_ensemble_fool_the_network_that_they_were_made_for(steps: int) -> None:
    x, y = problem()
    source = fresh()
    fit(source, Standard(), epochs=25, lr=1e-2)
    loss = Ensemble(Linf(0.3), [source], steps=steps)
    assert F.cross_entropy(source(loss.points(source, x, y)), y) > F.cross_entropy(source(x), y) + 0.1


def test_sources_that_cannot_be_used() -> None:
    x, y = problem(8)
    with pytest.raises(BadInput, match="give sources, at least one"):
        Ensemble(THREAT, [])
    wide = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 7))
    with pytest.raises(BadInput, match="source 0 of the ensemble has 7 classes"):
        [Ensemble(THREAT, [wide])(fresh(), x, y) for _ in range(8)]
    other = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(BadInput, match="does not take inputs of shape"):
        [Ensemble(THREAT, [other])(fresh(), x, y) for _ in range(8)]
    with pytest.raises(BadInput, match="give sources"):
        make_loss("ensemble", "linf:0.1")
    with pytest.raises(BadInput, match="takes no sources"):
        make_loss("madry", "linf:0.1", LossOptions(sources=[wide]))


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_shares_that_cannot_be_used(decay: float, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="average"):
        workflows.train("digits", recipe=Recipe(average=decay), out=tmp_path / "a.pt")


def averaged(path: Path | None, stop: int | None = None, decay: float = 0.9) -> nn.Module:
    x, y = problem(80)
    model = nn.Sequential(nn.Dropout(0.1), fresh())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for epoch in train(
        model, Batches(x, y, 32), Standard(), optimizer, epochs=4, stepping=Stepping(average=decay),
        checkpoint=None if path is None else Checkpoint(path), held_out=(x, y),
    ):  # fmt: skip
        right = (model.eval()(x).argmax(1) == y).float().mean().item()
        assert epoch.accuracy == pytest.approx(right)
        if epoch.index == stop:
            break
    return model


def copied(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def test_the_average_is_that_of_the_steps() -> None:
    """The same three steps by hand, with the decays 1/10, 2/11, 3/12."""
    model, plain = fresh(), fresh()
    weights: list[list[torch.Tensor]] = []
    x, y = problem(80)
    for net, average in ((model, 0.9), (plain, 0.0)):
        optimizer = torch.optim.SGD(net.parameters(), 0.5)
        if net is plain:
            optimizer.register_step_post_hook(
                lambda *_: weights.append([p.detach().clone() for p in plain.parameters()])
            )
        list(train(net, Batches(x, y, 32), Standard(), optimizer, epochs=1, stepping=Stepping(average=average)))
    want = copied(fresh())
    for keep, now in zip((1 / 10, 2 / 11, 3 / 12), weights, strict=True):
        want = [keep * a + (1 - keep) * b for a, b in zip(want, now, strict=True)]
    for a, b in zip(model.parameters(), want, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_averaged_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = averaged(tmp_path / "a.pt")
    averaged(tmp_path / "b.pt", stop=1)
    resumed = averaged(tmp_path / "b.pt")
    plain = averaged(None, decay=0.0)
    for a, b, c in zip(whole.parameters(), resumed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_the_checkpoint_holds_the_average(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, n=200, watch=0, average=0.9)
    record = workflows.train("digits", recipe=recipe, out=tmp_path / "a.pt")
    plain = workflows.train("digits", recipe=Recipe(epochs=2, n=200, watch=0), out=tmp_path / "b.pt")
    a, b = (next(load_model(part.out).parameters()) for part in (record, plain))
    assert not torch.equal(a, b)
    with pytest.raises(BadInput, match="average"):
        workflows.train("digits", recipe=Recipe(epochs=2, n=200, watch=0), out=tmp_path / "a.pt")


def test_an_ensemble_by_name(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, n=200, watch=0)
    workflows.train("digits", recipe=recipe, out=tmp_path / "source.pt")
    options = LossOptions(sources=[str(tmp_path / "source.pt")])
    for name in ("a.pt", "b.pt"):
        record = workflows.train(
            "digits", "ensemble", threat="linf:0.1", options=options, recipe=recipe, out=tmp_path / name, seed=1
        )
        assert record.trained == 1
    a, b = (next(load_model(str(tmp_path / name)).parameters()) for name in ("a.pt", "b.pt"))
    assert torch.equal(a, b)
