"""The network: image -> the four heads of RefineDet, a functional Keras model."""

import contextlib

import keras
from keras import layers

from refinedet_tf.anchors import ANCHORS_PER_CELL, level_grids
from refinedet_tf.backbones import ADAPTED, build_features
from refinedet_tf.backbones.resnet101 import head_block
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.layers import TransferConnectionBlock, caffe_xavier

LEVELS = (3, 4, 5, 6)
"""Level k has stride 2 ** k."""


def build_model(config: Config) -> keras.Model:
    """The RefineDet network (paper, figure 1) with initial weights as configured.

    Args:
        config: `model` and `training.precision` are used, and the number C of classes.

    Returns:
        A model of images [B, H, W, 3], RGB 0..255, of any number type, to a dict of float32
        logits and offsets, A anchors in the order of `tile_anchors((H, W))`:
        "arm_loc" [B, A, 4] and "odm_loc" [B, A, 4], offsets (cx, cy, w, h);
        "arm_conf" [B, A, 2], (background, object); "odm_conf" [B, A, C + 1], background first.
        H and W are fixed by `model.image_size`, or free if that is null.

    Raises:
        InputError: the class names are not known, or the backbone refuses its settings.
    """
    size = config.model.image_size or (None, None)
    with _precision(config.training.precision):
        images = keras.Input((*size, 3), name="images", dtype="float32")
        sources = build_features(images, config.model)
        _check_grids(sources, config.model.image_size)
        features = _transfer(sources, config.model)
        if config.model.has_head_blocks:
            sources = [head_block(f, f"arm{k}", config.model) for k, f in zip(LEVELS, sources, strict=True)]
            features = [head_block(f, f"odm{k}", config.model) for k, f in zip(LEVELS, features, strict=True)]
        heads = {
            "arm_loc": _head(sources, "arm_loc", 4),
            "arm_conf": _head(sources, "arm_conf", 2),
            "odm_loc": _head(features, "odm_loc", 4),
            "odm_conf": _head(features, "odm_conf", config.num_classes + 1),
        }
    model = keras.Model(images, heads, name="refinedet")
    _load_initial_weights(model, config.model)
    return model


def _load_initial_weights(model, config):
    # The adapter's networks have loaded "imagenet" by themselves.
    if config.weights is None or (config.weights == "imagenet" and config.backbone in ADAPTED):
        return
    from refinedet_tf.weights import load_initial_weights

    load_initial_weights(model, config.weights)


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


def _head(features, name, values):
    """3x3 convolutions, one a level, joined over the levels: float32 [B, A, values]."""
    joined = []
    for level, feature in zip(LEVELS, features, strict=True):
        output = layers.Conv2D(
            ANCHORS_PER_CELL * values,
            3,
            padding="same",
            kernel_initializer=caffe_xavier(),
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
