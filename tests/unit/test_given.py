"""Samples and labels as people have them: arrays, pictures, lists, one sample; and robust accuracy in one call."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks import pgd
from unfooled.core.given import as_samples, in_precision_of


@pytest.fixture(scope="module")
def case() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(6, 3, 4, 4)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: (x.numpy().astype(">f4"), y.numpy().astype(np.uint8)),
        lambda x, y: (np.asfortranarray(x.numpy()), y.tolist()),
        lambda x, y: (x, [np.int16(v) for v in y.tolist()]),
        lambda x, y: (x, y.int()),
        lambda x, y: (x.numpy()[::-1][::-1], y.numpy().astype("<u4")),
    ],
)
def test_arrays_and_lists_are_the_same_samples(case: tuple[nn.Sequential, Tensor, Tensor], change: Any) -> None:
    _, x, y = case
    got, labels = as_samples(*change(x, y))
    assert torch.equal(got, x)
    assert torch.equal(labels, y)
    assert labels.dtype is torch.int64


def test_a_read_only_array_is_copied(
    case: tuple[nn.Sequential, Tensor, Tensor],
) -> None:
    array = case[1].numpy().copy()
    array.flags.writeable = False
    got, _ = as_samples(array, case[2])
    got.zero_()
    assert np.array_equal(array, case[1].numpy())


@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1), np.array(1)])
def test_one_sample_gets_a_batch(case: tuple[nn.Sequential, Tensor, Tensor], label: Any) -> None:
    x, y = as_samples(case[1][0], label)
    assert x.shape == (1, 3, 4, 4)
    assert y.tolist() == [1]


def test_pictures_become_float_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    x, y = as_samples([colour, grey], [0, 1])
    assert x.shape == (2, 3, 5, 7)
    assert torch.equal(x[0], torch.from_numpy(pixels).movedim(-1, 0) / 255)
    assert torch.equal(x[1], (torch.from_numpy(pixels[:, :, 0]) / 255).expand(3, 5, 7))
    assert as_samples(grey, 0)[0].shape == (1, 1, 5, 7)
    assert y.tolist() == [0, 1]
    with pytest.raises(uf.BadInput, match="the images have 2 sizes"):
        as_samples([colour, Image.fromarray(pixels[:4])], [0, 1])
    with pytest.raises(uf.BadInput, match="give numbers"):
        as_samples(np.array(["a", "b"]), [0, 1])


def test_double_samples_meet_a_single_model_in_single(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, _ = case
    got, notes = in_precision_of(net, x.double())
    assert got.dtype is torch.float32
    assert "computed in float32" in notes[0]
    for kind in (torch.float16, torch.bfloat16):
        got, notes = in_precision_of(net, x.to(kind))
        assert got.dtype is torch.float32
        assert str(kind).removeprefix("torch.") in notes[0]
    for model in (nn.Linear(2, 2).double(), lambda z: z):
        got, notes = in_precision_of(model, x.double())
        assert (got.dtype, notes) == (torch.float64, ())


def test_an_audit_takes_them(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = case
    plan = uf.Plan(effort=uf.QUICK, reasons=None)
    of_tensors = uf.audit(net, x, y, uf.Linf(0.05), plan=plan)
    threat = uf.Linf([0.05] * 6)  # type: ignore[arg-type]
    of_arrays = uf.audit(net, x.double().numpy(), y.tolist(), threat, plan=plan)
    assert of_arrays.robust_accuracy == of_tensors.robust_accuracy
    assert any("float32" in text for text in of_arrays.warnings)


def test_robust_accuracy_is_the_share_that_stays_right(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    net, x, y = case
    wrong = y.clone()
    wrong[0] = (y[0] + 1) % 3
    linear = net[1]
    assert isinstance(linear, nn.Linear)
    margin = []
    for sample, label in zip(x.flatten(1), wrong.tolist(), strict=True):
        rival = min(
            ((linear(sample)[label] - linear(sample)[k]) / (linear.weight[label] - linear.weight[k]).abs().sum()).item()
            for k in range(3) if k != label
        )  # fmt: skip
        margin.append(rival)
    eps = sorted(margin)[3] * 1.02  # above four of six margins; the box is far
    expected = sum(m > eps for m in margin) / 6
    threat = uf.Linf(eps, box=uf.Box(-9, 9))
    assert uf.robust_accuracy(net, x, wrong, threat).value == pytest.approx(expected)
    weaker = uf.robust_accuracy(net, x, wrong, threat, attack=partial(pgd, steps=1)).value
    assert weaker is not None
    assert expected - 1e-9 <= weaker <= 5 / 6 + 1e-9
    assert uf.robust_accuracy(net, x, wrong, uf.Linf(0.0)).value == pytest.approx(5 / 6)


def test_an_answer_that_is_not_finite_is_not_robust() -> None:
    def broken(x: Tensor) -> Tensor:
        logits = torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)
        return torch.where((x.flatten(1) > 0.6).any(1)[:, None], torch.nan, logits)

    found = uf.robust_accuracy(broken, torch.full((2, 4), 0.5), [0, 0], uf.Linf(0.2), attack=lambda m, x, y, t: x + 0.2)
    assert found.value == 0
