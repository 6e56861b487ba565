"""The training loop and its losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks import pgd
from unfooled.core.ascent import Constant
from unfooled.core.errors import BadInput
from unfooled.core.threats import L2, Linf
from unfooled.core.types import TrainingLoss
from unfooled.evaluation.verify import verify
from unfooled.training import Batches, Madry, Standard, Trades, train
from unfooled.training.checkpoint import Checkpoint


def problem(n: int = 96) -> tuple[Tensor, Tensor]:
    """Three classes: which third of the picture is brightest."""
    x = points(n, (1, 6, 6), seed=3) * 0.5
    y = torch.arange(n) % 3
    for i in range(n):
        x[i, 0, 2 * y[i] : 2 * y[i] + 2] += 0.4
    return x, y


def fresh(seed: int = 0) -> nn.Sequential:
    return tiny_net(3, (1, 6, 6), seed=seed)


def fit(model: nn.Module, loss: TrainingLoss, *, epochs: int = 4, lr: float = 5e-3, **options: object) -> list[float]:
    x, y = problem()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    steps = train(model, Batches(x, y, 32), loss, optimizer, epochs=epochs, **options)  # type: ignore[arg-type]
    return [epoch.loss for epoch in steps]


THREAT = Linf(0.05)
LOSSES = [
    Standard(),
    Standard(0.1),
    Madry(THREAT, steps=3),
    Madry(L2(0.3), steps=2, clean=0.5),
    Trades(THREAT, steps=3),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_loss_falls_and_nothing_else_is_touched(loss: TrainingLoss) -> None:
    model, state = fresh(), torch.get_rng_state()
    losses = fit(model, loss, epochs=6)
    assert losses[-1] < 0.8 * losses[0]
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("loss", [Madry(Linf(0.0), steps=2), Trades(Linf(0.0), steps=2)], ids=["madry", "trades"])
def test_eps_zero_is_standard_training(loss: TrainingLoss) -> None:
    plain, hardened = fresh(), fresh()
    fit(plain, Standard(), epochs=2)
    fit(hardened, loss, epochs=2)
    for a, b in zip(plain.parameters(), hardened.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_trades_is_the_formula() -> None:
    model = fresh().double()
    x, y = problem(9)
    x = x.double()
    torch.manual_seed(7)
    got = Trades(THREAT, beta=3.0, steps=0)(model, x, y)
    torch.manual_seed(7)
    z = THREAT.sample(x, int(torch.randint(1 << 62, ())))
    p, q = model(x).softmax(1), model(z).softmax(1)
    want = F.cross_entropy(model(x), y) + 3.0 * (p * (p.log() - q.log())).sum(1).mean()
    assert got.item() == pytest.approx(want.item(), rel=1e-9)


def test_madry_trains_on_points_worse_than_clean_and_than_random() -> None:
    model = fresh()
    fit(model, Standard(), epochs=6)
    x, y = problem()
    torch.manual_seed(0)
    worst = Madry(THREAT, steps=5)(model, x, y).item()
    random = F.cross_entropy(model(THREAT.sample(x)), y).item()
    assert worst > random
    assert worst > F.cross_entropy(model(x), y).item()


def test_hardening_makes_harder() -> None:
    x, y = problem()
    threat, left = Linf(0.12), []
    for loss in (Standard(), Madry(threat, steps=5)):
        model = fresh()
        fit(model, loss, epochs=25, lr=1e-2)
        z = pgd(model, x, y, threat, steps=20)
        left.append(1 - verify(model, x, y, z, threat).success.float().mean().item())
    assert left[1] > left[0] + 0.05


def test_inner_attack_leaves_batch_statistics_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3))
    x, y = problem(16)
    model.train()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    Madry(THREAT, steps=4, rule=Constant(0.3))(model, x, y)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1  # the training pass alone
    assert model.training


def checkpoint(path: Path, **settings: object) -> Checkpoint:
    return Checkpoint(path, {"arch": "x"}, {"lr": 1.0} | settings)


def test_killed_and_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    x, y = problem()
    loss = Madry(THREAT, steps=2)

    def run(path: Path, stop: int | None) -> nn.Sequential:
        model = fresh()
        steps = train(
            model, Batches(x, y, 32, crop=1, flip=True), loss, torch.optim.AdamW(model.parameters(), 1e-2), epochs=5,
            checkpoint=checkpoint(path),
        )  # fmt: skip
        for epoch in steps:
            if epoch.index == stop:
                break
        return model

    whole = run(tmp_path / "a.pt", None)
    run(tmp_path / "b.pt", 2)
    resumed = run(tmp_path / "b.pt", None)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    other = fresh()
    done = train(
        other, Batches(x, y, 32), loss, torch.optim.AdamW(other.parameters(), 1e-2), epochs=5,
        checkpoint=checkpoint(tmp_path / "a.pt"),
    )  # fmt: skip
    assert list(done) == []
    assert torch.equal(next(other.parameters()), next(whole.parameters()))


def test_colour_networks_come_back_in_rows() -> None:
    model = tiny_net(3, (3, 6, 6))
    x = points(8, (3, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in train(model, Batches(x, torch.arange(8) % 3, 4), Standard(), optimizer, epochs=1):
        assert all(p.is_contiguous() for p in model.parameters())


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    model, path = fresh(), tmp_path / "c.pt"
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    checkpoint(path).save(model, optimizer, [])
    with pytest.raises(BadInput, match=r"holds another training: lr was 1\.0, now it is 2\.0"):
        checkpoint(path, lr=2.0).load(model, optimizer, torch.device("cpu"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="no checkpoint to resume from"):
        checkpoint(path).load(model, optimizer, torch.device("cpu"))


def test_loss_that_is_not_finite_is_refused() -> None:
    model = fresh()
    with pytest.raises(BadInput, match="the loss is nan"):
        fit(model, lambda m, x, y: m(x).sum() * torch.nan)
    assert not model.training


def test_batches_shard_and_repeat() -> None:
    x, y = problem(50)
    whole = [b for _, b in Batches(x, y, 16, seed=1)(3)]
    again = [b for _, b in Batches(x, y, 16, seed=1)(3)]
    other = [b for _, b in Batches(x, y, 16, seed=1)(4)]
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
    parts = [list(Batches(x, y, 16, seed=1, rank=r, world=2)(3)) for r in range(2)]
    for i, b in enumerate(whole):
        if len(b) > 3:
            assert torch.equal(torch.cat([parts[0][i][1], parts[1][i][1]]).sort().values, b.sort().values)


def test_crop_shifts_and_flip_mirrors() -> None:
    x = points(40, (2, 5, 7), seed=4)
    y = torch.arange(40)
    for batch, rows in Batches(x, y, 40, crop=1)(0):
        for picture, i in zip(batch, rows.tolist(), strict=True):
            padded = F.pad(x[i], [1] * 4)
            shifts = [padded[:, a : a + 5, b : b + 7] for a in range(3) for b in range(3)]
            assert any(torch.equal(picture, s) for s in shifts)
    mirrored = 0
    for batch, rows in Batches(x, y, 40, flip=True)(0):
        for picture, i in zip(batch, rows.tolist(), strict=True):
            assert torch.equal(picture, x[i]) or torch.equal(picture, x[i].flip(-1))
            mirrored += int(torch.equal(picture, x[i].flip(-1)))
    assert 5 < mirrored < 35


def test_held_out_accuracy_and_schedule() -> None:
    x, y = problem()
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    epochs = list(train(model, Batches(x, y, 32), Standard(), optimizer, epochs=3, held_out=(x, y)))
    with torch.no_grad():
        want = (model(x).argmax(1) == y).float().mean().item()
    assert epochs[-1].accuracy == pytest.approx(want)
    assert optimizer.param_groups[0]["lr"] < 0.03
