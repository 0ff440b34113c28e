"""The other processes of a training or evaluation on several machines: their values, errors and losses.

Everything goes through the collective operations of TensorFlow, which fail on all workers when one is lost.
"""

import contextlib
import faulthandler
import json
import re
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from refinedet_tf.errors import InputError, TrainingStopped, shortened_text
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.cluster import Cluster, wait_for_all

START_SECONDS = 120.0
"""The longest time for the start of TensorFlow's cluster, which TensorFlow itself limits to an hour."""

LAST_WORD_SECONDS = 60.0
"""The longest time in which the other workers take the error of this one."""

RESTART = "restart all workers with --resume"
"""What to do when a training has lost a worker."""

_REMOTE_TASK = re.compile(r"(?:reported from|remote target) /job:(\w+)(?:/replica:\d+)?/task:(\d+)")
"""Where TensorFlow names the task that it has lost."""


class Workers:
    """All workers of a training or evaluation, seen from one of them; without a cluster it is the only one.

    As a context it waits for the others and starts TensorFlow's cluster, which must come before the first
    operation of TensorFlow. At its end, an `InputError` or `TrainingStopped` of this worker is told to the
    others, and TensorFlow's error for a lost worker becomes one line.

    Args:
        cluster: the tasks, or None for a single process.
        seconds: the longest waiting for the other workers.
        remedy: what to do when a worker is lost, for the message.

    Attributes:
        names: the names of all workers.
        index: the place of this worker in `names`; 0 is the chief.
        alone: whether there is no other worker.
        strategy: the strategy of the cluster; None without a cluster.

    Raises:
        InputError: the port of this task cannot be used.
        TrainingStopped: a worker did not come up in time, or was lost.
    """

    def __init__(self, cluster: Cluster | None, seconds: float = 600.0, remedy: str = RESTART) -> None:
        self.cluster, self.seconds, self.remedy = cluster, seconds, remedy
        self.names = [task.name for task in cluster.tasks] if cluster else ["this process"]
        self.index = cluster.index if cluster else 0
        self.alone = len(self.names) == 1
        self.strategy: tf.distribute.Strategy | None = None
        self._others_listen = True
        """Whether the next collective operation of the others is a `gather`, which would take an error."""

    def __enter__(self) -> "Workers":
        if self.cluster is None:
            return self
        if self.cluster not in _STARTED:
            wait_for_all(self.cluster, self.seconds)
            try:
                with _ending_after(START_SECONDS):
                    strategy = tf.distribute.MultiWorkerMirroredStrategy()
            except tf.errors.OpError as error:
                raise self._translated(error) from None
            _STARTED[self.cluster] = strategy, _gathering_function(strategy, len(self.names))
        self.strategy, self._all_gather = _STARTED[self.cluster]
        return self

    def exchange(self, value: Any) -> list[Any]:
        """Gives a value that JSON can hold to all workers, which must call it equally often.

        Returns:
            The values of all workers in the order of `names`.

        Raises:
            InputError, TrainingStopped: another worker ended with that error.
            TrainingStopped: a worker was lost.
        """
        return [json.loads(there) for there in self.gather(json.dumps(value).encode())]

    def gather(self, data: bytes) -> list[bytes]:
        """Does what `exchange` does with bytes of any length."""
        if self.alone:
            return [data]
        try:
            everywhere = self._send(data)
        except tf.errors.OpError as error:
            self._others_listen = False
            raise self._translated(error) from None
        for name, (code, there) in zip(self.names, everywhere, strict=True):
            if code:
                self._others_listen = False  # They know of this error.
                kind = InputError if code == InputError.exit_code else TrainingStopped
                raise kind(f"{name} ended: {there.decode()}")
        return [there for _, there in everywhere]

    @contextlib.contextmanager
    def stepping(self, is_stepping: bool = True) -> Iterator[None]:
        """Marks a block in which the next collective operation is that of a training step (or a `gather`).

        An error before a step is not told to the others, who could not take it; they lose this worker.
        """
        before, self._others_listen = self._others_listen, not is_stepping
        yield
        self._others_listen = before  # An error leaves it as it was inside.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alone:
            return
        if isinstance(error, InputError | TrainingStopped) and self._others_listen:
            with contextlib.suppress(tf.errors.OpError), _ending_after(LAST_WORD_SECONDS):
                text = shortened_text(" ".join(str(error).split()), 2_000)
                self._send(text.encode(), error.exit_code)
        if isinstance(error, tf.errors.OpError) and (translated := self._translated(error)) is not error:
            raise translated from None

    def _send(self, data: bytes, code: int = 0) -> list[tuple[int, bytes]]:
        """Gives bytes and the exit code of an error, or 0, to all workers; returns those of all workers."""
        words = np.frombuffer(data + bytes(-len(data) % 8), np.int64)
        joined = self._all_gather(tf.constant(np.concatenate([[len(data), code], words]))).numpy()
        everywhere, place = [], 0
        for _ in self.names:
            length, code = joined[place : place + 2].tolist()
            end = place + 2 + -(-length // 8)
            everywhere.append((code, joined[place + 2 : end].tobytes()[:length]))
            place = end
        return everywhere

    def _translated(self, error: tf.errors.OpError) -> Exception:
        """Returns the error for a lost worker; the given one where TensorFlow has another reason."""
        text = str(error)
        losses = ("Collective ops is aborted", "remote target", "Coordination")
        if self.cluster is None or not any(word in text for word in losses):
            return error
        named = [f"{kind}:{index}" for kind, index in _REMOTE_TASK.findall(text)[:1]]
        others = [task for task in self.cluster.tasks if task.name != self.names[self.index]]
        lost = [str(task) for task in others if task.name in named] or ["another worker"]
        return TrainingStopped(f"{lost[0]} was lost; {self.remedy}")


_STARTED: dict[Cluster, tuple[tf.distribute.Strategy, Callable[[Tensor], Tensor]]] = {}
"""What belongs to TensorFlow's cluster, which lasts as long as the process."""


def _gathering_function(strategy: tf.distribute.Strategy, num_workers: int) -> Callable[[Tensor], Tensor]:
    """Compiles the function that joins int64 [n] of all workers, where n >= 1 is that of each worker.

    TensorFlow finds the same operation of other workers by the order in which all are traced, so that this
    must be the first one.
    """
    per_worker = strategy.num_replicas_in_sync // num_workers

    def join(words: Tensor) -> Tensor:
        replica = tf.distribute.get_replica_context()
        # One replica of each worker gives all; the others give nothing.
        is_first = replica.replica_id_in_sync_group % per_worker == 0
        return replica.all_gather(words[: tf.where(is_first, tf.size(words), 0)], axis=0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
    def on_all(words: Tensor) -> Tensor:
        return strategy.experimental_local_results(strategy.run(join, args=(words,)))[0]

    return on_all


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """Ends this process with exit code 1 if the block takes longer.

    No thread of Python can run while TensorFlow starts its cluster, so a thread without Python ends it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
