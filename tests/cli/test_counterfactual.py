"""`unfooled counterfactual`: answers that can be computed by hand, files and page; what is refused, in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.test_cli import run
from tests.unit.report_runs import Page

from unfooled import BadInput, workflows
from unfooled.cli.counterfactual import print_one
from unfooled.counterfactuals.records import AttributeFact, AttributeRow, Counterfactual, CounterfactualRecord, Outcome
from unfooled.models import load_model
from unfooled.report.sections.counterfactual_bars import bars_of
from unfooled.runs.records import read_record
from unfooled.workflows import Inputs, Machine
from unfooled.workflows.attribute_images import last_layer

CODE = """
import torch
from torch import nn

HEAD = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0], [-9.0, -9.0, -9.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

class Quarters(nn.Module):
    "Attribute logits: how bright each quarter of the image is; the last attribute decides one class alone."

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Linear(4, 4)
        self.head.weight.data, self.head.bias.data = HEAD.clone(), torch.tensor([0.0, 0.1, 0.0, -9.0])

    def encode(self, x):
        return 10 * (self.pool(x).flatten(1) - 0.5)

    def forward(self, x):
        return self.head(self.encode(x))

def concept():
    return Quarters().eval()

def seeded(*parts):
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), *parts).eval()

def frozen():
    return seeded()

def bent():
    return seeded(nn.Softmax(1))

def shifted():
    return seeded(nn.LogSoftmax(1))

class Cooled(nn.Module):
    "Logits divided by a temperature."
    def __init__(self):
        super().__init__()
        self.net = seeded()
    def forward(self, x):
        return self.net(x) / 4

def cooled():
    return Cooled().eval()

def normed():
    net = seeded(nn.BatchNorm1d(3))
    net[5].running_mean.data[:] = torch.tensor([0.1, -0.2, 0.3])
    net[5].running_var.data[:] = torch.tensor([0.5, 2.0, 1.0])
    net[5].weight.data[:] = torch.tensor([1.5, 1.0, 0.5])
    return net.eval()

class Adjusted(nn.Module):
    "Logits corrected for the shares of the classes."
    def __init__(self):
        super().__init__()
        self.net = seeded()
        self.shares = torch.tensor([0.5, 0.3, 0.2])
    def forward(self, x):
        return self.net(x) - self.shares.log()

def adjusted():
    return Adjusted().eval()

class Two(nn.Module):
    "Two classes; what is behind the layer depends on the sample."
    def __init__(self, behind):
        super().__init__()
        self.net, self.behind = seeded(), behind
        self.net[4] = nn.Linear(8, 2)
    def forward(self, x):
        return self.behind(self.net(x))

def two_bent():
    return Two(nn.Softmax(1)).eval()

def two_tempered():
    return Two(lambda z: z / (1 + z.square().sum(1, keepdim=True))).eval()

class Functional(nn.Module):
    "A linear layer whose weight alone is used."
    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), nn.Linear(4, 3, bias=False)
    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(self.body(x)), nn.functional.normalize(self.last.weight))

def functional():
    return Functional().eval()

def one_logit():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()

def tokens():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)
        def forward(self, x):
            return self.head(x[:, 0]).mean(1)
    return Net().eval()

def reversed_():
    "Layers in another order than they are called."
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = seeded()
            self.last = self.body[4]
            self.first = nn.Identity()
            self.unused = nn.Linear(3, 2)
        def forward(self, x):
            return self.body(x)
    return Net().eval()

def convolutions():
    return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()).eval()

def single():
    return nn.Linear(8, 3)

def broken():
    net = seeded()
    net[2].weight.data[0] = float("nan")
    return net

def function():
    net = seeded()
    return lambda x: net(x)
"""
NAMES = ("top left", "top right", "<b>bottom left", "bottom right")


def image(bits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    quarters = (0.35 + 0.3 * bits).reshape(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return (quarters + 0.08 * torch.rand(8, 8, generator=generator)).clamp(0, 1)


def table(path: Path, rows: list[list[Any]], names: tuple[str, ...] = NAMES) -> None:
    lines = [",".join(["path", *names]), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counterfactual")
    (folder / "quarters.py").write_text(CODE)
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir()
    bits = torch.randint(2, (48, 4), generator=generator).float()
    bits[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    rows = []
    for k, row in enumerate(bits):
        pixels = (image(row, generator) * 255).round().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k:02d}.png")
        rows.append([f"{k:02d}.png", *row.int().tolist()])
    table(folder / "images" / "t.csv", rows)
    table(folder / "two.csv", [[f"images/{row[0]}", *row[1:3]] for row in rows], NAMES[:2])
    either = [[f"images/{row[0]}", row[1], 1 - row[1], row[2], 0] for row in rows]
    table(folder / "either.csv", either, ("bright", "dark", "right", "never"))
    noise = torch.rand(48, generator=generator) > 0.5
    table(folder / "noise.csv", [[f"images/{row[0]}", int(z)] for row, z in zip(rows, noise, strict=True)], ("luck",))
    table(folder / "lost.csv", [*[[f"images/{row[0]}", *row[1:]] for row in rows], ["images/99.png", 0, 0, 0, 0]])
    table(folder / "constant.csv", [[f"images/{row[0]}", 1] for row in rows], ("always",))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "large.png")
    table(folder / "large.csv", [["large.png", 1, 0, 1, 0]])
    x = torch.stack([image(row, generator) for row in bits])[:, None].numpy()
    np.savez(folder / "set.npz", x_test=x, y_test=np.arange(48) % 3)
    np.savez(folder / "rows.npz", x_test=np.zeros((4, 5), np.float32), y_test=np.arange(4))
    return folder


ONE = ("counterfactual", "--data", "images/00.png", "--attributes", "images/t.csv", "--device", "cpu", "--steps", "30")
CONCEPT = (*ONE, "--model", "quarters:concept")


def ask(home: Path, *words: str, code: int = 0) -> CounterfactualRecord:
    return CounterfactualRecord.model_validate_json(run(home, *words, "--json", code=code).stdout)


def only(record: CounterfactualRecord) -> Counterfactual:
    assert len(record.results) == 1
    return record.results[0]


def test_a_concept_network_is_answered_exactly(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = ask(home, *CONCEPT, "--target", "1", "--out", "a")
    one = only(record)
    assert (record.kind, record.layer, record.images) == ("concept", "head", 48)
    assert [fact.name for fact in record.attributes] == list(NAMES)
    assert all(fact.usable and fact.auc == 1.0 for fact in record.attributes)
    assert (one.item, one.predicted, one.target, one.outcome) == ("00.png", "0", "1", Outcome.DONE)
    before = torch.tensor([row.before for row in one.rows])
    need = 2 * before[0] - 2 * before[1] - before[2] - 0.1
    gap = [fact.switch for fact in record.attributes]
    least = min(float(need) / (2 * gap[f]) for f in (0, 1))  # the least sum of switches is one attribute
    assert one.cost == pytest.approx(least, rel=1e-5)
    assert one.exact
    assert sum(abs(row.asked) for row in one.rows) == pytest.approx(least, rel=1e-5)
    with np.load(home / "a" / "counterfactual.npz") as stored:
        x, x_new = (torch.from_numpy(stored[name]) for name in ("x", "x_new"))
    assert 0 < float((x_new - x).norm()) <= 3 + 1e-5
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        net: Any = load_model("quarters:concept")
    assert int(net(x_new).argmax()) == 1
    assert float((net.module.encode(x_new)[0] - torch.tensor([row.achieved for row in one.rows])).abs().max()) < 1e-4
    assert set(one.figures) == {"edit", "targeted PGD", "random attribute"}
    assert one.figures["edit"].valid
    assert one.figures["edit"].valid_8bit
    assert (one.figures["edit"].selectivity or 0) > 2 * (one.figures["targeted PGD"].selectivity or 0)
    assert record.success["edit"] == "ASR(l2:3, 30 steps) = 1.00, n = 1"
    assert [point.kappa for point in one.curve] == [1, 5, 30]
    for name in ("edit", "targeted PGD"):
        figures = one.figures[name]
        assert figures.noise == pytest.approx(figures.distance / least, rel=1e-4)
    page = (home / "a" / "counterfactual.html").read_text()
    moved = next(row for row in one.rows if row.asked)
    unit = next(fact.switch for fact in record.attributes if fact.name == moved.name)
    values = [(moved.before or 0.0) / unit, (moved.wanted or 0.0) / unit, (moved.achieved or 0.0) / unit]
    text = f"{moved.name}: before {values[0]:.2f}, wanted {values[1]:.2f}, achieved {values[2]:.2f} switches"
    assert f"<title>{text}</title>" in page
    for kind in ("before", "wanted", "achieved"):
        assert page.count(f'<rect class="{kind}" x=') == 4
    print_one(one, set(), set())
    assert capsys.readouterr().out.replace("\n", " ").count("noise ratio") == 3
    assert "Noise ratio" in (home / "a" / "counterfactual.html").read_text()
    assert read_record(home / "a" / "counterfactual.json", CounterfactualRecord) == record


def test_a_folder_is_listed_once(home: Path) -> None:
    words = ("counterfactual", "--model", "quarters:concept", "--attributes", "images/gone.csv", "--data", "images")
    table(home / "images" / "gone.csv", [["99.png", 1, 0, 1, 0]])
    for data in ("images", "images/00.png", "./images", str(home / "images")):
        refused = run(home, *words[:-1], data, code=2).stderr
        assert "is the path below images, or below" in " ".join(refused.split())
    (home / "images" / "gone.csv").unlink()


def test_bars_share_one_scale() -> None:
    def line(name: str, before: float, wanted: float | None, switch: float) -> tuple[AttributeRow, AttributeFact]:
        fact = AttributeFact(name=name, auc=0.9, usable=True, kept=False, switch=switch)
        return AttributeRow(name=name, before=before, wanted=wanted, achieved=wanted and wanted / 2), fact

    bars = bars_of([line("a", -2.0, 4.0, 2.0), line("b", 1.0, 3.0, 1.0), line("never", 0.0, None, 1.0)])
    assert bars is not None
    assert [row.name for row in bars.rows] == ["a", "b"]
    a, b = ([(bar.x, bar.width) for bar in row.bars] for row in bars.rows)
    assert a == [(0.0, 80.0), (80.0, 160.0), (80.0, 80.0)]  # -1, 2, 1 of a scale from -1 to 3
    assert b == [(80.0, 80.0), (80.0, 240.0), (80.0, 120.0)]
    assert (bars.zero, bars.ticks) == (80.0, [(0.0, "-1.0"), (80.0, "0.0"), (320.0, "3.0")])
    assert bars_of([line("never", 0.0, None, 1.0)]) is None


def test_a_target_that_is_predicted_has_distance_0(home: Path) -> None:
    one = only(ask(home, *CONCEPT, "--target", "0", "--out", "same"))
    assert (one.outcome, one.cost, one.figures) == (Outcome.SAME, 0.0, {})
    assert one.sentence == "It is predicted as 0 already: distance 0."
    assert all(row.wanted is None for row in one.rows)


def test_kept_attributes_stay_and_may_leave_no_way(home: Path) -> None:
    one = only(ask(home, *CONCEPT, "--target", "1", "--keep", "top left", "--out", "keep"))
    assert one.outcome == Outcome.DONE
    assert {row.name for row in one.rows if row.asked} == {"top right"}
    barred = ("--keep", "bottom right", "--keep", "top left")
    done = run(home, *CONCEPT, "--target", "3", *barred, "--out", "no")
    one = read_record(home / "no" / "counterfactual.json", CounterfactualRecord).results[0]
    assert one.outcome == Outcome.INFEASIBLE
    assert one.shortfall > 1
    assert one.cost is None
    assert one.whole is None
    assert one.sentence.startswith(
        f"No permitted change of the attributes makes it 3: the best falls {one.shortfall:.2g}"
    )
    assert "top left, bottom right must stay" in one.sentence
    assert one.sentence[:60] in done.stdout
    assert list(one.figures) == ["targeted PGD"]
    assert one.figures["targeted PGD"].selectivity is None
    assert "No permitted change" in (home / "no" / "counterfactual.html").read_text()


def test_a_threat_that_cannot_do_it_is_an_answer(home: Path) -> None:
    record = ask(home, *CONCEPT, "--threat", "linf:1/255", "--target", "1", "--out", "small")
    one = only(record)
    assert one.outcome == Outcome.UNREALISED
    assert "No image inside linf:1/255 that is 1 was found in 30 steps; this does not show that there is none" in (
        one.sentence
    )
    assert record.success["edit"].startswith("ASR(linf:1/255, 30 steps) = 0.00")


def test_an_edit_that_fails_where_targeted_pgd_does_not_is_said_to(home: Path) -> None:
    record = ask(home, *CONCEPT[:-4], "--model", "quarters:concept", "--steps", "2", "--target", "1", "--out", "short")
    one = only(record)
    assert (one.outcome, one.figures["edit"].valid, one.figures["targeted PGD"].valid) == (
        Outcome.UNREALISED, False, True,
    )  # fmt: skip
    assert one.sentence.endswith(
        "No image inside l2:3 that makes this change and is 1 was found in 2 steps; targeted PGD, which ignores the "
        "attributes, found one that is."
    )


def test_what_is_left_out_is_printed(home: Path) -> None:
    words = (*ONE[:4], "either.csv", *ONE[5:-1], "1", "--model", "quarters:frozen", "--out", "left")
    printed = run(home, *words).stdout
    assert "1 have too few images of one value and stay, and an edit goes at most 1 switch beyond the values" in printed
    assert "left out, fewer than 5 images of one value: never" in printed
    assert printed.count("never") == 1
    assert "cannot be read off" not in printed


@pytest.mark.parametrize("net", ["frozen", "shifted", "reversed_", "cooled"])
def test_a_frozen_network_gets_probes(home: Path, net: str) -> None:
    words = (*ONE, "--model", f"quarters:{net}", "--keep", "bottom right", "--out", net)
    record = ask(home, *words)
    one = only(record)
    assert (record.kind, record.layer) == ("probes", {"reversed_": "body.4", "cooled": "net.4"}.get(net, "4"))
    assert one.outcome == Outcome.DONE
    kept = one.rows[3]
    assert kept.asked == 0
    assert kept.wanted == pytest.approx(kept.before)
    moved = [row for row in one.rows if row.asked]
    assert 1 <= len(moved) <= 3


@pytest.mark.parametrize("net", ["frozen", "shifted", "reversed_", "cooled", "normed", "adjusted"])
def test_the_head_gives_the_decision_whatever_affine_stands_behind_the_last_layer(
    home: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample is enough to find it; up to a constant for each sample the logits are those of the network."""
    monkeypatch.syspath_prepend(str(home))
    model: Any = load_model(f"quarters:{net}")
    layer = last_layer(model, torch.full((1, 1, 8, 8), 0.5), ["a", "b", "c"])
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, wanted = layer.head.logits(layer.encode(x)), model(x).double()
    torch.testing.assert_close(
        found - found.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True), rtol=1e-4, atol=1e-5
    )


def test_exclusive_attributes_move_together(home: Path) -> None:
    """Bright and dark are one thing: more of one is less of the other. A constant attribute is left out and listed."""
    words = (*ONE[:4], "either.csv", *ONE[5:], "--model", "quarters:frozen", "--out", "either")
    record = ask(home, *words)
    rows = {row.name: row for row in only(record).rows}
    assert rows["bright"].asked == pytest.approx(-rows["dark"].asked, abs=1e-3)
    assert record.left_out == ["never"]
    assert "never" not in rows
    assert "never" not in {fact.name for fact in record.attributes}
    page = (home / "either" / "counterfactual.html").read_text().split("<script")[0]
    assert page.count("never") == 1 and "Left out, with fewer than five images of one value: never" in page
    kept = only(ask(home, *words, "--keep", "dark"))  # so that bright cannot change either
    assert {row.name for row in kept.rows if row.asked} <= {"right"}


def test_fewer_columns_than_attribute_logits_get_probes_on_these(home: Path) -> None:
    record = ask(home, *ONE[:4], "two.csv", *ONE[5:], "--model", "quarters:concept", "--out", "two")
    assert record.kind == "probes"
    assert record.warnings == [
        "The network has 4 attribute logits and the table 2 attributes; probes are fitted to these logits."
    ]


def test_images_of_folders_and_data_sets(home: Path) -> None:
    words = ("counterfactual", "--model", "quarters:concept", "--attributes", "images/t.csv", "--device", "cpu",
             "--steps", "4")  # fmt: skip
    folder = ask(home, *words, "--data", "images", "--n", "3", "--out", "folder")
    assert [one.item for one in folder.results] == ["00.png", "01.png", "02.png"]
    some = ask(home, *words, "--data", "set.npz", "--index", "5,2", "--out", "set")
    assert [one.item for one in some.results] == ["sample 5", "sample 2"]
    again = ask(home, *words, "--data", "set.npz", "--index", "2", "--out", "set")
    assert again.results[0].rows == some.results[1].rows
    assert again.results[0].outcome == some.results[1].outcome


def test_python_is_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = only(ask(home, *CONCEPT, "--out", "cli"))
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    inputs = Inputs("quarters:concept", "images/00.png", n=8)
    record = workflows.counterfactual(inputs, "images/t.csv", steps=30, out="python", machine=Machine("cpu"))
    assert only(record) == printed
    assert [Path(file).name for file in record.files] == [
        "counterfactual.html", "counterfactual.json", "counterfactual.npz",
    ]  # fmt: skip


def test_the_page_and_the_printed_answer(home: Path) -> None:
    done = run(home, *CONCEPT, "--target", "1", "--out", "page")
    assert "To be 1 it needs, in switches: top" in done.stdout
    assert "selectivity" in done.stdout
    assert "page/counterfactual.html" in done.stdout
    page = Page(home / "page" / "counterfactual.html")
    html = page.source
    assert "What would have to change?" in html
    assert len(page.pictures()) == 5
    assert [row["class"] for row in page.all("tr") if "edited" in row.get("class", "")]
    assert "difference, white 0, largest" in html
    assert "&lt;b&gt;bottom left" in html
    assert "<b>bottom" not in html
    assert "ASR(l2:3, 30 steps) = 1.00, n = 1" in html


REFUSED: list[tuple[str, tuple[str, ...], str]] = [
    ("class", ("--target", "7"), "--target is '7', and there is no such class; there are 4, such as 0, 1, 2"),
    ("keep", ("--keep", "top lift"), "there is no attribute 'top lift' in images/t.csv; did you mean top left"),
    ("all kept", tuple(w for name in NAMES for w in ("--keep", name)), "all 4 attributes are in --keep; at least one"),
    ("lost", ("--attributes", "lost.csv"), "1 of 49 images of lost.csv do not exist, such as images/99.png; the"),
    ("no table", ("--attributes", "none.csv"), "there is no file none.csv; give a CSV with the columns path"),
    ("constant", ("--attributes", "constant.csv"), "no attribute may change: of 1, 1 have fewer than 5 images"),
    ("noise", ("--attributes", "noise.csv"), "no attribute may change: of 1, 1 cannot be read off the network (AUC"),
    ("size", ("--attributes", "large.csv"), "the images of the table have the shape (1, 9, 9), and those of --data"),
    ("threat", ("--threat", "0.3"), "--threat is '0.3'; write a norm and a radius"),
    ("steps", ("--steps", "0"), "--steps is 0; it must be at least 1"),
    ("index", ("--index", "3"), "--index is 3, and there are 1 samples"),
    ("no index", ("--index", "x"), "--index is 'x'; give the numbers of inputs from 0"),
    ("out", ("--out", "a.html"), "--out is a.html, which is the name of a file"),
    ("rows", ("--data", "rows.npz"), "does not accept samples of shape (5,)"),
    ("bent", ("--model", "quarters:bent"), "the head is not affine: the logits are not those of the last linear layer, "
                                           "'4'; cut the network after '4', whose input would be the embedding"),
    ("convolutions", ("--model", "quarters:convolutions"), "has no linear layer whose input could carry attributes"),
    ("function", ("--model", "quarters:function"), "has no linear layer whose input could carry attributes"),
    ("two, bent", ("--model", "quarters:two_bent"), "the head is not affine: the logits are not those of the last"),
    ("two, tempered", ("--model", "quarters:two_tempered"), "the head is not affine: the logits are not those of the"),
    ("functional", ("--model", "quarters:functional"), "calls none of its linear layers, as modules; give the network"),
    ("tokens", ("--model", "quarters:tokens"), "the head is not affine: the logits are not those of the last linear"),
    ("one logit", ("--model", "quarters:one_logit"), "class"),
    ("broken", ("--model", "quarters:broken"), "NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_used_is_one_sentence(home: Path, words: tuple[str, ...], said: str) -> None:
    before = set(home.iterdir())
    options = dict(zip(CONCEPT[1::2], CONCEPT[2::2], strict=True)) | {"--out": "refused"}
    given = [word for name, value in options.items() if name not in words for word in (name, value)]
    done = run(home, "counterfactual", *given, *words, code=2)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert set(home.iterdir()) - before <= {home / "__pycache__"}


def test_cheap_checks_come_before_the_model(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,a\nx.png,1\n")
    for options, said in (
        ({"threat": "l9:1"}, "there is no norm 'l9'"),
        ({"steps": 0}, "steps is 0"),
        ({"keep": ["b"]}, "there is no attribute 'b'"),
        ({"keep": ["a"]}, "all 1 attributes are in keep"),
        ({}, "1 of 1 images of"),
    ):
        with pytest.raises(BadInput) as refused:
            workflows.counterfactual(Inputs("none.pt", "none.png"), tmp_path / "t.csv", out=tmp_path / "o", **options)
        assert said in str(refused.value)
    assert not (tmp_path / "o").exists()


def test_the_record_is_json_without_nan(home: Path) -> None:
    text = run(home, *CONCEPT, "--out", "json", "--json").stdout
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in the record"))
