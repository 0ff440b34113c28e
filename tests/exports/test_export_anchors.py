"""Exports of networks with anchors of their own and a level of stride 4."""

import json

import keras
import numpy as np
import onnxruntime
import pytest
from config_of import config_of
from own_anchors import FIVE_LEVELS, tile_by_loops
from thin_vgg import thin_vgg

from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.boxes import decode

SIZE = (64, 96)


@pytest.fixture(scope="module")
def config():
    return config_of(2, model={"image_size": SIZE, "anchors": FIVE_LEVELS, "tcb_channels": 8})


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = thin_vgg(num_classes=2, image_size=SIZE, anchors=FIVE_LEVELS)
    generator = np.random.default_rng(1)
    for variable in model.weights:
        # Random heads without this give all anchors about the same score.
        if variable.path.startswith(("arm_", "odm_")):
            variable.assign(np.asarray(variable) + generator.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def written(model, config, tmp_path_factory):
    """(folder of the version, comparisons)."""
    folder = tmp_path_factory.mktemp("exports")
    return export_saved_model(model, config, folder, options=ExportOptions(onnx=True))


@pytest.mark.slow
def test_every_form_detects_what_the_network_detects(written):
    _, comparisons = written
    assert len(comparisons) == 5
    for comparison in comparisons:
        assert comparison.detections > 20 and comparison.lost == 0, str(comparison)


@pytest.mark.slow
def test_model_json_is_enough_to_decode_the_heads_of_onnx(tf_test, written, model, config):
    folder, _ = written
    described = json.loads((folder / "assets" / "model.json").read_text(encoding="utf-8"))
    anchors = described["anchors"]
    assert anchors["strides"] == [4, 8, 16, 32, 64]
    assert not {"scale", "aspect_ratios"} & anchors.keys()
    tiled = np.array(tile_by_loops(SIZE, anchors["levels"]), np.float32)
    assert len(tiled) == anchors["count"]
    image = np.random.default_rng(2).integers(0, 256, (1, *SIZE, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "onnx" / "heads.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"images": image}), strict=True))
    boxes = np.asarray(decode(outputs["odm_loc"], decode(outputs["arm_loc"], tiled)))
    tf_test.assertAllClose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
    # The best detection of the network is among the decoded boxes.
    (found,) = Detector(model, config)([image[0].astype(np.uint8)])
    scores = np.where(outputs["scores"][0].max(axis=-1) >= found.scores[0] - 1e-5)[0]
    best = boxes[0, scores].clip(0, 1) * np.tile(SIZE, 2)
    assert np.abs(best - found.boxes[0]).max(axis=1).min() < 0.01


def test_model_json_of_the_papers_anchors_has_them_in_both_forms(tmp_path):
    from refinedet_tf.exports import card

    described = json.loads(card.describe(config_of(2), (320, 320), "float32", None, 1_000))["anchors"]
    assert described["strides"] == [8, 16, 32, 64]
    assert (described["scale"], described["aspect_ratios"]) == (4, [1.0, 2.0, 0.5])
    assert described["levels"] == [
        {"stride": stride, "scales": [4.0 * stride], "aspect_ratios": [1.0, 2.0, 0.5]}
        for stride in described["strides"]
    ]
    assert described["count"] == 6375
