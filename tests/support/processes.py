"""Starts the programs of this folder in processes of their own and collects what they print."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def start_program(file, *arguments, **environment):
    """Starts a Python file of this folder in a new process, which prints to pipes.

    Args:
        file: the name of the file.
        arguments: strings, passed on the command line.
        environment: variables that are added to the environment of this process.
    """
    return subprocess.Popen(
        [sys.executable, str(FOLDER / file), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes, seconds=300):
    """Waits for each process and returns its (exit code, stdout, stderr); afterwards none is running."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
