"""The start of work on several machines: the chief waits until every other worker has called."""

import contextlib
import errno
import socket
import time

from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.training.cluster import Cluster, Task
from refinedet_tf.training.link import Link, LinkBroken

FIRST_WORD, NEXT_WORD = 5.0, 30.0
"""The seconds until the first line that says whom a worker waits for, and from one such line to the next."""

ANSWER_SECONDS = 5.0
"""The longest time for a connection and for its first message."""


def listen(cluster: Cluster) -> socket.socket:
    """Takes the port of this task, which TensorFlow takes over later.

    Raises:
        InputError: the port is in use, or may not be used.
    """
    port = cluster.task.port
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        reason = "it is in use on this machine" if used else error.strerror
        raise InputError(f"TF_CONFIG: the port of {cluster.task} cannot be used: {reason}") from None


class _Patience:
    """Says from time to time whom this worker waits for, and ends the waiting."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds
        self.next_word = time.monotonic() + FIRST_WORD

    def check(self, missing: list[str]) -> bool:
        """Prints the missing workers where it is time to.

        Returns:
            Whether it did.

        Raises:
            TrainingStopped: the waiting took too long.
        """
        now = time.monotonic()
        if now > self.end:
            raise TrainingStopped(
                f"{', '.join(missing)} did not come up within {self.seconds:g} s "
                "(training.wait_for_workers); start all workers again"
            )
        if now < self.next_word:
            return False
        self.next_word = now + NEXT_WORD
        say_missing(missing)
        return True


def say_missing(missing: list[str]) -> None:
    """Prints whom this worker waits for."""
    print(f"waiting for {', '.join(missing)}", flush=True)


def gather(cluster: Cluster, listener: socket.socket, seconds: float) -> dict[int, Link]:
    """Waits, on the chief, for the calls of all other workers.

    Args:
        cluster: the tasks, of which this is the chief.
        listener: the result of `listen`.
        seconds: the longest waiting.

    Returns:
        The connection to each other task by its index.

    Raises:
        TrainingStopped: a worker did not come up in time.
        InputError: a worker has another TF_CONFIG, or two processes are the same task.
        InputError, TrainingStopped: a worker has ended with that error before it was ready. In all cases
            the workers that have called end with the same message.
    """
    links: dict[int, Link] = {}
    patience = _Patience(seconds)
    listener.settimeout(0.2)
    try:
        while True:
            for index in [index for index, link in links.items() if link.is_closed()]:
                links.pop(index).close()  # It died while it waited; it may come back.
            missing = [str(task) for index, task in enumerate(cluster.tasks) if index and index not in links]
            if not missing:
                break
            if patience.check(missing):
                for link in links.values():
                    link.send("waiting", missing=missing)
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                _welcome(cluster, Link(connection), links)
    except (TrainingStopped, InputError) as error:
        for link in links.values():
            link.send("end", text=str(error), code=error.exit_code)
            link.end(ANSWER_SECONDS)
        raise
    for link in links.values():
        link.send("go")
    return links


def _welcome(cluster: Cluster, link: Link, links: dict[int, Link]) -> None:
    """Adds a caller to the links if it is a worker of this cluster."""
    try:
        message = link.receive(ANSWER_SECONDS)
        index, addresses = message["index"], message["addresses"]
    except (TimeoutError, LinkBroken, KeyError):
        link.close()  # Something else has called, such as a scanner of ports.
        return
    is_index = isinstance(index, int) and 0 < index < len(cluster.tasks)
    if message["kind"] == "failed" and addresses == _addresses(cluster) and is_index:
        link.close()
        error_type = InputError if message.get("code") == InputError.exit_code else TrainingStopped
        raise error_type(f"{cluster.tasks[index].name} ended: {message.get('text')}")
    if addresses != _addresses(cluster):
        name = cluster.tasks[index].name if is_index else "a worker"
        text = f"TF_CONFIG of {name} lists another cluster than that of {cluster.task.name}"
    elif not is_index or index in links:
        text = f"two processes call themselves {cluster.tasks[index] if is_index else index} in TF_CONFIG"
    else:
        links[index] = link
        return
    link.send("end", text=text, code=InputError.exit_code)
    link.end(ANSWER_SECONDS)
    raise InputError(text)


def call(cluster: Cluster, seconds: float) -> Link:
    """Calls the chief, and waits until all workers have done so.

    Args:
        cluster: the tasks, of which this is not the chief.
        seconds: the longest waiting.

    Returns:
        The connection to the chief.

    Raises:
        TrainingStopped: a worker did not come up in time.
        InputError: the chief refuses this worker or another one.
    """
    patience = _Patience(seconds)
    chief = cluster.tasks[0]
    while True:
        patience.check([str(chief)])
        link = _connect(chief)
        if link is None:
            time.sleep(0.2)
            continue
        link.send("hello", index=cluster.index, addresses=_addresses(cluster))
        try:
            _wait_for_go(link, patience, chief)
            return link
        except LinkBroken:
            link.close()
            time.sleep(0.2)
        except BaseException:
            link.close()
            raise


def dismiss(listener: socket.socket, text: str, code: int) -> None:
    """Tells the workers that have called, whom the chief has not answered yet, why it ends.

    Args:
        listener: the result of `listen` on the chief.
        text: the error for all workers.
        code: their exit code.
    """
    listener.settimeout(0.0)
    links = []
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            links.append(Link(connection))
    for link in links:
        link.send("end", text=text, code=code)
    for link in links:
        link.end(ANSWER_SECONDS)


def tell_chief(cluster: Cluster, text: str, code: int) -> None:
    """Tells the chief, if its port is open already, that this worker has ended with an error.

    The chief reads it when it waits for the workers. If it is not up yet, nothing is told.

    Args:
        cluster: the tasks, of which this is not the chief.
        text: the error of this worker.
        code: the exit code of all workers.
    """
    link = _connect(cluster.tasks[0])
    if link is not None:
        link.send("failed", index=cluster.index, addresses=_addresses(cluster), text=text, code=code)
        link.finish()
        link.close()


def _wait_for_go(link: Link, patience: _Patience, chief: Task) -> None:
    """Waits for the word of the chief that all workers are there."""
    missing: list[str] | None = None
    while True:
        try:
            message = link.receive(1.0)
        except TimeoutError:
            if missing is None:
                patience.check([str(chief)])
            elif time.monotonic() > patience.end + ANSWER_SECONDS:  # The chief's own end comes first.
                patience.check(missing)
            continue
        if message["kind"] == "go":
            return
        if message["kind"] == "waiting":
            missing = [str(name) for name in message.get("missing", [])]
            say_missing(missing)
        elif message["kind"] == "end":
            error_type = InputError if message.get("code") == InputError.exit_code else TrainingStopped
            raise error_type(str(message.get("text")))
        else:
            raise LinkBroken("this is no chief")


def _connect(task: Task) -> Link | None:
    """Returns a connection, or None if nobody answers there yet."""
    try:
        connection = socket.create_connection((task.host, task.port), ANSWER_SECONDS)
    except (OSError, UnicodeError):
        return None  # The name of a machine may be unknown until it is up.
    if connection.getsockname() == connection.getpeername():
        connection.close()  # A call to a free port of this machine may answer itself.
        return None
    return Link(connection)


def _addresses(cluster: Cluster) -> list[list[str]]:
    return [[task.name, task.address] for task in cluster.tasks]
