"""Pages of local surrogates: small, well-formed, without scripts and requests, and true to the weights."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net

from unfooled.explanations import TabularSpace, lime_image, lime_tabular, lime_text
from unfooled.explanations.lime import Flag, Surrogates, grid
from unfooled.explanations.lime.pages import in_words
from unfooled.explanations.lime.view import weight_text

VOID = {"meta", "img", "br", "circle", "path", "rect"}


class Page(HTMLParser):
    "Open tags, and everything that could ask for something outside of the file."

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "action", "srcset") and not (value or "").startswith("data:"):
                self.outside.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(html: str, images: int) -> None:
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.outside == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!data:)|https?://", html)
    assert "light-dark(" in html
    pictures = re.findall(r"data:image/\w+;base64,[^\"']*", html)
    assert len(pictures) == images
    assert len(html) - sum(map(len, pictures)) <= 30_000


@pytest.fixture(scope="module")
def result() -> Surrogates:
    x, net = points(10, (3, 16, 16), seed=1), tiny_net(6, (3, 16, 16))
    return lime_image(net, x, torch.arange(60).reshape(10, 6) % 6, segments=grid(7), samples=512)


def test_a_page_of_images(result: Surrogates) -> None:
    html = result[0].to_html()
    check_page(html, 2)
    name, weight = result[0].as_list(0)[0]
    assert f">{name}</text>" in html
    assert f"{weight:+.3g}" in html
    assert "segment_mean" in html, "the baseline is on the page"
    assert html.startswith("<!doctype html>")
    assert "data:image/png" in result[0]._repr_html_()
    check_page(result[0]._repr_html_(), 2)


def test_a_page_of_many_samples_stays_small(result: Surrogates) -> None:
    html = result.to_html(top=4)
    assert "6 of 10 are shown" in html
    page = Page()
    page.feed(html)
    assert page.outside == []
    few = replace(result, y=result.y[:, :1], **{n: getattr(result, n)[:, :1] for n in COLUMNS})
    check_page(few.to_html(), 12)


COLUMNS = ("weights", "se", "intercept", "r2", "r2_held_out", "prediction", "local_prediction")


def test_findings_are_said_in_words(result: Surrogates) -> None:
    one = result[0]
    assert "More samples needed" not in one.to_html()
    assert "More samples needed: 512 effective" in replace(one, flags=((Flag.FEW,),)).to_html()
    assert "not separated yet" in replace(one, flags=((Flag.NOT_REACHED,),)).to_html()
    assert "no linear surrogate fits" in replace(one, r2_held_out=one.r2_held_out * 0).to_html()
    assert "no linear surrogate fits" not in replace(one, r2_held_out=one.r2_held_out * 0 + 1).to_html()
    assert "the answer is" in replace(one, local_prediction=one.prediction + 100).to_html()
    assert "the answer is" not in replace(one, local_prediction=one.prediction).to_html()
    assert "probability 0.90 (0.80 to 1.00)" in replace(one, stability=((0.9, 0.8, 1.0),)).to_html()


def test_names_are_escaped(result: Surrogates) -> None:
    one = result[0]
    names = ("<script>alert(1)</script>", *one.names[0][1:])
    html = replace(one, names=(names,), classes=("<b>",) * 6).to_html(top=60)
    assert "<script" not in html
    assert "<b>&" not in html
    assert "&lt;script&gt;" in html


def test_figures(result: Surrogates) -> None:
    figure = result[0].plot(top=5)
    bars, picture = figure.axes[:2]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([w for _, w in result[0].as_list(top=5)])
    low, high = bars.get_xlim()
    assert low == -high, "the scale is symmetric"
    assert picture.images[0].get_clim()[0] == -picture.images[0].get_clim()[1]
    row = lime_image(lambda z: z[:, :3] + z[:, 20:23], points(1, (40,)), samples=128)
    assert len(row.plot().axes) == 1


def test_rounding_errors_are_written_as_0() -> None:
    assert [weight_text(w, 0.8) for w in (0.8, -1e-3, 1e-15, -1e-12, 0.0)] == ["+0.8", "-0.001", "0", "0", "0"]
    assert weight_text(1e-15, 2e-15) == "+1e-15", "a small unit is no rounding error"
    text = "a bad film with nineteen other words that do not matter to this little function at all"
    page = lime_text(lambda texts: [0.1 + 0.8 * ("bad" in t) for t in texts], text).to_html()
    assert "e-1" not in page
    assert ">+0.8<" in page
    assert ">0</text>" in page


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("euclidean(width=None)", "euclidean"),
        ("cosine(width=0.25)", "cosine(width=0.25)"),
        ("f(a=None, b=2)", "f(b=2)"),
        ("f(a=1, b=None)", "f(a=1)"),
        ("repeating(sampler=paired)", "paired"),
        ("repeating(sampler=bernoulli(p=0.3))", "bernoulli(p=0.3)"),
        ("hide_by(sampler=paired)", "hide_by(sampler=paired)"),
    ],
)
def test_settings_in_words(setting: str, words: str) -> None:
    assert in_words(setting) == words


def test_a_page_of_a_row_has_no_none_and_keeps_its_numbers_whole() -> None:
    table = np.random.default_rng(0).lognormal(10, 1, size=(80, 2)).round(2)
    space = TabularSpace.learn(table, names=["income of the household", "expenses"])
    html = lime_tabular(lambda rows: rows[:, 0], table[:1], space=space).to_html()
    assert "None" not in html
    assert "td:nth-child(2){min-width:4.5em}" in html
    width = re.findall(r'<svg viewBox="-130 0 (\d+) ', html)
    assert width, "long names stand above their bars"
    assert int(width[0]) < 420
    check_page(html, 0)
    short = lime_text(lambda t: [[len(s)] for s in t], "a bad film").to_html()
    assert 'viewBox="-130 0' not in short
    one = lime_text(lambda t: [[len(s)] for s in t], "word")
    assert "1 effective sample." in replace(one, ess=torch.ones(1)).to_html()
