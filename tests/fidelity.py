"""Comparisons with numbers of others, asserted and recorded by one fixture and written as one table.

A test that holds this project against the authors' program, or against published figures, takes the
fixture `compare`:

    def test_heads_against_the_authors_program(compare):
        compare("logits", "VGG-16, 320 x 320", found, expected, 1e-4, relative_to="largest")
        compare.same("chosen negatives", "638 anchors, 4 images", found > 0, expected > 0)

Each call asserts, and its row goes into the table; calls of one test file with the same `what` and `on`
share a row, which shows the largest error of all of them. The test gets the marker `golden`.

`pytest -m golden --fidelity=FILE` (`make fidelity`) runs these tests alone and, if all of them pass,
writes FILE: the rows, and `golden/differences.md` below them. A test file names its part of the table
in `PARTS`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

DIFFERENCES = Path(__file__).parent / "golden" / "differences.md"

PARTS = {
    "test_images": "image files, against libjpeg's default in Pillow",
    "test_anchors": "anchors",
    "test_layers": "network",
    "test_forward": "network",
    "test_efficientnet_lite": "EfficientNet-Lite, against a published definition in PyTorch",
    "test_losses": "loss",
    "test_schedule_and_optimizer": "solver",
    "test_postprocessing": "detections",
    "test_merging": "detections",
    "test_voc_ap": "AP",
    "test_published_ap": "AP against figures published by others",
}
"""Test file -> part of the table; the parts stand in this order, files that are missing here at the end."""

OTHER_PART = "other"

HEAD = """\
# Fidelity

Written by `make fidelity` from what the tests measure: TensorFlow {tensorflow}, Keras {keras}, float32 on
{device}. The numbers compared with are those of the authors' Caffe program unless the part says otherwise.

A row is one fact: the largest error over all its values, in the unit of its tolerance. "of the largest" means
relative to the largest magnitude of the array, "of each" relative to each value; an error without either is
absolute (normalised boxes, probabilities, AP of 0..1). "0 differ": every value is equal.

"""

WITHOUT_PUBLISHED = """
AP against figures published by others was not measured: `make fidelity PUBLISHED_AP=FOLDER`.
"""


@dataclasses.dataclass
class Row:
    """One fact: `error` is the largest so far, or the number of values that differ, of `values`."""

    tolerance: str
    error: float = 0.0
    values: int = 0


class Compare:
    """The fixture `compare` of one test; `rows` is that of its part of the table."""

    def __init__(self, rows: dict[tuple[str, str], Row]):
        self.rows = rows

    def __call__(self, what, on, found, expected, tolerance, relative_to=None):
        """Asserts that no value is farther from the expected one than the tolerance.

        Args:
            what: the quantity, on: the case; plain words for the table.
            found, expected: numbers or arrays of one shape. Where nan or inf is expected, the same
                must be found.
            tolerance: largest error allowed; 0 for equality.
            relative_to: None, absolute; "each", relative to each expected value; "largest", to the
                largest magnitude of `expected`; or that magnitude, where `expected` is only a sample.
        """
        found, expected = (np.asarray(values, np.float64) for values in (found, expected))
        self._check_shapes(what, on, found, expected)
        if relative_to is None:
            unit, scale = "", 1.0
        elif relative_to == "each":
            unit, scale = " of each", np.abs(expected)
        elif relative_to == "largest":
            unit, scale = " of the largest", np.abs(expected).max()
        else:
            unit, scale = " of the largest", float(relative_to)
        equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(equal, 0.0, np.abs(found - expected) / scale)
        place = np.unravel_index(error.argmax(), error.shape)  # of the first nan, if there is one
        self._record(what, on, short(tolerance) + unit, max, error[place], error.size)
        assert error[place] <= tolerance, (
            f"{what}, {on}: error {error[place]:.3g}{unit}{at(place)}, found {found[place]}, "
            f"expected {expected[place]}; the tolerance is {tolerance:g}"
        )

    def same(self, what, on, found, expected):
        """Asserts that two arrays of one shape, of any type, are equal element by element."""
        found, expected = np.asarray(found), np.asarray(expected)
        self._check_shapes(what, on, found, expected)
        differs = np.asarray(found != expected)
        place = np.unravel_index(differs.argmax(), differs.shape)
        self._record(what, on, "0 differ", int.__add__, int(differs.sum()), differs.size)
        assert not differs.any(), (
            f"{what}, {on}: {differs.sum()} of {differs.size} differ, the first{at(place)}, "
            f"found {found[place]}, expected {expected[place]}"
        )

    def _check_shapes(self, what, on, found, expected):
        assert found.shape == expected.shape, f"{what}, {on}: shape {found.shape}, expected {expected.shape}"
        assert found.size, f"{what}, {on}: nothing to compare"

    def _record(self, what, on, tolerance, join, error, values):
        row = self.rows.setdefault((what, on), Row(tolerance, type(error)(0)))
        assert row.tolerance == tolerance, f"{what}, {on}: two tolerances, {row.tolerance} and {tolerance}"
        row.error, row.values = join(row.error, error), row.values + values


def at(place: tuple) -> str:
    """An index in words: " at [1, 20, 3]"; a number on its own has none."""
    return f" at {[int(i) for i in place]}" if place else ""


def short(value: float) -> str:
    """A number with two significant digits: 0, 1e-5, 3.1e-7."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"


@dataclasses.dataclass
class Record:
    """What one session measured: rows by part, and the golden tests that were found and those that ran."""

    parts: dict[str, dict[tuple[str, str], Row]] = dataclasses.field(default_factory=dict)
    collected: set[str] = dataclasses.field(default_factory=set)
    ran: set[str] = dataclasses.field(default_factory=set)


RECORD = pytest.StashKey[Record]()


@pytest.fixture
def compare(request):
    """Asserts against numbers of others and records what was measured; see `Compare`."""
    record = request.config.stash[RECORD]
    part = PARTS.get(request.module.__name__, OTHER_PART)
    yield Compare(record.parts.setdefault(part, {}))
    record.ran.add(request.node.nodeid)


def pytest_addoption(parser):
    parser.addoption("--fidelity", metavar="FILE", help="write the table of the golden tests")
    parser.addoption("--published-ap", metavar="FOLDER", help="data sets with published AP to test against")


def pytest_configure(config):
    folder = config.getoption("published_ap")
    if folder and not Path(folder).is_dir():
        raise pytest.UsageError(f"--published-ap {folder}: no such folder")
    config.stash[RECORD] = Record()


def pytest_ignore_collect(collection_path, config):
    """The data sets with published figures are not part of this project."""
    without = collection_path.name == "test_published_ap.py" and not config.getoption("published_ap")
    return True if without else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "compare" in getattr(item, "fixturenames", ()):
            item.add_marker("golden")
            config.stash[RECORD].collected.add(item.nodeid)


def pytest_sessionfinish(session, exitstatus):
    file = session.config.getoption("fidelity")
    if not file or exitstatus != pytest.ExitCode.OK:
        return
    record = session.config.stash[RECORD]
    if missing := sorted(record.collected - record.ran):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().line(f"\n{file} was not written: {missing[0]} did not run")
        return
    Path(file).write_text(table(record.parts), encoding="utf-8")


def table(parts: dict[str, dict[tuple[str, str], Row]]) -> str:
    """The Markdown text of the rows, and of the deliberate differences below them."""
    import keras
    import tensorflow as tf

    device = "a GPU" if tf.config.list_physical_devices("GPU") else "the CPU"
    lines = ["| part | what | on | values | largest error | tolerance |", "|---|---|---|--:|--:|--:|"]
    for part in dict.fromkeys([*PARTS.values(), OTHER_PART]):
        for (what, on), row in parts.get(part, {}).items():
            error = f"{row.error} differ" if isinstance(row.error, int) else short(row.error)
            lines.append(f"| {part} | {what} | {on} | {row.values:,} | {error} | {row.tolerance} |")
    text = HEAD.format(tensorflow=tf.__version__, keras=keras.__version__, device=device) + "\n".join(lines)
    published = "" if PARTS["test_published_ap"] in parts else WITHOUT_PUBLISHED
    return f"{text}\n{published}\n{DIFFERENCES.read_text(encoding='utf-8')}"
