"""The tasks of a training on several machines, as the environment variable TF_CONFIG lists them."""

import dataclasses
import os
import re
from typing import Any

from refinedet_tf.errors import InputError, shortened
from refinedet_tf.json_files import parse_json

TASK_TYPES = ("chief", "worker")
"""The types of tasks that train, in the order in which TensorFlow counts them."""

EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a cluster."""

    name: str
    """The type and the index, such as "worker:1"."""
    address: str
    """host:port, as TF_CONFIG has it."""

    @property
    def host(self) -> str:
        """The name or the number of the machine, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port, 1..65535."""
        return int(self.address.rpartition(":")[2])

    def __str__(self) -> str:
        """Returns the name and the address for a message."""
        return f"{self.name} ({self.address})"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All tasks of a training, and which of them this process is."""

    tasks: tuple[Task, ...]
    """The first one is the chief, which writes the files of the run."""
    index: int
    """The position of this process in `tasks`."""

    @property
    def task(self) -> Task:
        """The task of this process."""
        return self.tasks[self.index]


def read_cluster() -> Cluster:
    """Reads TF_CONFIG.

    The chief is the task of type "chief" if there is one, and otherwise worker 0.

    Raises:
        InputError: TF_CONFIG is missing or not JSON; it lists no workers, more than one chief, a task of
            another type, or an address that is no host:port; the task is not one of those listed.
    """
    try:
        tree = parse_json(os.environ["TF_CONFIG"], "TF_CONFIG")
        addresses = dict(tree["cluster"])
        if not any(name in addresses for name in TASK_TYPES):
            raise KeyError("worker")
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"training.strategy multi_worker: set TF_CONFIG on every machine, such as {EXAMPLE}"
        ) from None
    for name in addresses:
        if name not in TASK_TYPES:
            raise InputError(
                f"TF_CONFIG: cluster lists tasks of type {shortened(name)}; a training has only "
                f"{' and '.join(TASK_TYPES)}"
            )
    tasks = [task for name in TASK_TYPES for task in _tasks(name, addresses.get(name, []))]
    if not tasks:
        raise InputError("TF_CONFIG lists no workers")
    if len(tasks) > 1 and tasks[1].name == "chief:1":
        raise InputError(f"TF_CONFIG: cluster lists {len(addresses['chief'])} chiefs; there must be one")
    listed = [task.address for task in tasks]
    twice = next((address for address in listed if listed.count(address) > 1), None)
    if twice is not None:
        raise InputError(f"TF_CONFIG: cluster lists {twice} twice")
    return Cluster(tuple(tasks), _own_index(tree.get("task"), tasks))


def _tasks(name: str, addresses: Any) -> list[Task]:
    """Returns the tasks of one type, whose addresses must be host:port."""
    if not isinstance(addresses, list):
        raise InputError(f"TF_CONFIG: cluster.{name} must be a list of host:port, got {shortened(addresses)}")
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise InputError(f"TF_CONFIG: cluster.{name}: {shortened(address)} is not an address host:port")
    return [Task(f"{name}:{index}", address) for index, address in enumerate(addresses)]


def _own_index(task: Any, tasks: list[Task]) -> int:
    """Returns the position of the task of this process."""
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        raise InputError(f"TF_CONFIG: task must hold type and index, got {shortened(task)}, as in {EXAMPLE}")
    kind, index = task["type"], task["index"]
    if kind not in TASK_TYPES:
        raise InputError(
            f"TF_CONFIG: task.type {shortened(kind)} does not train; it must be {' or '.join(TASK_TYPES)}"
        )
    if not isinstance(index, int) or isinstance(index, bool):
        raise InputError(f"TF_CONFIG: task.index must be a whole number, got {shortened(index)}")
    names = [task.name for task in tasks]
    if f"{kind}:{index}" not in names:
        count = sum(name.startswith(f"{kind}:") for name in names)
        raise InputError(
            f"TF_CONFIG: task.index {shortened(index)} is out of range: cluster lists {count} of type {kind}"
        )
    return names.index(f"{kind}:{index}")
