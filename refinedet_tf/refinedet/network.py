"""The network: a functional Keras model from images to the heads of RefineDet."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops
from pydantic import TypeAdapter

from refinedet_tf.config import Config, ModelConfig
from refinedet_tf.config.files import config_to_json
from refinedet_tf.config.values import AnchorLevel, level_grids
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.backbones import build_features
from refinedet_tf.refinedet.backbones.resnet101 import head_block
from refinedet_tf.refinedet.layers import L2Normalize, TransferConnectionBlock, caffe_xavier
from refinedet_tf.tensors import Tensor

Part = Literal["backbone", "extra", "transfer", "heads"]
"""A part of the network: the layers of which there are ImageNet weights; the further levels and the L2
normalisation that RefineDet adds to them; the transfer connection blocks; and the heads of ARM and ODM with
their bottleneck blocks."""

FOCAL_PRIOR = 0.01
"""The initial probability of an object at every anchor if the focal loss is used; pi in RetinaNet (Lin et
al., ICCV 2017, section 4.1)."""


@keras.saving.register_keras_serializable("refinedet_tf")
class RefineDet(keras.Model):
    """The network (paper, figure 1), a functional model from images to the outputs of the heads.

    It takes images [B, H, W, 3], RGB 0..255, of any number type, and returns a dict of float32 logits and
    offsets for A anchors in the order of `anchors((H, W))`:
    "arm_loc" [B, A, 4] and "odm_loc" [B, A, 4], offsets (cx, cy, w, h);
    "arm_conf" [B, A, 2], logits of (background, object);
    "odm_conf" [B, A, C + 1], logits of the classes, background first.
    H and W are fixed by `model.image_size`, or free if it is null.

    The design "single_stage" has only the "odm" heads, on the backbone's feature maps. The design
    "tiled_anchors" has the same layers as "refinedet".

    Attributes:
        config: the config that the network was built from.
    """

    def __init__(self, config: Config) -> None:
        """Builds the network with random weights.

        Args:
            config: `model` (except `model.weights`), `training.precision`, `loss.classification` and the
                number C of classes are used.

        Raises:
            InputError: the class names are not known, or `model.image_size` does not fit the backbone's
                grids.
        """
        size = config.model.image_size or (None, None)
        with _precision(config.training.precision):
            images = keras.Input((*size, 3), name="images", dtype="float32")
            sources = build_features(images, config.model)
            _check_grids(sources, config.model)
            if config.model.design == "single_stage":
                features = sources
                heads = _module("odm", features, config.num_classes, config)
            else:
                features = _transfer(sources, config.model)
                heads = _module("arm", sources, 1, config)
                heads |= _module("odm", features, config.num_classes, config)
        super().__init__(images, heads, name="refinedet")
        self.config = config
        self._parts = _parts(images, sources, features, self.layers)

    def anchors(self, image_size: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the tiled anchors, float32 [A, 4]; see `tile_anchors`.

        Args:
            image_size: (height, width) in pixels; None: `model.image_size`.

        Raises:
            ValueError: both are null.
        """
        size = image_size or self.config.model.image_size
        if size is None:
            raise ValueError("model.image_size is null: give the size of the images")
        return tile_anchors(size, self.config.model.anchors)

    def part_of(self, path: str) -> Part:
        """Returns the part of the network to which a layer or a variable belongs.

        Args:
            path: the name of a layer, after the names of the layers that contain it; or the `path` of a
                variable.
        """
        # The layers inside a backbone of another package are known by that backbone only.
        return self._parts.get(path.partition("/")[0], "backbone")

    @property
    def classifiers(self) -> dict[str, int]:
        """The number of anchors per cell of the ODM's classification layers, by the names of the layers.

        Their channels, the last axis of their variables, are ordered by (anchor of the cell, class).
        """
        return {f"odm_conf{level.number}": level.per_cell for level in self.config.model.anchor_levels}

    @property
    def channel_order(self) -> str | None:
        """The order of the colour channels in the backbone, "bgr" or "rgb"; None where it has no choice."""
        return getattr(self.get_layer("preprocessing"), "channel_order", None)

    def get_config(self) -> dict[str, Any]:
        return {"config": config_to_json(self.config)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "RefineDet":
        return cls(TypeAdapter(Config).validate_json(config["config"]))


def build_model(config: Config) -> RefineDet:
    """Builds the network of a config with random weights; see `RefineDet`.

    Its weights are then loaded by `load_initial_weights`, by `load_weights` or from a checkpoint.
    """
    return RefineDet(config)


def _parts(
    images: keras.KerasTensor,
    sources: Sequence[keras.KerasTensor],
    features: Sequence[keras.KerasTensor],
    all_layers: Sequence[layers.Layer],
) -> dict[str, Part]:
    """Returns the part of each layer by its name, from what the feature maps depend on.

    Args:
        images: the input of the network.
        sources: the backbone's feature maps. The last level, of stride 64, is always RefineDet's own.
        features: the inputs of the ODM.
        all_layers: the layers of the network.
    """

    def layers_before(maps: Sequence[keras.KerasTensor]) -> set[str]:
        return {operation.name for operation in keras.Function(images, maps).operations}

    norms = {layer.name for layer in all_layers if isinstance(layer, L2Normalize)}
    parts: dict[str, Part] = dict.fromkeys((layer.name for layer in all_layers), "heads")
    parts.update(dict.fromkeys(layers_before(features), "transfer"))
    parts.update(dict.fromkeys(layers_before(sources), "extra"))
    parts.update(dict.fromkeys(layers_before(sources[:-1]) - norms, "backbone"))
    return parts


def _transfer(sources: Sequence[keras.KerasTensor], model_config: ModelConfig) -> list[keras.KerasTensor]:
    """Builds the ODM features of the levels, from the deepest level up."""
    deeper: keras.KerasTensor | None = None
    features: list[keras.KerasTensor] = []
    for level, source in reversed(list(zip(model_config.anchor_levels, sources, strict=True))):
        block = TransferConnectionBlock(
            level.number,
            model_config.tcb_channels,
            model_config.has_tcb_batch_norm,
            model_config.batch_norm_momentum,
            model_config.batch_norm_statistics == "frozen",
            name=f"tcb{level.number}",
        )
        deeper = block(source) if deeper is None else block(source, deeper)
        features.insert(0, deeper)
    return features


def _module(
    name: str, features: Sequence[keras.KerasTensor], num_classes: int, config: Config
) -> dict[str, keras.KerasTensor]:
    """Builds the two heads of the module "arm" or "odm", after its bottleneck blocks if it has them."""
    levels = config.model.anchor_levels
    if config.model.has_head_blocks:
        features = [
            head_block(feature, f"{name}{level.number}", config.model)
            for level, feature in zip(levels, features, strict=True)
        ]
    bias: str | keras.initializers.Initializer = "zeros"
    if config.loss.classification == "focal":
        # All anchors count, and nearly all are background. Without a prior, their loss would at first be a
        # hundred times the objects' (VGG-16 at 320 pixels: gradient norm 2900 instead of 50).
        bias = BackgroundPrior(FOCAL_PRIOR, num_classes)
    return {
        f"{name}_loc": _head(features, levels, f"{name}_loc", 4),
        f"{name}_conf": _head(features, levels, f"{name}_conf", num_classes + 1, bias),
    }


@keras.saving.register_keras_serializable("refinedet_tf")
class BackgroundPrior(keras.initializers.Initializer):
    """Biases of a classification head with which the softmax gives all objects together `prior`.

    The first of each anchor's C + 1 biases is ln(C (1 - prior) / prior); the others are 0.

    Args:
        prior: a number above 0 and below 1.
        num_classes: C.
    """

    def __init__(self, prior: float, num_classes: int) -> None:
        self.prior, self.num_classes = prior, num_classes

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        background = math.log(self.num_classes * (1 - self.prior) / self.prior)
        anchor_biases = [background] + [0.0] * self.num_classes
        return ops.convert_to_tensor(anchor_biases * (shape[0] // len(anchor_biases)), dtype)

    def get_config(self) -> dict[str, Any]:
        return {"prior": self.prior, "num_classes": self.num_classes}


def _head(
    features: Sequence[keras.KerasTensor],
    levels: Sequence[AnchorLevel],
    name: str,
    values: int,
    bias: str | keras.initializers.Initializer = "zeros",
) -> keras.KerasTensor:
    """Builds one 3x3 convolution per level and joins their outputs to float32 [B, A, values]."""
    outputs = []
    for level, feature in zip(levels, features, strict=True):
        output = layers.Conv2D(
            level.per_cell * values,
            3,
            padding="same",
            kernel_initializer=caffe_xavier(),
            bias_initializer=bias,
            name=f"{name}{level.number}",
        )(feature)
        outputs.append(layers.Reshape((-1, values), name=f"{name}{level.number}_anchors")(output))
    joined = layers.Concatenate(axis=1, name=f"{name}_levels")(outputs)
    # Softmax, loss and decoding need float32, whatever the precision of the network.
    return layers.Activation("linear", dtype="float32", name=name)(joined)


def _check_grids(sources: Sequence[keras.KerasTensor], model_config: ModelConfig) -> None:
    if model_config.image_size is None:
        return
    grids = [tuple(source.shape[1:3]) for source in sources]
    wanted = level_grids(model_config.image_size, model_config.anchors)
    if grids != wanted:
        raise InputError(
            f"model.image_size {list(model_config.image_size)}: the backbone's grids {grids} do not fit the "
            f"anchors' {wanted}; use multiples of 64"
        )


@contextlib.contextmanager
def _precision(precision: str) -> Iterator[None]:
    """Sets Keras' global dtype policy while the layers are made; the weights stay float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
