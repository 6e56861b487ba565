"""The page in use: the gallery is filtered and sorted, tables are sorted, in both themes, by keys, without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser.driver import CHROMIUM, Browser
from tests.unit.counterfactual_page import counterfactual_page
from tests.unit.report_runs import fabricate, nearest_gallery
from tests.unit.test_report_index import runs

from unfooled.report import render
from unfooled.report.study_page import render_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the PATH")

SHOWN = "[...document.querySelectorAll('li.example')].filter((e) => e.checkVisibility())"


def chosen(name: str, value: str) -> str:
    """An expression that chooses a value in one of the gallery's menus, and has it."""
    return f"""(() => {{ const select = document.querySelector("form.tools").elements[{json.dumps(name)}];
    select.value = {json.dumps(value)};
    select.dispatchEvent(new Event("input", {{ bubbles: true }}));
    return select.value; }})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as driven:
        yield driven


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driven")
    fabricate(folder / "a", examples=9, **nearest_gallery([0.1, 0.2, 0.4]))
    return render([folder / "a"], folder / "a.html")


def test_the_gallery_is_filtered_and_sorted(browser: Browser, page: Path) -> None:
    browser.open(page)
    every = browser.get("document.querySelectorAll('li.example').length")
    assert every == 9
    assert browser.get(f"{SHOWN}.length") == 6  # the rest is folded
    label = browser.get("document.querySelector('li.example').dataset.label")
    of_label = browser.get(
        f"[...document.querySelectorAll('li.example')].filter((e) => e.dataset.label === {json.dumps(label)}).length"
    )
    assert 0 < of_label < every
    assert browser.get(chosen("label", label)) == label
    assert browser.get(f"{SHOWN}.map((e) => e.dataset.label)") == [label] * of_label
    assert browser.get("document.querySelector('form.tools output').textContent") == f"{of_label} of {every} shown"
    browser.get(chosen("label", ""))
    assert browser.get(f"{SHOWN}.length") == every
    states = browser.get("[...document.querySelector('form.tools').elements.state.options].map((o) => o.value)")
    counts = [browser.get(f"({chosen('state', state)}, {SHOWN}.length)") for state in states]
    assert counts[0] == every == sum(counts[1:])
    browser.get(chosen("state", ""))
    for order, down in (("distance", False), ("-distance", True), ("index", False)):
        browser.get(chosen("order", order))
        key = order.strip("-")
        found = browser.get(f"{SHOWN}.filter((e) => e.dataset.{key} !== '').map((e) => Number(e.dataset.{key}))")
        assert found == sorted(found, reverse=down)
        assert len(found) > 1
    browser.get(chosen("order", "place"))
    assert browser.get(f"{SHOWN}.map((e) => Number(e.dataset.place))") == list(range(every))
    assert (browser.requests(), browser.complaints()) == ([], [])


def test_a_confusion_is_chosen_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    browser.get("document.querySelector('form.tools').elements.confusion.focus()")
    browser.press("ArrowDown")
    chosen = browser.get("document.querySelector('form.tools').elements.confusion.value")
    assert "\u2192" in chosen
    shown = browser.get(f"{SHOWN}.map((e) => e.dataset.from + ' \u2192 ' + e.dataset.to)")
    assert set(shown) == {chosen}
    assert browser.get("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_column_is_sorted_both_ways(browser: Browser, page: Path) -> None:
    browser.open(page)
    find = "[...document.querySelectorAll('table.figures')].find((t) => t.querySelector('.sort'))"
    cells = f"[...({find}).tBodies[0].rows].map((r) => r.cells[0].textContent.trim())"
    before = browser.get(cells)
    browser.get(f"({find}).closest('details')?.setAttribute('open', '')")
    browser.get(f"({find}).querySelector('.sort').focus()")
    browser.press("Enter")
    up = browser.get(cells)
    assert browser.get(f"({find}).querySelector('th').getAttribute('aria-sort')") == "ascending"
    browser.press("Enter")
    down = browser.get(cells)
    assert sorted(up) == sorted(down) == sorted(before)
    assert len(set(before)) > 2
    assert up == down[::-1] != down


@pytest.mark.parametrize(
    ("text", "value"),
    [("21.5 % [18, 25]", 21.5), ("\u22123.2", -3.2), ("1,234", 1234), ("8/255", 8 / 255), ("1.5e-3 x", 0.0015)],
)
def test_a_cell_s_number(browser: Browser, page: Path, text: str, value: float) -> None:
    browser.open(page)
    assert browser.get(f"numberOf('{text}')") == pytest.approx(value)
    assert browser.get("numberOf('none') === undefined")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_slider_shows_what_each_radius_does(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    visible = """[...document.querySelectorAll('ol.near > li')].map((e) =>
        ['before', 'after'].filter((part) => e.querySelector('.' + part).checkVisibility()))"""
    told = "document.querySelector('form.radius output').textContent"
    assert browser.get(visible) == [["before"]] * 3
    assert browser.get(told) == "0: 0 of the 3 are fooled; of all that were searched, at most 100.0 % still hold"
    browser.get("document.querySelector('form.radius input').focus()")
    browser.press("ArrowRight")
    assert browser.get("document.querySelector('form.radius input').value") == "1"
    place = round(200 * 0.25 / (1.05 * 0.4))
    slider = "document.querySelector('form.radius input')"
    browser.get(f"({slider}.value = {place}, {slider}.dispatchEvent(new Event('input')))")
    assert browser.get(visible) == [["after"], ["after"], ["before"]]
    assert "2 of the 3 are fooled; of all that were searched, at most 66.7 % still hold" in browser.get(told)
    browser.press("End")
    assert browser.get(visible) == [["after"]] * 3
    assert browser.get("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_without_a_script_all_can_be_read(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark, script=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)  # the test may ask, the page's script never ran
    assert not browser.get("document.querySelector('form.tools').checkVisibility()")
    assert browser.get("document.querySelectorAll('.sort').length") == 0
    assert not browser.get("document.querySelector('form.radius').checkVisibility()")
    both = "[...document.querySelectorAll('.near .before, .near .after')].every((e) => e.checkVisibility())"
    assert browser.get(both)
    assert browser.get(f"{SHOWN}.length") == 6
    browser.get("document.querySelector('details.rest').open = true")
    assert browser.get(f"{SHOWN}.length") == 9
    paper = browser.get("getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)")
    assert (sum(paper) < 200) == dark
    assert browser.requests() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_an_index_is_filtered_and_sorted(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.open(render(runs(tmp_path), tmp_path / "index.html"), width=width)
    rows = "[...document.querySelectorAll('table.board > tbody > tr')].filter((r) => r.checkVisibility())"
    assert browser.get(f"{rows}.length") == 9
    search = "document.querySelector('input[type=search]')"
    browser.get(f"({search}.value = 'OVERSTATED run', {search}.dispatchEvent(new Event('input')))")
    assert browser.get(f"{rows}.map((r) => r.cells[4].textContent)") == ["OVERSTATED"]
    browser.get(f"({search}.value = '', {search}.dispatchEvent(new Event('input')))")
    right = "Math.max(...[...document.querySelectorAll('.board td')].map((e) => e.getBoundingClientRect().right))"
    assert browser.get(right) <= width  # the verdict is seen without scrolling
    figures = "[...document.querySelector('table.board').tBodies[0].rows].map((r) => numberOf(r.cells[1].textContent))"
    browser.get("document.querySelectorAll('table.board .sort')[1].click()")
    found = browser.get(figures)
    assert found == sorted(found)
    assert len(found) == 7
    assert browser.get("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert (browser.requests(), browser.complaints()) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
def test_edited_attributes_stand_out_and_those_that_do_not_stay(browser: Browser, tmp_path: Path, dark: bool) -> None:
    (tmp_path / "edits.html").write_text(counterfactual_page("name"), encoding="utf-8")
    browser.open(tmp_path / "edits.html", dark=dark)

    def style(selector: str, name: str) -> str:
        return str(browser.get(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}"))

    assert style("tr.edited:not(.moved) th", "fontWeight") == "700"
    assert style("tr.moved td", "color") != style("tr.edited:not(.moved):not(.grey) td", "color")


def test_on_a_phone_the_contents_take_one_row(browser: Browser, tmp_path: Path) -> None:
    record = Path(__file__).parents[2] / "benchmarks" / "results" / "attackability-small.json"
    (tmp_path / "summary.json").write_bytes(record.read_bytes())
    browser.open(render_study(tmp_path), width=390)
    assert browser.get("document.querySelectorAll('nav a').length") > 10
    assert browser.get("document.querySelector('nav').getBoundingClientRect().height") < 70
    assert browser.get("document.querySelector('.claim').getBoundingClientRect().top") < 600  # on the first screen
    assert browser.get("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_bars_have_more_room_than_their_names(browser: Browser, tmp_path: Path, width: int) -> None:
    (tmp_path / "edits.html").write_text(counterfactual_page("colour of the upper wing"), encoding="utf-8")
    browser.open(tmp_path / "edits.html", width=width)
    names, drawn = (
        browser.get(f"document.querySelector('.attributes {part}').getBoundingClientRect().width")
        for part in (".names", ".drawn")
    )
    assert 60 < names < 0.8 * drawn
    hidden = "[...document.querySelectorAll('.names li')].filter((e) => e.scrollHeight > e.clientHeight + 1).length"
    assert browser.get(hidden) == 0
