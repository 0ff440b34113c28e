"""The wait until all workers are up, which comes before TensorFlow connects them.

TensorFlow holds Python's lock while it waits for another machine: no line could say whom it waits for, no
signal would end it, and it waits for an hour.
"""

import errno
import socket
import time

from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.training.cluster import Cluster, Task

FIRST_WORD, NEXT_WORD = 5.0, 30.0
"""The seconds until the first line that says whom a worker waits for, and from one such line to the next."""

ANSWER_SECONDS = 5.0
"""The longest time for a connection."""


def wait_for_all(cluster: Cluster, seconds: float) -> None:
    """Holds the port of this task open, until the port of every other task was open once.

    Args:
        cluster: the tasks.
        seconds: the longest waiting.

    Raises:
        InputError: the port of this task is in use, or may not be used.
        TrainingStopped: a worker did not come up in time.
    """
    start = time.monotonic()
    next_word = start + FIRST_WORD
    missing = [task for task in cluster.tasks if task != cluster.task]
    with _listen(cluster.task):
        while missing := [task for task in missing if not _is_up(task)]:
            now = time.monotonic()
            names = ", ".join(map(str, missing))
            if now > start + seconds:
                raise TrainingStopped(
                    f"{names} did not come up within {seconds:g} s (training.wait_for_workers); "
                    "start all workers again"
                )
            if now > next_word:
                next_word = now + NEXT_WORD
                print(f"waiting for {names}", flush=True)
            time.sleep(0.2)


def _listen(task: Task) -> socket.socket:
    """Opens the port of this task, which TensorFlow takes over later."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", task.port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        reason = "it is in use on this machine" if used else error.strerror
        raise InputError(f"TF_CONFIG: the port of {task} cannot be used: {reason}") from None


def _is_up(task: Task) -> bool:
    """Says whether somebody answers at the address of a task."""
    try:
        with socket.create_connection((task.host, task.port), ANSWER_SECONDS) as connection:
            # A call to a free port of this machine may answer itself.
            return bool(connection.getsockname() != connection.getpeername())
    except (OSError, UnicodeError):
        return False  # The name of a machine may be unknown until it is up.
