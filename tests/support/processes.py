"""Starts the programs of this folder in processes of their own and collects what they print."""

import json
import os
import socket
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


def output_without(modules, *arguments, folder, python_path=()):
    """What a Python that cannot import some modules prints to stdout and to stderr.

    Args:
        modules: their names.
        arguments: those of Python.
        folder: where it runs; the modules are hidden by a file there.
        python_path: folders from which it may import.
    """
    hidden = f"import sys\nsys.modules.update(dict.fromkeys({list(modules)}))\n"
    (folder / "sitecustomize.py").write_text(hidden)
    child = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [folder, *python_path]))},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout, child.stderr


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def local_cluster(workers, chief=False):
    """The TF_CONFIG of each task on free ports of this machine, the chief's first."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers + chief)]
    cluster = {"chief": addresses[:1]} if chief else {}
    cluster["worker"] = addresses[chief:]
    tasks = [(kind, index) for kind, there in cluster.items() for index in range(len(there))]
    return [json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}) for kind, index in tasks]


def start_workers(run_lists, tf_configs, *words):
    """Starts `training_program.py` with a list of runs for each of the tasks."""
    return [
        start_program("training_program.py", json.dumps(runs), *words, TF_CONFIG=tf_config)
        for runs, tf_config in zip(run_lists, tf_configs, strict=True)
    ]


def finish(*processes, seconds=900):
    """Waits for each process and returns its (exit code, stdout, stderr); afterwards none is running."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
