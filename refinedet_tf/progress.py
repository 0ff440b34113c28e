"""Progress of long work over many images: images done, images per second, time left."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

Progress = Callable[[int, int, float], None]
"""It is called with the number of images done, their total number, and the seconds since the start."""

QUIET_SECONDS = 5.0
"""Work that usually takes less time is given this as `quiet_seconds` of its printer."""

SECONDS_ON_A_TERMINAL = 0.5
SECONDS_IN_A_LOG = 30.0
"""The time between two lines, which is longer in a log, because every line of a log stays."""


class ProgressPrinter:
    """Prints progress to stderr, as one rewritten line on a terminal and as occasional lines elsewhere.

    A line is always printed for the last image, unless `quiet_seconds` have not yet passed.

    Args:
        what: the text before the numbers, such as "reading 2007/trainval".
        quiet_seconds: the time since the start during which nothing is printed, so that short work
            prints nothing.
        unit: what is counted.
    """

    def __init__(self, what: str = "", quiet_seconds: float = 0.0, unit: str = "images") -> None:
        self._unit = unit
        self._prefix = f"{what}: " if what else ""
        self._quiet_seconds = quiet_seconds
        self._on_terminal = sys.stderr.isatty()
        self._interval = SECONDS_ON_A_TERMINAL if self._on_terminal else SECONDS_IN_A_LOG
        self._last = -math.inf

    def __call__(self, done: int, total: int | None, seconds: float) -> None:
        """Notes that `done` of `total` images (None: unknown) are finished `seconds` after the start."""
        goes_on = total is None or done < total
        if seconds < self._quiet_seconds or (goes_on and seconds - self._last < self._interval):
            return
        self._last = seconds
        end = "\n" if not goes_on or not self._on_terminal else ""
        start = "\r" if self._on_terminal else ""
        line = f"{self._prefix}{progress_line(done, total, seconds, self._unit)}"
        print(f"{start}{line:<70}", end=end, file=sys.stderr, flush=True)


def with_progress(items: Iterable[Item], total: int, progress: Progress) -> Iterator[Item]:
    """Yields `total` items, one per image, and calls `progress` after each of them."""
    start = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        progress(done, total, time.monotonic() - start)


def progress_line(done: int, total: int | None, seconds: float, unit: str = "images") -> str:
    """Returns a text such as `1200/4952 images, 31.2 images/s, 2:00 left`, or less without a total."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{done} {unit}, {rate:.1f} {unit}/s"
    return f"{done}/{total} {unit}, {rate:.1f} {unit}/s, {format_duration((total - done) / rate)} left"


def format_duration(seconds: float) -> str:
    """Returns hours, minutes and seconds such as `1:02:03`, or `2:03` if it is less than an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
