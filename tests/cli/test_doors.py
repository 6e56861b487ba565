"""Doors of the command: what users write is no markup, what cannot be used is refused first, mends name options."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from benchmarks.reliability import bad_inputs, untrusted_files
from benchmarks.reliability.calls import Called
from rich.console import Console
from tests.cli.test_cli import run
from tests.conftest import tiny_net
from tests.unit.report_runs import fabricate, judged, summary

from unfooled import BadInput, workflows
from unfooled.cli import show
from unfooled.cli.app import app
from unfooled.cli.errors import as_flag
from unfooled.core.errors import option
from unfooled.core.threats import L0, L1, L2, Linf
from unfooled.models import SmallCnn
from unfooled.report import render
from unfooled.workflows import BadOption, Inputs, LossOptions, Machine, Recipe, make_loss
from unfooled.workflows.places import check_file, check_folder
from unfooled.workflows.words import at_least, check_reach, numbers, size_of, statistics, threat_of

HOSTILE = "[/red]x\x1b[2J\x9b31m\u202e[bold]:smile:"


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    """As in `unfooled audit --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from unfooled.cli.app import main; sys.argv = ['unfooled', 'audit', '--help']; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doors")
    net = SmallCnn((1, 8, 8), 10)
    torch.save({"model": net.state_dict(), "arch": "small-cnn", "input_shape": [1, 8, 8]}, folder / "net.pt")
    return folder


def test_titles_and_models_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_ = summary(
        **judged("OVERSTATED"), title=HOSTILE, model=HOSTILE, data=HOSTILE, warnings=[HOSTILE], threat=HOSTILE
    )
    show.summaries([run_])
    show.verdict(run_)
    show.page(Path(HOSTILE))
    show.record(run_)
    text = capsys.readouterr().out
    assert "[/red]x\\x1b[2J" in text
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert ":smile:" in text and "\N{SMILING FACE WITH OPEN MOUTH AND SMILING EYES}" not in text
    assert json.loads(text[text.index("\n{") :])["title"] == HOSTILE


def test_progress_takes_any_name() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "err", console)
        with show.stages(False) as progress:
            progress(HOSTILE, 1, 3)
            progress(HOSTILE, 3, 3)


def test_the_page_shows_control_characters(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", title=HOSTILE)
    record = tmp_path / "a/summary.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"classes": [HOSTILE, *"bcdefghij"]}))
    page = render([tmp_path / "a"], tmp_path / "page.html").read_text()
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "[/red]x\\x1b[2J" in shown
    assert not set("\x1b\x9b\u202e") & set(shown)


def test_class_names_are_no_formulas(home: Path) -> None:
    names = home / "names.txt"
    names.write_text("\n".join(["$\\frac", "$x_", "[/b]", "\x1b[31mred", *"efghij"]))
    done = run(home, "explain", "--model", "net.pt", "--method", "saliency", "--n", "4", "--labels", "names.txt")
    assert "maps.png" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["audit", "--out", ""], "--out is empty"),
        (["audit", "--title="], "--title is empty"),
        (["report", " "], "an argument is empty"),
        (["train", "--threads", "[/red]"], "Invalid value for '--threads'"),
        (["audit", "--modle", "x"], "No such option"),
        (["audit"], "Missing option '--model'"),
        (["adit"], "No such command"),
    ],
)
def test_usage_errors_are_one_sentence(home: Path, words: list[str], says: str) -> None:
    done = run(home, *words, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


EARLY = [
    ("demo --n 0", "--n is 0"),
    ("demo --out net.pt", "cannot write net.pt"),
    ("demo --device meta", "--device meta cannot be used"),
    ("train --out net.txt", "give --out net.pt"),
    ("train --precision 8-bit", "--precision"),
    ("train --weight-decay -1", "--weight-decay is -1"),
    ("train --lr inf", "--lr"),
    ("train --loss trades --threat linf:0.1 --beta -1", "--beta is -1"),
    ("train --loss madry --threat linf:0.1 --beta 2", "takes no --beta"),
    ("train --loss madry --threat linf:0.1 --epochs 2 --ramp 3", "--ramp is 3"),
    ("train --arch nets.py:Net", "--arch nets.py:Net: a network from elsewhere needs weights to start from, --model"),
    ("train --ramp 3", "--ramp raises an adversary's eps"),
    ("attack --model net.pt --threat linf:0.1 --out adv.txt", "give --out adv.npz"),
    ("attack --model net.pt --threat l0:3.5", "whole number, such as l0:3"),
    ("audit --model net.pt --threat linf:0.1 --chunk 0", "--chunk is 0"),
    ("audit --model net.pt --threat linf:0.1 --mean 127", "divide those of bytes by 255"),
    ("audit --model net.pt --threat linf:0.1 --channels 2", "--channels is 2"),
    ("audit --model net.pt --threat linf:nan", "write a number"),
    ("audit --model net.pt --threat linf:0.1 --out run.json", "the name of a folder"),
    ("audit --model net.pt --threat linf:0.1 --threads 1000000", "--threads is 1000000"),
    ("audit --model net.pt --threat linf:0.1 --device cpu:3", "--device cpu:3"),
    ("explain --model net.pt --out net.pt", "cannot write net.pt"),
    ("features --model net.pt --out set.txt", "the name of a folder"),
    ("lens a.npy a.npy --k 0", "--k is 0"),
    ("report run --out .", "which is a folder"),
    ("study broken-defences --out net.pt", "cannot write net.pt"),
    ("study broken-defences --seeds 1000000000", "--seeds is 1000000000"),
]


@pytest.mark.parametrize(("line", "says"), EARLY)
def test_what_cannot_be_used_is_refused_before_anything_is_loaded(
    home: Path, line: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded before it was checked")

    for name in ("inputs.load_model", "inputs.load_dataset", "training.load_dataset", "scoring.read_maps"):
        monkeypatch.setattr(f"unfooled.workflows.{name}", late)
    before = sorted(home.iterdir())
    assert says in run(home, *line.split(), code=2).stderr
    assert sorted(home.iterdir()) == before


def test_places_are_tried(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "a/b/c") == tmp_path / "a/b/c"
    assert check_file(tmp_path / "a/b.npz", (".npz",)) == tmp_path / "a/b.npz"
    assert not list(tmp_path.iterdir())
    for out in ("", " ", "a\0b", "/proc/x", "/dev/null", "x" * 300):
        for check in (check_folder, check_file):
            with pytest.raises(BadOption):
                check(out)


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "-inf", "1/0", "x", ""])
def test_numbers_are_finite(value: str) -> None:
    for text in (value, f"0.5,{value}"):
        with pytest.raises(BadOption, match="write a number"):
            numbers(text, "{mean}")
    with pytest.raises(BadOption):
        threat_of(f"l2:{value}")


def test_sizes_statistics_and_bounds() -> None:
    assert (size_of("8"), size_of("8x9"), size_of((8, 9)), size_of(None)) == ((8, 8), (8, 9), (8, 9), None)
    for wrong in ("8x", "x8", "8x9x3", "-8", (0, 8), "8.5", "\u0664x\u0664" * 9):
        with pytest.raises(BadOption, match="size is"):
            size_of(wrong)
    assert statistics("0.5", [0.2, 0.1]) == ([0.5], [0.2, 0.1])
    for mean, std in ((127.5, None), (None, 0.0), (None, -1.0), (float("nan"), None), (None, [0.1, float("inf")])):
        with pytest.raises(BadOption, match="of the range"):
            statistics(mean, std)
    at_least("n", None, 1)
    for value in (0.0, float("nan"), float("inf")):
        with pytest.raises(BadOption):
            at_least("n", value, 1)
    with pytest.raises(BadOption, match="smooth is inf; it must be above 0, and finite"):
        at_least("smooth", float("inf"), 0, above=True)


@pytest.mark.parametrize("field", ["beta", "ramp", "remove", "align", "weight", "rectify", "preserve", "smooth"])
def test_options_of_losses_are_not_negative(field: str) -> None:
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadOption):
            make_loss("trades", "linf:0.1", replace(LossOptions(), **dict[str, Any]({field: value})))


def test_one_class_cannot_be_trained(tmp_path: Path) -> None:
    data = (torch.rand(20, 1, 8, 8), torch.full((20,), 3))
    with pytest.raises(BadInput, match="one class, 3; training needs two"):
        workflows.train(data, out=tmp_path / "net.pt", recipe=Recipe(epochs=1), machine=Machine("cpu"))


@pytest.mark.parametrize("names", [["a"] * 10, [*"abcdefghi", "A"], ["x", "X_"]])
def test_class_names_that_are_one_are_refused(tmp_path: Path, names: list[str]) -> None:
    x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % len(names)
    (tmp_path / "names.txt").write_text("\n".join(names))
    net = tiny_net()
    with pytest.raises(BadInput, match="share a name"):
        Inputs(net, (x, y), labels=tmp_path / "names.txt").load("cpu")
    with pytest.raises(BadInput, match="share a name"):
        Inputs(net, (x, y, names)).load("cpu")


def test_grey_images_for_a_colour_model(home: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    with pytest.raises(BadInput, match=r"it takes colour images: convert them, channels=3"):
        Inputs(net, n=8).load("cpu")
    loaded = Inputs(net, n=8, channels=3).load("cpu")
    assert loaded.x.shape == (8, 3, 8, 8)
    assert Inputs(net, n=8, channels=3).options["channels"] == 3
    assert "channels" not in Inputs(net, n=8).options


def test_mends_name_options_that_exist(home: Path) -> None:
    np.savez(home / "outside.npz", x=np.full((10, 1, 8, 8), 3.0), y=np.arange(10))
    base = ("audit", "--model", "net.pt", "--threat", "linf:0.1", "--n", "8")
    assert "--mean and --std" in run(home, *base, "--data", "outside.npz", code=2).stderr
    with pytest.raises(BadInput, match="mean and std, or Classifier"):
        Inputs(tiny_net(), home / "outside.npz").load("cpu")
    torch.save(SmallCnn((1, 8, 8), 10).state_dict(), home / "bare.pt")
    said = run(home, "audit", "--model", "bare.pt", "--threat", "linf:0.1", code=2).stderr
    assert "give --arch: its weights have the names of small-cnn" in said


@pytest.mark.parametrize(
    ("command", "threat", "most"),
    [
        ("audit", "l0:65", "64"),
        ("audit", "l0-pixel:70", "64"),
        ("audit", "l2:128", "8"),
        ("attack", "l1:65", "64"),
        ("attack", "l2:8.1", "8"),
    ],
)
def test_a_radius_that_allows_anything_is_refused(home: Path, command: str, threat: str, most: str) -> None:
    said = run(home, command, "--model", "net.pt", "--n", "8", "--threat", threat, code=2).stderr
    words = " ".join(said.split())
    assert f"two samples of shape (1, 8, 8) are at most {most} apart, so a radius of" in words
    assert f"--threat {threat}" in words


def test_the_largest_radius_is_none_too_large() -> None:
    for norm in (L0(64.0), L1(64.0), L2(8.0), Linf(1.0), L0(64.0, per="pixel")):
        check_reach(norm, torch.rand(3, 1, 8, 8))
    check_reach(L0(64.0, per="pixel"), torch.rand(3, 3, 8, 8))
    with pytest.raises(BadInput, match="at most 64 apart"):
        check_reach(L0(65.0, per="pixel"), torch.rand(3, 3, 8, 8))


def test_every_option_in_a_message_is_one_of_the_command_line() -> None:
    source = Path(__file__).resolve().parents[2] / "src/unfooled"
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    used = set(re.findall(r"\{option\(['\"](\w+)['\"]", text))
    commands = list(typer.main.get_command(app).commands.values())  # type: ignore[attr-defined]
    commands += [inner for command in commands for inner in getattr(command, "commands", {}).values()]
    flags = {flag for command in commands for parameter in command.params for flag in parameter.opts}
    assert {as_flag(name) for name in used} <= flags
    assert {"trust_pickle", "max_pixels", "max_bytes", "max_classes", "channels"} <= used
    assert option("n") not in text


def test_the_scripts_of_bad_input_cover_every_subcommand(tmp_path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    tried = {line.split()[0] for line, _ in bad_inputs.CALLS}
    assert set(commands) - {"doctor"} <= tried
    assert len(bad_inputs.CALLS) >= 100
    assert len({case.name for case in untrusted_files.CASES}) == len(untrusted_files.CASES) >= 40
    done = Called(0, "", "unfooled: it is \x1b[31mred\nTraceback (most recent call last):", 0.1, 0)
    assert done.faults("green") == ["accepted", "traceback", "escape codes", "does not say 'green'"]
    assert not Called(2, "", "unfooled: n is 0", 0.1, 0).faults("N is")
