"""The page of explanations: the likeliest classes, what was explained, and pictures that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unfooled.report.sections.explained import LISTED, MAX_DRAWN, Explained, compose_explained, samples

CLASSES = ["ape", "<i>bee</i>", "cat", "dog"]
RECORD = {"model": "net.pt", "data": "photos", "n": 2, "method": "saliency", "of": "label"}


@pytest.fixture
def found() -> Explained:
    draw = np.random.default_rng(0)
    probability = np.array([[0.1, 0.2, 0.65, 0.05], [0.5, 0.3, 0.15, 0.05]], np.float32)
    x, maps = draw.random((2, 3, 6, 5), np.float32), draw.standard_normal((2, 3, 6, 5)).astype(np.float32)
    return Explained(x, np.array([2, 1]), probability, np.array([2, 1]), maps)


def test_a_sample_has_its_likeliest_classes_and_its_label(found: Explained) -> None:
    rows, scale = samples(found, CLASSES)
    assert scale == "diverging"
    assert [[name for name, _ in row.answers] for row in rows] == [
        ["cat", "<i>bee</i>", "ape"],
        ["ape", "<i>bee</i>", "cat"],
    ]
    assert rows[0].answers[0][1] == pytest.approx(0.65)
    assert [(row.right, row.label, row.target) for row in rows] == [
        (True, "cat", "cat"),
        (False, "<i>bee</i>", "<i>bee</i>"),
    ]
    assert all(len(row.answers) == LISTED and len(row.pictures) == 2 for row in rows)
    page = compose_explained(RECORD, found, CLASSES)
    assert "1 of 2 are classified as their label" in page
    assert "<i>bee" not in page
    assert "the label is &lt;i&gt;bee" in page


def test_without_labels_nothing_is_called_wrong(found: Explained) -> None:
    rows, _ = samples(replace(found, label=None), CLASSES)
    assert [(row.right, row.label) for row in rows] == [(True, ""), (True, "")]
    assert "classified as their label" not in compose_explained(
        RECORD | {"of": "prediction"}, replace(found, label=None), CLASSES
    )


def test_an_attack_adds_its_pictures_and_what_it_did(found: Explained) -> None:
    attacked = (found.x * 0.9, found.maps * 0.5, ["attacked", "the label could not be kept"])
    rows, _ = samples(replace(found, attacked=attacked), CLASSES)
    assert [[picture.caption for picture in row.pictures] for row in rows] == [
        ["Input", "Attacked", "Why", "Why, attacked"]
    ] * 2
    assert rows[1].status == "the label could not be kept"
    assert len({picture.src for picture in rows[0].pictures}) == 4


def test_samples_that_cannot_be_drawn_keep_their_answers(found: Explained) -> None:
    flat = replace(found, x=np.zeros((2, 2, 2, 2, 2), np.float32), maps=np.ones((2, 2, 2, 2, 2), np.float32))
    rows, _ = samples(flat, CLASSES)
    assert [row.pictures for row in rows] == [[], []]
    assert rows[0].answers[0][0] == "cat"


def test_a_page_stays_small() -> None:
    n = 2 * MAX_DRAWN
    x = np.random.default_rng(1).random((n, 3, 224, 224), np.float32)
    many = Explained(x, None, np.full((n, 4), 0.25, np.float32), np.zeros(n, int), x[..., ::-1] - 0.5)
    page = compose_explained(RECORD | {"n": n}, many, CLASSES)
    assert len(page) < 3_000_000
    assert f"{MAX_DRAWN} samples of {n}" in page
