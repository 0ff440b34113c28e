"""Charts as inline SVG, whose colours follow the page's light or dark scheme.

A chart is `WIDTH` units wide and is scaled to the place that it gets. The template draws what the methods
here compute.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 352, 10, 178
"""The borders of the plot within the chart."""

NUM_COLORS = 8
"""The number of colours of the page's style; a chart with more series repeats them."""

_LETTER = 6.0
"""The width of a letter of the labels, about."""


class Tick(NamedTuple):
    """A mark on an axis."""

    position: float
    text: str


class Bar(NamedTuple):
    """One bar."""

    x: float
    y: float
    width: float
    height: float
    color: int
    """The index of the colour, 0..NUM_COLORS - 1."""
    tip: str
    """What a pointer on the bar shows."""


class Line(NamedTuple):
    """One line."""

    points: str
    color: int
    name: str


@dataclasses.dataclass(frozen=True)
class BarChart:
    """Groups of bars, one group per label and one bar per series, such as a histogram."""

    title: str
    labels: Sequence[str]
    """The texts below the groups; where they have no room, only every second, third... is shown."""
    series: Mapping[str, Sequence[float]]
    """Name -> one value of at least 0 per label. With several series, the names stand in a legend."""
    x_title: str = ""
    y_title: str = ""

    @property
    def largest(self) -> float:
        """The upper end of the vertical axis."""
        return axis_ticks(max((max(values, default=0) for values in self.series.values()), default=0))[-1]

    def bars(self) -> list[Bar]:
        """Returns all bars."""
        group = (RIGHT - LEFT) / max(len(self.labels), 1)
        width = 0.8 * group / max(len(self.series), 1)
        bars = []
        for number, (name, values) in enumerate(self.series.items()):
            for index, (label, value) in enumerate(zip(self.labels, values, strict=True)):
                x = LEFT + (index + 0.1) * group + number * width
                height = value / self.largest * (BOTTOM - TOP)
                tip = f"{label}: {name} {value:,.6g}"
                bars.append(Bar(x, BOTTOM - height, width, height, number % NUM_COLORS, tip))
        return bars

    def x_ticks(self) -> list[Tick]:
        """Returns the labels that have room."""
        group = (RIGHT - LEFT) / max(len(self.labels), 1)
        longest = max(map(len, self.labels), default=1)
        every = max(1, math.ceil((longest + 1) * _LETTER / group))
        return [
            Tick(LEFT + (index + 0.5) * group, label)
            for index, label in enumerate(self.labels)
            if index % every == 0
        ]

    def y_ticks(self) -> list[Tick]:
        """Returns the marks of the vertical axis."""
        return [
            Tick(BOTTOM - value / self.largest * (BOTTOM - TOP), f"{value:,.6g}")
            for value in axis_ticks(self.largest)
        ]


@dataclasses.dataclass(frozen=True)
class LineChart:
    """Lines in the square from 0 to 1, such as curves of precision and recall."""

    title: str
    series: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]]
    """Name -> as many x as y of the points, 0..1, which are joined in the given order."""
    x_title: str = ""
    y_title: str = ""

    def lines(self) -> list[Line]:
        """Returns all lines; points outside the square are moved to its border."""
        lines = []
        for number, (name, (x, y)) in enumerate(self.series.items()):
            columns = np.interp(np.asarray(x, np.float64), (0, 1), (LEFT, RIGHT))
            rows = np.interp(np.asarray(y, np.float64), (0, 1), (BOTTOM, TOP))
            points = " ".join(f"{column:.1f},{row:.1f}" for column, row in zip(columns, rows, strict=True))
            lines.append(Line(points, number % NUM_COLORS, name))
        return lines

    def x_ticks(self) -> list[Tick]:
        """Returns the marks of the horizontal axis."""
        return [Tick(LEFT + quarter / 4 * (RIGHT - LEFT), f"{quarter / 4:g}") for quarter in range(5)]

    def y_ticks(self) -> list[Tick]:
        """Returns the marks of the vertical axis."""
        return [Tick(BOTTOM - quarter / 4 * (BOTTOM - TOP), f"{quarter / 4:g}") for quarter in range(5)]


def axis_ticks(largest: float) -> list[float]:
    """Returns the marks of an axis: from 0 to at least `largest`, in steps of 1, 2 or 5 times 10^k."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if largest / (factor * power) <= 4 * (1 + 1e-9))
    return [number * step for number in range(math.ceil(largest / step - 1e-9) + 1)]
