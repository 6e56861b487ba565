"""Work that a killed audit left is used, and files that were changed are not: the twin, settings, paths, summaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.attacks.gradients import twins
from unfooled.attacks.gradients.twins import distil
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Linf
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.checks import after
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.records import Config
from unfooled.runs.settings import difference, settings_hash

SHAPE = (1, 6, 5)
PLAN = Plan(
    effort=Effort("short", (Ascents(2),)), nearest_budget=100, nearest_n=2, explain_n=2, gallery=2, floor=8000,
    reasons=None,
)  # fmt: skip


@dataclass
class Stopping:
    """A store of parts that stops after some new ones."""

    run: Run
    most: int
    made: list[str] = field(default_factory=list)

    def __call__(self, name: str, compute: Callable[[], Rows]) -> Rows:
        def counted() -> Rows:
            if len(self.made) == self.most:
                raise KeyboardInterrupt
            self.made.append(name)
            return compute()

        return self.run.part(f"twin-{name}", counted)[0]


@pytest.mark.parametrize("most", [1, 7])
def test_a_twin_goes_on_where_it_was(most: int, tmp_path: Path) -> None:
    net, x = tiny_net(3, SHAPE), points(6, SHAPE)
    small = nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    options: dict[str, Any] = {"module": small, "rounds": 2, "points": 2, "epochs": 1, "seed": 3}
    whole = distil(net, x, Linf(0.1), **options).state_dict()
    made: list[str] = []
    for _ in range(60):
        keep = Stopping(Run(tmp_path, {"seed": 3}), most)
        try:
            twin = distil(net, x, Linf(0.1), keep=keep, **options)
        except KeyboardInterrupt:
            continue
        finally:
            made += keep.made
        break
    assert len(made) == len(set(made)) >= 6
    assert all(torch.equal(value, whole[name]) for name, value in twin.state_dict().items())


def test_parts_are_computed_once_and_keep_their_passes(tmp_path: Path) -> None:
    model = Counted(lambda x: x)

    def compute() -> Rows:
        model(torch.zeros(5, 2))
        return {"a": torch.arange(3), "b": torch.zeros(()), "c": torch.rand(2, 2)}

    first = Run(tmp_path, {"a": 1}).part("p", compute, model=model)
    run = Run(tmp_path, {"a": 1})
    again = run.part("p", compute, model=model)
    assert all(torch.equal(again[0][name], value) for name, value in first[0].items())
    assert again[1] == first[1] == (5, 0)
    assert model.forwards == 5
    (tmp_path / "chunks/p.safetensors").write_bytes(b"")
    assert torch.equal(run.part("p", compute, model=model)[0]["a"], torch.arange(3))
    assert run.folder.damaged == ["chunks/p.safetensors"]
    assert model.forwards == 10


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Tensor, Tensor, Path, Any]:
    model, x = tiny_net(3, SHAPE), points(8, SHAPE, seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    folder = tmp_path_factory.mktemp("run")
    return model, x, y, folder, audit(model, x, y, Linf(0.01), plan=PLAN, out=folder)


def test_a_second_start_trains_nothing_and_counts_the_same(audited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y, folder, first = audited
    assert list((folder / "chunks").glob("twin-trial-round-*"))

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a training step")

    monkeypatch.setattr(torch.optim.AdamW, "step", refused)
    again = audit(model, x, y, Linf(0.01), plan=PLAN, out=folder)
    times = {"seconds", "created"}
    assert again.model_dump(exclude=times) == first.model_dump(exclude=times)
    assert again.warnings == first.warnings


def test_a_second_start_asks_nothing_but_what_the_inspection_asks(
    audited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y, folder, first = audited

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    calls: list[int] = []
    forward = type(model).forward

    def counted(net: Any, z: Tensor) -> Any:
        if net is model:
            calls.append(len(z))
        return forward(net, z)

    monkeypatch.setattr(twins, "pgd_from", refused)
    monkeypatch.setattr(torch.optim.AdamW, "__init__", refused)
    monkeypatch.setattr(after, "find_refusals", refused)
    monkeypatch.setattr(type(model), "forward", counted)
    again = audit(model, x, y, Linf(0.01), plan=PLAN, out=folder)
    assert calls == [8, 8, 1]  # two looks of the inspection, and one sample for the batch size
    assert again.model_dump(exclude={"seconds", "created"}) == first.model_dump(exclude={"seconds", "created"})


class Silent(nn.Module):
    """A network without an answer where an input comes near the end of its range."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net(3, SHAPE)

    def forward(self, x: Tensor) -> Any:
        return self.net(x).masked_fill((x.flatten(1) > 0.97).any(1)[:, None], torch.nan)


def test_points_without_an_answer_are_searched_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Silent().eval(), points(8, SHAPE, seed=5) * 0.4 + 0.5
    y, threat = model(x).argmax(1), Linf(0.09)
    first = audit(model, x, y, threat, plan=PLAN, out=tmp_path)
    assert "D22" in {f.id for f in first.diagnostics if f.fired}

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(after, "find_refusals", refused)
    again = audit(model, x, y, threat, plan=PLAN, out=tmp_path)
    assert again.model_dump(exclude={"seconds", "created"}) == first.model_dump(exclude={"seconds", "created"})


@pytest.mark.parametrize("most", [3, 9])
def test_a_start_restores_only_the_state_that_it_continues(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[int] = []
    restore = twins.Descent.restore

    def noted(*args: Any) -> None:
        restored.append(1)
        restore(*args)

    net, x = tiny_net(3, SHAPE), points(6, SHAPE)
    options: dict[str, Any] = {"rounds": 1, "points": 2, "epochs": 1, "width": 4}
    with pytest.raises(KeyboardInterrupt):
        distil(net, x, Linf(0.1), keep=Stopping(Run(tmp_path, {}), most), **options)
    monkeypatch.setattr(twins.Descent, "restore", noted)
    with pytest.raises(KeyboardInterrupt):
        distil(net, x, Linf(0.1), keep=Stopping(Run(tmp_path, {}), 1), **options)
    assert len(restored) == 1


def test_without_its_settings_a_folder_shows_no_figure_of_another_threat(audited: Any) -> None:
    model, x, y, folder, _ = audited
    (folder / "config.json").unlink()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(model, x, y, Linf(0.2), plan=PLAN, out=folder, progress=stop)
    assert not (folder / "summary.json").exists()
    with pytest.raises(BadInput, match=r"threat was 'linf:0\.2', now it is 'linf:0\.01'"):
        audit(model, x, y, Linf(0.01), plan=PLAN, out=folder)


def config(model: str, data: str = "d", arch: str | None = None, print_: str = "1") -> Config:
    return Config(
        model=model,
        data=data,
        n=1,
        threat="t",
        seed=0,
        options={"arch": arch},
        fingerprint={"model": print_, "data": "2"},
    )


def test_another_spelling_of_a_path_is_the_same_model() -> None:
    one = config("a.pt", "x.npz", "some/net.py:make")
    for other in (config("./a.pt", "/tmp/x.npz", "net.py:make"), config("/tmp/b.pt", "y", "./net.py:make")):
        assert difference(one, other) == ""
        assert settings_hash(one) == settings_hash(other)
    for other in (config("a.pt", "x.npz", "net.py:other"), config("a.pt", print_="2")):
        assert difference(one, other)
        assert settings_hash(one) != settings_hash(other)
    assert difference(config("m.py:a"), config("m.py:b"))
    assert difference(config("my.nets:a"), config("my.nets:b"))
    assert difference(config("m.py:a"), config("sub/m.py:a")) == ""
    assert difference({"model": "a.pt"}, {"model": "./a.pt"})
