"""Stages have names for files and words for people, and nobody makes the words from the name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.cli import show
from unfooled.runs.chunks import Run
from unfooled.runs.records import Config
from unfooled.runs.stage_names import StageName, stage_name

WORDS = {
    StageKey(Family.CLEAN): ("clean", "clean samples"),
    StageKey(Family.CASCADE, "clean"): ("cascade-clean", "attack, clean"),
    StageKey(Family.CASCADE, "square", 3): ("cascade-3-square", "attack, stage 4: square"),
    StageKey(Family.CASCADE, "square", 3, part=2): ("cascade-3-square-2", "attack, stage 4: square-2"),
    StageKey(Family.CASCADE, "square", 421): ("cascade-421-square", "attack, continued: square"),
    StageKey(Family.CASCADE, "odi", 10, "D14"): ("cascade-10-D14-odi", "attack, stage 11: D14-odi"),
    StageKey(Family.AUTOATTACK, "apgd-ce"): ("autoattack-apgd-ce", "AutoAttack, apgd-ce"),
    StageKey(Family.NEAREST, "linf"): ("nearest-linf", "nearest points in linf"),
    StageKey(Family.EXPLANATIONS, "samples 1-8"): ("reasons-samples 1-8", "reasons under attack, samples 1-8"),
    StageKey(Family.CHECKS, "fgsm", 0, "D4"): ("diagnostics-0-D4-fgsm", "check D4: fgsm"),
    StageKey(Family.CHECKS, "fgsm", 0, "D4", 1): ("diagnostics-0-D4-fgsm-1", "check D4: fgsm-1"),
    StageKey(Family.CHECKS, "adopt"): ("diagnostics-adopt", "checks, adopt"),
    StageKey(Family.JUDGE): ("judge", "judging what was found"),
    StageKey(Family.EXPLAIN): ("explain", "explanations"),
}


@pytest.mark.parametrize("key", WORDS, ids=lambda key: key.folder)
def test_a_key_has_a_name_and_words(key: StageKey) -> None:
    name, words = WORDS[key]
    assert key.folder == name
    assert key.folder.description == words
    assert show.stage_description(key.folder) == words
    assert show.stage_description(key.folder.within("standard")) == f"standard: {words}"
    assert key.folder.within("standard") == f"standard/{name}"


@pytest.mark.parametrize("family", Family)
def test_every_part_of_an_evaluation_has_words(family: Family) -> None:
    words = StageKey(family, "method").description
    assert words
    assert words != f"{family}-method"


@pytest.mark.parametrize("text", ["training, shapes 8/255", "cascade-like", "d_rand", "maps"])
def test_other_texts_are_shown_as_they_are(text: str) -> None:
    assert show.stage_description(text) == text
    assert stage_name(text).description == text


def test_copies_of_a_name_keep_the_words() -> None:
    name = StageName("a", "words of a")
    for again in (copy.deepcopy(name), copy.copy(name), stage_name(name)):
        assert (again, again.description) == ("a", "words of a")


def test_callbacks_receive_the_words(tmp_path: Path) -> None:
    told: list[str] = []
    run = Run(
        tmp_path, Config(model="", data="", n=4, threat="", seed=0), progress=lambda stage, *_: told.append(stage)
    )
    Ledger.of(run, 4).map(StageKey(Family.NEAREST, "l2"), lambda rows: {"row": rows.to(torch.float32)}, 4)
    assert told == ["nearest-l2"] * 2
    assert {show.stage_description(stage) for stage in told} == {"nearest points in l2"}
    assert (tmp_path / "chunks" / "nearest-l2").is_dir()
