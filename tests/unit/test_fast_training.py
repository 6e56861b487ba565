"""Adversarial training at less cost: ramps, warm starts, early removal, single steps, replays, and the monitor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import points
from tests.unit.test_training import THREAT, fit, fresh, problem
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import L2, Linf
from unfooled.core.types import TrainingLoss
from unfooled.data import load_data
from unfooled.models import SmallCnn
from unfooled.training import Batches, Epoch, Fast, Free, Madry, Monitor, Ramp, Standard, Trades, n_fgsm, train
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.losses.inner import worst_points
from unfooled.training.losses.memory import Carried, Starts


def losses(threat: Linf | L2) -> list[Any]:
    """Every new loss and option, made anew: memories are not shared between tests."""
    return [
        Fast(threat),
        n_fgsm(threat),
        Fast(threat, align=0.5),
        Free(threat, replays=3),
        Madry(threat, steps=2, start="warm"),
        Madry(threat, steps=3, remove=1.0),
        Trades(threat, steps=2, start="warm", remove=1.0),
        Ramp(Madry(threat, steps=2), 1.5),
        Ramp(Madry(threat, steps=2, start="warm", remove=1.0), 1.5),
        Ramp(Free(threat, replays=2), 1.5),
    ]


NAMES = [
    "fast", "n-fgsm", "align", "free", "madry-warm", "madry-remove", "trades-warm", "ramp", "ramp-warm", "ramp-free",
]  # fmt: skip
every = pytest.mark.parametrize("i", range(len(NAMES)), ids=NAMES)


@every
def test_killed_and_resumed_training_ends_with_the_same_weights(i: int, tmp_path: Path) -> None:
    x, y = problem(80)

    def run(path: Path, stop: int | None) -> nn.Sequential:
        model = nn.Sequential(nn.Dropout(0.1), fresh())
        monitor = Monitor(THREAT, x[:16], y[:16], wide=1.0)
        for epoch in train(
            model, Batches(x, y, 32), losses(THREAT)[i], torch.optim.AdamW(model.parameters(), 1e-2), epochs=4,
            checkpoint=Checkpoint(path), monitor=monitor,
        ):  # fmt: skip
            if epoch.index == stop:
                break
        return model

    whole = run(tmp_path / "a.pt", None)
    run(tmp_path / "b.pt", 1)
    resumed = run(tmp_path / "b.pt", None)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loss", [Madry(THREAT, steps=2, start="warm"), Free(THREAT)], ids=["warm", "free"])
def test_a_loss_begins_every_run_with_an_empty_memory(loss: TrainingLoss) -> None:
    first, second = fresh(), fresh()
    fit(first, loss)
    fit(second, loss)
    assert torch.equal(next(first.parameters()), next(second.parameters()))


@pytest.mark.parametrize(
    ("loss", "forwards", "backwards"),
    [
        (Madry(THREAT, steps=4), 6, 5),
        (Madry(THREAT, steps=4, start="warm"), 6, 5),
        (Madry(THREAT, steps=4, clean=0.5), 7, 6),
        (Trades(THREAT, steps=3, start="warm"), 7, 5),
        (Fast(THREAT), 2, 2),
        (n_fgsm(THREAT), 2, 2),
        (Fast(THREAT, align=0.5), 4, 6),
        (Free(THREAT, replays=5), 1, 1),
    ],
    ids=str,
)
def test_passes_are_those_of_the_docstring(loss: TrainingLoss, forwards: int, backwards: int) -> None:
    x, y = problem(10)
    for _ in range(2):
        counted: Any = Counted(fresh())
        loss(counted, x, y).backward()
        assert (counted.forwards, counted.backwards) == (10 * forwards, 10 * backwards)


def test_replays_take_so_many_steps() -> None:
    x, y = problem(64)
    model = fresh()
    seen: list[int] = []
    model.register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    list(train(model, Batches(x, y, 32), Free(THREAT, replays=5), optimizer, epochs=2))
    assert len(seen) == 2 * 2 * 5 + 2 + 1  # and a look at the network before the start and after each epoch


def test_ramp_grows_with_the_progress_and_then_is_the_loss() -> None:
    ramp = Ramp(Madry(Linf(0.2), start="warm"), 2.0)
    now: Any = ramp.at(0.5)
    assert now.threat.eps == pytest.approx(0.05)
    assert now.memory is ramp.loss.memory
    assert ramp.at(2.0) is ramp.loss
    assert ramp.at(7.0) is ramp.loss
    seen: list[float] = []

    class Spy(Fast):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            seen.append(float(self.threat.eps))
            return super().__call__(model, x, y)

    fit(fresh(), Ramp(Spy(Linf(0.2)), 2.0), epochs=3)
    assert seen == pytest.approx([0.2 * min(1.0, (i + 1) / 6) for i in range(9)])
    with pytest.raises(ValueError, match="epochs is 0"):
        Ramp(Madry(THREAT), 0)
    with pytest.raises(ValueError, match="no threat that could grow"):
        Ramp(Standard(), 1)


@pytest.mark.slow
def test_ramp_trains_where_the_whole_threat_at_once_does_not() -> None:
    x, y = load_data("digits", "train")
    ends = []
    for loss in (Madry(Linf(0.3)), Ramp(Madry(Linf(0.3)), 3)):
        torch.manual_seed(0)
        model = SmallCnn(width=8)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        *_, last = train(model, Batches(x, y, 64), loss, optimizer, epochs=7, held_out=(x, y))
        ends.append(last.accuracy or 0.0)
    assert ends[0] < 0.3
    assert ends[1] > ends[0] + 0.2


def test_warm_starts_begin_where_the_last_attack_ended() -> None:
    x, y = problem(8)
    model, memory, threat = fresh(), Starts(), Linf(0.1)
    first = worst_points(model, x, y, threat, loss=_cross, steps=4, rule=Madry(threat).rule, memory=memory)
    order = torch.tensor([3, 0, 5])
    again = worst_points(
        model, x[order], y[order], threat, loss=_cross, steps=0, rule=Madry(threat).rule, memory=memory
    )
    assert (again - first[order]).abs().max() < 1e-4  # kept in half precision
    assert not torch.allclose(again, threat.sample(x[order]), atol=1e-3)
    smaller = memory.start(x, x, Linf(0.01))
    assert float((smaller - x).abs().max()) <= 0.01 + 1e-6
    unknown = points(2, (1, 6, 6), seed=8)
    assert torch.equal(memory.start(unknown, unknown * 0.5, threat), unknown * 0.5)


def _cross(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def test_warm_starts_make_few_steps_stronger() -> None:
    x, y = problem()
    model = fresh()
    fit(model, Standard(), epochs=4)
    found = {}
    for start in ("random", "warm"):
        loss = Madry(Linf(0.1), steps=1, start=start)
        torch.manual_seed(0)
        found[start] = [loss(model, x, y).item() for _ in range(4)]
    assert found["warm"][-1] > 1.02 * max(found["random"])


def test_memory_survives_a_round_trip() -> None:
    x, memory = points(5, (1, 6, 6)), Starts()
    memory.store(x, x + 0.01)
    other = Starts()
    other.restore(memory.state())
    assert torch.equal(other.start(x, x, THREAT), memory.start(x, x, THREAT))
    other.restore({})
    assert len(other) == 0
    carried = Carried()
    carried.store(torch.full((4, 2), 0.1))
    carried.store(torch.full((2, 2), 0.2))
    assert carried.state()["delta"][:, 0].tolist() == pytest.approx([0.2, 0.2, 0.1, 0.1])


def test_warm_starts_refuse_augmentation_and_several_processes() -> None:
    x, y = problem(8)
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(BadInput, match="augmentation changes"):
        next(train(model, Batches(x, y, 4, crop=1), Madry(THREAT, start="warm"), optimizer, epochs=1))
    with pytest.raises(BadInput, match="several processes"):
        next(train(model, Batches(x, y, 4, world=2), Free(THREAT), optimizer, epochs=1))
    with pytest.raises(ValueError, match="start is 'hot'"):
        Madry(THREAT, start="hot")
    with pytest.raises(ValueError, match="replays is 0"):
        Free(THREAT, replays=0)


def test_early_removal_costs_less_and_is_about_as_hard() -> None:
    x, y = problem()
    model, threat = fresh(), Linf(0.1)
    fit(model, Madry(Linf(0.05), steps=3), epochs=12, lr=1e-2)
    points_, cost = {}, {}
    for remove in (None, 2.0):
        counted: Any = Counted(model)
        torch.manual_seed(0)
        points_[remove] = worst_points(
            counted, x, y, threat, loss=_cross, steps=7, rule=Madry(threat).rule, remove=remove
        )
        cost[remove] = counted.forwards
    with torch.no_grad():
        full, early = (_cross(model(points_[remove]), y) for remove in (None, 2.0))
    assert cost[2.0] < 0.95 * cost[None]
    gone = early < full - 1e-4
    assert 0 < int(gone.sum()) < len(x)
    assert float(early[gone].min()) > 2.0  # whoever left was fooled by a margin; all others are attacked to the end
    assert float(early.mean()) > 0.8 * float(full.mean())


def test_fast_is_the_formula() -> None:
    model = fresh().double()
    x, y = problem(9)
    x, threat = x.double(), Linf(0.1)
    for loss in (Fast(threat), n_fgsm(threat)):
        torch.manual_seed(7)
        got = loss(model, x, y)
        torch.manual_seed(7)
        start = Linf(0.1 * loss.noise).sample(x, int(torch.randint(1 << 62, ()))).requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
        z = start.detach() + loss.step * 0.1 * g.sign()
        z = z.clamp(0, 1) if not loss.clip else z.clamp(x - 0.1, x + 0.1).clamp(0, 1)
        assert got.item() == pytest.approx(F.cross_entropy(model(z), y).item(), rel=1e-9)


def test_alignment_of_a_linear_model_is_free_and_of_a_curved_one_is_not() -> None:
    x, y = problem(9)
    flat_model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    y2 = y % 2
    for model, labels, least in ((flat_model, y2, 0.0), (fresh(), y, 1e-4)):
        got = []
        for align in (0.0, 1.0):
            torch.manual_seed(0)
            got.append(Fast(Linf(0.2), align=align)(model, x, labels).item())
        assert got[1] - got[0] == pytest.approx(0, abs=1e-5) if not least else got[1] - got[0] > least


def test_fused_attention_can_be_aligned() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(30, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.scaled_dot_product_attention(x, x, x).flatten(1))

    net, x, y = Attending(), torch.rand(4, 1, 6, 5), torch.arange(4) % 3
    Fast(THREAT, align=0.5)(net, x, y).backward()
    assert net.head.weight.grad is not None
    assert torch.isfinite(net.head.weight.grad).all()


def test_free_moves_the_perturbation_by_the_gradient_of_the_training_pass() -> None:
    x, y = problem(6)
    x, model, threat = x.double(), fresh().double(), Linf(0.1)
    loss = Free(threat, step=0.5)
    loss(model, x, y).backward()
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    want = (x + 0.05 * g.sign()).clamp(0, 1) - x
    delta = loss.memory.delta
    assert delta is not None
    assert torch.allclose(delta, want)
    with torch.no_grad():
        assert loss(model, x, y).item() == pytest.approx(F.cross_entropy(model(x + want), y).item())


GOOD = [(0.5, 0.40), (0.6, 0.45)]


@pytest.mark.parametrize(
    ("now", "before", "collapsed"),
    [
        ((0.70, 0.10), GOOD, True),  # FGSM rises, PGD falls
        ((0.95, 0.00), GOOD, True),
        ((0.90, 0.05), [], True),  # at once
        ((0.20, 0.15), GOOD, False),  # both fall: a bad epoch
        ((0.65, 0.44), GOOD, False),
        ((0.70, 0.25), GOOD, False),  # not half of the best
        ((0.30, 0.02), [], False),  # a large threat, hardly trained
        ((0.0, 0.0), [(0.0, 0.0)], False),
    ],
)
def test_the_monitor_s_rule(now: tuple[float, float], before: list[tuple[float, float]], collapsed: bool) -> None:
    x, y = problem(4)
    said = Monitor(THREAT, x, y).judge(now, before)
    assert (said is not None) is collapsed
    if said:
        assert said.startswith("catastrophic overfitting: ")


def test_a_collapse_restores_the_last_good_weights_and_stops(tmp_path: Path) -> None:
    plan = iter([(0.5, 0.4), (0.6, 0.5), (0.9, 0.1)])

    class Planned(Monitor):
        """A monitor that sees what it is told, one pair an epoch."""

        def look(self, model: nn.Module, device: torch.device) -> tuple[float, float]:
            return next(plan)

    x, y = problem()
    model, path, states = fresh(), tmp_path / "a.pt", []
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    epochs: list[Epoch] = []
    options: dict[str, Any] = {"epochs": 9, "monitor": Planned(THREAT, x, y), "checkpoint": Checkpoint(path)}
    for epoch in train(model, Batches(x, y, 32), Fast(THREAT), optimizer, **options):
        epochs.append(epoch)
        states.append(next(model.parameters()).clone())
    assert [e.stopped is None for e in epochs] == [True, True, False]
    assert epochs[-1].fgsm == 0.9
    assert epochs[-1].pgd == 0.1
    assert "10 % resist 10 (at best 50 %); training stopped, with the weights from before" in str(epochs[-1].stopped)
    assert torch.equal(states[2], states[1])
    assert not torch.equal(states[1], states[0])
    saved = torch.load(path, weights_only=True)["model"]
    assert torch.equal(next(iter(saved.values())), states[1])
    assert list(train(model, Batches(x, y, 32), Fast(THREAT), optimizer, **options)) == []  # over, and stays so


def harden(loss: TrainingLoss, eps: float, *, epochs: int, lr: float, width: int) -> list[Epoch]:
    """Digits, watched."""
    x, y = load_data("digits", "train")
    watched, labels = load_data("digits", "test", n=256)
    torch.manual_seed(0)
    model = SmallCnn(width=width)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    monitor = Monitor(Linf(eps), watched, labels)
    return list(train(model, Batches(x, y, 64), loss, optimizer, epochs=epochs, monitor=monitor))


@pytest.mark.slow
def test_fgsm_without_noise_at_a_large_radius_collapses_and_is_caught() -> None:
    epochs = harden(Fast(Linf(0.3), step=1.0, noise=0.0), 0.3, epochs=40, lr=8e-3, width=24)
    assert epochs[-1].stopped is not None
    assert epochs[-1].index < 39
    assert (epochs[-1].fgsm or 0) - (epochs[-1].pgd or 0) > 0.4


@pytest.mark.parametrize("i", [0, 1, 2])
def test_honest_training_is_not_stopped(i: int) -> None:
    threat = Linf(0.15)
    honest: list[TrainingLoss] = [Madry(threat, steps=3), Fast(threat), Free(threat)]
    loss = honest[i]
    epochs = harden(loss, 0.15, epochs=4, lr=3e-3, width=8)
    assert len(epochs) == 4
    assert all(e.stopped is None and e.fgsm is not None and e.pgd is not None for e in epochs)
    assert (epochs[-1].pgd or 0) > 0.1
    assert all((e.pgd or 0) <= (e.fgsm or 0) + 0.02 for e in epochs)


def test_options_stand_in_the_text_and_memory_does_not() -> None:
    """A checkpoint compares the text of the loss: it must not change with what the loss has met."""
    loss = Madry(THREAT, start="warm", remove=2.0)
    before = str(loss)
    fit(fresh(), loss, epochs=1)
    assert str(loss) == before
    assert "warm" in before
    assert replace(loss, steps=1).memory is loss.memory


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("madry", {"start": "warm", "remove": 2.0}, "start='warm', remove=2.0"),
        ("fast", {"align": 0.5}, "align=0.5"),
        ("n-fgsm", {}, "noise=2.0, clip=False"),
        ("free", {"replays": 8}, "replays=8"),
    ],
)
def test_the_command_line_builds_them(name: str, options: dict[str, Any], text: str) -> None:
    from unfooled.workflows import LossOptions, make_loss

    loss = make_loss(name, "linf:0.1", LossOptions(**options))
    assert text in str(loss)
    ramp = make_loss(name, "linf:0.1", LossOptions(ramp=2.0, **options))
    assert isinstance(ramp, Ramp)
    assert str(ramp.loss) == str(loss)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fast", {"remove": 2.0}, "--loss fast takes no --remove; leave it out, or choose madry, trades"),
        ("free", {"align": 0.1}, "takes no --align; leave it out, or choose fast, n-fgsm"),
        ("madry", {"start": "hot"}, "start is 'hot'"),
        ("free", {"replays": 0}, "replays is 0"),
        ("madry", {"ramp": -1.0}, "--ramp is -1"),
    ],
)
def test_the_command_line_refuses_what_a_loss_does_not_take(name: str, options: dict[str, Any], said: str) -> None:
    from unfooled.cli.errors import as_flag
    from unfooled.workflows import BadOption, LossOptions, make_loss

    with pytest.raises(BadOption) as refused:
        make_loss(name, "linf:0.1", LossOptions(**options))
    assert said in refused.value.spelled(as_flag)
