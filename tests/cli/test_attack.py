"""Every attack of the library runs from the command line; what one does not take is refused by the option's name."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.test_cli import run
from tests.conftest import points, tiny_net
from torch import Tensor

import unfooled as uf
from unfooled.attacks.ensembles import envelope
from unfooled.core.errors import BadInput
from unfooled.evaluation.verify import verify
from unfooled.features import Encoder
from unfooled.purification import fit_purifier, guard
from unfooled.workflows import BadOption, bind_attack, catalog, within_threat

NET = """
import torch
from torch import nn

def build():
    from unfooled.data.load import load_data
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    x, y = load_data("digits", "train", n=400)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()
"""
PURIFIERS = """

def purify(x):
    return (x * 0.9).clamp(0, 1)

def failing(x):
    raise ValueError("no images today")
"""
THREATS = {math.inf: "linf:0.2", 2.0: "l2:1", 1.0: "l1:4", 0.0: "l0:8"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "attacked_nets.py").write_text(NET + PURIFIERS)
    torch.manual_seed(0)
    encode = Encoder(uf.models.SmallCnn(width=4).eval(), "fc1")
    x, y = uf.load_data("digits", "train", n=100)
    fit_purifier(encode, x, y, seed=0, atoms=4, size=4, max_clusters=1, min_size=5).save(folder / "purifier")
    return folder


def asked(name: str, *more: str, n: int = 6) -> list[str]:
    """`unfooled attack` with this attack and a threat that it knows."""
    threat = THREATS[catalog.ATTACKS[name].norms[-1]]
    words = ["attack", "--model", "attacked_nets:build", "--threat", threat, "--n", str(n), "--attack", name]
    return [*words, *(["--purify", "purifier"] if catalog.ATTACKS[name].purifier else []), *more]


def function_of(name: str) -> Any:
    return catalog.resolve(catalog.ATTACKS[name].path)


def steps_of(name: str) -> list[str]:
    """Few steps, where the attack takes steps."""
    few = "30" if catalog.ATTACKS[name].unit == "steps" else "120"
    return ["--steps", few] if "steps" in catalog.takes(function_of(name)) else []


def is_minimal(name: str) -> bool:
    return "norm" in catalog.takes(function_of(name))


@pytest.mark.parametrize("name", catalog.ATTACKS)
def test_every_attack_runs(home: Path, name: str) -> None:
    record = json.loads(run(home, *asked(name, *steps_of(name), "--out", name, "--json")).stdout)
    assert record["attack"].startswith(name.upper())
    assert record["passes"]["forward"] > 0
    assert record["robust_accuracy"]["value"] <= record["clean_accuracy"]["value"]
    assert ("median_distance" in record) is is_minimal(name)
    threat = catalog.ATTACKS[name].norms[-1]
    with np.load(home / f"{name}.npz") as stored:
        x, clean = torch.from_numpy(stored["x"]), torch.from_numpy(stored["clean_x"])
        size = (x - clean).flatten(1).norm(p=threat, dim=1)
        assert float(size.max()) <= float(THREATS[threat].partition(":")[2]) + 1e-5
        assert record["robust_accuracy"]["value"] == pytest.approx(1 - stored["success"].mean())
        if is_minimal(name):
            distance = stored["nearest_distance"]
            assert record["median_distance"] == pytest.approx(np.sort(distance)[(len(distance) - 1) // 2])
    assert not (home / f"{name}.npz.parts").exists()


@pytest.mark.parametrize("name", catalog.ATTACKS)
def test_options_that_an_attack_does_not_take_are_refused_by_name(home: Path, name: str) -> None:
    takes = catalog.takes(function_of(name))
    for command in ("attack", "audit"):
        words = [command, *asked(name)[1:]]
        if "restarts" not in takes:
            assert f"{name} has no --restarts" in run(home, *words, "--restarts", "3", code=2).stderr
        if "steps" not in takes:
            assert f"{name} takes no --steps" in run(home, *words, "--steps", "3", code=2).stderr
        for norm in set(THREATS) - set(catalog.ATTACKS[name].norms):
            words[words.index("--threat") + 1] = THREATS[norm]
            said = run(home, *words, code=2).stderr
            assert f"{name} supports " in said
            assert "choose another --attack" in said
    assert not list(home.glob("adversarial*"))


@pytest.mark.parametrize("name", catalog.ATTACKS)
def test_the_table_says_which_norms_an_attack_knows(name: str) -> None:
    row, function = catalog.ATTACKS[name], function_of(name)
    bound = {parameter: catalog.resolve(path) for parameter, path in row.bound.items()}
    if row.purifier:
        bound |= {"distance": lambda z: z.flatten(1)[:, :2].square(), "label": torch.arange(2)}
    few = {"steps": 100} if "steps" in catalog.takes(function) else {}
    x, y = points(2, (1, 6, 5)), torch.tensor([0, 1])
    for norm, text in THREATS.items():
        allowed: Any = norm if is_minimal(name) else uf.workflows.words.threat_of(text)
        if norm in row.norms:
            assert function(tiny_net(4), x, y, allowed, **few, **bound).shape == x.shape
        else:
            with pytest.raises(BadInput):
                function(tiny_net(4), x, y, allowed, **few, **bound)


def attacked_points(home: Path, *words: str) -> tuple[Any, np.ndarray]:
    start = ["attack", "--model", "attacked_nets:build", "--threat", "linf:0.1", "--n", "6"]
    record = json.loads(run(home, *start, *words, "--json").stdout)
    with np.load(record["out"] if Path(record["out"]).is_absolute() else home / record["out"]) as stored:
        return record, stored["x"]


def test_a_model_is_attacked_behind_a_purifier(home: Path) -> None:
    short = ("--attack", "pgd-margin", "--steps", "4")
    bare, z = attacked_points(home, *short, "--out", "bare")
    behind, moved = attacked_points(home, *short, "--purify", "attacked_nets:purify", "--out", "behind")
    net, (x, y) = uf.load_model(home / "attacked_nets.py:build"), uf.load_data("digits", n=6)
    plan: dict[str, Any] = {"steps": 4, "loss": uf.core.losses.margin, "generator": torch.Generator().manual_seed(0)}
    want = uf.attacks.pgd(guard(net, lambda x: (x * 0.9).clamp(0, 1)), x, y, uf.Linf(0.1), **plan)
    torch.testing.assert_close(torch.from_numpy(moved), want)
    assert not np.array_equal(z, moved)
    assert run(home, *asked("pgd-margin", "--out", "bare", "--purify", "purifier"), code=2).stderr  # another work
    assert bare["passes"] != {}
    assert behind["robust_accuracy"]["n"] == 6
    assert any("`unfooled audit` attacks it in every way" in text for text in behind["warnings"])
    assert not any("unfooled audit" in text for text in bare["warnings"])


@pytest.mark.parametrize(
    ("purify", "said"),
    [
        (None, "--attack assignment moves inputs to other clusters of a purifier; give --purify"),
        ("attacked_nets:purify", "--attack assignment needs a purifier with clusters of several classes"),
        ("absent", "--purify absent: there is no such folder"),
    ],
)
def test_clusters_that_an_attack_needs(home: Path, purify: str | None, said: str) -> None:
    for command in ("attack", "audit"):
        words = [command, *asked("assignment")[1:]]
        place = words.index("--purify")
        words[place : place + 2] = [] if purify is None else ["--purify", purify]
        assert said in run(home, *words, code=2).stderr


def test_a_purifier_that_fails_is_one_sentence(home: Path) -> None:
    said = run(home, *asked("pgd"), "--purify", "attacked_nets:failing", code=2).stderr
    assert "the purifier fails on samples of shape (1, 8, 8), torch.float32, with ValueError: no images today" in said


def test_an_audit_by_the_assignment_alone_is_not_evaluable(home: Path) -> None:
    words = ["audit", *asked("assignment", "--steps", "3", "--reasons", "none", "--json")[1:]]
    summary = json.loads(run(home, *words).stdout)
    assert (summary["verdict"], summary["robust_accuracy"]["value"]) == ("NOT EVALUABLE", None)
    assert summary["attack"].startswith("ASSIGNMENT")


def test_the_table_has_every_attack_on_the_label() -> None:
    """All functions that need a model, samples and a threat or a norm, and nothing else."""
    known = {row.path.partition(":")[2] for row in catalog.ATTACKS.values()}
    found = set()
    for name in uf.attacks.__all__:
        value = getattr(uf.attacks, name)
        if not inspect.isfunction(value):
            continue
        parameters = list(inspect.signature(value).parameters.values())
        needed = {p.name for p in parameters if p.default is p.empty}
        if [p.name for p in parameters[:3]] == ["model", "x", "y"] and needed <= {"model", "x", "y", "threat", "norm"}:
            found.add(name)
    assert len(found) > 12
    assert found <= known
    assert catalog.EFFORTS["autoattack"].path.endswith(":autoattack")


def test_minimal_norm_attacks_say_how_near(home: Path) -> None:
    words = asked("ddn", "--steps", "40", "--out", "near.npz", "--threat", "l2:0.45", n=12)
    text = run(home, *words).stdout
    record = json.loads(run(home, *words, "--json").stdout)
    assert f"median distance  {record['median_distance']:.4g}" in text
    with np.load(home / "near.npz") as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in ("x", "clean_x", "nearest_x", "y")}
        reached, success = stored["nearest_distance"], torch.from_numpy(stored["success"])
    near = torch.from_numpy(reached) <= 0.45
    assert 0 < near.sum() < len(near)
    assert torch.equal(success, near)  # in L2 cutting a point that is too far does not fool by chance here
    assert torch.equal(arrays["x"][near], arrays["nearest_x"][near])


def test_a_minimal_norm_attack_in_an_audit(home: Path) -> None:
    words = ["audit", *asked("fmn", "--steps", "20")[1:], "--reasons", "none", "--json"]
    summary = json.loads(run(home, *words).stdout)
    assert summary["attack"] == "FMN, 20 steps"
    assert summary["robust_accuracy"]["value"] < summary["clean_accuracy"]["value"]


@pytest.mark.parametrize(("effort", "threat"), [("quick", "linf:0.1"), ("autoattack", "linf:0.5")])
def test_ensembles_by_effort(home: Path, effort: str, threat: str) -> None:
    base = ["attack", "--model", "attacked_nets:build", "--threat", threat, "--n", "6", "--out", f"e-{effort}.npz"]
    record = json.loads(run(home, *base, "--effort", effort, "--json").stdout)
    assert record["attack"] == {"quick": "cascade, quick", "autoattack": "AutoAttack-standard"}[effort]
    assert record["passes"]["backward"] > 0
    changed = run(home, *base, "--attack", "pgd", code=2).stderr
    assert "holds another attack: attack was None, now it is 'pgd'" in changed
    for one in (["--attack", "pgd"], ["--steps", "3"], ["--restarts", "2"]):
        said = run(home, *base, "--effort", effort, *one, code=2).stderr
        assert f"--effort {effort} runs an ensemble, {' '.join(one)} asks for one attack; give one of them" in said
    assert "did you mean quick" in run(home, *base, "--effort", "quik", code=2).stderr


def test_a_killed_attack_continues(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unfooled.workflows import attacking

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    words = asked("pgd", "--steps", "3", "--out", "killed.npz", n=250)
    with monkeypatch.context() as patch:
        patch.setattr(attacking, "share", killed)
        said = run(home, *words, code=130).stderr
    assert "the same command continues" in said
    assert (home / "killed.npz.parts").is_dir()
    (home / "killed.npz.parts/mine.txt").write_text("mine")
    (home / "killed.npz").unlink()
    other = run(home, *words, "--seed", "1", code=2).stderr
    assert "seed was 0, now it is 1" in other
    assert "250 of 250 found from an earlier start" in run(home, *words).stderr
    assert [path.name for path in (home / "killed.npz.parts").iterdir()] == ["mine.txt"]


def test_chunks_of_other_stages_of_an_effort_are_not_continued(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unfooled.attacks.ensembles import efforts
    from unfooled.attacks.ensembles.stages import Ascents
    from unfooled.workflows import attacking, catalog

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    words = ["attack", "--model", "attacked_nets:build", "--threat", "linf:0.1", "--n", "6", "--out", "stages.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(attacking, "share", killed)
        run(home, *words, "--effort", "quick", code=130)
    shorter = efforts.Effort("quick", (Ascents(3),))
    monkeypatch.setattr(
        catalog, "resolve", lambda path, real=catalog.resolve: shorter if "QUICK" in path else real(path)
    )
    assert "stages was" in run(home, *words, "--effort", "quick", code=2).stderr


def test_functions_are_attacks_too() -> None:
    x, y = points(5, (1, 6, 5)), torch.zeros(5, dtype=torch.int64)
    threat = uf.L2(0.4)
    seen: list[int] = []

    def nearest(model: Any, x: Tensor, y: Tensor, norm: float, *, generator: Any = None) -> Tensor:
        seen.append(len(x))
        return uf.attacks.ddn(model, x, y, norm, steps=10, generator=generator)

    bound = bind_attack(nearest, threat, batch=2)
    z = bound.propose(tiny_net(), x, y, threat)
    assert seen == [2, 2, 1]
    assert bool(verify(tiny_net(), x, y, z, threat).inside.all())
    torch.testing.assert_close(z, within_threat(nearest)(tiny_net(), x, y, threat))
    with pytest.raises(BadOption, match="attack is a function; bind its steps and restarts"):
        bind_attack(nearest, threat, steps=3)


def test_the_envelope_is_one_attack() -> None:
    x, y = points(4, (1, 6, 5)), torch.zeros(4, dtype=torch.int64)
    z = catalog.resolve(catalog.ATTACKS["envelope"].path)(tiny_net(), x, y, 2.0, steps=100, batch=4)
    assert torch.equal(z, envelope(tiny_net(), x, y, (2.0,), budget=100, batch=4)[2.0])
