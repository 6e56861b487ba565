"""The cascade: stronger than its parts, and its verdicts are the samples' own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import interior, linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks import apgd, labels_only, pgd
from unfooled.attacks.ensembles.cascade import NORMAL, QUICK, THOROUGH, Cascade, Effort, cascade
from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.ensembles.frontier import Frontier, Problem, StageResult
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.stages import Ascents, Searches, TargetedAscents, Waves
from unfooled.attacks.ensembles.targets import targets
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted, counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Run
from unfooled.runs.progress import Progress
from unfooled.runs.records import Config

SHAPE = (1, 6, 5)
THREATS = [Linf(0.03), L2(0.15), L1(0.5), L0(2.0)]
# Every kind of stage, each short.
SMALL = Effort("small", (Ascents(5), Ascents(10), TargetedAscents(2, 5), Searches(20, 0.5), Waves(5, 0.5)))
both = pytest.mark.parametrize("threat", THREATS, ids=str)


def subject(n: int = 16, k: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = tiny_net(k, SHAPE), points(n, SHAPE, seed=8)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = (y[0] + 1) % k
    return model, x, y


@both
def test_inside_untouched_repeatable(threat: Threat) -> None:
    model, x, y = subject()
    kept, state = x.clone(), torch.get_rng_state()
    z = cascade(model, x, y, threat, effort=SMALL)
    assert bool(verify(model, x, y, z, threat).inside.all())
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(z, cascade(model, x, y, threat, effort=SMALL))
    assert torch.equal(z[0], x[0])  # wrong already


@both
def test_verdicts_do_not_depend_on_batch_order_or_chunks(threat: Threat) -> None:
    model, x, y = subject()
    whole = verify(model, x, y, cascade(model, x, y, threat, effort=SMALL), threat).success
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mixed = cascade(model, x[order], y[order], threat, batch=3, effort=SMALL)
    assert torch.equal(whole[order], verify(model, x[order], y[order], mixed, threat).success)
    config = Config(model="", data="", n=16, threat="", seed=0)
    parts = cascade(model, x, y, threat, effort=SMALL, run=Run(None, config, chunk=5))
    assert torch.equal(whole, verify(model, x, y, parts, threat).success)


@both
def test_at_least_as_strong_as_apgd_and_the_log_says_how(threat: Threat) -> None:
    model, x, y = subject(24)
    log: list[Progress] = []
    with counted(model) as seen:
        z = cascade(seen, x, y, threat, log=log, batch=24)
    left = 1 - verify(model, x, y, z, threat).success.double().mean().item()
    single = pgd if threat.norm == 0 else apgd
    alone = 1 - verify(model, x, y, single(model, x, y, threat, steps=40), threat).success.double().mean().item()
    assert left <= alone
    assert log[-1].accuracy == pytest.approx(left)
    accuracies = [point.accuracy for point in log]
    assert accuracies == sorted(accuracies, reverse=True)
    assert log[-1].forward * 24 == pytest.approx(seen.forwards)
    assert log[-1].backward * 24 == pytest.approx(seen.backwards)


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_linear_optimum(k: int, kind: type[Threat]) -> None:
    model, x = linear(k, SHAPE), interior(12, SHAPE)
    y = model(x).argmax(1)
    best = model.distance(x, y, kind.norm)
    below, above = kind(best * 0.97), kind(best * 1.05)
    assert not verify(model, x, y, cascade(model, x, y, below, effort=SMALL), below).success.any()
    assert verify(model, x, y, cascade(model, x, y, above), above).success.all()


def test_effort_buys_passes() -> None:
    model, x, y = subject(100)
    spent = []
    for effort in (QUICK, NORMAL):
        with counted(model) as seen:
            cascade(seen, x, y, Linf(1e-4), effort=effort)
        spent.append(seen.forwards + seen.backwards)
    assert spent[0] < spent[1] < 9767 / 30 * 100  # a thirtieth of AutoAttack on whom nothing fools
    assert spent[0] <= 130 * 100


def test_searches_that_find_nothing_end_the_searches() -> None:
    model, x, y = subject(100)
    effort = Effort("searches", tuple(Searches(queries, 0.05, patience=2) for queries in (4, 5, 6, 7)))
    for eps, numbers in ((1e-4, {"0", "1"}), (0.005, {"0", "1", "2", "3"})):
        log: list[Progress] = []
        cascade(model, x, y, Linf(eps), effort=effort, log=log)
        searches = [point for point in log if point.method == "square"]
        assert {point.stage.split("-")[0] for point in searches} == numbers
        assert any(point.closed for point in searches) == (len(numbers) == 4)


def fooled_by(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, soft: bool) -> Tensor:
    z = cascade(model, x, y, threat, effort=Effort("one", (Ascents(8, soft=soft),)))
    return verify(model, x, y, z, threat).success


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e4])
def test_a_smoothed_ascent_does_not_depend_on_the_scale_of_the_logits(scale: float) -> None:
    model, x, y = subject(40)
    threat = L1(0.3)
    own = fooled_by(model, x, y, threat, soft=True)
    assert 3 < int(own.sum()) < 37
    assert int((own ^ fooled_by(lambda z: model(z) * scale, x, y, threat, soft=True)).sum()) <= 1


def test_where_the_clean_margin_is_infinite_it_is_not_smoothed() -> None:
    model, x, y = subject(40)

    def certain(z: Tensor) -> Tensor:
        logits = model(z)
        top = logits.topk(2, dim=1).values
        lost = (logits < top[:, :1]) & (top[:, :1] - top[:, 1:] > 0.2)
        return logits.masked_fill(lost, -torch.inf)

    threat = Linf(0.02)
    hard, soft = (fooled_by(certain, x, y, threat, soft=soft) for soft in (False, True))
    assert int(hard.sum()) > 3
    assert torch.equal(hard, soft)


@pytest.mark.parametrize(("eps", "taken"), [(0.2, [3, 3, 3, 3, 3, 3, 3, 2]), (1e-4, [3])])
def test_small_parts_go_on_while_they_succeed(eps: float, taken: list[int]) -> None:
    model, x, y = subject(24)
    log: list[Progress] = []
    cascade(model, x, y, Linf(eps), effort=Effort("few", (Ascents(10, 0.1),)), log=log)
    assert [point.taken for point in log[1:]] == taken


def test_a_stage_attacks_its_least_number() -> None:
    model, x, y = subject(24)
    for least, taken in ((8, 8), (40, 23)):
        log: list[Progress] = []
        cascade(model, x, y, Linf(1e-4), effort=Effort("few", (Ascents(3, 0.1, least=least),)), log=log)
        assert [point.taken for point in log[1:]] == [taken]


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_when_a_search_gives_up_does_not_depend_on_the_scale_of_the_logits(scale: float) -> None:
    model, x, y = subject(60)
    efforts = [Effort("searches", (Searches(400, near=near),)) for near in (0.01, None)]
    spent = []
    for factor, effort in ((1.0, efforts[0]), (scale, efforts[0]), (1.0, efforts[1])):

        def scaled(z: Tensor, factor: float = factor) -> Tensor:
            return model(z) * factor

        with counted(scaled) as seen:
            cascade(seen, x, y, Linf(0.005), effort=effort)
        spent.append(seen.forwards)
    assert abs(spent[1] / spent[0] - 1) < 0.05
    assert spent[0] < 0.8 * spent[2]


def test_searches_do_not_give_up_on_probabilities() -> None:
    """These gain most at the end."""
    model, x, y = subject(60)
    spent = []
    for near in (0.01, None):
        with counted(lambda z: model(z).softmax(1)) as seen:
            cascade(seen, x, y, Linf(0.005), effort=Effort("searches", (Searches(200, near=near),)))
        spent.append(seen.forwards)
    assert 0 <= spent[0] - spent[1] <= len(x)


@pytest.mark.parametrize("together", [1, 3])
def test_a_target_that_fools_is_taken_beside_others_without_a_value(together: int) -> None:
    model, x, y = subject(60)

    def without(z: Tensor) -> Tensor:
        """NaN at the clean samples, and a class that overflows shortly before it would win."""
        logits = model(z).clone()
        gap = logits[:, 2] - logits.amax(1)
        logits[:, 2] = torch.where((gap > -0.1) & (gap < 0), torch.inf, logits[:, 2])
        clean = (z[:, None] == x).flatten(2).all(2).any(1)
        return logits.masked_fill(clean[:, None], torch.nan)

    effort = Effort("targets", (TargetedAscents(3, 20, together=together),))
    z = cascade(without, x, y, Linf(0.02), effort=effort)
    plain = cascade(model, x, y, Linf(0.02), effort=effort)
    found, expected = (verify(m, x, y, points, Linf(0.02)).success for m, points in ((without, z), (model, plain)))
    assert int(found.sum()) > 0.7 * int((expected & (model(plain).argmax(1) != 2)).sum()) > 3


@pytest.mark.parametrize("batch", [None, 7])
def test_targets_in_one_batch_need_fewer_calls(batch: int | None) -> None:
    """They fool what one after the other fools; a sample that one target fools leaves after the batch."""
    model, x, y = subject(60)
    found, calls = [], []
    for together in (1, 3):
        effort = Effort("targets", (TargetedAscents(3, 20, together=together),))
        with counted(model) as seen:
            z = cascade(seen, x, y, Linf(0.02), effort=effort, batch=batch)
        found.append(verify(model, x, y, z, Linf(0.02)).success)
        calls.append(seen.calls)
    assert 5 < int(found[0].sum()) < 55
    assert int((found[0] ^ found[1]).sum()) <= 1
    assert batch is not None or calls[1] < 0.6 * calls[0]


@pytest.mark.slow
def test_thorough_costs_less_than_autoattack() -> None:
    model, x, y = subject(100)
    with counted(model) as seen:
        cascade(seen, x, y, Linf(1e-4), effort=THOROUGH)
    assert 1000 * 100 < seen.forwards + seen.backwards < 4000 * 100


def test_targets_are_the_nearest_boundaries() -> None:
    model, x = linear(6, SHAPE), interior(8, SHAPE)
    y = model(x).argmax(1)
    for norm in (2.0, math.inf):
        found = targets(model, x, y, norm, 2, batch=3)
        assert found.shape == (8, 2)
        assert torch.equal(found[:, 0], model.nearest(x, y, norm))


def test_killed_and_resumed(tmp_path: Path) -> None:
    model, x, y = subject(20)
    config = Config(model="m", data="d", n=20, threat="linf:0.02", seed=0)
    whole = cascade(model, x, y, Linf(0.02), effort=SMALL)

    def stop(stage: str, done: int, total: int) -> None:
        if stage.endswith("targets") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cascade(model, x, y, Linf(0.02), effort=SMALL, run=Run(tmp_path, config, chunk=6, progress=stop))
    with counted(model) as seen:
        again = cascade(seen, x, y, Linf(0.02), effort=SMALL, run=Run(tmp_path, config, chunk=6))
    with counted(model) as fresh:
        cascade(fresh, x, y, Linf(0.02), effort=SMALL)
    assert seen.forwards < fresh.forwards
    assert torch.equal(verify(model, x, y, again, Linf(0.02)).success, verify(model, x, y, whole, Linf(0.02)).success)


def test_certified_samples_are_left_alone_and_draws_refused() -> None:
    model, x, y = subject(12)
    z = cascade(model, x, y, Linf(0.2), effort=SMALL, certify=lambda x, y, threat: torch.arange(len(x)) % 2 == 0)
    assert torch.equal(z[2::2], x[2::2])
    assert bool(verify(model, x, y, z, Linf(0.2)).success[1::2].any())
    with pytest.raises(BadInput, match="draws is 0"):
        cascade(model, x, y, Linf(0.2), draws=0)


def test_a_random_model_is_not_fooled_by_one_lucky_draw() -> None:
    """Averaged gradients, and three draws of four: what the cascade calls fooled is so on fresh draws."""
    model, x, y = subject(24)

    def noisy(z: Tensor) -> Tensor:
        return model(z) + 0.3 * torch.randn(len(z), 4)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = verify(noisy, x, y, cascade(noisy, x, y, Linf(0.05), effort=SMALL), Linf(0.05), draws=40).rate
        ten = verify(noisy, x, y, cascade(noisy, x, y, Linf(0.05), effort=SMALL, draws=10), Linf(0.05), draws=40).rate
    assert ten.mean() > one.mean() + 0.05


def test_waves_learn_from_successes() -> None:
    model, x, y = subject(60)
    effort = Effort("waves", (Waves(3), Waves(3), Waves(3)))
    problem = Problem(Counted(model), x, y, Linf(0.03), model)
    attack = Cascade(problem, Ledger.of(None, 60))
    state = attack.perform(attack.begin(), effort.stages)
    frontier = state.frontier
    assert frontier.learned is not None
    assert len(frontier.learned) == sum(point.closed for point in state.log[1:])
    first = Waves(3).directions(problem, frontier, 7)
    assert not torch.equal(first, Waves(3).directions(problem, replace(frontier, learned=None), 7))


def test_a_frontier_is_a_value() -> None:
    """A stage's result makes a new one; what is better counts, and what is fooled stays so."""
    x = points(4, (3,))
    start = Frontier.start(x)
    rows, z = torch.tensor([2, 0]), x[[2, 0]] + 1
    result = StageResult(rows, z, torch.tensor([-1.0, 0.5]), torch.tensor([False, True]))
    after = start.with_result(result)
    assert torch.equal(start.points, x)
    assert not start.fooled.any()
    assert torch.equal(after.points[rows], z)
    assert after.fooled.tolist() == [True, False, False, False]
    assert (result.n_attacked, result.n_fooled) == (2, 1)
    worse = after.with_result(StageResult(rows, x[rows], torch.tensor([-2.0, 0.1]), torch.tensor([False, False])))
    assert torch.equal(worse.points, after.points)
    assert torch.equal(worse.margins, after.margins)
    assert worse.fooled.tolist() == after.fooled.tolist()
    assert set(after.remaining_rows().tolist()) == {1, 2, 3}
    assert after.remaining_rows(limit=1).tolist() == [2]  # the largest margin that is known
    certified = replace(after, certified=torch.tensor([False, True, False, False]))
    assert set(certified.remaining_rows().tolist()) == {2, 3}


def test_a_stage_has_a_key_and_passes_are_summed_by_family() -> None:
    key = StageKey(Family.CASCADE, "longer", 340, "D11", 2)
    assert (key.label, key.folder) == ("340-D11-longer-2", "cascade-340-D11-longer-2")
    assert [StageKey(Family.CLEAN).folder, StageKey(Family.NEAREST, "l2").folder] == ["clean", "nearest-l2"]
    model, x, y = subject(12)
    ledger = Ledger.of(None, 12)
    attack = Cascade(Problem(Counted(model), x, y, Linf(0.03), model), ledger)
    state = attack.perform(attack.begin(), SMALL.stages)
    checks = replace(attack, family=Family.CHECKS)
    alone = ledger.passes(Family.CASCADE)
    assert alone == (round(state.log[-1].forward * 12), round(state.log[-1].backward * 12))
    stage = replace(SMALL.stages[0], share=1.0)  # type: ignore[type-var]
    checks.stage(replace(state, frontier=Frontier.start(x)), stage, 200, check="D12")
    assert ledger.passes(Family.CASCADE) == alone
    assert ledger.passes(Family.CHECKS)[0] > 0
    assert ledger.passes(Family.CASCADE, Family.CHECKS)[0] == alone[0] + ledger.passes(Family.CHECKS)[0]


def test_an_effort_has_as_many_stages_as_there_are_numbers() -> None:
    with pytest.raises(BadInput, match="41 stages; at most 40"):
        Effort("long", (Ascents(1),) * 41)


def test_waves_stop_after_two_that_closed_nothing() -> None:
    x = points(4, SHAPE)
    model = linear(3, SHAPE)
    log: list[Progress] = []
    cascade(model, x, model(x).argmax(1), Linf(1e-7), effort=Effort("waves", (Waves(1),) * 5), log=log)
    assert len([p for p in log if p.stage.endswith("odi")]) == 2


GLOBAL = tiny_net(3, SHAPE)


def blind(z: Tensor) -> Tensor:
    """Its weights require gradients, its input gets none."""
    return GLOBAL(z.detach()) + 0 * next(GLOBAL.parameters()).sum()


class Hidden:
    """As `blind`, where nothing finds the weights."""

    def __init__(self) -> None:
        self.nets = [tiny_net(3, SHAPE)]

    def __call__(self, z: Tensor) -> Tensor:
        return self.nets[0](z.detach())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x, y: cascade(blind, x, y, Linf(0.1)), "no gradient"),
        (lambda x, y: envelope(blind, x, y), "no gradient"),
        (lambda x, y: cascade(Hidden(), x, y, Linf(0.1)), "no gradient"),
        (lambda x, y: envelope(Hidden(), x, y, (2,)), "no gradient"),
        (lambda x, y: cascade(GLOBAL, x, y + 9, Linf(0.1)), "class order"),
        (lambda x, y: cascade(GLOBAL, x[..., :3], y, Linf(0.1)), "the model fails on samples of shape"),
        (lambda x, y: cascade(GLOBAL, x, y, Linf(0.1), effort="normal"), "uf.NORMAL"),  # type: ignore[arg-type]
        (lambda x, y: cascade(GLOBAL, x, y, Linf(0.1), seed="a"), "seed"),  # type: ignore[arg-type]
        (lambda x, y: cascade(GLOBAL, x, y, Linf(0.1), seed=2**70), "seed"),
        (lambda x, y: cascade(GLOBAL, x, y, Linf(0.1), batch=-3), "batch"),
    ],
)
def test_bad_input_is_said_in_a_sentence(call: Callable[[Tensor, Tensor], object], says: str) -> None:
    x = points(6, SHAPE)
    with torch.no_grad():
        y = GLOBAL(x).argmax(1)
    with pytest.raises(BadInput, match=says):
        call(x, y)


@pytest.mark.parametrize("threat", [Linf(0.4), L2(2.0), L1(8.0)], ids=str)
def test_labels_alone_suffice_where_the_radius_is_wide(threat: Threat) -> None:
    x = points(8, SHAPE)
    with torch.no_grad():
        y = GLOBAL(x).argmax(1)
    labels = Counted(lambda z: nn.functional.one_hot(GLOBAL(z.detach()).argmax(1), 3).to(z))
    z = labels_only(labels, x, y, threat, steps=600, generator=torch.Generator().manual_seed(0))
    assert labels.forwards <= 600 * len(x)
    assert torch.equal(
        z, labels_only(labels, x, y, threat, steps=600, batch=3, generator=torch.Generator().manual_seed(0))
    )
    verdict = verify(GLOBAL, x, y, z, threat)
    assert bool(verdict.inside.all())
    assert bool(verdict.success.any())
    with pytest.raises(BadInput, match="Linf, L2 and L1"):
        labels_only(labels, x, y, L0(3.0))


def test_late_stages_attack_the_survivors_of_all_chunks_together(tmp_path: Path) -> None:
    """A chunk is a number of survivors of the whole run: few of them, however far apart, share full batches."""
    model, x, y = subject(40)
    effort = Effort("late", (Ascents(5), Ascents(10, fresh=False), Searches(30)))
    config = Config(model="", data="", n=40, threat="", seed=0)

    def attacked(folder: Path, chunk: int) -> tuple[Tensor, Run]:
        run = Run(folder, config, chunk=chunk)
        return cascade(model, x, y, Linf(0.08), effort=effort, run=run), run

    in_one, one = attacked(tmp_path / "one", 40)
    in_many, many = attacked(tmp_path / "many", 8)
    survivors = (~verify(model, x, y, in_many, Linf(0.08)).success).nonzero()[:, 0]
    assert 3 <= len(survivors) <= 8
    assert len(set((survivors // 8).tolist())) >= 3  # of several chunks
    assert len(list((tmp_path / "many/chunks/cascade-0-apgd").iterdir())) == 5
    for stage in ("cascade-1-apgd", "cascade-2-square"):
        assert len(list((tmp_path / "many/chunks" / stage).iterdir())) == 1
        assert many.calls[stage] == one.calls[stage]
    assert torch.equal(in_one, in_many)
