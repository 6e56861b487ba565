"""Every check fires on a model made for it and is quiet on an honest one; the verdict follows from the findings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import linear, points, tiny_net
from torch import Tensor, nn

from unfooled.attacks import apgd
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import Linf
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.after import MIN_BUDGET, diagnose
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.normalised import normalisation
from unfooled.evaluation.checks.table import CHECKS, CheckId, Finding, Kind, finding
from unfooled.evaluation.checks.verdict import conclude, fired, merged
from unfooled.runs.records import read_record

SHAPE = (1, 6, 5)
EPS = Linf(0.1)


def subject(n: int = 40, k: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = tiny_net(k, SHAPE), points(n, SHAPE, seed=8)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, y


def ids(findings: list[Finding]) -> set[str]:
    return {f.id for f in findings if f.fired}


class SignFlip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return -g


class Remembering(nn.Module):
    """Answers otherwise once it has seen 300 inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, z: Tensor) -> Tensor:
        self.seen += len(z)
        return self.model(z) + (self.seen > 400) * torch.arange(5.0)


def noise_of(z: Tensor) -> Tensor:
    """Noise that is a function of the bytes of the input."""
    return torch.sin(1e7 * z.detach().flatten(1).sum(1, keepdim=True) * torch.arange(1, 6))


def nan_off_grid(z: Tensor) -> Tensor:
    return torch.where((z[:, :1, 0, 0] * 255 % 1).abs() < 1e-4, 0.0, torch.nan)


PLANTED: dict[str, tuple[set[str], Callable[[nn.Module], Callable[[Tensor], Tensor]]]] = {
    "probabilities": ({"D3"}, lambda m: lambda z: m(z).softmax(1)),
    "labels": ({"D3"}, lambda m: lambda z: torch.nn.functional.one_hot(m(z).argmax(1), 5) + 0 * m(z)),
    "random": ({"D4"}, lambda m: lambda z: m(z) + 0.1 * torch.randn(len(z), 5)),
    "rows depend on each other": ({"D4"}, lambda m: lambda z: m(z) - m(z).mean(0)),
    "noise of the input": ({"D5"}, lambda m: lambda z: m(z) + noise_of(z)),
    "rounded input": ({"D6"}, lambda m: lambda z: m((z * 7).round() / 7)),
    "gradient times 0": ({"D6"}, lambda m: lambda z: m(z.detach()) + 0 * z.sum()),
    "flipped backward": ({"D7"}, lambda m: lambda z: m(SignFlip.apply(z))),
    "detached": ({"D8"}, lambda m: lambda z: m(z).detach()),
    "numpy": ({"D8"}, lambda m: lambda z: m(torch.from_numpy(z.detach().numpy().copy()))),
    "rough": ({"D9"}, lambda m: lambda z: m(z) + 3 * torch.sin(400 * z.flatten(1)[:, :5])),
    "large logits": ({"D19"}, lambda m: lambda z: 1e4 * m(z)),
    "a tie behind the top": ({"D21"}, lambda m: lambda z: torch.cat([m(z), m(z).topk(2, dim=1).values[:, 1:]], 1)),
    "a tie of small logits": (
        {"D21"},
        lambda m: lambda z: 1e-5 * torch.cat([m(z), m(z).topk(2, dim=1).values[:, 1:]], 1),
    ),
    "memory": ({"D20"}, Remembering),
}


@pytest.mark.parametrize("name", PLANTED)
def test_probe_fires_on_what_it_is_for(name: str) -> None:
    model, x, _ = subject()
    expected, plant = PLANTED[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        planted = plant(model)
        with torch.no_grad():
            label = planted(x).argmax(1)
        if name == "memory":
            planted.seen = 0  # type: ignore[attr-defined]
        assert expected <= ids(before(planted, x, label, EPS))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["net", "linear", "steep", "small"])
def test_probes_are_quiet_on_honest_models(kind: str, seed: int) -> None:
    x = points(40, SHAPE, seed=seed)
    model = linear(5, SHAPE, seed=seed) if kind == "linear" else tiny_net(5, SHAPE, seed=seed)
    scale = {"steep": 20.0, "small": 1e-7}.get(kind)
    honest = model if scale is None else (lambda z: scale * model(z))
    with torch.no_grad():
        y = honest(x).argmax(1)
    assert not ids(before(honest, x, y, EPS)) - {"D19"}


def test_a_missing_normalisation_is_noticed() -> None:
    model, x, _ = subject(100)
    with torch.no_grad():
        y = model((x - 0.5) / 0.5).argmax(1)
    found = before(model, x, y, EPS)
    assert fired(found, CheckId.PREPROCESSING)
    assert "mean .5, std .5" in next(f.detail for f in found if f.id == "D2")
    with torch.no_grad():
        assert not fired(before(model, x, model(x).argmax(1), EPS), CheckId.PREPROCESSING)


@pytest.mark.parametrize("seed", range(12))
def test_chance_is_no_missing_normalisation(seed: int) -> None:
    model, x = tiny_net(10, SHAPE, seed=seed), points(100, SHAPE, seed=seed)
    y = torch.randint(0, 10, (100,), generator=torch.Generator().manual_seed(seed))  # labels that the model cannot know
    assert not normalisation(model, x, y).fired


@pytest.mark.parametrize("n", [3, 6, 7])
def test_a_few_samples_that_are_all_gained_are_no_chance(n: int) -> None:
    def model(z: Tensor) -> Tensor:
        mean = z.flatten(1).mean(1)
        return torch.stack([mean, -mean], 1)

    x, y = 0.1 + 0.2 * points(n, (3, 8, 8), dtype=torch.float32), torch.ones(n, dtype=torch.int64)
    found = normalisation(model, x, y)
    assert (found.fired, found.threshold) == (True, 2 / n)
    assert found.value == 1


def test_refusals_are_seen() -> None:
    model, x, y = subject()
    x = (x * 255).round() / 255
    with torch.no_grad():
        y = model(x).argmax(1)
    assert fired(before(lambda z: model(z) + nan_off_grid(z), x, y, EPS), CheckId.REFUSALS)
    assert not fired(before(model, x, y, EPS), CheckId.REFUSALS)


def test_an_attack_that_did_nothing_is_found_out_and_one_that_worked_is_not() -> None:
    model, x, y = subject()
    lazy = diagnose(model, x, y, EPS, x)
    assert "D13" in ids(lazy)
    whole = diagnose(model, x, y, Linf(0.02), apgd(model, x, y, Linf(0.02), steps=100, restarts=5))
    assert not ids(whole) & {"D11", "D12", "D13", "D14", "D15", "D16", "D18"}


def test_a_gradient_free_search_beats_a_false_gradient() -> None:
    model, x, y = subject()
    flipped = PLANTED["flipped backward"][1](model)
    found = diagnose(flipped, x, y, EPS, apgd(flipped, x, y, EPS, steps=40))
    assert "D7" in ids(found)


@pytest.mark.parametrize("n", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_diagnostics_stay_inside_their_budget(n: int) -> None:
    """On a model that nothing fools, where every check runs to its end."""
    x = points(n, SHAPE, seed=1)
    base = tiny_net(5, SHAPE)

    def firm(z: Tensor) -> Tensor:
        return base(z) + 50 * torch.nn.functional.one_hot(torch.zeros(len(z), dtype=torch.int64), 5)

    y = torch.zeros(n, dtype=torch.int64)
    with counted(firm) as seen:
        diagnose(seen, x, y, EPS, x)
    assert 1000 < seen.forwards + seen.backwards <= MIN_BUDGET
    if n > 100:
        with counted(firm) as more:
            diagnose(more, x, y, EPS, x, spent=400_000)
        assert seen.forwards < more.forwards + more.backwards <= 40_000


def test_merged_keeps_what_fired() -> None:
    found = merged([finding("D14", False, "a"), finding("D9", True, "b"), finding("D9", False, "c")])
    assert [(f.id, f.fired) for f in found] == [("D9", True), ("D14", False)]


VERDICTS = [
    ([], [], 0.9, False, "SOUND"),
    (["D3", "D19", "D21", "D23"], [], 0.9, False, "SOUND"),
    (["D14"], [], 0.9, True, "EXTENDED"),
    (["D14"], ["D14"], 0.9, True, "OVERSTATED"),
    (["D14"], [], 0.9, False, "OVERSTATED"),
    (["D6"], [], 0.9, True, "OVERSTATED"),
    (["D6"], [], 0.02, True, "EXTENDED"),
    (["D15"], [], 0.9, True, "EXTENDED"),
    (["D2"], [], 0.9, False, "NOT EVALUABLE"),
    (["D2", "D6"], ["D14"], 0.0, True, "NOT EVALUABLE"),
]


@pytest.mark.parametrize(("first", "again", "robust", "extended", "verdict"), VERDICTS)
def test_the_verdict_follows(first: list[str], again: list[str], robust: float, extended: bool, verdict: str) -> None:
    found, because = conclude(
        [finding(key, True, f"detail of {key}", "action") for key in first],
        [finding(key, True, "still", "action") for key in again],
        robust,
        extended=extended,
    )
    assert found == verdict
    assert because.endswith(".")
    if verdict == "NOT EVALUABLE":
        assert "detail of D2" in because


def test_a_model_that_decides_nothing_and_labels_of_another_order_get_no_verdict() -> None:
    model, x, y = subject()
    findings = before(lambda z: torch.arange(5.0) + 0 * model(z), x, y, EPS)
    d3 = next(f for f in findings if f.id == "D3")
    assert d3.fired
    assert conclude(findings, [], 0.2, extended=False)[0] == "NOT EVALUABLE"
    findings = before(model, x, (y + 1) % 5, EPS)
    assert next(f for f in findings if f.id == "D26").fired
    assert conclude(findings, [], 0.0, extended=False)[0] == "NOT EVALUABLE"


def test_a_findings_kind_is_a_field_and_no_sentence_decides() -> None:
    worded = finding("D14", True, "detail", "no verdict: a sentence that once decided")
    assert worded.kind == Kind.EXTEND
    assert conclude([worded], [], 0.9, extended=True).verdict == "EXTENDED"
    stop = finding("D4", True, "rows depend on each other", "nothing in particular", kind=Kind.STOP)
    assert conclude([stop], [], 0.9, extended=False).verdict == "NOT EVALUABLE"
    assert Finding.model_validate_json(stop.model_dump_json()) == stop
    assert '"kind":"stop"' in stop.model_dump_json()


def test_findings_of_version_0_1_have_the_kind_of_the_table() -> None:
    old = {"fired": True, "detail": "", "action": "", "value": None, "threshold": None}
    assert {key: Finding.model_validate({"id": key, **old}).kind for key in CHECKS} == {
        key: check.kind for key, check in CHECKS.items()
    }
    assert Finding.model_validate({"id": "D99", **old}).kind == Kind.MEND
    folder = Path(__file__).parents[2] / "benchmarks/results"
    for file in ("demo-standard.json", "demo-hardened.json"):
        summary = read_record(folder / file, Summary)
        assert [f.id for f in summary.diagnostics] == [key for key in CHECKS if int(key[1:]) < 26]  # made before these
        assert all(f.kind == CHECKS[f.id].kind for f in summary.diagnostics)


def test_rows_that_depend_on_each_other_and_constant_models_stop() -> None:
    model, x, y = subject()
    dependent = before(lambda z: model(z) - model(z).mean(0), x, y, EPS)
    assert next(f for f in dependent if f.id == "D4").kind == Kind.STOP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy = before(lambda z: model(z) + 0.1 * torch.randn(len(z), 5), x, y, EPS)
    assert next(f for f in noisy if f.id == "D4").kind == Kind.MEND
    constant = before(lambda z: torch.arange(5.0) + 0 * model(z), x, y, EPS)
    assert next(f for f in constant if f.id == "D3").kind == Kind.STOP


def test_the_documentation_has_a_row_for_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs/methods/diagnostics.md").read_text()
    assert re.findall(r"^\| (D\d+) \|", page, re.MULTILINE) == list(CHECKS)
