import keras
import numpy as np
import pytest
from config_of import config_of
from image_files import noise
from network_values import assert_heads
from resnet import resnet

from refinedet_tf.config.values import DEFAULT_LEVELS, level_grids
from refinedet_tf.refinedet.batch_norm import BatchNormalization
from refinedet_tf.refinedet.network import build_model

LEVELS = [level.number for level in DEFAULT_LEVELS]


@pytest.fixture(scope="module")
def free():
    return resnet(image_size=None)


def norms_of(model):
    return [
        layer for layer in model._flatten_layers() if isinstance(layer, BatchNormalization) and layer.weights
    ]


@pytest.mark.parametrize("size", [(64, 64), (64, 192), (97, 130), (106, 75)])
def test_any_size(free, size):
    features = [free.get_layer(f"tcb{level}").output for level in LEVELS]
    heads, features = keras.Model(free.input, [free.output, features])(noise(1, *size))
    assert [tuple(feature.shape[1:3]) for feature in features] == level_grids(size)
    assert_heads(heads, size, 2)


@pytest.mark.parametrize("size", [8, 9, 10, 11])
def test_first_pooling_starts_at_pixel_0_and_rounds_up(tf_test, free, size):
    pool = keras.Model(free.get_layer("conv1_relu").output, free.get_layer("pool1").output)
    features = np.random.default_rng(size).uniform(0, 1, (1, size, size, 64)).astype(np.float32)
    found = np.asarray(pool(features))
    starts = range(0, size, 2)
    expected = [[features[:, y : y + 3, x : x + 3].max(axis=(1, 2)) for x in starts] for y in starts]
    tf_test.assertAllEqual(found, np.array(expected).transpose(2, 0, 1, 3))


def test_stride_sits_in_the_first_1x1(free):
    for stage, first in ((3, "res3a"), (4, "res4a"), (5, "res5a"), (6, "res6")):
        strides = {b: free.get_layer(f"{first}_branch{b}").strides for b in ("1", "2a", "2b", "2c")}
        assert strides == {"1": (2, 2), "2a": (2, 2), "2b": (1, 1), "2c": (1, 1)}, stage
    assert free.get_layer("res2a_branch1").strides == (1, 1)


def test_loc_and_conf_of_a_level_share_one_block(free):
    for level in LEVELS:
        for module in ("arm", "odm"):
            block = free.get_layer(f"{module}{level}_block_relu").output
            for values in ("loc", "conf"):
                assert free.get_layer(f"{module}_{values}{level}").input is block


def test_head_blocks_come_after_the_arm_features_only_for_the_heads(free):
    """The TCBs take the backbone's maps, not what the ARM's blocks make of them."""
    for level, source in zip(LEVELS, ("res3b3_relu", "res4b22_relu", "res5c_relu", "res6_relu"), strict=True):
        inputs = free.get_layer(f"tcb{level}").input
        first = inputs[0] if isinstance(inputs, list | tuple) else inputs
        assert first is free.get_layer(source).output


BACKBONE = ("conv1_bn", "res2a_branch1_bn", "res5c_branch2c_bn")
ALL_PARTS = (*BACKBONE, "res6_branch1_bn", "TL3_1_bn", "P4-up_bn", "arm3_block_branch1_bn")
ALL_PARTS += ("odm6_block_branch2c_bn",)
"""A layer of BatchNorm in each part of the network."""


@pytest.mark.parametrize(
    ("statistics", "frozen"), [("moving", ()), ("frozen_backbone", BACKBONE), ("frozen", ALL_PARTS)]
)
def test_frozen_statistics_by_config(statistics, frozen):
    model = resnet(image_size=(64, 64), batch_norm_statistics=statistics, batch_norm_momentum=0.5)
    found = {layer.name: layer for layer in norms_of(model)}
    assert len(found) == 104 + 4 + 15 + 32
    for name in ALL_PARTS:
        assert found[name].frozen == (name in frozen)
    assert {layer.momentum for layer in found.values()} == {0.5}


def test_other_backbones_have_the_authors_extras_only_by_config():
    def layers_of(**model):
        small = {"backbone": "mobilenet_v2", "width_multiplier": 0.35, "tcb_channels": 8}
        model = build_model(config_of(("a", "b"), model={**small, "image_size": (64, 64), **model}))
        return {layer.name for layer in model._flatten_layers()}

    plain, full = layers_of(), layers_of(head_blocks=True, tcb_batch_norm=True)
    for name in ("arm3_block_branch1", "odm6_block_branch2c_bn", "TL3_1_bn"):
        assert name not in plain
        assert name in full


def test_bgr_or_rgb(tf_test, free):
    def first_layer(model):
        return keras.Model(model.input, model.get_layer("conv1").output)

    rgb = resnet(image_size=None, channel_order="rgb")
    rgb.set_weights(free.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    # The mean of each colour stays with its colour.
    swapped = images[..., ::-1] - [104, 117, 123] + [123, 117, 104]
    expected = np.asarray(first_layer(free)(images))
    tf_test.assertAllClose(first_layer(rgb)(swapped), expected, rtol=1e-3, atol=1e-3)
    assert np.abs(np.asarray(first_layer(rgb)(images)) - expected).max() > 1
