"""The study of LIME under attack: measures with known answers, claims that follow their figures, work found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.explanations.lime import constant, fit, lime_image
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.studies.common.records import StudySummary
from unfooled.studies.lime_shift import ShiftScale, ShiftTask, run_lime_shift, scaffold, units
from unfooled.studies.lime_shift.bench import ALL, LAST, NETWORK, ShiftBench
from unfooled.studies.lime_shift.claims import claims, scaffold_claims
from unfooled.studies.lime_shift.measures import compared, flips, jaccard, over_segments
from unfooled.studies.lime_shift.scaffold import CONDITIONAL, INNOCENT, LIME, NEIGHBOURS, SENSITIVE
from unfooled.studies.lime_shift.scale import SCALES, TableScale
from unfooled.studies.lime_shift.units import ARMS, BASELINES, CLASSES, MEASURES, Compared, Results, Scaffolded, Trained

TASK = ShiftTask("digits", Linf(0.3), 20, batch=16, options={"width": 4})
TINY = ShiftScale(
    (TASK,), n=24, own_n=12, samples=64, sizes=(80,), cells=3, other_cells=(2,), top=3, steps=5,
    table=TableScale(rows=80, explained=12, samples=60, trees=8), train_n=200,
)  # fmt: skip


def test_jaccard_index_of_the_leading_features() -> None:
    a = torch.tensor([[3.0, -2, 1, 0], [3, -2, 1, 0], [3, -2, 1, 0]])
    b = torch.tensor([[-2.0, 3, 0, 0], [0, 0, 5, 4], [9, 0, 0, 8]])
    assert jaccard(a, b, 2).tolist() == [1.0, 0.0, pytest.approx(1 / 3)]
    assert jaccard(a, b, 9).tolist() == [1.0] * 3


def test_means_over_segments() -> None:
    maps = torch.tensor([[[[1.0, 3], [5, 7]], [[3, 5], [7, 9]]]])
    assert over_segments(maps, torch.tensor([[0, 0], [1, 2]])).tolist() == [[3.0, 6.0, 8.0]]


def explained(w: list[float], seed: int = 0) -> Any:
    """A linear model of five features."""

    def model(x: torch.Tensor) -> torch.Tensor:
        value = x @ torch.tensor(w)
        return torch.stack([value, -value], 1)

    generator = torch.Generator().manual_seed(seed)
    return lime_image(
        model, torch.ones(2, 5), torch.tensor([[0, 1], [1, 0]]), segments=torch.arange(5), samples=30,
        baseline=constant(0.0), keep_samples=True, generator=generator,
    )  # fmt: skip


def test_only_sure_changes_of_sign_count() -> None:
    clean, turned = explained([3, 2, 1, 0.5, 1.5]), explained([-3, 2, -1, 0.5, 1.5])
    assert torch.allclose(flips(clean, turned), torch.full((2, 2), 0.4, dtype=torch.float64))
    assert flips(clean, clean).abs().max() == 0
    small = explained([0.01] * 5)
    draw = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answers = tuple(y + e for y, e in zip(small.answers, draw, strict=True))
    weights = torch.cat([fit(z, y[None], groups=2).weights for z, y in zip(small.masks, answers, strict=True)])
    loud = replace(small, answers=answers, weights=weights)
    assert (loud.weights.sign() != small.weights.sign()).double().mean() > 0.3
    assert flips(small, loud).max() == 0  # the signs changed by less than their errors
    found = compared(clean, turned, 2)
    assert found["top"].tolist() == [[1.0, 1.0]] * 2
    assert found["rank"][0, 0] == pytest.approx(
        torch.corrcoef(torch.tensor([[5.0, 4, 2, 1, 3], [1, 5, 2, 3, 4]]))[0, 1]
    )
    with pytest.raises(BadInput, match="different masks"):
        flips(clean, explained([1.0] * 5, seed=3))


def test_noise_is_as_large_as_the_attack() -> None:
    bench = ShiftBench(TASK, TINY, 0)
    x = torch.full((3, 1, 8, 8), 0.5)
    x_adv = x + torch.linspace(-0.3, 0.2, 64).reshape(1, 1, 8, 8)
    noisy = bench.noisy(x, x_adv)
    attacked, random = ((z - x).abs().flatten(1).sort(1).values for z in (x_adv, noisy))
    assert torch.allclose(attacked, random, atol=1e-6)
    assert not torch.equal(noisy, x_adv)


def test_new_weights_are_those_of_the_layers_asked_for() -> None:
    bench = ShiftBench(TASK, TINY, 0)
    bench._networks[NETWORK] = bench._new(0)
    own = bench.network(NETWORK).state_dict()
    changed = {
        depth: [name for name, w in bench.randomised(depth).state_dict().items() if not torch.equal(w, own[name])]
        for depth in (LAST, ALL)
    }
    assert changed[LAST] == ["fc2.weight"]  # biases start at 0
    assert set(changed[LAST]) < set(changed[ALL])


def results(attack: float, noise: float, other: float) -> Results:
    """Thirty images whose explanations moved as told: rank correlations of the arms."""
    level = {"attack": attack, "noise": noise, "seed": other}
    spread = np.linspace(-0.02, 0.02, 30)
    columns: dict[str, list[float | None]] = {"fooled": [1.0] * 30}
    for arm in ARMS:
        for name in CLASSES:
            values = {"rank": level[arm], "top": level[arm], "flips": 1 - level[arm]}
            assert set(values) == set(MEASURES)
            shake = spread if arm == "attack" else -spread
            columns |= {f"{arm}, {name}, {m}": (value + shake).tolist() for m, value in values.items()}
    shifts = Compared(seed=0, images=list(range(30)), columns=columns, seconds=1.0)
    own = {f"seed, {m}": (other + spread).tolist() for m in ("rank", "top")}
    own |= {f"{name}, {m}": (attack - spread).tolist() for name in BASELINES for m in ("rank", "top")}
    own |= {f"{d}, {m}": (attack - spread).tolist() for d in (LAST, ALL) for m in ("rank", "rank of |w|")}
    record = Compared(seed=0, images=list(range(30)), columns=own, seconds=1.0)
    return Results(TASK, [Trained(seed=0, right=30, n=30, seconds=1.0)], [shifts], [record])


def test_claims_follow_the_figures() -> None:
    assert {c.verdict for c in claims(results(0.2, 0.7, 0.95), 5)} == {"holds"}
    assert {c.verdict for c in claims(results(0.9, 0.7, 0.6), 5)} == {"fails"}
    same = claims(results(0.8, 0.8, 0.8), 5)
    assert [c.verdict for c in same[:6]] == ["undecided"] * 6
    assert {c.n for c in same} == {30}


def tables(lime: float, other: float, leads: int) -> list[Scaffolded]:
    auc = {LIME: lime, CONDITIONAL: other, NEIGHBOURS: other}
    column = {LIME: leads, CONDITIONAL: SENSITIVE + INNOCENT - leads, NEIGHBOURS: SENSITIVE + INNOCENT - leads}
    return [
        Scaffolded(sampler=s, seed=0, auc=[a] * 20, biased=[SENSITIVE] * 20, scaffold=[column[s]] * 20, seconds=1.0)
        for s, a in auc.items()
    ]


def test_claims_on_scaffolds_follow_the_figures() -> None:
    hidden = scaffold_claims(tables(0.99, 0.5, INNOCENT))
    assert [c.verdict for c in hidden] == ["holds"] * 7
    assert all(c.low is not None and c.high is not None and c.low < c.high for c in hidden)
    seen = scaffold_claims(tables(0.4, 0.9, SENSITIVE))
    assert [c.verdict for c in seen] == ["fails", "fails", "undecided", "fails", "fails", "fails", "fails"]


def test_a_scaffold_hides_its_bias_from_lime_only() -> None:
    bench = scaffold.table_bench(replace(TINY.table, rows=200, samples=200, trees=20), 0)
    assert np.mean(bench.auc(LIME)) > 0.9
    assert np.mean(bench.auc(NEIGHBOURS)) < 0.7
    assert np.mean(np.array(bench.leading(bench.scaffold, LIME)) == INNOCENT) > 0.8
    assert np.mean(np.array(bench.leading(bench.scaffold, NEIGHBOURS)) == SENSITIVE) > 0.8
    assert bench.leading(scaffold.by_column(SENSITIVE), LIME) == [SENSITIVE] * 12


def test_a_tiny_study_is_stored_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run_lime_shift(TINY, out=tmp_path / "a", command="unfooled study lime-shift")
    assert summary.scale == "own"
    assert len(summary.claims) == 6 + 1 + len(BASELINES) + 2 + 7
    assert [list(rows[0]) for rows in summary.tables.values()]
    assert read_record(tmp_path / "a/summary.json", StudySummary) == summary
    for name in ("train_and_test", "shift", "instability", "scaffolded"):
        monkeypatch.setattr(units, name, lambda *_: pytest.fail("computed again"))
    again = run_lime_shift(TINY, out=tmp_path / "a", command="unfooled study lime-shift")
    assert again.tables == summary.tables
    with pytest.raises(BadInput, match="samples"):
        run_lime_shift(replace(TINY, samples=65), out=tmp_path / "a")
    assert "how far explanations move" in render_study(tmp_path / "a").read_text()


def test_scales() -> None:
    assert set(SCALES) == {"small", "medium", "full"}
    assert SCALES["small"].tasks[0].source == "digits"
    with pytest.raises(BadInput, match="no scale"):
        run_lime_shift("huge")
