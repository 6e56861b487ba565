"""The study of four sets: claims follow their figures, sets and controls are what they say, work is found again."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.attacks import pgd
from unfooled.attacks.ensembles.cascade import EFFORTS
from unfooled.core.errors import BadInput
from unfooled.core.threats import L2
from unfooled.data.formats.feature_sets import load_features
from unfooled.models import load_model
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.studies.common import feature_units
from unfooled.studies.common.feature_records import Attacked, Measured, columns
from unfooled.studies.common.fitting import Updates
from unfooled.studies.common.records import StudySummary
from unfooled.studies.robust_features import FeatureScale, FeatureTask, run_robust_features, units
from unfooled.studies.robust_features import bench as benches
from unfooled.studies.robust_features import scale as sets
from unfooled.studies.robust_features.bench import FeatureBench
from unfooled.studies.robust_features.claims import claims as claims_of
from unfooled.studies.robust_features.scale import SCALES
from unfooled.studies.robust_features.units import Results

SMALL: dict[str, Any] = {"width": 4}
TASK = FeatureTask(
    "digits", L2(0.8), (L2(0.5), L2(8.0)), 6, 4, 5, batch=16, arch="small-cnn", options=SMALL, fresh_options=SMALL,
    steps=2,
)  # fmt: skip
TINY = FeatureScale(
    (TASK,), rebuilt=60, held_out=20, robust_n=12, effort="quick", gradients=5, moving=5, piece=2, train_n=140,
    test_n=50,
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps in place of the cascade, which has tests of its own."""

    def few(model: Any, x: torch.Tensor, y: torch.Tensor, threat: Any, *, seed: int, effort: Any) -> torch.Tensor:
        return pgd(model, x, y, threat, steps=2, generator=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(feature_units, "cascade", few)


@pytest.fixture(scope="module")
def bench() -> FeatureBench:
    return FeatureBench(TASK, TINY, 0)


def found(clean: Mapping[str, float], robust: Mapping[str, tuple[int, ...]], following: float = 0.0) -> Results:
    """A data set of ten classes on which networks are as good as told; `robust` repeats itself over 200 images."""
    n = 1000
    tests, attacks = [], []
    for name in (*sets.ENCODERS, *sets.TRAINED_ON):
        level = clean.get(name, 0.9)
        right = torch.arange(n) < round(level * n)
        other = torch.arange(n) >= n - round(following * n)
        packed = columns(torch.stack([right, other], 1))
        tests.append(Measured(name=name, seed=0, loss="", updates=1, samples=n, right=packed, n=n, seconds=1.0))
        if name in sets.ATTACKED:
            kept = list(robust.get(name, (0, 0, 0, 0))) * 50
            attacks.append(
                Attacked(name=name, seed=0, norm="l2", radii=[0.2, 0.4, 0.6, 0.8], survived=kept, seconds=1.0)
            )
    return Results(TASK, 0.1, tests, attacks)


PUBLISHED = {sets.ORIGINALS: 0.95, sets.NON_ROBUST: 0.88, sets.D_RAND: 0.63, sets.D_DET: 0.44, sets.RANDOM: 0.5}


def test_the_published_pattern_holds_and_its_reverse_fails() -> None:
    kept = {sets.ROBUST: (2, 2, 1, 1), sets.HARDENED_TOO: (4, 4, 4, 2)}
    assert [c.verdict for c in claims_of(found(PUBLISHED, kept, 0.2))] == ["holds"] * 11
    clean = {sets.ORIGINALS: 0.95, sets.NON_ROBUST: 0.5, sets.RANDOM: 0.9, sets.D_RAND: 0.05, sets.D_DET: 0.05}
    kept = {
        sets.ORIGINALS: (2, 2, 0, 0), sets.RANDOM: (2,) * 4, sets.NON_ROBUST: (4,) * 4, sets.ROBUST: (4, 0, 0, 0),
    }  # fmt: skip
    assert [c.verdict for c in claims_of(found(clean, kept, 0.5))] == ["fails"] * 11


def test_no_difference_is_none_and_chance_is_not_above_chance() -> None:
    level = {name: 0.9 for name in sets.TRAINED_ON} | {sets.D_RAND: 0.1, sets.D_DET: 0.15}
    claims = {c.claim.partition(":")[2]: c for c in claims_of(found(level, {}, 0.15))}
    chance = {c.claim: c.verdict for c in claims.values() if "largest class" in c.claim}
    assert list(chance.values()) == ["undecided", "holds"]
    same = [
        c
        for c in claims.values()
        if "plain training on the robust set gives" in c.claim or "gives more than images" in c.claim
    ]
    assert [(c.verdict, c.value) for c in same] == [("undecided", 0.0)] * 2  # that all were lost is no proof
    assert [c.verdict for c in claims.values() if "no more robust" in c.claim] == ["holds"]
    assert [c.value for c in claims.values() if "next one" in c.claim] == [0.0]


def test_parts_of_the_attacked_are_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(name: str, kept: list[int]) -> Attacked:
        return Attacked(name=name, seed=0, norm="l2", radii=[1.0], survived=kept, seconds=1.5)

    whole = units.joined([part("a", [1, 0]), part("a", [-1]), part("b", [1, 1]), part("b", [0])])
    assert [(one.name, one.survived, one.seconds) for one in whole] == [("a", [1, 0, -1], 3.0), ("b", [1, 1, 0], 3.0)]
    bench = FeatureBench(TASK, TINY, 0)
    bench._networks["originals"] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    asked: list[torch.Tensor] = []

    def all_fall(_net: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        asked.append(x)
        return torch.zeros(len(x), dtype=torch.int64)

    monkeypatch.setattr(feature_units, "radii_survived", all_fall)
    monkeypatch.setattr(units, "IMAGES_PER_UNIT", 5)
    parts = [part for part in units.attack_parts(bench).values() if part[0] == "originals"]
    assert [len(units.attack_part(bench, part).survived) for part in parts] == [5, 5, 2]
    assert torch.equal(torch.cat(asked), bench.test[0][:12])


def test_the_radius_is_the_one_in_which_other_classes_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = benches.smallest_threat

    def noted(*given: Any, **more: Any) -> Any:
        asked.append(more["kind"])
        return real(*given, **more)

    monkeypatch.setattr(benches, "smallest_threat", noted)
    assert FeatureBench(TASK, TINY, 0).reach().eps == 8.0
    assert asked == ["d-det"]


def test_radii_and_shares() -> None:
    assert [float(TASK.threat.scaled(share).eps) for share in sets.SHARES] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    says = [c.claim for c in claims_of(found({}, {}))]
    assert sum("l2 0.4" in s for s in says) == 5
    assert sum("l2 0.8" in s for s in says) == 1


def test_sets_are_made_of_the_networks_they_are_named_after(bench: FeatureBench) -> None:
    x, y = bench.sources()
    assert len(x) == 60
    assert torch.equal(bench.train[0][:60], x)
    hashes = {name: bench.made(name).manifest["encoder"] for name in sets.SETS}
    assert len({hashes[name] for name in sets.ENCODER_OF_SET}) == 3
    assert hashes[sets.D_RAND] == hashes[sets.D_DET] == hashes[sets.NON_ROBUST]
    for name in sets.ENCODER_OF_SET:
        made = bench.made(name)
        assert torch.equal(made.y, y)
        assert torch.equal(made.start, bench.made(sets.ROBUST).start)
        assert int(made.start.max()) < len(bench.train[0])  # none of what was held out
    assert torch.equal(bench.made(sets.D_DET).y, (y + 1) % 10)
    moved = (bench.made(sets.D_DET).x - x).flatten(1).norm(dim=1)
    assert bench.reach().tried == [0.5, 8.0]
    assert float(moved.max()) > 0.6  # in the second radius, the first in which nearly all targets are reached


def test_the_radius_is_chosen_on_images_that_nothing_is_trained_on(bench: FeatureBench) -> None:
    whole = torch.cat([bench.train[0], bench.held_out[0]])
    assert (len(bench.train[0]), len(bench.held_out[0])) == (120, 20)
    assert len({row.numpy().tobytes() for row in whole}) == 140
    small = FeatureBench(TASK, replace(TINY, moving=5), 0)
    small.eps = 0.1
    moved = (small.made(sets.D_RAND).x - small.sources()[0]).flatten(1).norm(dim=1)
    assert float(moved.max()) < 0.1 + 8 * 0.5 / 255  # what was found before is not found anew
    with pytest.raises(BadInput, match="140 are held out; hold out fewer"):
        FeatureBench(TASK, replace(TINY, held_out=140), 0)


def test_every_fresh_network_takes_the_same_training(bench: FeatureBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, tuple[int, int]] = {}
    start: dict[str, torch.Tensor] = {}

    def note(net: Any, batches: Updates, loss: Any, optimizer: Any, *, epochs: int, label: str, **_: Any) -> float:
        taken[label] = (epochs * len(batches), len(batches.x))
        start[label] = next(net.parameters()).detach().clone()
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr("unfooled.studies.common.bench.fit", note)
        other = FeatureBench(TASK, TINY, 0)
        other._sets = {name: bench.made(name) for name in sets.SETS}
        for name in (*sets.ENCODERS, *sets.TRAINED_ON):
            other.network(name)
    fresh = [f"training, {name}" for name in sets.TRAINED_ON]
    assert {taken[name] for name in fresh} == {(4, 54)}
    assert taken["training, natural"] == (6, 120)
    assert all(torch.equal(start[name], start[fresh[0]]) for name in fresh)
    assert not torch.equal(start["training, natural"], start[fresh[0]])  # or perturbations would carry over
    assert "Madry(threat=L2(eps=0.8" in str(other.loss(sets.HARDENED))
    assert str(other.loss(sets.HARDENED_TOO)) == str(other.loss(sets.HARDENED))
    plain = {*sets.TRAINED_ON, sets.NATURAL} - {sets.HARDENED_TOO}
    assert {str(other.loss(name)) for name in plain} == {"Standard(smoothing=0.0)"}


def test_controls_hold_what_they_say(bench: FeatureBench) -> None:
    (x, y), (last, _) = bench.samples(sets.ORIGINALS)
    assert torch.equal(torch.cat([x, last]), bench.sources()[0])
    (same, shuffled), (_, rest) = bench.samples(sets.SHUFFLED)
    assert torch.equal(same, x)
    assert not torch.equal(shuffled, y)
    assert sorted([*shuffled.tolist(), *rest.tolist()]) == sorted(bench.sources()[1].tolist())
    (x, y), _ = bench.samples(sets.D_RAND)
    assert torch.equal(y, bench.made(sets.D_RAND).y[:54])


def test_what_a_network_says_of_the_test_images(bench: FeatureBench, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = bench.test[1]
    bench.network(sets.NATURAL)
    with monkeypatch.context() as patch:
        labels = torch.where(torch.arange(len(truth)) < 30, truth, (truth + 1) % 10)
        patch.setattr(bench, "labels", lambda *_: labels)
        own, following = units.measure_network(bench, sets.NATURAL).correct().T
    assert own.tolist() == [1.0] * 30 + [0.0] * 20
    assert following.tolist() == [0.0] * 30 + [1.0] * 20


def test_augmented_updates_do_not_depend_on_the_pieces() -> None:
    x, y = torch.rand(10, 1, 6, 6), torch.arange(10)
    kwargs: dict[str, Any] = {"size": 4, "seed": 3, "flip": True, "crop": 2}
    whole = [part for part, _ in Updates(x, y, steps=6, **kwargs)(0)]
    parts = [part for piece in range(3) for part, _ in Updates(x, y, steps=2, **kwargs)(piece)]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    plain = [part for part, _ in Updates(x, y, size=4, seed=3, steps=6)(0)]
    assert not any(torch.equal(a, b) for a, b in zip(whole, plain, strict=True))
    same = [part for part, _ in Updates(x[:1].expand(4, -1, -1, -1), y[:4], steps=2, **kwargs)(0)]
    assert not torch.equal(same[0], same[1])  # each update draws anew


@pytest.mark.usefixtures("quick")
def test_a_study_is_kept_found_again_and_grows_by_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    first = run_robust_features(TINY, out=tmp_path, progress=lambda what, *_: told.append(what))
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    table = first.tables["digits: clean accuracy, and what the cascade (quick) leaves"]
    assert [row["network, or set it was trained on"] for row in table] == [*sets.ENCODERS, *sets.TRAINED_ON]
    assert [row["l2 0.8"] == "" for row in table] == [False] * 9 + [True]  # shuffled labels are not attacked
    made = [first.tables[f"digits: sets of {kind} images"] for kind in ("rebuilt", "moved")]
    assert [[row["set"] for row in rows] for rows in made] == [[*sets.ENCODER_OF_SET], [sets.D_RAND, sets.D_DET]]
    assert {row["images"] for rows in made for row in rows} == {60}
    assert {row["radius"] for row in made[1]} == {8.0}
    assert len(first.claims) == 13
    looked = first.tables["digits: alignment of gradients with images"]
    assert [row["network, or set it was trained on"] for row in looked] == [*sets.ATTACKED]
    assert [p.title for p in first.pictures] == ["digits: images of each set", "digits: under attack"]
    assert all(Image.open(io.BytesIO(base64.b64decode(p.png))).size[0] > 100 for p in first.pictures)
    assert "features that predict" in render_study(tmp_path).read_text()
    assert {"digits, seed 0, training, robust set", "digits, seed 0, d-rand"} <= {*told}
    # What is kept can be used elsewhere.
    hardened = load_model(tmp_path / "networks/digits-0/hardened.pt")
    load_features(tmp_path / "sets/digits-0/robust_set.npz", encoder=hardened.module)
    kept = {p: p.read_bytes() for p in (tmp_path / "units").rglob("*.json")}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("done twice")

    with monkeypatch.context() as patch:
        for name in ("attack", "align", "measure_network", "measure_set", "draw"):
            patch.setattr(units, name, never)
        patch.setattr(benches, "smallest_threat", never)
        again = run_robust_features(TINY, out=tmp_path)
    assert again.tables == first.tables
    more = run_robust_features(TINY, out=tmp_path, seeds=(0, 1), data=["digits"])
    assert all(p.read_bytes() == was for p, was in kept.items())  # another seed changes nothing of the first
    assert next(iter(more.tables.values())) != table
    assert len(more.tables["digits: networks"]) == 20
    with pytest.raises(BadInput, match="no data set 'mnist'; it has digits"):
        run_robust_features(TINY, out=tmp_path, data=["mnist"])
    with pytest.raises(BadInput, match="holds another run"):
        run_robust_features(replace(TINY, gradients=6), out=tmp_path)


def test_a_network_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FeatureBench(TASK, TINY, 0).network(sets.HARDENED)

    class Killed(Exception):
        pass

    def kill(what: str, done: int, of: int) -> None:
        if done == 1:
            raise Killed

    with pytest.raises(Killed):
        FeatureBench(TASK, TINY, 0, folder=tmp_path, progress=kill).network(sets.HARDENED)
    parts = FeatureBench(TASK, TINY, 0, folder=tmp_path).network(sets.HARDENED)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_colour_network_that_is_read_computes_what_the_trained_one_did(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "colour.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    task = replace(TASK, source=str(tmp_path / "colour.npz"), natural=2)
    size = replace(TINY, tasks=(task,), held_out=10, rebuilt=20, train_n=None, test_n=None)
    first, second = (FeatureBench(task, size, 0, folder=tmp_path / "out").network(sets.NATURAL) for _ in range(2))
    strides = [[w.stride() for w in net.parameters()] for net in (first, second)]
    assert strides[0] == strides[1]  # in another order of memory, other sums
    image = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
    assert torch.equal(first(image), second(image))


def test_the_scales_are_what_the_issue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in SCALES.values():
        assert all(task.threat.norm == 2 for task in size.tasks)
        assert size.effort in EFFORTS
        assert f"source={size.tasks[0].source!r}" in size.settings()["tasks"][0]
    assert [task.source for task in SCALES["medium"].tasks] == ["mnist", "fashion-mnist"]
    assert SCALES["medium"].robust_n == 1000
    assert SCALES["full"].rebuilt + SCALES["full"].held_out == 60_000
    with pytest.raises(BadInput, match="no scale 'tiny'; there are small, medium, full"):
        run_robust_features("tiny")
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="UNFOOLED_DATA"):
        run_robust_features("medium")
