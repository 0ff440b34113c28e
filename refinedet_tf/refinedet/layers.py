"""The custom layers of the network: input normalisation, L2 normalisation, transfer connection block."""

from typing import Any

import keras
from keras import ops

from refinedet_tf.refinedet.batch_norm import BatchNormalization, batch_normalization
from refinedet_tf.tensors import Shape, Tensor

MEAN_RGB = (123.0, 117.0, 104.0)
"""The mean colour that the authors subtract. It is also the fill colour of the expansion augmentation."""


def caffe_xavier() -> keras.initializers.Initializer:
    """Makes Caffe's "xavier" initializer, uniform in +-sqrt(3 / fan_in), unlike Keras' glorot_uniform.

    Each call makes a new one, because one initializer object gives all kernels of the same shape the
    same values.
    """
    return keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")


def gaussian() -> keras.initializers.Initializer:
    """Makes the authors' initializer of convolutions that BatchNorm follows; a new one per call, as above."""
    return keras.initializers.RandomNormal(stddev=0.01)


@keras.saving.register_keras_serializable("refinedet_tf")
class SubtractMean(keras.layers.Layer):
    """Subtracts the mean colour from RGB 0..255 [B, H, W, 3] of any number type and orders the channels.

    Args:
        channel_order: "bgr", on which Caffe's networks were trained, or "rgb".
        kwargs: arguments of Keras' layer.
    """

    def __init__(self, channel_order: str = "bgr", **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.channel_order = channel_order

    def call(self, images: Tensor) -> Tensor:
        centred = ops.cast(images, "float32") - ops.convert_to_tensor(MEAN_RGB, "float32")
        if self.channel_order == "bgr":
            centred = ops.flip(centred, axis=-1)
        return ops.cast(centred, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channel_order": self.channel_order}


@keras.saving.register_keras_serializable("refinedet_tf")
class ScaleToUnitRange(keras.layers.Layer):
    """Scales RGB 0..255 [B, H, W, 3] of any number type to -1..1, the input range of MobileNetV2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def call(self, images: Tensor) -> Tensor:
        return ops.cast(ops.cast(images, "float32") / 127.5 - 1.0, self.compute_dtype)


@keras.saving.register_keras_serializable("refinedet_tf")
class L2Normalize(keras.layers.Layer):
    """Computes scale * x / sqrt(sum of x^2 over channels + 1e-10), with a learned scale per channel.

    The scales of conv4_3 and conv5_3 start at 10 and 8 (paper, section 3.1, following ParseNet).
    Input and output are [B, H, W, C]; the sum is computed in float32.

    Args:
        initial_scale: the initial scale of every channel.
        kwargs: arguments of Keras' layer.
    """

    EPSILON = 1e-10

    def __init__(self, initial_scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape: Shape) -> None:
        self.scale = self.add_weight(
            name="scale",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_scale),
        )

    def call(self, features: Tensor) -> Tensor:
        wide = ops.cast(features, "float32")
        squared_norm = ops.sum(ops.square(wide), axis=-1, keepdims=True)
        unit = wide * ops.rsqrt(squared_norm + self.EPSILON)
        return ops.cast(unit * ops.cast(self.scale, "float32"), self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_scale": self.initial_scale}


@keras.saving.register_keras_serializable("refinedet_tf")
class TransferConnectionBlock(keras.layers.Layer):
    """Turns ARM features of one level into ODM features and adds the deeper level (paper, figure 2).

    The block applies conv, ReLU and conv; adds the 2x2 stride-2 deconvolution of the deeper block's
    output, if there is one; then applies ReLU, conv and ReLU. All convolutions are 3x3. Where the
    grids do not halve exactly, the upsampled map is cut at the bottom and right to the size of this
    level. The inputs are the level's features [B, H, W, C] and the deeper block's output
    [B, ceil(H / 2), ceil(W / 2), channels] or None. The output is [B, H, W, channels].

    Args:
        level: 2..6; the level's stride is 2 ** level. The sublayers have the names of the authors'
            program: TL3_1, TL3_2, P4-up, P3, and with BatchNorm TL3_1_bn and so on.
        channels: the number of output channels, 256 in the paper.
        batch_norm: whether BatchNorm follows every convolution, which then has no bias, as in the
            authors' ResNet-101.
        batch_norm_momentum: the momentum of its moving statistics.
        batch_norm_frozen: whether its statistics stay as they were loaded.
        kwargs: arguments of Keras' layer.
    """

    def __init__(
        self,
        level: int,
        channels: int,
        batch_norm: bool = False,
        batch_norm_momentum: float = 0.999,
        batch_norm_frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.level, self.channels, self.batch_norm = level, channels, batch_norm
        self.batch_norm_momentum, self.batch_norm_frozen = batch_norm_momentum, batch_norm_frozen
        self.first, self.first_norm = self._convolution(f"TL{level}_1")
        self.second, self.second_norm = self._convolution(f"TL{level}_2")
        self.upsampling, self.upsampling_norm = self._convolution(f"P{level + 1}-up", transposed=True)
        self.output_convolution, self.output_norm = self._convolution(f"P{level}")

    def _convolution(
        self, name: str, transposed: bool = False
    ) -> tuple[keras.layers.Layer, BatchNormalization | None]:
        """Makes a convolution, and the BatchNorm that follows it or None."""
        shared = {
            "filters": self.channels,
            "use_bias": not self.batch_norm,
            "kernel_initializer": gaussian() if self.batch_norm else caffe_xavier(),
            "dtype": self.dtype_policy,
            "name": name,
        }
        if transposed:
            convolution = keras.layers.Conv2DTranspose(kernel_size=2, strides=2, **shared)
        else:
            convolution = keras.layers.Conv2D(kernel_size=3, padding="same", **shared)
        if not self.batch_norm:
            return convolution, None
        norm = batch_normalization(
            f"{name}_bn", self.batch_norm_momentum, self.batch_norm_frozen, dtype=self.dtype_policy
        )
        return convolution, norm

    def build(self, features_shape: Shape, deeper_shape: Shape | None = None) -> None:
        output_shape = self.compute_output_shape(features_shape)
        inputs = [
            (self.first, self.first_norm, features_shape),
            (self.second, self.second_norm, output_shape),
            (self.output_convolution, self.output_norm, output_shape),
        ]
        if deeper_shape is not None:
            inputs.append((self.upsampling, self.upsampling_norm, deeper_shape))
        for convolution, norm, shape in inputs:
            convolution.build(shape)
            if norm is not None:
                norm.build(output_shape)

    def call(self, features: Tensor, deeper: Tensor | None = None, training: bool = False) -> Tensor:
        transferred = ops.relu(_normalised(self.first, self.first_norm, features, training))
        transferred = _normalised(self.second, self.second_norm, transferred, training)
        if deeper is not None:
            upsampled = _normalised(self.upsampling, self.upsampling_norm, deeper, training)
            height, width = ops.shape(transferred)[1:3]
            transferred = transferred + upsampled[:, :height, :width]
        transferred = ops.relu(transferred)
        return ops.relu(_normalised(self.output_convolution, self.output_norm, transferred, training))

    def compute_output_shape(self, features_shape: Shape, deeper_shape: Shape | None = None) -> Shape:
        return (*features_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        names = ("level", "channels", "batch_norm", "batch_norm_momentum", "batch_norm_frozen")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _normalised(
    convolution: keras.layers.Layer, norm: BatchNormalization | None, features: Tensor, training: bool
) -> Tensor:
    """Applies a convolution, and the BatchNorm that follows it if there is one."""
    features = convolution(features)
    return features if norm is None else norm(features, training=training)
