"""A tiny network with the heads of RefineDet, for tests of what follows the network."""

import keras
from config_of import config_of
from keras import layers

from refinedet_tf.config.values import STRIDES

CLASSES = ("circle", "square", "triangle")


def stand_in_config(image_size=(64, 64), classes=CLASSES, **postprocess):
    """The config of `stand_in_model`, with fields of its `PostprocessConfig`."""
    return config_of(classes, model={"image_size": image_size}, postprocess=postprocess)


def stand_in_model(config, seed=0):
    """A model from images [B, H, W, 3] to heads; its random weights detect something on most images."""
    images = keras.Input((*(config.model.image_size or (None, None)), 3), dtype="float32")
    scaled = layers.Rescaling(1 / 127.5, -1)(images)
    levels = [layers.AveragePooling2D(stride, padding="same")(scaled) for stride in STRIDES]
    depths = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": config.num_classes + 1}
    heads = {}
    for place, (name, depth) in enumerate(depths.items()):
        initializer = keras.initializers.RandomNormal(stddev=1.5, seed=10 * seed + place)
        convolution = layers.Conv2D(3 * depth, 1, kernel_initializer=initializer)
        joined = [layers.Reshape((-1, depth))(convolution(level)) for level in levels]
        heads[name] = layers.Concatenate(axis=1, name=name)(joined)
    return keras.Model(images, heads)
