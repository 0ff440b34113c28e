"""How a command starts and ends: a quiet TensorFlow, and errors as one line instead of a traceback."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

# TensorFlow reads these when it is first imported, which every command does after this module. What it
# logs below "fatal" comes as an exception too, if it matters.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from refinedet_tf.errors import InputError, TrainingStopped

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What a disk may refuse at any write; a traceback would say no more than one line."""


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that it prints while it loads, which no log level silences.

    They would stand before the one line of an error. If the import fails, they are shown.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake ends in one line on stderr and exit code 2."""
    try:
        main(arguments)
    except (InputError, TrainingStopped) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
