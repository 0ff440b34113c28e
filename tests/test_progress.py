"""The texts of progress, and when they are printed."""

import pytest

from refinedet_tf import progress


def test_progress_line():
    assert progress.progress_line(1200, 4952, 40.0) == "1200/4952 images, 30.0 images/s, 2:05 left"
    assert progress.progress_line(1, 7203, 1.0) == "1/7203 images, 1.0 images/s, 2:00:02 left"
    assert progress.progress_line(5, 5, 2.0) == "5/5 images, 2.5 images/s, 0:00 left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (123, "2:03"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (360_000, "100:00:00"),
    ],
)
def test_format_duration(seconds, text):
    assert progress.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("images", "seconds", "quiet", "lines"),
    [
        (5, 0.1, 0.0, ["1/5", "5/5"]),
        (100, 1.0, 0.0, ["1/100", "31/100", "61/100", "91/100", "100/100"]),
        (10, 0.49, 5.0, []),
        (10, 1.0, 5.0, ["5/10", "10/10"]),
    ],
)
def test_lines_in_a_log(capsys, images, seconds, quiet, lines):
    """One per interval and one at the end, but none in the quiet seconds."""
    printer = progress.ProgressPrinter("reading 2007/trainval", quiet_seconds=quiet)
    for done in range(1, images + 1):
        printer(done, images, seconds * done)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split()[2] for line in captured.err.splitlines()] == lines
    assert all(line.startswith("reading 2007/trainval: ") for line in captured.err.splitlines())


def test_a_terminal_gets_one_line_that_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    printer = progress.ProgressPrinter("reading")
    for done in range(1, 5):
        printer(done, 4, 0.25 * done)
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.endswith("\n")
    assert [part.split()[1] for part in text.split("\r")[1:]] == ["1/4", "3/4", "4/4"]


def test_with_progress_reports_after_each_item(monkeypatch):
    reports, times = [], iter([100.0, 101.0, 103.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    items = progress.with_progress(["a", "b"], 2, lambda *numbers: reports.append(numbers))
    assert next(items) == "a" and reports == []
    assert next(items) == "b" and reports == [(1, 2, 1.0)]
    assert list(items) == []
    assert reports == [(1, 2, 1.0), (2, 2, 3.0)]
