"""Attention in numbers: completeness with a known answer, movement of hand-made maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unfooled.evaluation.explanations.attention import attend, attention_moved, attention_records


class Bright(nn.Module):
    """Class 0 counts what is brighter than one half, wherever it is; class 1 is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.conv.weight, 1.0)
        nn.init.constant_(self.conv.bias, -0.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, 2)."""
        z = torch.relu(self.conv(x)).mean((2, 3))
        return torch.cat([z, 0 * z], 1)


def scene(i: int, j: int) -> torch.Tensor:
    x = torch.zeros(1, 1, 8, 8)
    x[..., i : i + 4, j : j + 4] = 1.0
    return x


def test_completeness_of_one_patch() -> None:
    x, y = torch.cat([scene(0, 0), scene(4, 2)]), torch.tensor([0, 0])
    mask = x[:, 0]
    parts = torch.stack([mask, torch.zeros_like(mask)], 1)
    found = attention_records(Bright(), x, y, mask=mask, parts=parts)
    assert found["complete"].tolist() == pytest.approx([1, 1])
    assert found["elsewhere"][0] == pytest.approx(0, abs=1e-6)
    assert found["area"].tolist() == [0.25, 0.25]
    assert found["iou_matched"].tolist() == found["pointing"].tolist() == found["part_recall"].tolist() == [1, 1]
    assert bool((found["coverage"] > 0.25).all())
    assert found["lead"].tolist() == pytest.approx([0.125, 0.125])
    assert not found["flat"].any()
    assert found["p"].shape == (2, 8, 8)


def test_without_a_box_nothing_is_said_of_the_object() -> None:
    x, y = torch.cat([scene(0, 0), scene(4, 2)]), torch.tensor([0, 0])
    mask = x[:, 0] * torch.tensor([1.0, 0.0])[:, None, None]
    found = attention_records(Bright(), x, y, mask=mask, parts=mask[:, None])
    for name in ("area", "coverage", "recall", "iou_matched", "pointing", "part_recall"):
        assert found[name].isnan().tolist() == [False, True], name
    assert not found["complete"].isnan().any()
    whole = attention_records(Bright(), x[:1], y[:1], mask=mask[:1], parts=mask[:1, None])
    for name, value in whole.items():
        torch.testing.assert_close(found[name][:1], value)


def test_half_of_the_evidence_is_half_complete() -> None:
    x = torch.cat([scene(0, 0), scene(0, 0)])
    x[1, 0, 4:, 4:] = 1.0  # two patches of equal worth, of which a quarter of the cells takes one
    found = attention_records(Bright(), x, torch.tensor([0, 0]), share=0.25)
    assert found["complete"].tolist() == pytest.approx([1, 0.5])


def test_without_evidence_it_is_undefined() -> None:
    found = attention_records(Bright(), torch.full((1, 1, 8, 8), 0.2), torch.tensor([0]))
    assert bool(found["complete"].isnan().all())
    assert bool(found["flat"].all())


def test_records_do_not_depend_on_the_batch() -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0, 1, 0])
    whole = attention_records(Bright(), x, y)
    alone = attention_records(Bright(), x[3:4], y[3:4])
    for name, value in alone.items():
        assert torch.allclose(whole[name][3:4].float(), value.float(), atol=1e-6, equal_nan=True), name
    assert torch.allclose(attend(Bright(), x, y, batch=2), whole["p"])


def test_what_moved_by_hand() -> None:
    a, b = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    a[0, 0, 0] = b[0, 3, 3] = 1.0
    found = attention_moved(a, b, share=1 / 16)
    assert float(found["centroid_shift"]) == pytest.approx(0.75)
    assert float(found["js"]) == pytest.approx(0.6931, abs=1e-3)
    assert float(found["parted"]) == 1
    assert float(found["entropy"]) == float(found["spread"]) == float(found["components"]) == 0
    uniform = torch.full((1, 4, 4), 1 / 16)
    spread = attention_moved(a, uniform, share=1 / 16)
    assert float(spread["entropy"]) == pytest.approx(1)
    assert float(spread["spread"]) > 0.05
    assert float(attention_moved(uniform, a)["entropy"]) == pytest.approx(-1)
