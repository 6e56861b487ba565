"""Networks and subjects of the broken-defences study, and the attack that knows each case."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unfooled.attacks.pgd import pgd
from unfooled.core import losses
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import Loss, Model
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.broken_defences.cases import Case
from unfooled.studies.broken_defences.networks import HONEST, RECIPES
from unfooled.studies.broken_defences.scale import DefenceScale
from unfooled.studies.common.bench import Bench, load_splits
from unfooled.studies.common.fitting import new_network
from unfooled.training import Batches


class DefenceBench(Bench):
    """Bench whose networks are the `RECIPES` by name.

    Args:
        size: Sizes of the study.
        seed: Random seed of the training samples, the weights, the order and the shifts.
        folder: Folder, URL or open store of the study; None: nothing is stored.
        progress: Called with `(text, done, in all)`; None: silent.
    """

    def __init__(
        self, size: DefenceScale, seed: int = 0, *, folder: Place | None = None, progress: Progress | None = None
    ) -> None:
        splits = load_splits(size.data, train_n=size.train_n, shuffle=size.train_n is not None, seed=seed)
        super().__init__(
            splits, seed=seed, folder=folder, place=f"seed-{seed}", title=f"seed {seed}", progress=progress
        )
        self.size = size

    def _train(self, name: str) -> nn.Module:
        recipe, size, (x, y) = RECIPES[name], self.size, self.train
        if recipe.classes is not None:
            x, y = x[y < recipe.classes], y[y < recipe.classes]
        classes = recipe.classes or int(y.max()) + 1
        eps = size.honest_eps if name in HONEST else size.eps
        net = new_network(lambda: recipe.build(size.arch, tuple(x.shape[1:]), classes), self.seed)
        loss, epochs = recipe.loss(eps, self.network), round(size.epochs * recipe.epochs)
        # Shifted, so that the network still knows digits that a defence has moved.
        batches = Batches(x, y, 64, self.seed, crop=max(1, x.shape[-1] // 16) if recipe.shift else 0)
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-4)
        settings = {"name": name, "seed": self.seed, "epochs": epochs, "eps": eps, "n": len(x)}
        return self._fit(name, net, batches, loss, optimizer, epochs=epochs, settings=settings, clip=5.0)

    def subject(self, case: Case) -> tuple[nn.Module, Tensor, Tensor, Linf]:
        """Return the model of a case, and the samples and the threat that it is judged on."""
        x, y = self.test
        classes = RECIPES[case.network].classes
        if classes is not None:
            x, y = x[y < classes], y[y < classes]
        eps = case.eps or (self.size.honest_eps if case.kind == "honest" else self.size.eps)
        return case.make(self.network(case.network)), x[: self.size.n], y[: self.size.n], Linf(eps)

    def truth(self, case: Case) -> float:
        """Return the robust accuracy under attacks that know the case."""
        model, x, y, threat = self.subject(case)
        twin = case.twin(self.network(case.network))
        return informed(model, twin, x, y, threat, draws=20 if case.random else 1)


def informed(
    model: Model, twin: Model, x: Tensor, y: Tensor, threat: Threat, *, draws: int = 1, steps: int = 40
) -> float:
    """Attack a model by PGD on a twin that has usable gradients, and return its robust accuracy.

    Four attacks: on the margin and on the cross-entropy of a tenth of the twin's logits, each at the whole radius and
    at two thirds of it. None stops where the twin is fooled. A sample is lost if one of them fools the model.

    Args:
        model: Any callable to logits.
        twin: A differentiable model with nearly the same decisions.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Set of allowed inputs.
        draws: Evaluations of a random model; it is fooled if most of them are.
        steps: Steps of each attack.
    """

    def soft(logits: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(logits / 10, y)

    robust = torch.ones(len(x), dtype=torch.bool)
    attacks: list[tuple[Loss, float]] = [(loss, fraction) for loss in (losses.margin, soft) for fraction in (1.0, 0.67)]
    for loss, fraction in attacks:
        rows = robust.nonzero()[:, 0]
        if not len(rows):
            break
        near = threat.take(rows).with_eps(threat.eps * fraction)
        z = pgd(twin, x[rows], y[rows], near, steps=steps, loss=loss, stop=False)
        robust[rows] = ~verify(model, x[rows], y[rows], z, threat.take(rows), draws=draws).success
    return float(robust.float().mean())
