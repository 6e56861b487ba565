"""Data sets, networks and sizes of the study of certification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unfooled.studies.common.scale import Scale

STANDARD, PGD_AT, IBP, SABR, MTL_IBP = "standard", "PGD-AT", "IBP", "SABR", "MTL-IBP"
TRADES, CNN_A = "TRADES checkpoint", "CNN-A-Adv"
PROVABLE = (IBP, SABR, MTL_IBP)
"""Networks that are trained for proofs."""
WITHOUT_RADIUS = (STANDARD, TRADES)
"""Networks whose training does not depend on the radius of the study."""


@dataclass(frozen=True)
class CertificationTask:
    """A data set, with the settings of training on it.

    Attributes:
        source: Data set, as `load_dataset` reads it.
        eps: Radii in Linf.
        updates: Updates of each network.
        batch: Samples per update.
        arch: Architecture of the networks, a name that `build` knows.
        options: Options of the architecture.
        lr: Largest learning rate, which follows one cycle.
        steps: Steps of the attack in adversarial training.
        trades: File in the data folder's `models` and architecture of a network trained by TRADES. None: there is none.
        published: File in the data folder's `hard` with the weights of CNN-A-Adv, file with the numbers of the samples
            on which verifiers are compared, and the radius. None: they are left out.
    """

    source: str
    eps: tuple[float, ...]
    updates: int
    batch: int = 64
    arch: str = "strided-cnn"
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 3e-3
    steps: int = 7
    trades: tuple[str, str] | None = None
    published: tuple[str, str, float] | None = None


@dataclass(frozen=True)
class CertificationScale(Scale):
    """Sizes of the study.

    Attributes:
        tasks: Data sets.
        n: Test images.
        networks: Networks that are trained.
        effort: Effort of the proofs, as in `certify`.
        train_n: Training images; None: all.
    """

    tasks: tuple[CertificationTask, ...]
    n: int
    networks: tuple[str, ...] = (STANDARD, PGD_AT, *PROVABLE)
    effort: str = "normal"
    train_n: int | None = None


DIGITS = CertificationTask("digits", (0.05, 0.1), 800, options={"width": 8})
MNIST = CertificationTask(
    "mnist", (0.1, 0.3), 4000, batch=128, options={"width": 16}, lr=2e-3,
    trades=("mnist_trades_smallcnn.pt", "trades-small-cnn"),
    published=("mnist_cnn_a_adv.pt", "mnist_cnn_a_adv_sdp200.txt", 0.3),
)  # fmt: skip
FASHION = CertificationTask("fashion-mnist", (0.1,), 4000, batch=128, options={"width": 16}, lr=2e-3)
SCALES = {
    "small": CertificationScale((DIGITS,), n=100, effort="quick"),
    "medium": CertificationScale((MNIST, FASHION), n=200, effort="quick"),
    "full": CertificationScale((MNIST, FASHION), n=1000, effort="thorough"),
}
