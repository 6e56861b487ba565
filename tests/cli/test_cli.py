"""The command line as a user meets it: exit codes, one sentence on stderr, records that other programs read.

Most calls run in this process, where importing torch is paid once; what a process does is tested in one.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.cli import app as cli
from unfooled.cli.errors import as_flag
from unfooled.training import Ramp
from unfooled.workflows import BadOption, LossOptions, catalog, examining, make_loss
from unfooled.workflows.bounds import Bound, read_bound
from unfooled.workflows.words import number, size_of, threat_of

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    x, y = digits()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()

def digits():
    from unfooled.data.load import load_data
    return load_data("digits", "train")

def no_gradient():
    net = build()
    return lambda x: net(x).detach()

def training():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)).train()

def broken():
    raise KeyError("weights")

def shifted():
    net = build()
    return lambda x: net(x).roll(1, 1)

def leaves():
    raise SystemExit(0)

def leaves_late():
    return lambda x: leaves()

def leaves_with_gradient():
    net = build()
    return lambda x: leaves() if x.requires_grad else net(x)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "nets.py").write_text(NET)
    return folder


@dataclass(frozen=True)
class Done:
    """Output of a call."""

    stdout: str
    stderr: str


def run(home: Path, *arguments: str, code: int = 0) -> Done:
    """Run the command in `home`, as `unfooled ARGUMENTS` would."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unfooled", *arguments])
        patch.setattr(sys, "path", [str(home), *sys.path])
        patch.setenv("COLUMNS", "120")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = cli.run(list(arguments))
    assert got == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())


AUDIT = ("audit", "--model", "nets:build", "--threat", "linf:0.1", "--n", "30", "--steps", "10", "--device", "cpu")


@pytest.fixture(scope="module")
def audited(home: Path) -> dict[str, Any]:
    done = run(home, *AUDIT, "--out", "runs/a", "--json")
    return json.loads(done.stdout)


def test_audit_writes_the_contract(home: Path, audited: dict[str, Any]) -> None:
    kept = json.loads((home / "runs/a/summary.json").read_text())
    assert kept == audited
    for name in ("model", "data", "n", "threat", "seed", "seconds", "warnings"):
        assert name in kept
    for name in ("clean_accuracy", "robust_accuracy"):
        assert set(kept[name]) == {"value", "low", "high", "n"}
    assert set(kept["passes"]) == {"forward", "backward"}
    assert kept["clean_accuracy"]["value"] > 0.8
    assert kept["robust_accuracy"]["value"] < kept["clean_accuracy"]["value"]
    assert kept["command"].startswith("unfooled audit --model nets:build")
    assert "<html" in (home / "runs/a/report.html").read_text()


def test_second_start_finds_everything(home: Path, audited: dict[str, Any]) -> None:
    done = run(home, *AUDIT, "--out", "runs/a")
    assert "30 of 30 found from an earlier start" in done.stderr
    assert "robust accuracy" in done.stdout
    again = json.loads((home / "runs/a/summary.json").read_text())
    assert again["robust_accuracy"] == audited["robust_accuracy"]
    assert again["passes"] == audited["passes"]


def test_other_configuration_is_refused(home: Path, audited: dict[str, Any]) -> None:
    arguments = [a if a != "linf:0.1" else "linf:0.2" for a in AUDIT]
    done = run(home, *arguments, "--out", "runs/a", code=2)
    assert "threat was 'linf:0.1', now it is 'linf:0.2'" in done.stderr


def test_fail_under(home: Path, audited: dict[str, Any]) -> None:
    run(home, *AUDIT, "--out", "runs/a", "--quiet", "--fail-under", "robust_accuracy=0.0")
    done = run(home, *AUDIT, "--out", "runs/a", "--quiet", "--fail-under", "robust_accuracy.low=0.999", code=3)
    assert "robust_accuracy.low is 0." in done.stderr
    assert "below 0.999" in done.stderr
    assert done.stdout.startswith(("SOUND: ", "EXTENDED: "))
    assert done.stdout.count("\n") == 1


def test_an_audit_says_what_it_knows_early_and_stops_in_time(home: Path) -> None:
    cut = run(home, *AUDIT, "--budget", "0.001s", "--fail-under", "robust_accuracy=0", code=3)
    assert "clean accuracy 9" in cut.stderr.splitlines()[1]
    assert "left out: the rest of the attack" in cut.stdout
    assert "the verdict is OVERSTATED, so no figure passes" in cut.stderr
    assert "--budget is 'soon'; write a time" in run(home, *AUDIT, "--budget", "soon", code=2).stderr


def test_nothing_that_is_not_believed_passes_the_gate(home: Path) -> None:
    bound = ("--fail-under", "clean_accuracy=0.0", "--fail-under", "robust_accuracy=0.0", "--quiet")
    few = ("--data", "digits", "--threat", "linf:0.1", "--n", "20", "--effort", "quick")
    done = run(home, "audit", "--model", "nets:shifted", *few, *bound, code=3)
    assert done.stdout.startswith("NOT EVALUABLE: clean accuracy ")
    assert "the verdict is NOT EVALUABLE, so no figure passes" in done.stderr
    for name in ("leaves", "leaves_late", "leaves_with_gradient"):
        done = run(home, "audit", "--model", f"nets:{name}", *few, *bound, code=2)
        assert done.stdout == ""
    assert run(home, "audit", "--model", "nets:build", *few[2:], "--data", "nets:leaves", *bound, code=2).stdout == ""


def test_report_of_two_runs(home: Path, audited: dict[str, Any]) -> None:
    run(home, *AUDIT, "--out", "runs/b", "--seed", "1", "--title", "second", "--quiet")
    done = run(home, "report", "runs/a", "runs/b", "--out", "both.html")
    assert "page: both.html" in done.stdout
    page = (home / "both.html").read_text()
    assert "second" in page
    done = run(home, "report", "runs/none", code=2)
    assert "runs/none" in done.stderr


def test_train_then_audit_then_resume(home: Path) -> None:
    train = (
        "train",
        "--data",
        "digits",
        "--loss",
        "madry",
        "--threat",
        "linf:0.05",
        "--attack-steps",
        "1",
        "--n",
        "200",
    )
    done = run(home, *train, "--epochs", "2", "--out", "net.pt", "--json")
    assert json.loads(done.stdout)["held_out_accuracy"] > 0.1
    done = run(home, *train, "--epochs", "2", "--out", "net.pt")
    assert "was finished already" in done.stdout
    done = run(home, *train, "--epochs", "2", "--lr", "0.5", "--out", "net.pt", code=2)
    assert "lr" in done.stderr
    done = run(home, "audit", "--model", "net.pt", "--threat", "linf:0.05", "--n", "10", "--steps", "2", "--json")
    assert json.loads(done.stdout)["n"] == 10


def test_fewer_samples_than_asked_for_is_said_to_those_who_asked(home: Path) -> None:
    from unfooled.data.load import load_data

    x, y = load_data("digits", n=20)
    np.savez(home / "twenty.npz", x_test=x.numpy(), y_test=y.numpy())
    base = ("audit", "--model", "nets:build", "--data", "twenty.npz", "--threat", "linf:0.1", "--steps", "1",
            "--reasons", "none", "--json")  # fmt: skip
    assert json.loads(run(home, *base).stdout)["warnings"] == []
    said = json.loads(run(home, *base, "--n", "5000").stdout)["warnings"]
    assert said == ["5000 samples were asked for; twenty (test) has 20"]


def test_attack_does_not_write_over_another(home: Path) -> None:
    base = ("attack", "--model", "nets:build", "--n", "4", "--steps", "2", "--quiet")
    run(home, *base, "--threat", "linf:0.1", "--out", "one")
    run(home, *base, "--threat", "linf:0.1", "--out", "one.npz")
    done = run(home, *base, "--threat", "linf:0.2", "--out", "one", code=2)
    assert "threat was 'linf:0.1', now it is 'linf:0.2'" in done.stderr
    (home / "folder").mkdir()
    for place, word in (("folder", "folder"), ("/dev/null", "/dev/null")):
        assert word in run(home, *base, "--threat", "linf:0.1", "--out", place, code=2).stderr
        assert not Path(home / f"{place}.npz").exists()
    (home / "two.npz").write_text("mine")
    done = run(home, *base, "--threat", "linf:0.2", "--out", "two.npz", code=2)
    assert "no result of this command" in done.stderr
    assert (home / "two.npz").read_text() == "mine"


@pytest.mark.parametrize("name", ["square", "labels-only"])
def test_attacks_without_gradients_have_queries_and_no_restarts(home: Path, name: str) -> None:
    base = ("attack", "--model", "nets:build", "--n", "4", "--threat", "linf:0.4", "--attack", name, "--json")
    record = json.loads(run(home, *base, "--steps", "50", "--out", f"found-{name}").stdout)
    assert record["attack"] == f"{name.upper()}, 50 queries"
    assert 0 < record["passes"]["forward"] <= 60
    assert record["passes"]["backward"] == 0
    done = run(home, *base, "--restarts", "2", "--out", f"other-{name}", code=2)
    assert "has no --restarts" in done.stderr


def test_attack_file_is_data_again(home: Path) -> None:
    done = run(
        home,
        "attack",
        "--model",
        "nets:build",
        "--threat",
        "l2:0.8",
        "--n",
        "20",
        "--steps",
        "10",
        "--out",
        "adv.npz",
        "--json",
    )
    record = json.loads(done.stdout)
    with np.load(home / "adv.npz") as found:
        x, clean = torch.from_numpy(found["x"]), torch.from_numpy(found["clean_x"])
    assert float((x - clean).flatten(1).norm(dim=1).max()) <= 0.8 + 1e-5
    assert record["robust_accuracy"]["value"] < record["clean_accuracy"]["value"]
    again = run(
        home, "audit", "--model", "nets:build", "--data", "adv.npz", "--threat", "linf:0.01", "--steps", "1", "--json"
    )
    assert json.loads(again.stdout)["clean_accuracy"]["value"] == pytest.approx(record["robust_accuracy"]["value"])


@pytest.mark.parametrize(
    "method", ["saliency", "input-x-gradient", "integrated-gradients", "smoothgrad", "expected-gradients", "lime"]
)
def test_explain(home: Path, method: str) -> None:
    run(home, "explain", "--model", "nets:build", "--method", method, "--n", "3", "--out", f"maps-{method}")
    with np.load(home / f"maps-{method}/maps.npz") as found:
        assert found["attribution"].shape == (3, 1, 8, 8)
        assert float(abs(found["attribution"]).max()) > 0
    assert (home / f"maps-{method}/maps.png").read_bytes()[:4] == b"\x89PNG"
    assert "classified as their label" in (home / f"maps-{method}/report.html").read_text()


def test_train_arp_and_resume(home: Path) -> None:
    asked = ["train", "--loss", "arp", "--threat", "linf:0.1", "--attack-steps", "1", "--base", "trades", "--n", "64"]
    asked += ["--rectify", "0.2", "--watch", "0", "--quiet", "--out", "arp.pt"]
    run(home, *asked, "--epochs", "1")
    run(home, *asked, "--epochs", "1", "--arch", "small-cnn")
    assert "takes no --preserve" in run(home, "train", "--loss", "madry", "--threat", "linf:0.1", "--preserve", "1",
                                        code=2).stderr  # fmt: skip
    assert "madry" in run(home, *asked, "--base", "free", code=2).stderr


def test_explain_grad_cam_needs_a_spatial_layer(home: Path) -> None:
    done = run(home, "explain", "--model", "nets:build", "--method", "grad-cam", "--n", "2", "--out", "cam", code=2)
    assert "layer" in done.stderr
    run(home, "train", "--n", "100", "--epochs", "1", "--out", "cam.pt", "--quiet")
    for method in ("grad-cam", "attention"):
        run(home, "explain", "--model", "cam.pt", "--method", method, "--n", "2", "--out", method)
    with np.load(home / "attention/maps.npz") as found:
        assert found["attribution"].shape == (2, 1, 8, 8)
        assert found["attribution"].mean((1, 2, 3)) == pytest.approx(1 / 16, rel=1e-4)


def test_doctor(home: Path) -> None:
    found = json.loads(run(home, "doctor", "--json").stdout)
    assert found["libraries"]["torch"] == torch.__version__
    assert "cpu" in found["devices"]
    assert "torch" in run(home, "doctor").stdout


def test_doctor_imports_no_heavy_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.argv = ['unfooled', 'doctor']\nfrom unfooled.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "assert not {'lightning_fabric', 'sklearn', 'torch._dynamo'} & set(sys.modules), 'imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "sklearn" in done.stdout

    def missing(name: str) -> list[str]:
        return [f"numpi<3,>={1}", "absent-library; extra == 'all'"] if name == "scikit-learn" else []

    monkeypatch.setattr(examining.metadata, "requires", missing)
    found = examining.doctor()
    assert found.unusable == ["sklearn"]
    assert found.libraries["sklearn"] == "unusable: it needs numpi"


def test_help_and_version_do_not_load_torch(home: Path) -> None:
    code = "import sys; sys.argv = ['unfooled', 'audit', '--help']\nfrom unfooled.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "--threat" in done.stdout
    assert run(home, "--version").stdout.startswith("unfooled 0.")


BAD = {
    "threat without a norm": (["--threat", "0.3"], "write a norm and a radius"),
    "unknown norm": (["--threat", "linv:0.3"], "did you mean linf"),
    "eps of 255": (["--threat", "linf:8"], "linf:8/255"),
    "no number": (["--threat", "linf:big"], "write a number"),
    "negative eps": (["--threat", "l2:-1"], "at least 0"),
    "missing model": (["--model", "absent.pt"], "absent.pt"),
    "broken factory": (["--model", "nets:broken"], "weights"),
    "no such factory": (["--model", "nets:biuld"], "build"),
    "missing data": (["--data", "absent.npz"], "absent.npz"),
    "unknown attack": (["--attack", "apgd-cw"], "apgd-ce"),
    "no samples": (["--n", "0"], "at least 1"),
    "wrong shape": (["--model", "nets:build", "--size", "9"], "give another --size"),
    "bad bound": (["--fail-under", "robustness=1"], "robust_accuracy.low=0.4"),
    "bound of nan": (["--fail-under", "robust_accuracy=nan"], "write a number"),
    "bound in per cent": (["--fail-under", "robust_accuracy=40"], "0.4 for 40 %"),
    "no batch": (["--batch", "0"], "--batch is 0"),
    "negative seed": (["--seed", "-1"], "--seed is -1"),
    "bad device": (["--device", "cuda:77"], "doctor"),
    "unwritable": (["--out", "nets.py/run"], "cannot write"),
    "bad mean": (["--mean", "0.1,x"], "write a number"),
    "three means for one channel": (["--mean", "0.1,0.2,0.3"], "mean has 3 values"),
    "bad zero std": (["--std", "0"], "positive"),
    "no steps": (["--attack", "pgd", "--steps", "0"], "at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_code_2(home: Path, name: str) -> None:
    options, said = BAD[name]
    base = dict(zip(AUDIT[1::2], AUDIT[2::2], strict=True)) | {"--out": "bad"}
    base |= dict(zip(options[::2], options[1::2], strict=True))
    done = run(home, "audit", *(part for pair in base.items() for part in pair), code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("unfooled:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (home / "bad/summary.json").exists()


def test_unknown_option_and_missing_option(home: Path) -> None:
    assert "--threat" in run(home, "audit", "--model", "nets:build", code=2).stderr
    assert "No such option" in run(home, "audit", "--modle", "x", code=2).stderr


# Children of a background shell ignore Ctrl-C; this one must not.
LISTENING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from unfooled.cli.app import main
main()
"""


def test_a_model_without_a_gradient_is_judged_and_not_believed(home: Path) -> None:
    done = run(home, "audit", "--model", "nets:no_gradient", *AUDIT[3:], "--out", "hidden")
    kept = json.loads((home / "hidden/summary.json").read_text())
    assert kept["trusted"] is False
    assert "OVERSTATED" in done.stdout
    assert any(f["id"] == "D8" and f["fired"] for f in kept["diagnostics"])


@pytest.mark.parametrize(("effort", "more", "norms"), [
    ("quick", ["--threat", "linf:0.1", "--envelope"], ["l0", "l1", "l2", "linf"]),
    ("autoattack", ["--threat", "linf:0.5"], ["linf"]),
])  # fmt: skip
def test_efforts_and_envelope(home: Path, effort: str, more: list[str], norms: list[str]) -> None:
    done = run(
        home, "audit", "--model", "nets:build", "--n", "2", "--effort", effort, *more, "--reasons", "none",
        "--out", f"effort-{effort}",
    )  # fmt: skip
    kept = json.loads((home / f"effort-{effort}/summary.json").read_text())
    assert [k["norm"] for k in kept["nearest"]] == norms
    assert ("AutoAttack-standard" if effort == "autoattack" else "cascade, quick") in done.stdout
    assert kept["progress"][0]["stage"] == "clean"


def test_effort_and_attack_exclude_each_other(home: Path) -> None:
    for one in (["--attack", "pgd"], ["--steps", "3"], ["--restarts", "2"]):
        base = ("audit", "--model", "nets:build", "--threat", "linf:0.1", "--n", "5")
        assert "give one of them" in run(home, *base, "--effort", "quick", *one, code=2).stderr
    assert "did you mean thorough" in run(home, *AUDIT[:5], "--effort", "thoroug", code=2).stderr


def test_ctrl_c_keeps_chunks_and_the_next_start_continues(home: Path) -> None:
    arguments = [
        "audit", "--model", "nets:build", "--threat", "linf:0.05", "--n", "24", "--steps", "60", "--chunk", "2",
        "--out", "runs/stopped", "--threads", "1", "--reasons", "none",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING, *arguments],
        cwd=home,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = home / "runs/stopped/chunks/cascade-0-attack"
    for _ in range(1200):
        if len(list(folder.glob("*.safetensors"))) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "the same command continues" in said
    assert not (home / "runs/stopped/summary.json").exists()
    kept = len(list(folder.glob("*.safetensors")))
    assert 2 <= kept < 12
    done = run(home, *arguments)
    assert f"attack, stage 1: attack: {2 * kept} of " in done.stderr


def test_parsers() -> None:
    assert number("8/255", "x") == 8 / 255
    assert str(threat_of("linf:8/255")) == "linf:8/255"
    assert threat_of("l0-pixel:3").norm == 0
    assert size_of("32x48") == (32, 48)
    assert size_of("28") == (28, 28)
    assert read_bound("robust_accuracy.low=0.4") == Bound("robust_accuracy", "low", 0.4)
    assert read_bound("clean_accuracy=9/10") == Bound("clean_accuracy", "value", 0.9)
    with pytest.raises(BadOption, match="size is '0x3'") as refused:
        size_of("0x3")
    assert refused.value.spelled(as_flag).startswith("--size is '0x3'")


def test_catalog_names_things_that_exist() -> None:
    tables: list[Any] = [catalog.EXPLANATIONS, catalog.LOSSES, catalog.ATTACKS, catalog.OBJECTIVES, catalog.STUDIES]
    paths = [row.path for table in tables for row in table.values()] + list(catalog.FEATURES.values())
    bound: list[catalog.Attack | catalog.Loss] = [*catalog.ATTACKS.values(), *catalog.LOSSES.values()]
    paths += [path for row in bound for path in row.bound.values()]
    for path in paths:
        assert callable(catalog.resolve(path)), path
    for effort in catalog.EFFORTS.values():
        assert catalog.resolve(effort.path)


ATTACKED = ("explain", "--model", "nets:build", "--method", "saliency", "--threat", "linf:0.1", "--steps", "3")


def test_explain_under_attack(home: Path) -> None:
    done = run(home, *ATTACKED, "--restarts", "1", "--k", "5", "--w", "1", "--n", "4", "--out", "moved", "--json")
    record = json.loads(done.stdout)["attack"]
    assert (record["objective"], record["k"], record["random_points"]) == ("lens", 5, 3 * 3 + 1 + 1)
    with np.load(home / "moved/maps.npz") as found:
        assert float(abs(found["x_adv"] - found["x"]).max()) <= 0.1 + 1e-6
        assert found["attribution_adv"].shape == found["attribution"].shape == (4, 1, 8, 8)
        raw, level = found["lens_attack"], found["lens_chance"]
        assert found["lens_attack_corrected"] == pytest.approx((raw - level) / (1 - level), nan_ok=True)
        assert found["top_k_chance"] == pytest.approx(5 / 64)
        status = found["status"].tolist()
        kept = [s["lens"]["attack"] for s in record["samples"]]
        assert [None if np.isnan(v) else pytest.approx(v, abs=1e-5) for v in raw.tolist()] == kept
    assert sum(record["counts"]["attack"].values()) == 4
    assert [s["status"] for s in record["samples"]] == status
    assert (home / "moved/maps.png").read_bytes()[:4] == b"\x89PNG"
    told = run(home, *ATTACKED, "--attack", "kendall", "--n", "2", "--out", "moved").stdout
    assert "corrected" in told
    assert "A failed attack does not show robustness" in told


def test_the_shown_map_is_titled_by_its_own_score(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    from unfooled.distances import abs_sum, chance, corrected, lens_recall

    said: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: said.append(text))
    more = ("--attack", "kendall", "--k", "5", "--w", "0", "--n", "8", "--out", "own", "--json")
    samples = json.loads(run(home, *ATTACKED, *more).stdout)["attack"]["samples"]
    with np.load(home / "own/maps.npz") as found:
        a, b = (abs_sum(torch.from_numpy(found[f"attribution{part}"])) for part in ("", "_adv"))
    raw = lens_recall(a, b, k=5, w=0)
    value = corrected(raw, chance(a, k=5, w=0))
    attacked = [i for i, sample in enumerate(samples) if sample["status"] == "attacked"]
    assert attacked
    for i in attacked:
        assert samples[i]["shown"]["lens_corrected"] == pytest.approx(float(value[i]), abs=1e-5)
        assert said[4 * i + 3] == f"LENS {value[i]:.2f}, corrected"
    # LENS's own worst point is another one.
    assert any((samples[i]["lens"]["attack"] or 0) < float(raw[i]) - 0.01 for i in attacked)


def test_where_windows_cover_the_map_lens_says_nothing(home: Path) -> None:
    more = ("--w", "3", "--k", "40", "--n", "2", "--out", "covered")
    told = run(home, *ATTACKED, *more).stdout
    assert "Unrelated maps would score 1.00 in LENS here, so the score is uninformative" in told
    assert "Random points" not in told
    with np.load(home / "covered/maps.npz") as found:
        assert np.isnan(found["shown_lens_corrected"]).all()


def test_explain_drives_mass_into_a_region_and_moves_the_centre(home: Path) -> None:
    from PIL import Image

    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :4] = 255
    Image.fromarray(mask).save(home / "mask.png")
    np.save(home / "mask.npy", mask > 0)
    records = []
    for name in ("mask.png", "mask.npy"):
        more = ("--attack", "region", "--region", name, "--n", "4", "--out", "region")
        records.append(json.loads(run(home, *ATTACKED, *more, "--json").stdout)["attack"])
    assert records[0] == records[1]
    assert (records[0]["objective"], records[0]["kept"]) == ("region", "region")
    assert records[0]["aim"]["attack"] > records[0]["aim"]["best_of_n"] > records[0]["aim"]["before"]
    with np.load(home / "region/maps.npz") as found:
        for name, key in (("attribution", "before"), ("attribution_adv", "attack")):
            shares = abs(found[name]).sum(1) / abs(found[name]).sum((1, 2, 3))[:, None, None]
            inside = shares[:, :4, :4].sum((1, 2))
            kept = ~np.isnan(found["region_attack"])
            assert found[f"region_{key}"][kept] == pytest.approx(inside[kept], abs=1e-5)
    told = run(home, *ATTACKED, *more).stdout
    assert f"share of the mass in the region: before {records[0]['aim']['before']:.2f}, attack" in told
    told = run(home, *ATTACKED, "--attack", "mass-center", "--n", "2", "--out", "centre").stdout
    assert "pixels that the centre moved: before 0.00, attack" in told
    with np.load(home / "centre/maps.npz") as found:
        grid = np.indices((8, 8)).reshape(2, 64)
        where = [(abs(found[f"attribution{part}"]).sum(1).reshape(-1, 64)) for part in ("", "_adv")]
        there = [(w / w.sum(1, keepdims=True)) @ grid.T for w in where]
        way, said = np.linalg.norm(there[1] - there[0], axis=1), found["center_attack"]
        assert said[~np.isnan(said)] == pytest.approx(way[~np.isnan(said)], abs=1e-4)


def test_regions_that_cannot_be_used(home: Path) -> None:
    np.save(home / "small.npy", np.eye(4))
    np.save(home / "large.npy", 255 * np.eye(8))
    np.save(home / "flat.npy", np.ones((8, 8)))
    np.save(home / "many.npy", np.ones((3, 8, 8)))
    for more, says in (
        ([], "give --region mask.png"),
        (["--region", "small.npy"], "--region is 4x4, the maps are 8x8"),
        (["--region", "large.npy"], "lies in [0, 255]"),
        (["--region", "flat.npy"], "is 1 everywhere"),
        (["--region", "many.npy"], "a region is one map"),
        (["--region", "none.png"], "there is no file none.png"),
        (["--region", "nets.py"], "cannot be read as an image"),
        (["--attack", "lens", "--region", "flat.npy"], "--region belongs to --attack region, not to --attack lens"),
    ):
        done = run(home, *ATTACKED, "--attack", "region", *more, "--n", "1", code=2)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_explain_one_image_and_a_folder_without_labels(home: Path) -> None:
    from PIL import Image

    from unfooled.data.load import load_data

    (home / "loose").mkdir()
    x, _ = load_data("digits", n=2)
    for i, image in enumerate(x):
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(home / f"loose/{i}.png")
    (home / "names.txt").write_text("\n".join(f"digit {k}" for k in range(10)))
    for data, n in (("loose", 2), ("loose/1.png", 1)):
        done = run(home, *ATTACKED, "--data", data, "--labels", "names.txt", "--out", "loose-out", "--json")
        record = json.loads(done.stdout)
        assert (record["n"], record["of"]) == (n, "prediction")
        assert record["attack"]["counts"]["attack"]["skipped"] == 0
        with np.load(home / "loose-out/maps.npz") as found:
            assert found["y"].tolist() == found["prediction"].tolist()
            assert found["x"][-1] == pytest.approx(x[1].numpy(), abs=1 / 255)


def test_explain_says_what_ails_a_folder_or_an_image(home: Path) -> None:
    from PIL import Image

    (home / "empty").mkdir()
    (home / "texts").mkdir()
    (home / "texts/a.txt").write_text("no image")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(home / "colour.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(home / "grey.png")
    for data, more, says in (
        ("empty", [], "empty holds no images; with labels"),
        ("texts", [], "without labels as texts/*.png"),
        ("colour.png", ["--size", "8"], "it takes grey images: convert them"),
        ("colour.png", ["--size", "7"], "give another --size or choose another model"),
        ("grey.png", [], "resize them (--size)"),
    ):
        done = run(home, "explain", "--model", "nets:build", "--data", data, *more, code=2)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--attack", "lens"], "give --threat"),
        (["--k", "5"], "--k belongs to the attack"),
        (["--region", "mask.png"], "--region belongs to the attack"),
        (["--threat", "linf:0.1", "--attack", "lense"], "did you mean lens"),
        (["--threat", "linf:0.1", "--steps", "0"], "--steps is 0"),
        (["--threat", "linf:0.1", "--w", "-1"], "--w is -1"),
        (["--threat", "linf:0.1", "--k", "64"], "--k is 64, a map has 64 pixels"),
        (["--threat", "lonf:0.1"], "linf"),
        (["--data", "missing.png"], "missing.png"),
    ],
)
def test_explain_refuses(home: Path, more: list[str], says: str) -> None:
    done = run(home, "explain", "--model", "nets:build", "--method", "saliency", "--n", "2", *more, code=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_audit_attacks_the_explanation_that_is_asked_for(home: Path) -> None:
    common = ("audit", "--model", "nets:build", "--threat", "linf:0.1", "--n", "8", "--steps", "2", "--json")
    out = ("--out", "reasons")
    done = run(home, *common, *out, "--reasons", "input-x-gradient", "--reasons-n", "3")
    found = json.loads(done.stdout)["reasons"]
    assert (found["explanation"], found["n"]) == ("input x gradient", 3)
    assert "Do the reasons survive?" in (home / "reasons/report.html").read_text(encoding="utf-8")
    changed = run(home, *common, *out, "--reasons", "none", code=2).stderr
    assert "options: explanation_attack was" in changed
    assert "did you mean saliency" in run(home, *common, "--reasons", "salience", code=2).stderr
    assert "--reasons none" in run(home, *common, "--reasons-n", "0", code=2).stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "--loss ig-norm --threat linf:0.1 --path 6 --attack-steps 3 --weight 2",
            "weight=2.0, path=6, inner_path=3, steps=3, inner=None",
        ),
        ("--loss ig-norm --threat linf:0.1 --base madry", "base=Madry(threat=Linf(eps=0.1"),
        ("--loss ig-sum-norm --threat linf:0.1 --inner pgd --attack-steps 5", "inner=pgd(steps=5, stop=False)"),
        (
            "--loss igr --threat linf:0.1 --attack-steps 4",
            "explain=integrated_gradients(steps=8, one_graph=True), base=Madry(",
        ),
        ("--loss igr --threat linf:0.1 --attack-steps 4", "steps=4, rule"),
        (
            "--loss igr --threat linf:0.1 --base trades --beta 3 --explain saliency --smooth 10",
            "explain=saliency, base=Trades(",
        ),
        ("--loss igr --threat linf:0.1 --base trades --beta 3 --explain saliency --smooth 10", "inner=None, beta=10.0"),
        ("--loss igr --threat linf:0.1 --base standard --attack-steps 3", "inner=pgd(steps=3, stop=False)"),
        ("--loss r2et --k 50 --weight 0.1", "R2et(k=50, pairs=10, weight=0.1"),
        ("--loss input-gradient", "InputGradient(weight=1.0, norm=2.0, base=Standard("),
        ("--loss input-gradient --base madry --threat l2:0.5", "base=Madry(threat=L2(eps=0.5"),
    ],
)  # fmt: skip
def test_attributional_losses_from_the_command_line(words: str, text: str) -> None:
    loss = parsed(words)
    assert text in str(loss)
    assert isinstance(loss, Ramp) is ("--threat" in words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--loss ig-norm", "--loss ig-norm needs an adversary"),
        (
            "--loss input-gradient --threat linf:0.1",
            "--loss input-gradient with --base standard trains against no adversary; leave --threat out, or "
            "choose --base madry or trades",
        ),
        ("--loss r2et --attack-steps 3", "leave --attack-steps out"),
        ("--loss r2et --base madry", "--loss r2et needs an adversary"),
        (
            "--loss madry --threat linf:0.1 --weight 1",
            "takes no --weight; leave it out, or choose step-ll, ig-norm, ig-sum-norm, igr, r2et, input-gradient",
        ),
        ("--loss igr --threat linf:0.1 --base fast", "there is no choice for --base 'fast'"),
        ("--loss igr --threat linf:0.1 --explain saliency --path 4", "--explain saliency has no path"),
        ("--loss igr --threat linf:0.1 --explain salience", "did you mean saliency"),
        ("--loss ig-norm --threat linf:0.1 --inner fgsm", "there is no choice for --inner"),
        ("--loss ig-norm --threat linf:0.1 --path 0", "--path is 0"),
        ("--loss igr --threat linf:0.1 --weight -1", "--weight is -1"),
        (
            "--loss standard --threat linf:0.1",
            "--loss standard trains against no adversary; leave --threat out, or choose madry or trades",
        ),
    ],
)  # fmt: skip
def test_attributional_losses_refuse_what_does_not_fit(words: str, said: str) -> None:
    with pytest.raises(BadOption) as refused:
        parsed(words)
    assert said in refused.value.spelled(as_flag)


def parsed(words: str) -> Any:
    """The loss that `unfooled train` would use."""
    import typer

    from unfooled.cli.app import app

    command: Any = typer.main.get_command(app)
    given = command.commands["train"].make_context("train", words.split()).params
    options = ("attack_steps", "beta", "weight", "base", "path", "inner", "explain", "smooth", "k")
    return make_loss(given["loss"], given["threat"], LossOptions(ramp=2.0, **{o: given[o] for o in options}))


def test_attributional_training_runs_and_resumes(home: Path) -> None:
    base = ("train", "--n", "64", "--batch", "32", "--watch", "32", "--epochs", "1", "--arch", "small-cnn")
    for loss, *more in (
        ("ig-norm", "--threat", "linf:0.05", "--path", "2", "--attack-steps", "1"),
        ("igr", "--threat", "linf:0.05", "--path", "2", "--attack-steps", "1"),
        ("r2et", "--k", "10"),
    ):
        words = (*base, "--loss", loss, *more, "--out", f"{loss}.pt")
        done = json.loads(run(home, *words, "--json").stdout)
        assert done["loss"] == loss
        assert done["held_out_accuracy"] is not None
        assert "was finished already" in run(home, *words).stdout
    said = run(home, *base, "--loss", "r2et", "--k", "12", "--out", "r2et.pt", code=2).stderr
    assert 'holds another training: loss was "R2et(k=10, ' in said
