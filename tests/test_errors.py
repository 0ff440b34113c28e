"""The values and names in error messages."""

import pytest

from refinedet_tf.errors import shortened, shortened_text

DEEP: list = []
for _ in range(10_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("value", [None, True, 16, 0.5, "16", "café", [5, 3], {"a": [1, None]}, (1, 2)])
def test_short_values_are_shown_as_they_are(value):
    assert shortened(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, list(range(10**6)), [["y" * 1000] * 100] * 100, {str(n): n for n in range(10**5)}]
    + [10**4000, 10**6000, -(10**6000), [10**6000], DEEP, {"a": DEEP}, b"\0" * 10**6],
    ids=range(11),
)
def test_values_of_any_size_are_cut(value):
    assert 0 < len(shortened(value)) < 250


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\ud800", "a\0b", "\u202e"])
def test_texts_are_one_printable_line(text):
    for shown in (shortened(text), shortened_text(text), shortened([text])):
        assert shown.isprintable()
        shown.encode()


def test_the_end_of_a_long_path_stays():
    shown = shortened_text("/folder" * 1000 + "/best.weights.h5", 100)
    assert shown.startswith("/folder/folder")
    assert shown.endswith("/best.weights.h5")
    assert "..." in shown
    assert len(shown) == 103
