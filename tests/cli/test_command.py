"""Options given twice are said; numbers that are none, and dead links, are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from unfooled.cli.app import run
from unfooled.cli.command import CheckedCommand
from unfooled.core.errors import BadInput
from unfooled.workflows.gating import Gate
from unfooled.workflows.places import check_file, check_folder
from unfooled.workflows.words import number

TWICE = {
    "audit --model a.pt --threat linf:0.1 --threat linf:0.2": "--threat is given 2 times; linf:0.2 counts",
    "audit --model a.pt --threat linf:0.1 --n 8 --n=9 --n 7": "--n is given 3 times; 7 counts",
    "attack --model=a.pt --model b.pt --threat linf:0.1": "--model is given 2 times; b.pt counts",
    "train --lr 1 --lr 2 --model absent.pt": "--lr is given 2 times; 2 counts",
    "report a b --out x --out y": "--out is given 2 times; y counts",
    "lens a b --k 3 --seed 1 --seed 2": "--seed is given 2 times; 2 counts",
    "lime text --model a.py:f --text b --top 3 --top 4": "--top is given 2 times; 4 counts",
    "purify apply x --out a --out b": "--out is given 2 times; b counts",
    "demo --n 1 --n 0": "--n is given 2 times; 0 counts",
}


@pytest.mark.parametrize("line", TWICE)
def test_an_option_that_is_given_twice_is_said(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2  # as there are no such files
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("unfooled: ")
    assert sentence.endswith(f" ({TWICE[line]})")


@pytest.mark.parametrize("code", [0, 3])
def test_an_option_that_is_given_twice_is_said_after_the_work(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command(cls=CheckedCommand)
    def work(n: int = 1) -> None:
        typer.echo(n)
        if code:
            raise typer.Exit(code)

    app(["--n", "2", "--n", "3"], standalone_mode=False)
    said = capsys.readouterr()
    assert said.out == "3\n"
    assert said.err == "note: --n is given 2 times; 3 counts\n"


@pytest.mark.parametrize(
    "line",
    [
        "lens absent.npy b --k 3 --k 4",
        "lens absent.npy b --k 3 4 --diverse --diverse",
        "lime table --model absent.py:f --train c --group a,b --group c,d",
        "audit --model absent.pt --threat linf:0.1 --fail-under a=1 --fail-under b=1 -q -q",
    ],
)
def test_lists_and_flags_may_be_given_again(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2
    assert "times" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "train --epochs HUGE", "train --batch HUGE", "attack --model a.pt --threat linf:0.1 --steps HUGE",
        "attack --model a.pt --threat linf:0.1 --restarts HUGE", "explain --model a.pt --threat linf:0.1 --w HUGE",
        "study broken-defences --seeds HUGE", "audit --model a.pt --threat linf:0.1 --batch HUGE",
        "features --model a.pt --out f --shard HUGE", "purify apply p --out q --n HUGE",
    ],
)  # fmt: skip
def test_numbers_that_nothing_counts_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    *_, option, _ = line.split()
    assert run(line.replace("HUGE", "1" + 30 * "0").split()) == 2
    assert capsys.readouterr().err == f"unfooled: {option} is 1{30 * '0'}; it must be at most {2**62}\n"


def test_a_link_that_leads_nowhere_is_no_place_for_results(tmp_path: Path) -> None:
    for name in ("loop", "net.npz"):
        (tmp_path / name).symlink_to(name if name == "loop" else "absent")
        for check in (check_file, check_folder):
            with pytest.raises(BadInput, match="is a link that leads nowhere"):
                check(tmp_path / name)
    (tmp_path / "real.npz").touch()
    (tmp_path / "good.npz").symlink_to("real.npz")
    assert check_file(tmp_path / "good.npz") == tmp_path / "good.npz"


def test_the_files_of_a_gate_are_named_by_their_options_and_differ(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^junit is .*, which is a folder"):
        Gate(junit=tmp_path).check(None)
    with pytest.raises(BadInput, match=r"^junit and sarif are both"):
        Gate(junit=tmp_path / "x", sarif=f"{tmp_path}/./x").check(None)
    Gate(junit=tmp_path / "x", sarif=tmp_path / "y").check(None)


@pytest.mark.parametrize("text", ["0.3", "8/255", ".5", "5.", "1E-3", "0", "0e-500", "+2", "-1", " 0.1 ", "1 / 2"])
def test_numbers(text: str) -> None:
    above, _, below = text.partition("/")
    assert number(text, "it") == float(above) / float(below or 1)


@pytest.mark.parametrize(
    "text", ["1_0", "\uff11", "\u0663", "nan", "inf", "1e400", "0x1", "1/2/3", "1/", "/2", "", "1/0", "1e", "."]
)
def test_words_that_are_no_numbers(text: str) -> None:
    with pytest.raises(BadInput, match=r"it is .*; write a number such as"):
        number(text, "it")


@pytest.mark.parametrize("text", ["1e-400", "1e-50", "-1e-400", "1/1e39", "0.00001e-400"])
def test_a_number_that_is_0_by_rounding_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="which is 0 in single precision"):
        number(text, "it")
