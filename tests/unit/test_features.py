"""Rebuilt data sets: what is in them, how they are shared between processes, stored and cleaned."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.ndimage import binary_opening
from scipy.stats import chi2_contingency, chisquare
from tests.conftest import points
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks.pgd import pgd
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import L2
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features, stored, to_bytes
from unfooled.features.cleaning import open_mask
from unfooled.features.datasets import GREY, NOISE, d_det, d_rand, non_robust_set, robust_set, smallest_threat
from unfooled.features.inversion import Encoder
from unfooled.features.making import Search, Storage
from unfooled.runs import store
from unfooled.runs.hashes import weights_hash


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 4))


def bumped(layer: nn.Module) -> None:
    """Change the weights a little."""
    for weight in layer.parameters():
        weight.data += 1


NET = net()
ENCODE = Encoder(NET, "1")
X, Y = points(40, (1, 6, 6)), torch.arange(40) % 4
FEW = partial(pgd, steps=5, stop=False)
ONE, THREE = Search(steps=1), Search(steps=3)


def test_a_rebuilt_set_looks_to_the_encoder_as_its_source() -> None:
    made = robust_set(ENCODE, X, Y, search=Search(tol=0.03))
    assert made.x.shape == X.shape
    assert torch.equal(made.y, Y)
    assert torch.equal(made.source, torch.arange(40))
    assert torch.equal((made.x * 255).round() / 255, made.x)
    off = (ENCODE(made.x) - ENCODE(X)).norm(dim=1) / ENCODE(X).norm(dim=1)
    torch.testing.assert_close(off.detach().half(), made.residual, atol=1e-4, rtol=0)
    assert made.manifest["reached"] == 1
    assert made.residual.median() < 0.04
    assert (made.x - X[made.start]).flatten(1).norm(dim=1).mean() < (made.x - X).flatten(1).norm(dim=1).mean()
    assert made.manifest["encoder"] == weights_hash(NET)
    quantiles = made.manifest["residual"]
    assert quantiles["before_rounding"]["0.95"] <= 0.03
    assert quantiles["stored"]["0.5"] == pytest.approx(float(made.residual.float().median()), abs=2e-3)


def test_starts_are_other_rows_whatever_their_label() -> None:
    x = points(200, (1, 6, 6))
    made = robust_set(ENCODE, x, torch.arange(200) % 4, search=ONE)
    assert (made.start != made.source).all()
    assert made.start.min() >= 0
    assert made.start.max() <= 199
    assert made.start.unique().numel() > 100
    same = (made.start % 4 == made.source % 4).float().mean()
    assert 0.1 < same < 0.4
    few = [robust_set(ENCODE, x[:4], Y[:4], search=ONE, seed=seed).start.tolist() for seed in range(20)]
    assert {(i, j) for start in few for i, j in enumerate(start)} == {
        (i, j) for i in range(4) for j in range(4) if i != j
    }
    for kind, code in (("noise", NOISE), ("grey", GREY)):
        assert (robust_set(ENCODE, X, Y, search=ONE, start=kind).start == code).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    whole = robust_set(ENCODE, X, Y, seed=5)
    rows = torch.tensor([7, 3, 31])
    part = robust_set(ENCODE, X, Y, seed=5, index=rows, search=Search(batch=2), storage=Storage(chunk=2))
    for name in ("x", "y", "source", "start", "residual"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows])
    assert not torch.equal(robust_set(ENCODE, X, Y, seed=6).start, whole.start)
    moved, some = d_rand(NET, X, Y, L2(1), attack=FEW), d_rand(NET, X, Y, L2(1), attack=FEW, index=rows)
    assert torch.equal(moved.y[rows], some.y)
    assert torch.equal(moved.x[rows], some.x)


def test_the_non_robust_set_is_the_same_function() -> None:
    a, b = robust_set(ENCODE, X, Y, search=THREE), non_robust_set(ENCODE, X, Y, search=THREE)
    assert torch.equal(a.x, b.x)
    assert (a.manifest["kind"], b.manifest["kind"]) == ("robust", "non-robust")


def test_targets_of_d_rand_are_uniform_and_independent_of_the_label() -> None:
    x = points(4000, (4,))
    y = torch.arange(4000) % 4
    made = d_rand(nn.Linear(4, 4), x, y, L2(0.1), attack=lambda model, x, y, threat, **_: x)
    counts = torch.bincount(made.y, minlength=4).tolist()
    assert chisquare(counts).pvalue > 0.01
    table = np.zeros((4, 4))
    np.add.at(table, (y.numpy(), made.y.numpy()), 1)
    assert chi2_contingency(table).pvalue > 0.01
    assert table.min() > 150  # its own label is a target too


def test_d_det_takes_the_next_class_and_moves_towards_it() -> None:
    made = d_det(NET, X, Y, L2(3), attack=FEW)
    assert torch.equal(made.y, (Y + 1) % 4)
    assert torch.equal(made.start, made.source)
    hit = NET(made.x).argmax(1) == made.y
    assert torch.equal(hit, made.residual < 0)
    assert made.manifest["reached"] == pytest.approx(float(hit.float().mean()))
    assert hit.float().mean() > 0.5
    assert (L2(3).size(made.x - X) <= 3 + 0.5 / 255 * 6).all()
    assert made.manifest["options"]["steps"] == "5"


def test_the_smallest_threat_that_does_is_chosen() -> None:
    threats = [L2(0.01), L2(2.0), L2(4.0), L2(6.0)]
    chosen, found = smallest_threat(NET, X, Y, threats, attack=FEW, kind="d-det", share=0.5)
    assert chosen is threats[len(found) - 1]
    assert found[-1] >= 0.5
    assert all(share < 0.5 for share in found[:-1])
    assert len(found) > 1
    assert smallest_threat(NET, X, Y, threats[:1], attack=FEW, share=1.0)[0] is threats[0]


def test_a_set_resumes_from_its_chunks(tmp_path: Path) -> None:
    whole = robust_set(ENCODE, X, Y, storage=Storage(chunk=15))
    kept = robust_set(ENCODE, X, Y, storage=Storage(tmp_path, 15))
    (tmp_path / "chunks/robust/15-30.safetensors").unlink()
    again = robust_set(ENCODE, X, Y, storage=Storage(tmp_path, 15))
    assert torch.equal(kept.x, whole.x)
    assert torch.equal(again.x, whole.x)
    assert {**kept.manifest, "seconds": 0} == {**whole.manifest, "seconds": 0}
    shards = [safetensors.torch.load_file(file)["seconds"].sum() for file in tmp_path.rglob("*.safetensors")]
    assert again.manifest["seconds"] == pytest.approx(float(sum(shards)))  # those of the earlier start, too
    with pytest.raises(BadInput, match="holds another run: seed was 0, now it is 1"):
        robust_set(ENCODE, X, Y, seed=1, storage=Storage(tmp_path))
    other = net()
    bumped(other[1])
    with pytest.raises(BadInput, match="holds another run: encoder"):
        robust_set(Encoder(other, "1"), X, Y, storage=Storage(tmp_path))


def test_residuals_are_those_of_what_cleaning_leaves() -> None:
    clean = partial(open_mask, threshold=0.5)
    made = robust_set(ENCODE, X, Y, search=Search(steps=20), clean=clean)
    assert torch.equal(made.x, clean(robust_set(ENCODE, X, Y, search=Search(steps=20)).x))
    off = (ENCODE(made.x) - ENCODE(X)).norm(dim=1) / ENCODE(X).norm(dim=1)
    torch.testing.assert_close(off.detach().half(), made.residual, atol=1e-3, rtol=0)
    assert made.manifest["cleaned"] == {"called": "open_mask", "threshold": 0.5}
    moved = d_det(NET, X, Y, L2(3), attack=FEW, clean=clean)
    assert torch.equal(NET(moved.x).argmax(1) == moved.y, moved.residual < 0)
    assert moved.manifest["reached"] == pytest.approx(float((moved.residual < 0).float().mean()))


def test_moved_sets_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    batches = [partial(pgd, steps=5, stop=False, batch=batch) for batch in (7, 40, None)]
    kept = [d_rand(NET, X, Y, L2(1), attack=attack) for attack in batches]
    assert torch.equal(kept[0].x, kept[1].x)
    assert torch.equal(kept[0].x, kept[2].x)
    assert {**kept[0].manifest, "seconds": 0} == {**kept[1].manifest, "seconds": 0}
    d_rand(NET, X, Y, L2(1), attack=batches[0], storage=Storage(tmp_path))
    d_rand(NET, X, Y, L2(1), attack=batches[1], storage=Storage(tmp_path))
    with pytest.raises(BadInput, match="options: steps was '5', now it is '6'"):
        d_rand(NET, X, Y, L2(1), attack=partial(pgd, steps=6, stop=False), storage=Storage(tmp_path))


def test_moved_sets_are_made_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watch(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    model = net().eval()
    model.register_forward_pre_hook(watch)
    monkeypatch.setattr("unfooled.features.datasets.fitting_batch", lambda *_, **__: 7)
    few = d_rand(model, X, Y, L2(1.0), attack=FEW, kind="d-det")
    assert largest == 7
    given = d_rand(model, X, Y, L2(1.0), attack=partial(FEW, batch=9), kind="d-det")
    assert largest == 9
    assert torch.equal(few.x, given.x)
    assert few.manifest["seconds"] > 0


def test_a_finished_set_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    kept = save_features(tmp_path / "a.npz", robust_set(ENCODE, X, Y, search=THREE))
    read = Storage(finished=load_features(tmp_path / "a.npz"))
    assert robust_set(ENCODE, X, Y, search=THREE, storage=read).manifest == kept.manifest
    with pytest.raises(BadInput, match="has other settings: steps was 3, now it is 4"):
        robust_set(ENCODE, X, Y, search=Search(steps=4), storage=Storage(finished=kept))
    with pytest.raises(BadInput, match="has other settings: cleaned was None, now it is"):
        robust_set(ENCODE, X, Y, search=THREE, clean=open_mask, storage=Storage(finished=kept))
    with pytest.raises(BadInput, match="has other settings: classes was"):
        robust_set(ENCODE, X, Y, search=THREE, classes=["a", "b", "c", "d"], storage=Storage(finished=kept))


@pytest.fixture(scope="module")
def made() -> FeatureSet:
    y = torch.arange(40) % 12  # 12 classes: as text, "10" stands before "2"
    return robust_set(ENCODE, X, y, search=Search(steps=10), classes=[str(k) for k in range(12)])


@pytest.mark.parametrize("name", ["set.npz", "folder"])
def test_what_is_written_is_read(made: FeatureSet, tmp_path: Path, name: str) -> None:
    kept = save_features(tmp_path / name, made, {"title": "a test"})
    found = uf.load_features(tmp_path / name)
    for field in ("x", "y", "source", "start", "residual"):
        assert torch.equal(getattr(found, field), getattr(made, field)), field
        assert getattr(found, field).dtype == getattr(made, field).dtype
    assert found.classes == made.classes
    assert found.manifest == kept.manifest
    assert found.manifest["title"] == "a test"
    assert {"kind", "seed", "encoder", "layer", "relu", "rule", "steps", "tol", "threat", "data", "versions"} <= set(
        found.manifest
    )
    x, y = uf.load_data(tmp_path / name, "train", shuffle=True, seed=1)
    match = (x[:, None] == made.x[None]).flatten(2).all(2)
    assert (match.sum(1) == 1).all()
    assert torch.equal(made.y[match.int().argmax(1)], y)


def test_bytes_are_the_nearest() -> None:
    assert to_bytes(torch.tensor([0.0, 0.0019, 0.0021, 0.5, 0.9979, 0.9981, 1.0])).tolist() == [
        0,
        0,
        1,
        128,
        254,
        255,
        255,
    ]


def test_colours_and_names_of_folders(tmp_path: Path) -> None:
    x = points(4, (3, 5, 4))
    rows = torch.arange(4)
    names = ["Zebra/foal", "ant", "bee", "Cow"]
    coloured = FeatureSet((x * 255).round() / 255, rows, rows, rows, torch.zeros(4, dtype=torch.float16), names)
    save_features(tmp_path / "a", coloured)
    assert torch.equal(load_features(tmp_path / "a").x, coloured.x)
    assert sorted(p.name for p in (tmp_path / "a").iterdir() if p.is_dir()) == [
        "0_Zebra_foal", "1_ant", "2_bee", "3_Cow",
    ]  # fmt: skip
    assert torch.equal(uf.load_data(tmp_path / "a")[1], rows)


def test_another_encoder_and_changed_data_are_refused(made: FeatureSet, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    save_features(path, made)
    assert len(load_features(path, encoder=NET)) == 40
    other = net()
    bumped(other[3])
    with pytest.raises(BadInput, match="was made with the encoder"):
        load_features(path, encoder=other)
    assert len(load_features(path, encoder=Classifier(Classifier(NET)))) == 40
    assert len(load_features(path, encoder=ENCODE)) == 40
    with pytest.raises(BadInput, match="was made of layer '1', the encoder gives '3'"):
        load_features(path, encoder=Encoder(NET, "3"))
    with pytest.raises(BadInput, match="was made with the encoder"):
        load_features(path, encoder=Classifier(NET, mean=0.5, std=0.5))
    manifest = path.with_suffix(".json").read_text()
    for old, new in (('"layer": "1"', '"layer": "3"'), (weights_hash(NET), weights_hash(other)), ('"tol"', '"tel"')):
        assert old in manifest
        path.with_suffix(".json").write_text(manifest.replace(old, new))
        with pytest.raises(BadInput, match="does not say what was written there"):
            load_features(path)
    save_features(path, replace(made, classes=made.classes[::-1]))
    path.with_suffix(".json").write_text(manifest)
    with pytest.raises(BadInput, match="does not hold what"):
        load_features(path)
    save_features(path, replace(made, y=made.y.roll(1)))
    path.with_suffix(".json").write_text(manifest)
    with pytest.raises(BadInput, match="does not hold what"):
        load_features(path)
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(BadInput, match="cannot be read as a manifest"):
        load_features(path)
    path.with_suffix(".json").unlink()
    assert not stored(path)
    with pytest.raises(BadInput, match="has no manifest"):
        load_features(path)
    with pytest.raises(BadInput, match="is not there"):
        load_features(tmp_path / "nothing.npz")
    with pytest.raises(BadInput, match=r"x lies in \[0, 2\]"):
        save_features(path, replace(made, x=torch.tensor([[0.0, 2.0]])))


def test_a_set_made_through_a_wrapper_is_the_network_s(tmp_path: Path) -> None:
    made = robust_set(Encoder(Classifier(NET), "1"), X, Y, search=Search(steps=2))
    assert made.manifest["encoder"] == weights_hash(NET)
    scaled = Classifier(NET, mean=0.5, std=0.5)
    save_features(tmp_path / "a.npz", robust_set(Encoder(scaled, "1"), X, Y, search=Search(steps=2)))
    assert len(load_features(tmp_path / "a.npz", encoder=scaled)) == 40
    with pytest.raises(BadInput, match="was made with the encoder"):
        load_features(tmp_path / "a.npz", encoder=NET)


@pytest.mark.parametrize("name", ["set.npz", "folder"])
def test_a_set_is_stored_once_it_is_whole(
    made: FeatureSet, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    whole = store.write_whole

    def killed(file: Path, data: bytes) -> None:
        if file.suffix == ".json":
            raise KeyboardInterrupt
        whole(file, data)

    for _ in range(2):
        assert not stored(path)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store, "write_whole", killed)
            save_features(path, made)
        assert path.exists()
        assert not stored(path)
        save_features(path, made)
        assert stored(path)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # nor is half a new set the old one
            patch.setattr(store, "write_whole", killed)
            save_features(path, replace(made, y=made.y.roll(1)))


def test_a_folder_that_is_replaced_keeps_what_is_not_the_set_s(made: FeatureSet, tmp_path: Path) -> None:
    path = tmp_path / "set"
    save_features(path, made)
    (path / "03" / "notes.txt").write_text("mine")
    (path / "readme.png").write_text("mine")
    rows = {k: getattr(made, k)[:5] for k in ("source", "start", "residual")}
    few = FeatureSet(made.x[:5], made.y[:5] % 2, **rows, classes=["ant", "bee"])
    save_features(path, few)
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*"))
    images = [f"{'ant' if i % 2 == 0 else 'bee'}/{i:07}.png" for i in range(5)]
    assert files == sorted(["03", "03/notes.txt", "ant", "bee", "readme.png", "manifest.json", "rows.npz", *images])
    assert torch.equal(load_features(path).x, few.x)
    (path / "ant" / "mine.png").write_text("mine")
    with pytest.raises(BadInput, match=r"mine.png belongs to no set"):
        save_features(path, made)
    assert torch.equal(load_features(path).x, few.x)


def test_another_s_json_is_not_taken_for_a_manifest(made: FeatureSet, tmp_path: Path) -> None:
    for said in ("{}", "[]", "nothing"):
        (tmp_path / "set.json").write_text(said)
        with pytest.raises(BadInput, match=r"set.json is there and is no manifest"):
            save_features(tmp_path / "set.npz", made)
        assert (tmp_path / "set.json").read_text() == said


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 9, 7), (8, 8), (3, 6, 6)])
def test_cleaning_is_an_opening(size: int, shape: tuple[int, ...]) -> None:
    x = points(30, shape)
    x = x * (points(30, shape[-2:], seed=1) > 0.3).reshape(30, *[1] * (len(shape) - 2), *shape[-2:])
    made = open_mask(x, threshold=0.1, size=size)
    for before, after in zip(x, made, strict=True):
        mask = (before if before.ndim == 2 else before.amax(0)) > 0.1
        opened = torch.from_numpy(binary_opening(mask.numpy(), np.ones((size, size))))
        assert torch.equal(after, before * opened)
    assert torch.equal(open_mask(made, threshold=0.1, size=size), made)
    assert (made <= x).all()
    assert (made != x).any() == (size > 1 or bool((x > 0).sum() > (x > 0.1).sum()))


BAD: list[tuple[Any, str]] = [
    (lambda: robust_set(ENCODE, X, Y, start="zero"), "start is 'zero'; it must be images, noise, grey"),
    (lambda: robust_set(ENCODE, X[:1], Y[:1]), "no other to start from"),
    (lambda: robust_set(ENCODE, X, Y, index=torch.tensor([40])), r"index lies in \[40, 40\], x has 40 rows"),
    (lambda: robust_set(ENCODE, X, Y, index=torch.tensor([True])), "it must be rows of x"),
    (lambda: robust_set(ENCODE, X, Y[:3]), "one label per sample"),
    (lambda: robust_set(ENCODE, X, Y, storage=Storage(chunk=0)), "chunk is 0; it must be at least 1"),
    (lambda: robust_set(ENCODE, X, Y, search=Search(L2(torch.ones(40)))), "one eps per sample"),
    (lambda: d_rand(NET, X, Y, L2(torch.ones(40))), "one eps per sample"),
    (lambda: d_rand(NET, X, Y + 1, L2(1)), r"labels lie in \[1, 4\]"),
    (lambda: robust_set(ENCODE, X, Y, search=Search(tol=float("nan"))), "tol is nan"),
    (lambda: robust_set(ENCODE, X, Y, search=Search(steps=-1)), "steps is -1"),
    (lambda: robust_set(ENCODE, X, Y, search=Search(steps=2.5)), "steps is 2.5; it must be a whole number"),  # type: ignore[arg-type]
    (lambda: smallest_threat(NET, X, Y, []), "no threats to choose from"),
    (lambda: smallest_threat(NET, X, Y, [L2(1)], kind="robust"), "it must be d-rand or d-det"),
    (lambda: open_mask(X, size=0), "size is 0"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1][:20] for b in BAD])
def test_bad_calls_are_named(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()


def test_a_plain_function_is_told_by_what_it_returns(tmp_path: Path) -> None:
    made = robust_set(lambda z: 2 * z.flatten(1), X, Y, search=Search(steps=2))
    assert made.manifest["encoder"].startswith("outputs ")
    assert made.manifest["layer"] is None
    save_features(tmp_path / "a.npz", made)
    with pytest.raises(BadInput, match="a function without weights"):
        load_features(tmp_path / "a.npz", encoder=lambda z: z)
    json.loads((tmp_path / "a.json").read_text())
