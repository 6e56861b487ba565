"""Training in mixed precision: losses with inner gradients see their points and gradients as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.models import SmallCnn
from unfooled.training import Batches, train
from unfooled.training.losses.fast import Fast
from unfooled.workflows import Inputs, LossOptions, Network, PurifierOptions, Recipe, purify_fit
from unfooled.workflows import train as train_command
from unfooled.workflows.catalog import LOSSES


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def samples() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(24, 1, 8, 8, generator=g), torch.randint(0, 3, (24,), generator=g)


def run(loss: Any, precision: str) -> tuple[float, nn.Module]:
    model, (x, y) = net(), samples()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    (epoch,) = train(model, Batches(x, y, 12, 0), loss, optimizer, epochs=1, fabric=fabric)
    return epoch.loss, model


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_trains_in_bf16(name: str, tmp_path: Any) -> None:
    concepts = name.startswith("concept")
    none = {"standard", "group-worst", "input-gradient", "r2et", *(n for n in LOSSES if n.startswith("concept"))}
    threat = None if name in none - {"concept-madry"} else "linf:0.1"
    recipe = Recipe(1, 16, n=16, watch=0, precision="bf16-mixed")
    options = LossOptions(k=8) if name == "r2et" else LossOptions()
    if name == "latent-clusters":
        sizes = PurifierOptions(clusters=1, atoms=4, patch=4, stride=4)
        purify_fit(Inputs(SmallCnn(width=8), n=100, split="train"), tmp_path / "purifier", options=sizes)
        options = LossOptions(purify=tmp_path / "purifier")
    if name == "ensemble":
        options = LossOptions(sources=[SmallCnn(width=8)])
    record = train_command(
        "shapes" if concepts else "digits", name, threat=threat, options=options, recipe=recipe,
        network=Network("concept-cnn" if concepts else "small-cnn"), out=tmp_path / "net.pt",
    )  # fmt: skip
    assert record.trained == 1


def test_inner_gradients_are_those_of_the_network() -> None:
    seen: list[tuple[Tensor, Tensor, bool]] = []

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        z = (x + 1e-4).requires_grad_()
        logits = model(z)
        (g,) = torch.autograd.grad(logits[range(len(y)), y].sum(), z, create_graph=True)
        moved = model(x.detach() + 0.01) - model(x.detach())
        seen.append((g.detach(), moved.detach(), torch.is_autocast_enabled("cpu")))
        assert logits.dtype == g.dtype == torch.float32
        return logits.square().mean() + g.square().mean()

    mixed, after = run(loss, "bf16-mixed")
    full, want = run(loss, "32-true")
    assert mixed == pytest.approx(full, rel=0.02)
    torch.testing.assert_close(seen[0][0], seen[2][0], rtol=0.05, atol=0.05)
    assert not any(inside for _, _, inside in seen)
    for a, b in zip(after.parameters(), want.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=2e-3)


def test_points_are_not_rounded_on_their_way_into_the_network() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.points = nn.Parameter(torch.ones(3)), []  # type: ignore[var-annotated]

        def forward(self, x: Tensor) -> Tensor:
            self.points.append(x.detach())
            return x.flatten(1)[:, :3] * self.weight

    model, (x, y) = Reader(), samples()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    list(train(model, Batches(x, y, 24, 0), Fast(Linf(0.01)), optimizer, epochs=1, fabric=fabric))
    assert all(z.dtype == torch.float32 for z in model.points)
    assert not torch.equal(model.points[-1], model.points[-1].bfloat16().float())


def test_float16_on_a_cpu_is_refused(tmp_path: Any) -> None:
    with pytest.raises(BadInput, match="needs a GPU; on a CPU take bf16-mixed or 32-true"):
        train_command("digits", recipe=Recipe(1, precision="16-mixed"), out=tmp_path / "net.pt")
