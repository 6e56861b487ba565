"""Rendered shapes: masks that are exact, twins that change one factor, labels and spurious factors as asked for."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import unfooled
from unfooled.core.errors import BadInput
from unfooled.data import load_dataset, load_shapes
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS, PARTS, SIZES, Shapes, attributes_of, render


@pytest.fixture(scope="module")
def some() -> Shapes:
    return load_shapes(300, split="val")


def test_what_there_is(some: Shapes) -> None:
    assert len(ATTRIBUTES) == sum(len(v) for v in FACTORS.values()) == 26
    assert some.x.shape == (300, 3, 32, 32)
    assert some.x.dtype == torch.float32
    assert 0 <= some.x.min() < some.x.max() <= 1
    assert some.attributes.shape == (300, 26)
    assert some.attributes.sum(1).eq(len(FACTORS)).all()
    assert some.parts.shape == (300, len(PARTS), 32, 32)
    assert len(some) == 300
    assert unfooled.load_shapes is load_shapes


def test_the_label_is_the_rule_and_linear_in_the_attributes(some: Shapes) -> None:
    f = some.factors
    torch.testing.assert_close(some.y, 2 * (f[:, 0] <= 1).long() + (f[:, 1] <= 2).long())
    weight = torch.tensor([2 * (a in ("shape=disc", "shape=ring")) + (a[7:] in ("red", "orange", "yellow"))
                           for a in ATTRIBUTES]).float()  # fmt: skip
    torch.testing.assert_close(some.attributes @ weight, some.y.float())
    assert load_shapes(50, rule="shape").y.tolist() == load_shapes(50, rule="shape").factors[:, 0].tolist()
    own = load_shapes(50, rule=lambda f: f[:, 2] % 2)
    assert own.y.tolist() == (own.factors[:, 2] % 2).tolist()
    assert own.classes == ("0", "1")


@pytest.mark.parametrize("name", ["object", "distractor"])
def test_a_mask_is_what_changes_when_the_thing_is_removed(some: Shapes, name: str) -> None:
    gone, masks = render(some.factors.numpy(), some.nuisance.numpy(), without=name)
    changed = (torch.from_numpy(gone) != some.x).any(1)
    assert torch.equal(changed, some.masks[name])
    assert not masks[name].any()
    present = some.factors[:, 6] == 1 if name == "distractor" else torch.ones(300, dtype=torch.bool)
    assert torch.equal(some.masks[name].flatten(1).any(1), present)


def test_parts_make_up_the_object_and_the_background_is_the_rest(some: Shapes) -> None:
    assert torch.equal(some.parts.any(1), some.masks["object"])
    assert some.parts.flatten(2).any(2).all()
    covered = some.masks["object"] | some.masks["distractor"] | some.masks["background"]
    assert covered.all()
    assert not (some.masks["object"] & some.masks["distractor"]).any(), "the distractor stands clear"
    other = some.twin(torch.arange(300), "background", (some.factors[:, 5] + 1) % 4)
    assert torch.equal(other.changed, some.masks["background"])


@pytest.mark.parametrize("factor", FACTORS)
def test_twins_change_one_factor_and_only_where_something_is(some: Shapes, factor: str) -> None:
    column, levels = list(FACTORS).index(factor), len(FACTORS[factor])
    value = (some.factors[:, column] + 1) % levels
    rows = torch.arange(300)
    twin = some.twin(rows, factor, value)
    assert twin.factors[:, column].tolist() == value.tolist()
    kept = [k for k in range(len(FACTORS)) if k != column]
    assert torch.equal(twin.factors[:, kept], some.factors[:, kept])
    torch.testing.assert_close(twin.y, torch.from_numpy(some.rule(twin.factors.numpy())).long())
    _, masks = render(twin.factors.numpy(), some.nuisance.numpy())
    things = ("background",) if factor == "background" else ("object", "distractor")
    union = torch.stack([some.masks[t] | torch.from_numpy(masks[t]) for t in things]).any(0)
    assert not (twin.changed & ~union).any()
    assert twin.changed.flatten(1).any(1).float().mean() > 0.95
    back = render(some.factors.numpy(), some.nuisance.numpy())[0]
    assert np.array_equal(back, some.x.numpy()), "the same factors give the same image"


def test_twins_by_name_and_of_noisy_images() -> None:
    noisy = load_shapes(20, noise=0.05, seed=3)
    assert 0.02 < (noisy.x - load_shapes(20, seed=3).x).std() < 0.06
    twin = noisy.twin(4, "colour", "blue")
    assert twin.factors[0, 1] == 4
    assert not (twin.changed & ~noisy.masks["object"][4:5]).any()
    assert torch.equal(noisy.twin(4, "colour", int(noisy.factors[4, 1])).x, noisy.x[4:5])


@pytest.mark.parametrize("rho", [0.25, 0.9, 1.0])
def test_the_background_goes_along_as_often_as_asked(rho: float) -> None:
    from scipy.stats import chi2_contingency, chisquare

    drawn = load_shapes(1500, rho=rho, seed=1)
    tied = drawn.factors[:, 5] == drawn.y
    n, k = len(drawn), int(tied.sum())
    if rho == 1:
        assert k == n
        return
    assert chisquare([k, n - k], [rho * n, (1 - rho) * n]).pvalue > 1e-3
    away = (drawn.factors[:, 5] - drawn.y)[~tied] % 4
    assert chisquare(away.bincount()[1:]).pvalue > 1e-3
    if rho == 0.25:
        table = torch.zeros(4, 4).index_put((drawn.y, drawn.factors[:, 5]), torch.ones(n), accumulate=True)
        assert chi2_contingency(table.numpy()).pvalue > 1e-3


def test_the_other_factors_are_uniform_and_say_nothing_of_the_label() -> None:
    from scipy.stats import chi2_contingency, chisquare

    drawn = load_shapes(2000, rho=0.9, seed=2)
    for column, (factor, levels) in enumerate(FACTORS.items()):
        if factor == "background":
            continue
        assert chisquare(drawn.factors[:, column].bincount(minlength=len(levels))).pvalue > 1e-3, factor
        if factor not in ("shape", "colour"):
            table = np.zeros((4, len(levels)))
            np.add.at(table, (drawn.y.numpy(), drawn.factors[:, column].numpy()), 1)
            assert chi2_contingency(table).pvalue > 1e-3, factor


def test_the_same_samples_whatever_the_number_and_none_in_two_splits() -> None:
    few, many = load_shapes(10, noise=0.02), load_shapes(200, noise=0.02)
    assert torch.equal(few.x, many.x[:10])
    assert torch.equal(few.factors, many.factors[:10])
    others = [load_shapes(10, split="test").x, load_shapes(10, seed=1).x, load_shapes(10, split="val").x]
    assert all((few.x - x).abs().amax((1, 2, 3)).min() > 0.05 for x in others)


def test_another_spurious_factor_or_none() -> None:
    placed = load_shapes(100, rho=1.0, spurious="position")
    assert placed.factors[:, 4].tolist() == placed.y.tolist()
    free = load_shapes(1500, rho=1.0, spurious=None)
    assert 0.2 < (free.factors[:, 5] == free.y).float().mean() < 0.3


def test_a_data_source_like_any_other() -> None:
    data = load_dataset("shapes", split="test", n=40)
    assert torch.equal(data.x, load_shapes(40, split="test").x)
    assert data.classes == ["angular cool", "angular warm", "round cool", "round warm"]
    assert len(load_dataset("shapes:0.9", "val", n=3).y) == 3
    tied = load_dataset("shapes:1", "train", n=30)
    assert torch.equal(tied.x, load_shapes(30, rho=1.0).x)


def test_thousands_in_seconds() -> None:
    start = time.process_time()
    load_shapes(1000)
    assert time.process_time() - start < 2
    assert SIZES == {"train": 8000, "val": 1000, "test": 2000}


def test_attributes_are_one_hot() -> None:
    one = attributes_of(np.array([[3, 0, 2, 1, 0, 3, 1]]))
    assert [ATTRIBUTES[k] for k in one[0].nonzero()[0]] == [
        "shape=triangle", "colour=red", "size=large", "texture=stripes", "position=top-left", "background=plum",
        "distractor=present",
    ]  # fmt: skip


def test_bad_input_is_named(some: Shapes) -> None:
    for options, said in (
        ({"rho": 1.2}, "rho is 1.2"),
        ({"n": 0}, "n is 0"),
        ({"split": "bogus"}, "no split 'bogus'"),
        ({"rule": "size"}, "no rule 'size'"),
        ({"rule": lambda f: f[:2, 0]}, r"shape \(2,\)"),
        ({"spurious": "colour"}, "the label depends on colour"),
        ({"spurious": "size"}, "size has 3 values for 4 classes"),
        ({"spurious": "hue"}, "no factor 'hue'"),
    ):
        with pytest.raises(BadInput, match=said):
            load_shapes(**{"n": 50, **options})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no factor"):
        some.twin(0, "hue", 1)
    with pytest.raises(BadInput, match="no value 'pink'"):
        some.twin(0, "colour", "pink")
    with pytest.raises(BadInput, match="6 is none of them"):
        some.twin(0, "colour", 6)
    with pytest.raises(BadInput, match=r"write shapes, or shapes:0\.9"):
        load_dataset("shapes:lots")
