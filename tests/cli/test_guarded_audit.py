"""`audit --purify`: a saved purifier or a user's function in front of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import unfooled as uf
from unfooled import workflows
from unfooled.cli import show
from unfooled.core.errors import BadInput
from unfooled.features import Encoder
from unfooled.purification import fit_purifier
from unfooled.workflows import AuditOptions, BadOption, Inputs, Machine
from unfooled.workflows.guarding import check_purifier, guarded_by, read_purifier

CODE = """
import torch

def half(x):
    return x * 0.5

def shorter(x):
    return x[..., 1:]

def failing(x):
    raise RuntimeError("no images today")

def random(x):
    return (x + 0.1 * torch.rand_like(x)).clamp(0, 1)

number = 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    return "mine.py"


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def test_a_function_of_the_user(code: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = AuditOptions(attack="pgd", steps=1, reasons="none", purify=f"{code}:half")
    summary = workflows.audit(
        Inputs(net(), n=4), "linf:0.1", options=options, out=tmp_path / "run", machine=Machine("cpu")
    )
    assert summary.options["purify"] == f"{code}:half"
    assert summary.guard is not None
    assert summary.verdict == "NOT EVALUABLE"
    record = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert record["robust_accuracy"]["value"] is None
    assert "static" in record["guard"]["missing"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "not stated (missing: static, bpda, bpda-low-pass, end-to-end, low-frequency, black-box)" in page
    show.verdict(summary)
    said = capsys.readouterr().out
    assert "robust accuracy not stated (missing: static," in said
    assert "What the purifier adds is not stated" in said
    show.summaries([summary])
    assert "not stated (missing: static," in " ".join(capsys.readouterr().out.split())


def test_whether_it_is_random_is_seen(code: str) -> None:
    x = torch.rand(2, 1, 8, 8)
    assert guarded_by(net(), f"{code}:random", x).stochastic
    assert not guarded_by(net(), f"{code}:half", x).stochastic
    assert guarded_by(net(), lambda z: z.clone(), x).purify(x).shape == x.shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shorter", "must keep the shape"),
        (
            "failing",
            r"the purifier fails on samples of shape \(1, 8, 8\), torch.float32, with RuntimeError: no images today",
        ),
        ("number", "purify='mine.py:number' is a int; give a function"),
        ("missing", "has no 'missing'"),
    ],
)
def test_functions_that_cannot_be_used(code: str, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        guarded_by(net(), f"{code}:{name}", torch.rand(2, 1, 8, 8))


def own_net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()


def test_a_purifier_of_own_code_takes_its_encoder_from_the_model(tmp_path: Path) -> None:
    x, y = uf.load_data("digits", "train", n=60)
    net = own_net(0)
    purify = fit_purifier(Encoder(net, "1"), x, y, seed=0, atoms=4, size=4, max_clusters=1)
    purify.save(tmp_path / "p")
    again = guarded_by(own_net(0), tmp_path / "p", x[:2])
    assert torch.equal(again.purify(x[:4]), purify(x[:4]))
    for other in (own_net(1), nn.Linear(64, 10)):
        with pytest.raises(BadOption, match=r"no layer of the model; give a function that loads it, purify='file.py"):
            guarded_by(other, tmp_path / "p", x[:2])
    with pytest.raises(BadOption, match="no layer of the model"):
        read_purifier(tmp_path / "p")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="there is no such folder"):
        check_purifier(str(tmp_path / "absent"))
    with pytest.raises(BadOption, match=r"give a folder, file\.py:name"):
        check_purifier("")
    with pytest.raises(BadOption, match="there is no such folder"):
        AuditOptions(purify="absent").check(workflows.auditing.threat_of("linf:0.1"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="purifier"):
        read_purifier(tmp_path / "empty")


def test_a_saved_purifier(tmp_path: Path) -> None:
    from unfooled.core.model.classifier import Classifier
    from unfooled.features import Encoder
    from unfooled.models import SmallCnn
    from unfooled.purification import fit_purifier

    model = Classifier(SmallCnn(width=4)).eval()
    x = torch.rand(20, 1, 8, 8)
    encode = Encoder(model, model.layers()[-1])
    fitted = fit_purifier(encode, x, torch.arange(20) % 2, seed=0, size=4, atoms=4, max_clusters=1, min_size=5)
    fitted.save(tmp_path / "saved")
    read = guarded_by(model, str(tmp_path / "saved"), x)
    with torch.no_grad():
        assert torch.equal(read.purify(x), fitted(x))
