"""The MNIST features study: claims follow their figures, work is found again, controls are what they say."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import beta
from torch import nn

from unfooled.attacks import pgd
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.features import groups
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.statistics.bootstrap import discrete_mean
from unfooled.statistics.intervals import Interval, share
from unfooled.studies.common import feature_units
from unfooled.studies.common.claims import claim, lowest
from unfooled.studies.common.feature_records import Aligned, Attacked, Measured, columns, packed, unpacked
from unfooled.studies.common.feature_results import Accuracies, Alignments, AttackedAccuracies
from unfooled.studies.common.fitting import Updates
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.mnist_features import MnistScale, run_mnist_features, units
from unfooled.studies.mnist_features.bench import DecayedAdam, MnistBench, Ordered
from unfooled.studies.mnist_features.claims import (
    TABLE_1,
    TABLE_2,
    claims_of_attacks,
    claims_of_sets,
    claims_of_training,
)
from unfooled.studies.mnist_features.scale import AS_TABLED, SCALES, Recipe, Retraining
from unfooled.training import Batches, Standard, Stepping, train
from unfooled.training.checkpoint import Checkpoint

TINY = MnistScale(
    "digits",
    (
        Recipe("standard", "faithful", 32, 1e-3, 1, decay=1.0),
        Recipe("group", "faithful", 64, 5e-3, 1, decay=0.95, ordered=True, drop=(0.0, 0.0)),
    ),
    rebuilt=60, updates=20, curve=(20,), published=54_000, robust_n=12, linf=(0.05, 0.1, 0.2), l2=(0.5,),
    train_n=128,
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps in place of the cascade, which has tests of its own."""

    def few(model: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, *, seed: int, effort: Any) -> torch.Tensor:
        return pgd(model, x, y, threat, steps=2, generator=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(feature_units, "cascade", few)


def made(name: str, levels: tuple[float, ...], *, seed: int = 0, n: int = 2000, own: float | None = None) -> Measured:
    """A network that is right on the first part of the images, the same ones for every network."""
    right = torch.stack([torch.arange(n) < round(level * n) for level in levels], 1)
    held_out = None if own is None else share(torch.arange(1000) < round(1000 * own))
    return Measured(
        name=name, seed=seed, loss="", updates=1, samples=n, right=columns(right), n=n, own=held_out, seconds=1.0
    )


def says(claims: list[Claim]) -> dict[str, Claim]:
    return {c.claim: c for c in claims}


def test_bits_come_back() -> None:
    bits = torch.rand(37) > 0.4
    assert unpacked(packed(bits), 37).tolist() == bits.double().tolist()


def test_the_bootstrap_of_counts_is_that_of_images() -> None:
    values = np.random.default_rng(1).integers(-1, 2, 400).astype(float)
    value, low, high, n = discrete_mean(values)
    rows = np.random.default_rng(2).integers(400, size=(4000, 400))
    want = np.quantile(values[rows].mean(1), [0.025, 0.975])
    assert value == pytest.approx(values.mean())
    assert n == 400
    assert [low, high] == pytest.approx(want.tolist(), abs=0.01)
    assert discrete_mean(np.array([np.nan]))[3] == 0


def test_values_that_are_all_the_same_prove_no_more_than_their_number_does() -> None:
    value, low, high, n = discrete_mean(np.zeros(200))
    assert (value, n) == (0, 200)
    assert -low == high == pytest.approx(beta.ppf(0.975, 1, 200))
    assert claim("", "", discrete_mean(np.zeros(200)), -0.02).verdict == "holds"
    assert claim("", "", discrete_mean(np.zeros(100)), -0.02).verdict == "undecided"
    assert claim("", "", discrete_mean(np.zeros(10_000)), 1e-9).verdict == "undecided"
    assert discrete_mean(np.ones(20))[1:3] == pytest.approx((0.832, 1), abs=1e-3)


@pytest.mark.parametrize(("off", "verdict"), [(0.0, "holds"), (-0.06, "fails"), (0.02, "holds"), (-0.03, "undecided")])
def test_a_figure_holds_within_three_points_or_above(off: float, verdict: str) -> None:
    rows = [
        made(f"{name}, {arm}", tuple(min(1.0, v + off) for v in row))
        for name, row in TABLE_1.items()
        for arm in ("faithful", "converged")
    ]
    found = claims_of_training(Accuracies(rows), published=True)
    figures = [c for c in found if "within 3 points" in c.claim]
    assert len(figures) == 10
    tabled = [made(f"standard, {AS_TABLED}", tuple(v + off for v in TABLE_1["standard"]))]
    assert [c.verdict for c in claims_of_training(Accuracies(tabled), published=True)] == [verdict] * 5
    assert {c.verdict for c in figures} == {verdict}
    (least,) = [c for c in found if "each of the ten" in c.claim]
    assert least.value == pytest.approx(off, abs=1e-3)
    # The order within the network and between the two is the published one, shifted or not.
    orders = [c for c in found if "order" in c.claim or "helps" in c.claim]
    assert [c.verdict for c in orders] == ["holds"] * 4
    assert not any("within 3" in c.claim for c in claims_of_training(Accuracies(rows), published=False))


def test_the_pattern_is_refuted_where_it_is_reversed() -> None:
    a, b = TABLE_2.values()
    own = [made(name, row) for name, row in TABLE_2.items()]
    assert [c.verdict for c in claims_of_sets(Accuracies(own))] == ["holds"] * 5
    other = [made("group set", b), made("non-robust set", a)]
    assert [c.verdict for c in claims_of_sets(Accuracies(other))] == ["fails"] * 5
    same = claims_of_sets(Accuracies([made("group set", a), made("non-robust set", a)]))
    assert [(c.verdict, c.value) for c in same] == [("undecided", 0.0)] * 5  # that none differs proves nothing


def test_controls_decide_what_travelled() -> None:
    low, high = (0.5, 0.5, 0.5, 0.5, 0.9), (0.8, 0.8, 0.8, 0.8, 0.9)
    rows = [
        made("group set", low), made("originals", high), made("untrained set", low),
        made("originals, corrupted", high), made("group set, class of the start", low, own=0.5),
    ]  # fmt: skip
    found = [c for c in claims_of_sets(Accuracies(rows)) if "controls" in c.claim]
    assert [(c.verdict, round(c.value or 0, 2)) for c in found] == [
        ("fails", -0.3), ("undecided", 0.0), ("holds", 0.3), ("holds", 0.5),
    ]  # fmt: skip
    cleaned = [made("group set, cleaned", high), made("originals, cleaned", low), made("untrained set, cleaned", high)]
    assert [(c.verdict, round(c.value or 0, 2)) for c in claims_of_sets(Accuracies(cleaned))] == [
        ("holds", 0.3), ("undecided", 0.0),
    ]  # fmt: skip


def test_seeds_are_averaged_by_image() -> None:
    rows = [made("group set", (0.4,) * 5), made("group set", (0.8,) * 5, seed=1), made("originals", (0.6,) * 5)]
    found = Accuracies(rows)
    assert found.accuracy("group set")[0][0] == pytest.approx(0.6)
    assert found.gap("group set", "originals", [0, 1])[0] == pytest.approx(0)
    both = [Interval(0.5, 0.1, 0.9, 3), Interval(0.2, 0.15, 0.3, 4)]
    assert lowest(both) == (0.2, 0.1, 0.3, 3)  # not the lowest one's own
    apart = Accuracies([made("group set", (v,) * 5, seed=k) for k, v in enumerate((0.2, 0.5, 0.8))])
    assert apart.accuracy("group set")[0][1] < 0.1  # three seeds, and far apart: the interval is over them
    rows = [made(name, (v,) * 5, seed=k) for k, v in enumerate((0.2, 0.5, 0.8)) for name in ("a", "b")]
    assert Accuracies(rows).gap("a", "b", [0])[:3] == pytest.approx((0, 0, 0), abs=0.05)  # what they share is no spread


def test_what_is_trained_on_rebuilt_images_begins_elsewhere_than_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfooled.studies.common.bench.fit", lambda *_, **__: 0.0)  # nothing is trained
    bench = MnistBench(TINY)
    (rule,) = [one for one in TINY.retrainings if one.name == "group set, published rule"]
    fresh = bench.retrained(replace(rule, origin="originals"), 0).state_dict()
    for name in ("group, faithful", "untrained"):
        assert not torch.equal(fresh["fc.weight"], bench.network(name).state_dict()["fc.weight"])


class Threshold(nn.Module):
    """Class 0 where the only entry is below a half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)


def test_alignment_is_compared_by_image_over_the_seeds() -> None:
    def row(name: str, seed: int, values: list[float | None]) -> Aligned:
        return Aligned(name=name, seed=seed, values=values, seconds=1.0)

    high, low = [0.5 + k / 100 for k in range(20)], [0.4 + (k + k % 2 - 0.5) / 100 for k in range(20)]
    of = Alignments(
        [row("a", 0, [*high, 0.1]), row("a", 1, [*high, 0.1]), row("b", 0, [*low, None]), row("b", 1, [*low, 0.9])]
    )
    assert of.gap("a", "b") == pytest.approx((0.1, 0.1, 0.1, 20), abs=0.003)  # the last is undefined in one seed
    claims = of.claims([("a", "b", "s"), ("b", "a", "s"), ("a", "c", "s")], "d")
    assert [c.verdict for c in claims] == ["holds", "fails"]
    assert [(line["networks"], line["images"]) for line in of.table()] == [(2, 21), (2, 20)]
    apart = Alignments(
        [row("a", k, [0.5 + v] * 20) for k, v in enumerate((-0.1, 0.1, 0.3))]
        + [row("b", k, [0.5] * 20) for k in range(3)]
    )
    assert apart.gap("a", "b")[:3] == pytest.approx((0.1, -0.397, 0.597), abs=1e-3)  # over three seeds: Student's t


def test_samples_are_bisected_over_the_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def step(model: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, *, seed: int, effort: Any) -> torch.Tensor:
        taken.append(len(x))
        return (x + threat.eps).clamp(0, 1)

    monkeypatch.setattr(feature_units, "cascade", step)
    x = torch.tensor([[0.48], [0.42], [0.36], [0.27], [0.1], [0.7]])
    threats = [Linf(eps) for eps in (0.05, 0.1, 0.15, 0.2, 0.3)]
    kept = feature_units.radii_survived(Threshold(), x, torch.zeros(6, dtype=torch.int64), threats)
    assert kept.tolist() == [0, 1, 2, 4, 5, -1]
    assert sum(taken) < 5 * 5  # each radius for everybody


def test_what_is_left_counts_clean_mistakes_at_every_radius() -> None:
    rows = [
        Attacked(name=name, seed=0, norm="linf", radii=[0.1, 0.2, 0.3], survived=kept, seconds=1.0)
        for name, kept in {"group set": [-1, 0, 1, 3] * 50, "originals": [-1, 0, 0, 0] * 50}.items()
    ]
    attacked = AttackedAccuracies(rows)
    assert [attacked.accuracy("linf", "group set", k)[0] for k in (-1, 0, 1, 2)] == [0.75, 0.5, 0.25, 0.25]
    claims = claims_of_attacks(attacked)
    assert [round(c.value or 0, 2) for c in claims] == [0.25, 0.75]
    assert [c.verdict for c in claims] == ["holds", "fails"]


def test_equal_updates_whatever_the_size_and_a_fixed_order() -> None:
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    pieces = [[rows.tolist() for _, rows in Updates(x, y, 4, 3, steps=5)(piece)] for piece in (0, 1)]
    flat = [row for piece in pieces for batch in piece for row in batch]
    assert [len(p) for p in pieces] == [5, 5]
    assert len(flat) == 40
    assert all(len({*flat[i : i + 8]}) == 8 for i in range(0, 40, 8))  # each order gives two full batches
    assert flat[:8] != flat[8:16]
    assert len(list(Updates(x[:2], y[:2], 4, 3, steps=5)(0))) == 5
    fixed = Ordered(x, y, 4)
    assert [rows.tolist() for _, rows in fixed(0)] == [rows.tolist() for _, rows in fixed(1)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip


def test_the_rate_decays_with_the_updates_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    x, y = torch.rand(32, 3), torch.arange(32) % 2

    def run(epochs: int, file: str) -> tuple[nn.Module, DecayedAdam]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Linear(3, 2)
        optimizer = DecayedAdam(net.parameters(), 0.1, 0.5)
        keep = Checkpoint(tmp_path / file)
        steady = Stepping(schedule=False)
        for _ in train(net, Batches(x, y, 8), Standard(), optimizer, epochs=epochs, stepping=steady, checkpoint=keep):
            pass
        return net, optimizer

    whole, optimizer = run(4, "a")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** (15 / 80))
    run(2, "b")
    parts, _ = run(4, "b")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_controls_hold_what_they_say() -> None:
    bench = MnistBench(TINY)
    own, held = bench.samples(Retraining("", "originals"))
    assert (len(own[0]), len(held[0])) == (54, 6)
    assert torch.equal(torch.cat([own[0], held[0]]), bench.train[0][:60])
    made = bench.rebuilt("group")
    assert torch.equal(made.source, torch.arange(60))
    (x, y), _ = bench.samples(Retraining("", "group", "start", sources=20))
    assert torch.equal(x, made.x[:20])
    assert torch.equal(y, bench.train[1][made.start[:20]])
    trained, seen = made.start[:54], bench.samples(Retraining("", "group", "start"))[1][0]
    apart = [k for k in range(54, 60) if not bool((trained == made.start[k]).any())]
    assert torch.equal(seen, made.x[apart])  # a start that was trained on could be remembered
    assert 0 < len(seen) < 6
    (_, shuffled), _ = bench.samples(Retraining("", "group", "shuffled"))
    assert not torch.equal(shuffled, made.y[:54])
    assert torch.equal(bench.rebuilt("standard").start, made.start)  # both searches begin at the same images
    (cleaned, _), _ = bench.samples(Retraining("", "group", cleaned=True))
    assert bool(((cleaned == 0) | (cleaned == made.x[:54])).all())
    assert not torch.equal(cleaned, made.x[:54])
    assert torch.equal(bench.groups, groups(bench.test[0], legacy=0x1A2B3C4D))


@pytest.mark.usefixtures("quick")
def test_a_study_is_kept_found_again_and_grows_by_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_mnist_features(TINY, out=tmp_path, command="unfooled study")
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    second = first.tables["Table 2: networks trained on rebuilt images"]
    names = [one.name for one in TINY.retrainings if one.sources is None]
    assert [row["trained on"] for row in second] == names  # published figures are of MNIST alone
    assert {row["n"] for row in first.tables["Rebuilt sets"]} == {60}
    attacked = {row["network"] for row in first.tables["Under attack, linf (cascade, normal)"]}
    assert attacked == {r.name for r in TINY.recipes} | {one.name for one in TINY.retrainings if one.attacked}
    looked = first.tables["Alignment of gradients with images"]
    assert {row["network, or set it was trained on"]: row["networks"] for row in looked} == dict.fromkeys(attacked, 1)
    assert len(first.pictures) == 5
    assert all(Image.open(io.BytesIO(base64.b64decode(p.png))).size[0] > 100 for p in first.pictures)
    assert "Are robust features a data set?" in render_study(tmp_path).read_text()
    kept = {p: p.read_bytes() for p in (tmp_path / "units").rglob("*.json")}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("done twice")

    with monkeypatch.context() as patch:
        for name in ("attack", "align", "measure_encoder", "measure_set", "measure_retrained"):
            patch.setattr(units, name, never)
        again = run_mnist_features(TINY, out=tmp_path, command="unfooled study")
    assert again.tables == first.tables
    more = run_mnist_features(TINY, out=tmp_path, seeds=(0, 1))
    assert all(p.read_bytes() == was for p, was in kept.items())  # another seed changes nothing of the first
    rows = {row["trained on"]: row for row in more.tables["Table 2: networks trained on rebuilt images"]}
    assert (rows["group set"]["networks"], rows["group set, shuffled labels"]["networks"]) == (2, 1)
    with pytest.raises(BadInput, match="holds another run"):
        run_mnist_features(replace(TINY, updates=30), out=tmp_path)


def test_a_set_that_was_made_is_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MnistBench(TINY, tmp_path).rebuilt("untrained")
    assert not (tmp_path / "sets/untrained.parts").exists()
    (tmp_path / "sets/untrained.json").unlink()  # a kill before the manifest was written
    assert torch.equal(MnistBench(TINY, tmp_path).rebuilt("untrained").x, made.x)
    with monkeypatch.context() as patch:
        patch.setattr("unfooled.studies.mnist_features.bench.non_robust_set", None)
        assert torch.equal(MnistBench(TINY, tmp_path).rebuilt("untrained").x, made.x)
    other = MnistBench(TINY, tmp_path)
    with torch.no_grad():
        next(other.network("untrained").parameters()).add_(1)
    with pytest.raises(BadInput, match="was made with the encoder"):
        other.rebuilt("untrained")


def test_bad_requests_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no scale 'tiny'; there are small, medium, full"):
        run_mnist_features("tiny")
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="UNFOOLED_DATA"):
        run_mnist_features("medium")


def test_the_scales_are_what_the_source_and_the_issue_say() -> None:
    for size in SCALES.values():
        assert {r.name for r in size.recipes} >= {f"{n}, {a}" for n in TABLE_1 for a in ("faithful", "converged")}
        assert {one.origin for one in size.retrainings} == {"group", "standard", "untrained", "originals"}
    faithful = {r.network: r for r in SCALES["medium"].recipes if r.arm == "faithful"}
    standard, group = faithful["standard"], faithful["group"]
    assert (standard.batch, standard.lr, standard.epochs, standard.decay) == (32, 3e-5, 15, 1.0)
    assert (group.batch, group.lr, group.epochs, group.decay, group.ordered) == (256, 5e-3, 3, 0.95, True)
    assert SCALES["medium"].rebuilt * 0.9 >= 10_000
    assert SCALES["full"].rebuilt == 60_000
    assert [one.epochs for one in SCALES["full"].retrainings if one.epochs] == [25, 8]
