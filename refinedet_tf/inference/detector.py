"""Detection on images of any size: reading, warping, network, post-processing, boxes in pixels."""

import functools
import os
import time
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.config.files import PRETRAINED, load_config, run_folder_of
from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_folder
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import Cost, ImageDetector, ImageLike, as_pixels, check_call
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.tensors import Heads
from refinedet_tf.weights import load_weights


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


class Detector(ImageDetector):
    """A trained network with its post-processing, ready to be called on images.

    ```
    detector = Detector.pretrained()  # or Detector.load("runs/mine"), or Detector(model, config)
    for result in detector(["street.jpg", "park.png"]):
        print(result.names, result.scores, result.boxes)
    ```
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
            wanted_score: candidates of a lower score are not wanted, for `Cost.limited`.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        self._detector = CompiledDetector(inference_network(model), config, image_size)
        self.image_size = self._detector.image_size
        self.num_classes, self.class_names = self._detector.num_classes, self._detector.class_names
        self._cost = Cost()
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

    @property
    def cost(self) -> Cost:
        """What all calls have cost so far; `seconds` has the tracing in it, where there was no `warm_up`."""
        return self._cost

    def heads(self, images: Sequence[ImageLike]) -> Heads:
        """Returns the heads of the network for at least one image, as `build_model` describes them.

        The images, which are one batch, and the errors are those of a call.
        """
        check_call(images, len(images))
        pixels = (as_pixels(image, number) for number, image in enumerate(images))
        return self._detector.heads(tf.stack([self._warp(image) for image in pixels]))

    def warm_up(self) -> None:
        """Runs once on a black image, so that the time of the calls that follow is without tracing."""
        self._detector.with_limits(tf.zeros([1, *self.image_size, 3]))

    def _detect(self, images: Iterator[np.ndarray], batch_size: int) -> list[ImageDetections]:
        start = time.perf_counter()
        warped: list[tf.Tensor] = []
        sizes: list[tuple[int, int]] = []
        for image in images:
            height, width, _ = image.shape
            warped.append(self._warp(image))
            sizes.append((height, width))
        if not warped:
            return []
        outputs, weakest = self._detector.with_limits(tf.stack(warped))
        results = self._detector.unpack(outputs, sizes)
        weakest = weakest.numpy()
        per_image, per_class = np.count_nonzero((weakest > 0) & (weakest >= self._wanted_score), axis=0)
        limited = (int(per_image), int(per_class))
        self._cost += Cost(len(sizes), limited=limited, seconds=time.perf_counter() - start)
        return results
