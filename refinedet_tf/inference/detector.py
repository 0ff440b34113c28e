"""Detection on images of any size: reading, warping, network, post-processing, boxes in pixels."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.config.files import PRETRAINED, load_config, run_folder_of
from refinedet_tf.data.images import read_image, warp_image
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_folder
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.tensors import Heads
from refinedet_tf.weights import load_weights

ImageLike = str | os.PathLike | np.ndarray
"""An image file, or pixels uint8 [H, W, 3], RGB."""


def trained_network(run: str | os.PathLike, overrides: Sequence[str] = ()) -> tuple[Config, keras.Model]:
    """Makes the network of a training.

    Args:
        run: the run folder, or "pretrained" for the detector that comes with the package. Its best weights
            are taken, or its final ones where there was no validation.
        overrides: changes of the run's config, as `load_config` takes them.

    Returns:
        The config and the network with its weights.

    Raises:
        InputError: the folder is none of a run, an override is wrong, or weights are missing or damaged.
    """
    folder = RunFolder(run_folder_of(os.fspath(run)))
    if not is_folder(folder.path):
        raise InputError(f"{shortened_text(folder.path)} is no run folder")
    config = load_config(folder.path, overrides)
    network = build_model(config)
    load_weights(network, folder.trained_weights())
    return config, network


class Detector:
    """A trained network with its post-processing, ready to be called on images.

    ```
    detector = Detector.pretrained()  # or Detector.load("runs/mine"), or Detector(model, config)
    for result in detector(["street.jpg", "park.png"]):
        print(result.names, result.scores, result.boxes)
    ```

    Attributes:
        image_size: (height, width) in pixels to which images are warped.
        class_names: the C names, label 1 first.
        num_classes: C, without background.
        inputs: the number of images that the network has seen so far.
        limited: int64 [2], in how many of them each limit of `postprocess_and_limits` left out candidates
            that may be wanted.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        image_size: tuple[int, int] | None = None,
        wanted_score: float = 0.0,
    ) -> None:
        """Compiles the detector; it is traced at its first call.

        Args:
            model: the network, as `build_model(config)` makes it.
            config: `postprocess`, `model.design`, `model.image_size` and the class names are used.
            image_size: (height, width) in pixels to which images are warped; it is needed only if
                `model.image_size` is null.
            wanted_score: candidates of a lower score are not wanted, for `limited`.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        self._detector = CompiledDetector(inference_network(model), config, image_size)
        self.image_size = self._detector.image_size
        self.num_classes, self.class_names = self._detector.num_classes, self._detector.class_names
        self.inputs = 0
        self.limited = np.zeros(2, np.int64)
        self._wanted_score = wanted_score

    @classmethod
    def load(cls, run: str | os.PathLike) -> "Detector":
        """Makes the detector of a training.

        Args:
            run: the run folder. Its best weights are taken, or its final ones where there was no validation.

        Raises:
            InputError: the folder is none of a run, has no weights yet, or they are damaged.
        """
        config, network = trained_network(run)
        return cls(network, config)

    @classmethod
    def pretrained(cls) -> "Detector":
        """Makes the detector of VOC's 20 classes that comes with the package (refinedet_tf/pretrained)."""
        return cls.load(PRETRAINED)

    @functools.cached_property
    def _warp(self) -> tf.types.experimental.PolymorphicFunction:
        """The function from an image of any size to the network's input; it is traced when first needed."""
        size = self.image_size

        # The signature leaves open what varies from image to image, so that it is traced once.
        @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
        def warp(image: tf.Tensor) -> tf.Tensor:
            return warp_image(image, size)

        # TensorFlow does not count this as frequent tracing; see `CompiledDetector`.
        warp.get_concrete_function()
        return warp

    def __call__(self, images: Iterable[ImageLike], batch_size: int = 8) -> list[ImageDetections]:
        """Detects the objects of each image.

        Args:
            images: paths (str or Path, see `read_image`) and uint8 arrays [H, W, 3], RGB, of any
                sizes; both kinds may be mixed.
            batch_size: the number of images that the network sees at once, at least 1. No more
                images than these are held in memory.

        Returns:
            The `ImageDetections` of each image, in the given order.

        Raises:
            InputError: an image is of another kind or cannot be read (the message names it), `images`
                is a single path, or `batch_size` is no whole number from 1.
        """
        check_call(images, batch_size)
        results: list[ImageDetections] = []
        warped: list[tf.Tensor] = []
        sizes: list[tuple[int, int]] = []
        for number, image in enumerate(images):
            pixels = as_pixels(image, number)
            height, width, _ = pixels.shape
            warped.append(self._warp(pixels))
            sizes.append((height, width))
            if len(warped) == batch_size:
                results += self._detect_batch(warped, sizes)
                warped, sizes = [], []
        return results + self._detect_batch(warped, sizes)

    def heads(self, images: Sequence[ImageLike]) -> Heads:
        """Returns the heads of the network for at least one image, as `build_model` describes them.

        The images, which are one batch, and the errors are those of a call.
        """
        (batch,) = pixel_batches(images, len(images))
        return self._detector.heads(tf.stack([self._warp(pixels) for pixels in batch]))

    def warm_up(self) -> None:
        """Runs once on a black image, so that the time of the calls that follow is without tracing."""
        self._detector.with_limits(tf.zeros([1, *self.image_size, 3]))

    def _detect_batch(
        self, warped: Sequence[tf.Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        if not warped:
            return []
        outputs, weakest = self._detector.with_limits(tf.stack(warped))
        self.inputs += len(warped)
        weakest = weakest.numpy()
        self.limited += np.count_nonzero((weakest > 0) & (weakest >= self._wanted_score), axis=0)
        return self._detector.unpack(outputs, sizes)


def check_call(images: object, batch_size: object) -> None:
    """Checks the arguments with which a detector of any kind is called.

    Raises:
        InputError: `images` is a single path, or `batch_size` is no whole number from 1.
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError(f"images must be a list of images, got the single path {shortened_text(images)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of at least 1, got {shortened(batch_size)}")


def pixel_batches(images: Iterable[ImageLike], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Reads images in batches of `batch_size`, the last of which may be smaller.

    Yields:
        The pixels of the images of a batch, as `as_pixels` returns them.

    Raises:
        InputError: the reasons are those of `Detector`.
    """
    check_call(images, batch_size)
    numbered = enumerate(images)
    while batch := [as_pixels(image, number) for number, image in itertools.islice(numbered, batch_size)]:
        yield batch


def as_pixels(image: ImageLike, number: int) -> np.ndarray:
    """Returns the pixels of an image given as path or array: uint8 [H, W, 3], RGB.

    Args:
        image: a path, or uint8 [H, W, 3] with at least one pixel.
        number: the place of the image in the list of images, for the message.

    Raises:
        InputError: the image is of another kind or cannot be read; the message names it.
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
