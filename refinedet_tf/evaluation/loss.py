"""The loss on the images of an evaluation, which says whether a network still learns or only remembers."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import PaddedObjects
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.losses import COUNTS, TERMS, loss_sums, normalize
from refinedet_tf.tensors import Heads, Tensor

NAMES = (*TERMS, *COUNTS)
"""The order of the sums."""


class LossSums:
    """The sums of the loss over batches of images, computed from the heads that detection needs as well.

    The images are not augmented and BatchNorm uses its moving statistics. The sums of all images are divided
    by the numbers of positives of all images, so that the loss does not depend on the batches.

    Attributes:
        totals: float64 [7], the sums so far, in the order of `NAMES`.
    """

    def __init__(self, config: Config, dataset: DetectionDataset, image_size: tuple[int, int]) -> None:
        """Prepares the objects that training would use.

        The image size is (height, width) in pixels of the network's input.
        """
        self.totals = np.zeros(len(NAMES))
        self._objects = PaddedObjects(dataset, config)
        self._anchors = tile_anchors(image_size, config.model.anchors)
        self._config = config
        self._sums_of: Callable[[Heads, Tensor, Tensor], tf.Tensor] | None = None

    def restart(self) -> None:
        """Begins new sums."""
        self.totals = np.zeros(len(NAMES))

    def add(self, heads: Heads, image_indices: np.ndarray) -> None:
        """Adds a batch.

        Args:
            heads: the heads of the batch, as `build_model` describes them.
            image_indices: int64 [B], the images of the batch.
        """
        if self._sums_of is None:
            self._sums_of = self._compiled_for(heads)
        boxes, labels = self._objects.of(image_indices)
        self.totals += self._sums_of(heads, tf.constant(boxes), tf.constant(labels)).numpy()

    def _compiled_for(self, heads: Heads) -> Callable[[Heads, Tensor, Tensor], tf.Tensor]:
        """Compiles the loss once for all numbers of images and of objects, for heads like the given ones."""
        heads_spec = {
            name: tf.TensorSpec([None, *head.shape[1:]], head.dtype) for name, head in heads.items()
        }
        boxes_spec, labels_spec = tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.int32)

        @tf.function(input_signature=[heads_spec, boxes_spec, labels_spec])
        def sums_of(heads: Heads, boxes: Tensor, labels: Tensor) -> tf.Tensor:
            sums = loss_sums(heads, {"boxes": boxes, "labels": labels}, self._anchors, self._config)
            return tf.stack([sums[name] for name in NAMES])

        return sums_of


def loss_terms(totals: Sequence[float], config: Config) -> dict[str, float]:
    """Returns the loss terms by name, whose sum is the loss, of sums in the order of `NAMES`."""
    sums = dict(zip(NAMES, totals, strict=True))
    terms = normalize(sums, {name: sums[name] for name in COUNTS}, config)
    return {name: float(terms[name]) for name in TERMS}
