"""Explanations with a background get samples of the data from the commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tests.conftest import points, tiny_net

from unfooled.core.threats import Linf
from unfooled.evaluation.audit.plan import Plan
from unfooled.explanations import expected_gradients, saliency
from unfooled.runs.spelling import spelled
from unfooled.workflows import AuditOptions, Inputs, explain
from unfooled.workflows.backgrounds import MAX_BACKGROUND, AgainstData, with_background

X = points(6, (1, 8, 8))
NET = tiny_net(3, (1, 8, 8))


def test_only_explanations_that_take_a_background_get_one() -> None:
    own = partial(expected_gradients, background=X[:1])
    for other in (None, saliency, own):
        assert with_background(other, X) is other
    many = with_background(expected_gradients, X.repeat(40, 1, 1, 1))
    assert isinstance(many, AgainstData)
    assert len(many.background) == MAX_BACKGROUND
    assert spelled(many) == "AgainstData(explain=expected_gradients)"
    y = NET(X).argmax(1)
    z = X[:2].clone().requires_grad_()
    found = with_background(expected_gradients, X)(NET, z, y[:2], create_graph=True)
    assert torch.allclose(found, expected_gradients(NET, X[:2], y[:2], background=X), atol=1e-6)
    assert found.requires_grad


def test_explain_compares_with_the_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_test=X.numpy(), y_test=NET(X).argmax(1).numpy())
    (tmp_path / "net.py").write_text(
        "import sys\nfrom tests.conftest import tiny_net\ndef build():\n    return tiny_net(3, (1, 8, 8))\n"
    )
    inputs = Inputs(f"{tmp_path / 'net.py'}:build", str(tmp_path / "d.npz"), n=6)
    explain(inputs, method="expected-gradients", out=tmp_path / "maps")
    y = NET(X).argmax(1)
    with np.load(tmp_path / "maps/maps.npz") as stored:
        found = torch.as_tensor(stored["attribution"])
    assert torch.allclose(found, expected_gradients(NET, X, y, background=X), atol=1e-5)
    assert not torch.allclose(found, expected_gradients(NET, X, y), atol=1e-3)


def test_an_audit_compares_with_the_data() -> None:
    options = AuditOptions(explain="expected-gradients", reasons="expected-gradients")
    plan = options.plan(Linf(0.1), background=X)
    assert isinstance(plan, Plan)
    assert isinstance(plan.explaining.explain, AgainstData)
    assert plan.explanation_attack is not None
    assert isinstance(plan.explanation_attack.explain, AgainstData)
    assert options.plan(Linf(0.1)).explaining.explain is expected_gradients
