"""What the tests of training and of the commands share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest_plugins = ["fidelity", "tensor_assertions"]
"""The fixture `compare`."""

TESTS = Path(__file__).parent

STEPS = 6
"""Of `config_file`, which validates every 3 steps and writes a checkpoint every 4."""


@pytest.fixture(scope="session")
def devkit(tmp_path_factory):
    """A generated VOC devkit: 2007/train with 8 JPEGs, 2007/val with 4, six classes."""
    from refinedet_tf.data.shapes import write_shapes

    root = tmp_path_factory.mktemp("devkit") / "shapes"
    write_shapes(root, {"train": 8, "val": 4})
    return root


@pytest.fixture(scope="session")
def config_file(devkit, tmp_path_factory):
    """A config for `devkit`, with a backbone that `small_network` replaces."""
    tree = {
        "model": {
            "backbone": "mobilenet_v2",
            "width_multiplier": 0.35,
            "tcb_channels": 16,
            "tcb_batch_norm": True,
            "batch_norm_momentum": 0.9,
            "image_size": [64, 64],
        },
        "data": {
            "root": str(devkit),
            "train": ["2007/train"],
            "validation": ["2007/val"],
            "test": ["2007/val"],
        },
        # Of five kernels the graph takes long to build.
        "augmentation": {"random_interpolation": False},
        "training": {
            "steps": STEPS,
            "batch_size": 4,
            "learning_rate": 0.01,
            "milestones": [5],
            "warmup_steps": 2,
            "log_every": 1,
            "checkpoint_every": 4,
            "validate_every": 3,
        },
        "evaluation": {"metric": "voc", "batch_size": 4},
    }
    file = tmp_path_factory.mktemp("config") / "tiny.json"
    file.write_text(json.dumps(tree), encoding="utf-8")
    return file


@pytest.fixture
def small_network(monkeypatch):
    """Swaps the backbone "mobilenet_v2" for a small one."""
    from small_network import BACKBONE, small_backbone

    from refinedet_tf.backbones import BACKBONES

    monkeypatch.setitem(BACKBONES, BACKBONE, small_backbone)


@pytest.fixture
def eagerly(small_network):
    """The small network without graphs, of which tracing takes most of a short run's time."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def command(capsys):
    """Runs a command in this process: `command(train, "--config", ...)` -> code, out, err."""
    from refinedet_tf.commands import terminal

    def run(module, *arguments):
        code = 0
        capsys.readouterr()
        try:
            terminal.run(module.main, [str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must end with exit code 2 and one line on stderr, and returns that line."""

    def run(module, *arguments):
        result = command(module, *arguments)
        assert result.code == 2, result
        (line,) = result.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def start_program(file, *arguments, **environment):
    """Starts a Python file of this folder in a process of its own, which prints to pipes."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / file), *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes, seconds=300):
    """(exit code, stdout, stderr) of each process; none of them outlives this."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="session")
def interrupted(config_file, tmp_path_factory):
    """One run without a stop, and one that SIGTERM and SIGKILL stopped and that was resumed each time.

    Attributes: `undisturbed` and `disturbed`, the run folders; `output`, what the first run printed;
    `killed` and `resumed`, as `finish` gives them, of the process that ended with SIGKILL and the one
    after it; `checkpoints_left`, the names of the folders between the two.
    """
    folder = tmp_path_factory.mktemp("runs")
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    deterministic = ["--set", "training.deterministic=true"]
    arguments = ["--config", str(config_file), *deterministic, "--output"]
    again = [*arguments, str(disturbed), "--resume"]
    runs = [
        {"arguments": [*arguments, str(undisturbed)]},
        {"arguments": [*arguments, str(disturbed)], "signal": "SIGTERM", "after": 2},
        {"arguments": again, "signal": "SIGKILL", "after": 5},
    ]
    first = finish(start_program("training_program.py", json.dumps(runs)))[0]
    left = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    second = finish(start_program("training_program.py", json.dumps([{"arguments": again}])))[0]
    return SimpleNamespace(
        undisturbed=undisturbed,
        disturbed=disturbed,
        output=first[1].partition("exit 0")[0],
        killed=first,
        checkpoints_left=left,
        resumed=second,
    )
