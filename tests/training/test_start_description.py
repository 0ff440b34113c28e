from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from config_of import config_of
from small_datasets import dataset_of

from refinedet_tf.config import TrainingConfig
from refinedet_tf.training import bfloat16
from refinedet_tf.training.description import _describe_data, _describe_precision


@pytest.mark.parametrize(
    ("loss", "counts", "line"),
    [
        ({}, [1, 0, 2, 0], "2 training images without an object. Training learns nothing from them, as in"),
        ({"background_negatives": 9}, [0, 1], "1 training image without an object. Training takes 9"),
        ({}, [1, 2], None),
    ],
)
def test_the_start_says_what_images_without_objects_do(loss, counts, line):
    dataset = dataset_of([[(1, 0, 0, 1, 1)] * count for count in counts], class_names=("cat",))
    said = []
    run = SimpleNamespace(train_set=dataset, config=config_of(1, loss=loss), notes=[], writes=False)
    run.validation_set = None
    _describe_data(run, said.append)
    assert [text.startswith(line) for text in said[1:]] == ([True] if line else [])


@pytest.mark.parametrize(
    ("precision", "flags", "gpus", "noted"),
    [
        ("bfloat16", "flags : fma avx2 avx512f", [], True),
        ("bfloat16", "flags : fma avx512f avx512_bf16", [], False),
        ("bfloat16", "flags : amx_bf16 amx_tile", [], False),
        ("bfloat16", None, [], False),
        ("bfloat16", "flags : fma", ["GPU:0"], False),
        ("float32", "flags : fma", [], False),
    ],
)
def test_the_start_says_where_bfloat16_costs_time(monkeypatch, tmp_path, precision, flags, gpus, noted):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: gpus)
    monkeypatch.setattr(bfloat16, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        bfloat16.CPU_INFO.write_text(flags)
    said = []
    _describe_precision(TrainingConfig(precision=precision), said.append)
    assert [line.startswith("note: this processor has no instructions") for line in said] == [True] * noted


@pytest.mark.parametrize(
    ("kind", "gpus", "widened"),
    [
        (keras.layers.DepthwiseConv2D, [], True),
        (keras.layers.DepthwiseConv2D, ["GPU:0"], False),
        (keras.layers.AveragePooling2D, [], False),
    ],
)
def test_only_dense_convolutions_of_light_networks_are_narrow_on_a_processor(
    monkeypatch, kind, gpus, widened
):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: gpus)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = keras.Input((8, 8, 3))
        dense = keras.layers.Conv2D(2, 1)
        backbone = keras.Model(images, kind(3)(keras.layers.ReLU()(dense(images))))
        network = keras.Model(images, backbone(images))
    finally:
        keras.config.set_dtype_policy("float32")
    bfloat16.keep_light_layers_wide(network)
    wide = "float32" if widened else "bfloat16"
    assert [layer.compute_dtype for layer in backbone.layers[1:]] == ["bfloat16", wide, wide]
