import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from image_files import noise
from stand_in_model import CLASSES, stand_in_config

from refinedet_tf.errors import InputError
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network, network_size
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.candidates import candidates
from refinedet_tf.refinedet.postprocessing import postprocess

NUM_ANCHORS = 255
"""3 anchors per cell of the grids 8 x 8, 4 x 4, 2 x 2 and 1 x 1, for images of 64 x 64 pixels."""

ROW = (3 * 8 + 4) * 3
"""The square anchor of row 3 and column 4 of the first grid. Its centre is (28, 36) pixels and its sides
are 32 pixels, so that it is (12, 20, 44, 52) / 64."""
BOX = [0.1875, 0.3125, 0.6875, 0.8125]

LABEL = 2


def brightness_network(images):
    """Heads that find label 2 at the anchor `ROW`, with the score sigmoid(mean of the image / 100)."""
    one_hot = tf.one_hot(ROW, NUM_ANCHORS)
    logits = tf.reduce_mean(images, axis=[1, 2, 3]) / 100
    # The other anchors are background by far; the other classes are impossible.
    is_object = tf.tile(20 * (2 * one_hot - 1)[None], [tf.shape(images)[0], 1])
    background = 40 * (1 - one_hot)[None] * tf.ones_like(logits)[:, None]
    impossible = -40 * tf.ones_like(background)
    offsets = tf.zeros([tf.shape(images)[0], NUM_ANCHORS, 4])
    return {
        "arm_loc": offsets,
        "arm_conf": tf.stack([-is_object, is_object], axis=-1),
        "odm_loc": offsets,
        "odm_conf": tf.stack([background, impossible, logits[:, None] * one_hot, impossible], axis=-1),
    }


def plain_images(*values):
    return np.stack([np.full((64, 64, 3), value, np.float32) for value in values])


def batch_of(count):
    return noise(count, 64, 64, seed=count).astype(np.float32)


@pytest.fixture(scope="module")
def detector(model, config):
    return CompiledDetector(inference_network(model), config)


def test_known_scores_and_boxes(tf_test, config):
    brightness = [0, 50, 100, 200]
    outputs = CompiledDetector(brightness_network, config)(plain_images(*brightness))
    tf_test.assertAllEqual(outputs["num_detections"], [1, 1, 1, 1])
    scores = [0.5, 0.6224593, 0.7310586, 0.8807971]
    tf_test.assertAllClose(outputs["detection_scores"][:, 0], scores, rtol=1e-6, atol=0)
    tf_test.assertAllEqual(outputs["detection_classes"][:, 0], [LABEL] * 4)
    tf_test.assertAllClose(outputs["detection_boxes"][:, 0], [BOX] * 4, rtol=1e-6, atol=0)
    for name in ("scores", "classes", "boxes"):
        padding = outputs[f"detection_{name}"][:, 1:]
        tf_test.assertAllEqual(padding, np.zeros(padding.shape))


def test_unpack_gives_pixels_without_padding(tf_test, config):
    detector = CompiledDetector(brightness_network, config)
    outputs = detector(plain_images(0, 100, 200))
    first, second = detector.unpack(outputs, [(128, 64), (64, 320)])
    tf_test.assertAllClose(first.boxes, [[24, 20, 88, 52]], rtol=1e-6, atol=0)
    tf_test.assertAllClose(second.boxes, [[12, 100, 44, 260]], rtol=1e-6, atol=0)
    tf_test.assertAllClose(first.scores, [0.5], rtol=1e-6, atol=0)
    tf_test.assertAllClose(second.scores, [0.7310586], rtol=1e-6, atol=0)
    for result, image_size in ((first, (128, 64)), (second, (64, 320))):
        tf_test.assertAllEqual(result.labels, [LABEL])
        tf_test.assertDTypeEqual(result.labels, np.int32)
        assert result.names == [CLASSES[LABEL - 1]]
        assert result.class_names == CLASSES
        assert result.image_size == image_size


def test_one_trace_for_all_batch_sizes(tf_test, model, config):
    shapes = []

    def counted(images):
        shapes.append(tuple(images.shape))
        return model(images, training=False)

    detector = CompiledDetector(counted, config)
    for count in (1, 3, 8, 1):
        outputs = detector(batch_of(count))
        tf_test.assertShapeEqual(outputs["detection_boxes"], np.zeros((count, 200, 4)))
        tf_test.assertAllInRange(outputs["num_detections"], 1, 200)
    assert shapes == [(None, 64, 64, 3)]
    assert detector.heads.experimental_get_tracing_count() == 1
    assert detector.detections.experimental_get_tracing_count() == 1


def test_stages_called_by_themselves_trace_no_batch_size_anew(tf_test, detector, model, config):
    """The post-processing sees the batch size of its first call; its second trace is for all others."""
    stages = CompiledDetector(inference_network(model), config)
    for count in (1, 3, 8, 5, 1):
        images = batch_of(count)
        outputs, expected = stages.detections(stages.heads(images)), detector(images)
        tf_test.assertAllEqual(outputs["num_detections"], expected["num_detections"])
        for name in ("scores", "classes", "boxes"):
            name = f"detection_{name}"
            tf_test.assertAllClose(outputs[name], expected[name], rtol=1e-7, atol=1e-6)
    assert stages.heads.experimental_get_tracing_count() == 1
    assert stages.detections.experimental_get_tracing_count() == 2


@pytest.mark.parametrize("count", [1, 3, 8])
def test_is_the_network_and_its_postprocessing(tf_test, detector, model, config, count):
    images = batch_of(count)
    outputs = detector(images)
    expected = postprocess(model(images, training=False), tile_anchors((64, 64)), config)
    assert outputs.keys() == expected.keys()
    tf_test.assertAllEqual(outputs["num_detections"], expected["num_detections"])
    tf_test.assertAllInRange(outputs["num_detections"], 4, 200)
    tf_test.assertAllEqual(outputs["detection_classes"], expected["detection_classes"])
    for name in ("detection_scores", "detection_boxes"):
        tf_test.assertAllClose(outputs[name], expected[name], rtol=1e-7, atol=1e-6)


def test_candidates_are_those_of_the_network(tf_test, detector, model, config):
    images = batch_of(3)
    boxes, scores = detector.candidates(detector.heads(images))
    expected = candidates(model(images, training=False), tile_anchors((64, 64)), config)
    tf_test.assertShapeEqual(boxes, np.zeros((3, NUM_ANCHORS, 4)))
    tf_test.assertShapeEqual(scores, np.zeros((3, NUM_ANCHORS, 3)))
    tf_test.assertAllClose(boxes, expected[0], rtol=1e-6, atol=1e-6)
    tf_test.assertAllClose(scores, expected[1], rtol=1e-6, atol=1e-6)


def test_the_network_is_in_inference_mode():
    calls = []

    def model(images, training):
        calls.append((images, training))
        return "heads"

    assert inference_network(model)("images") == "heads"
    assert calls == [("images", False)]


def test_size_and_classes_are_those_of_the_config(detector):
    assert detector.image_size == (64, 64)
    assert detector.num_classes == 3
    assert detector.class_names == CLASSES


def test_a_size_is_needed_where_the_config_has_none(tf_test):
    free, fixed = stand_in_config(None), stand_in_config((64, 128))
    detector = CompiledDetector(brightness_network, free, (64, 64))
    assert detector.image_size == (64, 64)
    tf_test.assertAllEqual(detector(plain_images(0))["num_detections"], [1])
    assert network_size(fixed) == network_size(fixed, (64, 128)) == (64, 128)
    with pytest.raises(InputError, match="model.image_size is null"):
        CompiledDetector(brightness_network, free)
    with pytest.raises(InputError, match=r"\[64, 64\] is not the model's, \[64, 128\]"):
        CompiledDetector(brightness_network, fixed, (64, 64))


def test_class_names_are_needed():
    with pytest.raises(InputError, match="data.classes is null"):
        CompiledDetector(brightness_network, config_of(model={"image_size": (64, 64)}))
