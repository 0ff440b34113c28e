"""The network and its post-processing as one function of a batch: what every use of a trained model runs."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.postprocessing import candidates, postprocess

Network = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
"""float32 [B, height, width, 3], RGB 0..255 -> the heads, as `build_model` describes them."""


class CompiledDetector:
    """Images of the network's size in, detections out; each function is traced once for all batch sizes.

    Attributes:
        image_size: (height, width) in pixels of the network's input.
        class_names: C names, label 1 first.
        heads: the compiled `Network`.
        detections: the heads of a batch -> the dict of `postprocess`.
        candidates: the heads of a batch -> (boxes, scores), see `postprocessing.candidates`.
    """

    def __init__(
        self,
        network: Network,
        config: Config,
        image_size: tuple[int, int] | None = None,
        jit_compile: bool = False,
    ):
        """
        Args:
            network: images to heads, as a graph can hold it; `inference_network` makes it of a model.
            config: `postprocess`, `model.design`, `model.image_size` and the class names are used.
            image_size: (height, width) in pixels; needed only where `model.image_size` is null.
            jit_compile: compile the network with XLA, for each batch size that it meets.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        self.image_size = network_size(config, image_size)
        self.num_classes = config.num_classes
        self.class_names = config.data.classes
        anchors = tile_anchors(self.image_size)
        batch = tf.TensorSpec([None, *self.image_size, 3], tf.float32)
        self.heads = tf.function(network, input_signature=[batch], jit_compile=jit_compile or None)
        self.detections = tf.function(
            lambda heads: postprocess(heads, anchors, config), reduce_retracing=True
        )
        self.candidates = lambda heads: candidates(heads, anchors, config)
        self._whole = tf.function(lambda images: self.detections(self.heads(images)), input_signature=[batch])

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The dict of `postprocess` of images float32 [B, height, width, 3], RGB 0..255."""
        return self._whole(images)

    def unpack(
        self, outputs: Mapping[str, tf.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """The detections of each image of a batch.

        Args:
            outputs: the dict of `postprocess` of a batch of at least as many images.
            image_sizes: (height, width) in pixels of the images that were warped to the network's size.
        """
        batch = {name: np.asarray(value) for name, value in outputs.items()}
        results = []
        for row, (height, width) in enumerate(image_sizes):
            found = slice(int(batch["num_detections"][row]))
            boxes, scores, labels = (
                batch[f"detection_{name}"][row, found] for name in ("boxes", "scores", "classes")
            )
            labels = labels.astype(np.int32)
            results.append(ImageDetections(boxes, scores, labels, self.class_names, (height, width)))
        return results


def inference_network(model: keras.Model) -> Network:
    """A model of `build_model` as a function of images that never trains."""
    return lambda images: model(images, training=False)


def network_size(config: Config, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) in pixels of the network's input: `model.image_size`, or if that is null `image_size`.

    Raises:
        InputError: both are null, or they differ.
    """
    configured = config.model.image_size
    if configured is None and image_size is None:
        raise InputError("model.image_size is null: say the size, e.g. --set model.image_size=[320,320]")
    if configured is not None and image_size is not None and tuple(configured) != tuple(image_size):
        raise InputError(f"image_size {list(image_size)} is not the model's, {list(configured)}")
    height, width = configured or image_size
    return height, width
