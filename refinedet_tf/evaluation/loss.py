"""The loss on the images of an evaluation, which says whether a network still learns or only remembers."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import PaddedObjects
from refinedet_tf.losses import COUNTS, TERMS, loss_sums, normalize
from refinedet_tf.tensors import Heads

NAMES = (*TERMS, *COUNTS)
"""The order of the sums."""


class LossSums:
    """The sums of the loss over batches of images, computed from the heads that detection needs as well.

    The images are not augmented and BatchNorm uses its moving statistics. The sums of all images are divided
    by the numbers of positives of all images, so that the loss does not depend on the batches.

    Attributes:
        totals: float64 [6], the sums so far, in the order of `NAMES`.
    """

    def __init__(self, config: Config, dataset: DetectionDataset, image_size: tuple[int, int]) -> None:
        """Prepares the objects.

        Args:
            config: `model`, `loss` and `data` are used. The objects are those that training would use.
            dataset: the images and their objects.
            image_size: (height, width) in pixels of the network's input.
        """
        self.totals = np.zeros(len(NAMES))
        self._objects = PaddedObjects(dataset, config)
        anchors = tile_anchors(image_size, config.model.anchors)

        @tf.function(reduce_retracing=True)
        def sums_of(heads: Heads, boxes: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            sums = loss_sums(heads, {"boxes": boxes, "labels": labels}, anchors, config)
            return tf.stack([sums[name] for name in NAMES])

        self._sums_of = sums_of

    def add(self, heads: Heads, image_indices: np.ndarray) -> None:
        """Adds a batch.

        Args:
            heads: the heads of the batch, as `build_model` describes them.
            image_indices: int64 [B], the images of the batch.
        """
        boxes, labels = self._objects.of(image_indices)
        self.totals += self._sums_of(heads, tf.constant(boxes), tf.constant(labels)).numpy()


def loss_terms(totals: Sequence[float]) -> dict[str, float]:
    """Returns the loss terms by name, whose sum is the loss, of sums in the order of `NAMES`."""
    sums = dict(zip(NAMES, totals, strict=True))
    terms = normalize(sums, {name: sums[name] for name in COUNTS})
    return {name: float(terms[name]) for name in TERMS}
