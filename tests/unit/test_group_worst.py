"""Training on the worst of several versions, and on versions drawn at random."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from tests.conftest import points
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.losses import margin
from unfooled.core.threats import Linf
from unfooled.data import load_data
from unfooled.features.corruptions import groups, half_normal_noise, random_group
from unfooled.models import MnistCnn, SmallCnn
from unfooled.training import Augmented, Batches, Free, GroupWorst, Madry, Ramp, Standard, train
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.progress import loss_at, threat_of

X, Y = points(12, (1, 8, 8)), torch.arange(12) % 3


def net(drop: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MnistCnn((1, 8, 8), 3, drop=(drop, drop))


def four(x: Tensor) -> Tensor:
    return torch.stack([x] * 4, 1)


def test_identical_groups_are_standard_training() -> None:
    for drop in (0.0, 0.5):  # the same draws of dropout: choosing the worst takes none
        model = net(drop).train()
        values, grads = [], []
        for loss in (GroupWorst(four), Standard()):
            torch.manual_seed(7)
            value = loss(model, X, Y)
            values.append(value.detach())
            grads.append(torch.autograd.grad(value, list(model.parameters())))
        torch.testing.assert_close(values[0], values[1])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)
        assert model.training


def test_it_is_the_mean_of_the_samples_worst_and_so_at_least_every_group_s() -> None:
    model = net()
    each = torch.stack([F.cross_entropy(model(v), Y, reduction="none") for v in groups(X).unbind(1)], 1)
    value = GroupWorst(groups)(model, X, Y)
    torch.testing.assert_close(value, each.amax(1).mean())
    assert (value >= each.mean(0) - 1e-6).all()
    assert each.argmax(1).unique().numel() > 1
    other = GroupWorst(groups, margin)(model, X, Y)
    worst = torch.stack([margin(model(v), Y) for v in groups(X).unbind(1)], 1).amax(1)
    torch.testing.assert_close(other, worst.mean())


def test_it_trains_a_network_that_resists_the_groups() -> None:
    x, y = load_data("digits", "train", n=500)
    test, label = load_data("digits", "test", n=200)
    worst = []
    for loss in (Standard(), GroupWorst(groups)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SmallCnn(width=8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in train(model, Batches(x, y, 64), loss, optimizer, epochs=6):
            pass
        made = groups(test)
        with torch.no_grad():
            worst.append(torch.stack([model(v).argmax(1) == label for v in made.unbind(1)], 1).float().mean(0).min())
    assert worst[1] > worst[0] + 0.1


def test_augmentation_draws_anew_in_every_step_and_follows_the_global_generator() -> None:
    model, loss = net(), Augmented(random_group)
    torch.manual_seed(1)
    first, second = float(loss(model, X, Y).detach()), float(loss(model, X, Y).detach())
    assert first != second
    torch.manual_seed(1)
    assert float(loss(model, X, Y).detach()) == first
    plain = Augmented(lambda x, *, seed: x, Standard(smoothing=0.1))
    torch.testing.assert_close(plain(model, X, Y), Standard(smoothing=0.1)(model, X, Y))


def test_augmented_losses_follow_the_progress_of_the_one_inside() -> None:
    ramped = Augmented(random_group, Ramp(Madry(Linf(0.2), steps=1), epochs=4))
    assert [str(threat_of(loss_at(ramped, at))) for at in (1.0, 4.0)] == [str(Linf(0.05)), str(Linf(0.2))]
    for inner in (Free(Linf(0.1)), Madry(Linf(0.1), start="warm")):
        with pytest.raises(BadInput, match="keeps perturbations of samples"):
            Augmented(random_group, inner)


def test_names_are_the_same_in_every_process(tmp_path: Path) -> None:
    assert str(GroupWorst(groups)) == "GroupWorst(groups=groups, inner=cross_entropy)"
    assert str(GroupWorst(partial(groups, seed=1))) == "GroupWorst(groups=groups(seed=1), inner=cross_entropy)"
    text = "Augmented(change=half_normal_noise, base=Standard(smoothing=0.0))"
    assert str(Augmented(half_normal_noise)) == text
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep = Checkpoint(tmp_path / "a.pt", settings={"loss": str(GroupWorst(groups))})
    assert len(list(train(model, Batches(X, Y), GroupWorst(groups), optimizer, epochs=1, checkpoint=keep))) == 1
    assert not list(train(model, Batches(X, Y), GroupWorst(groups), optimizer, epochs=1, checkpoint=keep))


def test_another_shape_is_refused() -> None:
    with pytest.raises(BadInput, match=r"groups returned \(12, 1, 8, 8\) for \(12, 1, 8, 8\)"):
        GroupWorst(lambda x: x)(net(), X, Y)
