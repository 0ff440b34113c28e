"""Work in threads: the order is that of the items, and few of them are begun before their turn."""

import threading

from refinedet_tf.threads import map_in_threads


def test_few_items_are_begun_before_their_turn():
    """The first item takes longer than all others, and yet only some of them are done before it."""
    release, done = threading.Event(), []

    def slow(name):
        if name == "first":
            release.wait(20)
        done.append(name)
        return name

    names = ["first"] + [str(number) for number in range(1, 1000)]
    results = map_in_threads(slow, iter(names), threads=2, ahead=16)
    threading.Timer(0.5, release.set).start()
    assert next(results) == "first"
    assert len(done) <= 16 + 2
    assert list(results) == names[1:]
