"""The ONNX files, in onnxruntime."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from image_files import noise
from int8_heads import assert_int8_heads
from small_detector import SIZE, assert_same_detections
from stand_in_model import stand_in_config, stand_in_model

from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.exports import onnx_files as onnx_export
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.onnx_files import write_onnx
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.candidates import candidates

DESCRIPTION = json.dumps({"classes": ["circle", "square", "triangle"]})


@pytest.fixture(scope="module")
def folder(exported):
    return exported.folder / "onnx"


def session_of(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(file, images):
    session = session_of(file)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.mark.parametrize("shape", [(1, *SIZE), (3, 50, 90), (2, 300, 200), (1, 1, 1)])
def test_detector_of_any_batch_and_size(folder, exported, shape):
    images = noise(*shape)
    outputs = run(folder / "detector.onnx", images)
    assert_same_detections(outputs, exported.detector(list(images)))
    assert (np.count_nonzero(outputs["detection_scores"], axis=1) == outputs["num_detections"]).all()


def test_heads_boxes_and_scores(tf_test, folder, exported):
    images = warp_image(noise(2, 40, 60), SIZE)
    outputs = run(folder / "heads.onnx", images.numpy())
    heads = exported.model(images, training=False)
    for name, head in heads.items():
        tf_test.assertAllClose(outputs[name], head, rtol=1e-4, atol=1e-4)
    boxes, scores = candidates(heads, tile_anchors(SIZE), exported.config)
    tf_test.assertAllClose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    tf_test.assertAllClose(outputs["scores"], scores, rtol=1e-7, atol=1e-5)
    objectness = tf.nn.softmax(outputs["arm_conf"])[..., 1].numpy()
    dropped = (outputs["scores"] == 0).all(axis=2)
    assert dropped[objectness < 0.4].all() and 0 < (objectness < 0.4).sum() < dropped.sum()
    kept = outputs["scores"][outputs["scores"] > 0]
    assert kept.min() > 0.4 and 0.05 < kept.size / outputs["scores"].size < 0.9


def test_a_suppression_of_the_runtime_finds_the_same(tf_test, folder, exported):
    """Boxes and scores of heads.onnx through TensorFlow's own NMS, where no limit cuts."""
    config, image = exported.config, noise(1, *SIZE)
    limits = dataclasses.replace(config.postprocess, pre_nms_per_image=None, max_detections=2000)
    outputs = run(folder / "heads.onnx", warp_image(image, SIZE).numpy())
    found = tf.image.combined_non_max_suppression(
        outputs["boxes"][:, :, None],
        outputs["scores"],
        max_output_size_per_class=2000,
        max_total_size=2000,
        iou_threshold=limits.nms_iou,
        score_threshold=limits.score_threshold,
        clip_boxes=True,
    )
    count = int(found.valid_detections[0])
    (result,) = Detector(exported.model, dataclasses.replace(config, postprocess=limits))(image)
    assert count == len(result["scores"]) > 50
    tf_test.assertAllClose(found.nmsed_scores[0, :count], result["scores"], rtol=1e-7, atol=1e-5)
    tf_test.assertAllEqual(found.nmsed_classes[0, :count] + 1, result["labels"])
    boxes = found.nmsed_boxes[0, :count] * np.tile(result["image_size"], 2)
    tf_test.assertAllClose(boxes, result["boxes"], rtol=1e-7, atol=0.1)


def test_warp_is_that_of_tensorflow_bit_for_bit(tf_test, tmp_path):
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    function = tf.function(lambda images: {"warped": onnx_export._warp(images, (75, 130))}, [spec])
    onnx_export._convert(function, DESCRIPTION, tmp_path / "warp.onnx")
    for shape in ((1, 75, 130), (2, 33, 47), (1, 480, 640), (1, 427, 301), (1, 1, 2)):
        images = noise(*shape)
        expected = warp_image(images, (75, 130))
        tf_test.assertAllEqual(run(tmp_path / "warp.onnx", images)["warped"], expected)


def test_names_types_and_metadata(folder):
    description = (folder.parent / "assets" / "model.json").read_text(encoding="utf-8")
    session = session_of(folder / "detector.onnx")
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[3]) == ("images", "tensor(uint8)", 3)
    assert not any(isinstance(side, int) for side in image.shape[:3])
    names = {f"detection_{name}" for name in ("boxes", "scores", "classes")}
    assert {output.name for output in session.get_outputs()} == {*names, "num_detections"}
    (image,) = session_of(folder / "heads.onnx").get_inputs()
    assert (image.type, image.shape[1:]) == ("tensor(float)", [*SIZE, 3])
    for name in ("detector.onnx", "heads.onnx", "heads_int8.onnx"):
        file = onnx.load(folder / name)
        assert {prop.key: prop.value for prop in file.metadata_props} == {"model.json": description}
        assert {opset.domain: opset.version for opset in file.opset_import}[""] == 18


def test_what_computes_in_int8(folder, exported):
    """All convolutions but the transposed ones, and neither the L2 normalisation nor softmax nor decoding."""
    images = noise(3, *SIZE, seed=1).astype(np.float32)
    assert_int8_heads(run(folder / "heads_int8.onnx", images), exported.model, exported.config, images)
    graph = onnx.load(folder / "heads_int8.onnx").graph
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        sources = [producers[tensor].op_type for tensor in node.input if tensor in producers]
        if node.op_type == "Conv":
            assert sources == ["DequantizeLinear"] * len(sources) and len(sources) >= 2
        if node.op_type in ("ConvTranspose", "Softmax", "Exp") or node.op_type.startswith("ReduceSum"):
            assert "DequantizeLinear" not in [*sources[1:], *(sources if node.op_type == "Softmax" else [])]
    sizes = [(folder / name).stat().st_size for name in ("heads_int8.onnx", "heads.onnx")]
    assert sizes[0] < 0.6 * sizes[1]
    before, after = exported.logging  # onnxruntime would change it.
    assert before == after


@pytest.mark.slow
def test_authors_limits_and_a_fixed_batch(tmp_path):
    """Suppression class after class, a loop in the graph; heads.onnx has no such part."""
    limits = {"pre_nms_per_image": None, "pre_nms_per_class": 60, "max_detections": 100}
    config = stand_in_config((64, 128), **limits)
    model = stand_in_model(config)
    write_onnx(DetectionGraphs(model, config), DESCRIPTION, tmp_path / "fixed", batch=2)
    images = noise(2, 50, 90)
    outputs = run(tmp_path / "fixed" / "detector.onnx", images)
    assert outputs["detection_boxes"].shape == (2, 100, 4)
    assert_same_detections(outputs, Detector(model, config)(list(images)))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(tmp_path / "fixed" / "detector.onnx", noise(3, 50, 90))


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match="pip install no_such_package"):
        write_onnx(None, DESCRIPTION, tmp_path / "onnx")


def test_what_tf2onnx_cannot_convert_is_one_line(tmp_path):
    """Riemann's zeta function is none of ONNX's operators."""
    spec = tf.TensorSpec([None], tf.float32)
    function = tf.function(lambda images: tf.math.zeta(images, images), input_signature=[spec])
    with pytest.raises(InputError, match="x.onnx: tf2onnx cannot convert this network at this size: .*Zeta"):
        onnx_export._convert(function, DESCRIPTION, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
