"""Small models and data for every test: `from tests.conftest import linear, tiny_net, points`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unfooled.testing.subjects import Linear, interior, linear, points, seeded_generator, tiny_net

__all__ = ["Linear", "interior", "linear", "one_thread", "points", "source", "tiny_net"]

source = seeded_generator


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and sums would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make audits small where a call says nothing else, for tests of calls and not of figures."""
    from unfooled.attacks.ensembles.cascade import QUICK
    from unfooled.evaluation.audit.plan import ExplanationAttack, LabelAttack, NearestPoints, Plan

    defaults = Plan.__init__.__kwdefaults__
    assert defaults is not None
    for name, value in (
        ("label_attack", LabelAttack(effort=QUICK)),
        ("nearest", NearestPoints(n=20, budget=100)),
        ("explanation_attack", ExplanationAttack(n=2, steps=3)),
    ):
        monkeypatch.setitem(defaults, name, value)
