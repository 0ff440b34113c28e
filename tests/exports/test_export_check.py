"""The comparison that every export ends with."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from small_detector import small_detector
from stand_in_model import stand_in_config, stand_in_model

from refinedet_tf.data.images import decode_image
from refinedet_tf.errors import InputError
from refinedet_tf.exports.check import (
    SAME_OBJECT,
    TOLERANCES,
    Comparison,
    ExportMismatch,
    Sample,
    check_export,
    generated_samples,
)
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.inference.detector import Detector

BOXES = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.2, 0.6, 0.3, 0.7]])
SCORES = np.array([0.9, 0.8, 0.3])
LABELS = np.array([1, 1, 2])


def compared(boxes=BOXES, scores=SCORES, labels=LABELS):
    comparison = Comparison("form")
    comparison.add((BOXES, SCORES, LABELS), (boxes, scores, labels))
    return comparison


def test_equal_detections():
    assert compared() == Comparison("form", detections=3)
    assert compared().within(TOLERANCES["float32"])


@pytest.mark.parametrize(("box_shift", "score_shift"), [(2e-3, 0), (0, -2e-4)])
def test_shifts_are_measured(box_shift, score_shift):
    boxes, scores = BOXES.copy(), SCORES.copy()
    boxes[1, 2] += box_shift
    scores[1] += score_shift
    comparison = compared(boxes, scores)
    assert comparison.boxes == pytest.approx(abs(box_shift))
    assert comparison.scores == pytest.approx(abs(score_shift))
    assert comparison.lost == 0
    assert not comparison.within(TOLERANCES["float32"])


def test_another_class_and_another_number_are_lost():
    # Each side lacks what the other side has, so that both count.
    assert compared(labels=np.array([1, 2, 2])).lost == 2
    assert compared(BOXES[:2], SCORES[:2], LABELS[:2]).lost == 1
    doubled = [np.repeat(column, 2, axis=0) for column in (BOXES, SCORES, LABELS)]
    assert compared(*doubled).lost == 3
    assert compared(BOXES[:0], SCORES[:0], LABELS[:0]).lost == 3
    assert compared(BOXES + 2 * SAME_OBJECT).lost == 6
    assert not compared(labels=np.array([1, 2, 2])).within(TOLERANCES["float32"])


def test_order_within_equal_scores_is_free():
    scores = np.array([0.9, 0.9, 0.3])
    comparison = Comparison("form")
    comparison.add((BOXES, scores, LABELS), (BOXES[[1, 0, 2]], scores, LABELS))
    assert comparison == Comparison("form", detections=3)


def test_equal_boxes_are_told_apart_by_their_scores():
    """Objects larger than the image have such boxes, because all are cut to the image."""
    boxes, labels = np.array([[0.0, 0, 1, 1]] * 3), np.ones(3, int)
    scores = np.array([0.55, 0.53, 0.51])
    comparison = Comparison("form")
    comparison.add((boxes, scores, labels), (boxes + 1e-7, scores, labels))
    assert (comparison.lost, comparison.scores) == (0, 0)
    assert comparison.boxes == pytest.approx(1e-7)


def test_order_and_finiteness_are_required():
    with pytest.raises(ExportMismatch, match="form does not give its detections by descending score"):
        compared(BOXES[::-1], SCORES[::-1], LABELS[::-1])
    with pytest.raises(ExportMismatch, match="form gives a box or score that is not finite"):
        compared(scores=np.array([np.nan, 0.8, 0.3]))


def test_few_may_be_lost_among_many():
    assert Comparison("form", detections=1000, lost=5).within(TOLERANCES["float32"])
    assert not Comparison("form", detections=1000, lost=6).within(TOLERANCES["float32"])
    assert not Comparison("form", detections=199, lost=1).within(TOLERANCES["float32"])


def test_sample_of_a_file(tmp_path):
    contents = tf.io.encode_jpeg(np.full((8, 9, 3), 77, np.uint8)).numpy()
    (tmp_path / "image.jpg").write_bytes(contents)
    sample = Sample.of_file(tmp_path / "image.jpg")
    assert sample.contents == contents and sample.pixels.shape == (8, 9, 3)
    with pytest.raises(InputError, match="none.jpg cannot be read"):
        Sample.of_file(tmp_path / "none.jpg")


def test_generated_samples(tf_test):
    samples = generated_samples()
    assert len({sample.pixels.shape for sample in samples}) == len(samples) == 4
    for sample in samples:
        tf_test.assertAllEqual(decode_image(sample.contents), sample.pixels)
        assert sample.pixels.std() > 10


@pytest.mark.slow
def test_every_form_is_looked_at(exported):
    """A folder with all forms, compared with a network of other weights or another threshold."""
    config, samples = exported.config, generated_samples()[:2]

    def differing(model, config):
        detector = Detector(model, config)
        with pytest.raises(ExportMismatch) as mismatch:
            check_export(exported.folder, detector, config, samples, TOLERANCES["float32"])
        return {part.split(":")[0] for part in str(mismatch.value).split("; ")}

    whole = {"serving_default", "serving_tensor", "detector.onnx", "detector.tflite", "mediapipe.tflite"}
    names = whole | {"serving_heads", "heads.onnx", "heads.tflite"}
    assert differing(small_detector(config, seed=1), config) == names
    # Heads are post-processed here, so that only those with thresholds of their own differ.
    limits = dataclasses.replace(config.postprocess, nms_iou=0.6)
    assert differing(exported.model, dataclasses.replace(config, postprocess=limits)) == whole


@pytest.mark.slow
def test_a_threshold_without_detections_hides_no_difference(tmp_path):
    config = stand_in_config(score_threshold=0.999)
    model = stand_in_model(config)
    folder, comparisons = export_saved_model(model, config, tmp_path, options=ExportOptions(onnx=True))
    assert [comparison.detections + comparison.lost for comparison in comparisons] == [0] * 5
    for comparison in comparisons:
        gives_heads = comparison.name in ("serving_heads", "heads.onnx")
        assert (comparison.heads is not None) == gives_heads
        assert (comparison.heads or 0) < 1e-5
        assert str(comparison).startswith(f"{comparison.name}: no detections to compare on these images")
    other = Detector(stand_in_model(config, seed=1), config)
    with pytest.raises(ExportMismatch) as mismatch:
        check_export(folder, other, config, generated_samples()[:2], TOLERANCES["float32"])
    assert re.findall(r"(\S+): no detections", str(mismatch.value)) == ["serving_heads", "heads.onnx"]
    signature = tf.saved_model.load(str(folder)).signatures["serving_tensor"]
    outputs = signature(images=tf.zeros([2, 60, 80, 3], tf.uint8))
    assert not any(value.numpy().any() for value in outputs.values())


def test_heads_are_compared_by_their_size():
    head = np.array([[3.0, -4.0], [0.0, 0.0]])
    comparison = Comparison("form")
    comparison.add_heads({"odm_loc": head}, {"odm_loc": head + [[0.01, 0.0], [0.0, 0.0]], "boxes": head})
    assert comparison.heads == pytest.approx(0.01 / 5)
    assert not comparison.within(TOLERANCES["float32"])
    assert comparison.within(TOLERANCES["bfloat16"])
    for wrong in ({}, {"odm_loc": head[:1]}, {"odm_loc": head * np.nan}):
        with pytest.raises(ExportMismatch, match=r"form gives no finite odm_loc of shape \[2, 2\]"):
            comparison.add_heads({"odm_loc": head}, wrong)
