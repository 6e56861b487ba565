"""The check of the labels: nonsense is never trusted, weak honest models are, and the cause is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unfooled import Linf, audit
from unfooled.evaluation.audit import Plan
from unfooled.evaluation.checks.agreement import agreement
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.table import Finding, Kind


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def partly(y: Tensor, share: float, classes: int, seed: int = 1) -> Tensor:
    """Predictions of which exactly `share` are right, the others spread over the other classes."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    wrong = (y + 1 + labels(len(y), classes - 1, seed)) % classes
    result = wrong.clone()
    result[order[: round(share * len(y))]] = y[order[: round(share * len(y))]]
    return result


def checked(prediction: Tensor, y: Tensor, classes: int) -> Finding:
    found = agreement(prediction, y, classes)
    assert found.id == "D26"
    assert found.kind == Kind.STOP
    return found


@pytest.mark.parametrize(
    ("n", "classes", "share"),
    [(20, 10, 0.0), (20, 10, 0.1), (40, 10, 0.0), (40, 10, 0.05), (100, 10, 0.08), (20, 1000, 0.0), (200, 1000, 0.0),
     (20, 2, 0.5), (20, 2, 0.1), (100, 2, 0.45), (20, 100, 0.0), (2000, 10, 0.105), (1, 10, 0.0), (3, 2, 0.0)],
)  # fmt: skip
def test_guessing_is_no_accuracy(n: int, classes: int, share: float) -> None:
    y = labels(n, classes)
    assert checked(partly(y, share, classes), y, classes).fired


@pytest.mark.parametrize(
    ("n", "classes", "share"),
    [(20, 10, 0.4), (40, 10, 0.3), (200, 10, 0.2), (20, 1000, 0.1), (200, 1000, 0.02), (20, 2, 0.85), (100, 2, 0.65),
     (2000, 10, 0.13), (20, 10, 1.0), (4, 2, 1.0), (4, 2, 0.75), (60, 100, 0.1)],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_a_weak_model_is_not_accused(n: int, classes: int, share: float, seed: int) -> None:
    y = labels(n, classes, seed)
    assert not checked(partly(y, share, classes, seed + 9), y, classes).fired


def test_a_constant_answer_is_guessing_and_some_answers_of_the_few_are_not() -> None:
    y = (torch.arange(100) % 10 == 0).long()  # 90 to 10
    assert "always answering class 0" in checked(torch.zeros_like(y), y, 2).detail
    assert checked(torch.zeros_like(y), y, 2).fired
    some = torch.where(torch.arange(100) % 20 == 0, 1, 0)  # finds half of the few
    assert not checked(some, y, 2).fired


@pytest.mark.parametrize(("n", "few"), [(20, 4), (20, 1), (40, 5), (6, 2), (2, 1), (1000, 1)])
@pytest.mark.parametrize("classes", [2, 10])
def test_one_answer_for_all_samples_is_never_better_than_guessing(n: int, few: int, classes: int) -> None:
    y = torch.zeros(n, dtype=torch.int64)
    y[:few] = 1
    found = checked(torch.zeros_like(y), y, classes)
    assert found.fired
    if n > 6:
        assert f"the model answers class 0 for all {n} samples; mend the model" in found.detail
    assert checked(torch.ones_like(y), y, classes).fired


@pytest.mark.parametrize(
    ("n", "few", "right", "wrong", "fires"),
    [(20, 4, 0, 1, True), (20, 4, 1, 1, True), (20, 4, 2, 0, False), (100, 5, 0, 3, True), (100, 5, 1, 8, True),
     (100, 5, 3, 0, False), (20, 1, 1, 0, False), (20, 4, 1, 0, False), (100, 20, 4, 4, True), (100, 20, 8, 1, False)],
)  # fmt: skip
def test_nearly_one_answer_must_be_right_elsewhere(n: int, few: int, right: int, wrong: int, fires: bool) -> None:
    y, answer = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    y[:few] = 1
    answer[:right] = 1
    answer[n - wrong :] = 1 if wrong else 0
    assert checked(answer, y, 2).fired == fires


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("share", [0.9, 1.0])
def test_labels_of_one_class_cannot_be_tested(n: int, share: float) -> None:
    y = torch.full((n,), 3)
    found = checked(partly(y, share, 10), y, 10)
    assert found.fired
    assert "all labels are class 3" in found.detail and "take samples of two classes at least" in found.detail


def test_the_first_samples_may_be_of_one_class() -> None:
    weight, y = torch.eye(2), torch.cat([torch.zeros(700), torch.ones(300)]).long()
    x = torch.eye(2)[y] * 0.5 + 0.2
    found = before(lambda z: z @ weight, x, y, Linf(0.01))
    assert not next(one for one in found if one.id == "D26").fired


def test_an_audit_of_one_answer_is_not_trusted() -> None:
    class One(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.stack([z.flatten(1).sum(1) * 0.01 + 2, z.flatten(1).sum(1) * -0.01], 1)

    plan = Plan(nearest_n=2, nearest_budget=100, explain_n=1, gallery=0, reasons=None, floor=100)
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for y in (torch.tensor([0] * 16 + [1] * 4), torch.zeros(20, dtype=torch.int64)):
        summary = audit(One().eval(), x, y, Linf(0.05), plan=plan)
        assert summary.verdict == "NOT EVALUABLE" and "D26" in summary.because


CAUSES = {
    "number and one more": lambda y: (y + 1) % 10,
    "number and one less": lambda y: (y - 1) % 10,
    "number and 3 more": lambda y: (y + 3) % 10,
    "another order": lambda y: torch.tensor([4, 7, 1, 0, 9, 2, 8, 3, 5, 6])[y],
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("n", [30, 300])
def test_the_relabelling_is_named(cause: str, n: int) -> None:
    y = labels(n, 10)
    found = checked(CAUSES[cause](partly(y, 0.9, 10)), y, 10)
    assert found.fired
    assert cause in found.detail


def test_missing_classes_and_the_order_of_text_are_named() -> None:
    present = torch.tensor([2, 3, 5, 6, 9])
    y = labels(60, 5)
    assert "count only the classes that the data hold" in checked(present[y], y, 10).detail
    y = labels(200, 12)
    as_text = torch.tensor([int(name) for name in sorted(str(k) for k in range(12))])
    assert "ordered as text" in checked(as_text[y], y, 12).detail
    y = labels(40, 7)
    found = checked(labels(40, 10, 5), y, 10)
    assert "7 of the model's 10 classes" in found.detail


def test_classes_of_which_many_are_swapped_are_found_above_chance_too() -> None:
    swapped = torch.tensor([0, 1, 2, 3, 4, 6, 5, 8, 7, 9])
    y = labels(200, 10)
    found = checked(swapped[y], y, 10)
    assert found.fired
    assert "label 5 is 6, 6 is 5, 7 is 8, 8 is 7 for the model" in found.detail


def test_an_audit_over_nonsense_is_not_trusted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 10, generator=generator)
    x = torch.rand(40, 1, 8, 8, generator=generator)

    def model(z: Tensor) -> Tensor:
        return (z.flatten(1) - 0.5) @ weight

    plan = Plan(nearest_n=2, nearest_budget=100, explain_n=1, gallery=0, reasons=None, floor=100)
    y = model(x).argmax(1)
    for label in ((y + 1) % 10, (y + labels(40, 9) + 1) % 10):
        summary = audit(model, x, label, Linf(0.001), plan=plan)
        assert summary.verdict == "NOT EVALUABLE"
        assert not summary.trusted
        assert "D26" in summary.because
