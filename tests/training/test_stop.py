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


def send(process, *numbers):
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2)  # Signals of one kind that arrive together count once.


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM] * 2], ids=str)
def test_one_kind_of_signal_is_a_request(busy, numbers):
    process = busy(A_MOMENT)
    send(process, *numbers)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, f"{numbers[0].name}\n")
    assert err == (FIRST if numbers[0] == signal.SIGINT else "")


def test_ctrl_c_twice_ends_a_long_call_at_once(busy):
    process = busy(AN_HOUR)
    send(process, signal.SIGINT, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"{FIRST}interrupted\n"
