"""Shares of the samples, computed by commands that have no folder in common, and their merged result."""

from __future__ import annotations

import json
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled import workflows
from unfooled.cli import show
from unfooled.cli.app import run
from unfooled.core.errors import BadInput
from unfooled.evaluation.audit.plan import LabelAttack, Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.shares import audit_rows
from unfooled.runs.records import read_record, write_record
from unfooled.runs.share_records import Share, read_rows, read_share
from unfooled.runs.shares import join
from unfooled.runs.spans import Cover
from unfooled.workflows import AuditOptions, FeatureOptions, Inputs

NETS = """
import torch
from sklearn.datasets import load_digits

def build():
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.ReLU(), torch.nn.Linear(10, 10))
    with torch.no_grad():
        net[1].weight.copy_(8 * (means - means.mean(0)))
        net[1].bias.copy_(-4 * ((means**2).sum(1) - (means.mean(0) ** 2).sum()) + 3)
        net[3].weight.copy_(torch.eye(10) + 0.05 * torch.randn(10, 10))
    return net.eval()
"""
QUICK = AuditOptions(effort="quick", reasons="none", certify="off")
N, CHUNK = 30, 10
CUTS = (0, 10, 15, N)
"""The third share begins within a part, which belongs to the second one."""
COMMAND = ["audit", "--model", "nets.py:build", "--threat", "linf:0.04", "--n", str(N), "--effort", "quick"]
COMMAND += ["--reasons", "none", "--chunk", str(CHUNK), "--quiet", "--certify", "off"]
FIRST = Path("chunks", "cascade-0-apgd")


def inputs(**changes: Any) -> Inputs:
    return Inputs(**{"model": "nets.py:build", "n": N, **changes})


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single audit, and all shares of the same one."""
    home = tmp_path_factory.mktemp("shares")
    (home / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        cheap_checks(patch)
        assert run([*COMMAND, "--out", "single"]) == 0
        for a, b in pairwise(CUTS):
            assert run([*COMMAND, "--rows", f"{a}:{b}", "--out", f"share-{a}"]) == 0
    return home


def cheap_checks(patch: pytest.MonkeyPatch) -> None:
    """Give the checks a smaller budget."""
    defaults = Plan.__init__.__kwdefaults__
    assert defaults is not None
    patch.setitem(defaults, "label_attack", LabelAttack(floor=200))


@pytest.fixture
def home(computed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(computed)
    cheap_checks(monkeypatch)
    return computed


def figures(folder: Path) -> dict[str, Any]:
    """The summary without what belongs to the start rather than to the figures."""
    summary = json.loads((folder / "summary.json").read_text())
    apart = {"seconds", "efficiency", "created", "command"}
    return {name: value for name, value in summary.items() if name not in apart}


def assert_equal_runs(one: Path, other: Path) -> None:
    assert figures(one) == figures(other)
    for name in ("samples", "gallery", "nearest"):
        files = [folder / f"{name}.safetensors" for folder in (one, other)]
        assert [file.exists() for file in files] in ([True, True], [False, False])
        if files[0].exists():
            assert files[0].read_bytes() == files[1].read_bytes()


def test_a_merged_audit_equals_a_single_one(home: Path) -> None:
    folders = [home / f"share-{a}" for a in CUTS[:-1]]
    parts = [{p.name for p in (folder / FIRST).glob("*")} for folder in folders]
    assert all(parts) and set.union(*parts) == {p.name for p in (home / "single" / FIRST).iterdir()}
    assert sum(map(len, parts)) == len(set.union(*parts)), "no part is computed twice"
    assert run(["merge", *map(str, folders[::-1]), "--out", "merged", "--quiet", "--trust-shares"]) == 0
    merged = read_record(home / "merged" / "summary.json", Summary)
    assert 0 < (merged.robust_accuracy.value or 0) < (merged.clean_accuracy.value or 0) < 1
    assert_equal_runs(home / "single", home / "merged")
    assert (home / "merged" / "report.html").is_file()


def test_proofs_of_little_effort_are_computed_by_every_share(home: Path, tmp_path: Path) -> None:
    """So a share goes on to its part of the first attack, and samples that are proven robust are left out of it."""
    command = [word for word in COMMAND if word not in ("--certify", "off")]
    command[command.index("linf:0.04")] = "linf:0.07"
    assert run([*command, "--out", str(tmp_path / "single")]) == 0
    folders = [tmp_path / f"share-{a}" for a in (0, 20)]
    for folder, rows in zip(folders, ("0:20", f"20:{N}"), strict=True):
        assert run([*command, "--rows", rows, "--out", str(folder)]) == 0
        assert list((folder / FIRST).iterdir())
    assert (
        run(["merge", *map(str, folders), "--out", str(tmp_path / "merged"), "--quiet", "--model", "nets.py:build"])
        == 0
    )
    assert_equal_runs(tmp_path / "single", tmp_path / "merged")
    proven = read_record(tmp_path / "merged" / "summary.json", Summary).certified_accuracy
    assert proven is not None and 0 < (proven.value or 0) < 1


def test_code_that_a_share_names_runs_only_where_the_user_says_so(home: Path, tmp_path: Path) -> None:
    folders = [str(home / f"share-{a}") for a in CUTS[:-1]]
    with pytest.raises(BadInput, match=r"name code that would run, model 'nets.py:build'.* trust_shares"):
        workflows.merge(folders, tmp_path / "merged")
    assert not (tmp_path / "merged" / "chunks").exists()
    for changes, sentence in (
        ({"model": "net.pt", "arch": "evil.py:build"}, "arch 'evil.py:build'"),
        ({"model": "net.pt", "data": "evil:rows"}, "data 'evil:rows'"),
        ({"model": "net.pt", "trust_pickle": True}, "ask to read pickles"),
    ):
        other = tmp_path / "other"
        shutil.copytree(folders[0], other)
        record = Share.model_validate_json((other / "share.json").read_text())
        assert record.work is not None
        stated = {**record.work, "inputs": {**record.work["inputs"], **changes}}
        write_record(other / "share.json", record.model_copy(update={"work": stated}))
        with pytest.raises(BadInput, match=sentence):
            workflows.merge([other], tmp_path / "merged")
        shutil.rmtree(other)


def test_further_rounds(home: Path, tmp_path: Path) -> None:
    """A round joins what the shares have, and copies of it are where the next one begins."""
    waits = []
    for number in range(2):
        folders = [(home if not number else tmp_path) / f"share-{a}" for a in CUTS[:-1]]
        if number:
            for folder, (a, b) in zip(folders, pairwise(CUTS), strict=True):
                shutil.copytree(tmp_path / "joined", folder)
                assert run([*COMMAND, "--rows", f"{a}:{b}", "--out", str(folder)]) == 0
        assert run(["merge", *map(str, folders), "--out", str(tmp_path / "joined"), "--no-finish"]) == 0
        assert not (tmp_path / "joined" / "summary.json").exists()
        waits.append(read_share(folders[0]).waits)
    assert waits[0] == "attack, stage 1: apgd" and waits[1] not in ("", waits[0])
    assert run([*COMMAND, "--out", str(tmp_path / "joined")]) == 0
    assert_equal_runs(home / "single", tmp_path / "joined")


def test_a_share_continues_after_a_kill(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "share-0", tmp_path / "cut")
    parts = sorted(p.name for p in (tmp_path / "cut" / FIRST).iterdir())
    (tmp_path / "cut" / FIRST / parts[0]).unlink()
    record = Share.model_validate_json((tmp_path / "cut" / "share.json").read_text())
    assert record.finished and record.rows == (0, 10) and record.waits
    write_record(tmp_path / "cut" / "share.json", record.model_copy(update={"finished": False}))
    with pytest.raises(BadInput, match="cut is not finished; start its command again"):
        workflows.merge([tmp_path / "cut"], tmp_path / "merged", trust_shares=True)
    workflows.audit_rows(inputs(), "linf:0.04", (0, 10), tmp_path / "cut", options=QUICK, chunk=CHUNK)
    assert sorted(p.name for p in (tmp_path / "cut" / FIRST).iterdir()) == parts


def test_shares_of_other_settings(home: Path, tmp_path: Path) -> None:
    """Model, data and options are compared by their content."""
    (tmp_path / "nets.py").write_text(NETS.replace("0.05", "0.06"))
    more = [
        ("net", [], "the model"),
        ("eps", ["--threat", "linf:0.05"], "threat was"),
        ("seed", ["--seed", "1"], "seed"),
    ]
    for name, options, sentence in more:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path if name == "net" else home)
            assert run([*COMMAND, *options, "--rows", f"10:{N}", "--out", str(tmp_path / name)]) == 0
        with pytest.raises(BadInput, match=sentence) as caught:
            join([home / "share-0", tmp_path / name], tmp_path / "out")
        assert str(caught.value).endswith("merge shares of one run")


def test_an_attack_and_a_set_of_features(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attacking", "sharing"):
        monkeypatch.setattr(f"unfooled.workflows.{module}.CHUNK_SAMPLES", CHUNK)
    every = list(pairwise(CUTS))
    for effort in (None, "quick"):
        options = workflows.AttackOptions(steps=5) if effort is None else workflows.AttackOptions(effort=effort)
        alone = workflows.attack(
            inputs(), "linf:0.04", steps=options.steps, effort=effort, out=tmp_path / f"{effort}.npz"
        )
        folders = [tmp_path / f"{effort}-{a}" for a, _ in every]
        for folder, rows in zip(folders, every, strict=True):
            assert workflows.attack_rows(inputs(), "linf:0.04", rows, folder, options=options).waits
        merged: Any = workflows.merge(folders, tmp_path / f"merged-{effort}.npz", trust_shares=True)
        assert merged.model_dump(exclude={"out"}) == alone.model_dump(exclude={"out"})
        assert equal_files(tmp_path / f"{effort}.npz", tmp_path / f"merged-{effort}.npz")
    few = inputs(n=CHUNK)  # one part, which the share of its first row makes
    alone = workflows.attack(few, "linf:0.04", steps=5, out=tmp_path / "few.npz")
    folders = [tmp_path / "few-0", tmp_path / "few-5"]
    for folder, rows in zip(folders, ((0, 5), (5, CHUNK)), strict=True):
        workflows.attack_rows(few, "linf:0.04", rows, folder, options=workflows.AttackOptions(steps=5))
    merged = workflows.merge(folders, tmp_path / "one.npz", trust_shares=True)
    assert merged.robust_accuracy == alone.robust_accuracy
    assert equal_files(tmp_path / "few.npz", tmp_path / "one.npz")
    source, choices = inputs(split="train"), FeatureOptions(steps=3, shard=CHUNK)
    made = workflows.features(source, tmp_path / "set.npz", options=choices)
    folders = [tmp_path / f"set-{a}" for a, _ in every]
    for folder, rows in zip(folders, every, strict=True):
        workflows.features_rows(source, rows, folder, options=choices)
    assert [len(list((folder / "chunks" / "robust").iterdir())) for folder in folders] == [1, 1, 1]
    merged = workflows.merge(folders, tmp_path / "merged-set.npz", trust_shares=True)
    assert merged["residual"] == made["residual"] and not (tmp_path / "merged-set.npz.parts").exists()
    assert equal_files(tmp_path / "set.npz", tmp_path / "merged-set.npz")


def equal_files(one: Path, other: Path) -> bool:
    with np.load(one) as a, np.load(other) as b:
        return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


@pytest.fixture
def fakes(tmp_path: Path) -> Any:
    """Folders of shares without chunks."""

    def make(name: str, rows: tuple[int, int], *, seed: int = 0, **changes: Any) -> Path:
        folder = tmp_path / name
        settings = {"seed": seed, "n": 100}
        from unfooled.runs.folder import open_folder

        open_folder(folder, settings)
        share = Share(command="audit", rows=rows, n=100, chunk=10, finished=True, waits="judge")
        write_record(folder / "share.json", share.model_copy(update=changes))
        return folder

    return make


def test_shares_that_do_not_fit(fakes: Any, tmp_path: Path) -> None:
    first, out = fakes("a", (0, 50)), tmp_path / "out"
    cases: list[tuple[str, tuple[int, int], dict[str, Any], str]] = [
        ("gap", (60, 100), {}, "rows 50 to 59 are missing; add the share that has them"),
        ("short", (50, 90), {}, "rows 90 to 99 are missing; add the share that has them"),
        ("over", (40, 100), {}, "overlap: rows 40 to 49 are in both"),
        ("seed", (50, 100), {"seed": 1}, "seed was 0, now it is 1; merge shares of one run"),
        ("n", (50, 100), {"n": 200}, "n was 100, here it is 200; merge shares of one run"),
        ("parts", (50, 100), {"chunk": 20}, "chunk was 10, here it is 20; merge shares of one run"),
        ("round", (50, 100), {"waits": "explain"}, "one waits for judge, the other for explain"),
        ("kind", (50, 100), {"command": "attack"}, "command was 'audit', here it is 'attack'"),
        ("open", (50, 100), {"finished": False}, "open is not finished; start its command again"),
        ("far", (50, 101), {}, "lies outside the 100 samples"),
    ]
    whole = fakes("whole", (0, 50), waits="")
    with pytest.raises(BadInput, match=r"half2 does not belong to .*half1: one waits for judge, the other for explain"):
        join([whole, fakes("half1", (50, 75)), fakes("half2", (75, 100), waits="explain")], out)
    for name, rows, changes, sentence in cases:
        other = fakes(name, rows, **changes)
        with pytest.raises(BadInput, match=sentence) as caught:
            join([first, other], out)
        assert "\n" not in str(caught.value)
        assert not out.exists(), name
    with pytest.raises(BadInput, match="a share is named twice"):
        join([first, first], out)
    (tmp_path / "plain").mkdir()
    for place, sentence in (("plain", "is no share: it was not made with rows="), ("nowhere", "does not exist")):
        with pytest.raises(BadInput, match=sentence):
            join([first, tmp_path / place], out)
    second = fakes("b", (50, 100))
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "layout": 99}))
    with pytest.raises(BadInput, match="b has layout 99, this version of unfooled continues layout"):
        join([first, second], out)


def test_folders_that_are_in_use(fakes: Any, tmp_path: Path) -> None:
    pair = [fakes("a", (0, 50)), fakes("b", (50, 100))]
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="used is not empty and holds no merged run; choose another out"):
        join(pair, used)
    with pytest.raises(BadInput, match="is itself a share; choose another out"):
        join(pair, fakes("c", (0, 100)))
    with pytest.raises(BadInput, match="is one of the shares; choose another out"):
        workflows.merge(pair, pair[1])
    done = tmp_path / "done"
    join(pair, done)
    join(pair, done)  # a second start continues
    from unfooled.runs.claims import Claims
    from unfooled.runs.store import LocalStore

    with Claims(LocalStore(done)).present(), pytest.raises(BadInput, match="another process works in"):
        join(pair, done)
    with pytest.raises(BadInput, match="seed was 1, now it is 0"):
        others = [fakes("d", (0, 50), seed=1), fakes("e", (50, 100), seed=1)]
        join(others, tmp_path / "ones")
        join(pair, tmp_path / "ones")
    with pytest.raises(BadInput, match="made from objects, whose names are not known"):
        workflows.merge(pair, done)


def test_shares_of_objects(home: Path, tmp_path: Path) -> None:
    """They are joined, and the same call goes on."""
    import unfooled as uf

    (x, y), model = uf.load_data("digits", n=20), uf.load_model("nets.py:build")
    plan = uf.Plan(effort=uf.QUICK, reasons=None, nearest_n=2, explain_n=2)
    options: dict[str, Any] = {"plan": plan, "chunk": CHUNK}
    for a, b in ((0, 10), (10, 20)):
        audit_rows(model, x, y, uf.Linf(0.04), (a, b), out=tmp_path / f"share-{a}", **options)
    join([tmp_path / "share-0", tmp_path / "share-10"], tmp_path / "merged")
    uf.audit(model, x, y, uf.Linf(0.04), out=tmp_path / "merged", **options)
    uf.audit(model, x, y, uf.Linf(0.04), out=tmp_path / "single", **options)
    assert_equal_runs(tmp_path / "single", tmp_path / "merged")
    with pytest.raises(BadInput, match="budget limits a whole audit; leave it out with rows"):
        audit_rows(model, x, y, uf.Linf(0.04), (0, 10), out=tmp_path / "late", plan=plan.with_budget(9))


def test_rows() -> None:
    assert read_rows("0:500") == (0, 500)
    for text in ("500", "5:", ":5", "-1:5", "a:b", "1:2:3", ""):
        with pytest.raises(BadInput, match="give the first row and the one after the last, 0:500"):
            read_rows(text)
    for text in ("5:5", "9:2", "0:0"):
        with pytest.raises(BadInput, match=f"rows is '{text}', which holds no row: the second number is the row after"):
            read_rows(text)


def test_spans_of_a_stage() -> None:
    """Whatever the cuts, each chunk of a stage belongs to one share."""
    for cuts in ([0, 50, 100], [0, 1, 2, 33, 34, 99, 100], [0, 100]):
        for n in (0, 1, 9, 10, 11, 57, 99, 100):
            spans = [
                Share(command="audit", rows=(a, b), n=100, chunk=10).span("judge", n, 10) for a, b in pairwise(cuts)
            ]
            covered = [row for a, b in spans for row in range(a, b)]
            assert covered == list(range(n)), (cuts, n, spans)
            assert all(a % 10 == 0 for a, b in spans if a < b)


def test_refusals_of_the_command_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for more, sentence in [
        (["--rows", "20:31", "--out", out], f"--rows 20:31 lies outside the {N} samples, 0:{N}"),
        (["--rows", "0:0", "--out", out], "--rows is '0:0', which holds no row: the second number is the row after"),
        (["--rows", "7", "--out", out], "--rows is '7'; give the first row and the one after the last, 0:500"),
        (["--rows", "0:30", "--out", "memory://a/b"], "memory://a/b is a URL, and a share lies in a folder"),
        (["--rows", "0:30"], "--rows needs --out, the folder of the share"),
        (["--rows", "0:30", "--out", out, "--workers", "2"], "this workflow runs in one process; leave out --workers"),
        (["--rows", "0:30", "--out", out, "--budget", "9s"], "--budget limits a whole audit; leave it out with --rows"),
        (["--rows", "0:30", "--out", out, "--fail-under", "robust_accuracy=0.4"], "--fail-under judges a whole audit"),
    ]:
        assert run([*COMMAND, *more]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split()), more
        assert not Path(out).exists()
    assert run(["merge", "share-0", "--out", out, "--trust-shares"]) == 2
    assert "rows 10 to 29 are missing" in " ".join(capsys.readouterr().err.split())
    assert run(["features", "--model", "nets.py:build", "--rows", "0:5", "--fresh", "--out", out]) == 2
    assert "--fresh" in capsys.readouterr().err


def test_the_rows_that_are_missing() -> None:
    """As a slow twin finds them, whatever the order in which spans are added."""
    order = torch.Generator().manual_seed(0)
    for n, chunk in ((1, 1), (23, 3), (40, 7)):
        for part in ((0, n), (n // 3, 2 * n // 3 + 1)):
            cover, known = Cover(n), set[int]()
            cover.restrict(part)
            while cover.incomplete:
                claimed = [] if len(known) % 2 else [(part[0], part[0] + 2)]
                taken = {row for a, b in claimed for row in range(a, b)}
                missing = list(cover.missing(chunk, claimed=claimed))
                assert [row for a, b in missing for row in range(a, b)] == sorted({*range(*part)} - known - taken)
                assert all(0 < b - a <= chunk for a, b in missing)
                missing = missing or list(cover.missing(chunk))
                a, b = missing[int(torch.randint(len(missing), (), generator=order))]
                cover.add((a, b))
                known |= {*range(a, b)}
                assert cover.done == len(known)
            assert {*range(*part)} <= known
    cover.renew([(0, 5), (0, 9), (4, 12), (9, 11), (20, 25)])
    assert (cover.spans, cover.done) == ([(0, 9), (9, 11), (20, 25)], 16)


def test_a_share_behind_a_url_is_refused_as_one() -> None:
    with pytest.raises(BadInput, match="s3://bucket/run is a URL, and a share lies in a folder; copy it"):
        read_share(Path("s3://bucket/run"))


def test_urls_among_shares_are_refused_with_what_helps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "m.pt").touch()
    attack = ["attack", "--model", str(tmp_path / "m.pt"), "--threat", "linf:0.1", "--rows", "0:5"]
    for arguments, sentence in [
        ([*COMMAND, "--rows", "0:5", "--out", "s3://b/a"], "the same command without --rows, started several times"),
        ([*attack, "--out", "s3://b/a"], "a share lies in a folder; the same command without --rows, started several"),
        (["features", *attack[1:3], *attack[5:], "--out", "file:///b/a"], "file:///b/a is a URL, and a share lies in"),
        (["merge", "s3://b/0", "s3://b/1", "--out", "o"], "s3://b/0 is a URL, and a share lies in a folder; copy it"),
        (["merge", str(tmp_path / "file"), "--out", "o"], "file is no share: it was not made with --rows A:B"),
    ]:
        assert run(arguments) == 2
        assert sentence in " ".join(capsys.readouterr().err.split()), arguments


def test_the_hint_after_a_share_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    done = Share(command="audit", rows=(0, 5), n=10, chunk=5)
    show.share(done, Path("my shares") / "0", json=False, quiet=False)
    hint = next(line for line in capsys.readouterr().out.splitlines() if "merge" in line)
    assert shlex.split(hint.partition(": ")[2]) == ["unfooled", "merge", "my shares/0", "OTHERS", "--out", "RESULT"]
