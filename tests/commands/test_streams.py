"""Commands in real processes whose terminal goes away, shows few characters, or tells them to end."""

import os
import signal
import subprocess
import sys

import pytest
from processes import FOLDER, ROOT, finish, start_program


def shell(redirection, *arguments, **environment):
    """Runs the program in a shell with redirections and returns what is left of its output."""
    program = f'"{sys.executable}" "{FOLDER / "terminal_program.py"}"'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {' '.join(map(str, arguments))} {redirection}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("redirection", ["| head -1", "2>&1 | head -1", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_work_goes_on_when_nobody_reads(tmp_path, redirection):
    result = shell(redirection, tmp_path / "file")
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "done"
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    if "head" in redirection:
        assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, locale):
    result = shell("2>/dev/null", tmp_path / "file", LC_ALL=locale, PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.splitlines()[7] == "line 7 \\U0001f600 \\udcff"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_half_done(tmp_path, number):
    process = start_program("terminal_program.py", str(tmp_path / "file"), "wait")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    ((code, _, errors),) = finish(process, seconds=120)
    assert (code, errors) == (128 + number, f"stopped by {number.name}\n")
    assert (tmp_path / "file.cleaned").is_file() and not (tmp_path / "file").exists()


def test_nohup_is_obeyed(tmp_path):
    command = [sys.executable, str(FOLDER / "terminal_program.py"), str(tmp_path / "file"), "wait"]
    process = subprocess.Popen(
        ["nohup", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.kill()
    process.communicate()
