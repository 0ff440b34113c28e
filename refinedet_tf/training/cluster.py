"""The tasks of a training on several machines, as TF_CONFIG lists them, and the wait until all are up."""

import dataclasses
import os
import re
import socket
import time
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel

from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.json_files import check_tree, parse_json

EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'

FIRST_WORD, NEXT_WORD = 5.0, 30.0
"""The seconds until the first line that says whom a worker waits for, and from one such line to the next."""

ANSWER_SECONDS = 5.0
"""The longest time for a connection."""


def _check_address(address: str) -> str:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", address)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError("must be an address host:port")
    return address


class _OwnTask(BaseModel, strict=True):
    type: Literal["chief", "worker"]
    index: int


class _TfConfig(BaseModel, strict=True):
    cluster: dict[Literal["chief", "worker"], list[Annotated[str, AfterValidator(_check_address)]]]
    task: _OwnTask


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a cluster."""

    name: str
    """The type and the index, such as "worker:1"."""
    address: str
    """host:port, as TF_CONFIG has it."""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The machine, without the brackets of an IPv6 address, and the port."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def __str__(self) -> str:
        """Returns the name and the address for a message."""
        return f"{self.name} ({self.address})"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All tasks of a training, the chief's first, and the position of this process in them."""

    tasks: tuple[Task, ...]
    index: int


def read_cluster() -> Cluster:
    """Reads TF_CONFIG. The chief is the task of type "chief" if there is one, and otherwise worker 0.

    Raises:
        InputError: TF_CONFIG is missing or not JSON; it lists no workers, more than one chief, a task of
            another type, or an address that is no host:port; the task is not one of those listed.
    """
    if "TF_CONFIG" not in os.environ:
        raise InputError(f"training.strategy multi_worker: set TF_CONFIG on every machine, such as {EXAMPLE}")
    try:
        config = check_tree(parse_json(os.environ["TF_CONFIG"], "TF_CONFIG"), _TfConfig, "TF_CONFIG")
    except InputError as error:
        raise InputError(f"{error}; it must be such as {EXAMPLE}") from None
    tasks = [
        Task(f"{kind}:{index}", address)
        for kind, addresses in sorted(config.cluster.items())
        for index, address in enumerate(addresses)
    ]
    listed = [task.address for task in tasks]
    if len(set(listed)) < len(listed):
        twice = next(address for address in listed if listed.count(address) > 1)
        raise InputError(f"TF_CONFIG: cluster lists {twice} twice")
    if len(config.cluster.get("chief", [])) > 1:
        raise InputError("TF_CONFIG: cluster lists more than one chief")
    own = f"{config.task.type}:{config.task.index}"
    names = [task.name for task in tasks]
    if own not in names:
        raise InputError(f"TF_CONFIG: task {own} is none of those that cluster lists: {', '.join(names)}")
    return Cluster(tuple(tasks), names.index(own))


def wait_for_all(cluster: Cluster, seconds: float) -> None:
    """Holds the port of this task open, until the port of every other task was open once.

    TensorFlow holds Python's lock while it waits for another machine: no line could say whom it waits for, no
    signal would end it, and it waits for an hour.

    Raises:
        InputError: the port of this task is in use, or may not be used.
        TrainingStopped: a worker did not come up within `seconds`.
    """
    start = time.monotonic()
    next_word = start + FIRST_WORD
    own = cluster.tasks[cluster.index]
    missing = [task for task in cluster.tasks if task != own]
    with _listen(own):
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
    address = ("", task.host_and_port[1])
    try:
        return socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(f"TF_CONFIG: the port of {task} cannot be used: {error.strerror}") from None


def _is_up(task: Task) -> bool:
    """Says whether somebody answers at the address of a task."""
    try:
        with socket.create_connection(task.host_and_port, ANSWER_SECONDS) as connection:
            # A call to a free port of this machine may answer itself.
            return bool(connection.getsockname() != connection.getpeername())
    except (OSError, UnicodeError):
        return False  # The name of a machine may be unknown until it is up.
