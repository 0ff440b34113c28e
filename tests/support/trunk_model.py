"""A network of six convolutions whose ARM and ODM share features, which is traced within a second."""

import keras
from keras import layers

from refinedet_tf.config.values import STRIDES
from refinedet_tf.refinedet.batch_norm import batch_normalization


def trunk_model(config):
    """A model from images to heads: a convolution and BatchNorm, and heads on poolings of their result.

    The loss of both modules reaches the first convolution, so that each must be divided by its count.
    BatchNorm is as `model.batch_norm_momentum` and `model.batch_norm_statistics` say.
    """
    model_config = config.model
    images = keras.Input((*model_config.image_size, 3), dtype="float32")
    features = layers.AveragePooling2D(4)(layers.Rescaling(1 / 127.5, -1)(images))
    features = layers.Conv2D(16, 3, strides=2, padding="same", name="trunk")(features)
    frozen = model_config.batch_norm_statistics == "frozen"
    features = batch_normalization("trunk_norm", model_config.batch_norm_momentum, frozen)(features)
    features = layers.Activation("tanh")(features)
    levels = [layers.AveragePooling2D(stride // STRIDES[0])(features) for stride in STRIDES]
    depths = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": config.num_classes + 1}
    heads = {}
    for name, depth in depths.items():
        convolution = layers.Conv2D(3 * depth, 1, name=f"{name}_head")
        joined = [layers.Reshape((-1, depth))(convolution(level)) for level in levels]
        heads[name] = layers.Concatenate(axis=1, name=name)(joined)
    return keras.Model(images, heads)
