"""The network: image -> the four heads of RefineDet, a functional Keras model."""

import contextlib
import math

import keras
from keras import layers, ops

from refinedet_tf.anchors import ANCHORS_PER_CELL, level_grids
from refinedet_tf.backbones import build_features
from refinedet_tf.backbones.resnet101 import head_block
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.layers import TransferConnectionBlock, caffe_xavier

LEVELS = (3, 4, 5, 6)
"""Level k has stride 2 ** k."""

FOCAL_PRIOR = 0.01
"""Probability of an object that every anchor starts with under the focal loss, pi in RetinaNet (Lin et al.,
ICCV 2017, section 4.1)."""


def build_model(config: Config) -> keras.Model:
    """The RefineDet network (paper, figure 1) with random weights.

    Whoever trains or uses it loads weights: `load_initial_weights`, `load_weights` or a checkpoint.

    Args:
        config: `model` (but for `model.weights`), `training.precision`, `loss.classification` and the
            number C of classes are used.

    Returns:
        A model of images [B, H, W, 3], RGB 0..255, of any number type, to a dict of float32
        logits and offsets, A anchors in the order of `tile_anchors((H, W))`:
        "arm_loc" [B, A, 4] and "odm_loc" [B, A, 4], offsets (cx, cy, w, h);
        "arm_conf" [B, A, 2], (background, object); "odm_conf" [B, A, C + 1], background first.
        H and W are fixed by `model.image_size`, or free if that is null.
        Design "single_stage" has the "odm" heads alone, on the backbone's feature maps; the layers of
        "tiled_anchors" are those of "refinedet".

    Raises:
        InputError: the class names are not known, or `model.image_size` does not fit the backbone's grids.
    """
    size = config.model.image_size or (None, None)
    with _precision(config.training.precision):
        images = keras.Input((*size, 3), name="images", dtype="float32")
        sources = build_features(images, config.model)
        _check_grids(sources, config.model.image_size)
        if config.model.design == "single_stage":
            heads = _module("odm", sources, config.num_classes, config)
        else:
            features = _transfer(sources, config.model)
            heads = _module("arm", sources, 1, config) | _module("odm", features, config.num_classes, config)
    return keras.Model(images, heads, name="refinedet")


def _transfer(sources, config):
    """ODM features of the four levels, built from the deepest level up."""
    deeper, features = None, []
    for level, source in reversed(list(zip(LEVELS, sources, strict=True))):
        block = TransferConnectionBlock(
            level,
            config.tcb_channels,
            config.has_tcb_batch_norm,
            config.batch_norm_momentum,
            config.batch_norm_statistics == "frozen",
            name=f"tcb{level}",
        )
        deeper = block(source) if deeper is None else block(source, deeper)
        features.insert(0, deeper)
    return features


def _module(name, features, num_classes, config):
    """The two heads of the module "arm" or "odm", behind its bottleneck blocks where they are on."""
    if config.model.has_head_blocks:
        features = [head_block(f, f"{name}{k}", config.model) for k, f in zip(LEVELS, features, strict=True)]
    bias = "zeros"
    if config.loss.classification == "focal":
        # All anchors count, and nearly all are background. Without a prior their sum would begin a hundred
        # times above the objects' (VGG-16 at 320: gradient norm 2900 instead of 50).
        bias = BackgroundPrior(FOCAL_PRIOR, num_classes)
    return {
        f"{name}_loc": _head(features, f"{name}_loc", 4),
        f"{name}_conf": _head(features, f"{name}_conf", num_classes + 1, bias),
    }


@keras.saving.register_keras_serializable("refinedet_tf")
class BackgroundPrior(keras.initializers.Initializer):
    """Biases of a classification head, for which the softmax gives all objects together `prior`.

    Args:
        prior: in 0..1, both excluded.
        num_classes: C; of each anchor's C + 1 biases the first is ln(C (1 - prior) / prior), the others
            are 0.
    """

    def __init__(self, prior: float, num_classes: int):
        self.prior, self.num_classes = prior, num_classes

    def __call__(self, shape, dtype=None):
        background = math.log(self.num_classes * (1 - self.prior) / self.prior)
        of_anchor = [background] + [0.0] * self.num_classes
        return ops.convert_to_tensor(of_anchor * (shape[0] // len(of_anchor)), dtype)

    def get_config(self):
        return {"prior": self.prior, "num_classes": self.num_classes}


def _head(features, name, values, bias="zeros"):
    """3x3 convolutions, one a level, joined over the levels: float32 [B, A, values]."""
    joined = []
    for level, feature in zip(LEVELS, features, strict=True):
        output = layers.Conv2D(
            ANCHORS_PER_CELL * values,
            3,
            padding="same",
            kernel_initializer=caffe_xavier(),
            bias_initializer=bias,
            name=f"{name}{level}",
        )(feature)
        joined.append(layers.Reshape((-1, values), name=f"{name}{level}_anchors")(output))
    joined = layers.Concatenate(axis=1, name=f"{name}_levels")(joined)
    # Softmax, loss and decoding want float32, whatever precision the network computes in.
    return layers.Activation("linear", dtype="float32", name=name)(joined)


def _check_grids(sources, image_size):
    if image_size is None:
        return
    grids = [tuple(source.shape[1:3]) for source in sources]
    if grids != level_grids(image_size):
        raise InputError(
            f"model.image_size {list(image_size)}: the backbone's grids {grids} do not fit the anchors' "
            f"{level_grids(image_size)}; take multiples of 64"
        )


@contextlib.contextmanager
def _precision(precision):
    """Keras' global policy, only while the layers are made; weights stay float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
