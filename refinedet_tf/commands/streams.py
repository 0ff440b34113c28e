"""Standard output and standard error that never stop a command: what they cannot show, they leave out."""

import errno
import io
import os
import sys
from typing import TextIO

READER_IS_GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has ended, as in `train.py | head -1`, or the terminal was closed."""


class _Descriptor(io.RawIOBase):
    """A file descriptor whose reader may go: what is written later goes nowhere."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data, /) -> int:  # noqa: ANN001 - any buffer
        try:
            return os.write(self._number, data)
        except OSError as error:
            if error.errno not in READER_IS_GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._number)
        os.close(nowhere)
        return len(data)


def protect_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr` for the rest of the process.

    Characters that the encoding of the terminal lacks, and the bytes of a file name that is not UTF-8,
    are printed as escapes. If the reader goes away or the stream was closed from the start, printing does
    nothing. Streams that somebody else has put in their place are left alone.
    """
    # A closed descriptor would be given to the next file that is opened, and TensorFlow's messages would go
    # into that file. `open` returns the lowest number that is free.
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(lowest)
    sys.stdout = _protected(sys.stdout, sys.__stdout__)
    sys.stderr = _protected(sys.stderr, sys.__stderr__)


def _protected(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115 - it stays open
    if stream is not original or isinstance(getattr(stream.buffer, "raw", None), _Descriptor):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(stream.fileno())),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
