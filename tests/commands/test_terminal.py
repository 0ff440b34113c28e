"""How a command ends: errors as one line and an exit code."""

import errno
import sys

import numpy as np
import pytest
from tiers import slow

from refinedet_tf.commands import terminal
from refinedet_tf.errors import InputError, TrainingStopped


def fail_with(error):
    def main(_):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("file x:\n  is wrong"), 2, "error: file x: is wrong"),
        (TrainingStopped("step 3: loss is nan"), 1, "error: step 3: loss is nan"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.png"),
            1,
            "error: a.png: No space left on device",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as stopped:
        terminal.run(fail_with(error))
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


def allocate_in_tensorflow(_):
    import tensorflow as tf

    tf.zeros([2**45])


@pytest.mark.parametrize(
    "main", [slow(allocate_in_tensorflow), lambda _: np.zeros(2**45), fail_with(MemoryError())]
)
def test_exhausted_memory_is_one_line(capfd, main):
    with pytest.raises(SystemExit) as stopped:
        terminal.run(main)
    assert stopped.value.code == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: out of memory; smaller images or batches need less (")
    assert len(line) < 300


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        terminal.run(fail_with(ZeroDivisionError()))
    with pytest.raises(OSError, match="strange"):
        terminal.run(fail_with(OSError(errno.EIO, "strange")))


def test_a_failing_import_shows_what_was_printed(monkeypatch, tmp_path, capfd):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'missing library\\n')\nraise ImportError('no')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="no"):
        terminal.import_tensorflow()
    assert capfd.readouterr().err == "missing library\n"
