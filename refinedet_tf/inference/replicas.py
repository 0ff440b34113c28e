"""The replicas of a network on the devices of this process, which take whole batches in turn.

A batch is never divided: whatever the number of replicas, every image is computed in a batch of the same
images by the same graph, so that its detections are the same bit for bit on devices of one kind.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import tensorflow as tf

from refinedet_tf.inference.compiled_detector import Network

DetectorT = TypeVar("DetectorT")
Batch = TypeVar("Batch")
Result = TypeVar("Result")

BATCHES_PER_REPLICA = 2
"""The batches that wait for or are with a replica, so that it finds the next one when it has finished one."""


@dataclasses.dataclass(frozen=True)
class ReplicaWork:
    """What one replica has done.

    Attributes:
        name: the replica, such as "replica 0", or "worker:1 replica 0" where several machines work.
        images: the number of images that it has detected on.
        seconds: the time that it has worked, with the tracing of its graphs.
    """

    name: str
    images: int
    seconds: float

    def __str__(self) -> str:
        """Returns a text such as "replica 0: 37 images in 12.3 s"."""
        return f"{self.name}: {self.images} images in {self.seconds:.1f} s"


class Replicas(Generic[DetectorT]):
    """One detector per device that holds a copy of the variables of a network.

    A model that was built in the scope of a `tf.distribute.MirroredStrategy` has one copy on each of its
    devices, and a graph that is traced for a device reads the copy there. Any other model has one replica.

    Attributes:
        devices: the names of the devices.
        detectors: the detector of each device.
    """

    def __init__(self, network: Network, make_detector: Callable[[], DetectorT]) -> None:
        """Makes the detectors.

        Args:
            network: the model, whose variables say which devices there are.
            make_detector: makes a detector that is traced when it is first called. It is called once per
                device, and the detector is only used by one thread, which has set that device.
        """
        variable = _distributed(network)
        self.devices = local_devices()[:1] if variable is None else [copy.device for copy in variable.values]
        self._strategy = None if variable is None else variable.distribute_strategy
        self.detectors = [make_detector() for _ in self.devices]
        self.restart()

    def restart(self) -> None:
        """Forgets what each replica has done."""
        self._images = [0] * len(self.devices)
        self._seconds = [0.0] * len(self.devices)

    @property
    def work(self) -> tuple[ReplicaWork, ...]:
        """What each replica has done so far."""
        counts = zip(self._images, self._seconds, strict=True)
        return tuple(ReplicaWork(f"replica {number}", *count) for number, count in enumerate(counts))

    def run(
        self, batches: Iterable[Batch], detect: Callable[[DetectorT, Batch], Sequence[Result]]
    ) -> Generator[tuple[Batch, Sequence[Result]], None, None]:
        """Detects on every batch, number k on replica k modulo the number of replicas.

        Every replica has a thread of its own, and `batches` is read in the thread of the caller, at most
        `BATCHES_PER_REPLICA` per replica ahead. If the caller closes the generator, the batches in
        progress are finished and the others are given up.

        `detect` takes a detector and a batch, and returns one result per image of the batch.

        Yields:
            Each batch and its results, in the order of the batches.
        """
        count = len(self.devices)
        threads = [ThreadPoolExecutor(1, f"replica-{number}") for number in range(count)]
        waiting: deque[tuple[Batch, Future[Sequence[Result]]]] = deque()
        try:
            for number, batch in enumerate(batches):
                replica = number % count
                future = threads[replica].submit(self._detect, replica, batch, detect)
                waiting.append((batch, future))
                if len(waiting) == BATCHES_PER_REPLICA * count:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for thread in threads:
                thread.shutdown(wait=False, cancel_futures=True)
            for thread in threads:
                thread.shutdown()

    def _detect(
        self, replica: int, batch: Batch, detect: Callable[[DetectorT, Batch], Sequence[Result]]
    ) -> Sequence[Result]:
        """Detects on one batch; it runs in the thread of the replica."""
        start = time.perf_counter()
        # In the scope of the strategy, and nowhere else, a graph reads the copy of its own device.
        scope = self._strategy.scope() if self._strategy is not None else contextlib.nullcontext()
        with scope, tf.device(self.devices[replica]):
            results = detect(self.detectors[replica], batch)
        self._images[replica] += len(results)
        self._seconds[replica] += time.perf_counter() - start
        return results


def local_devices() -> list[str]:
    """Lists the devices of this process that compute: all GPUs or, without a GPU, the logical CPU devices."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    # Where several machines work, TensorFlow lists the devices of all, those of this process first.
    this_process = devices[0].name.partition("/device:")[0]
    return [device.name for device in devices if device.name.startswith(f"{this_process}/device:")]


def _distributed(network: Network) -> tf.distribute.DistributedValues | None:
    """Returns a variable of a model that was built in the scope of a strategy; None of any other network."""
    for variable in getattr(network, "variables", ()):
        if isinstance(variable.value, tf.distribute.DistributedValues):
            return variable.value
    return None
