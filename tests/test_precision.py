"""TensorFloat-32 is used where the config says so, and never where numbers are compared."""

import formula_weights
import numpy as np
import pytest
import tensorflow as tf
from golden_arrays import GOLDEN_FOLDER
from stand_in_model import stand_in_config, stand_in_model

import train
from refinedet_tf.config import TrainingConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.exports.check import TOLERANCES, ExportMismatch, check_export, generated_samples
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.inference.detector import Detector
from refinedet_tf.precision import apply_precision, full_float32
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_weights


def is_allowed():
    return tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.fixture
def default_of_tensorflow():
    """The switch as TensorFlow sets it when a process starts."""
    tf.config.experimental.enable_tensor_float_32_execution(True)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(False)


def rounded_to_tf32(values):
    """float32 values, which have 23 bits of mantissa, rounded to 10 of them (Veltkamp's splitting)."""
    scaled = (2.0**13 + 1) * values
    return scaled - (scaled - values)


def emulate_tf32(monkeypatch):
    """Has every convolution that is traced or run while the switch is on round its inputs as a GPU does."""
    convolution = tf.nn.convolution

    def emulated(input, filters, *args, **kwargs):  # noqa: A002 - the names are TensorFlow's
        if is_allowed():
            input, filters = rounded_to_tf32(input), rounded_to_tf32(filters)  # noqa: A001
        return convolution(input, filters, *args, **kwargs)

    monkeypatch.setattr(tf.nn, "convolution", emulated)


def test_emulation_rounds_to_ten_bits(tf_test):
    values = tf.constant([1 + 2**-10, 1 + 2**-12, -(1 + 3 * 2**-11), 0.0, 1e-20])
    expected = [1 + 2**-10, 1, -(1 + 2**-9), 0]
    tf_test.assertAllEqual(rounded_to_tf32(values)[:4], expected)
    assert 0 < abs(float(rounded_to_tf32(values)[4]) / 1e-20 - 1) < 2**-11


def test_tests_compare_in_float32():
    assert not is_allowed()


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("bfloat16", False), ("tf32", True)])
def test_config_decides(default_of_tensorflow, precision, allowed):
    apply_precision(TrainingConfig(precision=precision))
    assert is_allowed() == allowed


def test_comparison_restores_the_switch(default_of_tensorflow):
    with pytest.raises(ZeroDivisionError), full_float32():
        assert not is_allowed()
        raise ZeroDivisionError
    assert is_allowed()


def test_heads_of_the_authors_need_float32(default_of_tensorflow, monkeypatch, tmp_path):
    """The heads are outside the tolerance of `test_forward` on an emulated GPU, unless float32 is float32."""
    from caffe_writer import write_caffemodel

    emulate_tf32(monkeypatch)
    file = tmp_path / "vgg16.caffemodel"
    write_caffemodel(file, formula_weights.reference_layers("vgg16"))
    config = load_config("voc320.json")
    model = build_model(config)
    load_weights(model, file)
    golden = np.load(GOLDEN_FOLDER / "forward_vgg16_320.npz")

    def error():
        heads = model(formula_weights.reference_image()[None], training=False)
        found = np.asarray(heads["odm_conf"])[0, :: int(golden["every"])]
        return np.abs(found - golden["odm_conf"]).max() / float(golden["odm_conf_largest"])

    assert 1e-3 < error() < 1e-2
    apply_precision(config.training)
    assert error() < 1e-4


@pytest.mark.slow
def test_export_is_compared_in_float32(default_of_tensorflow, monkeypatch, tmp_path):
    """ONNX files on the CPU agree with a network on an emulated GPU, where TensorFlow's default is TF32."""
    config = stand_in_config()
    model = stand_in_model(config)
    folder, _ = export_saved_model(model, config, tmp_path, options=ExportOptions(onnx=True))
    assert is_allowed()

    emulate_tf32(monkeypatch)
    samples, tolerance = generated_samples(), TOLERANCES["float32"]
    comparisons = check_export(folder, Detector(model, config), config, samples, tolerance)
    assert len(comparisons) == 5 and all(comparison.scores < 1e-5 for comparison in comparisons)
    with pytest.raises(ExportMismatch):
        check_export.__wrapped__(folder, Detector(model, config), config, samples, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True)])
def test_training_decides(default_of_tensorflow, eagerly, done, config_file, tmp_path, precision, allowed):
    arguments = ["--set", "training.length=1", "--set", f"training.precision={precision}"]
    done(train, "--config", config_file, *arguments, "--output", tmp_path / "run")
    assert is_allowed() == allowed
