"""The exit code of the command is its own, whatever code of the model or the data does to end the process."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from unfooled.cli.app import main, run
from unfooled.cli.errors import guarded

CODE = '''
import atexit, os, sys, threading, time
import torch
from torch import nn

class Net(nn.Module):
    """Wrong on nearly all samples; it does something at one of its calls."""
    def __init__(self, at=0, act=lambda: None):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.at, self.act, self.calls = nn.Linear(64, 10), at, act, 0
    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return self.head(x.flatten(1))

class Other(BaseException):
    pass

def wrong(): return Net().eval()
def factory(): os._exit(0)
def posix():
    import posix
    posix._exit(0)
def forward(): return Net(1, lambda: os._exit(0)).eval()
def later(): return Net(4, lambda: os._exit(0)).eval()
def thread(): return Net(3, lambda: threading.Thread(target=os._exit, args=(0,)).start()).eval()
def at_exit():
    atexit.register(os._exit, 0)
    return Net().eval()
def at_exit_function():
    atexit.register(lambda: os._exit(0))
    return Net().eval()
def replaced(): os.execv("/bin/true", ["true"])
def replaced_by_name(): os.execlp("true", "true")
def replaced_in_forward(): return Net(1, lambda: os.execve("/bin/true", ["true"], {})).eval()
def replaced_at_exit():
    atexit.register(os.execl, "/bin/true", "true")
    return Net().eval()
def of_a_child():
    child = os.fork()
    if child == 0:
        os.execv("/bin/true", ["true"])
    assert os.waitpid(child, 0)[1] == 0
    return Net().eval()
def exits_late(): return Net(4, lambda: sys.exit(0)).eval()
def other():
    raise Other("unusual")
def key(): return Net(1, lambda: {}["inner"]).eval()
def interrupted():
    raise KeyboardInterrupt
def data(): os._exit(0)
'''
BASE = ("audit", "--data", "digits", "--n", "8", "--threat", "linf:0.1", "--effort", "quick", "--reasons", "none")
GATE = ("--quiet", "--fail-under", "robust_accuracy=0.0")


def ended(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command in a forked process, its functions at exit too; return the code and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            end, code = os._exit, 97
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                os.chdir(folder)
                atexit._clear()
                sys.argv = ["unfooled", *arguments]
                main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
                atexit._run_exitfuncs()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                end(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate")
    (path / "nets.py").write_text(CODE)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("factory", "code", "expected"),
    [
        ("factory", 2, "factory() raised SystemExit: os._exit(0) was called"),
        ("posix", 2, "posix() raised SystemExit: os._exit(0) was called"),
        ("forward", 2, "fails on samples from digits with SystemExit: os._exit(0) was called; mend its forward"),
        ("later", 2, "os._exit(0) was called"),
        ("replaced", 2, "replaced() raised SystemExit: os.execv('/bin/true') was called"),
        ("replaced_by_name", 2, "was called"),
        ("replaced_in_forward", 2, "SystemExit: os.execve('/bin/true') was called; mend its forward"),
        ("replaced_at_exit", 3, "NOT EVALUABLE"),
        ("of_a_child", 3, "NOT EVALUABLE"),
        ("exits_late", 2, "SystemExit: 0"),
        ("interrupted", 130, "interrupted"),
        ("other", 2, "raised Other: unusual"),
        ("key", 2, "with KeyError: 'inner'; mend its forward"),
        ("thread", 3, "NOT EVALUABLE"),
        ("at_exit", 3, "NOT EVALUABLE"),
        ("at_exit_function", 3, "NOT EVALUABLE"),
        ("wrong", 3, "NOT EVALUABLE"),
    ],
)
def test_no_code_of_a_model_passes_the_gate_by_ending_the_process(
    folder: Path, factory: str, code: int, expected: str
) -> None:
    status, output = ended(folder, *BASE, "--model", f"nets.py:{factory}", *GATE)
    assert status == code, output
    assert expected in " ".join(output.split())
    assert "Traceback" not in output
    assert "--size" not in output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_code_of_the_data_does_not_end_the_process(folder: Path) -> None:
    status, output = ended(folder, *BASE, "--model", "nets.py:wrong", "--data", "nets.py:data", *GATE)
    assert status == 2, output
    assert "os._exit(0) was called" in output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_closed_output_passes_no_gate(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = os.fork()
    if child == 0:
        end, code = os._exit, 97
        try:
            os.dup2(writer, 1)
            sys.stdout = os.fdopen(1, "w")
            os.chdir(folder)
            atexit._clear()
            code = run(["doctor"])
        except BaseException:
            traceback.print_exc()
        finally:
            end(code)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 141


def test_a_broken_pipe_of_other_code_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def pipe() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def ended_by_typer() -> None:
        try:
            pipe()
        except OSError:
            sys.exit(1)

    for call in (pipe, ended_by_typer):
        assert guarded(call) == 2
        assert capsys.readouterr().err == "unfooled: Broken pipe\n"
