"""Text of training losses in settings: the same in every process, so that a run can be resumed and repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_net
from torch import Tensor, nn

from unfooled.core.threats import Linf
from unfooled.studies.common.arms import Arm
from unfooled.workflows import Network, Recipe, catalog, train
from unfooled.workflows.losses import LossOptions, make_loss

ROWS = [(name, base) for name, row in catalog.LOSSES.items() for base in (row.bases if row.base else (None,))]
TAKES_A_PURIFIER = "latent-clusters"


def at_random(a: Any, b: Any) -> Any:
    """Stand for the functions of a purifier."""
    raise AssertionError(a, b)


@pytest.mark.parametrize(("name", "base"), ROWS)
def test_no_loss_of_the_catalog_is_spelled_with_an_address(name: str, base: str | None) -> None:
    options = LossOptions(base=base, sources=[tiny_net(3, (1, 4, 4), seed=0)] if name == "ensemble" else None)
    if name == TAKES_A_PURIFIER:
        loss: object = catalog.resolve(catalog.LOSSES[name].path)(
            threat=Linf(0.1), assign=at_random, latent=at_random, distance=at_random
        )
    else:
        against = any(
            one is not None and "threat" in catalog.takes(catalog.resolve(catalog.LOSSES[one].path))
            for one in (name, base)
        )
        loss = make_loss(name, "linf:0.1" if against else None, options)
    assert " at 0x" not in str(loss)
    assert name != "concept-margin" or "radius=label_radius" in str(loss)


class Own:
    """A loss of the user's own, whose text is that of Python."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return torch.nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("loss", ["concept-margin", Own()])
def test_checkpoints_hold_no_address(loss: Any, tmp_path: Path) -> None:
    short = Recipe(epochs=1, n=32, batch=16, watch=0)
    record = train("shapes:0.9", loss, network=Network("concept-cnn"), recipe=short, out=tmp_path / "a.pt")
    settings = torch.load(tmp_path / "a.pt", weights_only=True)["settings"]
    assert "loss" in settings and " at 0x" not in str(settings) + record.loss


def test_arms_of_studies_hold_no_address() -> None:
    arm = Arm("own", lambda threat: Own())
    assert " at 0x" not in arm.settings(Linf(0.1))["loss"]
