"""Signals to real processes: one is a request to stop, and Ctrl-C twice stops at once."""

import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT

pytestmark = pytest.mark.story

BUSY = """
import hashlib, sys
from refinedet_tf.training.stop import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    # A call that, like a step of TensorFlow, does not come back to Python for long.
    hashlib.pbkdf2_hmac("sha512", b"", b"", int(sys.argv[1]))
    print(stop.requested)
"""
A_MOMENT, AN_HOUR = "2000000", "2000000000"
FIRST = "stopping when this step is saved; Ctrl-C again stops at once\n"


@pytest.fixture
def busy():
    """Starts `BUSY`, waits until it is, and ends it after the test."""
    started = []

    def start(duration):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, duration],
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()


def interrupt(process, times):
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # Signals of one kind that arrive together count once.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_a_request(busy, number):
    process = busy(A_MOMENT)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, f"{number.name}\n")
    assert err == (FIRST if number == signal.SIGINT else "")


def test_ctrl_c_twice_ends_a_long_call_at_once(busy):
    process = busy(AN_HOUR)
    interrupt(process, times=2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"{FIRST}interrupted\n"


def test_sigterm_twice_is_one_request(busy):
    process = busy(A_MOMENT)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "SIGTERM\n", "")
