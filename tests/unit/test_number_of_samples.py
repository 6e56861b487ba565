"""Advice on models that answer one sample, and not several at once."""

from __future__ import annotations

import pytest
import torch

import unfooled as uf
from unfooled.core.model.calls import run_checked


class Few(torch.nn.Module):
    """A network that answers only few samples at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.head, self.most = torch.nn.Linear(4, 3), most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise ValueError(f"at most {self.most} rows")
        return self.head(x.flatten(1))


class Writing(Few):
    """The same; it writes to its input first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.5)
        return super().forward(x)


class Blank(torch.nn.Module):
    """A network that fails on one kind of sample, or now and then."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head, self.kind, self.calls = torch.nn.Linear(4, 3), kind, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.kind == "blank" and bool((x.flatten(1).amax(1) == 0).any()):
            raise ValueError("blank image")
        if self.kind == "flaky" and self.calls % 2:
            raise ValueError(f"failure {self.calls}")
        return self.head(x.flatten(1))


@pytest.mark.parametrize(("kind", "n"), [("blank", 6), ("flaky", 6), ("flaky", 1)])
def test_other_failures_are_not_laid_to_the_number_of_samples(kind: str, n: int) -> None:
    x = torch.rand(n, 1, 2, 2)
    x[-1] = 0
    with pytest.raises(uf.BadInput, match=r"with ValueError: (blank image|failure 1)$"):
        run_checked(Blank(kind).eval(), x)


def test_the_advice_leaves_the_samples_alone() -> None:
    x = torch.rand(6, 1, 2, 2)
    before = x.clone()
    with pytest.raises(uf.BadInput, match="answers one sample"):
        run_checked(Writing(2).eval(), x)
    assert torch.equal(x, before)


def test_a_model_of_few_samples_at_once_is_told_so() -> None:
    x, y = torch.rand(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(uf.BadInput, match="at most 2 rows; it answers one sample, and not 6 at once; let its forward"):
        uf.audit(Few(2).eval(), x, y, uf.Linf(0.1))
    with pytest.raises(uf.BadInput, match=r"with ValueError: at most 0 rows$"):
        uf.audit(Few(0).eval(), x, y, uf.Linf(0.1))
