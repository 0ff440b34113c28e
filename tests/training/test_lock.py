"""Two trainings into one folder: the second is refused, and names the first."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

from refinedet_tf.errors import InputError
from refinedet_tf.training.lock import RunLock

pytestmark = pytest.mark.story

HOLDER = """
import sys, time
from pathlib import Path
from refinedet_tf.training.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def in_use(folder):
    with pytest.raises(InputError) as raised, RunLock(folder):
        pass
    return str(raised.value)


def owner(**changes):
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": "today", **changes})


def test_a_lock_is_held_as_long_as_the_context_lasts(tmp_path):
    with RunLock(tmp_path):
        facts = json.loads((tmp_path / ".lock").read_text())
        assert (facts["host"], facts["process"]) == (socket.gethostname(), os.getpid())
        expected = (
            rf"{re.escape(str(tmp_path))} is in use by another training \(process {os.getpid()} on "
            rf"{re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\): "
            "wait for its end, stop it, or name another --output"
        )
        assert re.fullmatch(expected, in_use(tmp_path))
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path):
        pass


def test_a_folder_is_made_when_the_lock_is_taken(tmp_path):
    folder = tmp_path / "runs" / "first"
    with RunLock(folder) as lock:
        assert not folder.parent.exists()
        lock.take()
        lock.take()
        assert (folder / ".lock").exists() and "is in use" in in_use(folder)
    assert list(folder.iterdir()) == []


def test_workers_that_leave_no_files_lock_nothing(tmp_path):
    with RunLock(tmp_path, needed=False) as lock:
        lock.take()
        assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_no_lock(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert f"(process {holder.pid} on " in in_use(tmp_path)
        finally:
            holder.kill()
    assert (tmp_path / ".lock").exists()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"process": 7}', "\0" * 50, '{"host": 1, "process": [], "since": 0}']
)
def test_damaged_lock_files(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_lock_without_a_readable_owner(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"{tmp_path} is in use by another training: wait" in in_use(tmp_path)


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_something_else_in_the_place_of_the_file(tmp_path, put):
    put(tmp_path / ".lock")
    assert f"{tmp_path} cannot be written: " in in_use(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_another_process_removes_meanwhile(tmp_path, monkeypatch):
    """The lock of a file that has lost its name protects nothing, so that it is taken again."""
    flock, calls = fcntl.flock, []

    def remove_first(handle, operation):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(operation)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with RunLock(tmp_path):
        assert len(calls) == 2
        monkeypatch.setattr(fcntl, "flock", flock)
        assert "is in use" in in_use(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Only a process that lives on this machine is recognised."""

    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    file = tmp_path / ".lock"
    for text in (owner(host="elsewhere", process=os.getppid()), owner(process=2**22 + 1), owner(process=-1)):
        file.write_text(text)
        with RunLock(tmp_path):
            assert json.loads(file.read_text())["process"] == os.getpid()
        assert not file.exists()
    file.write_text(owner(process=os.getppid()))
    assert f"(process {os.getppid()} on {socket.gethostname()}, since today)" in in_use(tmp_path)
