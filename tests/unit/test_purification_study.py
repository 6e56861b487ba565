"""The study of purification: attacks that know the purifier, figures with known answers, claims that follow them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.gradients import identity
from unfooled.cli.study import print_claims
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf, Threat
from unfooled.features import Encoder
from unfooled.purification import SemanticPurifier, bit_depth, fit_purifier, jpeg, resized
from unfooled.purification.clusters import Clusters, fit_clusters
from unfooled.report.study_page import render_study
from unfooled.runs.records import read_record
from unfooled.statistics.roc import area, hits_at, roc
from unfooled.studies.common.records import StudySummary
from unfooled.studies.purification import run_purification, study
from unfooled.studies.purification.bench import SETTINGS, PurificationBench, Refitting
from unfooled.studies.purification.claims import claims
from unfooled.studies.purification.figures import Grid, interval, minus
from unfooled.studies.purification.judging import (
    BLACK,
    BPDA,
    CLEAN,
    END,
    LOW,
    STATIC,
    TRANSFER,
    WORST,
    Defence,
    attacked,
    judged,
    without_purifier,
    worst_points,
)
from unfooled.studies.purification.pictures import clusters
from unfooled.studies.purification.scale import (
    AT,
    CLASSICAL,
    LATENT,
    NONE,
    OWN_SRD,
    RANDOM,
    REFITTED,
    RESIZED,
    SCALES,
    SMOKE,
    SRD,
    STANDARD,
    SWEPT,
    THROUGH,
    TRADES,
)
from unfooled.studies.purification.units import Judged, Results, _left, unseen_changes

FEW = replace(
    SMOKE,
    n=8,
    few=4,
    networks=(STANDARD, AT, LATENT),
    purifiers=(NONE, RESIZED, SRD),
    queries=3,
    steps=2,
    swept=(REFITTED,),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudySummary]:
    folder = tmp_path_factory.mktemp("purification")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unfooled.studies.purification.units.EXTRA", ())
        for name in ("SHOWN", "ATOMS", "DICTIONARIES"):
            patch.setattr(f"unfooled.studies.purification.pictures.{name}", 2)
        return folder, run_purification(FEW, out=folder, command="unfooled study purification")


def test_the_study_runs_and_is_found_again(done: tuple[Path, StudySummary], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, summary = done
    assert read_record(folder / "summary.json", StudySummary) == summary
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr("unfooled.studies.purification.units.EXTRA", ())
    again = run_purification(FEW, out=folder, command="unfooled study purification", progress=lambda *a: seen.append(a))
    assert again.claims == summary.claims
    assert again.tables == summary.tables
    page = render_study(folder).read_text()
    assert "plain PGD-AT at equal compute under the worst attack" in page
    with pytest.raises(BadInput, match="few"):
        run_purification(replace(FEW, few=5), out=folder)


def test_the_first_line_answers_the_question(
    done: tuple[Path, StudySummary], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = done
    first = summary.claims[0]
    assert "beats plain PGD-AT at equal compute under the worst attack" in first.claim
    word = {"holds": "Something beats", "fails": "Nothing beats", "undecided": "Nothing surely beats"}[first.verdict]
    assert summary.answer[0].startswith(f"digits: {word} plain PGD-AT at equal compute under the worst attack")
    page = render_study(folder).read_text()
    assert page.index(str(escape(summary.answer[0]))) < page.index("Of ") < page.index('id="claims"')
    print_claims(summary)
    assert " ".join(capsys.readouterr().out.split()).startswith(summary.answer[0])


def test_every_claim_of_the_paper_is_answered_static_and_adaptive(done: tuple[Path, StudySummary]) -> None:
    _, summary = done
    texts = [claim.claim for claim in summary.claims]
    for words in ("is more accurate than PGD-AT alone", "beat the global", "adds accuracy to the network behind SRD",
                  "purifiers of other networks", "digits, l2"):  # fmt: skip
        assert {("static" in t, "adaptive" in t) for t in texts if words in t} == {(True, False), (False, True)}, words
    assert [t for t in texts if "digits, shifts" in t and "natural" in t] == [t for t in texts if "digits, shifts" in t]
    assert any("of the perturbation" in text for text in texts)
    assert all(claim.n > 0 or claim.verdict == "undecided" for claim in summary.claims)


def test_tables_and_pictures(done: tuple[Path, StudySummary]) -> None:
    _, summary = done
    grid = summary.tables["digits: accuracy at eps 0.2"]
    assert [(row["network"], row["purifier"]) for row in grid] == [
        *((net, one) for net in FEW.networks for one in (*FEW.purifiers, *[OWN_SRD] * (net == LATENT))),
        (REFITTED, NONE), (REFITTED, SRD),
    ]  # fmt: skip
    assert {row["network"] for row in summary.tables["digits: networks"]} >= {*FEW.networks, REFITTED}
    transfer = next(rows for title, rows in summary.tables.items() if "other networks" in title)
    assert len(transfer) == 9
    randoms = next(rows for title, rows in summary.tables.items() if "random purifiers" in title)
    assert {row["purifier"] for row in randoms} == {RESIZED}
    titles = [picture.title for picture in summary.pictures]
    for words in ("worst attack", "detection", "bands", "clusters", "atoms", "after, worst", "after, random"):
        assert any(words in title for title in titles), words


def test_nothing_survives_in_the_whole_box() -> None:
    net, x = tiny_net(), points(6, (1, 6, 5))
    with torch.no_grad():
        y = net(x).argmax(1)
    one = Defence(net, partial(bit_depth, bits=4), steps=10, queries=20, few=6)
    found = judged(one, x, y, Linf(1.0), attacked(one, x, y, Linf(1.0)))
    assert found[WORST].max() == 0
    assert found[CLEAN].min() == 0 or found[CLEAN].mean() > 0.5


def test_worst_is_the_union_and_attacks_are_those_that_apply() -> None:
    net, x = tiny_net(), points(8, (1, 8, 8))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = Linf(0.1)
    bare = Defence(net, identity, steps=5)
    assert set(attacked(bare, x, y, threat)) == {CLEAN, STATIC, f"{LOW} 5", f"{LOW} 1"}
    for purify, more in ((partial(jpeg, quality=50), True), (partial(resized, smallest=0.8), False)):
        one = Defence(net, purify, random=not more, steps=5, queries=10, few=4, draws=2, submissions=3, twin=net)
        made = attacked(one, x, y, threat)
        assert (f"{BPDA} identity" in made) is more
        assert (f"{BLACK} square" in made) is more
        assert f"{BLACK} transfer" in made
        assert all((z - x).abs().max() <= 0.1 + 1e-6 for z in made.values())
        assert torch.equal(made[f"{BLACK} transfer"][4:], x[4:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = judged(one, x, y, threat, made)
        others = torch.stack([v for k, v in found.items() if k != WORST]).amin(0)
        assert torch.equal(found[WORST], others) or one.random
        assert END in found
        if more:
            assert set(found[WORST].tolist()) <= {0.0, 1.0}
        else:
            assert {round(3 * v, 6) % 1 for v in found[WORST].tolist()} == {0.0}


def noisy(x: Tensor) -> Tensor:
    """Add noise that moves many answers."""
    return (x + 0.45 * torch.randn_like(x)).clamp(0, 1)


def test_submissions_of_one_point_are_no_attack() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    x = points(300, (1, 8, 8), dtype=torch.float32)
    with torch.no_grad():
        y = net(x).argmax(1)
    one = Defence(net, noisy, random=True)
    same = {name: x for name in (CLEAN, STATIC, END, f"{LOW} 5", f"{LOW} 1")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {kind: float(share.mean()) for kind, share in judged(one, x, y, Linf(0.1), same).items()}
    assert 0.4 < found[CLEAN] < 0.9
    assert all(value == pytest.approx(found[CLEAN], abs=0.04) for value in found.values()), found


def test_the_worst_point_of_a_random_purifier_is_submitted_anew() -> None:
    x, y = torch.rand(50, 1, 4, 4), torch.zeros(50, dtype=torch.int64)
    one = Defence(brightness, noisy, random=True, submissions=4)
    calls: list[Tensor] = []

    def right(x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> Tensor:
        calls.append(z)
        odd = torch.arange(50).double() % 2
        return odd if torch.equal(z, x) else 1 - odd

    found, worst = worst_points(one, x, y, Linf(1.0), {CLEAN: x, STATIC: 1 - x}, right)
    assert len(calls) == 3  # each point, and the worst of both
    assert torch.equal(worst[::2], x[::2])
    assert torch.equal(worst[1::2], 1 - x[1::2])
    assert torch.equal(found[CLEAN], torch.arange(50).double() % 2)


def test_the_worst_of_a_random_purifier_is_at_most_each_of_its_attacks() -> None:
    n = 400
    x, y = torch.rand(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64)
    names = {CLEAN: 0.6, STATIC: 0.6, f"{LOW} 5": 0.55, END: 0.4}
    made = {name: torch.full_like(x, k / 8) for k, name in enumerate(names)}
    rates = {k / 8: rate for k, rate in enumerate(names.values())}
    source = torch.Generator().manual_seed(0)

    def right(x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> Tensor:
        rate = torch.tensor([rates[float(v)] for v in z[:, 0, 0, 0]], dtype=torch.float64)
        return torch.binomial(torch.full((n,), 4.0, dtype=torch.float64), rate, generator=source) / 4

    one = Defence(brightness, noisy, random=True, submissions=4)
    found = judged(one, x, y, Linf(1.0), made, right)
    assert float(found[WORST].mean()) == pytest.approx(0.4, abs=0.04)
    assert all(found[WORST].mean() <= value.mean() for value in found.values())


def test_what_is_left_of_a_perturbation_is_of_the_same_draws() -> None:
    x = 0.25 + 0.5 * points(20, (1, 8, 8), dtype=torch.float32)
    z = x + 0.02 * points(20, (1, 8, 8), seed=1, dtype=torch.float32).sub(0.5).sign()
    own = torch.Generator().manual_seed(0)
    drawn: list[Any] = [
        lambda x: x + 0.05 * torch.randn_like(x),
        lambda x: x + 0.05 * torch.from_numpy(np.random.randn(*x.shape)).to(x),  # noqa: NPY002
    ]
    for purify in drawn:
        left = _left(Defence(brightness, purify, random=True), x, z)
        assert left.median() == pytest.approx(1.0, abs=1e-3)
    unknown = Defence(brightness, lambda x: x + 0.05 * torch.randn(x.shape, generator=own), random=True)
    assert _left(unknown, x, z).isnan().all()


def test_a_random_cluster_is_never_the_own_one() -> None:
    bench = PurificationBench(FEW.tasks[0], FEW, 0)
    own, other = bench.semantic().dictionaries, bench.purifier(RANDOM)
    assert isinstance(other, SemanticPurifier)
    assert len(own) > 2
    assert not any(torch.equal(a, b) for a, b in zip(own, other.dictionaries, strict=True))
    assert {tuple(a.flatten().tolist()) for a in own} == {tuple(a.flatten().tolist()) for a in other.dictionaries}


def brightness(x: Tensor) -> Tensor:
    """Logits of two classes, dark and bright, by the mean of an image."""
    mean = x.flatten(1).mean(1)
    return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_an_attack_faces_the_samples_that_those_of_its_kind_left() -> None:
    x, y = torch.linspace(0.1, 0.9, 8)[:, None, None, None].expand(8, 1, 4, 4).clone(), torch.arange(8) % 2
    seen: list[int] = []
    weak = Defence(brightness, identity)

    def first(x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(x)  # fools class 1

    def second(x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator) -> Tensor:
        seen.append(len(x))
        return (x + 0.3).clamp(0, 1)  # fools the brighter ones of class 0

    whole = Linf(1.0)
    made = weak.in_turn({f"{BPDA} a": first, f"{BPDA} b": second}, x, y, whole)
    alone = {f"{BPDA} a": torch.zeros_like(x), f"{BPDA} b": (x + 0.3).clamp(0, 1)}
    assert seen == [2]  # of class 0, and right when clean
    found = judged(weak, x, y, whole, made)[BPDA]
    assert found.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert torch.equal(found, judged(weak, x, y, whole, alone)[BPDA])
    before = weak.in_turn({f"{BPDA} b": second}, x, y, whole, {f"{BPDA} a": torch.zeros_like(x)})
    assert seen == [2, 2]
    assert torch.equal(before[f"{BPDA} b"], made[f"{BPDA} b"])
    replace(weak, random=True, submissions=2).in_turn({"a": first, "b": second}, x, y, whole)
    assert seen[-1] == len(x)


def test_points_that_do_not_depend_on_the_purifier_are_shared() -> None:
    net, x = tiny_net(), points(6, (1, 6, 5))
    with torch.no_grad():
        y = net(x).argmax(1)
    one = Defence(net, partial(bit_depth, bits=4), steps=3, queries=5, few=4, twin=tiny_net())
    shared = without_purifier(one, x, y, Linf(0.1))
    own, again = attacked(one, x, y, Linf(0.1)), attacked(one, x, y, Linf(0.1), shared)
    assert set(shared) == {STATIC, TRANSFER}
    assert again[STATIC] is shared[STATIC]
    assert all(torch.equal(own[name], again[name]) for name in own)


def judgement(network: str, purifier: str, **columns: Sequence[float]) -> Judged:
    named: dict[str, list[float | None]] = {}
    for name, values in columns.items():
        attack, _, eps = name.rpartition("_")
        named[f"{attack}, {eps}"] = list(values)
    return Judged(
        seed=0, network=network, purifier=purifier, setting="", columns=named, sure={}, assigned={}, left={}, seconds=0
    )


def test_points_are_carried_over_and_rises_are_named() -> None:
    rows = [
        judgement(AT, NONE, worst_1=[1, 1, 0, 1], worst_2=[1, 0, 1, 1]),
        judgement(AT, SRD, worst_1=[0, 0, 0, 0], worst_2=[1, 0, 0, 0]),
    ]
    grid = Grid(rows, (1.0, 2.0))
    assert grid.column(AT, NONE, WORST, 2.0)[0].tolist() == [1, 0, 0, 1]
    assert grid.column(AT, SRD, WORST, 2.0)[0].tolist() == [0, 0, 0, 0]
    assert grid.share(AT, NONE, WORST, 2.0).value == 0.5
    assert grid.gap((AT, SRD), (AT, NONE), WORST, 1.0).value == -0.75
    assert grid.raw_rises() == [f"{AT} behind {SRD}"]


def test_comparisons_leave_out_a_black_box_that_one_side_did_not_face() -> None:
    rows = [
        judgement(AT, SRD, clean_1=[1, 1, 1, 1], **{"black box_1": [0, 0, 1, 1], "worst_1": [0, 0, 1, 1]}),
        judgement(AT, RESIZED, clean_1=[1, 1, 1, 0], worst_1=[1, 1, 1, 0]),
        judgement(AT, NONE, clean_1=[1, 1, 1, 0], **{"black box_1": [1, 1, 1, 0], "worst_1": [1, 1, 1, 0]}),
    ]
    grid = Grid(rows, (1.0,))
    assert grid.gap((AT, SRD), (AT, RESIZED), WORST, 1.0).value == 0.25
    assert grid.gap((AT, SRD), (AT, NONE), WORST, 1.0).value == -0.25


def test_the_best_arm_is_not_judged_on_the_images_that_chose_it() -> None:
    lucky, good, base = [1, 0] * 20, [0.0, 1] * 20, [0, 0] * 20
    rows = [
        judgement(AT, NONE, worst_1=base),
        judgement(AT, SRD, worst_1=lucky),
        judgement(LATENT, NONE, worst_1=good),
    ]
    cell, gap = Grid(rows, (1.0,)).best(1.0, AT, [(AT, SRD), (LATENT, NONE)])
    assert cell == (AT, SRD)
    assert (gap.value, gap.n) == (0.0, 20)


def results(static: float, adaptive: float) -> Results:
    """Forty images of which so many are right behind the purifier, and half without it."""

    def right(share: float) -> list[float]:
        return [float(i < 40 * share) for i in range(40)]

    bare = {"static_0.2": right(0.5), "worst_0.2": right(0.5), "static_1": right(0), "worst_1": right(0)}
    own = {
        "static_0.2": right(static),
        "end to end_0.2": right(adaptive),
        "worst_0.2": right(adaptive),
        "static_1": right(0),
        "worst_1": right(0),
    }
    rows = [judgement(net, NONE, **bare) for net in (AT, LATENT)] + [judgement(LATENT, SRD, **own)]
    return Results(SMOKE.tasks[0], [], rows, [], [], [], [], [])


def test_a_static_gain_and_an_adaptive_loss_are_two_verdicts() -> None:
    decided = {c.claim: c for c in claims(results(0.9, 0.1)) if "is more accurate than PGD-AT alone" in c.claim}
    verdicts = {("static" in text): claim.verdict for text, claim in decided.items()}
    assert verdicts == {True: "holds", False: "fails"}
    sound = next(c for c in claims(results(0.9, 0.1)) if "no image survives" in c.claim)
    assert sound.verdict == "holds"
    assert claims(results(0.5, 0.5))[0].verdict != "holds"


def test_cells_of_some_seeds_only_are_counted_where_they_are() -> None:
    found = results(0.9, 0.1)
    more = found.grid[0].model_copy(update={"seed": 1})
    sound = next(c for c in claims(replace(found, grid=[*found.grid, more])) if "no image survives" in c.claim)
    assert (sound.verdict, sound.value, sound.n) == ("holds", 1.0, 80)
    first = next(c for c in claims(replace(found, grid=[more, *found.grid])) if "no image survives" in c.claim)
    assert first.n == 80


def test_areas_and_rates() -> None:
    clean, attacked_ = np.array([0.0, 1, 2, 3]), np.array([2.0, 3, 4, 5])
    assert area(clean, attacked_) == pytest.approx((2.5 + 3.5 + 4 + 4) / 16)
    assert area(clean, clean) == 0.5
    assert hits_at(clean, attacked_) == 0.5
    false, true = roc(clean, attacked_)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(area(clean, attacked_))


def test_differences_are_paired() -> None:
    a, b = {0: np.array([1.0, 1, 0]), 1: np.array([1.0])}, {0: np.array([1.0, 0, 0])}
    assert minus(a, b)[0].tolist() == [0, 1, 0]
    assert list(minus(a, b)) == [0]
    assert interval({}).n == 0


def test_purifiers_are_fitted_to_the_first_images() -> None:
    bench = PurificationBench(SMOKE.tasks[0], replace(FEW, fit_n=60), 0)
    assert (bench.semantic().about["n"], len(bench.train[0])) == (60, FEW.train_n)


def test_clusters_are_fitted_anew_to_the_latents_of_the_network_in_training() -> None:
    net, fits = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3)).train(), list[Tensor]()
    x, y = torch.rand(12, 1, 2, 2), torch.arange(12) % 2

    def fit(latents: Tensor, labels: Tensor, generator: torch.Generator) -> Clusters:
        fits.append(latents)
        return fit_clusters(latents, labels, max_clusters=1, min_size=2, generator=generator)

    own = Refitting(Encoder(net, "1"), x, y, fit, seed=0, every=2)
    for update in range(5):
        k = own.assign(x[:4], y[:4])
        assert len(fits) == update // 2 + 1
        assert torch.equal(own.clusters.label[k], y[:4])  # type: ignore[union-attr]
        if update % 2 == 0:
            assert torch.allclose(fits[-1], net[1](x.flatten(1)))
        with torch.no_grad():
            next(net.parameters()).add_(1)
    assert not any(latents.requires_grad for latents in fits)
    assert net.training
    assert int(net[2].num_batches_tracked) == 0  # type: ignore[arg-type]
    z = torch.rand(4, 3, requires_grad=True)
    own.distance(z, k).sum().backward()
    assert z.grad is not None


def test_the_swept_networks_have_their_weight() -> None:
    bench = PurificationBench(SMOKE.tasks[0], FEW, 0)
    refitting = partial(bench._refitting, bench.network(STANDARD), every=1)
    losses: dict[str, Any] = {name: bench._loss(name, 3, refitting) for name in (LATENT, *SWEPT)}
    assert {name: ramp.loss.weight for name, ramp in losses.items()} == {LATENT: FEW.weight, **SWEPT}
    assert {FEW.weight, *SWEPT.values()} == {0.1, 0.3, 1}


def test_a_lossy_high_band_is_said() -> None:
    def notes(source: str) -> Sequence[str]:
        return study.purification_findings([replace(nothing, task=replace(nothing.task, source=source))]).notes

    nothing = Results(SMOKE.tasks[0], [], [], [], [], [], [], [])
    assert sum("JPEG files" in note for note in notes("cifar10")) == 1
    assert not any("JPEG files" in note for note in notes("mnist"))


def test_scales_and_settings_name_what_there_is() -> None:
    assert [task.source for task in SCALES["medium"].tasks] == ["mnist", "fashion-mnist", "gtsrb", "cifar10"]
    assert set(SETTINGS) == {*CLASSICAL, RESIZED} - {"autoencoder"}
    assert all(size.tasks and size.few <= size.n for size in (*SCALES.values(), SMOKE))
    assert TRADES in SCALES["medium"].networks
    assert all(THROUGH in size.networks for size in SCALES.values())
    bench = PurificationBench(SMOKE.tasks[0], SMOKE, 0)
    assert {"l2", "l1", "low frequency", "shifts"} <= set(unseen_changes(bench))
    assert study.NAME == "purification"


def images_by_class(folder: Path) -> Path:
    """Grey photos of digits as files, in folders train and test with one folder for each class."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    for split, rows in (("train", range(200)), ("test", range(200, 240))):
        for row in rows:
            place = folder / split / str(data.target[row])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((data.images[row] * 15).astype("uint8")).resize((12, 12)).save(place / f"{row}.png")
    return folder


def test_a_folder_of_ones_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images_by_class(tmp_path / "photos")
    own = replace(SMOKE.tasks[0], source="", image=8)
    size = replace(FEW, networks=(STANDARD,), purifiers=(NONE, "median"), own=own)
    monkeypatch.setattr("unfooled.studies.purification.units.EXTRA", ())
    monkeypatch.setattr("unfooled.studies.purification.units.THREE", (STANDARD,), raising=False)
    summary = run_purification(size, data=[str(photos)], out=tmp_path / "run")
    assert any(title.startswith("photos: accuracy at eps") for title in summary.tables)
    assert {"networks", "units", "config.json", "summary.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in photos.iterdir()} == {"train", "test"}  # nothing is written beside the images
    with pytest.raises(BadInput, match="this scale has no data set 'nowhere'"):
        run_purification(size, data=["nowhere"])


def test_data_sets_on_request_are_looked_at_only_where_they_are_named() -> None:
    small = SCALES["small"]
    assert [task.source for task in small.asked(None).tasks] == ["digits", "mnist"]
    assert [task.source for task in small.asked(["gtsrb"]).tasks] == ["digits", "mnist", "gtsrb"]
    assert [task.source for task in small.asked(["cifar10"]).tasks] == ["digits", "mnist", "cifar10"]
    assert small.asked(["mnist"]).settings() == small.asked(None).settings()
    known = "give digits, mnist, fashion-mnist, gtsrb, cifar10, or a folder"
    with pytest.raises(BadInput, match=f"{known}.*did you mean gtsrb"):
        small.asked(["gtsrs"])


def test_many_classes_leave_room_for_the_clusters(recwarn: pytest.WarningsRecorder) -> None:
    x, y = points(172, (1, 8, 8), seed=1), torch.arange(43).repeat(4)
    purify = fit_purifier(lambda z: z.flatten(1), x, y, seed=0, atoms=2, size=4, min_size=10)
    png = b64decode(clusters(purify, x, y, title="").png)
    assert not [w for w in recwarn.list if "constrained_layout" in str(w.message)]
    assert Image.open(BytesIO(png)).width > 700
