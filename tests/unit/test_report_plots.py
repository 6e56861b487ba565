"""The one layout of axes that all plots of the page share."""

from __future__ import annotations

import math

import pytest

from unfooled.drawing.plots import (
    Axes,
    Axis,
    Level,
    Size,
    colour_of,
    drawings,
    extent,
    linear_ticks,
    marker_of,
    radius_ticks,
    stairs,
)

SIZE = Size("wide", 720, 340, 8)


def axes(marks: dict[float, str] | None = None, *, log: bool = False) -> Axes:
    return Axes.of(SIZE, Axis("x", 1.0, 100.0, [(10.0, "ten")], log=log), Axis("y", -1.0, 1.0, [(0.0, "0")]), marks)


def test_values_lie_in_proportion_and_never_outside_the_frame() -> None:
    one = axes()
    assert (one.px(1.0), one.px(100.0)) == (one.left, one.right)
    assert (one.py(-1.0), one.py(1.0)) == (one.bottom, one.top)
    assert one.px(50.5) == pytest.approx((one.left + one.right) / 2, abs=0.06)
    assert one.py(0.5) == pytest.approx(one.bottom - 0.75 * (one.bottom - one.top), abs=0.06)
    assert [one.px(v) for v in (-7.0, math.inf)] == [one.left, one.right]
    assert one.x_ticks == [(one.px(10.0), "ten")]
    assert one.y_ticks == [(one.py(0.0), "0")]


def test_equal_ratios_are_equally_far_apart_on_a_log_axis() -> None:
    one = axes(log=True)
    a, b, c = (one.px(v) for v in (1.0, 10.0, 100.0))
    assert b - a == pytest.approx(c - b, abs=0.11)
    assert one.px(0.0) == one.left  # has no logarithm


def test_a_band_goes_along_its_upper_end_and_back_along_the_lower() -> None:
    one = axes()
    points = [tuple(map(float, pair.split(","))) for pair in one.band([(1.0, -0.5, 0.5), (100.0, 0.0, 1.0)]).split()]
    assert points == [
        (one.left, one.py(0.5)), (one.right, one.py(1.0)), (one.right, one.py(0.0)), (one.left, one.py(-0.5)),
    ]  # fmt: skip


def test_marks_that_would_meet_stand_in_rows_for_which_there_is_room() -> None:
    none, apart = axes(), axes({10.0: "audited: 10", 90.0: "audited: 90"})
    close = axes({10.0: "audited: 10", 12.0: "audited: 12", 14.0: "audited: 14", 90.0: "audited: 90"})
    assert none.top < apart.top < close.top
    assert len({mark.y for mark in apart.marks}) == 1
    assert len({mark.y for mark in close.marks}) == 3
    boxes = [extent(mark) for mark in close.marks]
    for i, a in enumerate(boxes):
        assert a[1] > 0
        assert a[3] <= close.top
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[:i])
    right = next(mark for mark in apart.marks if mark.text == "audited: 90")
    assert right.anchor == "end"  # else its text would leave the drawing


def test_levels_that_are_close_stand_beside_each_other() -> None:
    one, levels = axes(), list[Level]()
    for value in (0.0, 0.01, 0.9):
        levels.append(one.level(0, (value, value - 0.1, value + 0.1), "final: 60.1 %", levels))
    a, b, far = (extent(level.label) for level in levels)
    assert b[2] <= a[0]
    assert far[2] == a[2]
    assert levels[0].high < levels[0].y < levels[0].low


def test_stairs_go_across_and_then_up_or_down() -> None:
    assert stairs([(0.0, 5.0), (1.0, 3.0), (4.0, 3.0)]) == [(0, 5), (1, 5), (1, 3), (4, 3), (4, 3)]
    assert stairs([]) == []


def test_ticks_have_the_decimals_that_tell_them_apart() -> None:
    assert [text for _, text in linear_ticks(-0.5, 1.0, 5)] == ["\u22120.5", "0", "0.5", "1.0"]
    assert linear_ticks(0.0, 3000.0, 4)[1] == (1000.0, "1,000")
    assert radius_ticks(8 / 255, 4, in_255ths=True)[1] == (2 / 255, "2/255")


def test_a_plot_is_drawn_in_each_size_or_in_none() -> None:
    assert drawings([SIZE], lambda size: None) == []
    assert (colour_of(5), marker_of(5)) == (1, "square")
