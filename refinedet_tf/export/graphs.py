"""The network and its post-processing as graphs for export, without Keras in them."""

import dataclasses

import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.images import warp_image
from refinedet_tf.export.decoding import decode_batch
from refinedet_tf.inference.compiled_detector import CompiledDetector
from refinedet_tf.model import build_model


class DetectionGraphs(tf.Module):
    """What every exported form is made of. Calls take and return tensors, N images at once.

    Attributes:
        image_size: (height, width) in pixels of the network's input.
        network_variables: the network's weights, copied. Only they are saved: a Keras model as
            attribute would be saved as an object of Keras.
    """

    def __init__(
        self,
        model,
        config: Config,
        image_size: tuple[int, int] | None = None,
        kernel_dtype: str = "float32",
        xla: bool = False,
    ):
        """
        Args:
            model: the network, as `build_model(config)` makes it.
            config: `postprocess`, `model.design` and `model.image_size` are used.
            image_size: where `model.image_size` is null.
            kernel_dtype: in which kernels are stored; for a network that computes in it (see
                `in_bfloat16`) that changes nothing but the size.
            xla: compile the network with XLA, for each batch size that it meets.

        Raises:
            InputError: the size is not known, or is not that of the model.
        """
        super().__init__(name="refinedet")
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        self.network_variables = [_stored(variable, kernel_dtype) for variable in variables]
        num_trainable = len(model.trainable_variables)

        def network(images):
            values = [tf.cast(own, v.dtype) for own, v in zip(self.network_variables, variables, strict=True)]
            heads, _ = model.stateless_call(
                values[:num_trainable], values[num_trainable:], images, training=False
            )
            return heads

        detector = CompiledDetector(network, config, image_size, jit_compile=xla)
        self.image_size = detector.image_size
        self.heads = detector.heads
        """float32 [N, height, width, 3], RGB 0..255 -> the heads, as `build_model` describes them."""
        self.candidates = detector.candidates
        self.detect = detector
        """The same images -> the dict of `postprocess`."""

    def warp(self, images):
        """uint8 or float32 [N, H, W, 3] of any H and W, to what `heads` takes."""
        return warp_image(images, self.image_size)

    def detect_files(self, image_bytes):
        """The dict of `postprocess` of image files, string [N], and "image_decoded" bool [N].

        A file that cannot be decoded has an empty result; `decode_batch` says what can.
        """
        images, decoded = decode_batch(image_bytes, self.image_size)
        results = self.detect(images)

        def emptied(values):
            shape = [-1] + [1] * (len(values.shape) - 1)
            return tf.where(tf.reshape(decoded, shape), values, tf.zeros([], values.dtype))

        return {name: emptied(values) for name, values in results.items()} | {"image_decoded": decoded}


def in_bfloat16(model, config: Config):
    """The same network, computing in bfloat16 with the same weights.

    Args:
        model: the network, as `build_model(config)` makes it.
    """
    training = dataclasses.replace(config.training, precision="bfloat16")
    narrow = build_model(dataclasses.replace(config, training=training))
    narrow.set_weights(model.get_weights())
    return narrow


def _stored(variable, kernel_dtype):
    """A copy of a variable. Kernels make up nearly all of the file; biases, scales of normalisations and
    statistics stay float32, as Keras computes with them.
    """
    dtype = kernel_dtype if len(variable.shape) > 1 else variable.dtype
    return tf.Variable(tf.cast(variable.value, dtype), trainable=False)
