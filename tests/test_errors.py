"""Values in messages: short, in one printable line, whatever they are."""

import time

import pytest

from refinedet_tf.errors import shortened, shortened_text


@pytest.mark.parametrize("value", ["9", 5, None, True, [1, 2.5, "x"], {"a": [1]}, -1e308, [], (320, 320)])
def test_short_values_are_whole(value):
    assert shortened(value) == repr(value)


def test_long_values_are_cut():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    trees = (
        "x" * 10**7,
        [1] * 10**6,
        dict.fromkeys(range(10**5)),
        10**4000,
        10**5000,
        deep,
        [["x" * 10**6] * 9],
    )
    start = time.monotonic()
    for value in trees:
        text = shortened(value)
        assert len(text) <= 203 and text.isprintable()
    assert time.monotonic() - start < 2


def test_text():
    assert shortened_text("data/my images/a.jpg") == "data/my images/a.jpg"
    assert shortened_text("a\nb\0\x1b[31m\ud800\u202eé") == "a\\nb\\x00\\x1b[31m\\ud800\\u202eé"
    assert shortened_text("a" * 400 + "b" * 400, 10) == "aaaaa...bbbbb"
