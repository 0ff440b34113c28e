"""Backbones: networks from images to feature maps of strides 8, 16, 32 and 64, and of stride 4 if wanted.

The feature maps are the input of the ARM heads and the transfer connection blocks.
"""

from collections.abc import Callable

import keras

from refinedet_tf.config import ModelConfig
from refinedet_tf.refinedet.backbones.applications import APPLICATIONS, application
from refinedet_tf.refinedet.backbones.efficientnet_lite import SCALINGS, efficientnet_lite
from refinedet_tf.refinedet.backbones.resnet101 import resnet101
from refinedet_tf.refinedet.backbones.resnext101 import resnext101
from refinedet_tf.refinedet.backbones.vgg16 import vgg16

Backbone = Callable[[keras.KerasTensor, ModelConfig], list[keras.KerasTensor]]
"""A function of images [B, H, W, 3], RGB 0..255, and the model's config. It returns the feature maps of
strides 8, 16, 32 and 64, after that of stride 4 if the config has a level of that stride,
[B, ceil(H / stride), ceil(W / stride), C]."""

BACKBONES: dict[str, Backbone] = {
    "vgg16": vgg16,
    "resnet101": resnet101,
    "resnext101": resnext101,
    **dict.fromkeys(APPLICATIONS, application),
    **dict.fromkeys(SCALINGS, efficientnet_lite),
}
"""The backbones by their names in `model.backbone`."""


def build_features(images: keras.KerasTensor, model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds the configured backbone on `images` and returns its feature maps; see `Backbone`."""
    return BACKBONES[model_config.backbone](images, model_config)
