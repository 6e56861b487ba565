"""The attention study: claims that follow their figures, equal compute, work found again."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Linf
from unfooled.distances import js
from unfooled.explanations.masks import soft_mask
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.runs.units import read_unit
from unfooled.studies.attention import AttentionScale, OwnNetwork, analysis, judging, recipes, run_attention
from unfooled.studies.attention.analysis import AnalysisEffort
from unfooled.studies.attention.analysis_claims import analysis_claims
from unfooled.studies.attention.faithfulness import measure_faithfulness
from unfooled.studies.attention.judging import Judging, ascend_arp, worst_case
from unfooled.studies.attention.measures import MOVES, PLACES
from unfooled.studies.attention.notes import notes
from unfooled.studies.attention.recipes import ARP, BASE, PAIRED, PLAIN, RECIPES, SHUFFLED, SIX, equal_compute
from unfooled.studies.attention.records import Analysed, Crossed, Judged, Results
from unfooled.studies.attention.samples import Samples
from unfooled.studies.attention.scale import SCALES, four_convolutions
from unfooled.studies.attention.training_results import judged_cases, training_claims
from unfooled.studies.common.arms import Task
from unfooled.studies.common.records import StudySummary

SMALL = partial(four_convolutions, widths=(4, 4, 6, 6))
FEW = Effort("few", (Ascents(3),))
ARMS = (PLAIN, BASE, ARP, SHUFFLED)
TINY = AttentionScale(
    (Task("shapes", 4 / 255, 10, SMALL, batch=32, lr=5e-3),), (8 / 255,), ARMS, 1,
    AnalysisEffort(n=40, budget=100, steps=3, shown=3), Judging(12, FEW, (1.0,), 2, 1, 2), train_n=160,
)  # fmt: skip


def test_steps_times_passes_are_equal_and_counted_truly() -> None:
    threat, steps = Linf(4 / 255), 3
    torch.manual_seed(0)
    net = SMALL((3, 32, 32), 4)
    x, y = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 0, 1])
    shares = {arm.name: arm.share for arm in equal_compute(list(SIX), steps)}
    for name, recipe in RECIPES.items():
        counted = Counted(net.train())
        recipe.loss(threat, steps)(counted, x, y).backward()  # type: ignore[arg-type]
        spent = (counted.forwards + counted.backwards) / 6
        # Counted here alone: backwards that end at the attended layer, and one sample's pass to find that layer.
        passes = recipe.passes(steps)
        assert passes - 1 <= spent <= passes + 2 + 2 / 6, name
        if name in shares:
            assert shares[name] * passes == pytest.approx(SIX[ARP].passes(steps))


def test_step_ll_training_moves_what_is_wrong_already() -> None:
    torch.manual_seed(0)
    net, x = SMALL((3, 32, 32), 4).eval(), torch.rand(8, 3, 32, 32)
    said = net(x).argmax(1)
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    recipes.StepLl(Linf(0.05), varied=False)(net, x, (said + 1) % 4)  # all wrong
    moved = (seen[-1] - x).abs().flatten(1).amax(1)
    assert moved.tolist() == pytest.approx([0.05] * 8, abs=1e-6)


def test_controls_preserve_nothing() -> None:
    p = torch.rand(4, 8, 8).flatten(1).softmax(1).reshape(4, 8, 8)
    assert float(js(p, p).abs().max()) == pytest.approx(0, abs=1e-6)
    assert float(recipes.shuffled_js(p, p).min()) > 0
    q = p.clone().requires_grad_()
    mask = recipes.rolled_mask(q, (8, 8))
    assert not mask.requires_grad
    assert torch.equal(mask[:, 0], soft_mask(p, (8, 8))[:, 0].roll((4, 4), (1, 2)))


def test_ascent_on_the_objective_stays_inside_and_raises_it() -> None:
    torch.manual_seed(0)
    net, x, y = SMALL((3, 32, 32), 4).eval(), torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])
    z = ascend_arp(net, x, y, Linf(0.05), steps=5)
    assert float((z - x).abs().max()) <= 0.05 + 1e-6
    ce = torch.nn.functional.cross_entropy
    with torch.no_grad():
        assert float(ce(net(z), y)) > float(ce(net(x), y))


def judged(arm: str, correct: float, moved: float, seed: int = 0, n: int = 200) -> Judged:
    draw = np.random.default_rng([len(arm), seed])
    bits = "".join("1" if v < correct else "0" for v in draw.random(n))
    some: list[float | None] = [float(v) for v in moved + 0.01 * draw.standard_normal(n)]
    names = [*PLACES, "entropy", "held: js", "held: moved", "noise: js"]
    return Judged(
        data="shapes 4/255", arm=arm, seed=seed, eps=4 / 255, n=n, columns=dict.fromkeys(names, some), seconds=1.0,
        correct=dict.fromkeys(("clean", "cascade", "Step-LL", "attention-guided", "ARP objective"), bits),
    )  # fmt: skip


def compared(levels: dict[str, tuple[float, float]], seeds: int) -> list[Any]:
    rows = [judged(arm, *of, seed=s) for s in range(seeds) for arm, of in levels.items()]
    return training_claims(Results(judged=rows), "shapes 4/255")


@pytest.mark.parametrize(("seeds", "sure"), [(1, False), (2, False), (3, True)])
def test_fewer_than_three_seeds_prove_nothing_about_training(seeds: int, sure: bool) -> None:
    better = {BASE: (0.4, 0.3), ARP: (0.8, 0.1), SHUFFLED: (0.4, 0.3)}
    claims = compared(better, seeds)
    assert [c.verdict for c in claims[:4]] == ["holds" if sure else "undecided"] * 4
    assert claims[0].value == pytest.approx(0.4, abs=0.1)
    assert claims[2].value == pytest.approx(0.2, abs=0.01)
    worse = compared({BASE: (0.8, 0.1), ARP: (0.3, 0.3)}, seeds)
    assert [c.verdict for c in worse] == (["fails", "fails", "holds"] if sure else ["undecided"] * 3)
    assert any("ARP" in note for note in notes(worse, Results(), (0,)))


def test_a_gain_over_the_base_alone_is_no_gain_over_every_control() -> None:
    levels = {
        BASE: (0.4, 0.3),
        ARP: (0.8, 0.1),
        SHUFFLED: (0.8, 0.1),
        PAIRED: (0.4, 0.3),
    }
    claims = {c.claim.partition("+ ARP ")[2]: c for c in compared(levels, 3)}
    of = {says: c.verdict for says, c in claims.items()}
    assert of["resists more than PGD-AT of equal compute; worst-case accuracy; paired difference."] == "holds"
    joint = claims["resists more than PGD-AT and than every control; the least of 3 differences."]
    assert joint.verdict == "undecided" and abs(joint.value or 1) < 0.1
    levels[SHUFFLED] = (0.4, 0.3)
    assert [c.verdict for c in compared(levels, 3) if "the least of" in c.claim] == ["holds", "holds"]


def analysed(seed: int, follows: float, n: int = 150) -> Analysed:
    """Distance follows completeness, or not; nothing else follows anything."""
    draw = np.random.default_rng([7, seed])
    complete = draw.standard_normal(n)
    distance = follows * complete + draw.standard_normal(n)
    values = {"complete": complete, "distance": distance, "fooled": (distance < 0).astype(float)}
    values |= {name: draw.standard_normal(n) for name in ("lead", "first")}
    values |= {f"{of}: {m}": draw.standard_normal(n) for of in ("fixed", "predicted", "noise") for m in MOVES}
    return Analysed(
        data="d", arm="a", seed=seed, n=n, wrong=0, indices=list(range(n)), labels=[k % 3 for k in range(n)], eps=0.1,
        columns={k: v.tolist() for k, v in values.items()}, course={}, cells=64, seconds=1.0,
    )  # fmt: skip


def test_what_holm_leaves_is_undecided_whatever_the_interval_says() -> None:
    first = "d, a: the larger completeness, the farther the nearest adversarial example; Spearman."
    for follows, verdict in ((2.0, "holds"), (0.19, "undecided")):
        claims, table = analysis_claims([analysed(0, follows)])
        (of,) = [c for c in claims if c.claim == first]
        assert of.verdict == verdict
        assert (of.low or 0) > 0  # the interval alone would hold in both
        assert [row["verdict"] for row in table] == [c.verdict for c in claims]
        assert all(row["p"] is not None and row["p, Holm"] >= row["p"] for row in table)
    nothing, _ = analysis_claims([analysed(0, 0.0)])
    assert {c.verdict for c in nothing if "share" not in c.claim} == {"undecided"}


def test_seeds_that_contradict_each_other_decide_nothing() -> None:
    rows = [analysed(0, 2.0), analysed(1, 1.0), analysed(2, -0.5)]
    claim = analysis_claims(rows)[0][0]
    assert claim.value is not None and claim.value > 0.2
    assert claim.verdict == "undecided"
    assert claim.low is not None and claim.low < 0
    assert analysis_claims(rows[:1])[0][0].verdict == "holds"


def test_seeds_that_see_the_same_images_are_no_independent_ones() -> None:
    """Three seeds give a chance figure that they share a p no smaller than that of one seed."""
    one = analysed(0, 0.07)
    three = [one.model_copy(update={"seed": k}) for k in range(3)]
    alone, together = (analysis_claims(rows)[1][0] for rows in ([one], three))
    assert 0.05 < alone["p"] < 0.5
    assert together["p"] == pytest.approx(alone["p"], rel=0.6)
    assert (alone["of"], together["of"]) == ("permutations", "the bootstrap")


def test_a_control_that_cannot_be_told_leaves_the_least_gain_undecided() -> None:
    levels = {BASE: (0.4, 0.3), ARP: (0.8, 0.1)}
    rows = [judged(arm, *of, seed=s) for s in range(3) for arm, of in levels.items()]
    rows += [judged(SHUFFLED, 0.4, 0.3, seed=s) for s in range(3)]
    for row in rows[-3:]:
        row.columns["held: js"] = [None] * 200
    of = {c.claim: c for c in training_claims(Results(judged=rows), "shapes 4/255") if "the least" in c.claim}
    (held,) = [c for says, c in of.items() if "holds attention" in says]
    assert (held.verdict, held.value) == ("undecided", None)


def test_the_worst_case_counts_every_attack_and_transfer() -> None:
    row = judged(ARP, 0.8, 0.1, n=4).model_copy(
        update={"correct": {"clean": "1111", "cascade": "1110", "attention-guided": "1100", "Step-LL": "0000"}}
    )
    assert worst_case(row).tolist() == [1, 1, 0, 0]
    assert worst_case(row, "0111").tolist() == [0, 1, 0, 0]
    crossed = [Crossed(data="shapes 4/255", arm=ARP, seed=0, correct="0111")]
    found = Results(judged=[row.model_copy(update={"columns": {}})], crossed=crossed)
    assert judged_cases(found, "shapes 4/255", ARP).seeds[0]["worst"].tolist() == [0, 1, 0, 0]


class Corner(torch.nn.Module):
    """Class 0 is told by brightness in the upper left alone, which is where its attention is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 1)
        torch.nn.init.constant_(self.conv.weight, 2.0)
        torch.nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 2)."""
        corner = torch.zeros(x.shape[2:])
        corner[:8, :8] = 1.0
        z = (torch.relu(self.conv(x)) * corner).sum((2, 3)) / 8
        return torch.cat([z - 20, 0 * z], 1)


def test_attention_that_says_what_is_used_loses_it_first() -> None:
    x = 0.1 * torch.rand(14, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x[:12, :, :8, :8] += 0.8
    samples = Samples(x, torch.tensor([0] * 12 + [0, 0]), ["a", "b"])
    row = measure_faithfulness(Corner().eval(), samples, 14, data="d", arm="a", seed=0)
    of = {k: np.array(v, dtype=float) for k, v in row.columns.items()}
    assert all(np.isnan(v[12:]).all() and np.isfinite(v[:12]).all() for v in of.values())  # the last two are wrong
    assert bool((of["deletion"] < of["deletion, elsewhere"])[:12].all())
    assert bool((of["insertion"] > of["insertion, elsewhere"])[:12].all())
    assert row.layers == ["conv"] and row.compared == [12]
    # Three equal weights and one bias: shuffled, they are what they were.
    assert row.randomised == [pytest.approx(1)]
    nothing = measure_faithfulness(Corner().eval(), samples.take(torch.tensor([12, 13])), 2, data="d", arm="a", seed=0)
    assert nothing.layers == [] and all(v is None for values in nothing.columns.values() for v in values)


def test_a_study_is_kept_found_again_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_attention(TINY, out=tmp_path, command="unfooled study")
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    rows = first.tables["shapes 4/255: training compared"]
    assert [row["network"] for row in rows] == list(ARMS)
    used = first.tables["shapes 4/255: does attention say what the network uses"]
    assert [row["network"] for row in used] == list(ARMS)
    assert all(0 < row["rho, all shuffled, maps"] <= 12 for row in used)
    cost = first.tables["Networks at equal compute"]
    assert all(row["passes, of ARP's"] == pytest.approx(1, abs=0.25) for row in cost)
    assert "Attention that an attack cannot shift" in render_study(tmp_path).read_text()
    page = render_study(tmp_path).read_text()
    assert page.count("<img") == len(first.pictures) >= 2

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("done twice")

    # One unit and the points of one network are gone: all else is found again, and the same comes out.
    (gone,) = tmp_path.glob("units/*attacks/*ARP.json")
    was = read_unit(gone, Judged)
    gone.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("unfooled.studies.common.fitting.train", lambda *a, **k: iter(()))
        patch.setattr(analysis, "envelope", never)
        (tmp_path / "points" / f"{gone.stem}.npy").unlink()
        with pytest.raises(AssertionError):
            patch.setattr(judging, "cascade", never)
            run_attention(TINY, out=tmp_path)
    again = run_attention(TINY, out=tmp_path)
    assert read_unit(gone, Judged).correct == was.correct
    assert again.claims == first.claims
    with pytest.raises(BadInput, match="holds another run"):
        run_attention(replace(TINY, inner=2), out=tmp_path)


def test_a_network_of_ones_own_is_analysed_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = SMALL((3, 32, 32), 4).eval()
    monkeypatch.setattr("unfooled.studies.attention.units.ArmBench", None)
    found = run_attention(TINY, own=OwnNetwork(net), data=["shapes"], out=tmp_path)
    assert not any("training" in name for name in found.tables)
    (state,) = found.tables["shapes: clean attention"]
    assert state["looked at"] == 40
    assert "coverage" in state  # rendered shapes come with masks
    (unit,) = tmp_path.glob("units/analysis/*.json")
    row = read_unit(unit, Analysed)
    assert row.wrong + len(row.indices) == 40
    assert all(len(v) == len(row.indices) for v in row.columns.values())
    fell = np.array(row.columns["fooled"], dtype=float) > 0.5
    first = np.array(row.columns["first"], dtype=float)
    assert bool(np.isfinite(first[fell]).all())
    assert bool(np.isnan(first[~fell]).all())


def test_a_model_that_is_always_wrong_has_no_figures() -> None:
    class Wrong(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = SMALL((3, 32, 32), 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Always class 4."""
            return self.net(x) + 100 * torch.eye(5)[4]

    found = run_attention(TINY, own=OwnNetwork(Wrong().eval()), data=["shapes"])
    (state,) = found.tables["shapes: clean attention"]
    assert state["left out, wrong when clean"] == 40
    assert found.claims == []


def test_bad_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no scale 'tiny'; there are small, medium, full"):
        run_attention("tiny")
    with pytest.raises(BadInput, match="no data set 'mnist'; it has shapes, gtsrb"):
        run_attention("medium", data=["mnist"])
    with pytest.raises(BadInput, match="give a model and a folder"):
        run_attention("small", own=OwnNetwork(boxes=tmp_path / "boxes.csv"))
    with pytest.raises(BadInput, match="just one data source"):
        run_attention("small", own=OwnNetwork("net.pt"), data=["a", "b"])


def test_every_scale_can_be_written_down_and_has_what_is_promised() -> None:
    for size in SCALES.values():
        assert [arm.name for arm in size.arms][:6] == list(SIX)
        json.dumps([size.settings(), *(arm.settings(size.tasks[0].threat) for arm in size.arms)])
    medium = SCALES["medium"]
    assert medium.inner == 7
    assert [(t.source, round(255 * t.eps)) for t in medium.tasks] == [("shapes", 4), ("gtsrb", 8)]
    net = four_convolutions((3, 32, 32), 43)
    assert [m.out_channels for m in net if isinstance(m, torch.nn.Conv2d)] == [16, 16, 32, 32]
    assert len(SCALES["full"].arms) == 18
