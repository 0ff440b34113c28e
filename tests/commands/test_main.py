"""The command `refinedet` with its commands, and the names that two of them had before."""

import json
import subprocess
import sys

import pytest

import refinedet_tf
from refinedet_tf.commands import main as refinedet


@pytest.fixture
def ended(capsys):
    """Runs `refinedet` with arguments that make it end at once -> exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            refinedet.main(list(arguments))
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def test_help_lists_every_command(ended):
    code, out, err = ended("--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: refinedet ")
    described = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    for name, (_, what) in refinedet.COMMANDS.items():
        assert [name, what] in described


def test_version(ended):
    assert ended("--version") == (0, f"refinedet {refinedet_tf.__version__}\n", "")


@pytest.mark.parametrize("name", refinedet.COMMANDS)
def test_help_of_every_command(ended, name):
    code, out, err = ended(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: refinedet {name} [-h]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        ([], "the following arguments are required: COMMAND"),
        (["--config", "voc320.json"], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_command(ended, arguments, message):
    code, out, err = ended(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_command_gets_the_other_arguments(ended):
    code, _, err = ended("generate-shapes", "--sede", "3")
    assert code == 2
    assert "refinedet generate-shapes: error: " in err


def python_module(name, *arguments):
    """Runs `python -m NAME`, which must succeed, and returns what it printed."""
    process = subprocess.run(
        [sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_package_runs_as_a_module():
    assert python_module("refinedet_tf", "--version") == f"refinedet {refinedet_tf.__version__}\n"


def test_former_name_of_generate_shapes(tmp_path):
    root = tmp_path / "set"
    sizes = ["--train", "1", "--val", "1", "--test", "1"]
    printed = python_module("refinedet_tf.data.shapes", str(root), *sizes, "--seed", "4")
    assert printed == f"{root}: 1 images for train, 1 images for val, 1 images for test, seed 4\n"
    assert json.loads((root / "shapes.json").read_text())["seed"] == 4
    images = sorted(path.name for path in (root / "VOC2007" / "JPEGImages").iterdir())
    assert images == ["test_000000.jpg", "train_000000.jpg", "val_000000.jpg"]


def test_former_name_of_subset_classes():
    printed = python_module("refinedet_tf.weights.class_subset", "--help")
    assert "--target FILE" in printed
    assert "--map TARGET=TRAINED" in printed
