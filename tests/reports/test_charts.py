"""The geometry of charts."""

import pytest

from refinedet_tf.reports.charts import BOTTOM, LEFT, RIGHT, TOP, BarChart, LineChart, axis_ticks


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 0.5, 1]),
        (3, [0, 1, 2, 3]),
        (10, [0, 5, 10]),
        (8, [0, 2, 4, 6, 8]),
        (1234, [0, 500, 1000, 1500]),
        (0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_axis_ticks(largest, ticks):
    assert axis_ticks(largest) == pytest.approx(ticks)


def test_bars_have_the_height_of_their_values():
    chart = BarChart("sizes", ["small", "large"], {"train": [2, 4], "test": [0, 1]})
    bars = chart.bars()
    assert [bar.height for bar in bars] == pytest.approx([84, 168, 0, 42])
    assert [bar.y + bar.height for bar in bars] == pytest.approx([BOTTOM] * 4)
    assert bars[0].x == pytest.approx(LEFT + 0.1 * (RIGHT - LEFT) / 2)
    assert bars[2].x == pytest.approx(bars[0].x + bars[0].width)
    assert bars[1].tip == "large: train 4"
    assert [bar.color for bar in bars] == [0, 0, 1, 1]
    assert [tick.text for tick in chart.y_ticks()] == ["0", "1", "2", "3", "4"]
    empty = BarChart("none", [], {"n": []})
    assert empty.bars() == empty.x_ticks() == []


def test_labels_without_room_are_left_out():
    chart = BarChart("many", [f"class {number:02}" for number in range(30)], {"n": [1] * 30})
    shown = [f"class {number:02}" for number in range(0, 30, 6)]
    assert [tick.text for tick in chart.x_ticks()] == shown


def test_lines_keep_to_the_square():
    chart = LineChart("curve", {"a": ([0, 1], [0, 2])})
    assert chart.lines()[0].points == f"{LEFT}.0,{BOTTOM}.0 {RIGHT}.0,{TOP}.0"
    assert [tick.text for tick in chart.x_ticks()] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [tick.position for tick in chart.y_ticks()][::4] == [BOTTOM, TOP]
