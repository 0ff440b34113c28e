"""Exports of RefineDet itself: its designs, bfloat16, XLA, and a network of the authors' weights' shape."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of

from refinedet_tf.errors import InputError
from refinedet_tf.exports import graphs
from refinedet_tf.exports.graphs import in_bfloat16
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.network import build_model

SIZE = (96, 128)


def make_config(**model):
    small = {"backbone": "mobilenet_v2", "image_size": SIZE, "tcb_channels": 32}
    return config_of(("a", "b", "c"), model={**small, **model})


def network_of(config):
    keras.utils.set_random_seed(0)
    model = build_model(config)
    for variable in model.trainable_variables:
        if "conf" in variable.path and "kernel" in variable.path:
            # Decided, but not as much as to have many scores of exactly 1.
            variable.assign(2 * variable)
    return model


@pytest.fixture
def network(small_network):
    config = make_config()
    return network_of(config), config


def graph_text(folder):
    return (folder / "saved_model.pb").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("design", ["tiled_anchors", "single_stage"])
def test_designs(small_network, tmp_path, design):
    config = make_config(design=design)
    folder, comparisons = export_saved_model(
        network_of(config), config, tmp_path, options=ExportOptions(onnx=True, litert=True)
    )
    assert len(comparisons) == 7
    for comparison in comparisons:
        assert comparison.detections > 200 and comparison.lost == 0
    heads = tf.saved_model.load(str(folder)).signatures["serving_heads"].structured_outputs
    assert ("arm_conf" in heads) == (design == "tiled_anchors")


@pytest.mark.slow
def test_xla(network, tmp_path):
    plain, _ = export_saved_model(*network, tmp_path)
    compiled, comparisons = export_saved_model(*network, tmp_path, options=ExportOptions(xla=True))
    for comparison in comparisons:
        assert comparison.detections > 200 and comparison.lost == 0
    # The attribute with which TensorFlow marks what must be compiled, and its value true.
    must_compile = re.compile(rb"_XlaMustCompile\x12\x02\(\x01")
    assert must_compile.search(graph_text(compiled)) and not must_compile.search(graph_text(plain))


@pytest.mark.slow
def test_bfloat16(bfloat16, network, monkeypatch, tmp_path):
    model, config = network
    # The weights are variables, in a file of their own.
    monkeypatch.setattr(graphs, "LARGEST_CONSTANTS", 0)
    wide, _ = export_saved_model(model, config, tmp_path)
    narrow, comparisons = export_saved_model(
        model, config, tmp_path, options=ExportOptions(precision="bfloat16")
    )
    *served, stated = comparisons
    for comparison in served:
        # The fold rounds at other places.
        assert comparison.detections > 200 and comparison.lost <= comparison.detections / 200
        assert comparison.scores < 1e-2
    assert stated.name == "bfloat16 compared with float32"
    assert 0 < stated.scores <= 0.05 and stated.lost < 0.3 * stated.detections
    size_of = {folder: (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
               for folder in (wide, narrow)}  # fmt: skip
    assert 0.45 < size_of[narrow] / size_of[wide] < 0.6


def test_network_in_bfloat16_has_the_same_weights(tf_test, network):
    model, config = network
    narrow = in_bfloat16(model, config)
    assert narrow.get_layer("tcb3").compute_dtype == "bfloat16"
    for wide_values, narrow_values in zip(model.get_weights(), narrow.get_weights(), strict=True):
        tf_test.assertAllEqual(narrow_values, wide_values)


@pytest.mark.slow
def test_limits_become_part_of_the_graph(network, tmp_path):
    model, config = network
    limits = dataclasses.replace(config.postprocess, score_threshold=0.4, nms_iou=0.3, max_detections=7)
    config = dataclasses.replace(config, postprocess=limits)
    folder, _ = export_saved_model(model, config, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), np.uint8)
    outputs = tf.saved_model.load(str(folder)).signatures["serving_tensor"](images=tf.constant(image))
    assert outputs["detection_scores"].shape == (1, 7)
    (result,) = Detector(model, config)(list(image))
    found = int(outputs["num_detections"][0])
    assert found == len(result["scores"]) > 0
    assert outputs["detection_scores"][0, found - 1] > 0.4


@pytest.mark.slow
def test_images_without_detections(network, tmp_path):
    model, config = network
    limits = dataclasses.replace(config.postprocess, score_threshold=0.999)
    config = dataclasses.replace(config, postprocess=limits)
    folder, comparisons = export_saved_model(model, config, tmp_path)
    assert {(comparison.detections, comparison.lost) for comparison in comparisons} == {(0, 0)}
    images = tf.zeros([2, 60, 80, 3], tf.uint8)
    outputs = tf.saved_model.load(str(folder)).signatures["serving_tensor"](images=images)
    assert outputs["num_detections"].numpy().tolist() == [0, 0]
    assert not any(value.numpy().any() for value in outputs.values())


def test_free_image_size(network, tmp_path):
    """A network that takes images of any size is exported for one size."""
    config = make_config(image_size=None)
    model = network_of(config)
    with pytest.raises(InputError, match="model.image_size is null"):
        export_saved_model(model, config, tmp_path / "none")
    folder, _ = export_saved_model(model, config, tmp_path, image_size=(64, 128))
    signature = tf.saved_model.load(str(folder)).signatures["serving_heads"]
    assert signature.structured_input_signature[1]["images"].shape.as_list() == [None, 64, 128, 3]


def test_onnx_is_float32(network):
    with pytest.raises(InputError, match="ONNX files are float32"):
        ExportOptions(precision="bfloat16", onnx=True)
    with pytest.raises(InputError, match="at least 1, got 0"):
        ExportOptions(onnx=True, onnx_batch=0)
