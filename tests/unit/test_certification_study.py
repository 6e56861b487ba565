"""The study of certification: both ends of tiny networks, claims that follow their figures, stored work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unfooled.core.errors import BadInput
from unfooled.report.study_page import render_study
from unfooled.studies.certification import CertificationScale, CertificationTask, bench, run_certification, units
from unfooled.studies.certification.bench import CertificationBench
from unfooled.studies.certification.claims import claims
from unfooled.studies.certification.figures import Ends
from unfooled.studies.certification.scale import CNN_A, IBP, MTL_IBP, PGD_AT, SABR, SCALES, STANDARD, TRADES
from unfooled.studies.certification.units import Judged, Results

TASK = CertificationTask("digits", (0.02, 0.05), 6, batch=32, options={"width": 2}, steps=2)
TINY = CertificationScale((TASK,), n=6, networks=(STANDARD, IBP), effort="quick", train_n=300)


def judged(network: str, right: str, proven: str, resists: str, *, by_intervals: str = "", seed: int = 0) -> Judged:
    return Judged(
        network=network, eps=0.05, seed=seed, images=list(range(len(right))), right=right,
        by_intervals=by_intervals or "0" * len(right), proven=proven, resists=resists, seconds=1.0,
    )  # fmt: skip


def verdicts(*rows: Judged) -> dict[str, str]:
    return {one.claim.partition(": ")[2]: one.verdict for one in claims(Results(TASK, rows))}


def test_a_tiny_study_is_judged_from_both_sides_stored_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_certification(TINY, out=tmp_path)
    (small, large) = first.tables.values()
    assert [row["network"] for row in small] == [row["network"] for row in large] == [STANDARD, IBP]
    assert all(row["n"] == 6 for row in small)
    sound = [one for one in first.claims if "no proven image" in one.claim]
    assert all(one.verdict != "fails" for one in sound)
    assert len(first.pictures) == 2
    assert sorted(path.name for path in tmp_path.rglob("*.pt")) == ["IBP_at_0.02.pt", "IBP_at_0.05.pt", "standard.pt"]
    assert "How robust at least, how robust at most?" in render_study(tmp_path).read_text()

    def refuse(*_: object) -> Judged:
        raise AssertionError("a unit is computed again")

    monkeypatch.setattr(units, "judge", refuse)
    again = run_certification(TINY, out=tmp_path)
    assert (again.tables, again.claims) == (first.tables, first.claims)
    with pytest.raises(BadInput, match="networks"):
        run_certification(replace(TINY, networks=(STANDARD,)), out=tmp_path)


@pytest.mark.parametrize("name", [PGD_AT, SABR, MTL_IBP])
def test_every_method_trains_a_network_for_its_radius(name: str) -> None:
    made = CertificationBench(TASK, replace(TINY, networks=(name,), train_n=64), 0)
    assert made.subjects() == [(name, 0.02), (name, 0.05)]
    one, other = (made.subject(name, eps) for eps in TASK.eps)
    assert not one.training
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_published_networks_are_judged_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    task = replace(TASK, trades=("trades.pt", "strided-cnn"), published=("a.pt", "rows.txt", 0.05))
    made = CertificationBench(task, replace(TINY, networks=()), 0)
    assert made.subjects() == []
    (tmp_path / "models").mkdir()
    (tmp_path / "models/trades.pt").touch()
    (tmp_path / "hard").mkdir()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    torch.save(net.state_dict(), tmp_path / "hard/a.pt")
    (tmp_path / "hard/rows.txt").write_text("5\n3\n")
    assert made.subjects() == [(TRADES, 0.02), (TRADES, 0.05), (CNN_A, 0.05)]
    x, y, rows = made.samples(CNN_A)
    assert rows == [5, 3]
    assert torch.equal(x, made.test[0][[5, 3]])
    assert torch.equal(y, made.test[1][[5, 3]])
    z = torch.rand(2, 1, 28, 28)
    assert torch.equal(made.subject(CNN_A, 0.05)(z), net.eval()(z))
    assert bench.FOLDER == "UNFOOLED_DATA"


def test_a_single_fooled_proof_fails_the_claim_of_soundness() -> None:
    good = judged(IBP, "1" * 40, "1" * 40, "1" * 40)
    bad = judged(IBP, "1" * 40, "1" * 40, "0" + "1" * 39)
    text = "no proven image is fooled by the attack; share of them that is."
    assert verdicts(good)[text] == "holds"
    assert verdicts(bad)[text] == "fails"
    assert verdicts(judged(IBP, "1" * 40, "0" * 40, "1" * 40))[text] == "undecided"


def test_claims_follow_their_figures_in_both_directions() -> None:
    n = 200
    every, none = "1" * n, "0" * n
    strong, weak = judged(IBP, none, every, every, by_intervals=every), judged(PGD_AT, every, none, every)
    found = verdicts(strong, weak)
    assert found[f"{IBP} proves more images than {PGD_AT}; difference of certified accuracy."] == "holds"
    assert found[f"{PGD_AT} has a higher clean accuracy than {IBP}; difference."] == "holds"
    assert found[f"intervals prove at most 5 % of the images of {PGD_AT}; share that is not proven."] == "holds"
    assert found[f"at most 4% of the images of {IBP} are open; share that is not."] == "holds"
    assert found[f"on {IBP}, relaxation proves at most 4% more than intervals; 1 minus the difference."] == "holds"
    strong, weak = judged(IBP, every, none, every), judged(PGD_AT, none, every, every, by_intervals=every)
    found = verdicts(strong, weak, judged(SABR, every, every, every))
    assert found[f"{IBP} proves more images than {PGD_AT}; difference of certified accuracy."] == "fails"
    assert found[f"{PGD_AT} has a higher clean accuracy than {IBP}; difference."] == "fails"
    assert found[f"intervals prove at most 5 % of the images of {PGD_AT}; share that is not proven."] == "fails"
    assert found[f"at most 4% of the images of {IBP} are open; share that is not."] == "fails"
    assert found[f"{SABR} proves more images than {IBP}; difference of certified accuracy."] == "holds"
    assert not [text for text in found if MTL_IBP in text]


def test_ends_of_seeds_are_joined_and_an_open_image_is_neither_proven_nor_fooled() -> None:
    rows = [
        judged(IBP, "1" * 16, "1000" * 4, "1110" * 4, seed=0),
        judged(IBP, "1" * 16, "1100" * 4, "1110" * 4, seed=1),
    ]
    ends = Ends.of(rows, 0.05)
    assert ends.networks == [IBP]
    assert ends.mean(IBP, "proven").value == pytest.approx(3 / 8)
    assert ends.open(IBP).value == pytest.approx(3 / 8)
    assert ends.conflicts() == (0, 12)
    assert ends.mean(IBP, "right")[:1] == (1.0,)
    assert ends.mean(IBP, "right").high == 1.0
    assert ends.mean(STANDARD, "proven").n == 0
    assert Ends.of(rows, 0.1).networks == []


def test_every_scale_has_the_networks_of_the_literature() -> None:
    assert set(SCALES) == {"small", "medium", "full"}
    assert all(set(size.networks) == {STANDARD, PGD_AT, IBP, SABR, MTL_IBP} for size in SCALES.values())
    assert {task.eps for task in SCALES["medium"].tasks} == {(0.1, 0.3), (0.1,)}
