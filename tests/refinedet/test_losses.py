import math

import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from golden_arrays import GOLDEN_FOLDER
from loss_by_loops import divided_by_positives, single_object_loss
from losses_of_heads import loss_and_gradients, padded
from random_heads import NAMES as HEADS
from random_heads import training_heads

from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import decode, pairwise_iou
from refinedet_tf.refinedet.losses import LEFT_OUT, TERMS, refinedet_loss, smooth_l1
from refinedet_tf.refinedet.matching import match

GOLDEN = np.load(GOLDEN_FOLDER / "loss.npz")
CASES = {
    "voc": "objects that overlap, difficult ones used",
    "coco": "objects that overlap, difficult ones left out",
    "tiny5": "tiny objects whose overlaps tie",
    "nogt": "no objects",
}
"""Cases of the golden file, each 4 images; with objects one of the images has none."""

ANCHORS = GOLDEN["prior_boxes"][:, [1, 0, 3, 2]]
"""Every tenth anchor of 320 x 320."""


def golden_ground_truth(case):
    rows = GOLDEN["tiny5/gt" if case == "tiny5" else "gt"]
    if case == "nogt":
        rows = rows[:0]
    if case == "coco":
        rows = rows[rows[:, 7] == 0]
    return padded(rows[:, [0, 1, 4, 3, 6, 5]], batch=4, max_objects=26)


def golden_anchors(case, name, nothing):
    """The authors' value of each anchor, int [4, 638]; without objects their program writes none."""
    return GOLDEN[f"{case}/{name}"] if case != "nogt" else np.full((4, len(ANCHORS)), nothing)


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    """The name of the case, and the terms and gradients that this project computes for it."""
    heads = {name: GOLDEN[name] for name in HEADS}
    ground_truth = golden_ground_truth(request.param)
    return request.param, *loss_and_gradients(heads, ground_truth, ANCHORS, config_of(20))


def test_terms_against_the_authors_program(golden, compare):
    case, terms, _ = golden
    for module in ("arm", "odm"):
        positives = int(GOLDEN[f"{case}/{module}_num_matches"])
        compare.same("positives", CASES[case], terms[f"num_{module}_positives"], positives)
        loss = terms[f"{module}_loc"] + terms[f"{module}_conf"]
        for part, found in (("loc", terms[f"{module}_loc"]), ("conf", terms[f"{module}_conf"]), ("", loss)):
            expected = float(GOLDEN[f"{case}/{module}_loss"])
            if part:
                expected = float(GOLDEN[f"{case}/{module}_{part}_loss_sum"]) / max(positives, 1)
            compare("loss terms", CASES[case], found, expected, 1e-5, relative_to="each")


def test_matches_against_the_authors_program(golden, compare):
    """The object of each anchor: of the tiled one in the ARM, of the refined one in the ODM."""
    case, *_ = golden
    ground_truth = golden_ground_truth(case)
    refined = np.asarray(decode(GOLDEN["arm_loc"], ANCHORS))
    for module, anchors in (("arm", ANCHORS[None]), ("odm", refined)):
        found = match(pairwise_iou(ground_truth["boxes"], anchors), ground_truth["labels"] > 0, 0.5)
        expected = golden_anchors(case, f"{module}_match", nothing=-1)
        compare.same("object of each anchor", CASES[case], found, expected)


def test_positives_and_negatives_against_the_authors_program(golden, compare):
    """An anchor's gradient is zero unless it takes part."""
    case, _, gradients = golden
    for module in ("arm", "odm"):
        positive = golden_anchors(case, f"{module}_match", nothing=-1) >= 0
        negative = golden_anchors(case, f"{module}_neg", nothing=0) > 0
        assert negative.sum() == GOLDEN[f"{case}/{module}_num_negs"]
        found = gradients[f"{module}_loc"].any(axis=-1)
        compare.same("positives", CASES[case], found, positive)
        found = gradients[f"{module}_conf"].any(axis=-1)
        compare.same("positives and chosen negatives", CASES[case], found, positive | negative)


def test_gradients_against_the_authors_program(golden, compare):
    case, _, gradients = golden
    for name in HEADS:
        assert np.isfinite(gradients[name]).all()
        if case in ("voc", "coco"):
            expected = GOLDEN[f"{case}/d_{name}"]
            compare("gradient of each head", CASES[case], gradients[name], expected, 1e-4, "largest")
        elif case == "nogt":
            zeros = np.zeros_like(gradients[name])
            compare("gradient of each head", CASES[case], gradients[name], zeros, 0)


SMALL = tile_anchors((64, 64))
BOX, OTHER_BOX = [0.1, 0.2, 0.6, 0.7], [0.3, 0.5, 0.9, 0.95]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"negatives_per_positive": 1.0},
        {"objectness_threshold": 0.2},
        {"objectness_threshold": 0.0},
        {"positive_iou": 0.3},
    ],
)
def test_one_object_against_loops(tf_test, settings):
    heads = training_heads(1, len(SMALL), 3, seed=1)
    ground_truth = padded([(0, 2, *BOX)], batch=1, max_objects=3)
    terms = refinedet_loss(heads, ground_truth, SMALL, config_of(3, loss=settings))
    expected = single_object_loss(
        {name: value[0] for name, value in heads.items()},
        BOX,
        2,
        SMALL,
        settings.get("negatives_per_positive", 3),
        settings.get("objectness_threshold", 0.01),
        settings.get("positive_iou", 0.5),
    )
    for name, value in divided_by_positives(expected).items():
        tf_test.assertAllClose(terms[name], value, rtol=1e-4, atol=0, msg=name)


def test_padding_and_order_do_not_matter(tf_test):
    heads = training_heads(1, len(SMALL), 3, seed=3)
    objects = [(0, 1, *BOX), (0, 2, *OTHER_BOX)]
    wanted = refinedet_loss(heads, padded(objects, 1, 2), SMALL, config_of(3))
    for ground_truth in (padded(objects, 1, 9), padded(objects[::-1], 1, 2)):
        found = refinedet_loss(heads, ground_truth, SMALL, config_of(3))
        tf_test.assertAllClose(found, wanted, rtol=1e-6, atol=0)


def test_the_length_of_the_padding_changes_no_bit():
    """In a graph whose number of objects is open, and which is traced once."""
    heads = training_heads(2, len(SMALL), 3, seed=3)
    heads = {name: tf.constant(value) for name, value in heads.items()}
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 0.6, (20, 2))
    boxes = np.concatenate([low, low + generator.uniform(0.02, 0.4, low.shape)], axis=1)
    objects = [(number % 2, 1 + number % 3, *box) for number, box in enumerate(boxes)]
    traced = []

    @tf.function(input_signature=[tf.TensorSpec([2, None, 4]), tf.TensorSpec([2, None], tf.int32)])
    def outcome(boxes, labels):
        traced.append(boxes.shape)
        with tf.GradientTape() as tape:
            tape.watch(heads)
            terms = refinedet_loss(heads, {"boxes": boxes, "labels": labels}, SMALL, config_of(3))
            total = tf.add_n([terms[name] for name in TERMS])
        return match(pairwise_iou(boxes, SMALL), labels > 0, 0.5), terms, tape.gradient(total, heads)

    outcomes = []
    for length in (10, 20, 32, 1000):
        given = padded(objects, batch=2, max_objects=length)
        values = tf.nest.flatten(outcome(given["boxes"], given["labels"]))
        outcomes.append([value.numpy().tobytes() for value in values])
    assert all(found == outcomes[0] for found in outcomes[1:])
    assert len(traced) == 1


@pytest.mark.parametrize("classification", ["mining", "focal"])
def test_a_batch_whose_axis_of_objects_is_empty(tf_test, classification):
    """It has the loss of a batch that holds nothing but padding."""
    config = config_of(3, loss={"classification": classification})
    heads = training_heads(2, len(SMALL), 3, seed=4)
    outcomes = [loss_and_gradients(heads, padded([], 2, length), SMALL, config) for length in (0, 1, 8)]
    for terms, gradients in outcomes[:2]:
        assert terms == outcomes[2][0]
        for name, gradient in gradients.items():
            tf_test.assertAllEqual(gradient, outcomes[2][1][name])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"background_negatives": 20},
        {"background_negatives": 7, "negatives_per_positive": 1.5},
        {"background_negatives": 20, "objectness_threshold": 0.6},
        {"background_negatives": 10**6},
    ],
)
@pytest.mark.parametrize("with_objects", [True, False])
def test_backgrounds_against_loops(tf_test, settings, with_objects):
    """Images 1 and 3 are backgrounds; image 2 has an object that is left out, and is none.

    A threshold of 0.6 leaves fewer than 20 negatives to the ODM.
    """
    heads = training_heads(4, len(SMALL), 3, seed=2)
    objects = [(0, 2, *BOX)] if with_objects else [(0, LEFT_OUT, *BOX)]
    ground_truth = padded([*objects, (2, LEFT_OUT, *OTHER_BOX)], batch=4, max_objects=2)
    terms, gradients = loss_and_gradients(heads, ground_truth, SMALL, config_of(3, loss=settings))

    negatives = settings.get("background_negatives", 0)
    ratio, threshold = settings.get("negatives_per_positive", 3), settings.get("objectness_threshold", 0.01)
    images = [(0, BOX if with_objects else None, 0), (1, None, negatives), (3, None, negatives)]
    expected = []
    for image, box, number in images:
        of_image = {name: value[image] for name, value in heads.items()}
        expected.append(single_object_loss(of_image, box, 2, SMALL, ratio, threshold, 0.5, number))
    for module in ("arm", "odm"):
        positives = sum(terms[f"num_{module}_positives"] for terms in expected)
        assert (positives > 0) == with_objects
        assert terms[f"num_{module}_positives"] == positives
        divisor = max(positives + 2 * negatives / ratio, 1)
        for part in ("loc", "conf"):
            wanted = sum(terms[f"{module}_{part}"] for terms in expected) / divisor
            tf_test.assertAllClose(terms[f"{module}_{part}"], wanted, rtol=1e-4, atol=0)
        chosen = gradients[f"{module}_conf"].any(axis=-1).sum(axis=-1)
        assert not chosen[2] and not gradients[f"{module}_loc"][1:].any()
        assert (chosen[1] > 0) == (chosen[3] > 0) == (negatives > 0)
        assert chosen[1] <= min(negatives, len(SMALL))
    assert terms["num_backgrounds"] == 2


def test_the_focal_loss_does_not_use_background_negatives(tf_test):
    heads = training_heads(2, len(SMALL), 3, seed=2)
    ground_truth = padded([(0, 2, *BOX)], 2, 1)
    focal = [{"classification": "focal", "background_negatives": number} for number in (0, 30)]
    found, wanted = (refinedet_loss(heads, ground_truth, SMALL, config_of(3, loss=loss)) for loss in focal)
    tf_test.assertAllEqual([found[name] for name in TERMS], [wanted[name] for name in TERMS])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_heads(name, size):
    heads = training_heads(2, len(SMALL), 3, seed=6)
    heads[name] = np.where(heads[name] > 0, size, heads[name]).astype(np.float32)
    ground_truth = padded([(0, 2, *BOX), (1, 1, *OTHER_BOX), (1, 1, *OTHER_BOX)], 2, 4)
    terms, gradients = loss_and_gradients(heads, ground_truth, SMALL, config_of(3))
    assert all(math.isfinite(value) for value in terms.values())
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()


def test_refined_anchors_without_area():
    """exp(-2000) = 0: no anchor can match, so the ODM has no positives and no loss."""
    heads = training_heads(1, len(SMALL), 3, seed=7)
    heads["arm_loc"][...] = -1e4
    terms, gradients = loss_and_gradients(heads, padded([(0, 2, *BOX)], 1, 2), SMALL, config_of(3))
    assert terms["num_odm_positives"] == terms["odm_loc"] == terms["odm_conf"] == 0
    assert terms["num_arm_positives"] > 0
    assert math.isfinite(terms["arm_loc"])
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert not gradients["odm_conf"].any()


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_offsets_of_anchors_that_do_not_match(tf_test, size):
    """The regression ignores what an anchor predicts that is far from every object."""
    heads = training_heads(1, len(SMALL), 3, seed=8)
    far = np.asarray(pairwise_iou(SMALL, np.array([BOX], np.float32)))[:, 0] < 0.3
    ground_truth = padded([(0, 2, *BOX)], 1, 2)
    wanted, wanted_gradients = loss_and_gradients(heads, ground_truth, SMALL, config_of(3))
    heads["arm_loc"][0, far] = size
    terms, gradients = loss_and_gradients(heads, ground_truth, SMALL, config_of(3))
    assert far.any()
    assert terms["arm_loc"] == wanted["arm_loc"]
    tf_test.assertAllEqual(gradients["arm_loc"], wanted_gradients["arm_loc"])
    assert all(math.isfinite(value) for value in terms.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_lower_precision_heads_are_computed_in_float32(tf_test):
    heads = {name: tf.cast(v, tf.bfloat16) for name, v in training_heads(1, len(SMALL), 3, seed=9).items()}
    wide = {name: tf.cast(value, tf.float32) for name, value in heads.items()}
    ground_truth = padded([(0, 2, *BOX)], 1, 1)
    found, wanted = (refinedet_loss(h, ground_truth, SMALL, config_of(3)) for h in (heads, wide))
    for name in wanted:
        tf_test.assertDTypeEqual(found[name], np.float32)
        tf_test.assertAllEqual(found[name], wanted[name])


def test_smooth_l1(tf_test):
    x = tf.constant([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = smooth_l1(x)
    tf_test.assertAllClose(y, [2.5, 0.5, 0.125, 0, 0.125, 0.5, 1.5], rtol=1e-7, atol=0)
    tf_test.assertAllClose(tape.gradient(y, x), [-1, -1, -0.5, 0, 0.5, 1, 1], rtol=1e-7, atol=0)
