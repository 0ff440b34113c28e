"""The command `refinedet` with its commands, and the names that two of them had before."""

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


def test_package_runs_as_a_module():
    command = [sys.executable, "-m", "refinedet_tf", "--version"]
    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert process.stdout == f"refinedet {refinedet_tf.__version__}\n"
