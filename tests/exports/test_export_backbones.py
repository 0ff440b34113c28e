"""Exports of every network in full depth and width, with ONNX and LiteRT files: `make test-all`."""

import dataclasses
import typing

import keras
import pytest
from config_of import config_of

from refinedet_tf.config import ModelConfig
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.refinedet.network import build_model

NAMES = typing.get_args({f.name: f.type for f in dataclasses.fields(ModelConfig)}["backbone"])

LITERT = ("vgg16", "resnet101", "mobilenet_v2", "efficientnet_lite0")
"""The networks whose LiteRT files are compared too."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_export(name, tmp_path):
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
