"""Models of several inputs: the other inputs follow their samples, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import points
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks import pgd
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents, Searches
from unfooled.core.model.binding import Bound
from unfooled.workflows import catalog
from unfooled.workflows.attacks import bind_attack

N, EPS = 12, 0.15
PLAN = uf.Plan(
    effort=Effort("short", (Ascents(5), Searches(5))), nearest_budget=100, nearest_n=4, explain_n=3, gallery=2,
    floor=100, reasons_n=2, reasons_steps=2, reasons_radii=(1.0,),
)  # fmt: skip


class Clinic(nn.Module):
    """An image and a row of a table; either moves the decision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.table = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 30, 4), nn.Linear(3, 4)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).flatten(1)) + self.table(meta)


class Reader(nn.Module):
    """Steps of a sequence with a mask of those that count, and positions that are the same for all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        assert tokens.shape[1] == mask.shape[1]
        h = torch.relu(self.inner(tokens + positions)) * mask[..., None]
        return self.head(h.sum(1) / mask.sum(1, keepdim=True))


def clinic() -> tuple[Bound, Tensor, dict[str, Tensor]]:
    """Return the bound network, its attacked input and its other inputs."""
    others = {"meta": torch.randn(N, 3, generator=torch.Generator().manual_seed(2))}
    return uf.bind(Clinic().eval(), attacked="image", meta=others["meta"]), points(N, (1, 6, 5), seed=3), others


def reader() -> tuple[Bound, Tensor, dict[str, Tensor]]:
    """Return the bound network, its attacked input and its other inputs."""
    mask = (torch.arange(4) < torch.tensor([[1], [2], [3], [4]] * (N // 4))).float()
    positions = torch.linspace(-1, 1, 20).reshape(4, 5)
    bound = uf.bind(Reader().eval(), attacked="tokens", same={"positions": positions}, mask=mask)
    return bound, points(N, (4, 5), seed=3), {"mask": mask, "positions": positions.expand(N, 4, 5)}


@pytest.mark.parametrize("case", [clinic, reader])
def test_other_inputs_follow_their_samples(case: Any) -> None:
    bound, x, others = case()
    packed = bound.pack(x)
    want = bound.model(**{bound.attacked: x}, **others)
    torch.testing.assert_close(bound(packed), want)
    order = torch.tensor([5, 0, 0, 11, 3])
    torch.testing.assert_close(bound(packed[order]), want[order])
    twice = torch.cat([packed.flip(0), packed * 0.01])  # dimmed, as on the way from black
    torch.testing.assert_close(bound(twice)[:N], want.flip(0))
    rest = bound.model(**{bound.attacked: x * 0.01}, **others)
    torch.testing.assert_close(bound(twice)[N:], rest)
    leaf = packed.clone().requires_grad_()
    (g,) = torch.autograd.grad(bound(leaf).sum(), leaf)
    assert not bool(g[:, ~bound.free].any())
    assert bool(g[:, bound.free].any())


def test_every_attack_leaves_the_numbers_alone() -> None:
    bound, x, _ = clinic()
    packed = bound.pack(x)
    y = bound(packed).argmax(1)
    for name in sorted(set(catalog.ATTACKS) - {"attention-pgd", "assignment"}):
        row = catalog.ATTACKS[name]
        steps = (100 if name == "envelope" else 8) if "steps" in catalog.takes(catalog.resolve(row.path)) else None
        norm = float("inf") if float("inf") in row.norms else row.norms[0]
        threat = bound.threat({float("inf"): uf.Linf(0.3), 2.0: uf.L2(1.0), 1.0: uf.L1(3.0), 0.0: uf.L0(4)}[norm])
        attack, source = bind_attack(name, threat, steps=steps), torch.Generator().manual_seed(0)
        if attack.nearest is None:
            z = attack.propose(bound, packed, y, threat, generator=source)
        else:
            with uf.core.ascent.nearest.moving_only(bound.free):
                z = attack.nearest(bound, packed, y, threat.norm, generator=source)
        torch.testing.assert_close(z[:, ~bound.free], packed[:, ~bound.free], rtol=0, atol=0)


@pytest.mark.parametrize("case", [clinic, reader])
def test_an_audit_of_a_bound_model_is_that_of_each_sample(case: Any, tmp_path: Any) -> None:
    bound, x, others = case()
    packed = bound.pack(x)
    y = bound(packed).argmax(1)
    summary = uf.audit(bound, packed, y, uf.Linf(EPS), plan=PLAN, out=tmp_path)
    assert summary.clean_accuracy.value == 1
    assert summary.robust_accuracy.value is not None
    assert 0 < summary.robust_accuracy.value < 1
    from safetensors.torch import load_file

    found = load_file(tmp_path / "samples.safetensors")
    assert found["x_adv"].shape == x.shape
    logits = bound.model(**{bound.attacked: found["x_adv"]}, **others)
    assert torch.equal(logits.argmax(1) != y, found["success"])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    turned = uf.audit(bound, packed[order], y[order], uf.Linf(EPS), plan=PLAN, chunk=5, batch=3)
    assert turned.robust_accuracy == summary.robust_accuracy


def test_what_would_mix_samples_is_refused() -> None:
    bound, x, _ = clinic()
    with pytest.raises(uf.BadInput, match="not packed"):
        bound(x)
    packed = bound.pack(x)
    with pytest.raises(uf.BadInput, match="lost the number"):
        bound((packed[:1] + packed[1:2]) / 2)
    with pytest.raises(uf.BadInput, match="lost the number"):
        bound(torch.full_like(packed, 0.5))
    with pytest.raises(uf.BadInput, match="lost the number"):
        pgd(bound, packed, bound(packed).argmax(1), uf.Linf(1.0), steps=2)  # without bound.threat
    with pytest.raises(uf.BadInput, match="hold 12 samples"):
        bound.pack(x[:5])
    with pytest.raises(uf.BadInput, match="different numbers of samples: meta 12, age 3"):
        uf.bind(Clinic(), attacked="image", meta=torch.zeros(12, 3), age=torch.zeros(3))
    with pytest.raises(uf.BadInput, match="one row per sample"):
        uf.bind(Clinic(), attacked="image", meta=0.5)  # type: ignore[arg-type]
    with pytest.raises(uf.BadInput, match="is attacked"):
        uf.bind(Clinic(), attacked="image", image=torch.zeros(12, 1, 6, 5))


@pytest.mark.parametrize("threat", [uf.Linf(0.3), uf.L2(1.0), uf.L1(2.0), uf.L0(3)], ids=str)
def test_entries_that_may_not_change_do_not(threat: uf.Threat) -> None:
    bound, x, _ = clinic()
    packed, held = bound.pack(x), bound.threat(threat)
    z = held.project(torch.rand(packed.shape, generator=torch.Generator().manual_seed(0)), packed)
    assert bool((held.size(z - packed) <= threat.eps + 1e-5).all())
    for point in (z, held.sample(packed, 0), packed + held.steepest(torch.ones_like(packed))):
        assert torch.equal(point[:, ~bound.free], packed[:, ~bound.free])
    torch.testing.assert_close(held.project(z, packed), z)
