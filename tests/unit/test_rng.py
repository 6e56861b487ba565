"""Random numbers that belong to the sample: the same in any company, and random enough."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.conftest import points, source, tiny_net
from torch import Tensor

from unfooled.attacks import restarted
from unfooled.attacks.ensembles.cascade import Cascade, Effort, cascade, fitted
from unfooled.attacks.ensembles.frontier import Problem
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents, Noise, Searches, Sparse, Stage, TargetedAscents, Waves
from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks import after, extending
from unfooled.evaluation.checks.extending import extend
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import finding

DRAWS: dict[str, Callable[..., Tensor]] = {"uniform": rng.uniform, "normal": rng.normal}
every_draw = pytest.mark.parametrize("name", DRAWS)


@every_draw
def test_a_sample_has_its_numbers_in_any_company(name: str) -> None:
    x = points(9, (2, 5))
    numbers = DRAWS[name](rng.seeds(x, 3), (4, 2))
    order = torch.randperm(9, generator=source(0))
    assert torch.equal(DRAWS[name](rng.seeds(x[order], 3), (4, 2)), numbers[order])
    parts = [DRAWS[name](rng.seeds(part, 3), (4, 2)) for part in x.split(2)]
    assert torch.equal(torch.cat(parts), numbers)
    assert torch.equal(DRAWS[name](rng.seeds(x.transpose(1, 2).contiguous().transpose(1, 2), 3), (4, 2)), numbers)
    draws = torch.arange(9)
    each = torch.cat([DRAWS[name](rng.seeds(x[i : i + 1], 3), (4, 2), draw=i) for i in range(9)])
    assert torch.equal(DRAWS[name](rng.seeds(x, 3), (4, 2), draw=draws), each)


def test_these_numbers_stay_what_they_are() -> None:
    # Written down once: a change here changes every published result.
    x = torch.tensor([[0.0, 0.25], [1.0, 0.5]])
    assert rng.sample_keys(x).tolist() == [-1223884059575530896, -8398337703059852085]
    assert rng.seeds(x, 7, stage=1).tolist() == [-5877663399734043226, -7039823398141935402]


def splitmix64(z: int) -> int:
    """The finaliser on Python's integers."""
    mask = (1 << 64) - 1
    z &= mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    values = [0, 1, -1, 2**62, -(2**63), 123456789, 0x9E3779B97F4A7C15 - 2**64]
    given = torch.tensor(values)
    mixed = rng.mix(given).tolist()
    assert given.tolist() == values
    assert [m % 2**64 for m in mixed] == [splitmix64(v) for v in values]
    on_any_device = [int(rng.mix(torch.tensor(v))) for v in values]  # a scalar takes the way of other devices
    assert on_any_device == mixed
    # The first output of the published generator from state 0.
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_a_trace_leaves_nothing_behind() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rng._steps(37, torch.device("cpu"))
    assert type(rng._steps(37, torch.device("cpu"))) is torch.Tensor


@pytest.mark.parametrize("axis", ["coordinates", "samples", "draws"])
@every_draw
def test_moments_and_distribution(name: str, axis: str) -> None:
    n = 20_000
    if axis == "coordinates":
        u = DRAWS[name](rng.seeds(points(1, (3,))), (n,), dtype=torch.float64)
    elif axis == "samples":  # counters as samples: neighbours differ in one bit
        u = DRAWS[name](rng.seeds(torch.arange(n, dtype=torch.float32)[:, None]), (1,), dtype=torch.float64)
    else:
        u = DRAWS[name](rng.seeds(points(1, (3,)).expand(n, 3)), (1,), draw=torch.arange(n), dtype=torch.float64)
    values = u.flatten().numpy()
    law = {"uniform": "uniform", "normal": "norm"}[name]
    assert kstest(values, law).pvalue > 0.01
    mean, deviation = {"uniform": (0.5, 12**-0.5), "normal": (0.0, 1.0)}[name]
    assert abs(values.mean() - mean) < 4 * deviation / n**0.5
    assert abs(values.std() / deviation - 1) < 0.03
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    if name == "uniform":
        assert values.min() >= 0
        assert values.max() < 1
        assert (values * 2**24 == np.round(values * 2**24)).all()


@every_draw
def test_draws_stages_and_seeds_are_independent(name: str) -> None:
    x, n = points(1, (3,)), 20_000
    streams = [
        DRAWS[name](rng.seeds(x, seed, stage=stage), (n,), draw=draw, dtype=torch.float64)[0]
        for seed, stage, draw in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (1, 1, 0), (0, 0, -1)]
    ]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams), dtype=torch.float64)
    assert correlation.abs().max() < 0.03


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int64]
)
def test_samples_of_any_type_have_keys(dtype: torch.dtype) -> None:
    x = (points(50, (3, 4)) * 200).to(dtype) if dtype != torch.bool else points(50, (3, 4)) > 0.5
    keys = rng.sample_keys(x)
    assert keys.dtype == torch.int64
    assert keys.unique().numel() == x.flatten(1).unique(dim=0).shape[0]
    swapped = x.clone()
    swapped[:, 0], swapped[:, 1] = x[:, 1], x[:, 0]
    different = (swapped != x).flatten(1).any(1)
    assert (rng.sample_keys(swapped)[different] != keys[different]).all(), "order matters"
    assert rng.uniform(rng.seeds(x), (2,)).shape == (50, 2)


def test_one_bit_of_a_pixel_changes_everything() -> None:
    x = points(1, (3, 8, 8)).expand(192, 3, 8, 8).clone()
    rows = x.view(192, -1)
    rows[range(192), range(192)] = torch.nextafter(rows[range(192), range(192)], torch.tensor(2.0))
    keys = rng.sample_keys(x)
    assert keys.unique().numel() == 192
    bits = ((keys[:, None] ^ rng.sample_keys(points(1, (3, 8, 8)))) >> torch.arange(64)) & 1
    assert 0.47 < bits.double().mean() < 0.53


def test_a_generator_lends_its_seed_and_is_not_advanced() -> None:
    x, generator = points(3, (4,)), source(11)
    before = generator.get_state()
    assert torch.equal(rng.seeds(x, generator), rng.seeds(x, 11))
    assert torch.equal(rng.seeds(x, None), rng.seeds(x, 0))
    assert not torch.equal(rng.seeds(x, generator), rng.seeds(x, 0))
    assert torch.equal(generator.get_state(), before)
    torch.rand(5, generator=generator)
    assert torch.equal(rng.seeds(x, generator), rng.seeds(x, 11)), "how far it has been used does not matter"


def test_a_number_does_as_well_as_a_generator() -> None:
    assert rng.base_seed(3) == rng.base_seed(torch.Generator().manual_seed(3)) == 3
    x = points(4, (1, 6, 5))
    assert torch.equal(rng.seeds(x, 3), rng.seeds(x, torch.Generator().manual_seed(3)))


def test_restarts_have_seeds_of_their_own() -> None:
    x, met = points(3, (4,)), []

    def stand(
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        met.append(rng.base_seed(generator))
        return x

    def model(x: Tensor) -> Tensor:
        return torch.eye(2)[torch.zeros(len(x), dtype=torch.int64)]

    for seed in (0, 5, 2**63 - 1):
        met.clear()
        restarted(stand, 4)(model, x, torch.zeros(3, dtype=torch.int64), Linf(0.1), generator=source(seed))
        assert len(set(met)) == 4
        assert met[0] == seed


def pairs(a: rng.Use, b: rng.Use) -> bool:
    """Return whether two uses have a stage and a draw in common."""
    return shared(a.draws, b.draws) and any(shared(s, t) for s in a.stages for t in b.stages)


def shared(a: range, b: range) -> bool:
    return max(a.start, b.start) < min(a.stop, b.stop)


def test_no_two_uses_share_a_stream() -> None:
    assert set(rng.USES) == set(rng.Stream)
    for first, second in combinations(rng.Stream, 2):
        assert not pairs(rng.USES[first], rng.USES[second]), (first, second)
    for stream, use in rng.USES.items():
        assert use.stages[0].start == stream
        assert not any(shared(s, t) for s, t in combinations(use.stages, 2))
    assert pairs(rng.Use((range(3, 5),), range(2)), rng.Use((range(4, 9),), range(1, 2)))


def test_stages_of_an_evaluation_have_numbers_of_their_own() -> None:
    assert not any(shared(a, b) for a, b in combinations(rng.Numbers.EVERY, 2))
    assert max(part.stop for part in rng.Numbers.EVERY) <= rng.Numbers.LIMIT
    numbers = [n for part in (rng.Numbers.ATTACK, *rng.Numbers.AGAIN) for n in part]
    assert len({rng.wave_stage(n) for n in numbers}) == len(numbers)
    bases = {rng.derived(seed, n).initial_seed() for seed in (0, 1, 7) for part in rng.Numbers.EVERY for n in part}
    assert len(bases) == 3 * sum(len(part) for part in rng.Numbers.EVERY)


LONGEST = Effort("longest", (Noise(1),) * 40)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1), L1(1), L0(1)], ids=str)
@pytest.mark.parametrize(
    "stage", [Ascents(1), TargetedAscents(1, 1), Waves(1), Sparse(1), Searches(1)], ids=lambda s: s.name
)
def test_every_stage_that_can_occur_has_a_number_of_its_part(threat: Threat, stage: Stage) -> None:
    """A part's numbers go as far as the longest effort, with the stage that L0 adds, and the check that follows."""
    longest = 0
    for count in range(1, 100):
        try:
            effort = Effort("long", (stage,) * count)
        except BadInput:
            break
        first, later = fitted(effort.stages, threat), fitted(effort.stages[1:], threat)
        assert len(first) <= len(rng.Numbers.ATTACK)
        assert all(len(later) < len(part) for part in rng.Numbers.AGAIN), "the last number is the check's"
        longest = count
    assert longest == 40
    assert len(after.trials(1.0)) < len(rng.Numbers.CHECKS), "and the twin's"
    assert extending.MAX_ROUNDS <= 10, "each hidden attack has ten numbers"


def test_the_longest_effort_keeps_to_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[int] = set()
    plain = rng.derived

    def derived(seed: int, number: int) -> torch.Generator:
        met.add(number)
        return plain(seed, number)

    monkeypatch.setattr(rng, "derived", derived)
    x = points(1, (4,))
    cascade(lambda z: z[:, :2] * 0 + torch.tensor([1.0, 0.0]), x, torch.zeros(1).long(), L0(1), effort=LONGEST)
    assert met == {40}, "the stage that L0 adds"
    assert met <= set(rng.Numbers.ATTACK)


def test_every_use_is_in_the_table() -> None:
    """No stage is a number in the code, and every use of sample seeds says which one it is."""
    package, uses = Path(rng.__file__).parents[1], 0
    for file in package.rglob("*.py"):
        if file.name == "rng.py":
            continue
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            place, name = f"{file.relative_to(package)}:{call.lineno}", ast.unparse(call.func)
            stage = next((k.value for k in call.keywords if k.arg == "stage"), None)
            if file.parent.name == "features" and name == "_uniform":
                stage = call.args[3]
            if name == "rng.seeds" and stage is None:
                assert file.name in STARTS, place
            if name == "rng.seeds" or name.split(".")[-1] in ("sample", "corner", "extreme", "keys", "_uniform"):
                text = "" if stage is None else ast.unparse(stage)
                assert text in ("", "stage") or "rng.Stream." in text or "rng.wave_stage" in text, place
                uses += "rng." in text
    assert uses > 25


STARTS = {"step_ll.py", "masks.py"}
"""R+FGSM jumps where other attacks start; `fill_noise` draws a base seed anew at every call."""


def test_an_evaluation_keeps_to_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts of an evaluation run: on a model without gradients, and where a check asks for more."""
    origin: dict[int, int] = {}
    met: set[tuple[int, int]] = set()
    plain_seeds, plain_bits = rng.seeds, rng.bits

    def seeds(x: Tensor, generator: torch.Generator | int | None = None, *, stage: int = 0) -> Tensor:
        found = plain_seeds(x, generator, stage=stage)
        origin.update(dict.fromkeys(found.tolist(), int(stage)))
        return found

    def bits(seed: Tensor, size: int, *, draw: int | Tensor = 0) -> Tensor:
        draws = torch.as_tensor(draw).expand(len(seed)).tolist()
        for key, number in zip(seed.tolist(), draws, strict=True):
            met.add((origin[key] if key in origin else origin[key ^ 1], number))
        return plain_bits(seed, size, draw=draw)

    monkeypatch.setattr(rng, "seeds", seeds)
    monkeypatch.setattr(rng, "bits", bits)
    net, x = tiny_net(4, (1, 6, 5)), points(4, (1, 6, 5), seed=8)
    with torch.no_grad():
        y = net(x).argmax(1)
    short = Effort("short", (Ascents(3), Noise(2), Waves(2), Searches(5, cold=True), TargetedAscents(1, 2)))
    plan = Plan(effort=short, nearest_budget=100, nearest_n=2, explain_n=1, reasons=None)
    audit(lambda z: net(z).detach(), x, y, Linf(0.02), plan=plan, seed=3)
    audit(lambda z: net(z).detach(), x, y, L2(0.1), plan=plan, seed=3)
    counted = Counted(net)
    attack = Cascade(Problem(counted, x, y, Linf(1e-3), counted), Ledger.of(None, len(x)))
    rough = [finding("D9", True, "rough", "goes on")]
    extend(attack, attack.begin(), Gradients(counted, rough), rough, short.stages)
    for stage, draw in sorted(met):
        uses = [use for use in rng.USES.values() if any(stage in part for part in use.stages) and draw in use.draws]
        assert len(uses) == 1, (stage, draw)
    stages = {stage for stage, _ in met}
    for name in ("START", "SQUARE", "JITTER", "TWIN", "RAYS", "HOP_SKIP_JUMP", "CHECK_START", "CHECK_MEMORY"):
        assert rng.Stream[name] in stages, name
    assert {rng.wave_stage(2), rng.wave_stage(302), rng.Stream.NOISE + 1, rng.Stream.NOISE + 201} <= stages
