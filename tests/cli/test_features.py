"""`unfooled features` as a user meets it, and training on what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.test_cli import NET, run

import unfooled as uf


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "feature_nets.py").write_text(NET)
    run(folder, "train", "--loss", "group-worst", "--n", "200", "--epochs", "1", "--out", "net.pt", "--quiet")
    return folder


MAKE = ("features", "--model", "net.pt", "--n", "60", "--steps", "15", "--device", "cpu")


def test_a_set_is_made_continued_and_trained_on(home: Path) -> None:
    first = run(home, *MAKE, "--out", "robust.npz", "--json")
    record: dict[str, Any] = json.loads(first.stdout)
    assert record["n"] == 60
    assert record["kind"] == "robust"
    assert record["layer"] == "fc1"
    made = uf.load_features(home / "robust.npz", encoder=uf.load_model(home / "net.pt"))
    x, y = uf.load_data("digits", "train", n=60)
    assert torch.equal(made.y, y[made.source])
    assert made.manifest["from"]["data"] == "digits"
    again = run(home, *MAKE, "--out", "robust.npz")
    assert "60 of 60 found from an earlier start" in again.stderr
    assert "residual, median" in again.stdout
    assert torch.equal(uf.load_features(home / "robust.npz").x, made.x)
    assert not list(home.glob("*.parts"))  # gone, once the set is whole
    (home / "robust.json").unlink()
    done = run(home, *MAKE, "--out", "robust.npz", code=2)
    assert "robust.npz exists and is no result of this command" in done.stderr
    (home / "robust.npz").unlink()
    run(home, *MAKE, "--out", "robust.npz", "--quiet", "--shard", "25")
    assert torch.equal(uf.load_features(home / "robust.npz").x, made.x)
    trained = run(home, "train", "--data", "robust.npz", "--epochs", "1", "--out", "retrained.pt", "--json")
    assert json.loads(trained.stdout)["epochs"] == 1
    model = uf.load_model(home / "retrained.pt")
    assert model(x).shape == (60, 10)
    assert model.classes == [str(k) for k in range(10)]


def test_other_settings_are_refused_unless_fresh(home: Path) -> None:
    run(home, *MAKE, "--out", "again.npz", "--kind", "non-robust", "--quiet")
    done = run(home, *MAKE, "--out", "again.npz", "--kind", "non-robust", "--seed", "1", code=2)
    assert "seed was 0, now it is 1" in done.stderr
    run(home, *MAKE, "--out", "again.npz", "--kind", "non-robust", "--seed", "1", "--fresh", "--quiet")
    assert uf.load_features(home / "again.npz").manifest["seed"] == 1
    done = run(home, *MAKE, "--out", "again.npz", "--kind", "non-robust", "--seed", "1", "--clean", code=2)
    assert "cleaned was None, now it is" in done.stderr
    assert uf.load_features(home / "again.npz").manifest["cleaned"] is None


def test_what_a_kill_left_is_continued(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unfooled.runs import store

    def killed(file: Path, data: bytes) -> None:
        if file.name == "killed.json":
            raise KeyboardInterrupt
        whole(file, data)

    whole = store.write_whole
    make = (*MAKE, "--kind", "d-rand", "--threat", "l2:2", "--out", "killed.npz", "--shard", "20")
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", killed)
        run(home, *make, "--batch", "60", code=130)
    assert (home / "killed.npz").exists()
    assert len(list((home / "killed.npz.parts").rglob("*.safetensors"))) == 3
    (home / "killed.npz.parts/chunks/d-rand/0-20.safetensors").unlink()
    done = run(home, *make, "--batch", "7")
    assert "40 of 60 found from an earlier start" in done.stderr
    assert len(uf.load_features(home / "killed.npz")) == 60
    assert not (home / "killed.npz.parts").exists()


def test_another_s_manifest_is_not_overwritten(home: Path) -> None:
    (home / "multi.json").write_text('{"mine": 1}')
    for more in ((), ("--fresh",)):
        done = run(home, *MAKE, "--out", "multi.npz", *more, code=2)
        assert "multi.json is there and is no manifest" in done.stderr
        assert done.stderr.count("\n") == 1
    assert (home / "multi.json").read_text() == '{"mine": 1}'
    assert not (home / "multi.npz").exists()


@pytest.mark.parametrize("kind", ["d-rand", "d-det"])
def test_moved_sets_as_folders_of_images(home: Path, kind: str) -> None:
    done = run(home, *MAKE, "--kind", kind, "--threat", "l2:2", "--out", f"sets/{kind}")
    assert "target reached" in done.stdout
    made = uf.load_features(home / "sets" / kind)
    assert made.manifest["kind"] == kind
    x, _ = uf.load_data(home / "sets" / kind)
    assert x.shape == (60, 1, 8, 8)


def test_cleaning_is_recorded(home: Path) -> None:
    record = json.loads(run(home, *MAKE, "--out", "clean.npz", "--clean", "--json").stdout)
    assert record["cleaned"] == {"called": "open_mask", "threshold": 0.3, "size": 2}
    made = uf.load_features(home / "clean.npz")
    assert torch.equal(uf.features.open_mask(made.x), made.x)
    encode = uf.features.Encoder(uf.load_model(home / "net.pt"), "fc1")
    seen, want = encode(made.x), encode(uf.load_data("digits", "train", n=60)[0])
    off = (seen - want).norm(dim=1) / want.norm(dim=1)
    torch.testing.assert_close(off.detach(), made.residual.float(), atol=2e-3, rtol=2e-3)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "kind": (("--kind", "robost"), "there is no kind 'robost'; did you mean robust?"),
    "no threat": (("--kind", "d-rand"), "give one, such as --threat l2:1.5"),
    "layer": (("--layer", "fc"), "has no layer 'fc'; it has fc"),
    "start": (("--start", "zero"), "start is 'zero'; it must be images, noise, grey"),
    "d and layer": (("--kind", "d-det", "--threat", "l2:1", "--layer", "fc1"), "takes no --layer"),
    "d and tol": (("--kind", "d-det", "--threat", "l2:1", "--tol", "0.1"), "takes no --tol"),
    "shard": (("--shard", "0"), "--shard is 0"),
    "steps": (("--steps", "0"), "--steps is 0"),
    "tol": (("--tol", "2"), "--tol 2.0; they must be"),
    "model": (("--model", "nothing.pt"), "there is no file nothing.pt"),
    "no name": (("--out", ""), "--out is empty"),
    "other": (("--out", "net.pt"), "cannot write net.pt: it is no folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_code_2(home: Path, name: str) -> None:
    arguments, sentence = BAD[name]
    done = run(home, *MAKE, "--out", "bad.npz", *arguments, code=2)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (home / "bad.npz").exists()


def test_a_folder_in_the_place_of_an_archive_is_refused_at_once(home: Path) -> None:
    (home / "folder.npz").mkdir()
    said = run(home, *MAKE, "--out", "folder.npz", code=2).stderr
    assert said == "unfooled: --out is folder.npz, which is a folder; give the name of a file\n"
    assert not (home / "folder.npz.parts").exists()
    np.savez(home / "colour.npz", x=np.zeros((4, 3, 8, 8), np.uint8), y=np.arange(4))
    said = run(home, *MAKE, "--data", "colour.npz", "--out", "set.npz", code=2).stderr
    assert "convert them, --channels 1" in said


def test_training_on_corrupted_images(home: Path) -> None:
    few = ("train", "--n", "100", "--epochs", "1", "--augment", "corruptions")
    madry = ("--loss", "madry", "--threat", "linf:0.1", "--attack-steps", "1", "--ramp", "0.5", "--watch", "0")
    for name, more in (("standard", ()), ("madry", madry)):
        run(home, *few, *more, "--out", f"{name}.pt", "--quiet")
        assert "was finished already" in run(home, *few, *more, "--out", f"{name}.pt").stdout
    run(home, *few[:-2], "--out", "clean.pt", "--quiet")
    weights = [torch.load(home / f"{name}.pt", weights_only=True)["model"] for name in ("standard", "clean")]
    assert any(not torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    done = run(home, *few[:-2], "--out", "standard.pt", code=2)
    assert "standard.pt holds another training: augment was 'corruptions', now it is" in done.stderr


def test_training_on_corruptions_says_what_they_cost(home: Path) -> None:
    done = run(home, "train", "--n", "100", "--epochs", "1", "--loss", "group-worst", "--out", "worst.pt", "--json")
    said = json.loads(done.stdout)["corruptions"]
    names = ["vertical lines", "horizontal lines", "half normal noise", "stroke removal", "unchanged", "all five"]
    assert list(said) == names
    x, y = uf.load_data("digits", "test")
    net = uf.load_model(home / "worst.pt")
    right = torch.stack([net(version).argmax(1) == y for version in uf.features.groups(x).unbind(1)])
    for name, row in zip(names, (*right, right.all(0)), strict=True):
        value, low, high, n = said[name]
        assert (round(value * n), n) == (int(row.sum()), len(y))
        assert low <= value <= high
    shown = run(home, "train", "--n", "100", "--epochs", "1", "--loss", "group-worst", "--out", "worst.pt").stdout
    assert f"  vertical lines      {100 * said['vertical lines'][0]:5.1f} % [" in shown
    assert "all five" in shown
    assert "corruptions" not in json.loads(run(home, "train", "--n", "50", "--epochs", "1", "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--augment", "fog"), "there is no choice for --augment 'fog'; there are shifts, corruptions"),
        (("--loss", "group-worst", "--augment", "corruptions"), "sees all five of them"),
        (("--loss", "free", "--threat", "linf:0.1", "--augment", "corruptions"), "repeats each batch"),
    ],
)
def test_bad_augmentation_is_one_sentence(home: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = run(home, "train", *arguments, "--out", "bad.pt", code=2)
    assert sentence in done.stderr
    assert not (home / "bad.pt").exists()


def test_group_worst_takes_no_threat(home: Path) -> None:
    done = run(home, "train", "--loss", "group-worst", "--threat", "linf:0.1", code=2)
    assert "--loss group-worst trains against no adversary" in done.stderr
