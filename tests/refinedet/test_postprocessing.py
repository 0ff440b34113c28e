import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from detections_by_loops import detect_by_loops, rows_of
from golden_arrays import GOLDEN_FOLDER
from loss_by_loops import softmax
from random_heads import detection_heads

from refinedet_tf.refinedet import postprocessing
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.postprocessing import postprocess, postprocess_and_limits

GOLDEN = GOLDEN_FOLDER / "detection_output.npz"
ANCHORS = tile_anchors((64, 64))

MODES = {
    "paper": {},
    "tight": {"pre_nms_per_image": 60, "max_detections": 60, "score_threshold": 0.1},
    "per class": {"pre_nms_per_image": None, "pre_nms_per_class": 40, "max_detections": 150},
    "both": {"pre_nms_per_image": 70, "pre_nms_per_class": 30, "nms_iou": 0.3},
    "no limit": {"pre_nms_per_image": None, "max_detections": 1000},
    "few of many": {"pre_nms_per_image": None, "max_detections": 9},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_classes", [1, 5])
def test_agrees_with_plain_loops(tf_test, mode, num_classes):
    config = config_of(num_classes, postprocess=MODES[mode])
    heads = detection_heads(2, len(ANCHORS), num_classes, seed=num_classes)
    compiled = tf.function(lambda heads: postprocess(heads, ANCHORS, config))
    result = compiled(heads)
    for image in range(2):
        expected = detect_by_loops({k: v[image] for k, v in heads.items()}, ANCHORS, config.postprocess)
        actual = rows_of(result, image)
        assert len(expected) > 8
        tf_test.assertAllEqual(actual[:, 0], expected[:, 0])
        tf_test.assertAllClose(actual[:, 1:], expected[:, 1:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("limits", [{}, {"pre_nms_per_class": 40}], ids=str)
@pytest.mark.parametrize("max_detections", [9, 60, 1000])
def test_the_strongest_candidates_alone_give_the_detections_of_all(monkeypatch, max_detections, limits):
    """Images of many, few and no candidates, which need several rounds, one or none."""
    settings = {"pre_nms_per_image": None, "max_detections": max_detections, **limits}
    config = config_of(3, postprocess=settings)
    heads = detection_heads(3, len(ANCHORS), 3)
    heads["odm_conf"][1, :, 0] += 6
    heads["odm_conf"][2, :, 0] += 60
    heads["odm_conf"][0, 100:] = heads["odm_conf"][0, :-100]  # Equal scores, also at a limit.
    found = []
    for first, few in ((10_000, 1), (1, 10_000), (64, 1), (7, 1), (7, 100), (1, 1)):
        monkeypatch.setattr(postprocessing, "FIRST_ANCHORS", first)
        monkeypatch.setattr(postprocessing, "FEW_ANCHORS", few)
        outputs = postprocess_and_limits(heads, ANCHORS, config)
        found.append([np.array(value).tobytes() for value in tf.nest.flatten(outputs)])
    counts = outputs[0]["num_detections"].numpy()
    assert counts[0] > 50 or counts[0] == max_detections
    assert counts[1] > 0 and counts[2] == 0
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("mode", MODES)
def test_reached_limits_are_told_and_change_no_bit(tf_test, mode):
    heads = detection_heads(2, len(ANCHORS), 5, seed=5)
    heads["odm_conf"][1, :, 0] += 12  # Image 1 has few candidates.
    config = config_of(5, postprocess=MODES[mode])
    detections, limits = postprocess_and_limits(heads, ANCHORS, config)
    for name, value in postprocess(heads, ANCHORS, config).items():
        assert value.numpy().tobytes() == detections[name].numpy().tobytes()
    settings = config.postprocess
    for image in range(2):
        objectness, scores = (softmax(heads[name][image]) for name in ("arm_conf", "odm_conf"))
        allowed = objectness[:, 1:] >= settings.objectness_threshold
        candidates = np.where(allowed & (scores[:, 1:] > settings.score_threshold), scores[:, 1:], 0)
        of_class = -np.sort(-candidates, axis=0)[: settings.pre_nms_per_class]
        of_image = -np.sort(-of_class, axis=None)
        weakest = [0.0, 0.0]
        if settings.pre_nms_per_image and len(of_image) >= settings.pre_nms_per_image:
            weakest[0] = of_image[settings.pre_nms_per_image - 1]
        if settings.pre_nms_per_class and len(of_class) == settings.pre_nms_per_class:
            weakest[1] = of_class[-1].max()
        tf_test.assertAllClose(limits[image], weakest, rtol=1e-5, atol=0)
    assert limits.numpy()[0].any() == (mode not in ("no limit", "few of many"))
    assert not limits.numpy()[1].any()


def test_a_limit_above_all_candidates_is_never_reached(tf_test):
    heads = heads_of_scores([1.0] * len(ANCHORS), [[0.5, 0.4]] * len(ANCHORS))
    settings = {"pre_nms_per_image": 2 * len(ANCHORS), "pre_nms_per_class": len(ANCHORS)}
    config = config_of(2, postprocess=settings)
    tf_test.assertAllEqual(postprocess_and_limits(heads, ANCHORS, config)[1], [[0.0, 0.0]])


def test_result_shapes_and_dtypes(tf_test):
    config = config_of(5, postprocess={"max_detections": 7})
    result = postprocess(detection_heads(2, len(ANCHORS), 5), ANCHORS, config)
    expected = {
        "detection_boxes": np.zeros((2, 7, 4), np.float32),
        "detection_scores": np.zeros((2, 7), np.float32),
        "detection_classes": np.zeros((2, 7), np.float32),
        "num_detections": np.zeros(2, np.int32),
    }
    assert result.keys() == expected.keys()
    for name, value in result.items():
        tf_test.assertShapeEqual(value, expected[name])
        tf_test.assertDTypeEqual(value, expected[name].dtype)


def heads_of_scores(object_scores, class_scores, odm_loc=None):
    """The heads of one image from probabilities [A] and [A, C]; the offsets are 0 unless given."""
    class_scores = np.asarray(class_scores, np.float64)
    object_scores = np.asarray(object_scores, np.float64)
    background = 1 - class_scores.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        arm_conf = np.log(np.stack([1 - object_scores, object_scores], axis=1))
        odm_conf = np.log(np.concatenate([background, class_scores], axis=1))
    zeros = np.zeros((len(class_scores), 4), np.float32)
    return {
        "arm_loc": zeros[None],
        "arm_conf": arm_conf[None].astype(np.float32),
        "odm_loc": (zeros if odm_loc is None else np.asarray(odm_loc, np.float32))[None],
        "odm_conf": odm_conf[None].astype(np.float32),
    }


FOUR_APART = np.array(
    [[0, 0, 0.4, 0.4], [0, 0.5, 0.4, 0.9], [0.5, 0, 0.9, 0.4], [0.5, 0.5, 0.9, 0.9]], np.float32
)


@pytest.mark.parametrize("mode", MODES)
def test_equal_scores_keep_the_order_of_anchors(tf_test, mode):
    # Equal logits have equal scores only if all of them are computed by instructions of the same width:
    # the numbers of a softmax must fill the widest vectors, of 16, without a rest.
    same = np.repeat(FOUR_APART, 8, axis=0)
    config = config_of(1, postprocess=MODES[mode])
    result = postprocess(heads_of_scores(np.full(32, 0.5), np.full((32, 1), 0.5)), same, config)
    tf_test.assertAllClose(rows_of(result, 0)[:, 2:], FOUR_APART, rtol=1e-7, atol=0)


def test_no_detection(tf_test):
    for mode in MODES.values():
        heads = heads_of_scores(np.full(4, 0.5), np.zeros((4, 2)))
        result = postprocess(heads, FOUR_APART, config_of(2, postprocess=mode))
        tf_test.assertAllEqual(result["num_detections"], [0])
        assert len(rows_of(result, 0)) == 0


PAIR = [[0, 0, 0.5, 1], [0, 0, 0.5, 0.5]]
"""Two boxes whose IoU is exactly 0.5."""

CHAIN = [[0, 0, 1, 0.4], [0, 0.1, 1, 0.5], [0, 0.2, 1, 0.6]]
"""The first box suppresses the second, and only the second overlaps the third."""

WIDE = [[0, -3, 1, 0.5], [0, 0, 1, 0.5]]
"""Two boxes that coincide inside the image, but hardly overlap before they are clipped."""

THRESHOLDS = {"objectness_threshold": 0.5, "score_threshold": 0.5}


@pytest.mark.parametrize(
    ("anchors", "object_scores", "class_scores", "settings", "expected"),
    [
        # An anchor at the objectness threshold stays; a score at the score threshold does not.
        (FOUR_APART, [0.49, 0.5, 0.9, 0.9], [[0.8], [0.7], [0.5], [0.51]], THRESHOLDS, [[1, 0.7], [1, 0.51]]),
        (PAIR, [0.9] * 2, [[0.8], [0.7]], {"nms_iou": 0.5}, [[1, 0.8], [1, 0.7]]),
        (PAIR, [0.9] * 2, [[0.8], [0.7]], {"nms_iou": 0.499}, [[1, 0.8]]),
        (CHAIN, [0.9] * 3, [[0.9], [0.8], [0.7]], {}, [[1, 0.9], [1, 0.7]]),
        (WIDE, [0.9] * 2, [[0.9], [0.8]], {}, [[1, 0.9], [1, 0.8]]),
        # Classes do not suppress each other.
        (FOUR_APART[[0, 0]], [0.9] * 2, [[0.6, 0.3], [0.1, 0.5]], {}, [[1, 0.6], [2, 0.5]]),
    ],
)
def test_by_hand(tf_test, anchors, object_scores, class_scores, settings, expected):
    heads = heads_of_scores(object_scores, class_scores)
    config = config_of(len(class_scores[0]), postprocess=settings)
    rows = rows_of(postprocess(heads, np.array(anchors, np.float32), config), 0)
    tf_test.assertAllClose(rows[:, :2], expected, rtol=1e-6, atol=0)


def test_batch_of_any_size_in_one_graph(tf_test):
    config = config_of(2)
    traces = []

    @tf.function
    def compiled(heads):
        traces.append(1)
        return postprocess(heads, ANCHORS, config)

    spec = {
        name: tf.TensorSpec([None, len(ANCHORS), depth])
        for name, depth in (("arm_loc", 4), ("arm_conf", 2), ("odm_loc", 4), ("odm_conf", 3))
    }
    concrete = compiled.get_concrete_function(spec)
    heads = detection_heads(3, len(ANCHORS), 2)
    together = concrete({k: tf.constant(v) for k, v in heads.items()})
    for image in range(3):
        alone = concrete({k: tf.constant(v[image : image + 1]) for k, v in heads.items()})
        tf_test.assertAllClose(rows_of(alone, 0), rows_of(together, image), rtol=1e-7, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("name", ["official", "paper"])
def test_agrees_with_the_authors_detection_output_layer(name, image, compare):
    """The layer keeps 500 of 1,000 candidates per class, or 200 of 400."""
    golden = np.load(GOLDEN)
    per_class, keep = {"official": (1000, 500), "paper": (400, 200)}[name]
    config = config_of(
        20, postprocess={"pre_nms_per_image": None, "pre_nms_per_class": per_class, "max_detections": keep}
    )
    heads = heads_of_scores(
        golden[f"{image}/arm_score"], golden[f"{image}/odm_score"], golden[f"{image}/odm_loc"]
    )
    heads["arm_loc"] = golden[f"{image}/arm_loc"][None]
    anchors = tile_anchors((320, 320))[golden[f"{image}/anchor"]]
    actual = rows_of(postprocess(heads, anchors, config), 0)
    expected = golden[f"{image}/{name}"]  # label, score, xmin, ymin, xmax, ymax, not clipped
    # The authors list the classes in order, each by descending score.
    actual = actual[np.argsort(actual[:, 0], kind="stable")]
    on = f"{per_class} candidates per class, {keep} kept; 2 images, 20 classes"
    expected = np.concatenate([expected[:, :2], np.clip(expected[:, [3, 2, 5, 4]], 0, 1)], axis=1)
    nearest = np.abs(actual[:, None] - expected).max(axis=2).argmin(axis=1)
    compare.same("set and order of the detections", on, nearest, np.arange(len(expected)))
    compare.same("classes", on, actual[:, 0], expected[:, 0])
    compare("scores", on, actual[:, 1], expected[:, 1], 1e-5)
    compare("boxes, theirs clipped to the image", on, actual[:, 2:], expected[:, 2:], 1e-4)
