"""Concept networks of the study of attackability, their scenes and their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.model.batching import batched
from unfooled.core.types import TrainingLoss
from unfooled.counterfactuals import AffineHead, switches, within_covariance
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS, Shapes, load_shapes
from unfooled.models import ConceptCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.attackability.scale import ARMS, AttackabilityScale
from unfooled.studies.common.bench import Bench, Splits
from unfooled.studies.common.fitting import Updates, new_network
from unfooled.training import ConceptBall, ConceptLoss, ConceptMadry, ConceptMargin, ConceptStability

JOINT = "joint"
LEARNT = 0.95
"""AUC from which on an attribute counts as learnt."""
PLANTED = "background"
"""Factor that is correlated with the label by design."""
RELEVANT = ("shape", "colour")
"""Factors that determine the label."""
PLACES: dict[str, list[int]] = {
    name: [ATTRIBUTES.index(f"{name}={value}") for value in values] for name, values in FACTORS.items()
}
"""Factor -> places of its attributes."""
IRRELEVANT = tuple(name for name in FACTORS if name not in (*RELEVANT, PLANTED))


@dataclass(frozen=True, eq=False)
class Embedded:
    """A network's head and embeddings, in float64 on the CPU.

    Attributes:
        head: Affine head on attribute logits.
        held_out: Attribute logits of the held-out scenes, on which units and effects are computed.
        test: Attribute logits of the test scenes.
        gap: Switch of each attribute; at least a small positive number.
        covariance: Pooled within-class covariance of the held-out scenes.
        auc: Area under the ROC curve of each attribute on the test scenes, (n,).
    """

    head: AffineHead
    held_out: Tensor
    test: Tensor
    gap: Tensor
    covariance: Tensor
    auc: Tensor

    @property
    def learnt(self) -> Tensor:
        """Attributes that claims may be made about, (n,) bool."""
        return self.auc >= LEARNT

    @property
    def unit(self) -> Tensor:
        """Unit of each attribute's logit, (n,): its switch; the standard deviation of one that is not learnt.

        The switch of an attribute that is not learnt is near 0, and changes measured in it would drown all others.
        """
        return torch.where(self.learnt, self.gap, self.held_out.std(0).clamp(min=1e-3))


class ConceptBench(Bench):
    """Bench with concept networks on shapes in which the background is planted.

    Args:
        size: Sizes of the study.
        rho: Correlation of the background with the label.
        seed: Random seed of scenes, weights and orders.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        device: Device of the networks.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, size: AttackabilityScale, rho: float, seed: int, *, folder: Place | None = None, device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        most = max(size.recipe.scenes, size.semantic.scenes)
        self.scenes = load_shapes(most, rho=rho, seed=seed)
        self.held_out = load_shapes(size.n, rho=rho, seed=seed, split="val")
        self.tests = load_shapes(size.n, rho=rho, seed=seed, split="test")
        splits = Splits((self.scenes.x, self.scenes.y), (self.tests.x, self.tests.y), list(self.tests.classes))
        super().__init__(
            splits, seed=seed, folder=folder, place=f"rho {rho:g}, {seed}", title=f"rho {rho:g}, network {seed}",
            device=device, progress=progress,
        )  # fmt: skip
        self.size, self.rho = size, rho
        self._embedded: dict[str, Embedded] = {}

    def _train(self, name: str) -> nn.Module:
        """Train the network of one training, `JOINT` or an arm, or read the stored one."""
        recipe, semantic = self.size.recipe, self.size.semantic
        joint = name == JOINT
        n, width = (recipe.scenes, recipe.width) if joint else (semantic.scenes, semantic.width)
        loss, updates = (self._loss("standard", n)[0], recipe.updates) if joint else self.arm(name)
        pieces = max(1, updates // 100)
        x = self.scenes.x[:n].to(self.device)
        batches = Updates(x, torch.arange(n, device=self.device), recipe.batch, self.seed, steps=updates // pieces)
        net = new_network(partial(ConceptCnn, classes=len(self.classes), width=width), self.seed).to(self.device)
        about = {"arch": "concept-cnn", "input_shape": list(x.shape[1:]), "num_classes": len(self.classes)}
        settings = {"seed": self.seed, "rho": self.rho, "pieces": pieces, "steps": len(batches), "n": n}
        optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-4)
        return self._fit(
            name, net, batches, loss, optimizer, epochs=pieces, about=about, settings=settings, clip=5.0
        )  # fmt: skip

    def arm(self, name: str) -> tuple[TrainingLoss, int]:
        """Return the loss of a semantic training, and the number of updates within the budget of passes."""
        semantic = self.size.semantic
        loss, passes = self._loss(name, semantic.scenes)
        return loss, max(1, semantic.budget // passes)

    def _loss(self, name: str, n: int) -> tuple[TrainingLoss, int]:
        """Return a loss on the first n scenes, and its passes for each update."""
        y, a = self.scenes.y[:n].to(self.device), self.scenes.attributes[:n].to(self.device)
        semantic = self.size.semantic
        plain: Any = ConceptLoss(y, a)
        madry: Any = partial(ConceptMadry, y, a, semantic.threat, steps=semantic.steps)
        made: dict[str, tuple[Any, int]] = {
            "standard": (plain, 1),
            "concept margin": (ConceptMargin(plain), 2),
            "concept ball": (ConceptBall(y, a), 1),
            "PGD-AT": (madry(attack="label"), semantic.steps + 1),
            "PGD-AT, joint loss": (madry(attack="both"), semantic.steps + 1),
            "margin + PGD-AT": (ConceptMargin(madry(attack="both")), semantic.steps + 2),
            "published term": (ConceptStability(plain), 2),
        }
        assert set(made) == set(ARMS)
        return made[name]

    def encode(self, name: str, x: Tensor) -> Tensor:
        """Compute attribute logits, (N, n) float64 on the CPU."""
        net: Any = self.network(name)
        with torch.no_grad():
            return batched(lambda part: net.encode(part.to(self.device)).cpu().double(), 250)(x)

    def embedded(self, name: str = JOINT) -> Embedded:
        """Return a network's head and embeddings; they are computed once."""
        if name not in self._embedded:
            net: Any = self.network(name)
            head = AffineHead(
                net.head.weight.detach().cpu(), net.head.bias.detach().cpu(), self.classes, ATTRIBUTES
            )  # fmt: skip
            held_out, test = self.encode(name, self.held_out.x), self.encode(name, self.tests.x)
            gap = switches(held_out, self.held_out.attributes).nan_to_num(1e-3).clamp(min=1e-3)
            covariance = within_covariance(held_out, self.held_out.y)
            areas = torch.tensor([area(e, a) for e, a in zip(test.T, self.tests.attributes.T, strict=True)])
            self._embedded[name] = Embedded(head, held_out, test, gap, covariance, areas)
        return self._embedded[name]

    @cached_property
    def right(self) -> Tensor:
        """Rows of the test scenes that the joint network classifies correctly."""
        joint = self.embedded()
        return (joint.head.logits(joint.test).argmax(1) == self.tests.y).nonzero()[:, 0]


def area(score: Tensor, present: Tensor) -> float:
    """Return the area under the ROC curve of scores of an attribute; NaN where one of its two values does not occur."""
    from sklearn.metrics import roc_auc_score

    truth = present.numpy() > 0.5
    return float(roc_auc_score(truth, score.numpy())) if truth.any() and not truth.all() else float("nan")


def learnt_factors(areas: list[float]) -> list[str]:
    """Return the factors whose attributes are all learnt."""
    good = np.asarray(areas) >= LEARNT
    return [name for name, places in PLACES.items() if good[places].all()]


def subset(scenes: Shapes, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and labels of some scenes."""
    return scenes.x[rows], scenes.y[rows]
