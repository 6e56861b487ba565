"""The attribution-robustness study: claims follow their figures, work is found again, seeds do not touch each other."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.attacks import pgd
from unfooled.core.errors import BadInput
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.runs.units import read_unit
from unfooled.statistics import intervals
from unfooled.studies.attribution_robustness import study as study
from unfooled.studies.attribution_robustness.figures import average
from unfooled.studies.attribution_robustness.networks import SCALES, Arm, Bench, Scale, Task, two_convolutions
from unfooled.studies.attribution_robustness.records import Network, Pool, Scores
from unfooled.studies.common.records import StudySummary, array, listed
from unfooled.training import Madry, Standard

TASK = Task("digits", 0.15, (6,), (1,), 10, batch=32, lr=5e-3, arch=partial(two_convolutions, width=4, hidden=16))
ARMS = (
    Arm("natural", lambda threat: Standard()),
    Arm("PGD", lambda threat: Madry(threat, steps=2), ramp=0.4),
    Arm("on from PGD", lambda threat: Standard(), share=0.5, start="PGD", once=True),
)
TINY = Scale(
    (TASK,), ARMS, (("saliency", 0.5, 3, 0), ("saliency", 1.0, 5, 4), ("integrated gradients", 1.0, 2, 0)),
    300, 200, 20, attack_steps=2,
)  # fmt: skip
SCORES = list(study.scores_of(TASK))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps in place of the cascade, which has tests of its own."""

    def few(model: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, *, seed: int) -> torch.Tensor:
        return pgd(model, x, y, threat, steps=2, generator=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(study, "cascade", few)


def made(arm: str, how: dict[str, float], *, seed: int = 0, n: int = 40, noise: float = 0.01) -> Scores:
    """Scores around a level for each perturbation, the same for every score."""
    draw = np.random.default_rng(len(arm) + seed)
    values = {
        h: {s: listed(torch.from_numpy(level + noise * draw.standard_normal(n))) for s in SCORES}
        for h, level in how.items()
    }
    none: list[float | None] = [0.0] * n
    return Scores(
        data="digits", arm=arm, seed=seed, look="saliency", eps=0.15, n_random=9, indices=list(range(n)),
        status={h: ["attacked"] * n for h in study.HOW}, values=values, zero_share=none, output_change=none, forwards=1,
        backwards=1, explanations=1, attack_seconds=1, seconds=1,
    )  # fmt: skip


def network(arm: str, clean: float, seed: int = 0) -> Network:
    right = torch.arange(1000) < 1000 * clean
    share = intervals.share(right)
    return Network(data="digits", arm=arm, seed=seed, clean=share, robust=share, correct="1", loss="", seconds=1.0)


def pool(**arms: dict[str, float]) -> Pool:
    rows = {(arm.replace("_", " "), 0): made(arm.replace("_", " "), how) for arm, how in arms.items()}
    return Pool(TASK, "saliency", rows)


def test_the_claims_of_noise_follow_the_figures() -> None:
    strong = study.claims_of_noise(pool(natural={"attack": 0.2, "best of N": 0.5, "random": 0.4}))
    assert strong[0].verdict == "holds"
    assert strong[0].value == pytest.approx(0.6 / 0.8, abs=0.02)
    assert [one.verdict for one in strong[-3:]] == ["holds"] * 3
    assert strong[-1].value == pytest.approx(0.3, abs=0.02)
    # Every score says the same here, so nothing mends anything.
    assert all(one.value == pytest.approx(0, abs=0.05) and one.verdict != "fails" for one in strong[1:-3])
    weak = study.claims_of_noise(pool(natural={"attack": 0.2, "best of N": 0.1, "random": 0.9}))
    assert [one.verdict for one in (weak[0], *weak[-3:])] == ["fails"] * 4
    assert study.claims_of_noise(pool(other={"attack": 0.2, "best of N": 0.1, "random": 0.9}))[0].verdict == "undecided"


def test_locality_mends_what_only_top_k_sees() -> None:
    one = made("natural", {"attack": 0.2, "best of N": 0.5, "random": 0.3})
    for score in SCORES:
        if score.startswith("LENS") and not score.startswith("LENS-"):
            one.values["random"][score] = [0.9] * 40
    found = study.claims_of_noise(Pool(TASK, "saliency", {("natural", 0): one}))
    says = {c.claim.partition(": ")[2]: c.verdict for c in found}
    assert [v for k, v in says.items() if k.startswith("locality")] == ["holds", "holds"]
    assert [v for k, v in says.items() if k.startswith("diversity")] != ["holds"]


@pytest.mark.parametrize(
    ("level", "clean", "verdicts"),
    [(0.6, 0.98, ["holds", "holds"]), (0.6, 0.96, ["fails", "fails"]), (0.38, 0.98, ["fails", "holds"]),
     (0.25, 0.98, ["fails", "fails"])],
)  # fmt: skip
def test_a_gain_counts_only_where_accuracy_is_kept(level: float, clean: float, verdicts: list[str]) -> None:
    how = {"best of N": 0.7, "random": 0.8}
    networks = [network("natural", 0.99), network("hardened", clean)]
    plain = {"attack": 0.2, **how}
    found = study.claims_of_training(pool(natural=plain, hardened={"attack": level, **how}), networks)
    assert [c.verdict for c in found] == verdicts
    assert found[0].value == pytest.approx(level - 0.2, abs=0.01)
    # What chance finds counts where the attack found less: a failed attack is no gain.
    beaten = study.claims_of_training(pool(natural=plain, hardened={"attack": 0.9, "best of N": level}), networks)
    assert [c.verdict for c in beaten] == verdicts


def test_an_image_on_several_seeds_is_one_image() -> None:
    values, images = np.random.default_rng(0).standard_normal(30), np.arange(30)
    value, low, high, n = average(values, images)
    again = average(np.tile(values, 4), np.tile(images, 4))
    assert again == pytest.approx((value, low, high, 30))
    assert n == 30
    apart = average(np.tile(values, 4), np.arange(120))
    assert apart[2] - apart[1] < 0.7 * (high - low)


def test_chance_never_loses_to_one_of_its_own_points(tmp_path: Path) -> None:
    bench = Bench(TASK, ARMS, 0, train_n=300, folder=tmp_path)
    size = replace(TINY, attack_steps=3)
    row = study.measure(bench.network("natural"), bench, torch.arange(60), study.LOOKS_AT["saliency"], 0.03, size, "a")
    for leader in study.leaders(TASK):
        best, one = array(row.values["best of N"][leader]), array(row.values["random"][leader])
        both = np.isfinite(best) & np.isfinite(one)
        assert both.sum() > 5
        assert bool((best[both] <= one[both] + 1e-4).all())
    assert {study._kind(s) for s in SCORES} == {study._kind(s) for s in study.leaders(TASK)}


def test_what_is_undefined_counts_nowhere() -> None:
    one = made("natural", {"attack": 0.2, "best of N": 0.5, "random": 0.4})
    for how in study.HOW:
        one.values[how]["top-6"][:39] = [None] * 39
    found = study.claims_of_noise(Pool(TASK, "saliency", {("natural", 0): one}))
    assert (found[0].n, found[-1].n) == (1, 40)
    assert array([1.0, None]).tolist()[0] == 1.0
    assert listed(torch.tensor([0.1234567, torch.nan])) == [0.12346, None]


@pytest.mark.usefixtures("quick")
def test_a_study_is_kept_found_again_and_grows_by_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study.study("tiny", out=tmp_path, seeds=(0,), size=TINY, command="unfooled study")
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    assert [row["network"] for row in first.tables["Networks"]] == ["natural", "PGD", "on from PGD"]
    for how in study.HOW:
        table = first.tables[f"digits, saliency, eps 0.15: {how}"]
        assert all(row["attacked"] + row["failed"] + row["undefined"] == 5 for row in table)
        assert {"top-6", "LENS 1@6", "LENS 1@6, corrected", "LENS 1@6-div, corrected", "tau"} <= set(table[0])
    assert all(Image.open(io.BytesIO(base64.b64decode(p.png))).size[0] > 100 for p in first.pictures)
    assert "Do the reasons survive?" in render_study(tmp_path).read_text()
    kept = {p: p.read_bytes() for p in (tmp_path / "units").rglob("*.json")}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("done twice")

    with monkeypatch.context() as patch:
        patch.setattr(study, "explanation_robustness", never)
        patch.setattr(study, "cascade", never)
        again = study.study("tiny", out=tmp_path, seeds=(0,), size=TINY, command="unfooled study")
    assert again.tables == first.tables
    more = study.study("tiny", out=tmp_path, seeds=(0, 1), size=TINY)
    assert all(p.read_bytes() == was for p, was in kept.items())  # another seed changes nothing of the first
    assert [(r["network"], r["seed"]) for r in more.tables["Networks"]][3:] == [("natural", 1), ("PGD", 1)]
    with pytest.raises(BadInput, match="holds another run"):
        study.study("tiny", out=tmp_path, size=replace(TINY, attack_steps=3))


@pytest.mark.usefixtures("quick")
def test_all_networks_of_a_seed_see_the_same_images(tmp_path: Path) -> None:
    study.study("tiny", out=tmp_path, seeds=(1,), size=TINY)
    rows = [read_unit(p, Scores) for p in (tmp_path / "units").rglob("*saliency-1.json")]
    assert len(rows) == 2
    assert rows[0].indices == rows[1].indices
    networks = [read_unit(p, Network) for p in (tmp_path / "units/digits, seed 1: networks").glob("*.json")]
    assert all(n.correct[i] == "1" for n in networks for i in rows[0].indices)


def test_bad_requests_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no scale 'tiny'; there are small, medium, full"):
        study.study("tiny")
    with pytest.raises(BadInput, match="no data set 'minst'; it has mnist, fashion-mnist, gtsrb"):
        study.study("medium", data=["minst"])
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="UNFOOLED_DATA"):
        study.study("medium", data=["mnist"])


def test_a_network_goes_on_from_another_and_resumes(tmp_path: Path) -> None:
    bench = Bench(TASK, ARMS, 0, train_n=64, folder=tmp_path)
    last = bench.network("on from PGD")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["PGD.pt", "on_from_PGD.pt"]
    second = Bench(TASK, ARMS, 0, train_n=64, folder=tmp_path)
    again = second.network("on from PGD")
    assert second.seconds["on from PGD"] == pytest.approx(bench.seconds["on from PGD"])
    assert second.seconds["on from PGD"] > 0
    for a, b in zip(last.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not last.training


def test_every_scale_can_be_told_and_has_what_the_issue_names() -> None:
    for size in SCALES.values():
        told = size.told()
        assert {arm["name"] for arm in told["arms"]} >= {"natural", "PGD", "IG-NORM", "IG-SUM-NORM", "IGR"}
        assert all(arm.start in (None, *(a.name for a in size.arms)) for arm in size.arms)
    assert [t.source for t in SCALES["full"].tasks] == ["mnist", "fashion-mnist", "gtsrb"]
    assert [t.eps for t in SCALES["full"].tasks] == [0.3, 0.1, 8 / 255]
    # Chance is near 1 beyond: w >= 2 says nothing at 28 x 28.
    assert all(max(t.ws) == 1 for t in SCALES["full"].tasks if "mnist" in t.source)
