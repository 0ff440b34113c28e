"""The designs of the paper's ablation (Table 3): network, loss, post-processing, training step, export."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import CLASSES, config_of
from detections_by_loops import detect_by_loops, rows_of
from loss_by_loops import divided_by_positives, single_object_loss
from losses_of_heads import padded
from random_heads import detection_heads
from small_detector import assert_same_detections
from small_network import BACKBONE, make_trainer, random_batch, small_backbone
from thin_vgg import thin_vgg
from tiers import slow

from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.savedmodel import serving_signatures
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.losses import TERMS, refinedet_loss
from refinedet_tf.refinedet.postprocessing import postprocess

DESIGNS = ("refinedet", "tiled_anchors", "single_stage")
ANCHORS = tile_anchors((64, 64))
BOX, LABEL = [0.1, 0.2, 0.6, 0.7], 2
ONE_OBJECT = padded([(0, LABEL, *BOX)], batch=1, max_objects=2)
HEADS = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": 4}


def design_config(design, **parts):
    """A config of a small network of a design; `parts` as in `config_of`."""
    model = {
        "design": design,
        "backbone": BACKBONE,
        "image_size": (64, 64),
        "tcb_channels": 16,
        "tcb_batch_norm": True,
        "batch_norm_momentum": 0.9,
    }
    return config_of(CLASSES, model=model, training={"learning_rate": 0.003}, **parts)


def heads_of(design, batch=1, seed=0):
    """Random heads; the scores of the ARM leave some anchors below every threshold."""
    heads = detection_heads(batch, len(ANCHORS), len(CLASSES), seed)
    return {name: value for name, value in heads.items() if design != "single_stage" or name[:3] == "odm"}


def no_arm():
    """The outputs for one image of an ARM that moves no anchor."""
    widths = {"arm_loc": 4, "arm_conf": 2}
    return {name: np.zeros((len(ANCHORS), width), np.float32) for name, width in widths.items()}


# Network


@pytest.fixture(scope="module")
def thin():
    """Each design is built on VGG-16 with few channels and with blocks before the heads."""
    return {design: thin_vgg(design=design, head_blocks=True) for design in DESIGNS}


@pytest.mark.parametrize("design", DESIGNS)
def test_shapes_of_the_heads(thin, design):
    heads = thin[design](np.zeros((2, 64, 128, 3), np.uint8))
    expected = {name: width for name, width in HEADS.items() if design != "single_stage" or name[:3] == "odm"}
    num_anchors = len(tile_anchors((64, 128)))
    assert {name: tuple(value.shape) for name, value in heads.items()} == {
        name: (2, num_anchors, width) for name, width in expected.items()
    }


def shapes_by_path(network):
    return {variable.path: tuple(variable.shape) for variable in network.variables}


def test_tiled_anchors_leave_the_network_unchanged(thin):
    assert shapes_by_path(thin["tiled_anchors"]) == shapes_by_path(thin["refinedet"])


def test_single_stage_has_neither_arm_nor_transfer_connection_blocks(thin):
    full, single = shapes_by_path(thin["refinedet"]), shapes_by_path(thin["single_stage"])
    gone = {path.split("/")[0] for path in full.keys() - single.keys()}
    assert single.keys() < full.keys()
    blocks = {name for name in gone if name.startswith("arm") and "_block_" in name}
    heads = {f"arm_{head}{level}" for head in ("loc", "conf") for level in (3, 4, 5, 6)}
    assert gone - blocks == heads | {f"tcb{level}" for level in (3, 4, 5, 6)}
    assert len({name.split("_")[0] for name in blocks}) == 4
    # The blocks before the heads have the channels of what they stand on: conv4_3, not a TCB.
    (projection,) = (path for path in single if path.startswith("odm3_block_branch1") and "kernel" in path)
    assert single[projection][2] == 16 and full[projection][2] == 8


# Loss


def test_loss_of_tiled_anchors_against_loops(tf_test):
    """The ODM's terms are those of heads whose ARM moves nothing; the ARM's own terms do not change."""
    heads = heads_of("tiled_anchors", seed=1)
    terms = refinedet_loss(heads, ONE_OBJECT, ANCHORS, design_config("tiled_anchors"))
    first = {name: value[0] for name, value in heads.items()}
    unmoved = {**first, "arm_loc": np.zeros_like(first["arm_loc"])}
    for module, of_module in (("arm", first), ("odm", unmoved)):
        expected = divided_by_positives(single_object_loss(of_module, BOX, LABEL, ANCHORS))
        for name in (f"{module}_loc", f"{module}_conf", f"num_{module}_positives"):
            tf_test.assertAllClose(terms[name], expected[name], rtol=1e-4, atol=0, msg=name)
    cascade = refinedet_loss(heads, ONE_OBJECT, ANCHORS, design_config("refinedet"))
    tf_test.assertAllEqual(terms["arm_loc"], cascade["arm_loc"])
    assert float(terms["odm_loc"]) != float(cascade["odm_loc"])


@pytest.mark.parametrize("threshold", [0.01, 1.0])
def test_loss_of_single_stage_against_loops(tf_test, threshold):
    """The ODM's terms on tiled anchors; without object scores there is nothing to filter by."""
    heads = heads_of("single_stage", seed=2)
    config = design_config("single_stage", loss={"objectness_threshold": threshold})
    terms = refinedet_loss(heads, ONE_OBJECT, ANCHORS, config)
    first = {name: value[0] for name, value in heads.items()}
    expected = single_object_loss(no_arm() | first, BOX, LABEL, ANCHORS, threshold=0.0)
    count = expected["num_odm_positives"]
    assert count > 0
    tf_test.assertAllEqual(terms["num_odm_positives"], count)
    for name in ("odm_loc", "odm_conf"):
        tf_test.assertAllClose(terms[name], expected[name] / count, rtol=1e-4, atol=0)
    for name in ("arm_loc", "arm_conf", "num_arm_positives"):
        tf_test.assertAllEqual(terms[name], 0)
    for value in terms.values():
        tf_test.assertDTypeEqual(value, np.float32)
        tf_test.assertShapeEqual(value, np.zeros(()))


@pytest.mark.parametrize(("threshold", "everyone"), [(0.0, True), (0.01, False)])
def test_threshold_0_lets_every_unmatched_anchor_be_a_negative(threshold, everyone):
    """All negatives may be chosen, also those whose object score is 0 in float32."""
    heads = heads_of("refinedet", seed=3)
    heads["arm_conf"][0, ::2, 0] = 1e4
    odm_conf = tf.constant(heads.pop("odm_conf"))
    config = design_config(
        "refinedet", loss={"objectness_threshold": threshold, "negatives_per_positive": 1e4}
    )
    with tf.GradientTape() as tape:
        tape.watch(odm_conf)
        terms = refinedet_loss({**heads, "odm_conf": odm_conf}, ONE_OBJECT, ANCHORS, config)
        loss = terms["odm_conf"]
    takes_part = tape.gradient(loss, odm_conf).numpy()[0].any(axis=-1)
    assert takes_part.all() == everyone
    assert takes_part.any()


# Post-processing


def test_threshold_0_drops_no_anchor_at_inference(tf_test):
    """The detections are those of heads whose ARM sees an object everywhere."""
    heads = heads_of("refinedet", batch=2, seed=4)
    heads["arm_conf"][:, ::2, 0] = 1e4
    sure = {**heads, "arm_conf": np.tile(np.array([-9, 9], np.float32), (2, len(ANCHORS), 1))}
    limits = {"pre_nms_per_image": None, "max_detections": 1000}
    without = design_config("refinedet", postprocess={**limits, "objectness_threshold": 0.0})
    found = postprocess(heads, ANCHORS, without)
    expected = postprocess(sure, ANCHORS, design_config("refinedet", postprocess=limits))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        tf_test.assertAllEqual(value, expected[name])
    fewer = postprocess(heads, ANCHORS, design_config("refinedet", postprocess=limits))
    assert (fewer["num_detections"].numpy() < found["num_detections"].numpy()).all()


@pytest.mark.parametrize("limits", [{}, {"pre_nms_per_image": None, "pre_nms_per_class": 40}])
def test_tiled_anchors_are_what_the_odm_moves(tf_test, limits):
    heads = heads_of("tiled_anchors", batch=2, seed=5)
    found = postprocess(heads, ANCHORS, design_config("tiled_anchors", postprocess=limits))
    unmoved = {**heads, "arm_loc": np.zeros_like(heads["arm_loc"])}
    expected = postprocess(unmoved, ANCHORS, design_config("refinedet", postprocess=limits))
    moved = postprocess(heads, ANCHORS, design_config("refinedet", postprocess=limits))
    assert found["num_detections"].numpy().min() > 10
    tf_test.assertAllClose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(found["detection_boxes"] - moved["detection_boxes"]).max() > 0.01


def test_single_stage_detections_against_loops(tf_test):
    config = design_config("single_stage", postprocess={"objectness_threshold": 1.0})
    heads = heads_of("single_stage", batch=2, seed=6)
    result = postprocess(heads, ANCHORS, config)
    without_filter = dataclasses.replace(config.postprocess, objectness_threshold=0.0)
    for image in range(2):
        of_image = no_arm() | {name: value[image] for name, value in heads.items()}
        expected = detect_by_loops(of_image, ANCHORS, without_filter)
        actual = rows_of(result, image)
        assert len(expected) > 10
        tf_test.assertAllEqual(actual[:, 0], expected[:, 0])
        tf_test.assertAllClose(actual[:, 1:], expected[:, 1:], rtol=0, atol=2e-5)


# All together


TRAINED = [("tiled_anchors", "mining"), ("single_stage", "mining")]
TRAINED += [slow(("refinedet", "mining")), slow(("refinedet", "focal"))]


@pytest.fixture(scope="module", params=TRAINED)
def trained(request):
    """The config, the network, its values before, and what 12 steps on one batch reported."""
    design, classification = request.param
    config = design_config(design, loss={"classification": classification})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        keras.utils.set_random_seed(0)
        trainer = make_trainer(config)
    before = {variable.path: variable.numpy() for variable in trainer.network.trainable_variables}
    results = [trainer.train_step(random_batch(config)) for _ in range(12)]
    return config, trainer.network, before, results


def test_training_lowers_the_loss_and_moves_every_variable(trained):
    config, network, before, results = trained
    totals = [sum(float(result[name]) for name in TERMS) for result in results]
    assert np.isfinite(totals).all()
    assert max(totals[-3:]) < 0.75 * totals[0]
    has_arm = config.model.design != "single_stage"
    resting = {v.path for v in network.trainable_variables if np.array_equal(v.numpy(), before[v.path])}
    # No object of the batch is as large as the anchors of levels 4 to 6, which regress nothing then.
    modules = ("arm", "odm") if has_arm else ("odm",)
    assert resting == {f"{module}_loc{level}/bias" for module in modules for level in (4, 5, 6)}
    assert all((float(result["num_arm_positives"]) > 0) == has_arm for result in results)
    assert all((float(result["arm_loc"]) > 0) == has_arm for result in results)


def test_exported_graph_detects_what_the_network_detects(trained):
    config, network, *_ = trained
    image = random_batch(config)["images"][:1]
    served = serving_signatures(DetectionGraphs(network, config))["serving_tensor"](image)
    assert_same_detections(served, Detector(network, config)(list(image)))
