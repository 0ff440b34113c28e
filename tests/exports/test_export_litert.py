"""The LiteRT files, in LiteRT."""

import collections

import pytest
import tensorflow as tf
from image_files import noise
from int8_heads import assert_int8_heads
from small_detector import SIZE, assert_same_detections
from stand_in_model import stand_in_config, stand_in_model
from tensorflow.lite.python import schema_py_generated as schema

from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.exports import litert_files
from refinedet_tf.exports.flatbuffer import check_builtin, operator_name, operator_names, read_model
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.litert_files import read_metadata, write_litert
from refinedet_tf.exports.runtimes import LiteRTFile
from refinedet_tf.inference.detector import Detector

FILES = ("detector.tflite", "heads.tflite", "heads_int8.tflite")


@pytest.fixture(scope="module")
def folder(exported):
    return exported.folder / "litert"


def test_heads(tf_test, exported, folder):
    images = warp_image(noise(3, 60, 80, seed=1), SIZE)
    outputs = LiteRTFile(folder / "heads.tflite")(images.numpy())
    heads = exported.model(images, training=False)
    for name, head in heads.items():
        largest = float(tf.reduce_max(tf.abs(head)))
        tf_test.assertAllClose(outputs[name], head, rtol=0, atol=1e-4 * largest)
    boxes, scores = DetectionGraphs(exported.model, exported.config).candidates(heads)
    tf_test.assertAllClose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    tf_test.assertAllClose(outputs["scores"], scores, rtol=1e-7, atol=1e-5)


def test_int8_heads_are_near(exported, folder):
    images = warp_image(noise(2, 60, 80, seed=1), SIZE)
    outputs = LiteRTFile(folder / "heads_int8.tflite")(images.numpy())
    assert_int8_heads(outputs, exported.model, exported.config, images)


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
    for name in FILES:
        model = read_model((folder / name).read_bytes())
        names = set(operator_names(model))
        assert "CONV_2D" in names and not any(name.startswith("CUSTOM") for name in names)
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf"
    with pytest.raises(InputError, match="x.tflite: .* LiteRT has not: CUSTOM FlexErf"):
        check_builtin(model, "x.tflite")


def test_metadata(exported, folder):
    texts = {name: (exported.folder / "assets" / name).read_text() for name in ("labels.txt", "model.json")}
    for name in FILES:
        assert read_metadata(folder / name) == texts


def test_detector_of_a_fixed_batch(tmp_path):
    """The authors' suppression class after class, which is a loop in the graph."""
    limits = {"pre_nms_per_image": None, "pre_nms_per_class": 60, "max_detections": 100}
    config = stand_in_config((64, 128), **limits)
    model = stand_in_model(config)
    texts = {"labels.txt": "circle\nörtlich\n"}
    write_litert(DetectionGraphs(model, config), texts, tmp_path / "litert", batch=2)
    assert not (tmp_path / "litert" / "heads_int8.tflite").exists()
    file = LiteRTFile(tmp_path / "litert" / "detector.tflite")
    assert file.batch == 2
    images = noise(3, 50, 90)
    outputs = file(warp_image(images, (64, 128)).numpy())
    assert_same_detections(outputs, Detector(model, config)(list(images)))
    assert read_metadata(tmp_path / "litert" / "detector.tflite") == texts


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(litert_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install ai-edge-litert"):
        write_litert(None, {}, tmp_path / "litert")


def test_what_the_converter_cannot_convert_is_one_line():
    """Riemann's zeta function is none of the built-in operators."""
    spec = tf.TensorSpec([2], tf.float32, "images")
    function = tf.function(lambda images: {"zeta": tf.math.zeta(images, images)}, input_signature=[spec])
    with pytest.raises(InputError, match="x.tflite: TensorFlow cannot convert this network: .*Zeta"):
        litert_files.convert(litert_files.frozen(function), "x.tflite")
