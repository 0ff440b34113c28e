"""Anchors of a config's own, from the network through a training step to detections."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from own_anchors import FIVE_LEVELS, FOUR_LEVELS, tile_by_loops
from resnet import resnet
from small_network import make_trainer, random_batch, state_of
from thin_vgg import thin_vgg

from refinedet_tf.config.values import DEFAULT_LEVELS, level_grids
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.refinedet.network import build_model

SIZE = (64, 96)


def mobilenet(**model):
    small = {"backbone": "mobilenet_v2", "tcb_channels": 8, "width_multiplier": 0.35, "image_size": None}
    return build_model(config_of(2, model={**small, **model}))


NETWORKS = {
    "vgg16": lambda **model: thin_vgg(num_classes=2, **model),
    "resnet101": lambda **model: resnet(image_size=None, **model),
    "mobilenet_v2": mobilenet,
}


@pytest.fixture(scope="module", params=NETWORKS)
def five_levels(request):
    """(name of the backbone, network of any size with a level of stride 4)."""
    keras.utils.set_random_seed(0)
    yield request.param, NETWORKS[request.param](anchors=FIVE_LEVELS)
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def vgg():
    return thin_vgg(num_classes=2, anchors=FIVE_LEVELS)


def test_grids_and_heads_with_stride_4(five_levels):
    _, model = five_levels
    transferred = [model.get_layer(f"tcb{level.number}").output for level in FIVE_LEVELS]
    size = (97, 75)
    network = keras.Model(model.input, [model.output, transferred])
    heads, features = network(np.zeros((1, *size, 3), np.uint8))
    assert [tuple(feature.shape[1:3]) for feature in features] == level_grids(size, FIVE_LEVELS)
    anchors = len(tile_anchors(size, FIVE_LEVELS))
    assert {name: tuple(head.shape[1:]) for name, head in heads.items()} == {
        "arm_loc": (anchors, 4),
        "arm_conf": (anchors, 2),
        "odm_loc": (anchors, 4),
        "odm_conf": (anchors, 3),
    }


def test_a_training_step_changes_every_level(five_levels):
    backbone, model = five_levels
    config = config_of(
        2,
        model={"backbone": backbone, "image_size": (64, 64), "anchors": FIVE_LEVELS},
        training={"learning_rate": 0.01, "batch_size": 2},
        # All anchors count, so that the classification of every level has a gradient.
        loss={"classification": "focal"},
    )
    trainer = make_trainer(config, network=model)
    before = state_of(trainer)
    batch = {name: tf.constant(value) for name, value in random_batch(config, objects=(2, 3)).items()}
    result = trainer.train_step(batch)
    assert all(np.isfinite(float(result[name])) for name in TERMS)
    assert float(result["num_odm_positives"]) > 3
    after = state_of(trainer)
    for path, value in after.items():
        if "_conf" in path and path.endswith("kernel"):
            assert not np.array_equal(value, before[path]), path
    assert not np.array_equal(after["tcb2/TL2_1/kernel"], before["tcb2/TL2_1/kernel"])


def test_where_the_level_of_stride_4_comes_from(five_levels):
    backbone, model = five_levels
    source = model.get_layer("tcb2").input[0]._keras_history.operation
    names = {"vgg16": "conv3_3_norm", "resnet101": "res2c_relu", "mobilenet_v2": "source2_norm"}
    assert source.name == names[backbone]


def test_initial_norms_of_the_level_of_stride_4(vgg):
    assert all((np.asarray(vgg.get_layer(f"conv{k}_3_norm").scale) == 10).all() for k in (3, 4))


def test_the_papers_anchors_said_in_a_config_make_the_same_network(tf_test):
    networks = []
    for anchors in (None, DEFAULT_LEVELS):
        keras.utils.set_random_seed(0)
        networks.append(thin_vgg(anchors=anchors))
    default, said = networks
    assert [v.path for v in said.weights] == [v.path for v in default.weights]
    for mine, theirs in zip(said.weights, default.weights, strict=True):
        tf_test.assertAllEqual(mine, theirs)


def only_one_anchor(model, levels, level, anchor):
    """Fills the heads so that one anchor of the cells of one level is an object of class 2."""
    for name, logits in (("arm_conf", 2), ("odm_conf", 3)):
        for entry in levels:
            bias = np.zeros((entry.per_cell, logits), np.float32)
            bias[:, 0] = 8.0
            if entry == level:
                bias[anchor] = 0
                bias[anchor, -1] = 8.0
            layer = model.get_layer(f"{name}{entry.number}")
            layer.set_weights([np.zeros(layer.kernel.shape), bias.ravel()])
            offsets = model.get_layer(f"{name[:3]}_loc{entry.number}")
            offsets.set_weights([np.zeros(value.shape) for value in offsets.weights])


@pytest.mark.parametrize(("number", "anchor"), [(0, 0), (0, 3), (1, 4), (3, 1)])
def test_detections_are_the_anchors_of_their_level(tf_test, vgg, number, anchor):
    """Heads, anchors and post-processing agree on the order of levels, cells, scales and aspect ratios."""
    level = FIVE_LEVELS[number]
    only_one_anchor(vgg, FIVE_LEVELS, level, anchor)
    config = config_of(
        2,
        model={"image_size": None, "anchors": FIVE_LEVELS},
        postprocess={"nms_iou": 1.0, "pre_nms_per_image": 2000, "max_detections": 500},
    )
    (found,) = Detector(vgg, config, SIZE)([np.zeros((*SIZE, 3), np.uint8)])
    scale, ratio = divmod(anchor, len(level.aspect_ratios))
    shape = {
        "scales": level.scales[scale : scale + 1],
        "aspect_ratios": level.aspect_ratios[ratio : ratio + 1],
    }
    boxes = np.array(tile_by_loops(SIZE, [{"stride": level.stride, **shape}])).clip(0, 1) * np.tile(SIZE, 2)
    assert set(found.labels.tolist()) == {2}
    tf_test.assertAllClose(
        sorted(found.boxes.tolist()), sorted(boxes.astype(np.float32).tolist()), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("place", "factor"), [(0, 1.0), (3, 1.2)])
def test_multi_scale(vgg, place, factor):
    """The anchors keep their pixels at every input size, so that larger inputs find smaller objects."""
    level = FIVE_LEVELS[0]
    only_one_anchor(vgg, FIVE_LEVELS, level, 0)
    config = config_of(2, model={"image_size": (320, 320), "anchors": FIVE_LEVELS})
    detector = MultiScaleDetector(vgg, config)
    assert detector.passes[place].factor == factor
    detector.passes = [detector.passes[place]]
    (found,) = detector([np.zeros((320, 320, 3), np.uint8)])
    inner = found.boxes[(found.boxes.min(axis=1) > 0) & (found.boxes.max(axis=1) < 320)]
    assert len(inner) > 50
    ratio = np.sqrt(level.aspect_ratios[0])
    sides = level.scales[0] / factor * np.array([1 / ratio, ratio])
    np.testing.assert_allclose(inner[:, 2:] - inner[:, :2], np.tile(sides, (len(inner), 1)), atol=0.01)


def test_four_levels_of_different_numbers():
    model = thin_vgg(num_classes=2, anchors=FOUR_LEVELS)
    heads = model(np.zeros((1, *SIZE, 3), np.uint8))
    assert heads["odm_conf"].shape == (1, len(tile_anchors(SIZE, FOUR_LEVELS)), 3)
    assert model.get_layer("arm_loc3").kernel.shape[-1] == 6 * 4
    assert model.get_layer("odm_conf4").kernel.shape[-1] == 1 * 3
