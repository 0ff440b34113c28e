"""How a command starts and ends: a quiet TensorFlow, and errors as one line instead of a traceback."""

import contextlib
import errno
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

# TensorFlow reads these when it is first imported, which every command does after this module. What it
# logs below "fatal" comes as an exception too, if it matters.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from refinedet_tf.commands.streams import protect_streams
from refinedet_tf.errors import InputError, TrainingStopped, shortened_text


class Terminated(BaseException):
    """The process was told to end; it derives from BaseException, so that only `run` catches it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What ends a process at once unless it is handled; nothing would remove half-written folders then."""

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
    protect_streams()
    try:
        with _cleaning_up_when_terminated():
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
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        reason = shortened_text((str(error).splitlines() or ["no memory is left"])[0], 200)
        print(f"error: out of memory; smaller images or batches need less ({reason})", file=sys.stderr)
        sys.exit(1)
    except Terminated as error:
        print(f"stopped by {error}", file=sys.stderr)
        sys.exit(128 + error.number)


def _is_out_of_memory(error: Exception) -> bool:
    """Says whether Python, NumPy or TensorFlow could not get the memory that it asked for."""
    if isinstance(error, MemoryError):
        return True
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.ResourceExhaustedError)


@contextlib.contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    """Turns signals that would end the process at once into an exception, so that `finally` blocks run.

    A signal that the process was started to ignore, as `nohup` does, stays ignored. The training loop
    handles signals by itself as long as it runs.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number))

    replaced = []
    if threading.current_thread() is threading.main_thread():
        replaced = [number for number in END_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)
