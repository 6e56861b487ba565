"""Studies: units survive a kill, claims are decided by their figures, the page is a safe function of the summary."""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled import studies
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import Model
from unfooled.drawing.figures import Picture
from unfooled.models import SmallCnn
from unfooled.report.study_page import cell_text, claim_card, lead_sentence, render_study, table_of
from unfooled.runs.records import Config, Environment, read_record
from unfooled.runs.units import Units
from unfooled.studies.broken_defences import DefenceScale, Judgement, run_broken_defences
from unfooled.studies.broken_defences.bench import DefenceBench, informed
from unfooled.studies.broken_defences.cases import CASES, Case
from unfooled.studies.broken_defences.claims import claims
from unfooled.studies.broken_defences.judging import flagged, passes_suite
from unfooled.studies.broken_defences.networks import RECIPES
from unfooled.studies.broken_defences.scale import SCALES
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.common.run import Findings, StudyRun, map_jobs, pick_data
from unfooled.studies.common.scale import Scale, pick_scale
from unfooled.workflows import catalog

EVIL = "</script><script>alert(1)</script><b onload=alert(2)>&amp;"
FEW = tuple(case for case in CASES if case.number in (4, 10, 31, 39))


def row(number: int, **changes: Any) -> Judgement:
    case = CASES[number - 1]
    told: dict[str, Any] = {"robust": 0.0, "truth": 0.0, "verdict": "EXTENDED", "trusted": True, "findings": ["D6"]}
    start = Judgement(seed=0, number=number, name=case.name, kind=case.kind, n=20, eps=0.3, passes=2000.0)
    return start.model_copy(update=told | changes)


@pytest.mark.parametrize(
    ("number", "changes", "passed"),
    [
        (4, {}, True),
        (4, {"robust": 0.04}, True),
        (4, {"robust": 0.06}, False),
        (4, {"findings": []}, False),
        (12, {"findings": []}, True),
        (4, {"robust": 0.9, "verdict": "OVERSTATED", "trusted": False}, True),
        (4, {"robust": 0.9, "verdict": "SOUND", "findings": []}, False),
        (4, {"robust": None, "verdict": "CRASHED", "trusted": None, "findings": []}, False),
        (4, {"robust": None, "verdict": "REFUSED", "trusted": False, "findings": []}, False),
        (28, {"verdict": "REFUSED", "robust": None}, True),
        (28, {"verdict": "NOT EVALUABLE"}, True),
        (28, {"verdict": "OVERSTATED"}, False),
        (33, {"verdict": "SOUND", "findings": []}, True),
        (33, {"verdict": "OVERSTATED", "trusted": False}, False),
        (33, {"trusted": None, "verdict": ""}, False),
    ],
)
def test_what_passes(number: int, changes: dict[str, Any], passed: bool) -> None:
    assert passes_suite(row(number, **changes), CASES[number - 1]) is passed


def test_a_refusal_is_a_flag_only_where_one_is_due_and_a_crash_is_none() -> None:
    assert flagged(row(28, robust=None, verdict="REFUSED", findings=[]), CASES[27])
    assert not flagged(row(5, robust=None, verdict="REFUSED", findings=[]), CASES[4])
    assert not flagged(row(12, robust=None, verdict="CRASHED", findings=[]), CASES[11])


def test_claims_follow_the_figures() -> None:
    good = [row(n) for n in range(1, 28)] + [row(n, verdict="REFUSED") for n in range(28, 33)]
    good += [row(n, findings=[], verdict="SOUND", diagnostic_passes=19_000.0) for n in range(33, 42)]
    assert [c.verdict for c in claims(good, CASES)] == ["undecided"] * 6  # too few cases to be sure of 95 %
    assert [c.verdict for c in claims(20 * good, CASES)] == ["holds"] * 6
    assert {c.source for c in claims(good, CASES)} == {"unfooled"}
    two_missed = [row(n, findings=[]) if n in (1, 2) else r for n, r in enumerate(good, 1)]
    assert [c.verdict for c in claims(20 * two_missed, CASES)] == ["fails", *["holds"] * 5]
    assert claims(two_missed, CASES)[0].value == pytest.approx(25 / 27)
    assert claims(two_missed, CASES)[0].verdict == "undecided"
    accused = [*good[:-1], row(41, verdict="OVERSTATED", trusted=False, diagnostic_passes=21_000.0)]
    one_exception = ["undecided", "undecided", "undecided", "fails", "fails", "fails"]  # refutes a claim about all
    assert [c.verdict for c in claims(accused, CASES)] == one_exception
    high = [r.model_copy(update={"robust": 0.5}) for r in good]
    assert claims(high, CASES)[1].verdict == "fails"
    far = [r.model_copy(update={"robust": 0.5, "truth": 0.5}) for r in good]
    assert claims(far, CASES)[1].n == 0
    silent = [r.model_copy(update={"verdict": "", "trusted": None}) for r in good]
    assert [claims(silent, CASES)[i].verdict for i in (0, 3, 4)] == ["undecided"] * 3


CONFIG = Config(model="study x", data="none", n=1, threat="linf:0.3", seed=0, options={"scale": "small"})


def small(value: float) -> Claim:
    return Claim(claim="c", source="s", verdict="holds", value=value, low=None, high=None, n=1)


def test_starts_that_share_a_folder_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfooled.runs.claims.POLL_SECONDS", 0.01)
    names, done, begun = [str(k) for k in range(6)], [], threading.Barrier(2)
    found: dict[int, list[Claim]] = {}

    def work(who: int) -> None:
        first = True

        def compute(name: str) -> Claim:
            nonlocal first
            if first:
                begun.wait(timeout=10)  # both hold a unit now: neither can have waited for the other
                first = False
            done.append((who, name))
            return small(float(name))

        found[who] = Units(tmp_path, CONFIG).map("work", Claim, names, compute)

    both = [threading.Thread(target=work, args=(who,)) for who in (0, 1)]
    for one in both:
        one.start()
    for one in both:
        one.join(timeout=20)
    assert sorted(name for _, name in done) == names  # each once
    assert {who for who, _ in done} == {0, 1}
    assert found[0] == found[1] == [small(float(name)) for name in names]
    assert not (tmp_path / ".claims").exists()


def test_a_lock_that_a_killed_start_left_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "units/work").mkdir(parents=True)
    (tmp_path / "units/work/a.lock").write_text("")
    assert Units(tmp_path, CONFIG).map("work", Claim, ["a"], lambda _: small(1.0)) == [small(1.0)]


def test_units_are_found_again_and_others_refused(tmp_path: Path) -> None:
    made: list[str] = []
    told: list[tuple[str, int, int]] = []

    def compute(name: str) -> Claim:
        made.append(name)
        if name == "a/2" and made.count(name) == 1:
            raise KeyboardInterrupt
        return small(float(torch.rand(())))

    names, state = ["a/1", "a/2", "a/3"], torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        Units(tmp_path, CONFIG).map("work", Claim, names, compute)
    second = Units(tmp_path, CONFIG, progress=lambda *step: told.append(step)).map("work", Claim, names, compute)
    assert made == ["a/1", "a/2", "a/2", "a/3"]
    assert told == [("work", 1, 3), ("work", 2, 3), ("work", 3, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    whole = Units(None, CONFIG).map("work", Claim, names, lambda name: small(float(torch.rand(()))))
    assert second == whole  # a kill changes nothing
    assert len({one.value for one in whole}) == 3
    (tmp_path / "units/work/a/1.json").write_text("{")
    made.clear()
    assert Units(tmp_path, CONFIG).map("work", Claim, names, compute) == whole
    assert made == ["a/1"]  # a damaged file is computed again
    with pytest.raises(BadInput, match="holds another run: options: scale was 'small', now it is 'full'"):
        Units(tmp_path, CONFIG.model_copy(update={"options": {"scale": "full"}}))


def test_two_starts_share_the_work(tmp_path: Path) -> None:
    made: list[str] = []

    def compute(name: str) -> Claim:
        made.append(name)
        if name == "1":  # a second start does the next one meanwhile
            Units(tmp_path, CONFIG).map("work", Claim, ["2"], compute)
        return small(float(torch.rand(())))

    found = Units(tmp_path, CONFIG).map("work", Claim, ["1", "2", "3"], compute)
    assert made == ["1", "2", "3"]
    assert found == Units(None, CONFIG).map("work", Claim, ["1", "2", "3"], lambda name: small(float(torch.rand(()))))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = replace(SCALES["small"], n=20, train_n=300, epochs=2, arch=partial(SmallCnn, width=4))
    monkeypatch.setitem(SCALES, "small", scale)


@dataclass(frozen=True)
class ToyScale(Scale):
    names: tuple[str, ...]
    n: int
    build: Callable[..., Any]


TOYS = {"small": ToyScale(("a/b", "c"), 3, partial(SmallCnn, width=4))}


def run_toy(
    scale: str | ToyScale, *, out: Path | None = None, data: list[str] | None = None, done: list[str] | None = None
) -> StudySummary:
    """A study as CONTRIBUTING says one is added; `done` notes what is computed."""

    def measure(what: str) -> Claim:
        if done is not None:
            done.append(what)
        return small(float(len(what)))

    name, size = pick_scale(TOYS, scale)
    run = StudyRun("toy", "A toy", name, (0,), out=out, command="unfooled study toy")
    units = run.units(size.settings(), n=size.n)
    jobs = {f"{what}, 0": what for what in pick_data(size.names, data)}
    rows = map_jobs(units, "measured", Claim, jobs, measure)
    table = [{"what": what, "value": row.value} for what, row in zip(jobs.values(), rows, strict=True)]
    return run.finish(Findings({"Values": table}, rows, ["A note."], seconds=1.26))


def test_a_study_in_the_frame_is_kept_and_found_again(tmp_path: Path) -> None:
    done: list[str] = []
    first = run_toy("small", out=tmp_path, done=done)
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    assert (first.scale, first.seeds, first.seconds, first.notes) == ("small", [0], 1.3, ["A note."])
    assert [row["value"] for row in first.tables["Values"]] == [3.0, 1.0]
    assert sorted(p.name for p in (tmp_path / "units/measured").iterdir()) == ["a_b__0.json", "c__0.json"]
    assert run_toy("small", out=tmp_path, done=done).tables == first.tables
    assert done == ["a/b", "c"]
    assert run_toy("small", out=tmp_path, data=["c"]).tables == {"Values": [{"what": "c", "value": 1.0}]}
    with pytest.raises(BadInput, match="no data set 'd'; it has a/b, c"):
        run_toy("small", data=["d"])
    with pytest.raises(BadInput, match="no scale 'large'; there are small"):
        run_toy("large")
    with pytest.raises(BadInput, match=r"holds another run: options: names was .*, now it is .* scale"):
        run_toy(replace(TOYS["small"], names=("c",)), out=tmp_path)


def test_sizes_are_plain_values_and_the_same_in_every_process() -> None:
    assert TOYS["small"].settings() == {"names": ["a/b", "c"], "n": 3, "build": "SmallCnn(width=4)"}
    assert pick_scale(TOYS, replace(TOYS["small"], n=4))[0] == "own"


def test_every_study_is_exported_and_in_the_catalogue() -> None:
    functions = {name for name in studies.__all__ if name.startswith("run_")}
    assert {catalog.resolve(row.path).__name__ for row in catalog.STUDIES.values()} == functions
    for name, row in catalog.STUDIES.items():
        path = row.path
        folder = f"studies.{name.replace('-', '_')}"
        assert path == f"{folder}:run_{name.replace('-', '_')}"
        package = importlib.import_module(f"unfooled.{folder}")
        assert path.partition(":")[2] in package.__all__
        assert getattr(studies, path.partition(":")[2]) is catalog.resolve(path)


def test_no_study_imports_another_one() -> None:
    root = Path(studies.__file__).parent
    folders = {path.name for path in root.iterdir() if path.is_dir()} - {"common", "__pycache__"}
    assert len(folders) == len(catalog.STUDIES)
    for path in root.rglob("*/*.py"):
        own = path.relative_to(root).parts[0]
        others = folders - {own}
        text = path.read_text(encoding="utf-8")
        assert not set(re.findall(r"unfooled\.studies\.(\w+)", text)) & others, path


def test_records_of_earlier_studies_are_read() -> None:
    folder = Path(__file__).resolve().parents[2] / "benchmarks/results"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))]
    kept = [text for text in texts if {"study", "claims", "tables"} <= set(json.loads(text))]
    assert {StudySummary.model_validate_json(text).study for text in kept} == set(catalog.STUDIES)


def judge(case: Case, model: Model, x: torch.Tensor, y: torch.Tensor, threat: Threat) -> Judgement:
    """Trusts the honest alone, and says so."""
    assert (len(x), float(threat.eps)) == (20, case.eps or (0.1 if case.kind == "honest" else 0.3))
    honest = case.kind == "honest"
    return row(case.number, n=len(x), verdict="SOUND" if honest else "NOT EVALUABLE", trusted=honest, robust=0.5)


@pytest.mark.usefixtures("tiny")
def test_a_study_is_judged_kept_and_found_again(tmp_path: Path) -> None:
    first = run_broken_defences("small", out=tmp_path, judge=judge, cases=FEW, seeds=(3, 4), command="unfooled study")
    assert read_record(tmp_path / "summary.json", StudySummary) == first
    assert {name: len(rows) for name, rows in first.tables.items()} == {
        "Broken defences": 4, "Not to be judged": 2, "Honest networks": 2,
    }  # fmt: skip
    rows = [line for lines in first.tables.values() for line in lines]
    assert all(line["passed"] for line in rows)
    assert {line["seed"] for line in rows} == {3, 4}
    assert [line["truth"] is None for line in first.tables["Not to be judged"]] == [True, True]
    assert all(0 <= line["truth"] <= 1 for line in first.tables["Broken defences"])
    assert sorted(p.name for p in (tmp_path / "networks/seed-3").iterdir()) == ["linear.pt", "standard.pt"]
    assert len(list((tmp_path / "units").rglob("*-zero-backward.json"))) == 2

    def never(case: Case, model: Model, x: torch.Tensor, y: torch.Tensor, threat: Threat) -> Judgement:
        raise AssertionError("judged twice")

    again = run_broken_defences("small", out=tmp_path, judge=never, cases=FEW, seeds=(3, 4), command="unfooled study")
    assert again.model_copy(update={"created": first.created}) == first
    with pytest.raises(BadInput, match="holds another run"):
        run_broken_defences("small", out=tmp_path, judge=judge, cases=FEW, seeds=(3,))
    with pytest.raises(BadInput, match="no scale 'tiny'; there are small, medium, full"):
        run_broken_defences("tiny")


@pytest.mark.usefixtures("tiny")
def test_missing_data_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="UNFOOLED_DATA"):
        run_broken_defences("medium", judge=judge, cases=FEW)


def test_networks_are_kept_and_the_same_again(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((96, 1, 8, 8), np.float32), np.arange(96) % 3
    np.savez(tmp_path / "three.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    size = DefenceScale(str(tmp_path / "three.npz"), 9, None, partial(SmallCnn, width=4), 0.1, 0.1, 1)
    state = torch.get_rng_state()
    first, again = (DefenceBench(size, 1, folder=tmp_path) for _ in range(2))
    for name in RECIPES:
        net, same = first.network(name), again.network(name)
        assert not net.training
        with torch.no_grad():
            assert torch.equal(net(first.test[0]), same(first.test[0]))
            assert net(first.test[0]).shape[1] == (RECIPES[name].classes or 3)
    assert len(list((tmp_path / "networks/seed-1").glob("*.pt"))) == len(RECIPES)
    assert torch.equal(torch.get_rng_state(), state)


def test_who_knows_breaks_what_hides(tmp_path: Path) -> None:
    def net(x: torch.Tensor) -> torch.Tensor:
        s = x.flatten(1).sum(1)
        return torch.stack([s, 2 - s], 1)

    x, y = torch.full((5, 1, 2, 2), 0.4), torch.tensor([1, 1, 0, 0, 0])
    y[2:] = 1
    assert informed(lambda z: net(z.detach()), net, x[:, :, :1, :1], y, Linf(0.9)) == 0.0
    assert informed(lambda z: net(z.detach()), net, x[:, :, :1, :1], y, Linf(0.1)) == 1.0


def summary(**changes: Any) -> StudySummary:
    picture = io.BytesIO()
    Image.new("L", (3, 2)).save(picture, "PNG")
    told: dict[str, Any] = {
        "study": "made-up",
        "title": "A study that was made up",
        "scale": "small",
        "seeds": [0, 1],
        "seconds": 83.4,
        "environment": Environment.here("cpu"),
        "tables": {"Rows": [{"name": "first", "share": 0.5, "n": 12000, "ok": True, "gone": None}, {"name": "second"}]},
        "claims": [
            Claim(claim="It holds.", source="Someone 2020", verdict="holds", value=0.96, low=0.9, high=0.99, n=50),
            Claim(claim="It does not.", source="unfooled", verdict="fails", value=0.1, low=None, high=None, n=3),
            Claim(claim="Who knows.", source="unfooled", verdict="undecided", value=None, low=None, high=None, n=0),
        ],
        "notes": ["A note."],
        "pictures": [Picture(title="One", caption="Black.", png=base64.b64encode(picture.getvalue()).decode())],
        "command": "unfooled study made-up",
        "created": "2026-05-03T14:22:00+00:00",
    }
    return StudySummary(**(told | changes))


def rendered(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(summary(**changes).model_dump_json())
    return render_study(folder).read_text(encoding="utf-8")


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    page = rendered(tmp_path)
    for text in (
        "A study that was made up", "It holds.", "Someone 2020", "[0.900 to 0.990]", "1 holds, 1 fails", "0.960",
        "12,000", "<td>yes</td>", "not available", "A note.", "unfooled study made-up", "1 min 23 s",
        "2026-05-03 14:22 UTC", "data:image/png;base64,", "light-dark(", 'id="records"',
    ):  # fmt: skip
        assert text in page, text
    assert page == render_study(tmp_path, tmp_path / "again" / "page.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    records = page.partition('id="records">')[2].partition("</script>")[0]
    assert StudySummary.model_validate_json(records) == summary()


def test_the_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    page = rendered(
        tmp_path, title=EVIL, notes=[EVIL], command=EVIL, tables={EVIL: [{EVIL: EVIL}]}, study=EVIL,
        claims=[Claim(claim=EVIL, source=EVIL, verdict="holds", value=1.0, low=0.0, high=1.0, n=1)],
    )  # fmt: skip
    assert page.count("<script") == 2
    assert "<b onload" not in page
    assert page.count("</script>") == 2


def test_a_study_without_anything_has_a_page(tmp_path: Path) -> None:
    page = rendered(tmp_path, tables={"Empty": []}, claims=[], notes=[], pictures=[], command="")
    assert "answers no claim" in page
    assert "There are no rows" in page
    assert 'id="pictures"' not in page


def test_damaged_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has not finished"):
        render_study(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(BadInput, match="is no JSON"):
        render_study(tmp_path)
    (tmp_path / "summary.json").write_text('{"study": "x"}')
    with pytest.raises(BadInput, match="it has no title"):
        render_study(tmp_path)
    broken = json.loads(summary().model_dump_json())
    del broken["claims"][0]["n"]
    (tmp_path / "summary.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="incomplete"):
        render_study(tmp_path)
    no_png = base64.b64encode(b"<svg onload=alert(1)>").decode()
    with pytest.raises(BadInput, match="is no PNG"):
        rendered(tmp_path, pictures=[Picture(title="t", caption="c", png=no_png)])


def test_cells_and_columns() -> None:
    assert [cell_text(v) for v in (None, True, 3, -1200, 0.25, "a")] == [
        "not available",
        "yes",
        "3",
        "\u22121,200",
        "0.250",
        "a",
    ]
    found = table_of("t", [{"a": 1, "b": "x" * 60, "c": True}, {"a": None, "b": "", "c": False}])
    assert found["columns"] == [("a", "num"), ("b", "long"), ("c", "")]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["holds"], "Of 1 claim, 1 holds."),
        (["holds", "fails", "holds"], "Of 3 claims, 2 hold and 1 fails."),
        (["undecided", "fails", "holds", "undecided"], "Of 4 claims, 1 holds, 1 fails and 2 are undecided."),
        (["perfect"], ""),
        ([], ""),
    ],
)
def test_the_first_sentence_of_a_study(verdicts: list[str], says: str) -> None:
    assert lead_sentence([{"verdict": verdict} for verdict in verdicts]) == says


@pytest.mark.parametrize(
    ("value", "low", "high", "places"),
    [
        (0.5, 0.25, 1.0, (2, 26, 98, 50)),  # 0, low, high, value, in percent of the line
        (-1.0, -2.0, -0.5, (98, 2, 74, 50)),
        (0.0, -1.0, 1.0, (50, 2, 98, 50)),
        (3.0, None, None, (2, 98, 98, 98)),
        (0.0, 0.0, 0.0, (2, 2, 2, 2)),
    ],
)
def test_a_claim_s_figure_on_a_line(
    value: float, low: float | None, high: float | None, places: tuple[float, ...]
) -> None:
    reach = claim_card({"verdict": "holds", "value": value, "low": low, "high": high})["reach"]
    assert [reach[name] for name in ("zero", "low", "high", "value")] == pytest.approx(places)


def test_a_claim_without_a_figure_has_no_line() -> None:
    for value in (None, float("nan")):
        card = claim_card({"verdict": "undecided", "value": value, "low": None, "high": None})
        assert (card["reach"], card["kind"]) == (None, "undecided")


def test_columns_that_nothing_was_measured_for_are_said() -> None:
    table = table_of("", [{"a": 1, "b": None}, {"a": None, "b": None, "c": "x"}])
    assert [name for name, _ in table["columns"]] == ["a", "c"]
    assert table["empty"] == ["b"]
