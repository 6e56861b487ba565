"""Prepared networks: they answer as the network does, and the network decides."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from tests.conftest import points
from torch import Tensor, nn

from unfooled import Linf
from unfooled.attacks import pgd
from unfooled.attacks.ensembles.autoattack import autoattack
from unfooled.attacks.ensembles.cascade import Cascade, Effort
from unfooled.attacks.ensembles.frontier import Problem
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.attacks.ensembles.stages import Ascents, Searches
from unfooled.attacks.gradients.prepared import Prepared
from unfooled.core.errors import BadInput
from unfooled.core.losses import margin
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.faster import faster, faster_copy
from unfooled.core.model.wrappers import Counted
from unfooled.core.types import Explain
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.audit.plan import PlanOptions
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import finding
from unfooled.explanations import integrated_gradients, saliency, smooth_grad
from unfooled.workflows import AuditOptions, BadOption

SHAPE = (3, 8, 8)


class Residual(nn.Module):
    """Two convolutions with batch normalisation around a skip, a third one used twice, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm1(self.conv1(x)).relu()
        z = (z + self.norm2(self.conv2(z))).relu()
        z = self.norm3(self.twice(self.twice(z)))
        return self.head(self.pool(z).flatten(1))


def network(seed: int = 0) -> Residual:
    """A network whose statistics are not those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Residual()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.weight, 0.5)):
                    assert values is not None
                    values.data.uniform_(low, 1.0)
    net.eval()
    with torch.no_grad():
        net.head.bias.sub_(net(points(64, SHAPE, seed=1)).mean(0))  # so that there are several classes
    return net


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_copy_answers_alike_and_the_network_stays_as_it_is(wrapped: bool) -> None:
    net, x = network(), points(12, SHAPE, seed=3)
    given = Classifier(net, mean=0.4, std=0.3) if wrapped else net
    given.eval()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    counted = Counted(given)
    faster = Prepared(counted, x[:4])
    with torch.no_grad():
        own, others = given(x), faster(x)
    assert 0 < float((own - others).abs().max()) < 1e-5 * float(own.abs().max())
    assert (counted.forwards, counted.calls) == (12, 1), "the comparison is not counted"
    copy = faster._copy()[0].model  # type: ignore[attr-defined]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == 1  # that behind the shared one
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(p.requires_grad for p in given.parameters())
    y, slopes = own.argmax(1), []
    for model in (counted, faster):
        leaf = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(margin(model(leaf), y).sum(), leaf)[0])
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-6)
    assert counted.backwards == 24


@pytest.mark.parametrize("before", [False, True])
def test_a_network_with_hooks_on_its_forward_pass_has_no_copy(before: bool) -> None:
    """A hook may change what is far from the samples that a copy is compared at; one on the backward pass may not."""
    net, x = network(), points(12, SHAPE, seed=3)

    def cut(module: nn.Module, *values: Any) -> Any:
        return values[0] if before else values[1].clamp(max=10.0)

    handle = net.pool.register_forward_pre_hook(cut) if before else net.pool.register_forward_hook(cut)
    assert faster_copy(net, x[:4]) is None
    handle.remove()

    def hide(module: nn.Module, gradients: Any, _: Any) -> Any:
        return (0 * gradients[0],)

    net.pool.register_full_backward_hook(hide)
    copy = faster_copy(net, x[:4])
    assert copy is not None
    leaf = x.clone().requires_grad_()
    assert float(torch.autograd.grad(copy(leaf).sum(), leaf)[0].abs().max()) > 0


class Counting(nn.Module):
    """A network that counts its calls, and answers otherwise after some."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.count = network(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.net(x) * (1 if self.count < 50 else -1)


class Listing(Counting):
    """A network that remembers its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.net(x)


class Uncopied(Counting):
    """A network that cannot be copied, or answers otherwise once it is."""

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied

    def __deepcopy__(self, memo: Any) -> nn.Module:
        if not self.copied:
            raise TypeError("no copies")
        return network(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("given", [Counting(), Listing(), Uncopied(True), Uncopied(False), network().half()], ids=str)
def test_a_network_without_a_copy_that_answers_alike_is_asked_itself(given: nn.Module) -> None:
    x = points(4, SHAPE).to(next(given.parameters()).dtype)
    given.eval()
    counted = Counted(given)
    faster = Prepared(counted, x)
    with torch.no_grad():
        assert torch.equal(faster(x), given(x))
    assert faster.rounding == 0
    assert counted.forwards == 4


def test_only_what_no_check_accuses_is_copied() -> None:
    x, net = points(4, SHAPE), network()
    assert Gradients(Counted(net), []).with_copy(x).faster is not None
    assert Gradients(Counted(net), [finding("D9", True, "rough", "")]).with_copy(x).faster is not None
    assert Gradients(Counted(net), [finding("D6", True, "zero", "")]).with_copy(x).faster is None
    assert Gradients(Counted(net), [], draws=10).with_copy(x).faster is None
    assert Gradients(Counted(lambda z: net(z) + 0), []).with_copy(x).faster is None


class Leaning(Prepared):
    """A copy whose answers differ by far more than rounding: it thinks that everything is fooled."""

    def __call__(self, x: Tensor) -> Any:
        logits = self.model(x)
        return logits + 10 * torch.eye(logits.shape[1])[(logits.argmax(1) + 1) % logits.shape[1]]

    @property
    def rounding(self) -> float:
        return 100.0


def test_the_network_decides_where_its_copy_is_fooled_and_it_is_not() -> None:
    net, x = network(), points(8, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    counted = Counted(net)
    faster, ends = Leaning(counted, x), []
    for model in (faster, None):
        problem = Problem(counted, x, y, Linf(0.003), model or counted, faster=model)
        state = Cascade(problem, Ledger.of(None, len(x))).begin()
        attack = Cascade(problem, Ledger.of(None, len(x)))
        ends.append(attack.perform(state, [Ascents(5), Searches(20)]).frontier)
    assert torch.equal(ends[0].points, ends[1].points)
    assert torch.equal(ends[0].margins, ends[1].margins)
    assert torch.equal(ends[0].fooled, ends[1].fooled)
    assert not bool(ends[0].fooled.all())


def test_an_audit_says_the_same_with_and_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), points(16, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    plan = Plan(
        effort=Effort("short", (Ascents(10), Searches(30))), nearest_budget=100, nearest_n=4, explain_n=1, gallery=0,
        floor=2000, reasons=None,
    )  # fmt: skip
    asked: list[int] = []
    forward = Prepared.__call__

    def noted(self: Prepared, z: Tensor) -> Any:
        asked.append(len(z))
        return forward(self, z)

    monkeypatch.setattr(Prepared, "__call__", noted)
    one = audit(net, x, y, Linf(0.01), plan=plan)
    assert sum(asked) > 100
    monkeypatch.setattr(Gradients, "with_copy", lambda self, _, **__: self)
    other = audit(net, x, y, Linf(0.01), plan=plan)
    assert one.robust_accuracy == other.robust_accuracy
    assert one.robust_accuracy.value is not None and 0 < one.robust_accuracy.value < 1
    assert (one.verdict, one.clean_accuracy) == (other.verdict, other.clean_accuracy)


def test_nearest_points_are_those_of_the_network_where_its_copy_is_fooled_and_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network(), points(6, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    plan = Plan(
        effort=Effort("short", (Ascents(10),)), nearest_budget=100, nearest_n=6, explain_n=1, gallery=0, floor=2000,
        reasons=None,
    )  # fmt: skip
    monkeypatch.setattr(Prepared, "__call__", Leaning.__call__)
    monkeypatch.setattr(Prepared, "rounding", 100.0)
    one = audit(net, x, y, Linf(0.003), plan=plan)
    monkeypatch.setattr(Gradients, "with_copy", lambda self, _, **__: self)
    other = audit(net, x, y, Linf(0.003), plan=plan)
    assert one.nearest == other.nearest
    assert one.robust_accuracy == other.robust_accuracy


@pytest.mark.parametrize("explain", [integrated_gradients, smooth_grad, saliency])
def test_explanations_of_a_faster_copy_are_those_of_the_network(explain: Explain) -> None:
    net, x = network(), points(6, SHAPE, seed=3)
    given = Classifier(net, mean=0.4, std=0.3).eval()
    y = torch.arange(6) % 4
    copy = faster(given, x[:2])
    assert copy is not given
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == 1  # type: ignore[attr-defined]
    torch.testing.assert_close(explain(copy, x, y), explain(given, x, y), rtol=1e-3, atol=1e-5)
    tally = Counted(given)
    explain(faster(tally, x[:2]), x, y)
    own = Counted(given)
    explain(own, x, y)
    assert (tally.forwards, tally.backwards) == (own.forwards, own.backwards)


def test_there_is_no_faster_copy_of_what_cannot_be_copied() -> None:
    x = points(4, SHAPE, seed=3)
    for model in (lambda z: z.flatten(1)[:, :3], network().train(), network().half(), Counting()):
        assert faster(model, x) is model


def test_a_network_is_compiled_only_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), points(4, SHAPE, seed=3)
    answer = net(x)

    def broken(model: nn.Module, **_: Any) -> nn.Module:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    faster(net, x)  # nothing is compiled unless asked
    with pytest.warns(UserWarning, match=r"does not work here \(RuntimeError: no compiler\); it is left out"):
        copy = faster(net, x, compiled=True)
    torch.testing.assert_close(copy(x), answer)
    monkeypatch.setattr(torch, "compile", lambda model, **_: nn.Sequential(model, nn.ReLU()))
    with pytest.warns(UserWarning, match="answers otherwise"):
        torch.testing.assert_close(faster(net, x, compiled=True)(x), answer)
    monkeypatch.setattr(torch, "compile", lambda model, **_: nn.Sequential(model, nn.Identity()))
    compiled: Any = faster(net, x, compiled=True)
    assert isinstance(compiled.network, nn.Sequential)


def test_a_network_answers_as_it_is_where_a_later_call_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), points(4, SHAPE, seed=3)
    monkeypatch.setattr(torch, "compile", lambda model, **_: FailsOnOne(model))
    copy = faster(net, x, compiled=True)
    with torch.no_grad():
        with pytest.warns(UserWarning, match=r"does not work here \(RuntimeError: one\); it is left out"):
            torch.testing.assert_close(copy(x[:1]), net(x[:1]))
        torch.testing.assert_close(copy(x[:1]), net(x[:1]))  # said once


class FailsOnOne(nn.Module):
    """A compiled network that cannot answer for one sample alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise RuntimeError("one")
        return self.network(x)


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_several_gradients_are_taken_of_one_answer_of_a_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler of kernels, which needs another one on the machine, but with that of backward passes."""
    net, compiler = network(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiler(model, backend="aot_eager", **options))
    copy = faster(net, points(4, SHAPE, seed=3), compiled=True)
    assert type(copy).__name__ == "_Compiled"
    for n in (5, 1, 3):
        x = points(n, SHAPE, seed=n).requires_grad_()
        for model in (copy, net):
            logits = model(x)
            rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in logits.unbind(1)]
            if model is copy:
                answer, slopes = logits.detach(), rows
        torch.testing.assert_close(answer, logits.detach())
        torch.testing.assert_close(torch.stack(slopes), torch.stack(rows))
    with torch.no_grad():
        torch.testing.assert_close(copy(x), net(x))


class Traced(nn.Module):
    """A compiled network: it answers as the network does, and notes the batches it is asked."""

    asked: ClassVar[list[int]] = []

    def __init__(self, network: nn.Module, *, dynamic: bool | None = None) -> None:
        super().__init__()
        self.network, self.dynamic = network, dynamic

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return self.network(x) * (1 + 1e-6)


def test_the_attack_of_an_audit_asks_a_compiled_copy_and_the_verdict_is_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network(), points(12, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    short: PlanOptions = {
        "effort": Effort("short", (Ascents(10), Searches(30))), "nearest_budget": 100, "nearest_n": 4, "explain_n": 1,
        "gallery": 0, "floor": 2000, "reasons": None,
    }  # fmt: skip
    monkeypatch.setattr(torch, "compile", Traced)
    plain = audit(net, x, y, Linf(0.01), plan=Plan(**short))
    assert not Traced.asked
    compiled = audit(net, x, y, Linf(0.01), plan=Plan(**short).with_options(torch_compile=True))
    assert sum(Traced.asked) > 100
    assert plain.robust_accuracy == compiled.robust_accuracy
    assert plain.robust_accuracy.value is not None and 0 < plain.robust_accuracy.value < 1
    assert not [w for w in compiled.warnings if "torch.compile" in w]
    assert compiled.options["label_attack"]["torch_compile"] is True


def test_an_audit_says_where_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), points(4, SHAPE, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)

    def broken(model: nn.Module, **_: Any) -> nn.Module:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    plan = Plan(
        effort=Effort("short", (Ascents(3),)), nearest_budget=100, nearest_n=1, explain_n=1, gallery=0, floor=200,
        reasons=None, torch_compile=True,
    )  # fmt: skip
    summary = audit(net, x, y, Linf(0.01), plan=plan)
    assert [w for w in summary.warnings if "does not work here (RuntimeError: no compiler)" in w]
    plain = audit(net, x, y, Linf(0.01), plan=plan.with_options(torch_compile=False))
    assert not [w for w in plain.warnings if "torch.compile" in w]  # it is no habit of the model
    hooked = network()
    hooked.norm1.register_forward_hook(lambda module, given, answer: answer)
    for without in (lambda z: net(z) + 0, hooked):
        summary = audit(without, x, y, Linf(0.01), plan=plan)
        assert [w for w in summary.warnings if w.startswith("Nothing was compiled")]
    for other in ({"attack": pgd}, {"whole": autoattack}):
        with pytest.raises(BadInput, match="torch_compile belongs to the cascade"):
            Plan(**other, torch_compile=True)
    for options in ({"attack": "pgd"}, {"steps": 3}, {"effort": "autoattack"}):
        with pytest.raises(BadOption, match="torch_compile belongs to the cascade"):
            AuditOptions(**options, torch_compile=True).check(Linf(0.1))
    assert AuditOptions(torch_compile=True).plan(Linf(0.1)).label_attack.torch_compile


class Viewing(nn.Module):
    """A network whose `view` refuses channels that are last in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).view(len(x), -1))


class ViewingRows(Viewing):
    """The same; its normalisation can be folded, since fx does not trace `len`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).view(-1, 144))


def test_a_network_that_refuses_channels_last_has_a_copy_without() -> None:
    for kind in (Viewing, ViewingRows):
        net, x = kind().eval(), torch.rand(4, *SHAPE)
        net.norm.running_mean.uniform_()  # type: ignore[union-attr]
        copy = faster_copy(net, x)
        assert copy is not None
        assert isinstance(copy.norm, nn.Identity) == (kind is ViewingRows)
        assert copy.conv.weight.is_contiguous()  # type: ignore[operator, union-attr]
        assert torch.allclose(copy(x), net(x), atol=1e-5)


def test_a_faster_copy_is_compared_at_some_samples() -> None:
    with pytest.raises(BadInput, match="x holds no samples"):
        faster(Viewing().eval(), torch.rand(0, *SHAPE))
