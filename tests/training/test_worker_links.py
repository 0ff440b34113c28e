"""The connections between workers, all of them in the threads of one process."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import local_cluster

from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.training import workers as workers_module
from refinedet_tf.training.cluster import read_cluster
from refinedet_tf.training.link import MAX_BYTES, Link
from refinedet_tf.training.workers import Workers


@pytest.fixture
def clusters(monkeypatch):
    """What each of three tasks reads from TF_CONFIG."""
    found = []
    for tf_config in local_cluster(3):
        monkeypatch.setenv("TF_CONFIG", tf_config)
        found.append(read_cluster())
    return found


@pytest.fixture
def ended(monkeypatch):
    """The lines with which processes would have ended; their threads do nothing more during the test."""
    lines, over = [], threading.Event()

    def end_process(text, code):
        lines.append((text, code))
        over.wait(20)

    monkeypatch.setattr(workers_module, "_end_process", end_process)
    yield lines
    over.set()


def on_all(clusters, work):
    """Runs `work(workers)` on every worker; returns each result or error."""

    def run(cluster):
        try:
            with Workers(cluster) as workers:
                workers.meet(20)
                return work(workers)
        except (InputError, TrainingStopped) as error:
            return error

    with ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(run, clusters))


def test_values_come_in_the_order_of_the_tasks(clusters, ended):
    def work(workers):
        return [workers.exchange(f"{workers.index}.{number}") for number in range(3)]

    everywhere = [[f"{index}.{number}" for index in range(3)] for number in range(3)]
    assert on_all(clusters, work) == [everywhere] * 3
    time.sleep(0.3)
    assert not ended


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("kind", [InputError, TrainingStopped])
def test_an_error_on_a_worker_reaches_all(clusters, ended, failing, kind):
    def work(workers):
        if workers.index == failing:
            raise kind("an image is broken")
        return workers.exchange(None)

    results = on_all(clusters, work)
    for index, error in enumerate(results):
        text = "an image is broken" if index == failing else f"worker:{failing} ended: an image is broken"
        assert (type(error), str(error)) == (kind, text)
    assert not ended


def test_a_silent_worker_is_lost(clusters, ended, monkeypatch):
    """A machine that vanishes closes no connection, but it gives no sign of life either."""
    monkeypatch.setattr(workers_module, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(workers_module, "ALIVE_SECONDS", 0.2)
    show_life = Workers._show_life
    monkeypatch.setattr(
        Workers, "_show_life", lambda workers: show_life(workers) if workers.index != 2 else None
    )

    def work(workers):
        time.sleep(2)
        return workers.index

    assert on_all(clusters, work) == [0, 1, 2]
    line = (f"{clusters[0].tasks[2]} was lost; restart all workers with --resume", 1)
    assert len(ended) >= 2 and set(ended) == {line}


def test_word_to_stop_reaches_all(clusters, ended):
    def work(workers):
        if workers.index == 1:
            workers.tell_to_stop()
        workers.exchange(None)
        return workers.told_to_stop

    assert on_all(clusters, work) == [True] * 3


def test_workers_with_other_clusters(monkeypatch):
    chief, worker = local_cluster(2)
    other = json.loads(worker)
    other["cluster"]["worker"].append("127.0.0.1:1")
    monkeypatch.setenv("TF_CONFIG", chief)
    first = read_cluster()
    monkeypatch.setenv("TF_CONFIG", json.dumps(other))
    results = on_all([first, read_cluster()], lambda workers: workers)
    text = "TF_CONFIG of worker:1 lists another cluster than that of worker:0"
    assert [(type(error), str(error)) for error in results] == [(InputError, text)] * 2


def test_the_chief_does_not_end_before_its_answers_are_sent(clusters, ended, monkeypatch):
    """Whichever thread sends them, and however slowly."""
    send = Link.send

    def send_late(link, kind, **values):
        if kind == "values":
            time.sleep(0.2)
        send(link, kind, **values)

    def work(workers):
        end = time.monotonic() + 20

        def give_up():
            if time.monotonic() > end:
                raise TrainingStopped("no answer")

        return workers.exchange(workers.index, give_up)

    monkeypatch.setattr(Link, "send", send_late)
    assert on_all(clusters, work) == [[0, 1, 2]] * 3


def test_something_else_calls_the_chief(clusters, ended):
    """A scanner of ports, or a browser, is no worker."""

    def call_too():
        task = clusters[0].tasks[0]
        for _ in range(50):
            with socket.socket() as connection:
                if connection.connect_ex((task.host, task.port)) == 0:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call_too)
        assert on_all(clusters, lambda workers: workers.exchange(workers.index)) == [[0, 1, 2]] * 3


def test_the_chief_gathers_bytes_of_any_length(clusters, ended):
    """They are longer than a message may be."""
    data = [np.random.default_rng(index).bytes(size) for index, size in enumerate((5, MAX_BYTES + 7, 0))]

    def work(workers):
        first = workers.gather_on_chief(data[workers.index])
        return first, workers.gather_on_chief(workers.names[workers.index].encode())

    chief, *others = on_all(clusters, work)
    assert chief == (data, [b"worker:0", b"worker:1", b"worker:2"])
    assert others == [([], []), ([], [])]
    assert not ended


def test_bytes_that_arrive_incomplete_end_the_work(clusters, ended):
    def work(workers):
        if workers.index == 2:
            link = workers.links[0]
            link.send("part", number=workers.number + 1, data="AAAA")
        return workers.gather_on_chief(b"abc")

    results = on_all(clusters, work)
    text = "6 bytes came from worker:2 instead of 3; restart all workers with --resume"
    assert (type(results[0]), str(results[0])) == (TrainingStopped, text)


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "value"},
        {"kind": "part", "number": 1, "data": 7},
        {"kind": "end", "index": 9, "text": "", "code": 1},
    ],
)
def test_a_worker_that_sends_something_else_is_lost(clusters, ended, message):
    def work(workers):
        if workers.index == 2:
            workers.links[0].send(**message)
        time.sleep(1)
        return workers.index

    assert on_all(clusters, work) == [0, 1, 2]
    assert (f"{clusters[0].tasks[2]} was lost; restart all workers with --resume", 1) in ended


def test_long_work_ends_with_an_error_elsewhere(clusters, ended):
    def work(workers):
        if workers.index == 2:
            raise InputError("an image is broken")
        for _ in range(500):
            workers.check()
            time.sleep(0.02)

    text = "worker:2 ended: an image is broken"
    assert [str(error) for error in on_all(clusters, work)] == [text, text, "an image is broken"]
    assert not ended


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("kind", [InputError, TrainingStopped])
def test_an_error_before_the_meeting_reaches_those_that_are_up(clusters, failing, kind):
    """The others wait for the chief or for the last worker when this one fails, for example on its data."""
    listening = threading.Barrier(3)

    def run(cluster):
        try:
            with Workers(cluster) as workers:
                listening.wait()
                if workers.index == failing:
                    time.sleep(0.5)
                    raise kind("no annotations")
                workers.meet(20)
        except (InputError, TrainingStopped) as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run, clusters))
    for index, error in enumerate(results):
        text = "no annotations" if index == failing else f"worker:{failing} ended: no annotations"
        assert (type(error), str(error)) == (kind, text)


def test_an_error_before_the_chief_is_up(clusters):
    with pytest.raises(InputError, match="^no annotations$"), Workers(clusters[1]):
        raise InputError("no annotations")


def test_a_waiting_worker_passes_its_signal_on(clusters, ended):
    def work(workers):
        start = time.monotonic()
        while workers.index != 1 and not workers.told_to_stop and time.monotonic() < start + 20:
            time.sleep(0.02)
        workers.exchange(None, workers.tell_to_stop if workers.index == 1 else None)
        return workers.told_to_stop, time.monotonic() - start < 15

    assert on_all(clusters, work) == [(True, True)] * 3
