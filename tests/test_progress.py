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


def printed(capsys):
    """The numbers of images in the lines on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [line.split()[0] for line in captured.err.splitlines()]


def test_progress_ends_with_the_last_image(capsys):
    printer = progress.ProgressPrinter()
    for done in range(1, 6):
        printer(done, 5, 0.1 * done)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["1/5", "5/5"]


def test_a_log_gets_one_line_per_interval(capsys):
    printer = progress.ProgressPrinter()
    for done in range(1, 101):
        printer(done, 100, float(done))
    assert printed(capsys) == ["1/100", "31/100", "61/100", "91/100", "100/100"]


def test_a_terminal_gets_one_line_that_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    printer = progress.ProgressPrinter("reading")
    for done in range(1, 5):
        printer(done, 4, 0.25 * done)
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.endswith("\n")
    assert [part.split()[1] for part in text.split("\r")[1:]] == ["1/4", "3/4", "4/4"]


def test_text_before_the_numbers(capsys):
    progress.ProgressPrinter("reading 2007/trainval")(1, 1, 0.5)
    line = capsys.readouterr().err
    assert line.startswith("reading 2007/trainval: 1/1 images, 2.0 images/s, 0:00 left")


def test_nothing_is_printed_in_the_quiet_seconds(capsys):
    printer = progress.ProgressPrinter(quiet_seconds=5.0)
    for done in range(1, 11):
        printer(done, 10, 0.49 * done)
    assert printed(capsys) == []
    for done in range(1, 11):
        printer(done, 10, float(done))
    assert printed(capsys) == ["5/10", "10/10"]


def test_with_progress_reports_after_each_item():
    reports, times = [], iter([100.0, 101.0, 103.0])

    def report(*numbers):
        reports.append(numbers)

    items = progress.with_progress(["a", "b"], 2, report, clock=lambda: next(times))
    assert next(items) == "a" and reports == []
    assert next(items) == "b" and reports == [(1, 2, 1.0)]
    assert list(items) == []
    assert reports == [(1, 2, 1.0), (2, 2, 3.0)]
