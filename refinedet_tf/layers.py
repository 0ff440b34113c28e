"""Custom layers of the network: input normalisation, L2 normalisation, transfer connection block."""

import keras
from keras import ops

MEAN_RGB = (123.0, 117.0, 104.0)
"""Mean colour that the authors subtract; also the fill colour of the expansion augmentation."""


def caffe_xavier():
    """Caffe's "xavier" filler, uniform in +-sqrt(3 / fan_in): not Keras' glorot_uniform.

    A new one each time, because an initializer object gives every kernel of one shape the same values.
    """
    return keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")


@keras.saving.register_keras_serializable("refinedet_tf")
class SubtractMeanBGR(keras.layers.Layer):
    """RGB 0..255 [B, H, W, 3], any number type, to the mean-subtracted BGR that VGG-16 was trained on."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, images):
        centred = ops.cast(images, "float32") - ops.convert_to_tensor(MEAN_RGB, "float32")
        return ops.cast(ops.flip(centred, axis=-1), self.compute_dtype)


@keras.saving.register_keras_serializable("refinedet_tf")
class ScaleToUnitRange(keras.layers.Layer):
    """RGB 0..255 [B, H, W, 3], any number type, to -1..1, as MobileNetV2 was trained."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, images):
        return ops.cast(ops.cast(images, "float32") / 127.5 - 1.0, self.compute_dtype)


@keras.saving.register_keras_serializable("refinedet_tf")
class L2Normalize(keras.layers.Layer):
    """y = scale * x / sqrt(sum of x^2 over channels + 1e-10), with a learned scale per channel.

    The scales of conv4_3 and conv5_3 start at 10 and 8 (paper, section 3.1, after ParseNet). Input
    and output: [B, H, W, C]; the sum is taken in float32.
    """

    EPSILON = 1e-10

    def __init__(self, initial_scale: float, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = initial_scale

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_scale),
        )

    def call(self, features):
        wide = ops.cast(features, "float32")
        squared_norm = ops.sum(ops.square(wide), axis=-1, keepdims=True)
        unit = wide * ops.rsqrt(squared_norm + self.EPSILON)
        return ops.cast(unit * ops.cast(self.scale, "float32"), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_scale": self.initial_scale}


@keras.saving.register_keras_serializable("refinedet_tf")
class TransferConnectionBlock(keras.layers.Layer):
    """Turns ARM features of one level into ODM features, adding the deeper level (paper, figure 2).

    conv, ReLU, conv; plus the 2x2 stride-2 deconvolution of the deeper block's output, where there
    is one; ReLU; conv, ReLU. All convolutions are 3x3. Where the grids do not halve exactly, the
    upsampled map is cut at the bottom and right to the size of this level.

    Args:
        level: 3..6, the level's stride is 2 ** level. Sublayers carry the names of the authors'
            program: TL3_1, TL3_2, P4-up, P3.
        channels: output channels, 256 in the paper.
        batch_norm: BatchNorm after every convolution (then without bias), as in the authors' ResNet.
        batch_norm_momentum: of its moving statistics.

    Inputs: the level's features [B, H, W, C] and the deeper block's output
    [B, ceil(H / 2), ceil(W / 2), channels], or None. Output: [B, H, W, channels].
    """

    def __init__(self, level, channels, batch_norm=False, batch_norm_momentum=0.999, **kwargs):
        super().__init__(**kwargs)
        self.level, self.channels, self.batch_norm = level, channels, batch_norm
        self.batch_norm_momentum = batch_norm_momentum
        self.first = self._convolution(f"TL{level}_1")
        self.second = self._convolution(f"TL{level}_2")
        self.output_convolution = self._convolution(f"P{level}")
        self.upsampling = keras.layers.Conv2DTranspose(
            channels,
            2,
            strides=2,
            use_bias=not batch_norm,
            kernel_initializer=caffe_xavier(),
            dtype=self.dtype_policy,
            name=f"P{level + 1}-up",
        )
        self.norms = {}
        if batch_norm:
            for part in ("first", "second", "upsampling", "output_convolution"):
                norm = batch_normalization(f"{part}_norm", batch_norm_momentum, dtype=self.dtype_policy)
                self.norms[part] = norm
                setattr(self, norm.name, norm)

    def _convolution(self, name):
        return keras.layers.Conv2D(
            self.channels,
            3,
            padding="same",
            use_bias=not self.batch_norm,
            kernel_initializer=caffe_xavier(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, features_shape, deeper_shape=None):
        own = (*features_shape[:-1], self.channels)
        self.first.build(features_shape)
        self.second.build(own)
        self.output_convolution.build(own)
        if deeper_shape is not None:
            self.upsampling.build(deeper_shape)
        for part, norm in self.norms.items():
            if part != "upsampling" or deeper_shape is not None:
                norm.build(own)

    def _apply(self, part, features, training):
        features = getattr(self, part)(features)
        norm = self.norms.get(part)
        return features if norm is None else norm(features, training=training)

    def call(self, features, deeper=None, training=False):
        transferred = ops.relu(self._apply("first", features, training))
        transferred = self._apply("second", transferred, training)
        if deeper is not None:
            upsampled = self._apply("upsampling", deeper, training)
            height, width = ops.shape(transferred)[1:3]
            transferred = transferred + upsampled[:, :height, :width]
        return ops.relu(self._apply("output_convolution", ops.relu(transferred), training))

    def compute_output_shape(self, features_shape, deeper_shape=None):
        return (*features_shape[:-1], self.channels)

    def get_config(self):
        own = ("level", "channels", "batch_norm", "batch_norm_momentum")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def batch_normalization(name, momentum, **kwargs):
    """BatchNorm with the authors' epsilon, its statistics taken over the batches of all replicas.

    Only so does the result not depend on the number of replicas. (The authors' program uses the
    statistics of each device alone.)
    """
    return keras.layers.BatchNormalization(
        momentum=momentum,
        epsilon=1e-5,
        synchronized=_has_several_replicas(),
        name=name,
        **kwargs,
    )


def _has_several_replicas():
    # With one replica Keras' fused kernel does the same much faster; other backends refuse the argument.
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync > 1
