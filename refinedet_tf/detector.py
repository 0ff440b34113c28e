"""Detection on images of any size: read, warp, network, post-processing, back to pixels."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.postprocessing import postprocess


class Detector:
    """A trained network with its post-processing, ready to be called on images.

    ```
    detector = Detector(model, config)
    for result in detector(["street.jpg", "park.png"]):
        print(result["names"], result["scores"], result["boxes"])
    ```
    """

    def __init__(self, model, config: Config, image_size: tuple[int, int] | None = None):
        """
        Args:
            model: the network, as `build_model(config)` makes it.
            config: `postprocess`, the class names and `model.image_size` are used.
            image_size: (height, width) in pixels to which images are warped. Needed only where
                `model.image_size` is null.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        self.image_size = network_size(config, image_size)
        self.num_classes = config.num_classes
        self.class_names = config.data.classes
        anchors = tile_anchors(self.image_size)
        size = self.image_size

        # The signatures leave open what varies from call to call, so that each is traced once.
        @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
        def warp(image):
            return warp_image(image, size)

        @tf.function(input_signature=[tf.TensorSpec([None, *size, 3], tf.float32)])
        def detect(images):
            return postprocess(model(images, training=False), anchors, config)

        self._warp, self._detect = warp, detect

    def __call__(self, images: Iterable, batch_size: int = 8) -> list[dict]:
        """Detects the objects of each image.

        Args:
            images: paths (str or Path, see `read_image`) and uint8 arrays [H, W, 3], RGB, of any
                sizes, mixed at will.
            batch_size: images that the network sees at once; only so many are in memory.

        Returns:
            One dict an image, in the given order, its detections by descending score:
            "boxes" float32 [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of that image, 0 <= y <= H,
            0 <= x <= W; "scores" float32 [n]; "labels" int32 [n], 1..C; "names" list of n class
            names; "image_size" (H, W).

        Raises:
            InputError: an image is of another kind or cannot be read; names it.
        """
        if isinstance(images, (str, os.PathLike)):
            raise InputError(f"images must be a list of images, got the single path {images}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        results, warped, sizes = [], [], []
        for number, image in enumerate(images):
            image = as_pixels(image, number)
            warped.append(self._warp(image))
            sizes.append(image.shape[:2])
            if len(warped) == batch_size:
                results += self._detect_batch(warped, sizes)
                warped, sizes = [], []
        return results + self._detect_batch(warped, sizes)

    def _detect_batch(self, warped, sizes):
        if not warped:
            return []
        batch = {name: value.numpy() for name, value in self._detect(tf.stack(warped)).items()}
        return [self._result(batch, row, size) for row, size in enumerate(sizes)]

    def _result(self, batch, row, size):
        found = slice(batch["num_detections"][row])
        height, width = size
        labels = batch["detection_classes"][row, found].astype(np.int32)
        return {
            "boxes": batch["detection_boxes"][row, found]
            * np.array([height, width, height, width], np.float32),
            "scores": batch["detection_scores"][row, found],
            "labels": labels,
            "names": [self.class_names[label - 1] for label in labels],
            "image_size": (height, width),
        }


def network_size(config: Config, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) in pixels of the network's input: `model.image_size`, or if that is null `image_size`.

    Raises:
        InputError: both are null, or they differ.
    """
    configured = config.model.image_size
    if configured is None and image_size is None:
        raise InputError("model.image_size is null: say the size, e.g. --set model.image_size=[320,320]")
    if None not in (configured, image_size) and tuple(configured) != tuple(image_size):
        raise InputError(f"image_size {list(image_size)} is not the model's, {list(configured)}")
    height, width = configured or image_size
    return height, width


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Pixels of a JPEG, PNG, BMP or GIF (first frame) file: uint8 [H, W, 3], RGB.

    They are as stored: an EXIF orientation is not applied.

    Raises:
        InputError: the file cannot be read or decoded; names it.
    """
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror}") from None
    try:
        return decode_image(contents).numpy()
    except tf.errors.InvalidArgumentError:
        raise InputError(f"image {path} cannot be decoded: no whole JPEG, PNG, BMP or GIF file") from None


def as_pixels(image, number: int) -> np.ndarray:
    """An image given as path or array as uint8 [H, W, 3]; `number` is its place in the list.

    Raises:
        InputError: the image is of another kind or cannot be read; names it.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(
            f"image {number} must be a path or a uint8 array [H, W, 3], RGB, "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels
