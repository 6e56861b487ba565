"""The recommended ARP keeps what the published one breaks; the same three checks are shown to fail on the latter."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import Linf
from unfooled.explanations import attention, attention_scores
from unfooled.explanations.masks import fill_blur, fill_mean, fill_noise
from unfooled.runs.spelling import spelled
from unfooled.training import (
    Arp,
    ArpPublished,
    Batches,
    Madry,
    Ramp,
    Stepping,
    arp,
    iou_rounds,
    label_hinge,
    soft_mask,
    squared_gap,
    top_mask,
    trades_base,
    train,
    two_class,
    uniform_gap,
)
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.progress import Notes


def net(*, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    source = torch.Generator().manual_seed(0)
    more = [nn.BatchNorm2d(4)] if norm else []
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), *more, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(256, 4)
    ).double()
    for p in made.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=source, dtype=torch.float64)
    return made


def samples(n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 16, 16, generator=source, dtype=torch.float64)
    z = (x + 0.1 * torch.randn(x.shape, generator=source, dtype=torch.float64)).clamp(0, 1)
    return x, torch.arange(n) % 4, z


plain = Arp(lambda model, x, y: (x + 0.05 * (y[:, None, None, None] - 1.5)).clamp(0, 1), fill=fill_mean)
published = ArpPublished()


# The three promises, each as a measurement: 0 where it is broken (the first), or where it is kept (the others).


def gradient_of_rectification_to_the_map(loss: Any) -> float:
    model, (x, y, z) = net(), samples()
    if isinstance(loss, Arp):
        t = loss.terms(model, x, z, y)
        (g,) = torch.autograd.grad(t.rectification.sum(), t.maps, allow_unused=True)  # type: ignore[arg-type]
    else:
        t = loss.terms(model, x, y, z)
        (g,) = torch.autograd.grad(t.rectification, t.scores, allow_unused=True)
    return 0.0 if g is None else float(g.abs().amax((1, 2)).min())


def change_of_a_map_with_its_neighbours(loss: Any) -> float:
    model, (x, y, z) = net(), samples()

    def first(n: int) -> Tensor:
        if isinstance(loss, Arp):
            return loss.terms(model, x[:n], z[:n], y[:n]).maps[0]  # type: ignore[index]
        return loss.terms(model, x[:n], y[:n], z[:n]).maps[0]

    return float(((first(1) - first(4)).abs().max() / first(4).max()).detach())


def change_of_the_loss_with_the_batch_twice(loss: Any) -> float:
    model, (x, y, _) = net(), samples()
    one = loss(model, x, y).item()
    return abs(loss(model, x.repeat(2, 1, 1, 1), y.repeat(2)).item() - one)


def test_rectification_reaches_the_map() -> None:
    assert gradient_of_rectification_to_the_map(plain) > 1e-6
    assert gradient_of_rectification_to_the_map(published) == 0, "as published: a hard mask lets nothing through"


def test_a_map_does_not_depend_on_its_neighbours() -> None:
    assert change_of_a_map_with_its_neighbours(plain) < 1e-6
    assert change_of_a_map_with_its_neighbours(published) > 1e-3, "as published: the root mean square is the batch's"


def test_the_loss_does_not_grow_with_the_batch() -> None:
    assert change_of_the_loss_with_the_batch_twice(plain) < 1e-9
    assert change_of_the_loss_with_the_batch_twice(published) > 1e-4, "as published: a sum over the batch"


def test_noise_in_the_hole_does_not_depend_on_the_batch_either() -> None:
    model, (x, y, z) = net(), samples()
    for fill in (fill_mean, fill_blur, fill_noise):
        loss = Arp(lambda model, x, y: x, fill=fill)
        values = []
        for n in (1, 2):
            torch.manual_seed(3)
            values.append(loss.on(model, x.repeat(n, 1, 1, 1), z.repeat(n, 1, 1, 1), y.repeat(n)).item())
        assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_preservation_has_a_gradient_and_maps_have_many_values() -> None:
    model, (x, y, z) = net(), samples()
    t = plain.terms(model, x, z, y)
    assert t.maps is not None
    assert len(t.maps[0].unique()) > 2
    grads = torch.autograd.grad(t.preservation.sum(), list(model.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in grads if g is not None) > 1e-6


def test_equal_samples_have_equal_maps_and_rectification_repeats_in_eval_mode() -> None:
    model, (x, y, z) = net(dropout=0.5).eval(), samples()
    same = plain.terms(model, x, x, y)
    assert same.preservation.abs().max() == 0
    one, two = (plain.terms(model, x, z, y).rectification for _ in range(2))
    assert torch.equal(one, two)
    noughts = Arp(lambda model, x, y: x, fill=fill_mean)
    assert noughts.terms(model, x, noughts.adversarial(model, x, y), y).preservation.abs().max() == 0


def test_without_weights_it_is_the_base() -> None:
    x, y, _ = samples()
    threat = Linf(0.05)
    values, grads = [], []
    for loss in (Madry(threat, steps=2), arp(threat, steps=2, rectify=0, preserve=0)):
        model = net()
        torch.manual_seed(5)
        value = loss(model, x, y)
        value.backward()
        values.append(value.item())
        grads.append([p.grad for p in model.parameters()])
    assert values[0] == pytest.approx(values[1])
    torch.testing.assert_close(grads[0], grads[1])


def test_the_trades_base_is_trades() -> None:
    from unfooled.training import Trades

    x, y, _ = samples()
    values = []
    for loss in (Trades(Linf(0.05), steps=2), arp(Linf(0.05), base="trades", steps=2, rectify=0, preserve=0)):
        torch.manual_seed(5)
        values.append(loss(net(), x, y).item())
    assert values[0] == pytest.approx(values[1])
    logits = torch.randn(3, 4)
    torch.testing.assert_close(trades_base(logits, logits, torch.tensor([0, 1, 2])),
                               F.cross_entropy(logits, torch.tensor([0, 1, 2]), reduction="none"))  # fmt: skip


def test_rectifications() -> None:
    uniform, sure = torch.zeros(1, 4), torch.tensor([[9.0, 0, 0, 0]])
    y = torch.tensor([0])
    assert uniform_gap(sure, uniform, y).item() == pytest.approx(0, abs=1e-6)
    assert uniform_gap(sure, sure, y).item() == pytest.approx(-math.log(4) - float(sure.log_softmax(1).mean()))
    assert squared_gap(sure, sure, y).item() == 0
    assert squared_gap(sure, uniform, y).item() < -0.7
    assert label_hinge(sure, uniform, y).item() == 0
    assert label_hinge(sure, sure, y).item() == pytest.approx(0.75, abs=1e-3)


def test_masks() -> None:
    p = torch.full((2, 4, 4), 0.02)
    p[:, 1, 1:3] = (1 - 14 * 0.02) / 2
    p.requires_grad_()
    soft, hard = soft_mask(p, (8, 8)), top_mask(p, (8, 8), share=0.125)
    assert soft.shape == hard.shape == (2, 1, 8, 8)
    assert hard.mean().item() == pytest.approx(0.125, abs=1e-6)
    assert soft[0, 0, 2, 3] > 0.7 > 0.2 > soft[0, 0, 7, 7]
    for m in (soft, hard):
        (g,) = torch.autograd.grad(m.square().sum(), p, retain_graph=True)
        assert g.abs().max() > 0
    # A uniform map: half of everything is masked, whatever the grid.
    assert soft_mask(torch.full((1, 5, 5), 0.04), (10, 10)).unique().tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("joint", [True, False])
def test_batch_normalisation_joint_or_split(joint: bool) -> None:
    model, (x, y, z) = net(norm=True).train(), samples()
    before = int(model.get_buffer("1.num_batches_tracked"))
    t = Arp(lambda model, x, y: z, fill=fill_mean, joint=joint).terms(model, x, z, y)
    # Images with holes normalise by their batch, but are no part of the statistics.
    assert int(model.get_buffer("1.num_batches_tracked")) - before == (1 if joint else 2)
    assert t.base.shape == (4,)
    assert all(m.training for m in model.modules())


def test_images_with_holes_are_no_part_of_the_running_statistics() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).train()
    other = copy.deepcopy(net)
    x, y = torch.rand(6, 3, 12, 12), torch.tensor([0, 1, 2, 0, 1, 2])
    z = (x + 0.05).clamp(0, 1)
    Arp(lambda model, x, y: z).on(net, x, z, y)
    Arp(lambda model, x, y: z, beta=0.0).on(other, x, z, y)
    assert torch.equal(net[1].running_mean, other[1].running_mean)  # type: ignore[arg-type]
    assert net[1].num_batches_tracked == other[1].num_batches_tracked == 1
    assert net[1].track_running_stats  # as it was


def test_two_classes_compare_one_pair() -> None:
    model, (x, y, z) = net().eval(), samples()
    compare = partial(attention_scores, score=two_class, detach_weights=True)
    loss = Arp(lambda model, x, y: z, compare=compare, preserve=lambda a, b: (a - b).abs().flatten(1).sum(1))
    found = loss.terms(model, x, z, y).preservation
    t = model(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    s = [attention_scores(model, part, y) - attention_scores(model, part, t) for part in (x, z)]
    torch.testing.assert_close(found, (s[0] - s[1]).abs().flatten(1).sum(1))


def test_passes() -> None:
    model, (x, y, z) = net(), samples()
    with counted(model) as f:
        Arp(lambda model, x, y: z).on(f, x, z, y).backward()  # type: ignore[arg-type]
    assert f.forwards == 4 * 4 + 1, "two passes of the pair, and one sample to find the layer"


def test_trained_by_the_loop_with_notes_and_resumed(tmp_path: Path) -> None:
    x, y, _ = samples(8)
    x = x.float()

    def start(path: str, epochs: int) -> tuple[nn.Module, list[Any]]:
        torch.manual_seed(0)
        model = net(norm=True).float()
        loss = Ramp(arp(Linf(0.05), steps=2), 1.0)
        keep = Checkpoint(tmp_path / path, settings={"loss": str(loss)})
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        steady = Stepping(schedule=False)
        done = list(train(model, Batches(x, y, 4), loss, optimizer, epochs=epochs, checkpoint=keep, stepping=steady))
        return model, done

    whole, epochs = start("a.pt", 2)
    assert [e.index for e in epochs] == [0, 1], "one row an epoch"
    for e in epochs:
        assert set(e.notes) == {"base", "rectification", "preservation", "mask_area", "attention_entropy"}
        assert 0 < e.notes["mask_area"] < 1
        assert 0 < e.notes["attention_entropy"] <= 1
        total = e.notes["base"] + 0.5 * e.notes["rectification"] + e.notes["preservation"]
        assert total == pytest.approx(e.loss, rel=1e-4)
    start("b.pt", 1)
    resumed, _ = start("b.pt", 2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_its_name_has_no_addresses_and_tells_options_apart() -> None:
    one, two = str(arp(Linf(0.1))), str(arp(Linf(0.1), base="trades", rectify=0.2))
    assert "0x" not in one + two
    assert one != two
    assert one == str(arp(Linf(0.1))) == spelled(arp(Linf(0.1)))
    assert one.startswith("Arp(attack=worst_points(loss=cross_entropy, steps=7, rule=Constant(size=0.25)), base=advers")


def test_notes_are_means_over_samples() -> None:
    notes = Notes()
    notes.add(a=torch.tensor([1.0, 2.0]), b=torch.tensor([torch.nan]))
    notes.add(a=torch.tensor([6.0]))
    assert notes.read() == {"a": 3.0}
    assert notes.read() == {}


@pytest.mark.parametrize("rounds", [0, 3])
def test_rounds_end_on_a_map_that_never_moves(rounds: int) -> None:
    model, (x, y, _) = net(), samples()
    calls: list[int] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        calls.append(len(x))
        return start

    def ce(model: nn.Module, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(z), y)

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    done = iou_rounds(model, x, y, optimizer, loss=ce, attack=attack, attend=attention, rounds=rounds)
    assert done.attacked == (1.0,) * (rounds + 1)
    assert calls == [4] * (rounds + 1)
    assert len(done.losses) == rounds + 1
    assert model.training


def test_samples_whose_attention_moved_leave() -> None:
    model, (x, y, _) = net(), samples()

    def attend(model: Any, z: Tensor, y: Tensor) -> Tensor:
        p = torch.full((len(z), 4, 4), 0.01)
        place = (z.mean((1, 2, 3)) > 0.9).long()
        p[torch.arange(len(z)), place, place] = 0.85
        return p

    def attack(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        return torch.where((y >= 2)[:, None, None, None], torch.ones_like(x), start)

    def ce(model: nn.Module, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(z), y)

    done = iou_rounds(
        model, x, y, torch.optim.SGD(model.parameters(), 0.01), loss=ce, attack=attack, attend=attend, rounds=2
    )
    assert done.attacked == (1.0, 0.5, 0.5)


def test_bad_input_is_named() -> None:
    model, (x, y, _) = net(), samples()
    with pytest.raises(ValueError, match=r"it must be .madry. or .trades."):
        arp(Linf(0.1), base="free")
    with pytest.raises(ValueError, match="at least 0"):
        Arp(lambda model, x, y: x, beta=-1)
    for loss in (plain, published):
        with pytest.raises(BadInput, match="images"):
            loss(model, x.flatten(1), y)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        published(model, 2 * x - 1, y)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        published.terms(model, x, y, 2 * x - 1)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        published.craft(model, 2 * x - 1)
    for wrong in (y + 1, y - 1):
        with pytest.raises(BadInput, match="labels lie in"):
            published(model, x, wrong)
    with pytest.raises(BadInput, match="one label per sample"):
        published(model, x, y[:2])
    with pytest.raises(BadInput, match="3 samples"):
        two_class(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
