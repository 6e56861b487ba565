"""Records of purifiers in `benchmarks/results`: what was promised of them, and the documents that quote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unfooled.studies.common.records import StudySummary

ROOT = Path(__file__).resolve().parents[2]


def record(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_the_published_way_of_judging_promises_more_than_the_worst_attack_leaves() -> None:
    made = record("purifier-rule")
    row = next(one for one in made["rows"] if (one["network"], one["purifier"]) == ("PGD-AT", "SRD"))
    static, bare, worst = (row[name][0] for name in ("static", "bare", "worst"))
    assert row["n"] >= 100
    assert row["missing"] == []
    assert row["verdict"] != "NOT EVALUABLE"
    assert static >= bare + 0.05
    assert worst <= static - 0.10
    assert made["met"]
    for one in made["rows"]:
        assert one["worst"][0] <= min(one[name][0] for name in ("static", "end-to-end: the cascade", "BPDA, identity"))


def test_the_documents_quote_the_rule_as_it_was_measured() -> None:
    text = (ROOT / "docs/methods/purification.md").read_text()
    networks = {"PGD-AT": "PGD-AT", "TRADES checkpoint": "TRADES"}
    purifiers = {"SRD": "semantic", "one weak dictionary": "one weak dictionary"}
    columns = ("bare", "static", "BPDA, identity", "end-to-end: the cascade", "worst")
    for row in record("purifier-rule")["rows"]:
        figures = " | ".join(f"{row[name][0]:.2f}".removeprefix("0") for name in columns)
        line = f"| {networks[row['network']]}, {purifiers[row['purifier']]} | {row['n']} | {figures} |"
        assert line in text, line


def test_a_fit_and_a_thousand_images_stay_below_their_targets() -> None:
    made = record("purifier-cost")
    assert (made["clusters"], made["train"], made["n"]) == (20, 6000, 1000)
    assert made["fit"] < 15
    assert made["apply"]["stride 2"] < 2


def test_convolutional_codes_reach_the_objective_of_a_peer() -> None:
    made = record("purifier-cost-sporco")
    lowest = made["lowest objective"]
    ends = {name: rows[-1] for name, rows in made["steps, seconds, objective"].items()}
    assert set(ends) == {"ours", "sporco, proximal gradients", "sporco, ADMM"}
    assert all(objective == pytest.approx(lowest, rel=0.01) for _, _, objective in ends.values())
    assert ends["ours"][0] == ends["sporco, proximal gradients"][0]
    assert ends["ours"][2] == pytest.approx(ends["sporco, proximal gradients"][2], rel=1e-4)


@pytest.fixture(scope="module")
def grid() -> StudySummary:
    return StudySummary.model_validate(record("purification-mnist"))


def test_the_grid_on_mnist_is_sound(grid: StudySummary) -> None:
    assert any("does not rise with eps" in note for note in grid.notes)
    whole = next(claim for claim in grid.claims if "eps 1: no image survives" in claim.claim)
    assert (whole.verdict, whole.value) == ("holds", 1.0)
    assert any("cells of the grid" in note for note in grid.notes)  # what was run of it is said
    counts = [row["clusters"] for row in grid.tables["mnist: clusters of each class"] if row["network"] == "standard"]
    assert len(counts) == 10
    assert len(set(counts)) > 1  # the number adapts to the class


def test_each_claim_of_the_paper_has_a_verdict_with_its_interval(grid: StudySummary) -> None:
    texts = [claim.claim for claim in grid.claims]
    for words in (
        "more accurate than PGD-AT alone", "dictionaries by cluster beat", "the latent constraint adds",
        "purifiers of other networks", "l2, ", "of the perturbation",
    ):  # fmt: skip
        assert any(words in text for text in texts), words
    for words in ("more accurate than PGD-AT alone", "dictionaries by cluster beat the global", "l2, "):
        ways = {"static", "adaptive"}
        assert ways == {way for way in ways for text in texts if words in text and f"{way}:" in text}, words
    for claim in grid.claims:
        assert claim.n
        assert claim.value is not None
        assert claim.low is not None
        assert claim.high is not None
        assert claim.low <= claim.value <= claim.high


def test_the_figures_of_the_grid_stand_in_the_read_me(grid: StudySummary) -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    names = {"standard": 0, "PGD-AT": 1, "PGD-AT + latent": 2, "PGD-AT through SRD": 3}
    rows: dict[str, list[str]] = {}
    for row in grid.tables["mnist: accuracy at eps 0.3"]:
        if row["network"] in names and row["purifier"] != "random resize":
            worst, static = (
                str(row[name])[1:4] if str(row[name])[0] == "0" else str(row[name])[:4] for name in ("worst", "static")
            )
            cells = rows.setdefault(str(row["purifier"]), ["not run"] * 4)
            cells[names[str(row["network"])]] = worst if row["purifier"] == "none" else f"{worst} ({static})"
    for purifier, cells in rows.items():
        assert f"| {purifier} | {' | '.join(cells)} |" in text, (purifier, cells)
