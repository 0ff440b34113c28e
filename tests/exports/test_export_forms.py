"""Exports of RefineDet in further forms: designs, backbones, own anchors, bfloat16, XLA."""

import dataclasses
import json
import re
import typing

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from config_of import config_of
from own_anchors import FIVE_LEVELS, tile_by_loops
from small_detector import small_config, small_detector
from thin_vgg import thin_vgg

from refinedet_tf.config import ModelConfig
from refinedet_tf.exports import graphs
from refinedet_tf.exports.graphs import in_bfloat16
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.boxes import decode
from refinedet_tf.refinedet.network import build_model

BACKBONES = typing.get_args({f.name: f.type for f in dataclasses.fields(ModelConfig)}["backbone"])

LITERT = ("vgg16", "resnet50", "mobilenet_v2", "efficientnet_lite0")
"""The networks whose LiteRT files are compared too."""


@pytest.fixture
def network(small_network):
    config = small_config()
    return small_detector(config), config


def graph_text(folder):
    return (folder / "saved_model.pb").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("design", ["tiled_anchors", "single_stage"])
def test_designs(tmp_path, design):
    config = small_config(design=design)
    folder, comparisons = export_saved_model(
        small_detector(config), config, tmp_path, options=ExportOptions(onnx=True, litert=True)
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
@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_in_full_depth_and_width(name, tmp_path):
    config = config_of(("a", "b", "c"), model={"backbone": name, "image_size": (128, 192)})
    keras.utils.set_random_seed(0)
    model = build_model(config)
    # A random network gives all anchors about the same box and score.
    for variable in model.trainable_variables:
        if "odm_conf" in variable.path or "odm_loc" in variable.path:
            variable.assign(10 * variable)
    options = ExportOptions(onnx=True, litert=name in LITERT)
    _, comparisons = export_saved_model(model, config, tmp_path, options=options)
    for comparison in comparisons:
        print(f"{name}: {comparison}")
        assert comparison.detections > 100 and comparison.lost == 0
    assert len(comparisons) == (7 if options.litert else 5)
    keras.backend.clear_session()


@pytest.mark.slow
def test_own_anchors_and_a_level_of_stride_4(tf_test, tmp_path):
    """What model.json says of them is enough to decode the heads of ONNX."""
    size = (64, 96)
    config = config_of(2, model={"image_size": size, "anchors": FIVE_LEVELS, "tcb_channels": 8})
    keras.utils.set_random_seed(0)
    model = thin_vgg(num_classes=2, image_size=size, anchors=FIVE_LEVELS)
    generator = np.random.default_rng(1)
    for variable in model.weights:
        # Random heads without this give all anchors about the same score.
        if variable.path.startswith(("arm_", "odm_")):
            variable.assign(np.asarray(variable) + generator.normal(0, 0.3, variable.shape))
    folder, comparisons = export_saved_model(model, config, tmp_path, options=ExportOptions(onnx=True))
    assert len(comparisons) == 5
    for comparison in comparisons:
        assert comparison.detections > 20 and comparison.lost == 0, str(comparison)

    described = json.loads((folder / "assets" / "model.json").read_text(encoding="utf-8"))
    anchors = described["anchors"]
    assert anchors["strides"] == [4, 8, 16, 32, 64]
    assert not {"scale", "aspect_ratios"} & anchors.keys()
    tiled = np.array(tile_by_loops(size, anchors["levels"]), np.float32)
    assert len(tiled) == anchors["count"]
    image = np.random.default_rng(2).integers(0, 256, (1, *size, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "onnx" / "heads.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": image}), strict=True))
    boxes = np.asarray(decode(outputs["odm_loc"], decode(outputs["arm_loc"], tiled)))
    tf_test.assertAllClose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    # The best detection of the network is among the decoded boxes.
    (found,) = Detector(model, config)([image[0].astype(np.uint8)])
    scores = np.where(outputs["scores"][0].max(axis=-1) >= found.scores[0] - 1e-5)[0]
    best = boxes[0, scores].clip(0, 1) * np.tile(size, 2)
    assert np.abs(best - found.boxes[0]).max(axis=1).min() < 0.01
