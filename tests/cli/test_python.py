"""Python can do what the command line can: each workflow returns the record that its command prints."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tests.cli.test_cli import NET, run
from tests.conftest import points, tiny_net
from tests.unit.attribute_images import write_attributes

import unfooled as uf
from unfooled import workflows
from unfooled.cli.app import app
from unfooled.cli.errors import as_flag
from unfooled.training import Madry
from unfooled.workflows import (
    AuditOptions,
    BadOption,
    FeatureOptions,
    Inputs,
    LossOptions,
    Machine,
    MapAttack,
    Network,
    Recipe,
)

CPU = Machine("cpu")
HERE = {
    "seconds",
    "created",
    "efficiency",
    "command",
    "environment",
    "out",
    "manifest",
    "manifest_sha256",
    "files",
    "perturbation",
}
"""Fields that say where or when a record was made."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    (folder / "python_nets.py").write_text(NET)
    a = np.random.default_rng(0).random((4, 12, 12), dtype=np.float32)
    np.save(folder / "a.npy", a)
    np.save(folder / "b.npy", np.roll(a, 1, 2))
    write_attributes(folder / "images", 24)
    run(folder, "train", "--n", "120", "--epochs", "1", "--out", "net.pt", "--quiet")
    run(folder, *AUDIT, "--out", "audited", "--quiet")
    run(folder, *ATTACK, "--rows", "0:9", "--out", "share", "--quiet")
    return folder


NETS = ("--model", "python_nets:build", "--device", "cpu")
AUDIT = ("audit", *NETS, "--threat", "linf:0.1", "--n", "8", "--attack", "pgd", "--steps", "3", "--reasons-n", "2")
ATTACK = ("attack", *NETS, "--threat", "l2:0.6", "--attack", "ddn", "--steps", "20", "--n", "9")
CASES: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "audit": (
        (*AUDIT, "--out", "cli-audit"),
        lambda _: workflows.audit(
            Inputs("python_nets:build", n=8), "linf:0.1", out="python-audit", machine=CPU,
            options=AuditOptions(attack="pgd", steps=3, reasons_n=2),
        ),
    ),
    "attack": (
        (*ATTACK, "--out", "cli.npz"),
        lambda _: workflows.attack(
            Inputs("python_nets:build", n=9), uf.L2(0.6), attack="ddn", steps=20, out="python.npz", machine=CPU
        ),
    ),
    "merge": (
        ("merge", "share", "--out", "cli-merged.npz", "--trust-shares"),
        lambda _: workflows.merge(["share"], "python-merged.npz", trust_shares=True),
    ),
    "certify": (
        ("certify", *NETS, "--threat", "linf:0.002", "--effort", "quick", "--n", "4", "--out", "cli-proofs"),
        lambda _: workflows.certify(
            Inputs("python_nets:build", n=4), "linf:0.002", effort="quick", out="python-proofs", machine=CPU
        ),
    ),
    "train": (
        ("train", "--loss", "trades", "--threat", "linf:0.1", "--attack-steps", "1", "--n", "64", "--epochs", "1",
         "--device", "cpu", "--out", "cli.pt"),
        lambda _: uf.train(
            "digits", "trades", threat="linf:0.1", options=LossOptions(attack_steps=1),
            recipe=Recipe(epochs=1, n=64), out="python.pt", machine=CPU,
        ),
    ),
    "explain": (
        ("explain", *NETS, "--method", "saliency", "--n", "3", "--threat", "linf:0.1", "--steps", "2",
         "--restarts", "1", "--attack", "top-k", "--k", "6", "--out", "cli-maps"),
        lambda _: workflows.explain(
            Inputs("python_nets:build", n=3), method="saliency", out="python-maps", machine=CPU,
            attack=MapAttack("linf:0.1", "top-k", steps=2, restarts=1, k=6),
        ),
    ),
    "lens": (
        ("lens", "a.npy", "b.npy", "--k", "9", "20", "--diverse", "--device", "cpu"),
        lambda _: workflows.lens("a.npy", "b.npy", k=[9, 20], diverse=True, machine=CPU),
    ),
    "counterfactual": (
        ("counterfactual", *NETS, "--attributes", "images/attributes.csv", "--data", "images", "--n", "2", "--target",
         "3", "--threat", "linf:0.3", "--steps", "3", "--keep", "top", "--out", "cli-edits"),
        lambda _: workflows.counterfactual(
            Inputs("python_nets:build", "images", n=2), "images/attributes.csv", target="3", threat=uf.Linf(0.3),
            steps=3, keep=["top"], out="python-edits", machine=CPU,
        ),
    ),
    "features": (
        ("features", "--model", "net.pt", "--n", "20", "--steps", "5", "--kind", "non-robust", "--device", "cpu",
         "--out", "cli-set.npz"),
        lambda _: workflows.features(
            Inputs("net.pt", n=20, split="train"), "python-set.npz", kind="non-robust",
            options=FeatureOptions(steps=5), machine=CPU,
        ),
    ),
    "report": (
        ("report", "audited", "--out", "cli.html"),
        lambda _: workflows.report(["audited"], "python.html"),
    ),
    "evidence": (("evidence", "audited", "--format", "annex-iv"), lambda _: workflows.evidence("audited", "annex-iv")),
    "doctor": (("doctor",), lambda _: workflows.doctor()),
    "demo": (
        ("demo", "--n", "6", "--out", "cli-demo"),
        lambda _: workflows.demo("python-demo", n=6),
    ),
    "study": (
        ("study", "broken-defences", "--seeds", "2", "--device", "cpu", "--out", "cli-study"),
        lambda _: workflows.study("broken-defences", out="python-study", seeds=(0, 1), machine=CPU),
    ),
}  # fmt: skip


def plain(record: Any) -> Any:
    """A record as JSON, without what differs between two runs, or between two folders."""
    if isinstance(record, BaseModel):
        record = json.loads(record.model_dump_json())
    if isinstance(record, dict):
        return {name: plain(value) for name, value in record.items() if name not in HERE}
    if isinstance(record, list):
        return [plain(value) for value in record]
    return record.replace("cli-", "").replace("python-", "") if isinstance(record, str) else record


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of one network and one epoch, and a study of two networks and a judge that takes no time."""
    from unfooled.models import SmallCnn
    from unfooled.studies import broken_defences as suite
    from unfooled.studies.broken_defences.cases import CASES as DEFENCES
    from unfooled.studies.broken_defences.cases import Case
    from unfooled.studies.broken_defences.scale import SCALES
    from unfooled.workflows import demonstrating

    short = {"hardened": (*demonstrating.NETWORKS["hardened"][:3], 1)}
    monkeypatch.setattr(demonstrating, "NETWORKS", short)
    quick = AuditOptions(effort="quick", reasons_n=2)
    monkeypatch.setattr(demonstrating, "audit", partial(demonstrating.audit, options=quick))
    scale = replace(SCALES["small"], n=10, train_n=200, epochs=1, arch=partial(SmallCnn, width=4))
    monkeypatch.setitem(SCALES, "small", scale)

    def judge(case: Case, model: Any, x: Any, y: Any, threat: Any, *, seed: int = 0) -> suite.Judgement:
        return suite.Judgement(
            seed=seed, number=case.number, name=case.name, kind=case.kind, n=len(x), eps=float(threat.eps), robust=0.0,
            verdict="EXTENDED", trusted=True, findings=["D6"], passes=100.0,
        )  # fmt: skip

    monkeypatch.setattr("unfooled.studies.broken_defences.study.audited", judge)
    few = [case for case in DEFENCES if case.number in (4, 39)]
    monkeypatch.setattr(suite, "run_broken_defences", partial(suite.run_broken_defences, cases=few))


@pytest.mark.usefixtures("small", "small_audits")
@pytest.mark.parametrize("name", CASES)
def test_a_workflow_returns_what_its_command_prints(home: Path, name: str) -> None:
    words, call = CASES[name]
    printed = json.loads(run(home, *words, "--json").stdout)
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(home), *sys.path])
        returned = call(home)
    assert plain(returned) == plain(printed)
    assert plain(printed)


INNER = [
    (str(group.name), str(command.name))
    for group in app.registered_groups
    for command in (group.typer_instance.registered_commands if group.typer_instance else [])
]
"""Commands of a group; their workflows are called `group_command`, and are compared in the group's own tests."""


def test_every_command_has_its_workflow() -> None:
    names = {command.name for command in app.registered_commands}
    assert names == set(CASES)
    assert names | {"_".join(pair) for pair in INNER} <= set(workflows.__all__)
    assert INNER


@pytest.mark.parametrize("name", [*(name for name in CASES if name != "doctor"), *map("_".join, INNER)])
def test_options_have_one_name(name: str) -> None:
    """The option `--some-option` of a command is `some_option` in Python, in the workflow or one of its values."""
    import typer

    group: Any = typer.main.get_command(app)
    found = {**group.commands, **{"_".join(pair): group.commands[pair[0]].commands[pair[1]] for pair in INNER}}
    flags = {
        option.name for option in found[name].params if option.name not in ("help", "json", "quiet", "list_studies")
    }
    values = (
        Inputs,
        Machine,
        AuditOptions,
        LossOptions,
        Network,
        Recipe,
        MapAttack,
        FeatureOptions,
        uf.Limits,
        workflows.OwnNetwork,
        workflows.LimeOptions,
        workflows.TextOptions,
        workflows.TableOptions,
        workflows.PurifierOptions,
        workflows.Gate,
        workflows.AttributeFiles,
    )
    fields = {field for value in values for field in inspect.signature(value).parameters}
    functions = [getattr(workflows, each) for each in (name, f"{name}_rows") if each in workflows.__all__]
    functions.append(workflows.open_out)  # opens the place of `--out` and `--store-options`
    known = {parameter for function in functions for parameter in inspect.signature(function).parameters} | fields
    assert flags - known <= {"seeds", "seed"}


def test_no_function_of_the_workflows_takes_more_than_twelve() -> None:
    for name in workflows.__all__:
        value = getattr(workflows, name)
        if inspect.isfunction(value):
            assert len(inspect.signature(value).parameters) <= 12, name


@pytest.mark.usefixtures("small_audits")
@pytest.mark.usefixtures("small_audits")
def test_objects_do_as_well_as_names(home: Path, tmp_path: Path) -> None:
    x, y = uf.load_data("digits", n=8)
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(home), *sys.path])
        net = uf.load_model("python_nets:build")
        named = workflows.audit(
            Inputs("python_nets:build", n=8), "linf:0.1", options=AuditOptions(attack="pgd", steps=3), machine=CPU
        )
    attack = partial(uf.attacks.pgd, steps=3, loss=uf.core.cross_entropy)
    options = AuditOptions(
        attack=attack, explain=uf.explanations.integrated_gradients, reasons=uf.explanations.saliency
    )
    given = workflows.audit(Inputs(net, (x, y)), uf.Linf(0.1), options=options, machine=CPU)
    assert given.robust_accuracy == named.robust_accuracy
    assert given.attack.startswith("pgd(steps=3")
    plan = uf.Plan(attack=attack, attack_name="mine", reasons=None, nearest_budget=100, nearest_n=2, explain_n=2)
    whole = workflows.audit(Inputs(net, (x, y)), uf.Linf(0.1), options=plan, machine=CPU)
    assert (whole.attack, whole.robust_accuracy) == ("mine", named.robust_accuracy)
    record = uf.train((x, y), Madry(uf.Linf(0.1), steps=1), out=tmp_path / "n.pt", recipe=Recipe(epochs=1, batch=4))
    assert record.loss.startswith("Madry(threat=Linf")
    assert uf.load_model(record.out)(x).shape == (8, int(y.max()) + 1)
    again = uf.train((x, y), Madry(uf.Linf(0.1), steps=1), out=tmp_path / "n.pt", recipe=Recipe(epochs=1, batch=4))
    assert again.trained == 0
    with pytest.raises(BadOption, match="loss is an object, which has its own threat"):
        uf.train((x, y), Madry(uf.Linf(0.1)), threat="linf:0.1", out=tmp_path / "m.pt")


def test_an_option_is_spelled_as_the_reader_writes_it() -> None:
    error = BadOption("{attack_steps} is {0!r}; give {loss:madry}, {loss:{1}} or {fresh:True}", "{x}", "a{b}")
    assert str(error) == "attack_steps is '{x}'; give loss='madry', loss='a{b}' or fresh=True"
    assert error.spelled(as_flag) == "--attack-steps is '{x}'; give --loss madry, --loss a{b} or --fresh"
    again = copy.copy(error)  # as another process would get it
    assert (str(again), again.spelled(as_flag)) == (str(error), error.spelled(as_flag))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: workflows.attack(Inputs("none.pt"), "0.3"), "threat is '0.3'; write a norm and a radius"),
        (
            lambda: workflows.attack(Inputs("none.pt"), "linf:0.1", attack="ddn"),
            "ddn supports L2, the threat is linf:0.1",
        ),
        (lambda: workflows.attack(Inputs("none.pt"), "l2:1", attack="ddn", restarts=2), "ddn has no restarts; give it"),
        (lambda: uf.train(loss="madry"), "loss='madry' needs an adversary to train against, such as threat='linf:0.1'"),
        (lambda: uf.train(loss="free", threat="l2:1", options=LossOptions(k=3)), "loss='free' takes no k; leave"),
        (lambda: uf.train(recipe=Recipe(epochs=0)), "epochs is 0, batch 128"),
        (lambda: Inputs("none.pt", n=0).load("cpu"), "n is 0"),
        (lambda: Machine("gpu").prepare(), "device='gpu' cannot be used here"),
        (lambda: workflows.study("attention", "tiny"), "there is no scale 'tiny'"),
        (lambda: workflows.features(Inputs("none.pt"), "o.npz", kind="d-rand"), "such as threat='l2:1.5'"),
        (lambda: MapAttack("linf:1", "region").checked(), "attack='region' needs to know where to: give region="),
    ],
)  # fmt: skip
def test_errors_speak_python(call: Callable[[], Any], said: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(uf.BadInput) as refused:
        call()
    assert said in str(refused.value)
    assert "--" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_diagnose() -> None:
    x, y = points(40, (1, 6, 5)), torch.zeros(40, dtype=torch.int64)
    net = tiny_net()
    y = net(x).argmax(1)
    honest = uf.diagnose(net, x, y, uf.Linf(0.05))
    assert honest.verdict == "EVALUABLE"
    assert {f.id for f in honest.findings} >= {"D2", "D6", "D8", "D20"}
    assert honest == uf.diagnose(net, x, y, uf.Linf(0.05))
    hidden = uf.diagnose(lambda z: net(z).detach(), x, y, uf.Linf(0.05))
    assert hidden.verdict == "HIDDEN"
    assert "D8" in hidden.because
    assert "D8" in {f.id for f in hidden.fired}
    shuffled = uf.diagnose(net, x, (y + 1) % 3, uf.Linf(0.05))
    assert shuffled.verdict == "NOT EVALUABLE"
    probabilities = uf.diagnose(lambda z: net(z).softmax(1), x, y, uf.Linf(0.05))
    assert "D3" in {f.id for f in probabilities.fired}
    assert probabilities.warnings
    with pytest.raises(uf.BadInput, match="training mode"):
        uf.diagnose(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(30, 3)), x, y, uf.Linf(0.1)
        )
