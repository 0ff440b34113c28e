"""The detector of an evaluation, which measures its two stages."""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.loss import LossSums
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import Cost
from refinedet_tf.tensors import Heads


class TimedDetector:
    """A compiled detector that measures its two stages.

    Attributes:
        cost: what was counted and measured so far; the seconds are without tracing.
        loss: the loss on the images so far; None where there is no dataset with their objects.
    """

    def __init__(self, model: keras.Model, config: Config, dataset: DetectionDataset | None) -> None:
        self.detector = CompiledDetector(inference_network(model), config)
        self.loss = None if dataset is None else LossSums(config, dataset, self.detector.image_size)
        self.cost = Cost()
        self._is_traced = False

    def restart(self) -> None:
        """Forgets what was measured; the graphs are kept."""
        self.cost = Cost()
        if self.loss is not None:
            self.loss.restart()

    def __call__(
        self, images: tf.Tensor, image_indices: np.ndarray, sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Returns the detections of a batch; `sizes` are those of the images before they were warped."""
        images = tf.identity(images)  # It lies on the device of this replica, and the times leave that out.
        if not self._is_traced:
            self._run(images)  # The times do not include tracing and the choice of kernels.
            self._is_traced = True
        heads, outputs, limits, (network, postprocessing) = self._run(images)
        per_image, per_class = np.count_nonzero(limits, axis=0).tolist()
        self.cost += Cost(
            len(sizes),
            limited=(per_image, per_class),
            seconds=network + postprocessing,
            network_seconds=network,
        )
        if self.loss is not None:
            self.loss.add(heads, image_indices)
        return self.detector.unpack(outputs, sizes)

    def _run(self, images: tf.Tensor) -> tuple[Heads, dict[str, np.ndarray], np.ndarray, tuple[float, float]]:
        """Returns the heads, the results of `postprocess_and_limits`, and the seconds of the two stages."""
        _wait_for(images)
        start = time.perf_counter()
        heads = self.detector.heads(images)
        for head in heads.values():
            _wait_for(head)
        middle = time.perf_counter()
        detections, limits = self.detector.detections_and_limits(heads)
        outputs = {name: value.numpy() for name, value in detections.items()}
        return heads, outputs, limits.numpy(), (middle - start, time.perf_counter() - middle)


def _wait_for(tensor: tf.Tensor) -> None:
    """Waits until a device has computed a tensor, by reading a number of it."""
    _first_number(tensor).numpy()


@tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
def _first_number(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the first number of a tensor, float32 [1].

    It is compiled, because an operation outside of a graph that fails, even at the end of a
    `tf.data.Dataset`, can make slices outside of graphs fail that another thread computes on another
    logical device.
    """
    return tf.reshape(tensor, [-1])[:1]
