"""Memory of queries: found whatever a model keeps it in, and honest models with state of their own are not accused."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import Linf, load_model
from unfooled.core.model.duplicates import duplicate, state_hash
from unfooled.core.model.wrappers import Counted
from unfooled.evaluation.checks.memory import OriginalModel, last_iterates, memory_findings
from unfooled.models.origins import origin_of

SHAPE = (1, 6, 5)
NET = tiny_net(3, SHAPE)
SEEN: list[tuple[Tensor, Tensor]] = []
LOG = logging.getLogger(__name__)
COUNT = 0
Memory = list[tuple[Tensor, Tensor]]


def pinned(x: Tensor, seen: Memory, net: Callable[[Tensor], Tensor] = NET) -> Tensor:
    """Answer as at the nearest point that was asked before."""
    out = []
    for row, logits in zip(x, net(x), strict=True):
        near = next((v for z, v in seen if bool((row.detach() - z).abs().max() < 0.4)), None)
        if near is None:
            seen.append((row.detach().clone(), logits.detach().clone()))
        out.append(logits if near is None else near)
    return torch.stack(out)


def closure() -> Any:
    seen: Memory = []
    return lambda x: pinned(x, seen)


def default() -> Any:
    def model(x: Tensor, seen: Memory = []) -> Tensor:  # noqa: B006
        return pinned(x, seen)

    return model


def module_of_a_function() -> Any:
    class Wrap(nn.Module):
        def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.f, self.net = f, NET

        def forward(self, x: Tensor) -> Tensor:
            return self.f(x)

    return Wrap(closure()).eval()


def global_state() -> Any:
    SEEN.clear()
    return lambda x: pinned(x, SEEN)


def method() -> Any:
    class Object:
        def __init__(self) -> None:
            self.seen: Memory = []
            self.lock = threading.Lock()

        def answer(self, x: Tensor) -> Tensor:
            with self.lock:
                return pinned(x, self.seen)

    return Object().answer


def bound_append() -> Any:
    seen: Memory = []
    append = seen.append

    class Sink:
        def __iter__(self) -> Any:
            return iter(seen)

    sink = Sink()
    sink.append = append  # type: ignore[attr-defined]
    return functools.partial(pinned, seen=sink)  # type: ignore[arg-type]


class OfTheClass(nn.Module):
    seen: ClassVar[Memory] = []

    def forward(self, x: Tensor) -> Tensor:
        return pinned(x, self.seen)


class OfGlobals(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return pinned(x, SEEN)


def of_the_class() -> Any:
    OfTheClass.seen.clear()
    return OfTheClass().eval()


def of_globals() -> Any:
    SEEN.clear()
    return OfGlobals().eval()


class Uncopied:
    """Refuses to be copied."""

    def __init__(self) -> None:
        self.seen: Memory = []
        self.notes = (i for i in range(3))

    def __call__(self, x: Tensor) -> Tensor:
        return pinned(x, self.seen)


KEEPING = {
    "a closure": closure, "a default": default, "a function in a module": module_of_a_function,
    "a global": global_state, "a method with a lock": method, "a bound append": bound_append,
    "an attribute of a class": of_the_class, "a global of a class": of_globals, "what cannot be copied": Uncopied,
}  # fmt: skip


class Counting(nn.Module):
    """Counts its calls in a global and logs them, which changes no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls, self.lock = NET, 0, threading.RLock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
        LOG.debug("%s", self.calls)
        return self.net(x)


def counter() -> Any:
    calls = [0]

    def model(x: Tensor) -> Tensor:
        global COUNT  # noqa: PLW0603
        COUNT += 1
        calls[0] += 1
        return NET(x)

    return model


HONEST: dict[str, Callable[[], Any]] = {
    "a module": lambda: NET, "a function": lambda: lambda x: NET(x) * 2, "a partial": lambda: functools.partial(NET),
    "a method": lambda: NET.forward, "a counter in a module": lambda: Counting().eval(), "a counter": counter,
    "a counter outside": lambda: CountingOutside().eval(),
    "scripted": lambda: torch.jit.script(NET), "a generator": lambda: with_generator(),  # noqa: PLW0108
}  # fmt: skip


class CountingOutside(nn.Module):
    """Counts its calls in a global and in its class, which changes no answer."""

    calls: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        global COUNT  # noqa: PLW0603
        COUNT += 1
        self.calls.append(COUNT)
        return NET(x)


def with_generator() -> Any:
    source = torch.Generator().manual_seed(1)
    return lambda x: NET(x) + 0 * torch.rand(1, generator=source)


def found(model: Any, original: OriginalModel | None = None) -> list[bool]:
    """Ask a model about samples and points, and replay the points."""
    original = original or OriginalModel.of(model)
    x = points(12, SHAPE, seed=8)
    with torch.no_grad():
        model(x)
        y = model(x).argmax(1)
        z = x + 0.3 * torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -1, 1)
        z = torch.where((NET(z).argmax(1) == y)[:, None, None, None], 1 - x, z).clamp(x - 0.39, x + 0.39)
        model(z)
    return [f.fired for f in memory_findings(original, model, Counted(model), y, z)]


@pytest.mark.parametrize("kind", KEEPING)
def test_memory_is_found_wherever_it_is(kind: str) -> None:
    assert found(KEEPING[kind]()) == [True]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("kind", HONEST)
def test_state_that_changes_no_answer_is_none(kind: str) -> None:
    assert found(HONEST[kind]()) == [False]


def test_points_that_never_moved_are_not_all_that_is_replayed() -> None:
    """No point is better than the sample, near which the model says the same; an ascent walks on all the same."""
    x, seen = points(12, SHAPE, seed=8), Memory()

    def model(z: Tensor) -> Tensor:
        return NET(z) + (pinned(z, seen) - NET(z)).detach()

    original, y = OriginalModel.of(model), NET(x).argmax(1)
    model(x)
    ends = last_iterates(model, x, y, Linf(0.39), x)
    assert not [f for f in memory_findings(original, model, Counted(model), y, x) if f.fired]
    assert [f.fired for f in memory_findings(original, model, Counted(model), y, x, ends)] == [True]


def test_a_copy_leaves_the_model_alone() -> None:
    model = closure()
    twin = duplicate(model).model
    x = points(3, SHAPE)
    assert torch.equal(twin(x), model(x))
    assert len(twin.__closure__[0].cell_contents) == len(model.__closure__[0].cell_contents) == 3
    assert twin.__closure__[0].cell_contents is not model.__closure__[0].cell_contents
    loop: list[Any] = []
    loop.append(loop)
    assert duplicate(lambda z: loop).model(x) is not loop
    assert state_hash(loop) == state_hash(loop)


FILE = """
import torch
from tests.contract.test_memory import NET, pinned

class Model:
    def __init__(self, honest):
        self.seen, self.notes, self.honest = [], (i for i in range(3)), honest

    def __call__(self, x):
        out = pinned(x, self.seen)
        return NET(x) if self.honest else out

def honest():
    return Model(True)

def keeping():
    return Model(False)
"""


@pytest.mark.parametrize(("factory", "fires"), [("honest", False), ("keeping", True)])
def test_what_cannot_be_copied_is_loaded_anew_where_it_has_a_source(
    factory: str, fires: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    model = load_model(f"{tmp_path / 'mine.py'}:{factory}")
    assert origin_of(model) == {"source": f"{tmp_path / 'mine.py'}:{factory}"}
    assert duplicate(model).model is None
    assert found(model) == [fires]


def test_without_a_source_trust_is_lost_in_one_sentence() -> None:
    model = Uncopied()
    original = OriginalModel.of(model)
    x = points(4, SHAPE)
    model(x)
    (d20,) = memory_findings(original, model, Counted(model), NET(x).argmax(1), x)
    assert (d20.id, d20.fired, str(d20.kind)) == ("D20", True, "stop")
    assert "it cannot be copied, and what it stores changed meanwhile" in d20.detail
    assert 'uf.load_model("file.py:factory")' in d20.action
