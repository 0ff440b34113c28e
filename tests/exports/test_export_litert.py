"""The LiteRT files, in LiteRT."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from int8_heads import assert_int8_heads
from stand_in_model import stand_in_config, stand_in_model
from tensorflow.lite.python import schema_py_generated as schema
from test_export_forms import make_config, network_of

from refinedet_tf.config import PostprocessConfig
from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.exports import litert_files
from refinedet_tf.exports.flatbuffer import check_builtin, operator_name, operator_names, read_model
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.litert_files import read_metadata, write_litert
from refinedet_tf.exports.runtimes import LiteRTFile
from refinedet_tf.inference.detector import Detector

SIZE = (64, 128)
METADATA = {"model.json": json.dumps({"classes": ["circle"]}), "labels.txt": "circle\nörtlich\n"}


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def small():
    """The small network with L2 normalisation and transfer connection blocks, its files and its heads."""
    from small_network import BACKBONE, small_backbone

    from refinedet_tf.refinedet.backbones import BACKBONES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        config = make_config()
        return network_of(config), config


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert") / "files"
    graphs = DetectionGraphs(*small)
    images = warp_image(images_of(16, 60, 80), graphs.image_size).numpy()
    write_litert(graphs, METADATA, folder, 1, images)
    return folder


def test_heads(tf_test, small, folder):
    model, config = small
    images = warp_image(images_of(3, 60, 80, seed=1), config.model.image_size)
    outputs = LiteRTFile(folder / "heads.tflite")(images.numpy())
    heads = model(images, training=False)
    for name, head in heads.items():
        largest = float(tf.reduce_max(tf.abs(head)))
        tf_test.assertAllClose(outputs[name], head, rtol=0, atol=1e-4 * largest)
    boxes, scores = DetectionGraphs(model, config).candidates(heads)
    tf_test.assertAllClose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    tf_test.assertAllClose(outputs["scores"], scores, rtol=1e-7, atol=1e-5)


def test_int8_heads_are_near(small, folder):
    model, config = small
    images = warp_image(images_of(2, 60, 80, seed=1), config.model.image_size)
    outputs = LiteRTFile(folder / "heads_int8.tflite")(images.numpy())
    assert_int8_heads(outputs, model, config, images)


def test_what_computes_in_int8(folder):
    """All convolutions, and neither L2 normalisation nor softmax nor decoding."""
    model = read_model((folder / "heads_int8.tflite").read_bytes())
    (graph,) = model.subgraphs
    types = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
    computed, normalised = collections.defaultdict(set), set()
    for operator in graph.operators:
        result = types[graph.tensors[operator.outputs[0]].type]
        name = operator_name(model, operator)
        computed["scale" if normalised & set(operator.inputs) else name].add(result)
        if name == "L2_NORMALIZATION":
            normalised |= set(operator.outputs)
    for name in ("CONV_2D", "TRANSPOSE_CONV"):
        assert computed[name] == {"INT8"}
    for name in ("L2_NORMALIZATION", "SOFTMAX", "EXP", "CONCATENATION", "PACK", "scale"):
        assert computed[name] == {"FLOAT32"}, name
    sizes = {name: (folder / name).stat().st_size for name in ("heads.tflite", "heads_int8.tflite")}
    assert sizes["heads_int8.tflite"] < 0.5 * sizes["heads.tflite"]


def test_operators_are_built_in(folder):
    for file in folder.iterdir():
        model = read_model(file.read_bytes())
        names = set(operator_names(model))
        assert "CONV_2D" in names and not any(name.startswith("CUSTOM") for name in names)
        model.operatorCodes[0].builtinCode = 32
        model.operatorCodes[0].deprecatedBuiltinCode = 32
        model.operatorCodes[0].customCode = b"FlexErf"
        with pytest.raises(InputError, match="x.tflite: .* LiteRT has not: CUSTOM FlexErf"):
            check_builtin(model, "x.tflite")


def test_metadata_and_names(folder):
    for file in folder.iterdir():
        assert read_metadata(file) == METADATA
    assert {file.name for file in folder.iterdir()} == {
        "heads.tflite",
        "heads_int8.tflite",
        "detector.tflite",
    }


@pytest.mark.parametrize(
    "limits", [{}, {"pre_nms_per_image": None, "pre_nms_per_class": 60, "max_detections": 100}]
)
def test_detector_of_a_fixed_batch(tf_test, tmp_path, limits):
    """The paper's limits, and the authors' suppression class after class, which is a loop in the graph."""
    config = dataclasses.replace(stand_in_config(SIZE), postprocess=PostprocessConfig(**limits))
    model = stand_in_model(config)
    write_litert(DetectionGraphs(model, config), METADATA, tmp_path / "litert", batch=2)
    assert not (tmp_path / "litert" / "heads_int8.tflite").exists()
    images = images_of(3, 50, 90)
    file = LiteRTFile(tmp_path / "litert" / "detector.tflite")
    assert file.batch == 2
    outputs = file(warp_image(images, SIZE).numpy())
    for row, result in enumerate(Detector(model, config)(list(images))):
        n = outputs["num_detections"][row]
        assert n == len(result.scores) > 3
        boxes, scores = (outputs[f"detection_{name}"][row, :n] for name in ("boxes", "scores"))
        tf_test.assertAllClose(boxes, result.normalized_boxes, rtol=0, atol=1e-5)
        tf_test.assertAllClose(scores, result.scores, rtol=0, atol=1e-5)
        tf_test.assertAllEqual(outputs["detection_classes"][row, :n], result.labels)


def test_a_missing_package_is_named(monkeypatch, small, tmp_path):
    monkeypatch.setattr(litert_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install ai-edge-litert"):
        write_litert(DetectionGraphs(*small), METADATA, tmp_path / "litert")


def test_what_the_converter_cannot_convert_is_one_line():
    """Riemann's zeta function is none of the built-in operators."""
    spec = tf.TensorSpec([2], tf.float32, "images")
    function = tf.function(lambda images: {"zeta": tf.math.zeta(images, images)}, input_signature=[spec])
    with pytest.raises(InputError, match="x.tflite: TensorFlow cannot convert this network: .*Zeta"):
        litert_files.convert(litert_files.frozen(function), "x.tflite")
