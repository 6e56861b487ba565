"""What commands cost besides their work, and training in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unfooled as uf
from unfooled.workflows import BadOption, training
from unfooled.workflows.recipe import Network, Recipe


def trained(out: Path, precision: str = "32-true") -> dict[str, torch.Tensor]:
    """Return the weights of a small network after two epochs."""
    recipe = Recipe(epochs=2, n=200, batch=50, augment="shifts", precision=precision)
    uf.train("digits", "madry", threat="linf:0.1", network=Network(arch="small-cnn"), recipe=recipe, out=out)
    return uf.load_model(str(out), "small-cnn").state_dict()


def test_one_process_trains_without_fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "PLAIN_PRECISION", ())
        through_fabric = trained(tmp_path / "fabric.pt")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    alone = trained(tmp_path / "alone.pt")
    assert alone.keys() == through_fabric.keys()
    assert all(torch.equal(alone[name], through_fabric[name]) for name in alone)
    with pytest.raises(ImportError):
        trained(tmp_path / "half.pt", "bf16-mixed")


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's OpenMP prints its spins")
@pytest.mark.parametrize(("given", "want"), [(None, "0"), ("active", "30000000000")])
def test_threads_of_a_command_wait_asleep_unless_told_otherwise(given: str | None, want: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "verbose"}
    environment.pop("GOMP_SPINCOUNT", None)
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    command = [sys.executable, "-m", "unfooled", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch was built with another OpenMP")
    assert f"GOMP_SPINCOUNT = '{want}'" in done.stderr


def test_training_in_double_precision_is_judged_in_it(tmp_path: Path) -> None:
    single, _ = trained(tmp_path / "single.pt"), trained(tmp_path / "double.pt", "64-true")
    weights = torch.load(tmp_path / "double.pt")["model"]
    assert {value.dtype for value in weights.values()} == {torch.float64}
    assert not all(torch.equal(value.float(), single[f"module.{name}"]) for name, value in weights.items())


def test_training_starts_from_weights(tmp_path: Path) -> None:
    for model in ("mine.py:net", "timm:resnet18"):
        with pytest.raises(BadOption, match=f"{model} is no file of weights; to train that network further, save its"):
            uf.train("digits", network=Network(model=model), out=tmp_path / "net.pt")
