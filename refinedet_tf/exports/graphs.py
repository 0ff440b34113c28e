"""The network and its post-processing as graphs for export, which contain no Keras objects."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.image_header import MAX_PIXELS
from refinedet_tf.data.images import warp_image
from refinedet_tf.exports.decoding import decode_batch
from refinedet_tf.exports.folding import inference_model
from refinedet_tf.exports.suppression import suppressed
from refinedet_tf.inference.compiled_detector import CompiledDetector
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.tensors import Heads, Tensor

LARGEST_CONSTANTS = 2**26
"""The largest number of bytes of all weights that become constants.

TensorFlow reorders constant kernels for the processor once, and variables in each call, which costs a small
network a quarter of its time. Each signature holds copies of its constants: those of VGG-16 (136 MB) take
1.4 GB and make its loading several times as long. A graph cannot hold 2 GiB at all.
"""


class DetectionGraphs(tf.Module):
    """The functions from which every exported form is made; they take and return tensors of N images.

    Attributes:
        image_size: (height, width) of the network's input in pixels.
        network_variables: the weights of `inference_model`, unless they are constants of the graph. Only
            they are saved; a Keras model as an attribute would be saved as a Keras object.
        heads: a function from float32 [N, height, width, 3], RGB 0..255, to the heads, as `build_model`
            describes them.
        candidates, limited_candidates: functions from the heads, see the module `candidates`.
        detections: a function from the heads to the dict of `postprocess`, in operators of ONNX and LiteRT.
        detect: a function from the input of `heads` to the dict of `postprocess`.
        assets: the files that the SavedModel contains, which the export sets.
    """

    assets: list[tf.saved_model.Asset]

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        image_size: tuple[int, int] | None = None,
        kernel_dtype: str = "float32",
        xla: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Makes the network for inference and compiles the functions.

        The weights are constants if they take at most `LARGEST_CONSTANTS` bytes, otherwise variables.

        Args:
            model: the network, as `build_model(config)` makes it.
            config: `postprocess`, `model.design`, `model.anchors`, `model.image_size` and the class names are
                used.
            image_size: (height, width) in pixels; it is needed only if `model.image_size` is null.
            kernel_dtype: the type in which kernels are stored. If the network computes in this type (see
                `in_bfloat16`), it changes only the size of the file.
            xla: whether XLA compiles the network, anew for each batch size.
            max_pixels: the largest number of pixels of a file that `detect_files` decodes.

        Raises:
            InputError: the size is not known, or is not that of the model; the class names are not
                known.
        """
        super().__init__(name="refinedet")
        served = inference_model(model)
        variables = [*served.trainable_variables, *served.non_trainable_variables]
        weights = [_stored(variable, kernel_dtype) for variable in variables]
        frozen = sum(weight.nbytes for weight in weights) <= LARGEST_CONSTANTS
        saved = [] if frozen else weights
        self.network_variables = [tf.Variable(weight, trainable=False) for weight in saved]
        num_trainable = len(served.trainable_variables)

        def network(images: Tensor) -> Heads:
            stored = map(tf.constant, weights) if frozen else self.network_variables
            values = [
                tf.cast(value, variable.dtype) for value, variable in zip(stored, variables, strict=True)
            ]
            heads, _ = served.stateless_call(
                values[:num_trainable], values[num_trainable:], images, training=False
            )
            return heads

        detector = CompiledDetector(network, config, image_size, jit_compile=xla)
        self.image_size = detector.image_size
        self.max_pixels = max_pixels
        self.heads = detector.heads
        self.candidates = detector.candidates
        self.limited_candidates = detector.limited_candidates
        self.detections = lambda heads: suppressed(
            *detector.limited_candidates(heads), config.postprocess, config.num_classes
        )
        self.detect = detector

    def heads_and_candidates(self, images: Tensor) -> dict[str, tf.Tensor]:
        """Returns what a file without suppression gives.

        It is the heads, "boxes" (float32 [N, A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped) and
        "scores" (float32 [N, A, C] of classes 1..C, 0 where the ARM or the score threshold has dropped the
        pair), for images as `heads` takes them.
        """
        outputs = self.heads(images)
        boxes, scores = self.candidates(outputs)
        return {**outputs, "boxes": boxes, "scores": scores}

    def warp(self, images: Tensor) -> tf.Tensor:
        """Warps images, uint8 or float32 [N, H, W, 3] of any H and W, to the input of `heads`."""
        return warp_image(images, self.image_size)

    def detect_files(self, image_bytes: Tensor) -> dict[str, tf.Tensor]:
        """Detects the objects on image files.

        Args:
            image_bytes: string [N], whole files, as `decode_image` takes them.

        Returns:
            The dict of `postprocess`, and "image_decoded" bool [N]. The result of a file that cannot be
            decoded, or that has more than `max_pixels` pixels, is empty.
        """
        images, decoded = decode_batch(image_bytes, self.image_size, self.max_pixels)
        results = self.detect(images)

        def clear_undecoded(values: tf.Tensor) -> tf.Tensor:
            shape = [-1] + [1] * (len(values.shape) - 1)
            of_files = values[: tf.size(decoded)]
            return tf.where(tf.reshape(decoded, shape), of_files, tf.zeros([], values.dtype))

        cleared = {name: clear_undecoded(values) for name, values in results.items()}
        return cleared | {"image_decoded": decoded}


def in_bfloat16(model: keras.Model, config: Config) -> keras.Model:
    """Builds the same network with the same weights, but computing in bfloat16.

    Args:
        model: the network, as `build_model(config)` makes it.
        config: the config of the network.
    """
    training = dataclasses.replace(config.training, precision="bfloat16")
    narrow = build_model(dataclasses.replace(config, training=training))
    narrow.set_weights(model.get_weights())
    return narrow


def _stored(variable: keras.Variable, kernel_dtype: str) -> np.ndarray:
    """Returns the value of a variable, with `kernel_dtype` if it is a kernel.

    Kernels make up nearly all of the file. Biases, scales of normalisations and statistics stay float32,
    the type in which Keras computes with them.
    """
    dtype = kernel_dtype if len(variable.shape) > 1 else variable.dtype
    return tf.cast(variable.value, dtype).numpy()
