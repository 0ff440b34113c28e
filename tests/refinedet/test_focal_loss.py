"""The focal loss in place of hard negative mining, against its definition in float64."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import CLASSES, config_of
from loss_by_loops import softmax
from losses_of_heads import loss_and_gradients, padded
from random_heads import training_heads
from small_network import BACKBONE

from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import decode, pairwise_iou
from refinedet_tf.refinedet.losses import focal_loss, refinedet_loss
from refinedet_tf.refinedet.network import BackgroundPrior, build_model

ANCHORS = tile_anchors((64, 64))
BOX, LABEL = np.array([0.1, 0.2, 0.6, 0.7], np.float32), 2
"""The object of the first image; the second image has none."""

GAMMAS = [0.0, 0.3, 1.0, 2.0, 5.0]


def focal_config(**loss):
    """A config with the focal loss, except for the fields of its part `loss` that are given."""
    return config_of(
        CLASSES,
        model={"backbone": BACKBONE, "image_size": (64, 64), "tcb_channels": 8},
        loss={"classification": "focal", **loss},
    )


def heads_of_two_images():
    return training_heads(2, len(ANCHORS), len(CLASSES))


def ground_truth_of(present=True):
    return padded([(0, LABEL, *BOX)] if present else [], batch=2, max_objects=2)


def is_positive(boxes):
    """Which anchors the matching gives to the object, bool [A]."""
    iou = np.asarray(pairwise_iou(boxes, BOX[None]))[:, 0]
    return (iou >= 0.5) | ((np.arange(len(boxes)) == iou.argmax()) & (iou.max() > 1e-6))


def focal_sums_by_loops(heads, config):
    """The classification sum and the number of positives of both modules, computed with loops."""
    loss_config = config.loss
    sums = {"arm": 0.0, "odm": 0.0}
    counts = {"arm": 0, "odm": 0}
    for image in range(2):
        refined = np.asarray(decode(heads["arm_loc"][image], ANCHORS))
        objectness = softmax(heads["arm_conf"][image])[:, 1]
        for module, boxes, label in (("arm", ANCHORS, 1), ("odm", refined, LABEL)):
            p = softmax(heads[f"{module}_conf"][image])
            positive = is_positive(boxes) if image == 0 else np.zeros(len(ANCHORS), bool)
            counts[module] += positive.sum()
            for a in range(len(ANCHORS)):
                if positive[a]:
                    weight, of_class = loss_config.focal_alpha, p[a, label]
                elif module == "arm" or objectness[a] >= loss_config.objectness_threshold:
                    weight, of_class = 1 - loss_config.focal_alpha, p[a, 0]
                else:
                    continue
                sums[module] -= weight * (1 - of_class) ** loss_config.focal_gamma * math.log(of_class)
    return sums, counts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objectness_threshold": 0.0},
        {"objectness_threshold": 0.1},
        {"focal_alpha": 0.6, "focal_gamma": 0.5},
        {"focal_gamma": 5.0, "negatives_per_positive": 0.0},
        {"focal_gamma": 0.0, "focal_alpha": 0.5, "objectness_threshold": 0.0},
    ],
)
def test_against_the_definition(tf_test, settings):
    heads, config = heads_of_two_images(), focal_config(**settings)
    terms = refinedet_loss(heads, ground_truth_of(), ANCHORS, config)
    sums, counts = focal_sums_by_loops(heads, config)
    for module in ("arm", "odm"):
        assert counts[module] > 0
        tf_test.assertAllEqual(terms[f"num_{module}_positives"], counts[module])
        tf_test.assertAllClose(terms[f"{module}_conf"], sums[module] / counts[module], rtol=1e-5, atol=0)


def test_regression_and_counts_are_those_of_mining(tf_test):
    found, wanted = (
        refinedet_loss(heads_of_two_images(), ground_truth_of(), ANCHORS, focal_config(classification=kind))
        for kind in ("focal", "mining")
    )
    for name in ("arm_loc", "odm_loc", "num_arm_positives", "num_odm_positives"):
        tf_test.assertAllEqual(found[name], wanted[name])
        assert float(wanted[name]) > 0
    assert float(found["odm_conf"]) != float(wanted["odm_conf"])


def loss_and_gradient(logits, classes, alpha, gamma):
    """`focal_loss` of logits [A, C + 1], summed, and its gradient."""
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        losses = focal_loss(cross_entropy, classes > 0, alpha, gamma)
        total = tf.reduce_sum(losses)
    return losses.numpy(), tape.gradient(total, logits).numpy()


def focal_by_definition(logits, classes, alpha, gamma):
    p = np.take_along_axis(softmax(logits), classes[:, None], axis=1)[:, 0]
    return -np.where(classes > 0, alpha, 1 - alpha) * (1 - p) ** gamma * np.log(p)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_against_finite_differences(tf_test, gamma):
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(0, 2, (40, 4)), rng.integers(0, 4, 40)
    losses, gradient = loss_and_gradient(logits, classes, 0.25, gamma)
    tf_test.assertAllClose(losses, focal_by_definition(logits, classes, 0.25, gamma), rtol=1e-4, atol=0)
    step = 1e-5
    for column in range(4):
        change = step * np.eye(4)[column]
        up, down = (focal_by_definition(logits + s * change, classes, 0.25, gamma) for s in (1, -1))
        tf_test.assertAllClose(gradient[:, column], (up - down) / (2 * step), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_loss_and_gradient_are_finite_for_every_probability(tf_test, gamma):
    """The logit of the class lies above or below the others by anything between 0 and 1e4."""
    margins = np.array([0, 1e-6, 1, 10, 15, 17, 20, 50, 100, 1e3, 1e4])
    margins = np.concatenate([margins, -margins])
    classes = np.arange(len(margins)) % 2
    logits = np.zeros((len(margins), 2))
    logits[np.arange(len(margins)), classes] = margins
    losses, gradient = loss_and_gradient(logits, classes, 0.25, gamma)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()
    sure = margins >= 100
    tf_test.assertAllEqual(losses[sure], np.zeros_like(losses[sure]))
    tf_test.assertAllEqual(gradient[sure], np.zeros_like(gradient[sure]))
    wrong = margins <= -10
    weight = np.where(classes > 0, 0.25, 0.75)
    tf_test.assertAllClose(losses[wrong], (weight * -margins)[wrong], rtol=1e-3, atol=0)
    # The gradient by the logit of the class is that of the weighted cross-entropy.
    by_logit = gradient[np.arange(len(margins)), classes]
    tf_test.assertAllClose(by_logit[wrong], -weight[wrong], rtol=0.01, atol=0)


def test_a_batch_without_objects_is_divided_by_one(tf_test):
    ground_truth = ground_truth_of(present=False)
    terms, gradients = loss_and_gradients(heads_of_two_images(), ground_truth, ANCHORS, focal_config())
    for name in ("num_arm_positives", "num_odm_positives", "arm_loc", "odm_loc"):
        tf_test.assertAllEqual(terms[name], 0)
    p = softmax(heads_of_two_images()["arm_conf"])[..., 0]
    expected = -(0.75 * (1 - p) ** 2 * np.log(p)).sum()
    tf_test.assertAllClose(terms["arm_conf"], expected, rtol=1e-5, atol=0)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_filtered_negatives_have_no_gradient_and_all_others_have_one(tf_test):
    heads = heads_of_two_images()
    config = focal_config(objectness_threshold=0.1)
    _, gradients = loss_and_gradients(heads, ground_truth_of(), ANCHORS, config)
    allowed = softmax(heads["arm_conf"])[..., 1] >= 0.1
    allowed[0] |= is_positive(np.asarray(decode(heads["arm_loc"][0], ANCHORS)))
    assert 0 < allowed.sum() < allowed.size
    tf_test.assertAllEqual(gradients["odm_conf"].any(axis=-1), allowed)
    assert gradients["arm_conf"].any(axis=-1).all()


@pytest.mark.parametrize("num_classes", [1, 20])
def test_prior_of_the_background(tf_test, num_classes):
    bias = np.asarray(BackgroundPrior(0.01, num_classes)((3 * (num_classes + 1),), "float32"))
    p = softmax(bias.reshape(3, num_classes + 1))
    tf_test.assertAllClose(p[:, 0], [0.99] * 3, rtol=1e-6, atol=0)
    tf_test.assertAllClose(p[:, 1:], np.full((3, num_classes), 0.01 / num_classes), rtol=1e-4, atol=0)


def test_only_the_focal_loss_starts_with_the_prior(tf_test, small_network, tmp_path):
    """The prior is in the classification heads of all levels, also after a model file was read."""
    mining, focal = (build_model(focal_config(classification=kind)) for kind in ("mining", "focal"))
    focal.save(tmp_path / "focal.keras")
    again = keras.saving.load_model(tmp_path / "focal.keras")
    assert again.config == focal.config
    assert again.get_layer("odm_conf3").get_config() == focal.get_layer("odm_conf3").get_config()
    for level in (3, 4, 5, 6):
        for name, classes in (("arm_conf", 1), ("odm_conf", 3)):
            biases = [np.asarray(m.get_layer(f"{name}{level}").bias) for m in (mining, focal, again)]
            assert not biases[0].any()
            tf_test.assertAllClose(biases[1], [math.log(99 * classes), *[0] * classes] * 3, rtol=1e-6, atol=0)
            tf_test.assertAllEqual(biases[2], biases[1])
        for name in ("arm_loc", "odm_loc"):
            assert not np.asarray(focal.get_layer(f"{name}{level}").bias).any()
