"""The network and its post-processing as one function of a batch, which every use of a trained model runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.candidates import candidates, limited_candidates
from refinedet_tf.refinedet.postprocessing import postprocess, postprocess_and_limits
from refinedet_tf.tensors import Heads, Tensor

Network = Callable[[Tensor], Heads]
"""A function from float32 [B, height, width, 3], RGB 0..255, to the heads as `build_model` describes them."""


class CompiledDetector:
    """Turns images of the network's size into detections.

    A call or `with_limits` traces the network and the post-processing once for all batch sizes. If
    `detections` or `detections_and_limits` is called by itself, it is traced once for the first batch size
    and once more for all others.

    Attributes:
        image_size: (height, width) of the network's input in pixels.
        num_classes: C, without background.
        class_names: the C names, label 1 first.
        heads: the compiled `Network`.
        detections: a function from the heads of a batch to the dict of `postprocess`.
        detections_and_limits: a function from the heads of a batch to what `postprocess_and_limits` returns.
        candidates: a function from the heads of a batch to (boxes, scores); see
            `candidates.candidates`.
        limited_candidates: a function from the heads of a batch to (boxes, scores, labels); see
            `candidates.limited_candidates`.
    """

    def __init__(
        self,
        network: Network,
        config: Config,
        image_size: tuple[int, int] | None = None,
        jit_compile: bool = False,
    ) -> None:
        """Compiles the functions; each one is traced at its first call.

        Args:
            network: a function from images to heads that a graph can hold; `inference_network` makes
                it from a model.
            config: `postprocess`, `model.design`, `model.anchors`, `model.image_size` and the class names are
                used.
            image_size: (height, width) in pixels; it is needed only if `model.image_size` is null.
            jit_compile: whether XLA compiles the network, anew for each batch size.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        self.image_size = network_size(config, image_size)
        self.num_classes = config.num_classes
        self.class_names = config.class_names
        anchors = tile_anchors(self.image_size, config.model.anchors)
        batch = tf.TensorSpec([None, *self.image_size, 3], tf.float32)
        # Nothing depends on AutoGraph, whose rewriting of all functions takes long.
        self.heads = tf.function(
            network, input_signature=[batch], jit_compile=jit_compile or None, autograph=False
        )
        self.detections = tf.function(
            lambda heads: postprocess(heads, anchors, config), reduce_retracing=True, autograph=False
        )
        self.detections_and_limits = tf.function(
            lambda heads: postprocess_and_limits(heads, anchors, config),
            reduce_retracing=True,
            autograph=False,
        )
        self.candidates = lambda heads: candidates(heads, anchors, config)
        self.limited_candidates = lambda heads: limited_candidates(heads, anchors, config)
        self._signature = [batch]

    def __call__(self, images: Tensor) -> dict[str, tf.Tensor]:
        """Returns the dict of `postprocess` for images float32 [B, height, width, 3], RGB 0..255."""
        return self._to_detections(images)

    def with_limits(self, images: Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns what `postprocess_and_limits` returns for images as those of a call."""
        return self._to_detections_and_limits(images)

    @functools.cached_property
    def _to_detections(self) -> tf.types.experimental.PolymorphicFunction:
        return self._traced(self.detections)

    @functools.cached_property
    def _to_detections_and_limits(self) -> tf.types.experimental.PolymorphicFunction:
        return self._traced(self.detections_and_limits)

    def _traced(
        self, stage: tf.types.experimental.PolymorphicFunction
    ) -> tf.types.experimental.PolymorphicFunction:
        """Traces the function from images to what a stage makes of their heads.

        TensorFlow counts the calls that trace, for all functions of the same line of code together, and warns
        of frequent tracing where there are several detectors. What is traced before the call is not counted.
        """

        def whole(images: tf.Tensor) -> Any:
            self.heads.get_concrete_function()
            heads = self.heads(images)
            stage.get_concrete_function(heads)
            return stage(heads)

        function = tf.function(whole, input_signature=self._signature, autograph=False)
        function.get_concrete_function()
        return function

    def unpack(
        self, outputs: Mapping[str, Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Returns the detections of each image of a batch, without the padding.

        Args:
            outputs: the dict of `postprocess` for a batch of at least as many images.
            image_sizes: (height, width) in pixels of the images before they were warped to the network's
                size.
        """
        batch = {name: np.asarray(value) for name, value in outputs.items()}
        results: list[ImageDetections] = []
        for row, (height, width) in enumerate(image_sizes):
            num_detections = int(batch["num_detections"][row])
            boxes, scores, labels = (
                batch[f"detection_{name}"][row, :num_detections] for name in ("boxes", "scores", "classes")
            )
            labels = labels.astype(np.int32)
            results.append(ImageDetections(boxes, scores, labels, self.class_names, (height, width)))
        return results


def inference_network(model: keras.Model) -> Network:
    """Makes the `Network` of a model of `build_model`; it runs in inference mode."""
    return lambda images: model(images, training=False)


def network_size(config: Config, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Returns (height, width) of the network's input in pixels.

    It is `model.image_size`, or `image_size` if that is null.

    Raises:
        InputError: both are null, or they differ.
    """
    configured = config.model.image_size
    if configured is not None and image_size is not None and tuple(configured) != tuple(image_size):
        raise InputError(f"image_size {list(image_size)} is not the model's, {list(configured)}")
    size = configured or image_size
    if size is None:
        raise InputError("model.image_size is null: say the size, e.g. --set model.image_size=[320,320]")
    height, width = size
    return height, width
