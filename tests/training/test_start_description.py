from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from config_of import config_of
from small_datasets import dataset_of

from refinedet_tf.config import TrainingConfig
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
    ("precision", "kind", "gpus", "noted"),
    [
        ("bfloat16", keras.layers.DepthwiseConv2D, [], True),
        ("float32", keras.layers.DepthwiseConv2D, [], False),
        ("bfloat16", keras.layers.DepthwiseConv2D, ["GPU:0"], False),
        ("bfloat16", keras.layers.Conv2D, [], False),
    ],
)
def test_the_start_says_where_bfloat16_costs_time(monkeypatch, precision, kind, gpus, noted):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: gpus)
    images = keras.Input((8, 8, 3))
    arguments = (
        {"kernel_size": 3} if kind is keras.layers.DepthwiseConv2D else {"filters": 2, "kernel_size": 3}
    )
    said = []
    backbone = keras.Model(images, kind(**arguments)(images))
    network = keras.Model(images, backbone(images))
    _describe_precision(TrainingConfig(precision=precision), network, said.append)
    assert [line.startswith("note: on a CPU, a network of depthwise") for line in said] == [True] * noted
