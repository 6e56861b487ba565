"""Pages and figures of explanations: small, without scripts and requests, in light and dark."""

from __future__ import annotations

import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from tests.reference import lime_cases as cases

from unfooled.compat.lime import LimeTabularExplainer, LimeTextExplainer
from unfooled.compat.lime.explanation import DomainMapper, Explanation, id_generator

OURS = cases.modules("unfooled.compat.lime")
MOST = 30_000


class Reader(HTMLParser):
    """The text of a page, its marks, and what it would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.marks: list[str] = []
        self.asks: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "mark":
            self.marks.append("")
        if tag in ("script", "link", "iframe", "object", "embed", "img") or any(
            name in ("src", "href") or name.startswith("on") for name, _ in attrs
        ):
            self.asks.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
            if "mark" in self.open:
                self.marks[-1] += data


def checked(page: str) -> Reader:
    """A page that is small, whole, and asks for nothing."""
    assert len(page.encode("utf-8")) <= MOST
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[0]
    assert "prefers-color-scheme:dark" in style
    assert "@media(max-width:40em){.lx .b,.lx .n{width:4em}" in style, "weights are not cut off on a narrow page"
    assert '<meta name="viewport" content="width=device-width">' in page
    assert "url(" not in page
    assert "@import" not in page
    read = Reader(page)
    assert read.asks == []
    assert read.open == []
    return read


def test_a_text_shows_probabilities_bars_and_marked_words() -> None:
    made = cases.text(OURS, options={"class_names": ["bad", "good", "neutral"]}, top_labels=2, num_features=3)
    read = checked(made.as_html())
    assert "Prediction probabilities" in read.text
    for label in made.top_labels:
        name = made.class_names[label]
        assert f"Weights for {name}" in read.text
        assert f"not {name}" in read.text
        for word, _ in made.as_list(label):
            assert word in read.text
    first = dict(made.as_list(made.top_labels[0]))
    assert sorted(set(read.marks)) == sorted(first)
    assert len(read.marks) == sum(len(re.findall(rf"\b{word}\b", cases.TEXT)) for word in first)
    assert cases.TEXT in re.sub(r"\s+", " ", read.text)


@pytest.mark.parametrize("kind", ["text", "table"])
def test_a_page_says_that_soft_stability_was_not_measured(kind: str) -> None:
    if kind == "text":
        found = LimeTextExplainer(random_state=0).explain_instance(
            "a bad film", lambda t: np.array([[0.5, 0.5]] * len(t)), num_samples=20
        )
        call = "with_text_stability(lime_text(predict, text), predict)"
    else:
        table = np.random.default_rng(0).normal(size=(30, 2))
        rows = LimeTabularExplainer(table, random_state=0)
        found = rows.explain_instance(table[0], lambda t: np.array([[0.5, 0.5]] * len(t)), num_samples=20)
        call = "with_row_stability(lime_tabular(predict, rows, space=space), predict, rows, space=space)"
    text = checked(found.as_html()).text
    assert f"Soft stability was not measured: the model is not part of this explanation. {call} of" in text
    assert "in sample, of the label fitted last" in text
    found.score = None
    assert "in sample" not in checked(found.as_html()).text
    assert "soft_stability(f, selected, r)" in checked(Explanation(DomainMapper()).as_html(labels=[])).text


def test_options_leave_views_out() -> None:
    made = cases.text(OURS)
    assert checked(made.as_html(text=False)).marks == []
    assert "Prediction" not in checked(made.as_html(predict_proba=False)).text
    assert "--o:" in made.as_html()
    assert "--o:" not in made.as_html(opacity=False).partition("</style>")[2]
    both = cases.text(OURS, labels=(0, 1))
    assert "Weights for 0" not in checked(both.as_html(labels=[1])).text
    with pytest.raises(KeyError, match=r"label 7 was not explained; explained labels: \[1\]"):
        made.as_html(labels=[7])


def test_a_row_shows_its_values() -> None:
    made = cases.table(OURS, {"categories": True}, num_features=2)
    named, all_rows = checked(made.as_html()), checked(made.as_html(show_all=True))
    mapper = made.domain_mapper
    shown = [mapper.feature_names[f] for f, _ in made.local_exp[1]]
    assert [name for name in mapper.feature_names if name in named.text.partition("The row")[2]] == sorted(
        shown, key=mapper.feature_names.index
    )
    assert all(name in all_rows.text.partition("The row")[2] for name in mapper.feature_names)
    assert "The row" not in checked(made.as_html(show_table=False)).text
    assert "kind=" in all_rows.text
    sparse_row = cases.csr(OURS)
    assert checked(sparse_row.as_html(show_all=True)).text.count("\n") >= 0
    for column, value in zip(
        sparse_row.domain_mapper.feature_indexes, sparse_row.domain_mapper.feature_values, strict=True
    ):
        assert f"{column}{value}" in checked(sparse_row.as_html(show_all=True)).text.partition("The row")[2]


def test_a_regression_shows_its_value_between_the_least_and_the_largest() -> None:
    made = cases.table(OURS, {"mode": "regression"}, model=cases.value_model)
    made.predicted_value, made.min_value, made.max_value = 2.0, 0.0, 8.0
    page = made.as_html()
    assert "Predicted value 2" in checked(page).text
    assert "width:25.0%" in page
    assert "Predicted" not in checked(made.as_html(show_predicted_value=False)).text
    assert "Weightsnegativepositiveweight" in checked(page).text


def test_many_classes_are_summed() -> None:
    made = Explanation(DomainMapper(), class_names=[f"c{k}" for k in range(50)])
    made.predict_proba = np.full(50, 0.01)
    made.predict_proba[7] = 0.51
    read = checked(made.as_html())
    assert "c70.51" in read.text
    assert "46 others0.46" in read.text


def test_nothing_of_the_text_is_code() -> None:
    evil = '<script>alert("x")</script> & <img src=x onerror=y> word'
    made = LimeTextExplainer(random_state=0, class_names=["<b>", "\"'><script>", "c"]).explain_instance(
        evil, cases.word_model, num_samples=50
    )
    assert evil in checked(made.as_html()).text
    weights = Explanation(DomainMapper(), class_names=["<i>", "<u>"])
    weights.local_exp, weights.predict_proba = {1: [(0, float("nan")), (1, float("inf"))]}, np.array([0.5, np.nan])
    checked(weights.as_html())


@pytest.mark.parametrize("words", [300, 5000])
@pytest.mark.parametrize("kind", ["distinct", "one word", "letters of three bytes", "no marks"])
def test_long_texts_stay_small(words: int, kind: str) -> None:
    text = " ".join(
        {"one word": "word", "letters of three bytes": f"日本{k}"}.get(kind, f"word{k}") for k in range(words)
    )
    made = LimeTextExplainer(random_state=0).explain_instance(
        text, lambda t: np.full((len(t), 2), 0.5), num_samples=3, num_features=1 if kind == "no marks" else 300
    )
    read = checked(made.as_html())
    if words == 300:
        assert ("goes on" in read.text) == (kind != "no marks" and len(read.text) < len(text)) or kind == "distinct"


def test_a_long_text_shows_what_stands_around_its_marks() -> None:
    text = " ".join(["filler"] * 3000 + ["Treasure"] + ["filler"] * 3000)
    made: Any = LimeTextExplainer(random_state=0).explain_instance(
        text, lambda ts: np.array([[0.9, 0.1] if "Treasure" in t else [0.1, 0.9] for t in ts]), num_samples=20
    )
    made.local_exp[1] = [
        pair for pair in made.local_exp[1] if made.domain_mapper.indexed_string.word(pair[0]) != "filler"
    ]
    read = checked(made.as_html())
    assert read.marks == ["Treasure"]
    assert "filler Treasure filler" in read.text


def test_wide_tables_and_many_labels_stay_small() -> None:
    rng = np.random.RandomState(0)
    data = rng.rand(10, 600)
    made = OURS.lime_tabular.LimeTabularExplainer(
        data, feature_names=[f"a column with a long name, the {k}th of them" * 3 for k in range(600)], random_state=0
    ).explain_instance(data[0], lambda x: cases.softmax(x[:, :30]), num_samples=20, num_features=600, top_labels=12)
    read = checked(made.as_html(show_all=True))
    assert len(re.findall(r"and \d+ more features with smaller weights", read.text)) == 12
    assert "more features" in read.text.partition("The row")[2]


def test_a_page_is_a_file_and_what_a_notebook_shows(tmp_path: Path) -> None:
    made = LimeTextExplainer(random_state=0).explain_instance(
        "bad \ud800 日本 text", cases.letter_model, num_samples=20
    )
    made.save_to_file(str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == made.as_html() == made._repr_html_()
    made.save_to_file(tmp_path / "short.html", labels=[1], predict_proba=False, text=False)
    assert "日本" not in (tmp_path / "short.html").read_text(encoding="utf-8").partition("<section>")[0]


def test_showing_an_explanation_draws_nothing() -> None:
    explainer: Any = LimeTextExplainer(random_state=0)
    made = explainer.explain_instance(cases.TEXT, cases.word_model, num_samples=20)
    before = explainer.random_state.get_state()[2]
    made.as_html()
    assert explainer.random_state.get_state()[2] == before
    assert len(id_generator(20, np.random.RandomState(0))) == 20
    assert id_generator(random_state=np.random.RandomState(3)) == "KDYAV83KTLGVJZ2" or len(id_generator()) == 15


def test_show_in_notebook_uses_ipython_s_display(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    fake = types.ModuleType("IPython.display")
    fake.HTML, fake.display = str, shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    made = cases.text(OURS)
    made.show_in_notebook(text=False)
    assert shown == [made.as_html(text=False)]
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ValueError, match="show_in_notebook needs IPython: pip install ipython, or use save_to_file"):
        made.show_in_notebook()


def test_figures_have_a_bar_a_feature() -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    made = cases.table(OURS, {"class_names": ["no", "yes", "both"]})
    figure = made.as_pyplot_figure(figsize=(3, 2))
    (axes,) = figure.axes
    pairs = made.as_list()[::-1]
    assert axes.get_title() == "Local explanation for class yes"
    assert [label.get_text() for label in axes.get_yticklabels()] == [name for name, _ in pairs]
    assert [bar.get_width() for bar in axes.patches] == [weight for _, weight in pairs]
    assert tuple(figure.get_size_inches()) == (3, 2)
    plt.close(figure)
    value = cases.table(OURS, {"mode": "regression"}, model=cases.value_model).as_pyplot_figure()
    assert value.axes[0].get_title() == "Local explanation"
    plt.close(value)
