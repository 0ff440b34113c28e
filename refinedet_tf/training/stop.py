"""The ways in which a running training is told to stop."""

import os
import signal
import threading
from types import FrameType
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a process that Ctrl-C ended, as shells have it."""


class StopRequest:
    """Turns SIGTERM and SIGINT into a request, which the loop obeys when the step in progress is saved.

    A second SIGINT (Ctrl-C) ends the process at once, also in the middle of a step. This is safe, because
    checkpoints and weights are written under another name and renamed.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested: str | None = None
        """The name of the signal, or None as long as there was none."""
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        try:
            self.before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        except ValueError:
            # This is not the main thread, and only the main thread may handle signals.
            return self
        # Python calls a handler only between two of its instructions, and a step is one of them, so a thread
        # counts the signals: Python writes the number of each to a file as soon as it arrives.
        reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.wakeup_before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.before:
            return
        for number, handler in self.before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.wakeup_before)
        os.close(self.writing)  # This ends the thread.

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name


def _watch(reading: int) -> None:
    """Reads the numbers of signals, one byte each, until the other end is closed."""
    interruptions = 0
    with os.fdopen(reading, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            interruptions += number[0] == signal.SIGINT
            if number[0] == signal.SIGINT and interruptions == 1:
                _say("stopping when this step is saved; Ctrl-C again stops at once")
            if interruptions == 2:
                _say("interrupted")
                os._exit(INTERRUPTED)


def _say(text: str) -> None:
    """Prints a line on stderr without the locks of Python's files, which another thread may hold."""
    os.write(2, f"{text}\n".encode())
