"""Backbones: image -> feature maps of strides 8, 16, 32, 64, the input of ARM heads and TCBs."""

from collections.abc import Callable

from refinedet_tf.backbones.applications import APPLICATIONS, application
from refinedet_tf.backbones.resnet101 import resnet101
from refinedet_tf.backbones.resnext101 import resnext101
from refinedet_tf.backbones.vgg16 import vgg16
from refinedet_tf.config import ModelConfig

BACKBONES: dict[str, Callable] = {
    "vgg16": vgg16,
    "resnet101": resnet101,
    "resnext101": resnext101,
    **dict.fromkeys(APPLICATIONS, application),
}
"""By the name in `model.backbone`. Each takes (images, config): a Keras tensor [B, H, W, 3], RGB
0..255, and the model's config; and returns four Keras tensors [B, H/stride, W/stride, C]."""


def build_features(images, config: ModelConfig):
    """The four feature maps of `images` by the configured backbone."""
    return BACKBONES[config.backbone](images, config)
