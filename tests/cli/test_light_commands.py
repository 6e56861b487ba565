"""Commands that need no tensors import no torch: help, reports, evidence, and the refusal of missing files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.report_runs import fabricate

HEAVY = "{'torch', 'matplotlib', 'scipy', 'sklearn', 'lightning_fabric'}"
RUN = f"""
import contextlib, io, sys
from unfooled.cli.app import run

def check(*arguments, code=0):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = run(list(arguments))
    text = out.getvalue() + err.getvalue()
    assert ended == code, (arguments, ended, text)
    imported = {HEAVY} & set(sys.modules)
    assert not imported, (arguments, imported)
    return text
"""
COMMANDS = (
    "demo", "audit", "train", "attack", "certify", "explain", "lens", "lime", "lime image", "lime text", "lime table",
    "lime pick", "counterfactual", "features", "purify", "purify fit", "purify apply", "merge", "report", "evidence",
    "study", "doctor",
)  # fmt: skip


def light(home: Path, *lines: str) -> str:
    """Run lines in a process of their own, and return what they print."""
    code = "\n".join([RUN, *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_version_import_nothing_heavy(tmp_path: Path) -> None:
    from unfooled.cli.app import app

    listed = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert listed == {name.split()[0] for name in COMMANDS}
    lines = [f"assert 'Usage' in check(*{name.split()!r}, '--help')" for name in COMMANDS]
    light(tmp_path, *lines, "assert check('--version').startswith('unfooled 0.')")


def test_a_report_and_evidence_import_nothing_heavy(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", title="first")
    fabricate(tmp_path / "b", title="second")
    shown = light(
        tmp_path,
        "check('report', 'a', 'b', '--out', 'page.html')",
        "check('report', 'a', '--out', 'one.html', '--json')",
        "print(check('evidence', 'a'))",
        "print(check('evidence', 'a', '--format', 'annex-iv'))",
    )
    assert "Robust accuracy" in shown
    assert "svg" in (tmp_path / "page.html").read_text()


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform != "linux", reason="torch is asked for the devices")
def test_doctor_imports_nothing_heavy(tmp_path: Path) -> None:
    shown = light(tmp_path, "print(check('doctor', '--json'))")
    assert f'"torch": "{torch.__version__}"' in shown
    assert "GiB free" in shown


MISSING = {
    "audit model": ("audit --model absent.pt --threat linf:0.1", "no file absent.pt"),
    "audit data": ("audit --model net:build --data absent.npz --threat linf:0.1", "no data 'absent.npz'"),
    "audit bound": ("audit --model net:build --threat linf:0.1 --fail-under robustness=1", "robust_accuracy.low=0.4"),
    "attack": ("attack --model there/absent.onnx --threat linf:0.1", "nor a folder there"),
    "certify": ("certify --model absent.th --threat linf:0.1 --out p.safetensors", "no file absent.th"),
    "explain": ("explain --model absent.pt2", "no file absent.pt2"),
    "counterfactual": ("counterfactual --model absent.pth --data x.png --attributes a.csv", "no file absent.pth"),
    "features": ("features --model net:build --data absent --kind robust --out f.npz", "no data 'absent'"),
    "train": ("train --data digitz --out net.pt", "did you mean digits"),
    "purify fit": ("purify fit --model absent.ckpt --out p", "no file absent.ckpt"),
    "lime image": ("lime image --model absent.skops", "no file absent.skops"),
    "lens": ("lens absent.npy other.npy --k 5", "no file absent.npy"),
    "report": ("report absent", "absent is not a run folder"),
    "evidence": ("evidence absent", "absent is not a run folder"),
    "merge": ("merge absent --out whole", "absent does not exist"),
}  # fmt: skip


def test_missing_files_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    lines = [
        f"text = check(*{command.split()!r}, code=2)\nassert {said!r} in text, text"
        for command, said in MISSING.values()
    ]
    light(tmp_path, *lines)
