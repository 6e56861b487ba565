"""The command `explain` on networks that answer some of the samples: it goes on, and counts the others apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unfooled import Linf, explanations, workflows
from unfooled.workflows import explaining
from unfooled.workflows.map_attack import MapAttack

pytestmark = pytest.mark.filterwarnings("ignore:The model returns NaN")
torch.manual_seed(0)
X, Y = torch.rand(8, 1, 6, 6) * 0.4 + 0.3, torch.arange(8) % 3
X[4:6, 0, 0, 0], X[[0, 1, 2, 3, 6, 7], 0, 0, 0] = 0.9, 0.5


class Partly(nn.Module):
    """A network without an answer where the first pixel is in some interval."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = low, high
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0]
        return self.net(x).masked_fill(((first >= self.low) & (first <= self.high))[:, None], torch.nan)


def run(model: nn.Module, out: Path, **options: Any) -> tuple[Any, Any]:
    inputs = workflows.Inputs(model.eval(), (X, Y))
    record = workflows.explain(inputs, out=out, **options)
    return record, np.load(out / "maps.npz")


@pytest.mark.parametrize(("method", "batch"), [("saliency", 1), ("smoothgrad", 2), ("smoothgrad", 4)])
def test_samples_without_an_answer_are_counted_whatever_the_batch(
    method: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "SAMPLES_AT_ONCE", batch)
    record, arrays = run(Partly(0.8, 1.0), tmp_path, method=method)
    assert (record.undefined, record.n) == (2, 8)
    assert np.isnan(arrays["attribution"]).all((1, 2, 3)).tolist() == [False] * 4 + [True] * 2 + [False] * 2
    plain = run(Partly(2, 2), tmp_path / "plain", method=method)[1]
    known = [0, 1, 2, 3, 6, 7]
    assert np.allclose(arrays["attribution"][known], plain["attribution"][known], atol=1e-5)
    assert arrays["prediction"][known].tolist() == plain["prediction"][known].tolist()
    assert arrays["prediction"][4:6].tolist() == [-1, -1]


@pytest.mark.parametrize("batch", [1, 4])
def test_maps_whose_path_has_no_answer_are_counted_whatever_the_batch(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "SAMPLES_AT_ONCE", batch)
    record, arrays = run(Partly(0.6, 0.8), tmp_path)  # passed on the way from black to the samples 4 and 5
    assert record.undefined == 2
    assert np.isnan(arrays["attribution"]).any((1, 2, 3)).nonzero()[0].tolist() == [4, 5]
    assert (arrays["prediction"] >= 0).all()


def test_the_page_and_an_attack_say_which(tmp_path: Path) -> None:
    attack = MapAttack(threat=Linf(0.02), steps=2)
    record, arrays = run(Partly(0.8, 1.0), tmp_path, method="saliency", of="prediction", attack=attack)
    assert record.undefined == 2
    assert [status == "skipped" for status in arrays["status"].tolist()] == [False] * 4 + [True] * 2 + [False] * 2
    page = (tmp_path / "report.html").read_text()
    assert len(re.findall(r"Sample [45], the model returned NaN or infinite logits", page)) == 2
    assert len(re.findall(r"Sample \d, explained", page)) == 6
    assert "nan" not in re.sub(r"<script.*?</script>|base64,[^\"]*", "", page, flags=re.S)


def test_an_attack_goes_on_where_the_first_samples_have_no_answer(tmp_path: Path) -> None:
    """Also where these are all of a part of the samples."""
    order = [4, 5, 0, 1]
    inputs = workflows.Inputs(Partly(0.8, 1.0).eval(), (X[order], Y[order]))
    attack = MapAttack(threat=Linf(0.02), steps=2)
    workflows.explain(inputs, out=tmp_path, method="saliency", of="prediction", attack=attack)
    statuses = np.load(tmp_path / "maps.npz")["status"].tolist()
    assert [status == "skipped" for status in statuses] == [True, True, False, False]


def test_a_model_that_never_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN or infinite logits for 8 of 8 clean samples"):
        run(Partly(0, 1), tmp_path)
    with pytest.raises(ValueError, match="for every sample"):
        run(Partly(0, 0.2), tmp_path)  # on every path


def test_the_library_still_refuses_what_answers_nowhere() -> None:
    with pytest.raises(ValueError, match="nothing to explain"):
        explanations.saliency(Partly(0, 1).eval(), X, Y)
