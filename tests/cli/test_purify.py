"""`unfooled purify` as a user meets it: a purifier fitted, saved, applied, and every refusal before any work."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.test_cli import run
from tests.cli.test_python import plain

import unfooled as uf
from unfooled import workflows
from unfooled.purification import load_purifier
from unfooled.workflows import Inputs, Machine, PurifierOptions, purify_apply, purify_fit

CPU = Machine("cpu")
SMALL = ("--n", "300", "--clusters", "1", "--atoms", "8", "--patch", "4", "--stride", "2", "--device", "cpu")
OPTIONS = PurifierOptions(clusters=1, atoms=8, patch=4, stride=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("purify")
    run(folder, "train", "--n", "300", "--epochs", "2", "--out", "net.pt", "--quiet")
    run(folder, "purify", "fit", "--model", "net.pt", *SMALL, "--out", "purifier", "--quiet")
    x, y = uf.load_data("digits", "test", n=6)
    np.savez(folder / "colour.npz", x=x.expand(-1, 3, -1, -1).numpy(), y=y.numpy())
    np.savez(folder / "tiny.npz", x=x[..., :3, :3].numpy(), y=y.numpy())
    np.savez(folder / "rows.npz", x=x.flatten(1).numpy(), y=y.numpy())
    for label in (0, 1):
        (folder / "images" / str(label)).mkdir(parents=True)
        for i, image in enumerate(x[:3]):
            Image.fromarray((255 * image[0]).byte().numpy()).save(folder / "images" / str(label) / f"{i}.png")
    return folder


def test_the_record_is_the_same_from_python(home: Path) -> None:
    words = ("purify", "fit", "--model", "net.pt", *SMALL, "--layer", "fc1", "--seed", "3", "--out", "cli-pur")
    printed = json.loads(run(home, *words, "--json").stdout)
    with contextlib.chdir(home):
        options = PurifierOptions(clusters=1, atoms=8, patch=4, stride=2, layer="fc1")
        inputs = Inputs("net.pt", n=300, split="train")
        returned = purify_fit(inputs, "python-pur", options=options, seed=3, machine=CPU)
    assert plain(returned) == plain(printed)
    a, b = load_purifier(home / "cli-pur"), load_purifier(home / "python-pur")
    assert torch.equal(a.dictionaries, b.dictionaries)
    assert (a.stride, a.size, a.about["seed"]) == (2, 4, 3)


def test_a_fit_says_what_it_made_and_what_it_costs_on_clean_images(home: Path) -> None:
    out = run(home, "purify", "fit", "--model", "net.pt", *SMALL, "--out", "told").stdout
    assert "clusters  0: 1, 1: 1" in out
    assert "dictionaries  10 of 8 atoms, 4x4 pixels, stride 2; 300 images" in out
    x, y = uf.load_data("digits", "test", n=1000)
    model, purify = uf.load_model(home / "net.pt"), load_purifier(home / "told")
    with torch.no_grad():
        made = purify(x)
        shares = [float((model(z).argmax(1) == y).double().mean()) for z in (x, made)]
    psnr = -10 * (made - x).square().flatten(1).mean(1).log10().mean()
    for name, share in zip(("without", "behind it"), shares, strict=True):
        assert f"clean accuracy {name}  {100 * share:.1f} %" in out
    assert f"PSNR  {psnr:.1f} [" in out


def test_samples_without_a_split_are_held_out_of_the_fit(home: Path) -> None:
    x, y = uf.load_data("digits", "train", n=200)
    record = purify_fit(Inputs(uf.load_model(home / "net.pt"), (x, y)), home / "own", options=OPTIONS, machine=CPU)
    assert (record.n, record.before.n) == (160, 40)
    assert record.psnr.n == 40


def test_no_class_is_held_out_as_a_whole(home: Path) -> None:
    x, y = uf.load_data("digits", "train", n=400)
    rows = torch.cat([(y == k).nonzero()[:8, 0] for k in range(10)]).reshape(10, 8).T.flatten()  # 0, 1, .. 9, 0, 1, ..
    options = PurifierOptions(clusters=1, atoms=4, patch=4)
    model = uf.load_model(home / "net.pt")
    record = purify_fit(Inputs(model, (x[rows], y[rows])), home / "turns", options=options, machine=CPU)
    assert (record.n, record.before.n, len(record.classes)) == (64, 16, 10)
    assert {one.n for one in record.classes} == {6, 7}


def test_few_images_of_a_class_are_one_cluster_and_this_is_said(home: Path) -> None:
    x, y = uf.load_data("digits", "train", n=400)
    rows = (y != 4) | (torch.arange(400) < 60)
    options = PurifierOptions(clusters=2, atoms=8, patch=4, min_size=20)
    record = purify_fit(
        Inputs(uf.load_model(home / "net.pt"), (x[rows], y[rows])), home / "few", options=options, machine=CPU
    )
    four = record.classes[4]
    assert four.n < 20
    assert four.clusters == 1
    assert f"classes with fewer than 20 images are one cluster: 4 ({four.n})" in record.warnings


@pytest.mark.parametrize("out", ["purified.npz", "purified"])
def test_purified_images_are_data(home: Path, out: str) -> None:
    done = run(home, "purify", "apply", "purifier", "--n", "30", "--device", "cpu", "--out", out)
    assert f"{out}: 30 images" in done.stdout
    x, y = uf.load_data("digits", "test", n=30)
    read, stored = uf.load_data(home / out, split="all"), uf.load_features(home / out)
    with torch.no_grad():
        made = load_purifier(home / "purifier")(x)
    assert torch.equal(stored.y, y)
    assert torch.equal(read[1].sort().values, y.sort().values)
    assert (stored.x - made).abs().max() <= 0.5 / 255 + 1e-6
    again = run(home, "purify", "apply", "purifier", "--n", "30", "--device", "cpu", "--out", out, "--json")
    record = json.loads(again.stdout)
    assert (record["n"], record["out"]) == (30, out)
    with contextlib.chdir(home):
        returned = purify_apply("purifier", "digits", out, n=30, machine=CPU)
        assert plain(returned) == plain(record)
        bare = purify_apply(load_purifier("purifier"), (x, y), f"tensors-{out}", split="all", machine=CPU)
        assert bare.psnr == returned.psnr


def test_images_without_labels_keep_their_names(home: Path) -> None:
    x, _ = uf.load_data("digits", "test", n=3)
    folder = home / "flat"
    folder.mkdir()
    for i, name in enumerate(("b.png", "a.PNG", "c.bmp")):
        Image.fromarray((255 * x[i, 0]).round().byte().numpy()).save(folder / name)
    words = ("purify", "apply", "purifier", "--data", "flat", "--device", "cpu", "--out")
    done = json.loads(run(home, *words, "flat-out", "--json").stdout)
    assert (done["n"], done["data"]) == (3, "flat")
    assert {item.name for item in (home / "flat-out").iterdir()} == {"a.PNG", "b.png", "c.png", "purified.json"}
    with torch.no_grad():
        made = load_purifier(home / "purifier")((255 * x).round() / 255)
    for i, name in enumerate(("b.png", "a.PNG", "c.png")):
        stored = torch.from_numpy(np.array(Image.open(home / "flat-out" / name)))
        assert stored.shape == (8, 8)
        assert (stored / 255 - made[i, 0]).abs().max() <= 0.5 / 255 + 1e-6
    assert "flat-out: 2 images" in run(home, *words, "flat-out", "--n", "2").stdout  # its own files may be replaced
    for out, said in (
        ("flat", "is the folder of the images"),
        ("flat-out.npz", "images without classes become PNG files"),
        ("images", "holds other files, such as 0"),
    ):
        assert said in " ".join(run(home, *words, out, code=2).stderr.split())
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "b.bmp")
    assert "would be written as b.png" in " ".join(run(home, *words, "two", code=2).stderr.split())
    assert "--labels names classes" in " ".join(run(home, *words, "l", "--labels", "x.txt", code=2).stderr.split())
    assert sorted(item.name for item in folder.iterdir()) == ["a.PNG", "b.bmp", "b.png", "c.bmp"]


def test_the_batch_changes_nothing_and_progress_is_told(home: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for batch in (7, 64):
        machine = Machine("cpu", batch=batch)
        purify_apply(
            home / "purifier", "digits", home / f"b{batch}.npz", n=20, machine=machine,
            progress=lambda *at: seen.append(at),
        )  # fmt: skip
    assert seen == [("purified", k, 20) for k in (0, 7, 14, 20, 0, 20)]
    assert torch.equal(uf.load_data(home / "b7.npz")[0], uf.load_data(home / "b64.npz")[0])


def test_an_encoder_of_own_code_is_given_again(home: Path) -> None:
    (home / "own_purify_net.py").write_text(OWN)
    run(home, "purify", "fit", "--model", "own_purify_net.py:build", *SMALL, "--out", "ours", "--quiet")
    done = run(home, "purify", "apply", "ours", "--n", "5", "--out", "ours.npz", code=2)
    assert "the encoder of ours is of own code; give the --model of the fit" in done.stderr
    run(home, "purify", "apply", "ours", "--model", "own_purify_net.py:build", "--n", "5", "--out", "ours.npz", "-q")
    assert len(uf.load_data(home / "ours.npz")[1]) == 5
    done = run(home, "purify", "apply", "ours", "--model", "own_purify_net.py:other", "--out", "o.npz", code=2)
    assert "encode has other weights, or another layer" in done.stderr


OWN = """
import torch

def build(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10))
    return net.eval()

def other():
    return build(1)
"""

FIT = ("purify", "fit", "--model", "net.pt", "--out", "refused")
APPLY = ("purify", "apply", "purifier", "--out", "refused")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*FIT, "--patch", "9"), "images are 8x8 and --patch is 9; give a smaller --patch"),
        ((*FIT, "--patch", "4", "--stride", "5"), "--stride is 5 and --patch 4; patches must touch"),
        ((*FIT, "--patch", "1"), "--patch is 1; it must be at least 2"),
        ((*FIT, "--atoms", "0"), "--atoms is 0; it must be at least 1"),
        ((*FIT, "--clusters", "0"), "--clusters is 0; it must be at least 1"),
        ((*FIT, "--min-size", "0"), "--min-size is 0; it must be at least 1"),
        ((*FIT, "--smooth", "0"), "--smooth is 0.0; it must be above 0"),
        ((*FIT, "--sparsity", "-1"), "--sparsity is -1.0; it must be at least 0"),
        ((*FIT, "--layer", "fc9"), "the model has no layer 'fc9'"),
        ((*FIT, "--data", "colour.npz"), "--channels 1"),
        ((*FIT[:4], "--out", "net.pt"), "cannot write net.pt: it is no folder"),
        ((*FIT[:4], "--out", "images"), "images holds other files, such as 0; choose another --out"),
        ((*APPLY, "--data", "colour.npz"), "fitted to images of 1 channel, colour has 3; convert them, --channels 1"),
        ((*APPLY, "--data", "tiny.npz"), "images are 3x3, patches of the purifier 4x4; resize them (--size)"),
        ((*APPLY, "--data", "rows.npz"), "rows has samples of shape (64,); a purifier takes images"),
        ((*APPLY, "--channels", "2"), "--channels is 2; it must be 1 (grey) or 3 (colour)"),
        ((*APPLY, "--n", "0"), "--n is 0; it must be at least 1"),
        (("purify", "apply", "images", "--out", "refused"), "images has no purifier.npz and no purifier.json"),
        (("purify", "apply", "nothing", "--out", "refused"), "nothing has no purifier.npz and no purifier.json"),
        (("purify", "apply", "purifier", "--out", "images"), "choose another"),
        (("purify", "apply", "purifier", "--out", "colour.npz"), "colour.npz exists and is no result of this command"),
    ],
)  # fmt: skip
def test_refusals(home: Path, words: tuple[str, ...], said: str) -> None:
    done = run(home, *words, code=2)
    assert said in " ".join(done.stderr.split())
    assert not (home / "refused").exists()


def test_a_damaged_purifier_is_refused(home: Path) -> None:
    broken = home / "broken"
    broken.mkdir()
    (broken / "purifier.npz").write_bytes((home / "purifier" / "purifier.npz").read_bytes())
    done = run(home, "purify", "apply", "broken", "--out", "x.npz", code=2)
    assert "broken has no purifier.json; a purifier is a folder" in done.stderr
    facts: dict[str, Any] = json.loads((home / "purifier" / "purifier.json").read_text())
    (broken / "purifier.json").write_text(json.dumps({**facts, "format": 9}))
    assert "no description of a purifier" in run(home, "purify", "apply", "broken", "--out", "x.npz", code=2).stderr
    (broken / "purifier.json").write_text(json.dumps(facts))
    (broken / "purifier.npz").write_text("no archive")
    said = run(home, "purify", "apply", "broken", "--out", "x.npz", code=2).stderr
    assert "save the purifier again, or fit it anew" in said
    assert "x=..." not in said


def test_errors_speak_python(home: Path) -> None:
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(home), *sys.path])
        with pytest.raises(workflows.BadOption, match=r"images are 8x8 and patch is 9; give a smaller patch"):
            purify_fit(Inputs("net.pt", split="train"), "refused", options=PurifierOptions(patch=9), machine=CPU)
        with pytest.raises(workflows.BadOption, match=r"convert them, channels=1"):
            purify_apply("purifier", "colour.npz", "refused.npz", machine=CPU)


def test_images_of_one_class_are_said(home: Path) -> None:
    x, y = uf.load_data("digits", "train", n=400)
    options = PurifierOptions(clusters=2, atoms=8, patch=4, min_size=10)
    record = purify_fit(
        Inputs(uf.load_model(home / "net.pt"), (x[y == 0], y[y == 0])), home / "zeros", options=options, machine=CPU
    )
    assert any("all images are of one class, 0" in sentence for sentence in record.warnings)
    assert any("no image is of these classes of the model: 1, 2, 3, 4, 5, 6, 7, 8, ...;" in w for w in record.warnings)


def test_a_class_without_images_is_named(home: Path) -> None:
    x = np.random.default_rng(0).random((40, 1, 8, 8))
    np.savez(home / "gap.npz", x=x, y=np.arange(40) % 2 * 2, classes=["cat", "dog", "eel"])
    done = run(home, "purify", "fit", "--model", "net.pt", "--data", "gap.npz", "--out", "gap", code=2)
    assert "no image is of these classes: dog; give images of each" in " ".join(done.stderr.split())
    assert not (home / "gap").exists()
