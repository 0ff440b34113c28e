"""The other processes of a training or evaluation on several machines: their values, ends and losses.

Every worker keeps a connection to the chief besides those of TensorFlow. TensorFlow's collective operations
wait for ever, or fail with many lines, when a worker is gone; this connection says which one and why.
"""

import base64
import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import tensorflow as tf

from refinedet_tf.errors import InputError, TrainingStopped, first_line, shortened, shortened_text
from refinedet_tf.training.cluster import Cluster
from refinedet_tf.training.link import Link, LinkBroken
from refinedet_tf.training.meeting import call, dismiss, gather, listen, tell_chief

ALIVE_SECONDS = 1.0
"""The time from one sign of life to the next."""

LOST_SECONDS = 30.0
"""A worker without a sign of life for this long is lost. One whose process ends is lost at once."""

START_SECONDS = 120.0
"""The longest time for the start of TensorFlow's cluster, during which a process gives no sign of life:
TensorFlow holds Python's lock there."""

GRACE_SECONDS = 10.0
"""The time in which a process may end in its own way after another worker has said that it ends."""

PART_BYTES = 2**20
"""The length of the parts in which bytes are given to the chief; a message of this length is well below
`link.MAX_BYTES`, and takes less time than there is between signs of life."""

RESTART = "restart all workers with --resume"
"""What to do when a training has lost a worker."""


class Workers:
    """All workers of a training or evaluation, seen from one of them; without a cluster it is the only one.

    As a context it takes the port of this task at its start, and at its end it tells the other workers how
    this one ended. From `meet` on, a thread ends this process with one line and exit code 1 if another
    worker is lost.

    Args:
        cluster: the tasks, or None for a single process.
        remedy: what to do when a worker is lost, for the message.
    """

    def __init__(self, cluster: Cluster | None, remedy: str = RESTART) -> None:
        self.cluster = cluster
        self.remedy = remedy
        self.names = [task.name for task in cluster.tasks] if cluster else ["this process"]
        self.index = cluster.index if cluster else 0
        self.alone = len(self.names) == 1
        self.told_to_stop = False
        """Whether any worker has said that it was told to stop."""
        self.links: dict[int, Link] = {}
        self.is_meeting = False
        """Whether `meet` was called, so that all workers know of an error there."""
        self.gone: set[int] = set()
        self.left = False
        self.failure: InputError | TrainingStopped | None = None
        self.news = threading.Condition()
        self.number = 0
        self.values: dict[int, dict[int, Any]] = {}
        self.answers: dict[int, list[Any]] = {}
        self.parts: dict[tuple[int, int], list[bytes]] = {}

    def __enter__(self) -> "Workers":
        self.listener = listen(self.cluster) if self.cluster else None
        return self

    def meet(self, seconds: float) -> None:
        """Waits until all workers are there.

        Args:
            seconds: the longest waiting.

        Raises:
            TrainingStopped: a worker did not come up in time.
            InputError: the workers have different clusters in TF_CONFIG.
        """
        if self.cluster is None or self.listener is None:
            return
        self.is_meeting = True
        if self.index == 0:
            self.links = gather(self.cluster, self.listener, seconds)
        else:
            self.links = {0: call(self.cluster, seconds)}
        self.listener.close()
        for index, link in self.links.items():
            threading.Thread(target=self._listen_to, args=(index, link), daemon=True).start()
        threading.Thread(target=self._show_life, daemon=True).start()

    def exchange(self, value: Any, while_waiting: Callable[[], None] | None = None) -> list[Any]:
        """Gives a value to all workers, and waits for theirs; all workers must call it equally often.

        Args:
            value: anything that JSON can hold.
            while_waiting: is called from time to time until all values are there.

        Returns:
            The values of all workers in the order of `names`.

        Raises:
            InputError, TrainingStopped: another worker ended with that error.
        """
        if self.alone:
            return [value]
        self.number += 1
        if self.index == 0:
            self._collect(0, self.number, value)
        else:
            self.links[0].send("value", number=self.number, value=value)
        with self.news:
            while self.number not in self.answers:
                self.check()
                if while_waiting is not None:
                    while_waiting()
                self.news.wait(0.2)
            return self.answers.pop(self.number)

    def gather_on_chief(self, data: bytes) -> list[bytes]:
        """Gives bytes of any length to the chief; all workers must call it equally often.

        Returns:
            On the chief, the bytes of all workers in the order of `names`; elsewhere an empty list.

        Raises:
            InputError, TrainingStopped: another worker ended with that error.
            TrainingStopped: the bytes of a worker did not arrive whole.
        """
        number = self.number + 1
        if self.index:
            for first in range(0, len(data), PART_BYTES):
                part = base64.b64encode(data[first : first + PART_BYTES])
                self.links[0].send("part", number=number, data=part.decode())
        # The parts come before this value, because they take the same connection.
        lengths = self.exchange(len(data))
        if self.index:
            return []
        others = range(1, len(self.names))
        everywhere = [data, *(b"".join(self.parts.pop((number, index), [])) for index in others)]
        for name, there, length in zip(self.names, everywhere, lengths, strict=True):
            if len(there) != length:
                raise TrainingStopped(
                    f"{len(there)} bytes came from {name} instead of {shortened(length)}; {self.remedy}"
                )
        return everywhere

    def check(self) -> None:
        """Ends long work of this worker when another one has ended with an error.

        Raises:
            InputError, TrainingStopped: that error.
        """
        if self.failure is not None:
            raise self.failure

    @contextlib.contextmanager
    def starting_tensorflow(self) -> Iterator[None]:
        """Lets this process be silent for `START_SECONDS`, and ends it if that is not enough."""
        if self.alone:
            yield
            return
        for link in self.links.values():
            link.send("quiet")
        # No thread of Python can run meanwhile, so the end comes from a thread that needs none.
        faulthandler.dump_traceback_later(START_SECONDS, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            for link in self.links.values():
                link.send("loud")

    def tell_to_stop(self) -> None:
        """Tells all workers that this one was told to stop, so that none finishes long work first."""
        if not self.told_to_stop:
            self.told_to_stop = True
            for link in list(self.links.values()):
                link.send("stop")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_meeting and error is not None:
            self._say_why(error)
        if self.listener is not None:
            self.listener.close()
        if not self.links:
            return
        if isinstance(error, tf.errors.OpError) and not isinstance(error, tf.errors.ResourceExhaustedError):
            self._wait_for_reason()
        self.left = True
        failure = self.failure
        # Another worker has told everybody about its failure by itself.
        text, code = ("", 0) if error is not None and error is failure else self._how_it_ended(error)
        for link in self.links.values():
            link.send("end", index=self.index, text=text, code=code)
            link.finish()
        if failure is not None and isinstance(error, tf.errors.OpError):
            raise failure from None

    def _say_why(self, error: BaseException) -> None:
        """Tells the workers that are up already that this one ends before it has met them."""
        if self.cluster is None or self.listener is None or self.alone:
            return
        text, code = self._how_it_ended(error)
        if self.index == 0:
            dismiss(self.listener, f"{self.names[0]} ended: {text}", code)
        else:
            tell_chief(self.cluster, text, code)

    def _how_it_ended(self, error: BaseException | None) -> tuple[str, int]:
        """Returns one line for the other workers and an exit code for them; 0: they go on by themselves."""
        if error is None:
            return "", 0
        if isinstance(error, InputError | TrainingStopped):
            # Bytes of a file name that are no text become printable, since no message holds them.
            return shortened_text(" ".join(str(error).split()), 2_000), error.exit_code
        text = f"{type(error).__name__}: {first_line(error)}"
        return f"{text}; {self.remedy}", TrainingStopped.exit_code

    def _wait_for_reason(self) -> None:
        """Waits until the other threads know whether another worker is the reason of TensorFlow's error.

        If one is lost, the process ends here.
        """
        end = time.monotonic() + LOST_SECONDS + 2 * ALIVE_SECONDS
        while self.failure is None and time.monotonic() < end:
            time.sleep(0.1)

    def _show_life(self) -> None:
        """Sends signs of life as long as the process lives."""
        while not self.left:
            for link in list(self.links.values()):
                link.send("alive")
            time.sleep(ALIVE_SECONDS)

    def _listen_to(self, index: int, link: Link) -> None:
        """Obeys the messages of one worker until its end, or until one that no worker sends."""
        with contextlib.closing(link):
            with contextlib.suppress(LinkBroken, TimeoutError, KeyError, IndexError, TypeError, ValueError):
                quiet = False
                while True:
                    message = link.receive(START_SECONDS + LOST_SECONDS if quiet else LOST_SECONDS)
                    if message["kind"] in ("quiet", "loud"):
                        quiet = message["kind"] == "quiet"
                    self._obey(index, message)
            if index not in self.gone and not self.left:
                self._end_without(index)

    def _obey(self, sender: int, message: dict[str, Any]) -> None:
        """Acts on a message.

        Raises:
            KeyError, IndexError, TypeError, ValueError: the message lacks something, or is of another kind.
        """
        kind = message["kind"]
        if kind == "value":
            self._collect(sender, message["number"], message["value"])
        elif kind == "part":
            part = base64.b64decode(message["data"])
            self.parts.setdefault((message["number"], sender), []).append(part)
        elif kind == "values":
            with self.news:
                self.answers[message["number"]] = message["values"]
                self.news.notify_all()
        elif kind == "stop":
            self.told_to_stop = True
            self._relay(sender, message)
        elif kind == "end":
            self.gone.add(message["index"])
            self._relay(sender, message)
            if message["code"]:
                self._note_failure(message["index"], message["text"], message["code"])
        elif kind == "lost":
            self._end_without(message["index"])

    def _collect(self, index: int, number: int, value: Any) -> None:
        """Notes a value on the chief, and sends all of them when the last one came."""
        with self.news:
            values = self.values.setdefault(number, {})
            values[index] = value
            if len(values) < len(self.names):
                return
            in_order = [values[position] for position in range(len(self.names))]
            del self.values[number]
        # The others come first: with its own answer, the chief may end and close the links.
        for link in self.links.values():
            link.send("values", number=number, values=in_order)
        with self.news:
            self.answers[number] = in_order
            self.news.notify_all()

    def _relay(self, sender: int, message: dict[str, Any]) -> None:
        """Passes a message of one worker on to the others, which only the chief can do."""
        for index, link in self.links.items() if self.index == 0 else ():
            if index != sender:
                link.send(**message)

    def _note_failure(self, index: int, text: str, code: int) -> None:
        """Notes that another worker ended with an error; this process ends soon, if need be by force."""
        kind = InputError if code == InputError.exit_code else TrainingStopped
        with self.news:
            if self.failure is None:
                self.failure = kind(f"{self.names[index]} ended: {text}")
            self.news.notify_all()

        def end_by_force() -> None:
            time.sleep(GRACE_SECONDS)
            if not self.left:
                _end_process(str(self.failure), kind.exit_code)

        threading.Thread(target=end_by_force, daemon=True).start()

    def _end_without(self, index: int) -> None:
        """Ends this process, and by a message all others, because a worker is lost."""
        for link in self.links.values() if self.index == 0 else ():
            link.send("lost", index=index)
        assert self.cluster is not None
        _end_process(f"{self.cluster.tasks[index]} was lost; {self.remedy}", TrainingStopped.exit_code)


_ENDING = threading.Lock()


def _end_process(text: str, code: int) -> None:
    """Prints an error as the commands do, and ends the process, whose main thread may wait for ever.

    This is safe, because checkpoints and weights are written under another name and renamed.
    """
    with _ENDING:
        os.write(2, f"error: {text}\n".encode())
        os._exit(code)
